# cython: language_level=3, freethreading_compatible=True
"""One accepted connection: the line around a sans-I/O Connection, and its requests."""

import logging

from libc.stdint cimport uint8_t

from fastfcgi._sys cimport ff_hung_up, ff_lock, ff_now, ff_unlock
from fastfcgi.active_request cimport SENDING_ENDED, ActiveRequest
from fastfcgi.board cimport Slot, write_text
from fastfcgi.engine cimport Engine
from fastfcgi.handler cimport Buffer
from fastfcgi.service cimport Service

from fastfcgi import constants
from fastfcgi.exceptions import RemoteProtocolError

logger = logging.getLogger("fastfcgi")

cdef int REQUEST_COMPLETE = constants.REQUEST_COMPLETE

cdef double NEVER = float("inf")


cdef class Link(Connection):
    """The protocol's state of a channel; what it finds, the channel is told at once."""

    cdef ActiveRequest new_request(self):
        return new_request_on(self.channel)

    cdef int request_received(self, ActiveRequest request, dict params) except -1:
        return take_request(self.channel, <Request>request, params)

    cdef int input_received(
        self, ActiveRequest request, int stream, const uint8_t* data, Py_ssize_t size
    ) except -1:
        cdef Py_ssize_t freed = take_input(self.channel, <Request>request, stream, data, size)
        if freed:
            self.input_read(request, freed)
        return 0

    cdef int input_ended(self, ActiveRequest request, int stream) except -1:
        (<Request>request).body_of(stream).end()
        return 0

    cdef int request_aborted(self, ActiveRequest request) except -1:
        return self.channel.abort(<Request>request, True)

    cdef int emit(self, const uint8_t* p, Py_ssize_t size) except -1:
        if not (self.channel.lost or self.channel.lingering):
            self.channel.outbox.add(p, size)
        return 0

    cdef int emit_stream(
        self, int type, int request_id, bytes head, object data, Py_ssize_t max_content,
        int min_padding,
    ) except -1:
        if not (self.channel.lost or self.channel.lingering):
            self.channel.outbox.add_stream(
                type, request_id, head, data, <int>max_content, min_padding
            )
        return 0


