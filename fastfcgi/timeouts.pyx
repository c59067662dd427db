# cython: language_level=3, freethreading_compatible=True
"""What a web server has a time for, and what happens when that is over."""

from fastfcgi._sys cimport ff_lock, ff_unlock
from fastfcgi.service cimport Service

cdef enum:
    # What a peer has a time for.
    NOTHING = 0
    LINGERING = 1
    SENDING = 2
    PARAMS = 3
    IDLE = 4
    BODY = 5

cdef double NEVER = float("inf")

# Seconds without reading after which an application does not read as fast as it can: others look
# then for what else comes on the connection, and for its end.
cdef double PULL_PAUSE = 0.05

# Seconds left, when the server stops, to PARAMS that are under way, to connections on which nothing
# has come yet, and to peers that have their last answer and do not close: web servers need a
# moment.
cdef double STOP_GRACE = 1.0


cdef class TimedLine(Line):
    """A line whose peer has a time for everything."""

    cdef int open(self, Service service, Py_ssize_t fd, bint is_inet) except -1:
        Line.open(self, service, fd, is_inet)
        self.idle_since = self.received_at
        self.params_since = -1.0
        return 0

    def on_tick(self, double now):
        """End what has had its time; returns when to look again, on time.monotonic()'s clock."""
        cdef double due
        cdef int what
        ff_lock(&self.lock)
        try:
            if self.closed:
                return NEVER
            if self.pulls > 0 and now >= self.received_at + PULL_PAUSE:
                self.pulls = 0
            what = self.timing(&due)
            if what == BODY:
                self.end_stalled(now)
            if due < now and not self.lost:
                if what == SENDING:
                    self.lose(f"it took no response for send_timeout={self.service.send_timeout} s")
                elif what == PARAMS:
                    seconds = self.timeout(self.service.header_timeout)
                    wanted = "header" if self.service.scgi else "PARAMS"
                    self.lose(f"no whole {wanted} in header_timeout={seconds} s")
                elif what != BODY:
                    self.lose(None)
            self.update()
            self.timing(&due)
            return due
        finally:
            ff_unlock(&self.lock)

    # ---- with the lock held ----------------------------------------------------------------

    cdef int timing(self, double* due) noexcept:
        """What the peer has a time for, and when that ends."""
        cdef Service service = self.service
        due[0] = NEVER
        if self.closed or self.lost:
            return NOTHING
        if self.lingering:
            due[0] = self.outbox.sent_at + self.timeout(service.linger_timeout)
            return LINGERING
        if self.outbox.waiting:
            due[0] = self.outbox.sent_at + service.send_timeout
            return SENDING
        if self.params_since >= 0 and self.reading:
            due[0] = max(self.params_since, self.listening_since) + self.timeout(
                service.header_timeout
            )
            return PARAMS
        if self.connection.active == 0:
            due[0] = self.idle_since
            due[0] += service.keep_alive_timeout if self.served else service.header_timeout
            if self.stopping:
                due[0] = min(due[0], self.listening_since + STOP_GRACE)
            return IDLE
        if self.reading:
            due[0] = max(self.oldest_input(), self.listening_since) + service.body_timeout
            return BODY
        if self.is_pulled():
            due[0] = self.received_at + PULL_PAUSE
        return NOTHING

    cdef double timeout(self, double seconds) noexcept:
        """A timeout, shortened while the server stops."""
        return min(seconds, STOP_GRACE) if self.stopping else seconds

    cdef int time_params(self, double now) except -1:
        """Their time begins with the first byte of a request, however slowly others follow."""
        if not self.connection.is_awaiting_params():
            self.params_since = -1.0
        elif self.params_since < 0:
            self.params_since = now
        return 0

    cdef double oldest_input(self) noexcept:
        """When the request that has waited longest for its body got some of it."""
        return NEVER

    cdef int end_stalled(self, double now) except -1:
        """Abort requests whose body does not go on; others of the same connection may."""
        raise NotImplementedError
