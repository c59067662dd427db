from cpython.pythread cimport PyThread_type_lock
from libc.stdint cimport uint8_t, uint64_t

from fastfcgi.board cimport Slot


cdef class Buffer:
    cdef uint8_t* memory


cdef class Worker:
    cdef PyThread_type_lock lock    # held while it is awake or has been called
    cdef unsigned long ident
    cdef int role
    cdef uint64_t seen              # the call that was running when it last looked
    cdef Handler handler            # whose request it runs
    cdef bint left                  # the poller is another thread's business by now
    cdef readonly object thread
    cdef Buffer buffer
    cdef Handler own_handler        # without a GIL: what it runs next
    cdef object own_request
    cdef Slot* slot                 # its place on the board, or NULL


cdef class Handler:
    cdef readonly Py_ssize_t fd
    cdef readonly int mask          # what it is watched for, -1 while the poller does not know it

    cdef int ready(self, int mask, Worker worker) except -1
    cdef double serve(self, object request) except -1
    cdef str path_of(self, object request)
    cdef int left_alone(self) except -1
    cdef int describe(self, object request, Slot* slot) except -1