cdef class Channel(TimedLine):
    """A connection of a web server.

    Args:
        service: What it shares with the others.
        fd: The accepted socket, which does not wait; the channel closes it.
        is_inet: It is a TCP connection.
    """

    def __init__(self, Service service, Py_ssize_t fd, bint is_inet=False):
        self.open(service, fd, is_inet)

    cdef int open(self, Service service, Py_ssize_t fd, bint is_inet) except -1:
        """What __init__ says, without its cost where a connection is made for each request."""
        cdef Link link = Link.__new__(Link)
        link.settings = service.settings
        link.channel = self
        self.connection = link
        return TimedLine.open(self, service, fd, is_inet)

    # ---- called by whoever leads -----------------------------------------------------------

    cdef double serve(self, object request) except -1:
        return (<Request>request).run()

    cdef str path_of(self, object request):
        cdef dict params = (<Request>request).params
        cdef str path
        path = params.get("PATH_INFO")
        if not path:
            path = params.get("REQUEST_URI")
            if path is not None and "?" in path:
                path = path.partition("?")[0]
        return path

    cdef int describe(self, object request, Slot* slot) except -1:
        cdef dict params = (<Request>request).params
        cdef object method = params.get("REQUEST_METHOD"), uri = params.get("REQUEST_URI")
        if uri:
            write_text(slot, method, uri, None, None)
        else:
            write_text(
                slot, method, params.get("SCRIPT_NAME"), params.get("PATH_INFO"),
                params.get("QUERY_STRING"),
            )
        slot.number = (<Request>request).number_in_log()
        return 0

    # ---- called by run()'s thread ----------------------------------------------------------

    def on_stop(self):
        """The server stops: serve what has arrived, begin nothing else."""
        cdef Buffer buffer = self.service.engine.borrow()
        ff_lock(&self.lock)
        try:
            if not (self.closed or self.lost or self.eof or self.is_full()):
                self.receive(buffer, None)
            self.stopping = True
            self.listening_since = ff_now()
            if self.connection.active or self.served and self.connection.is_idle():
                self.connection.close_when_idle()
            if self.lingering:
                self.outbox.sent_at = self.listening_since
            elif self.connection.is_to_close() and not self.outbox.size:
                self.lose(None)
            self.update()
        finally:
            ff_unlock(&self.lock)
        self.service.engine.buffers.append(buffer)

    def on_retire(self):
        """The server retires: another process gets the connection, as soon as no request is under
        way. To be called until that is so."""
        ff_lock(&self.lock)
        try:
            self.give_away()
            self.update()
        finally:
            ff_unlock(&self.lock)

    cdef int give_away(self) except -1:
        """Give the connection to another process if it can be; update() watches it on if not."""
        cdef Buffer buffer
        cdef bint came
        if self.closed or self.lost or self.eof or self.lingering or self.outbox.size:
            return 0
        if not self.service.retiring or self.connection.closing or not self.connection.is_idle():
            return 0
        # What is here already is ours. What comes after this look waits in the socket, and goes
        # with it.
        buffer = self.service.engine.borrow()
        try:
            came = self.receive(buffer, None)
        finally:
            self.service.engine.buffers.append(buffer)
        if came:
            return 0
        # Before it is another's: a socket that is open elsewhere would be watched on after close().
        self.service.engine.forget(self)
        if self.service.giver(self.fd, self.served > 0):
            self.close()
        return 0

    # ---- in, with the lock held ------------------------------------------------------------

    cdef int take_in(self, const uint8_t* p, Py_ssize_t size, Worker worker) except -1:
        cdef Request request
        self.received_at = ff_now()
        try:
            self.connection.receive(p, size)
        except RemoteProtocolError as error:
            self.refuse_peer(error, p[:min(size, <Py_ssize_t>16)])
            return 0
        self.time_params(self.received_at)
        if self.stopping and self.connection.active:
            self.connection.close_when_idle()  # these are the last
        if self.connection.active > 1:
            self.multiplexed = True
        if self.multiplexed and self.connection.is_paused():
            # One body that nobody reads must not stop the other requests of the connection.
            for request in self.connection.active_requests():
                request.spool()
        if self.unstarted:
            self.start_requests(worker)
        if self.outbox.count:
            self.flush()
        return self.notify()

    cdef bint is_alone(self) noexcept:
        """The newest request is the only active one, as is usual."""
        cdef Request newest = self.newest
        return (
            newest is not None and self.connection.active == 1
            and newest.sending != SENDING_ENDED
        )

    cdef int start_requests(self, Worker worker) except -1:
        cdef bint paused = self.connection.is_paused()
        cdef Request request
        if self.is_alone():
            return self.start(self.newest, paused, worker)
        for request in self.connection.active_requests():
            if request.params is not None:
                self.start(request, paused, worker)
        self.unstarted = sum([not request.started for request in self.connection.active_requests()])
        return 0

    cdef int start(self, Request request, bint paused, Worker worker) except -1:
        """Have the application run, if it can; or tell the web server that it never will."""
        cdef Engine engine = self.service.engine
        if request.started or not (request.refused or request.is_ready(paused)):
            return 0
        if not request.refused:
            if engine.submit(worker, self, request):
                request.started = True
                self.unstarted -= 1
                # Whoever leads will run it next; it need not be watched before that blocks.
                self.attended = (
                    worker is not None and not engine.parallel and engine.running < engine.threads
                )
                return 0
            self.refuse(request)
        if request.has_all_input():
            answer = self.service.answer_itself(request, request.page)
            self.connection.write_stdout(request, answer, None)
            self.drop(request)
            self.connection.close_request(request, 0, REQUEST_COMPLETE)
        return 0

    cdef int refuse(self, Request request) except -1:
        """No room in the queue. It is told when its body is here, for web servers' sake."""
        text = "request refused: every thread is busy and queue_size=%d requests wait"
        logger.error(text, self.service.engine.queue_size)
        return request.refuse()

    cdef int refuse_peer(self, error, bytes begin) except -1:
        """The peer broke the protocol: nothing it sends can be understood any more."""
        hint = self.hint(begin) if self.served == 0 else ""
        logger.error("connection of %s refused: %s%s", self.peer_name(), error, hint)
        self.connection.input_expected = True
        self.abort_requests()
        self.flush()
        self.outbox.clear()
        return self.finish_sending()

    cdef str hint(self, bytes begin):
        """What a stranger may be speaking, by its first bytes."""
        if begin[:1].isalpha():
            return "; that looks like HTTP, but FastCGI is spoken here"
        if begin[:1].isdigit():
            return "; that looks like SCGI, but FastCGI is spoken here"
        return ""

    cdef int at_eof(self) except -1:
        """The peer sends no more. It may still take answers to what it sent whole."""
        cdef Request request
        self.eof = True
        if self.lingering or ff_hung_up(self.fd):
            return self.lose(None)
        for request in self.connection.active_requests():
            if request.params is None or not request.has_all_input():
                self.abort(request, False)
        return self.notify()

    # ---- the end of requests, with the lock held -------------------------------------------

    cdef int abort(self, Request request, bint end) except -1:
        """Give a request up; with `end` by END_REQUEST if its application never saw it, so that
        nobody else ends it (spec 5.4)."""
        request.give_up()
        if not request.started:
            self.drop(request)
            if end:
                self.connection.close_request(request, 0, REQUEST_COMPLETE)
            else:
                self.connection.abandon_request(request)
        return 0

    cdef int drop(self, Request request) except -1:
        """Forget a request that the application never saw."""
        self.unstarted -= 1
        self.served += 1
        self.idle_since = ff_now()
        request.started = True
        return request.close()

    cdef int abort_requests(self) except -1:
        for request in self.connection.active_requests():
            self.abort(request, False)
        return self.notify()

    cdef double oldest_input(self) noexcept:
        """When the request that has waited longest for its body got some of it."""
        cdef double oldest = NEVER
        cdef Request request
        if self.is_alone():
            return NEVER if self.newest.has_all_input() else self.newest.input_at
        for request in self.connection.active_requests():
            if not request.has_all_input():
                oldest = min(oldest, request.input_at)
        return oldest

    cdef int end_stalled(self, double now) except -1:
        """Abort requests whose body does not go on; others of the same connection may."""
        cdef double due = now - self.service.body_timeout
        cdef Request request
        if not self.reading or self.listening_since >= due:
            return 0  # it may well be here
        stalled = [
            request for request in self.connection.active_requests()
            if request.input_at < due and not request.has_all_input()
        ]
        if not stalled:
            return 0
        reason = f"no more of a body in body_timeout={self.service.body_timeout} s"
        if len(stalled) == self.connection.active and self.received_at < due:
            return self.lose(reason)
        logger.warning("a request of %s aborted: %s", self.peer_name(), reason)
        for request in stalled:
            self.abort(request, True)
        self.flush()
        return self.notify()

    cdef int request_ended(self, ActiveRequest request, double now) except -1:
        """The application's thread is through with a request."""
        self.served += 1
        self.idle_since = max(now, self.received_at)
        self.attended = False
        self.pulls = -1
        self.newest = None
        if self.closed:
            return self.let_go()
        self.time_params(self.idle_since)
        self.flush()
        if self.service.retiring:
            self.give_away()
        return self.update()

    cdef int let_go(self) except -1:
        """Closed, and no request left: undo the circle that we make with our connection."""
        self.newest = None
        if self.closed and self.connection.active == 0:
            (<Link>self.connection).channel = None
        return 0
