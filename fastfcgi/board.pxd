from cpython.buffer cimport Py_buffer
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    TEXT_SIZE = 200             # bytes of a running request's text


cdef struct Head:
    uint64_t layout             # 0 in memory that nobody has used yet
    int64_t pid
    int64_t generation
    int64_t state
    double started
    long queued
    # Counters: added to by any thread, with ff_add.
    long connections
    long aborted
    long errors
    long slow


cdef struct Slot:
    # One thread's, written by it alone.
    int64_t requests            # that it has finished
    double since                # when the present one began, 0 while there is none
    uint64_t thread
    int64_t number              # of the present one
    uint32_t length             # of its text
    char[TEXT_SIZE] text


cdef class Board:
    cdef object __weakref__
    cdef readonly Py_ssize_t threads
    cdef object memory
    cdef Py_buffer view
    cdef bint held              # the view is ours to release
    cdef Head* head
    cdef char* slots

    cdef Slot* slot(self, Py_ssize_t index) noexcept


# Say what a thread begins to run. A text that is None, or not latin-1, is left out.
cdef int write_text(Slot* slot, object method, object path, object more, object query) noexcept
