# cython: language_level=3, freethreading_compatible=True
"""The socket of an accepted connection, and the threads that come to it.

Whoever leads receives; whoever has something to send sends; an application's thread that waits
for its body receives as well. One lock per line guards it all. Nothing that may block is done
under it, so it is nearly always free: taking it costs no system call.
"""

import logging
import os
import socket

from cpython.pythread cimport (
    WAIT_LOCK,
    PyThread_acquire_lock,
    PyThread_allocate_lock,
    PyThread_free_lock,
    PyThread_release_lock,
    PyThread_type_lock,
)
from libc.errno cimport EAGAIN, EIO

from fastfcgi._sys cimport (
    ff_add,
    ff_close,
    ff_free_mutex,
    ff_lock,
    ff_now,
    ff_recv,
    ff_shutdown,
    ff_unlock,
    ff_wait_to_recv,
)
from fastfcgi.engine cimport Engine

cdef extern from "pythread.h" nogil:
    int PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds, int intr)

logger = logging.getLogger("fastfcgi")

cdef double NEVER = float("inf")

cdef enum:
    READ = 1
    WRITE = 2
    BUFFER_SIZE = 65536
    # Parts of a body that its reader found there, before nobody else receives; half of them are
    # forgotten whenever it found nothing.
    MIN_PULLS = 2
    MAX_PULLS = 8
    # Milliseconds that such a reader waits by itself.
    AWAIT_MS = 10


cdef class Waiter:
    """A thread that waits for something to change on a line."""

    cdef PyThread_type_lock lock

    def __cinit__(self):
        self.lock = PyThread_allocate_lock()
        if self.lock == NULL:
            raise MemoryError()
        PyThread_acquire_lock(self.lock, WAIT_LOCK)

    def __dealloc__(self):
        if self.lock != NULL:
            PyThread_release_lock(self.lock)
            PyThread_free_lock(self.lock)


