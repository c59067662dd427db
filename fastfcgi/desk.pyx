# cython: language_level=3, freethreading_compatible=True
"""What an engine keeps: the handlers that are watched, and the requests that wait."""

from collections import deque

from fastfcgi._sys cimport ff_add, ff_lock, ff_unlock


cdef class Desk(Loop):
    """The books of an engine: who is watched for what, which requests wait for a thread.

    Args:
        threads: The most requests that run at once.
        queue_size: The most that wait for one.
        poller: Watches.
        board: Shows what runs, or None.
        tick: Of Loop.
    """

    def __init__(self, int threads, int queue_size, Poller poller, Board board, double tick):
        super().__init__(tick)
        self.threads = threads
        self.queue_size = queue_size
        self.poller = poller
        self.board = board
        self.table = []
        self.buffers = []
        self.more = deque()

    @property
    def busy(self):
        """Requests that run."""
        return self.running

    @property
    def idle(self):
        """Threads that run none."""
        return max(self.total - self.running, 0)

    @property
    def pending(self):
        """Requests that wait for a thread."""
        return self.queued

    # ---- what is watched -------------------------------------------------------------------

    def watch(self, Handler handler, int mask, shared=False):
        """Watch handler for what mask says from now on; 0 for nothing."""
        self.set_mask(handler, mask, shared)

    def unwatch(self, Handler handler):
        """Watch handler no longer; to be called before its descriptor is closed."""
        self.forget(handler)

    cdef int set_mask(self, Handler handler, int mask, bint shared=False) except -1:
        if mask == handler.mask or self.poller is None:
            return 0
        if mask <= 0:
            return self.forget(handler)
        ff_lock(&self.mutex)
        try:
            while len(self.table) <= handler.fd:
                self.table.append(None)
            self.table[handler.fd] = handler
        finally:
            ff_unlock(&self.mutex)
        self.poller.watch(handler.fd, handler.mask, mask, shared)
        handler.mask = mask
        return 0

    cdef int forget(self, Handler handler) except -1:
        if handler.mask < 0:
            return 0
        before, handler.mask = handler.mask, -1
        self.table[handler.fd] = None
        if self.poller is not None:
            self.poller.watch(handler.fd, before, 0, False)
        return 0

    cdef Buffer borrow(self):
        """Memory to receive into, for a thread that is none of ours; back to `buffers` with it."""
        try:
            return self.buffers.pop()
        except IndexError:
            return Buffer()

    # ---- requests that wait ----------------------------------------------------------------

    cdef bint enqueue(self, Handler handler, object request) except -1:
        ff_lock(&self.mutex)
        try:
            # Up to one request for each thread needs no room in the queue.
            if self.queued >= self.queue_size + max(self.threads - self.running, 0):
                return False
            if self.next_handler is None:
                self.next_handler = handler
                self.next_request = request
            else:
                self.more.append((handler, request))
            self.queued += 1
            if self.board is not None:
                self.board.head.queued = self.queued
        finally:
            ff_unlock(&self.mutex)
        return True

    cdef bint dequeue(self, Worker worker) except -1:
        """Take the next request, if there is one and a place to run it."""
        if self.queued == 0:
            return False
        ff_lock(&self.mutex)
        try:
            if self.next_handler is None or self.running >= self.threads:
                return False
            worker.own_handler = self.next_handler
            worker.own_request = self.next_request
            self.next_handler = self.next_request = None
            if self.more:
                self.next_handler, self.next_request = self.more.popleft()
            self.queued -= 1
            if self.board is not None:
                self.board.head.queued = self.queued
            ff_add(&self.running, 1)
        finally:
            ff_unlock(&self.mutex)
        return True

    cdef bint is_taken(self) noexcept:
        """Whether another request would have to wait."""
        return self.running + self.queued >= self.threads

    def take(self):
        """The next request that waits, as (handler, request), or None: for who runs an engine
        without its threads, as tests do."""
        cdef Worker worker = Worker()
        if not self.dequeue(worker):
            return None
        ff_add(&self.running, -1)  # in none of our threads
        return worker.own_handler, worker.own_request
