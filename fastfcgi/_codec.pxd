# cython: language_level=3
"""The C interface of the codec, for the other extensions. It may change with every version."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastfcgi._pairs cimport Kept

# The numbers that C needs. Those of the specification are compared with constants.py by the tests.
cdef enum:
    VERSION_1 = 1
    HEADER_LEN = 8
    END_REQUEST_LEN = 16        # the whole record
    MAX_CONTENT = 65535
    # The longest content of a stream record that needs no padding to end on 8 bytes (spec 3.3).
    ALIGNED_CONTENT = 65528

    TYPE_BEGIN_REQUEST = 1
    TYPE_ABORT_REQUEST = 2
    TYPE_END_REQUEST = 3
    TYPE_PARAMS = 4
    TYPE_STDIN = 5
    TYPE_STDOUT = 6
    TYPE_STDERR = 7
    TYPE_DATA = 8
    TYPE_GET_VALUES = 9
    TYPE_GET_VALUES_RESULT = 10
    TYPE_UNKNOWN_TYPE = 11
    MAX_TYPE = 11


cdef struct Part:
    # Part of a stream, the empty record at its end, or a whole discrete record. content is valid
    # as long as the bytes that were given, and until the reader is given more.
    int type
    int request_id
    const uint8_t* content
    Py_ssize_t length           # bytes; 0: the record is empty


cdef inline void write_header(
    uint8_t* p, int type, int request_id, int content_length, int padding_length
) noexcept nogil:
    """The 8 bytes of a record header (spec 3.3); the numbers fit their fields."""
    p[0] = VERSION_1
    p[1] = <uint8_t>type
    p[2] = <uint8_t>(request_id >> 8)
    p[3] = <uint8_t>request_id
    p[4] = <uint8_t>(content_length >> 8)
    p[5] = <uint8_t>content_length
    p[6] = <uint8_t>padding_length
    p[7] = 0


cdef inline void write_end_request(
    uint8_t* p, int request_id, uint32_t app_status, int protocol_status
) noexcept nogil:
    """The 16 bytes of an END_REQUEST record (spec 5.5)."""
    write_header(p, TYPE_END_REQUEST, request_id, END_REQUEST_LEN - HEADER_LEN, 0)
    p[8] = <uint8_t>(app_status >> 24)
    p[9] = <uint8_t>(app_status >> 16)
    p[10] = <uint8_t>(app_status >> 8)
    p[11] = <uint8_t>app_status
    p[12] = <uint8_t>protocol_status
    p[13] = p[14] = p[15] = 0


cdef inline int padding_of(Py_ssize_t content_length, int least) noexcept nogil:
    """Bytes of padding that end a record on 8 bytes, and not fewer than `least` (0 to 8)."""
    cdef int padding = <int>(-content_length & 7)
    return padding if padding >= least else padding + 8


cdef Py_ssize_t size_of(object data) except -1
cdef list stream_buffers(
    int type, int request_id, bytes head, object data, Py_ssize_t max_content, int min_padding
)


@cython.final
cdef class RecordReader:
    cdef uint8_t header[HEADER_LEN]
    cdef int header_have
    cdef int type
    cdef int request_id
    cdef Py_ssize_t content_left
    cdef Py_ssize_t padding_left
    cdef Kept discrete          # content so far of a discrete record that was cut
    cdef uint64_t offset        # bytes of the connection taken in
    cdef bint failed

    cdef int next_part(
        self, const uint8_t* p, Py_ssize_t size, Py_ssize_t* pos, Part* part
    ) except -1
    cdef bint is_at_border(self) noexcept
    cdef int begin_record(self, const uint8_t* p, Py_ssize_t size, Py_ssize_t* pos) except -1
    cdef int take_content(
        self, const uint8_t* p, Py_ssize_t size, Py_ssize_t* pos, Part* part
    ) except -1