cdef class Line(Handler):
    """The socket of a connection. Who derives from it says what is made of the bytes that come,
    and sets `connection` before open()."""

    cdef int open(self, Service service, Py_ssize_t fd, bint is_inet) except -1:
        self.service = service
        self.fd = fd
        self.is_inet = is_inet
        self.outbox = Outbox.__new__(Outbox)
        self.received_at = ff_now()
        self.reading = True
        self.pulls = -1
        service.channels.add(self)
        if service.engine.board is not None:
            ff_add(&service.engine.board.head.connections, 1)
        return 0

    def __dealloc__(self):
        ff_free_mutex(&self.lock)

    @property
    def unsent(self):
        """Bytes that the web server has not taken yet."""
        return self.outbox.size

    @property
    def idle(self):
        """No request is active and nothing of one has arrived."""
        return self.connection.is_idle() and not self.outbox.size

    # ---- called by whoever leads -----------------------------------------------------------

    def on_ready(self, int mask):
        """READ or WRITE or both would not block."""
        self.ready(mask, None)

    cdef int ready(self, int mask, Worker worker) except -1:
        cdef Buffer buffer = worker.buffer if worker is not None else self.service.engine.borrow()
        ff_lock(&self.lock)
        try:
            if self.closed:
                return 0
            if self.service.engine.parallel and self.mask > 0:
                self.mask = 0  # the poller has told of it once
            if mask & WRITE:
                self.outbox.blocked = False
                self.flush()
                if self.outbox.size <= self.service.max_unsent // 2:
                    self.notify()
            if mask & READ and not self.lost:
                self.receive(buffer, worker)
            self.update()
        finally:
            ff_unlock(&self.lock)
        if worker is None:
            self.service.engine.buffers.append(buffer)
        return 0

    cdef int left_alone(self) except -1:
        ff_lock(&self.lock)
        try:
            self.attended = False
            self.update()
        finally:
            ff_unlock(&self.lock)
        return 0

    def on_failure(self):
        """Close, whatever is under way."""
        ff_lock(&self.lock)
        try:
            if not self.closed:
                self.lose(None)
                self.update()
        finally:
            ff_unlock(&self.lock)

    # ---- in, with the lock held ------------------------------------------------------------

    cdef int receive(self, Buffer buffer, Worker worker) except -1:
        """Take in what is there; returns whether anything was."""
        cdef Py_ssize_t size = ff_recv(self.fd, buffer.memory, BUFFER_SIZE)
        if size == -EAGAIN:
            return False
        if size < 0:
            logger.info("connection of %s lost: %s", self.peer_name(), os.strerror(-size))
            self.lose(None)
        elif size == 0:
            self.at_eof()
        elif self.lingering:
            self.lingered += size
            if self.lingered > self.service.linger_bytes:
                self.lose(None)
        else:
            self.take_in(buffer.memory, size, worker)
        return True

    cdef int acknowledge(self, ActiveRequest request, Py_ssize_t size) except -1:
        """Bytes of a body are read; receive on if that was what it waited for."""
        if size:
            self.connection.input_read(request, size)
            if not (self.reading or self.is_pulled()):
                self.update()
        return 0

    cdef int take_in(self, const uint8_t* p, Py_ssize_t size, Worker worker) except -1:
        """Bytes have come."""
        raise NotImplementedError

    cdef int at_eof(self) except -1:
        """The peer sends no more."""
        raise NotImplementedError

    # ---- out, with the lock held, by any thread --------------------------------------------

    cdef int flush(self) except -1:
        """Send what the socket takes; whoever leads goes on with the rest."""
        try:
            self.outbox.send(self.fd)
        except OSError as error:
            if error.errno == EIO:
                return self.lose("a file that was being sent is shorter now, or cannot be read")
            logger.info("connection of %s lost: %s", self.peer_name(), error)
            return self.lose(None)
        if self.connection.is_to_close() and not self.outbox.size and not self.lost:
            self.finish_sending()
        return 0

    cdef int finish_sending(self) except -1:
        """Say that nothing more comes, and take in what the peer is still sending: closing with
        unread bytes resets a TCP connection and may lose the response (spec 3.5)."""
        if self.lingering:
            return 0
        if not (self.is_inet or self.connection.input_expected):
            # Through a unix socket nothing is lost, and nothing more is expected.
            self.lost = True
            return 0
        self.lingering = True
        self.outbox.sent_at = ff_now()
        if ff_shutdown(self.fd) < 0:
            self.lose(None)
        return 0

    # ---- the end, with the lock held -------------------------------------------------------

    cdef int lose(self, str reason) except -1:
        """The connection is of no use any more; update() closes it."""
        if reason is not None:
            logger.warning("connection of %s closed: %s", self.peer_name(), reason)
        self.lost = True
        self.outbox.clear()
        return self.abort_requests()

    cdef int close(self) except -1:
        """Free the descriptor. All that is done with it is done with the lock held."""
        self.closed = True
        self.service.engine.forget(self)
        ff_close(self.fd)
        self.fd = -1
        self.let_go()
        self.service.channels.discard(self)
        if self.service.engine.board is not None:
            ff_add(&self.service.engine.board.head.connections, -1)
        if self.service.is_full:
            self.service.is_full = False
            self.service.server.resume_accepting()
        return 0

    cdef object peer_name(self):
        """For the log."""
        if not self.is_inet:
            return "a unix socket"
        try:
            sock = socket.socket(fileno=os.dup(self.fd))
            with sock:
                return repr(sock.getpeername())
        except OSError:
            return "a TCP socket"

    cdef int abort_requests(self) except -1:
        """Nobody takes their answers any more."""
        raise NotImplementedError

    cdef int request_ended(self, ActiveRequest request, double now) except -1:
        """The application's thread is through with a request."""
        raise NotImplementedError

    cdef int let_go(self) except -1:
        """It is closed: free what is not needed any more."""
        return 0

    # ---- what it is watched for, with the lock held ----------------------------------------

    cdef int update(self) except -1:
        """Watch for what is of interest now, or close. Any thread may do this."""
        cdef Engine engine = self.service.engine
        cdef int mask
        cdef double due
        if self.closed:
            return 0
        if self.lost or self.is_finished():
            return self.close()
        mask = WRITE if self.outbox.blocked else 0
        if not (self.eof or self.is_pulled()) and (self.lingering or not self.is_full()):
            mask |= READ
            if not self.reading:
                # While we did not read, nothing of it was late.
                self.listening_since = ff_now()
        self.reading = mask & READ
        self.timing(&due)
        engine.attend(due)
        if self.attended and self.mask < 0:
            return 0
        try:
            engine.set_mask(self, mask)
        except OSError as error:
            logger.error("a connection cannot be watched: %s", error)
            self.lose(None)
            self.close()
        return 0

    cdef bint is_finished(self) noexcept:
        """The peer sends no more and has every answer that it will get."""
        return self.eof and self.connection.active == 0 and not self.outbox.size

    cdef bint is_full(self) noexcept:
        return self.connection.is_paused() or self.outbox.size > self.service.max_unsent

    cdef int begin_pulling(self) except -1:
        """The application reads a body that is still coming: leave that to its thread, unless it
        turns out to be the faster one."""
        if self.pulls < 0:
            self.pulls = MAX_PULLS
        return 0

    cdef bint is_pulled(self) noexcept:
        """An application's thread takes in the body as fast as it can: a second one that receives
        beside it would only be in its way."""
        return self.pulls >= MIN_PULLS and not self.waiters and not self.multiplexed

    cdef int timing(self, double* due) noexcept:
        """What the peer has a time for, and when that ends."""
        due[0] = NEVER
        return 0

    # ---- waiting, with the lock held -------------------------------------------------------

    cdef int wait(self, double seconds) except -1:
        """Until something has changed, or for so many seconds; negative: for ever."""
        cdef Waiter waiter = Waiter()
        cdef PyThread_type_lock lock = waiter.lock
        if self.waiters is None:
            self.waiters = []
        self.waiters.append(waiter)
        self.attended = False
        self.pulls //= 2
        self.update()
        self.service.engine.hand_over()
        ff_unlock(&self.lock)
        with nogil:
            if seconds < 0:
                PyThread_acquire_lock(lock, WAIT_LOCK)
            else:
                PyThread_acquire_lock_timed(lock, <long long>(1e6 * seconds), 0)
        ff_lock(&self.lock)
        if waiter in self.waiters:
            self.waiters.remove(waiter)
        return 0

    cdef int notify(self) except -1:
        """Something has changed."""
        cdef Waiter waiter
        if self.waiters:
            for waiter in self.waiters:
                PyThread_release_lock(waiter.lock)
            self.waiters.clear()
        return 0

    cdef int receive_or_wait(self, bint wait=True) except -1:
        """More of a body is wanted: what is there already, or else what comes. Returns whether
        anything was there or may have come: look again."""
        if self.receive_here():
            return True
        if not wait:
            return False
        if self.is_pulled():
            self.await_here()
        else:
            self.wait(-1.0)
        return True

    cdef bint receive_here(self) except -1:
        """Receive in this thread, whoever polls; returns whether anything was there."""
        cdef Buffer buffer
        if not (self.reading or self.is_pulled()) or self.is_full():
            return False
        if self.eof or self.lost or self.closed:
            return False
        buffer = self.service.engine.borrow()
        try:
            if not self.receive(buffer, None):
                return False
        finally:
            self.service.engine.buffers.append(buffer)
        self.pulls = min(self.pulls + 1, MAX_PULLS)
        self.update()
        return True

    cdef int await_here(self) except -1:
        """Wait in this thread for more: it comes before another one could be told to look for it.
        Not for long, since nobody can wake this one; and others may receive meanwhile."""
        cdef Py_ssize_t fd = self.fd
        cdef bint ready
        self.attended = False
        self.service.engine.hand_over()
        ff_unlock(&self.lock)
        with nogil:
            ready = ff_wait_to_recv(fd, AWAIT_MS)
        ff_lock(&self.lock)
        if not ready:
            self.pulls //= 2
        return 0
