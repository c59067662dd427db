# cython: language_level=3
"""The C interface of SCGI's header, for the other extensions. It may change with every version."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint64_t

from fastfcgi._pairs cimport Kept
from fastfcgi._params cimport ParamsDecoder


@cython.final
cdef class HeaderReader:
    cdef ParamsDecoder decoder      # of its limits, and what becomes of the pairs
    cdef Py_ssize_t length          # of the netstring, as far as its digits have come
    cdef int digits
    cdef bint has_length            # the colon has come
    cdef Kept kept                  # of the netstring, when it was cut
    cdef uint64_t offset            # bytes of the connection taken in before these
    cdef bint failed
    cdef readonly int64_t content_length    # -1 before the header is complete

    cdef dict feed_bytes(self, const uint8_t* p, Py_ssize_t size, Py_ssize_t* used)
    cdef Py_ssize_t read_length(self, const uint8_t* p, Py_ssize_t size) except -1
    cdef dict read_header(self, const uint8_t* p)
    cdef int read_content_length(self, const uint8_t* p) except -1
    cdef int read_pairs(self, const uint8_t* p) except -1
    cdef object error(self, str text, Py_ssize_t pos)
