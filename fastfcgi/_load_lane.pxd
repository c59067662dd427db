# cython: language_level=3
"""The C interface of the load generator's lanes; for itself."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint64_t

from fastfcgi._load_answer cimport REASONS_END, Reason, Wanted

cdef enum:
    SECOND = 1000000000


cdef struct Counts:
    # What is asked and how often
    const uint8_t* request
    Py_ssize_t request_size
    Wanted wanted
    bint keep_conn
    uint64_t pause
    uint64_t left               # requests that may still be started
    # What came of it
    uint64_t right
    uint64_t connects
    uint64_t bytes_received
    uint64_t total              # of all latencies, in ns
    uint64_t longest
    uint64_t last_right         # when
    uint64_t last_end           # when
    uint64_t errors[<int>REASONS_END]
    int64_t first[<int>REASONS_END]
    uint64_t* buckets


cdef uint64_t nanoseconds(str name, double seconds) except? 0
cdef void count_right(Counts* counts, uint64_t started, uint64_t now) noexcept nogil
cdef void count_error(Counts* counts, Reason reason, int64_t code, uint64_t now) noexcept nogil


@cython.final
cdef class Lane:
    cdef readonly bytes request
    cdef readonly int connections
    cdef readonly bint keep_conn
    cdef readonly bytes expected
    cdef readonly int status
    cdef readonly double pause


@cython.final
cdef class LaneResult:
    cdef Counts counts
    cdef readonly double seconds
    cdef Lane lane              # whose bytes counts points into

    cdef int begin(self, Lane lane, int64_t requests, uint64_t now) except -1
    cdef void end(self, uint64_t began, uint64_t now) noexcept
