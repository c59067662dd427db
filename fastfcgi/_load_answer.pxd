# cython: language_level=3
"""The C interface of the load generator's answers; for itself."""

from libc.stdint cimport int64_t, uint8_t

cdef enum:
    HEADER_LEN = 8
    END_REQUEST_LEN = 8
    LINE_SIZE = 16              # what is kept of a header line: enough for a status

# Why a request ends; in words: REASONS.
cdef enum Reason:
    RIGHT
    CONNECT
    TIMEOUT
    CLOSED
    PROTOCOL
    REFUSED
    APP_STATUS
    STATUS
    NO_HEADER
    DIFFERENT
    REASONS_END

cdef enum Outcome:
    MORE
    COMPLETE
    BROKEN


cdef struct Wanted:
    const uint8_t* expected     # NULL: only the response's status is looked at
    Py_ssize_t expected_size
    int request_id
    int status                  # 0: any below 400


cdef struct Answer:
    const Wanted* wanted
    Reason reason               # what is wrong with it, but the connection goes on
    int64_t code                # further
    bint ended                  # END_REQUEST is there
    bint stdout_ended
    bint stderr_ended
    bint header_ended
    Py_ssize_t matched          # bytes of STDOUT that are as expected
    int status
    int line_length
    uint8_t line[<int>LINE_SIZE]
    # The record that is under way
    int type
    int content_left
    int padding_left
    int head_length
    uint8_t head[<int>HEADER_LEN]


cdef void new_answer(Answer* a, const Wanted* wanted) noexcept nogil
cdef Outcome take_in(Answer* a, const uint8_t* p, Py_ssize_t size) noexcept nogil
cdef str detail(int reason, int64_t code)
