from fastfcgi.board cimport Board
from fastfcgi.handler cimport Buffer, Handler, Worker
from fastfcgi.loop cimport Loop
from fastfcgi.poller cimport Poller


cdef class Desk(Loop):
    cdef readonly int threads       # the most that run requests
    cdef readonly int queue_size
    cdef readonly Board board       # or None
    cdef Poller poller
    cdef list table                 # descriptor -> Handler
    cdef list buffers

    # Requests that wait for a thread.
    cdef Handler next_handler
    cdef object next_request
    cdef object more
    cdef long queued
    cdef long running
    cdef long total                 # threads

    cdef int set_mask(self, Handler handler, int mask, bint shared=*) except -1
    cdef int forget(self, Handler handler) except -1
    cdef Buffer borrow(self)
    cdef bint enqueue(self, Handler handler, object request) except -1
    cdef bint dequeue(self, Worker worker) except -1
    cdef bint is_taken(self) noexcept
