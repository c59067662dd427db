from libc.stdint cimport int8_t, uint32_t


cdef struct Score:
    uint32_t tag                # of what it stands for; 0 for nothing yet
    int8_t score


cdef class Scores:
    cdef Score paths[1024]
    cdef Score segments[256]
    cdef int8_t unknown

    cdef int score_of(self, str path) noexcept
    cdef int learn(self, str path, int change) noexcept


cdef enum:
    EAGER = 13                  # a score from which on a request is expected to block
    BLOCKED = 12                # what a request that did block adds
