# cython: language_level=3, freethreading_compatible=True
"""One SCGI connection of an application, without the socket: the same bytes-to-events as connection
for the one request of which such a connection consists (https://python.ca/scgi/protocol.txt).

To whoever serves it, it is a FastCGI connection with one request of request_id 1 that is not kept;
what would be STDERR goes nowhere.

Not thread-safe: whoever owns the socket calls it from one thread at a time.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from fastfcgi._codec cimport TYPE_STDIN, size_of
from fastfcgi.active_request cimport (
    RECEIVING_DONE,
    RECEIVING_STDIN,
    SEND_END_REQUEST,
    SEND_STDERR,
    SEND_STDOUT_END,
    sending_after,
)

from fastfcgi import constants
from fastfcgi.exceptions import RemoteProtocolError

cdef int RESPONDER = constants.RESPONDER


cdef class ScgiConnection(Connection):
    """The application's end of an SCGI connection.

    Args:
        settings: As those of Connection; of its limits, those of PARAMS are the header's.
        limits: As those of Connection.

    Attributes:
        body_left: Bytes of the body that are to come.
        abandoned: The response was given up; the connection is to end so that it cannot look
            complete, as far as the socket can do that.
    """

    # ---- what the owner of the socket asks ------------------------------------------------

    cdef bint is_idle(self) noexcept:
        return self.active == 0 and self.header is None

    cdef bint is_awaiting_params(self) noexcept:
        return self.header is not None

    # ---- in -------------------------------------------------------------------------------

    cdef int receive(self, const uint8_t* p, Py_ssize_t size) except -1:
        """Take in bytes, cut anywhere, that stay where they are meanwhile.

        Raises:
            RemoteProtocolError: The peer broke the protocol or a limit (LimitExceeded); also after
                any exception of an earlier call, because what came with it is lost.
        """
        cdef Py_ssize_t used = 0
        cdef HeaderReader header
        cdef dict params
        if self.broken:
            raise RemoteProtocolError("the connection was broken before")
        if size == 0:
            return 0
        self.broken = True
        if not self.begun:
            self.begun = True
            self.header = HeaderReader.__new__(HeaderReader)
            self.header.decoder = self.new_decoder()
        header = self.header
        if header is not None:
            params = header.feed_bytes(p, size, &used)
            self.taken_in += used
            if params is not None:
                self.header = None
                self.begin(params, header.content_length)
        self.receive_body(p + used, size - used)
        self.broken = False
        return 0

    cdef int begin(self, dict params, int64_t content_length) except -1:
        """The header is complete."""
        cdef ActiveRequest request = self.new_request()
        request.request_id = 1
        request.role = RESPONDER
        self.add_active(request)
        self.awaiting_params_of -= 1
        request.receiving = RECEIVING_STDIN
        self.body_left = content_length
        self.request_received(request, params)
        return 0 if content_length else self.end_input(request)

    cdef int receive_body(self, const uint8_t* p, Py_ssize_t size) except -1:
        cdef Py_ssize_t part = <Py_ssize_t>min(<int64_t>size, self.body_left)
        cdef ActiveRequest request = self.first
        self.taken_in += part
        if part:
            self.body_left -= part
            if request is not None:  # else it was answered before its body had come
                self.note_unread(request, part)
                self.input_received(request, TYPE_STDIN, p, part)
                if self.body_left == 0:
                    self.end_input(request)
        if size > part:
            raise RemoteProtocolError(
                f"{size - part} bytes after the body, which ends at CONTENT_LENGTH (SCGI)",
                self.taken_in,
            )
        return 0

    cdef int end_input(self, ActiveRequest request) except -1:
        request.receiving = RECEIVING_DONE
        # Nothing more of it will come, so there is nothing to pause for.
        self.set_over_unread(request, False)
        return self.input_ended(request, TYPE_STDIN)

    # ---- out ------------------------------------------------------------------------------

    cdef int write_stderr(self, ActiveRequest request, object data) except -1:
        """Nothing: SCGI has no stream for it."""
        sending_after(request, SEND_STDERR)
        return 0

    cdef int end_stdout(self, ActiveRequest request) except -1:
        request.sending = sending_after(request, SEND_STDOUT_END)
        return 0

    cdef int close_request(
        self, ActiveRequest request, uint32_t app_status, int protocol_status
    ) except -1:
        """End the request; the end of the connection will tell the web server."""
        request.sending = sending_after(request, SEND_END_REQUEST)
        return self.remove_active(request)

    cdef int abandon_request(self, ActiveRequest request) except -1:
        self.abandoned = True
        return Connection.abandon_request(self, request)

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
        if head:
            self.out.append(head)
        if data is not None and size_of(data):
            self.out.append(data)
        return 0
