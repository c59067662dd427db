# cython: language_level=3
"""The C interface of an SCGI connection, for the other extensions. It may change with every
version."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from fastfcgi._scgi cimport HeaderReader
from fastfcgi.active_request cimport ActiveRequest
from fastfcgi.connection cimport Connection


cdef class ScgiConnection(Connection):
    cdef HeaderReader header        # None before the first byte, and when it is complete
    cdef bint begun                 # the first byte has come
    cdef readonly int64_t body_left     # bytes of the body that are to come
    cdef uint64_t taken_in          # bytes of the connection
    cdef readonly bint abandoned    # the response must not look complete

    cdef int begin(self, dict params, int64_t content_length) except -1
    cdef int receive_body(self, const uint8_t* p, Py_ssize_t size) except -1
    cdef int end_input(self, ActiveRequest request) except -1
