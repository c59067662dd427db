from fastfcgi.connection cimport Connection
from fastfcgi.handler cimport Worker
from fastfcgi.request cimport Request
from fastfcgi.timeouts cimport TimedLine


cdef class Link(Connection):
    cdef Channel channel


cdef class Channel(TimedLine):
    cdef Request newest
    cdef int unstarted              # requests whose application has not been started

    cdef int give_away(self) except -1
    cdef bint is_alone(self) noexcept
    cdef int start_requests(self, Worker worker) except -1
    cdef int start(self, Request request, bint paused, Worker worker) except -1
    cdef int refuse(self, Request request) except -1
    cdef int refuse_peer(self, error, bytes begin) except -1
    cdef int abort(self, Request request, bint end) except -1
    cdef int drop(self, Request request) except -1
