# cython: language_level=3, freethreading_compatible=True
"""What is ready: epoll where there is one, else what the standard library knows (kqueue, select).

An epoll call costs no Python at all; the fallback costs some, and is right.
"""

import os
import selectors
import socket
import threading

from fastfcgi._sys cimport (
    FF_HAVE_EPOLL,
    ff_close,
    ff_epoll_create,
    ff_epoll_wait,
    ff_epoll_watch,
)


cdef class Poller:
    """Tells which descriptors are ready.

    Args:
        once: What was found ready is watched again only after the next watch(). Several threads
            may wait at once then.
    """

    cdef int watch(self, Py_ssize_t fd, int before, int mask, bint shared) except -1:
        """Watch fd for `mask` (READ, WRITE, both; 0: no more), after `before` (-1: not yet).

        Args:
            shared: Other processes wait for it, too: wake one of them, not all.

        Raises:
            OSError: The system refused.
        """
        raise NotImplementedError

    cdef int wait(self, Py_ssize_t* fds, int* masks, int size) except -1:
        """Wait for at most `size` ready descriptors; returns how many."""
        raise NotImplementedError

    cpdef close(self):
        """Give back what it holds; nobody waits any more."""

    # ---- for Python ------------------------------------------------------------------------

    def watch_for(self, Py_ssize_t fd, int before, int mask, bint shared=False):
        """watch()"""
        self.watch(fd, before, mask, shared)

    def wait_for(self, int size=MAX_EVENTS):
        """wait(); returns pairs of descriptor and mask."""
        cdef Py_ssize_t[MAX_EVENTS] fds
        cdef int[MAX_EVENTS] masks
        cdef int n = self.wait(fds, masks, min(size, <int>MAX_EVENTS))
        return [(fds[i], masks[i]) for i in range(n)]


cdef class EpollPoller(Poller):
    """Linux's."""

    def __init__(self, bint once):
        self.once = once
        self.epoll = ff_epoll_create()
        if self.epoll < 0:
            raise OSError(-self.epoll, os.strerror(-self.epoll))

    cdef int watch(self, Py_ssize_t fd, int before, int mask, bint shared) except -1:
        cdef int result = ff_epoll_watch(self.epoll, <int>fd, before, mask, self.once, shared)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return 0

    cdef int wait(self, Py_ssize_t* fds, int* masks, int size) except -1:
        cdef int[MAX_EVENTS] ready
        cdef int i, n
        with nogil:
            n = ff_epoll_wait(self.epoll, ready, masks, size, -1)
        if n < 0:
            raise OSError(-n, os.strerror(-n))
        for i in range(n):
            fds[i] = ready[i]
        return n

    cpdef close(self):
        if self.epoll >= 0:
            ff_close(self.epoll)
            self.epoll = -1


cdef class SelectorPoller(Poller):
    """kqueue, poll or select, by the standard library. Threads that wait take turns."""

    def __init__(self, bint once):
        self.once = once
        self.selector = selectors.DefaultSelector()
        self.turn = threading.Lock()
        self.changes = threading.Lock()
        self.found = []
        self.wake_out, self.wake_in = socket.socketpair()
        self.wake_out.setblocking(False)
        self.wake_in.setblocking(False)
        self.selector.register(self.wake_out, selectors.EVENT_READ)

    cdef int watch(self, Py_ssize_t fd, int before, int mask, bint shared) except -1:
        with self.changes:
            known = fd in self.selector.get_map()
            if mask > 0:
                (self.selector.modify if known else self.selector.register)(fd, mask)
            elif known:
                self.selector.unregister(fd)
        if self.waiting:
            # select() and poll() look at what was registered when they began.
            try:
                self.wake_in.send(b"\0")
            except BlockingIOError:
                pass  # full: it wakes up anyway
        return 0

    cdef bint tell(self, fd) except -1:
        """Whether what was found is still watched."""
        with self.changes:
            if fd not in self.selector.get_map():
                return False
            if self.once:
                self.selector.unregister(fd)
        return True

    cdef int wait(self, Py_ssize_t* fds, int* masks, int size) except -1:
        cdef int n = 0
        with self.turn:
            if not self.found:
                self.waiting = True
                try:
                    self.found = self.selector.select()
                finally:
                    self.waiting = False
            while self.found and n < size:
                key, mask = self.found.pop()
                if key.fileobj is self.wake_out:
                    self.wake_out.recv(4096)
                elif mask and self.tell(key.fd):
                    fds[n] = key.fd
                    masks[n] = mask
                    n += 1
        return n

    cpdef close(self):
        self.selector.close()
        self.wake_out.close()
        self.wake_in.close()


cpdef Poller new_poller(bint once):
    """The best one that this system has."""
    if FF_HAVE_EPOLL:
        return EpollPoller(once)
    return SelectorPoller(once)
