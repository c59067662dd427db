from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t

from fastfcgi._sys cimport ff_iovec


cdef struct Piece:
    int type                    # of a stream's records; 0: records that are sent as they are
    int request_id
    int max_content
    int min_padding
    int file                    # its content is of this file, -1: head and data
    int64_t offset              # from there on
    Py_ssize_t wire             # bytes on the wire
    Py_ssize_t sent             # of those
    const uint8_t* head         # a stream's content is head and then data
    Py_ssize_t head_length
    const uint8_t* data         # NULL of type 0: the bytes are in `small`
    Py_ssize_t data_length
    PyObject* head_owner
    PyObject* data_owner
    uint8_t small[40]


cdef class Outbox:
    cdef Piece first[4]
    cdef Piece* pieces
    cdef int begin
    cdef int count
    cdef int room
    cdef readonly Py_ssize_t size
    cdef public bint blocked
    cdef public double sent_at
    cdef bint waiting           # sent_at is of what waits

    cdef Piece* new_piece(self, Py_ssize_t wire) except NULL
    cdef int make_room(self) except -1
    cdef int add(self, const uint8_t* p, Py_ssize_t size) except -1
    cdef int add_owned(self, const uint8_t* p, Py_ssize_t size, object owner) except -1
    cdef int add_raw(self, bytes head, object data) except -1
    cdef int add_stream(
        self, int type, int request_id, bytes head, object data, int max_content, int min_padding
    ) except -1
    cdef int add_file(
        self, int type, int request_id, object part, int max_content, int min_padding
    ) except -1
    cdef int release_all(self) except -1
    cdef int drop_first(self) except -1
    cpdef clear(self)
    cdef int fill(self, ff_iovec* iov, uint8_t* headers) noexcept
    cdef int fill_records(
        self, Piece* piece, ff_iovec* iov, int used, uint8_t* headers
    ) noexcept
    cdef int send(self, Py_ssize_t fd) except -1
    cdef Py_ssize_t send_pieces(self, Py_ssize_t fd) noexcept
    cdef Py_ssize_t send_file(self, Py_ssize_t fd, Piece* piece) noexcept
    cdef Py_ssize_t send_raw_file(self, Py_ssize_t fd, Piece* piece) noexcept
    cdef int note(self, Py_ssize_t sent, int writes) except -1
    cdef int advance(self, Py_ssize_t sent) except -1
