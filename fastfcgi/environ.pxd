from libc.stdint cimport int64_t


# CONTENT_LENGTH as a number of bytes, -1 where content_length_of() says None.
cdef int64_t content_length(dict params) except -2
cpdef object complete_environ(dict environ, object override=*)
cdef bint mount_path(dict environ, str mount) except -1
