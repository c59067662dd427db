# cython: language_level=3, freethreading_compatible=True
"""One FastCGI connection of an application, without the socket: bytes in, events out; calls in,
buffers out (FastCGI 1.0, sections 3 to 5).

What it does stands in endpoint; here is what Python sees of it. A subclass in Cython overrides what
is called for each event, and where records go, and then no event and no list is made.

Not thread-safe: whoever owns the socket calls it from one thread at a time.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t

from fastfcgi._codec cimport size_of, stream_buffers
from fastfcgi.active_request cimport ActiveRequest

from fastfcgi.events import InputEnded, InputReceived, RequestAborted, RequestReceived
from fastfcgi.connection_settings import ConnectionSettings

__all__ = ["Connection", "ConnectionSettings"]


cdef class Connection(Endpoint):
    """The application's end of a FastCGI connection.

    Args:
        settings: What is the same for all connections of a server; or else
        limits: The arguments of ConnectionSettings.

    Attributes:
        active: How many requests are active: begun and not yet ended (spec 3.3).
        unread: Bytes of STDIN and DATA that were reported and not yet acknowledged.
        ignored_records: How many parts of records meant nothing and were passed over.
        input_expected: The peer may still be sending for a request that has ended.
    """

    # ---- what the owner of the socket asks ------------------------------------------------

    @property
    def idle(self):
        """No request is active and no record has arrived in part."""
        return self.is_idle()

    @property
    def paused(self):
        """Too much was received that nobody has read: receive no more for now."""
        return self.is_paused()

    @property
    def awaiting_params(self):
        """Something of a request has arrived, but not yet its whole PARAMS."""
        return self.is_awaiting_params()

    @property
    def should_close(self):
        """The last answer is out and the web server did not ask to keep the connection
        (spec 3.5), or a request was abandoned. `input_expected` then tells whether the peer may
        still be sending."""
        return self.is_to_close()

    def is_active(self, int request_id):
        return self.find(request_id) is not None

    # ---- in -------------------------------------------------------------------------------

    def receive_data(self, data, Py_ssize_t size=-1):
        """Take in the first `size` bytes of data (all when -1), cut anywhere.

        Returns the events in order. Answers that need no application (management records,
        refusals) wait in data_to_send().

        Raises:
            RemoteProtocolError: The peer broke the protocol or a limit (LimitExceeded). The
                connection is to be closed; no other exception comes from any input.
        """
        cdef Py_buffer view
        cdef list events = []
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if size < 0:
                size = view.len
            elif size > view.len:
                raise ValueError("size is more than the data holds")
            self.events, self.data, self.base = events, data, <const uint8_t*>view.buf
            self.receive(self.base, size)
            return events
        finally:
            self.events = self.data = self.view = None
            self.base = NULL
            PyBuffer_Release(&view)

    def acknowledge(self, int request_id, Py_ssize_t size):
        """`size` bytes of a request's STDIN or DATA are read and no longer held in memory."""
        cdef ActiveRequest request = self.find(request_id)
        if request is not None:
            self.input_read(request, size)

    cdef int request_received(self, ActiveRequest request, dict params) except -1:
        self.events.append(
            RequestReceived(request.request_id, request.role, request.keep_conn, params)
        )
        return 0

    cdef int input_received(
        self, ActiveRequest request, int stream, const uint8_t* data, Py_ssize_t size
    ) except -1:
        cdef Py_ssize_t start = data - self.base
        if self.view is None:
            self.view = memoryview(self.data)
            self.view = self.view.cast("B")
        part = self.view[start:start + size]
        self.events.append(InputReceived(request.request_id, stream, part))
        return 0

    cdef int input_ended(self, ActiveRequest request, int stream) except -1:
        self.events.append(InputEnded(request.request_id, stream))
        return 0

    cdef int request_aborted(self, ActiveRequest request) except -1:
        self.events.append(RequestAborted(request.request_id))
        return 0

    # ---- out ------------------------------------------------------------------------------

    def send_stdout(self, int request_id, data, bytes head=None):
        """Part of the answer. Empty data sends nothing: the stream ends by end_request.

        Args:
            data: Any contiguous buffer.
            head: What comes before data, in the same record if both have room there.

        Raises:
            LocalProtocolError: request_id is not active or its STDOUT is closed.
        """
        size_of(data)               # None is no buffer
        self.write_stdout(self.find_active(request_id), head, data)

    def send_stderr(self, int request_id, data):
        """Something for the web server's error log.

        Raises:
            LocalProtocolError: request_id is not active.
        """
        self.write_stderr(self.find_active(request_id), data)

    def close_stdout(self, int request_id):
        """End the answer; the request stays active until end_request.

        Raises:
            LocalProtocolError: request_id is not active or its STDOUT is closed.
        """
        self.end_stdout(self.find_active(request_id))

    def end_request(self, int request_id, uint32_t app_status=0, int protocol_status=0):
        """End a request: its open streams, then END_REQUEST (spec 5.5). It is inactive then.

        Raises:
            LocalProtocolError: request_id is not active.
            ValueError, OverflowError: app_status has more than four bytes, protocol_status more
                than one; nothing was sent.
        """
        cdef ActiveRequest request = self.find_active(request_id)
        if not 0 <= protocol_status <= 255:
            raise ValueError("protocol_status is one byte")
        self.close_request(request, app_status, protocol_status)

    def abandon(self, int request_id):
        """Give a request up without END_REQUEST, so that its answer cannot look complete. The
        connection closes as soon as no other request is active on it.

        Raises:
            LocalProtocolError: request_id is not active.
        """
        self.abandon_request(self.find_active(request_id))

    def close_when_idle(self):
        """Begin no further request; should_close turns true after the last active one."""
        self.closing = True

    def data_to_send(self):
        """The buffers to write next, in order, as sendmsg takes them; each is given out once.

        Large data given to send_stdout is among them uncopied and must not change before it
        is written.
        """
        buffers = self.out
        self.out = None
        return [] if buffers is None else buffers

    cdef int emit(self, const uint8_t* p, Py_ssize_t size) except -1:
        if self.out is None:
            self.out = []
        self.out.append(PyBytes_FromStringAndSize(<const char*>p, size))
        return 0

    cdef int emit_stream(
        self,
        int type,
        int request_id,
        bytes head,
        object data,
        Py_ssize_t max_content,
        int min_padding,
    ) except -1:
        if self.out is None:
            self.out = []
        self.out += stream_buffers(type, request_id, head, data, max_content, min_padding)
        return 0
