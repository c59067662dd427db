cimport cython
from libc.stdint cimport int64_t

from fastfcgi.exchange cimport Exchange


@cython.final
cdef class ErrorStream:
    cdef Exchange request
    cdef object tee
    cdef list pending
    cdef Py_ssize_t size

    cdef int send(self) except -1


@cython.final
cdef class Response:
    cdef Exchange request
    cdef bytes head
    cdef int64_t content_length     # -1 where there is none
    cdef int64_t remaining          # bytes of it that are to come, -1 for any number
    cdef int64_t added_length       # the Content-Length that the application left out, or -1
    cdef bint is_head, never_body, no_body, too_long
    cdef readonly bint header_sent

    cdef int send(self, object block, bint last) except -1
    cdef int send_data(self, object data, Py_ssize_t size, bint last) except -1
    cdef int send_only(self, object block) except -1
    cdef bint finish(self, bint empty) except -1
    cdef bint done(self) noexcept
    cdef int add_length(self, int64_t length) except -1
    cdef object clip(self, object data, Py_ssize_t size)
    cdef bytes take_head(self)


@cython.final
cdef class Gateway:
    cdef readonly object application
    cdef public bint debug
    cdef object environ, error_page
    cdef dict constants
    cdef bint protects          # these from entries of `environ`
    cdef bint tee_errors
    cdef bint names_requests
    cdef str mount              # or None
    cdef bint told_of_mount     # that a path was not below it

    cpdef object handle(self, Exchange request)
    cpdef object send_error_page(self, Exchange request)
    cdef dict environ_of(self, Exchange request, ErrorStream errors)
    cdef bint run(self, dict environ, Response response) except -1
    cdef bint refuse_path(self, Exchange request, Response response) except -1
    cdef int failed(self, Exchange request, Response response, ErrorStream errors) except -1
