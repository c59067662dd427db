cimport cython
from libc.stdint cimport int64_t, uint8_t


@cython.final
cdef class Body:
    # Nothing more will come to be read; nothing more will arrive at all.
    cdef readonly bint complete, ended
    cdef readonly Py_ssize_t in_memory  # bytes held there
    cdef readonly int64_t in_file       # bytes waiting there, behind which all others queue
    cdef readonly object file
    cdef list chunks                    # of bytes, ours alone until somebody is given a whole one
    cdef Py_ssize_t start               # where in the first one the next byte is
    cdef Py_ssize_t free                # bytes of the last one that are not used yet
    cdef int64_t file_start, max_file
    cdef int64_t room                   # bytes that may still come, -1 for any number
    cdef object failure
    cdef uint8_t* target                # where who waits to read wants the next bytes; or NULL
    cdef Py_ssize_t wanted              # bytes that fit there
    cdef bint discarding

    cpdef Py_ssize_t append(self, object data) except -1
    cpdef int end(self) except -1
    cpdef int abort(self) except -1
    cpdef Py_ssize_t spill(self) except -1
    cpdef Py_ssize_t discard(self) except -1
    cpdef tuple take(self, Py_ssize_t size)

    # append(), of bytes that stay where they are until this returns, which may let others run.
    cdef Py_ssize_t append_bytes(self, const uint8_t* p, Py_ssize_t size) except -1
    # take(): *freed is how many of the bytes were in memory.
    cdef bytes take_bytes(self, Py_ssize_t size, Py_ssize_t* freed)
    # The same into memory of the caller's, that stays as above; returns the number of bytes.
    cdef Py_ssize_t take_into(self, uint8_t* p, Py_ssize_t size, Py_ssize_t* freed) except -1

    # Until it is called with NULL, what arrives at an empty body goes there first.
    cdef void aim(self, uint8_t* p, Py_ssize_t size) noexcept

    cdef int copy_in(self, const uint8_t* p, Py_ssize_t size) except -1
    cdef int add_chunk(self, Py_ssize_t need) except -1
    cdef int copy_out(self, uint8_t* p, Py_ssize_t size) except -1
    cdef int check_failure(self) except -1
    cdef int write_file(self, object data) except -1
    cdef int close_file(self) except -1


# content_length: -1 for None.
cdef Body new_body(int64_t content_length, int64_t max_file)
