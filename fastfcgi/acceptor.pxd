from fastfcgi._sys cimport ff_mutex
from fastfcgi.channel cimport Channel
from fastfcgi.handler cimport Handler, Worker
from fastfcgi.service cimport Service


cdef class Acceptor(Handler):
    cdef readonly object listener
    cdef object server
    cdef Service service
    cdef bint checks_peers
    cdef object others        # processes that serve the same, a fastfcgi.handoff.Others, or None
    cdef ff_mutex lock        # of paused and what it is watched for
    cdef bint paused
    cdef long inside          # threads that accept
    cdef bint draining        # others are not looked at any more
    cdef double complained_at
    cdef double stood_back_at
    cdef bint late            # a thread has not become free in time

    cdef int accept_some(self, Worker worker) except -1
    cdef int accept_batch(self, Worker worker) except -1
    cdef Py_ssize_t next_one(self, int* is_inet, int* served) noexcept
    cdef int welcome(self, Py_ssize_t fd, bint is_inet, int served, Worker worker) except -1
    cdef bint is_allowed(self, Py_ssize_t fd) except -1
    cdef bint is_full(self) noexcept
    cdef Channel longest_idle(self)
    cdef bint one_is_idle(self) except -1
    cdef int no_descriptors(self, int error) except -1
    cdef int wait(self) except -1
    cdef bint hold_back(self, int accepted, Worker worker) except -1
    cdef int hand_on(self, int most, bint but_pages, Worker worker) except -1
    cdef int pause_all(self) except -1
    cdef int stand_back(self) except -1
    cdef bint may_be_page(self, Py_ssize_t fd) except -1


cdef class Taker(Acceptor):
    cdef bint ended           # nobody can give any more
