# cython: language_level=3
"""The C interface of params, for the other extensions. It may change with every version."""

cimport cython
from libc.stdint cimport uint8_t

from fastfcgi._pairs cimport Kept, Pair
from fastfcgi._shapes cimport ValueCache


cdef dict start_of(dict base)


@cython.final
cdef class ParamsDecoder:
    cdef dict environ           # None before the first pair
    cdef dict repeated          # name -> list of values, for HTTP_* that came again
    cdef dict start             # what environ begins as a copy of, or None
    cdef bytes reserved
    cdef ValueCache cache
    cdef Py_ssize_t max_bytes
    cdef Py_ssize_t max_pairs
    cdef Py_ssize_t pairs
    cdef Py_ssize_t total       # bytes fed
    cdef Py_ssize_t consumed    # bytes of whole pairs
    cdef Kept tail              # the beginning of a pair that was cut
    cdef bint failed

    cdef int feed_bytes(self, const uint8_t* p, Py_ssize_t size) except -1
    cdef dict take(self)
    cdef void reset(self) noexcept
    cdef dict new_environ(self)
    cdef int read_first(self, const uint8_t* p, Py_ssize_t size) except -1
    cdef int read(self, const uint8_t* p, Py_ssize_t size) except -1
    cdef Py_ssize_t add_pairs(self, const uint8_t* p, Py_ssize_t size) except -1
    cdef int add(self, Pair* pair) except -1
    cdef int add_header(self, str name, str value) except -1
