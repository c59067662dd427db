# cython: language_level=3, freethreading_compatible=True
"""Accepts connections from a listening socket, as many as there is room for."""

import logging
import os
import socket

from libc.errno cimport EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM

from fastfcgi._sys cimport (
    ff_accept,
    ff_add,
    ff_free_mutex,
    ff_lock,
    ff_now,
    ff_unlock,
    ff_wait_to_recv,
)
from fastfcgi.channel cimport Channel
from fastfcgi.engine cimport Engine
from fastfcgi.handler cimport Handler, Worker
from fastfcgi.scgi_channel cimport ScgiChannel
from fastfcgi.service cimport Service

from fastfcgi.engine import TICK
from fastfcgi.handoff import take

logger = logging.getLogger("fastfcgi")

cdef enum:
    READ = 1
    # Connections accepted in a row before others get their turn.
    BATCH = 16
    # Bytes of a request that are looked at to know whether it is for a page.
    PEEK_SIZE = 8192

# Seconds that connections wait for a thread of any process, before those for pages are looked for.
cdef double HOLD_BACK = 0.1
# Seconds between two complaints of the same kind.
cdef double PATIENCE = 1.0


cdef class Acceptor(Handler):
    """Watches one listening socket.

    Args:
        listener: A fastfcgi.sockets.Listener.
        server: Says who may connect, and is asked to make room.
        service: What the channels share.
    """

    def __init__(self, listener, server, Service service):
        self.listener = listener
        self.server = server
        self.service = service
        self.fd = listener.sock.fileno()
        self.checks_peers = server.checks_peers
        self.others = getattr(server, "others", None)
        if self.others is not None:
            service.engine.on_room = server.resume_accepting
        self.complained_at = -PATIENCE

    def __dealloc__(self):
        ff_free_mutex(&self.lock)

    def resume(self):
        """Accept again."""
        ff_lock(&self.lock)
        try:
            self.paused = False
            self.service.engine.set_mask(self, READ, True)
        finally:
            ff_unlock(&self.lock)

    def pause(self):
        """Let connections wait in the kernel's backlog until there is room."""
        ff_lock(&self.lock)
        try:
            self.paused = True
            self.service.engine.forget(self)
        finally:
            ff_unlock(&self.lock)

    def drain(self):
        """Take in who is there already, and nobody from then on. Closing a listening socket resets
        them; and where several processes share it, the system has perhaps woken this one alone."""
        self.draining = True  # another thread may be about to hand some on
        while self.accept_some(None):
            pass
        self.pause()  # running out of room may have it accept again later

    def on_ready(self, mask):
        """Somebody connects."""
        self.ready(mask, None)

    cdef int ready(self, int mask, Worker worker) except -1:
        self.accept_some(worker)
        if self.service.engine.parallel:
            ff_lock(&self.lock)
            try:
                if not self.paused:
                    self.mask = 0  # the poller has told of it once
                    self.service.engine.set_mask(self, READ, True)
            finally:
                ff_unlock(&self.lock)
        return 0

    @property
    def accepting(self):
        """Some thread is about it: there may be one channel more in a moment."""
        return self.inside > 0

    cdef int accept_some(self, Worker worker) except -1:
        """Returns how many were accepted."""
        ff_add(&self.inside, 1)
        try:
            return self.accept_batch(worker)
        finally:
            ff_add(&self.inside, -1)

    cdef int accept_batch(self, Worker worker) except -1:
        cdef int accepted, is_inet = False, served = 0
        cdef Py_ssize_t fd
        for accepted in range(BATCH):
            if self.others is not None and not self.draining and self.hold_back(accepted, worker):
                return accepted
            if self.is_full() and not self.one_is_idle():
                self.wait()
                return accepted
            fd = self.next_one(&is_inet, &served)
            if fd < 0:
                # Nothing there, as a rule: another process that shares the socket was first.
                if -fd in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
                    self.no_descriptors(-fd)
                return accepted
            if self.is_full():
                # Only now: had nobody been there, it would have been closed for nothing.
                self.close_longest_idle()
            self.welcome(fd, is_inet, served, worker)
        return BATCH

    cdef Py_ssize_t next_one(self, int* is_inet, int* served) noexcept:
        """The next connection's descriptor, or minus errno. (It tells two more things: it is one of
        TCP, and requests were answered on it before.)"""
        return ff_accept(self.fd, is_inet)

    cdef int welcome(self, Py_ssize_t fd, bint is_inet, int served, Worker worker) except -1:
        cdef Channel channel
        if self.checks_peers and not self.is_allowed(fd):
            return 0
        if self.service.scgi:
            channel = ScgiChannel.__new__(ScgiChannel)
        else:
            channel = Channel.__new__(Channel)
        channel.open(self.service, fd, is_inet)
        channel.served = served
        try:
            # The request is there already as a rule: read it now, not after another wait.
            channel.ready(READ, worker)
        except Exception:
            logger.exception("internal error, the connection is closed")
            channel.on_failure()
        if self.service.stopping:
            # Those that are there have been told, perhaps before this one was there.
            if self.service.retiring:
                channel.on_retire()
            else:
                channel.on_stop()
        return 0

    cdef bint is_allowed(self, Py_ssize_t fd) except -1:
        """Whether the peer may connect; its socket is closed if not."""
        with socket.socket(fileno=fd) as sock:
            try:
                peer = sock.getpeername()
            except OSError:
                return False  # gone already
            if self.server._isClientAllowed(peer):
                sock.detach()
                return True
        logger.warning("connection from %r refused: not in FCGI_WEB_SERVER_ADDRS", peer)
        return False

    # ---- when there is no room -------------------------------------------------------------

    cdef bint is_full(self) noexcept:
        return len(self.service.channels) >= self.service.max_connections

    cdef Channel longest_idle(self):
        idle = [channel for channel in list(self.service.channels) if channel.idle]
        return min(idle, key=_idle_since) if idle else None

    cdef bint one_is_idle(self) except -1:
        """Whether a connection can be closed for another: its next request may have arrived, so
        it has to be looked for."""
        cdef Channel longest = self.longest_idle()
        while longest is not None:
            longest.on_ready(READ)
            if longest.idle:
                return True
            longest = self.longest_idle()
        return False

    def close_longest_idle(self):
        """Close the kept connection that has been idle for longest, if there is one."""
        cdef Channel longest = self.longest_idle()
        if longest is not None:
            longest.on_failure()

    cdef int no_descriptors(self, int error) except -1:
        if not ff_wait_to_recv(self.fd, 0):
            return 0  # Linux says so even when nobody is there
        now = ff_now()
        if now - self.complained_at >= PATIENCE:
            self.complained_at = now
            logger.error("cannot accept a connection: %s", OSError(error, os.strerror(error)))
        before = len(self.service.channels)
        self.one_is_idle()  # as far as is known after a look at it
        self.close_longest_idle()
        if len(self.service.channels) == before:
            # The application may give some back.
            self.wait()
        return 0

    cdef int wait(self) except -1:
        """Accept nothing before a connection closes, or the next tick."""
        self.pause()
        self.service.is_full = True
        self.service.engine.tickers.add(self._again)
        self.service.engine.wake()
        return 0

    # ---- when every thread is busy, and there are other processes ---------------------------

    cdef bint hold_back(self, int accepted, Worker worker) except -1:
        """Whether the next connection is left alone: its request would have to wait here, while
        other processes may have a free thread now, or sooner than we."""
        cdef Engine engine = self.service.engine
        if engine.running < engine.threads:
            self.late = False
            return accepted > 0 and engine.is_taken()  # those run first, then it is seen
        # The system has woken us for it, and nobody else.
        if self.others.are_free():
            self.hand_on(BATCH, False, worker)
        elif self.late:
            # Nobody has come for it. Pages are answered; all else waits for whoever is free first.
            self.late = False
            self.hand_on(BATCH, True, worker)
        self.stand_back()
        return True

    cdef int hand_on(self, int most, bint but_pages, Worker worker) except -1:
        """Give connections to other processes, perhaps but for those that may ask for a page."""
        cdef int is_inet = False, served = 0
        cdef Py_ssize_t fd
        self.pause_all()  # or we would take them back
        for _ in range(most):
            fd = self.next_one(&is_inet, &served)
            if fd < 0:
                break
            if self.checks_peers and not self.is_allowed(fd):
                continue
            mine = self.draining or but_pages and self.may_be_page(fd)
            if mine or not self.others.give(fd, served > 0):
                self.welcome(fd, is_inet, served, worker)
            else:
                os.close(fd)
        return 0

    cdef int pause_all(self) except -1:
        for acceptor in self.server._acceptors:
            acceptor.pause()
        return 0

    cdef int stand_back(self) except -1:
        """Accept nothing before a thread is free, for a while."""
        cdef Engine engine = self.service.engine
        engine.room_wanted = True
        self.stood_back_at = ff_now()
        self.pause_all()
        if engine.running < engine.threads:
            self.server.resume_accepting()  # it may not have seen that it is waited for
            return 0
        engine.tick = HOLD_BACK / 2
        engine.tickers.add(self._hold_back_ends)
        engine.wake()
        return 0

    def _hold_back_ends(self, now):
        if now - self.stood_back_at >= HOLD_BACK:
            self.service.engine.tickers.discard(self._hold_back_ends)
            if not self.service.stopping:
                self.service.engine.tick = TICK
                # Whoever comes later has not waited, and perhaps not sent anything yet.
                self.late = ff_wait_to_recv(self.fd, 0)
                self.server.resume_accepting()

    cdef bint may_be_page(self, Py_ssize_t fd) except -1:
        """Whether what has arrived may be a request for one of the server's own pages."""
        pages = self.service.pages
        if pages is None:
            return False
        sock = socket.socket(fileno=fd)
        try:
            data = sock.recv(PEEK_SIZE, socket.MSG_PEEK)
        except OSError:
            return False  # nothing is there yet: whoever takes it next will look again
        finally:
            sock.detach()
        # SCRIPT_NAME may have the first part of the path.
        ends = ("/" + path.rpartition("/")[2] for path in pages)
        return any(end.encode("latin-1", "replace") in data for end in ends)

    def _again(self, now):
        self.service.engine.tickers.discard(self._again)
        self.service.is_full = False
        self.server.resume_accepting()


cdef class Taker(Acceptor):
    """Takes the connections that another process hands over, see fastfcgi.handoff."""

    def __init__(self, listener, server, Service service):
        super().__init__(listener, server, service)
        self.checks_peers = False  # whoever accepted it has

    cdef bint hold_back(self, int accepted, Worker worker) except -1:
        cdef Engine engine = self.service.engine
        cdef bint but_pages = self.late
        self.late = False
        if engine.running < engine.threads:
            return accepted > 0 and engine.is_taken()
        # Once is enough to wake another process, which may be free.
        self.hand_on(1, but_pages, worker)
        self.stand_back()
        return True

    def resume(self):
        """Take again."""
        if not self.ended:
            Acceptor.resume(self)

    cdef Py_ssize_t next_one(self, int* is_inet, int* served) noexcept:
        try:
            fd, is_inet[0], served[0] = take(self.listener.sock)
            return fd
        except EOFError:
            self.ended = True
            self.pause()
            return -EAGAIN
        except OSError as error:
            return -(error.errno or EAGAIN)
        except Exception:
            logger.exception("internal error, a connection that was handed over is lost")
            return -EAGAIN


def _idle_since(channel):
    return channel.idle_since
