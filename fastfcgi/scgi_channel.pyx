# cython: language_level=3, freethreading_compatible=True
"""One accepted SCGI connection: a channel whose protocol is another, and which has one request."""

import logging

from libc.stdint cimport uint8_t

from fastfcgi._sys cimport ff_reset_at_close
from fastfcgi.active_request cimport ActiveRequest
from fastfcgi.channel cimport new_request_on, take_input, take_request
from fastfcgi.request cimport Request
from fastfcgi.service cimport Service
from fastfcgi.timeouts cimport TimedLine

from fastfcgi.exchange import describe

logger = logging.getLogger("fastfcgi")


cdef class ScgiLink(ScgiConnection):
    """The protocol's state of a channel; what it finds, the channel is told at once."""

    cdef ActiveRequest new_request(self):
        return new_request_on(self.channel)

    cdef int request_received(self, ActiveRequest request, dict params) except -1:
        return take_request(self.channel, <Request>request, params)

    cdef int input_received(
        self, ActiveRequest request, int stream, const uint8_t* data, Py_ssize_t size
    ) except -1:
        cdef Py_ssize_t freed = take_input(self.channel, <Request>request, stream, data, size)
        if freed:
            self.input_read(request, freed)
        return 0

    cdef int input_ended(self, ActiveRequest request, int stream) except -1:
        (<Request>request).body_of(stream).end()
        return 0

    cdef int emit_stream(
        self, int type, int request_id, bytes head, object data, Py_ssize_t max_content,
        int min_padding,
    ) except -1:
        if not (self.channel.lost or self.channel.lingering):
            self.channel.outbox.add_raw(head, data)
        return 0


cdef class ScgiChannel(Channel):
    """A connection of a web server that speaks SCGI. Its arguments are a Channel's."""

    cdef int open(self, Service service, Py_ssize_t fd, bint is_inet) except -1:
        cdef ScgiLink link = ScgiLink.__new__(ScgiLink)
        link.settings = service.settings
        link.channel = self
        self.connection = link
        return TimedLine.open(self, service, fd, is_inet)

    cdef str hint(self, bytes begin):
        if (<ScgiLink>self.connection).taken_in:
            return ""  # it was SCGI so far
        if begin[:1].isalpha():
            return "; that looks like HTTP, but SCGI is spoken here"
        if begin[:1] == b"\1":
            return "; that looks like FastCGI, but SCGI is spoken here"
        return ""

    cdef int at_eof(self) except -1:
        """The peer sends no more: of a request that is not whole, this is told."""
        cdef ScgiLink link = <ScgiLink>self.connection
        if not (self.lingering or self.lost):
            if link.header is not None:
                logger.warning(
                    "connection of %s closed: it ended within the header of a request",
                    self.peer_name(),
                )
            elif link.body_left and link.first is not None:
                logger.info(
                    "the body of a request ended %d bytes before its CONTENT_LENGTH: %s",
                    link.body_left,
                    describe(<Request>link.first),
                )
        return Channel.at_eof(self)

    cdef int finish_sending(self) except -1:
        """The end of a connection is the end of its response, so one that was given up has to be
        lost another way: a reset, where there is such a thing."""
        if (<ScgiLink>self.connection).abandoned:
            ff_reset_at_close(self.fd)
            self.lost = True
            return 0
        return TimedLine.finish_sending(self)

    cdef int let_go(self) except -1:
        self.newest = None
        if self.closed and self.connection.active == 0:
            (<ScgiLink>self.connection).channel = None
        return 0
