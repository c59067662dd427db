from libc.stdint cimport uint8_t

from fastfcgi.body cimport Body
from fastfcgi.connection cimport Connection
from fastfcgi.handler cimport Worker
from fastfcgi.request cimport Request, request_on
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
    cdef str hint(self, bytes begin)
    cdef int abort(self, Request request, bint end) except -1
    cdef int drop(self, Request request) except -1


# What a channel is told by the protocol's state of it, whatever the protocol.

cdef inline Request new_request_on(Channel channel):
    channel.unstarted += 1
    return request_on(channel)


cdef inline int take_request(Channel channel, Request request, dict params) except -1:
    """The params of a request are complete."""
    request.begin(params)
    channel.newest = request
    channel.params_since = -1.0  # others came later, and on a busy connection always do
    return 0


cdef inline Py_ssize_t take_input(
    Channel channel, Request request, int stream, const uint8_t* data, Py_ssize_t size
) except -1:
    """Part of a body has come; returns how many bytes of memory it does not take, or has freed."""
    cdef Body body = request.body_of(stream)
    request.input_at = channel.received_at
    cdef Py_ssize_t freed = size - body.append_bytes(data, size)
    if request.spooling:
        freed += request.spill(body)
    return freed
