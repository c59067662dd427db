cdef enum:
    READ = 1
    WRITE = 2
    MAX_EVENTS = 256


cdef class Poller:
    """Tells which descriptors are ready. Any thread may call watch while another one waits."""

    cdef readonly bint once

    cdef int watch(self, Py_ssize_t fd, int before, int mask, bint shared) except -1
    cdef int wait(self, Py_ssize_t* fds, int* masks, int size) except -1
    cpdef close(self)


cdef class EpollPoller(Poller):
    cdef int epoll


cdef class SelectorPoller(Poller):
    cdef object selector
    cdef object turn            # of the thread that waits
    cdef object changes         # held while the selector changes
    cdef list found             # and not told yet
    cdef object wake_out
    cdef object wake_in
    cdef bint waiting

    cdef bint tell(self, fd) except -1


cpdef Poller new_poller(bint once)
