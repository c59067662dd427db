# cython: language_level=3, freethreading_compatible=True
"""The application's end of a FastCGI connection: what the records mean that come in, and which
ones may go out (FastCGI 1.0, sections 3 to 5).

Not thread-safe: whoever owns the socket calls it from one thread at a time.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t

from fastfcgi._codec cimport (
    ALIGNED_CONTENT,
    END_REQUEST_LEN,
    HEADER_LEN,
    MAX_TYPE,
    Part,
    RecordReader,
    TYPE_ABORT_REQUEST,
    TYPE_BEGIN_REQUEST,
    TYPE_GET_VALUES,
    TYPE_GET_VALUES_RESULT,
    TYPE_PARAMS,
    TYPE_STDERR,
    TYPE_STDOUT,
    TYPE_UNKNOWN_TYPE,
    size_of,
    write_end_request,
    write_header,
)
from fastfcgi._params cimport ParamsDecoder
from fastfcgi.active_request cimport (
    RECEIVING_DONE,
    RECEIVING_PARAMS,
    SENDING_ENDED,
    SENDING_OPEN,
    SEND_END_REQUEST,
    SEND_STDERR,
    SEND_STDOUT,
    SEND_STDOUT_END,
    receiving_after,
    sending_after,
)

from fastfcgi._codec import encode_record
from fastfcgi._pairs import decode_pairs, encode_pairs
from fastfcgi.exceptions import LimitExceeded, LocalProtocolError, RemoteProtocolError

cdef enum:
    KEEP_CONN = 1
    REQUEST_COMPLETE = 0
    CANT_MPX_CONN = 1
    OVERLOADED = 2
    UNKNOWN_ROLE = 3
    # Content of one STDERR record, and it is always padded, by 8 bytes rather than by none: HAProxy
    # 2.6 crashes over a record larger than its buffer of 16 KiB, and over one without padding.
    STDERR_SIZE = 8000

# Of a connection that is given no others.
cdef ConnectionSettings DEFAULTS = ConnectionSettings()


cdef class Endpoint:
    """Which requests of a connection are active, what has come in for them, and what goes out.

    A subclass overrides the methods that are told what has come in, and those that take the records
    that go out.

    Args:
        settings: What is the same for all connections of a server; or else
        limits: The arguments of ConnectionSettings.
    """

    def __cinit__(self):
        self.settings = DEFAULTS
        self.reader = RecordReader.__new__(RecordReader)

    def __init__(self, *, ConnectionSettings settings=None, **limits):
        if settings is None:
            settings = ConnectionSettings(**limits)
        elif limits:
            raise TypeError("either settings or limits, not both")
        self.settings = settings

    # ---- what the owner of the socket asks ------------------------------------------------

    cdef bint is_idle(self) noexcept:
        return self.active == 0 and self.reader.is_at_border()

    cdef bint is_paused(self) noexcept:
        if self.over_unread:
            return True
        return self.unread > 0 and self.unread + self.params_held >= self.settings.max_unread_total

    cdef bint is_awaiting_params(self) noexcept:
        if self.active == 0:
            return not self.reader.is_at_border()
        return self.awaiting_params_of > 0

    cdef bint is_to_close(self) noexcept:
        return self.closing and self.active == 0

    # ---- active requests ------------------------------------------------------------------

    cdef ActiveRequest find(self, int request_id):
        """The active request of an id, or None."""
        if self.first is not None and self.first.request_id == request_id:
            return self.first
        if self.others is None:
            return None
        return self.others.get(request_id)

    cdef ActiveRequest find_active(self, int request_id):
        cdef ActiveRequest request = self.find(request_id)
        if request is None:
            raise LocalProtocolError(f"request_id {request_id} is not active")
        return request

    cdef list active_requests(self):
        """All of them, in no order."""
        cdef list requests = [] if self.first is None else [self.first]
        if self.others:
            requests += self.others.values()
        return requests

    cdef int add_active(self, ActiveRequest request) except -1:
        if self.first is None:
            self.first = request
        else:
            if self.others is None:
                self.others = {}
            self.others[request.request_id] = request
        self.active += 1
        self.awaiting_params_of += 1
        return 0

    cdef int remove_active(self, ActiveRequest request) except -1:
        """A request is not active any more, whatever of it is still to come."""
        if self.first is request:
            self.first = None
        else:
            del self.others[request.request_id]
        self.active -= 1
        self.note_unread(request, -request.unread)
        self.set_over_unread(request, False)
        if request.receiving == RECEIVING_PARAMS:
            self.awaiting_params_of -= 1
            self.params_held -= request.decoder.total
            self.release_decoder(request)
        if request.receiving != RECEIVING_DONE:
            self.input_expected = True
        if not request.keep_conn:
            self.closing = True
        return 0

    cdef ParamsDecoder new_decoder(self):
        cdef ParamsDecoder decoder = self.spare
        cdef ConnectionSettings settings = self.settings
        if decoder is None:
            decoder = ParamsDecoder.__new__(ParamsDecoder)
            decoder.max_bytes = settings.max_params_bytes
            decoder.max_pairs = settings.max_params_pairs
            decoder.reserved = settings.reserved
            decoder.cache = settings.cache
            decoder.start = settings.start
        self.spare = None
        return decoder

    cdef void release_decoder(self, ActiveRequest request) noexcept:
        self.spare = request.decoder
        self.spare.reset()
        request.decoder = None

    # ---- in -------------------------------------------------------------------------------

    cdef void input_read(self, ActiveRequest request, Py_ssize_t size) noexcept:
        """So many bytes of its STDIN or DATA are read; it may have ended meanwhile."""
        if request.sending != SENDING_ENDED:
            self.note_unread(request, -size)

    cdef int receive(self, const uint8_t* p, Py_ssize_t size) except -1:
        """Take in bytes, cut anywhere, that stay where they are meanwhile.

        Raises:
            RemoteProtocolError: The peer broke the protocol or a limit (LimitExceeded); also after
                any exception of an earlier call, because what came with it is lost.
        """
        cdef Py_ssize_t pos = 0
        cdef Part part
        if self.broken:
            raise RemoteProtocolError("the stream of records was broken before")
        self.broken = True
        while self.reader.next_part(p, size, &pos, &part):
            self.receive_part(&part)
        self.broken = False
        return 0

    cdef int receive_part(self, const Part* part) except -1:
        cdef ActiveRequest request
        if part.request_id == 0:
            return self.receive_management(part)
        if part.type == TYPE_BEGIN_REQUEST:
            return self.begin_request(part)
        request = self.find(part.request_id)
        if request is None or part.type > MAX_TYPE:
            # For no active request it was sent before the peer saw our END_REQUEST: to be ignored
            # (spec 3.3).
            self.ignored_records += 1
            return 0
        if part.type == TYPE_ABORT_REQUEST:
            return self.receive_abort(request)
        return self.receive_stream(request, part)

    cdef int receive_management(self, const Part* part) except -1:
        cdef bytes answer
        if part.type == TYPE_GET_VALUES:
            known = self.settings.values
            content = PyBytes_FromStringAndSize(<const char*>part.content, part.length)
            asked = dict.fromkeys([name.decode("latin-1") for name, _ in decode_pairs(content)])
            answer = encode_record(
                TYPE_GET_VALUES_RESULT,
                0,
                encode_pairs(
                    [(name.encode(), known[name].encode()) for name in asked if name in known]
                ),
            )
        elif part.type in (TYPE_GET_VALUES_RESULT, TYPE_UNKNOWN_TYPE):
            # Answers to questions that an application never asks; no answer to an answer.
            self.ignored_records += 1
            return 0
        else:
            # Spec 4.2. An application record on request_id 0 is no known management record either.
            answer = encode_record(TYPE_UNKNOWN_TYPE, 0, bytes((part.type, 0, 0, 0, 0, 0, 0, 0)))
        return self.emit(<const uint8_t*>PyBytes_AS_STRING(answer), PyBytes_GET_SIZE(answer))

    cdef int begin_request(self, const Part* part) except -1:
        cdef ActiveRequest request
        cdef ConnectionSettings settings = self.settings
        cdef const uint8_t* body = part.content
        cdef int request_id = part.request_id, role
        cdef bint keep_conn
        if part.length != 8:
            raise RemoteProtocolError(f"BEGIN_REQUEST of {part.length} bytes, not 8 (spec 5.1)")
        if self.find(request_id) is not None:
            raise RemoteProtocolError(
                f"BEGIN_REQUEST for request_id {request_id}, which is active (spec 3.3)"
            )
        role = (body[0] << 8) | body[1]
        keep_conn = body[2] & KEEP_CONN
        if role >= 4 or not settings.served[role]:
            return self.refuse_request(request_id, keep_conn, UNKNOWN_ROLE)
        if self.active >= settings.max_requests or self.closing:
            return self.refuse_request(
                request_id, keep_conn, CANT_MPX_CONN if settings.max_requests == 1 else OVERLOADED
            )
        request = self.new_request()
        request.request_id = request_id
        request.role = role
        request.keep_conn = keep_conn
        request.decoder = self.new_decoder()
        return self.add_active(request)

    cdef int refuse_request(self, int request_id, bint keep_conn, int protocol_status) except -1:
        """Answer a request that never becomes active; the rest of it will be ignored."""
        cdef uint8_t record[END_REQUEST_LEN]
        write_end_request(record, request_id, 0, protocol_status)
        if not keep_conn:
            self.closing = True
            self.input_expected = True
        return self.emit(record, END_REQUEST_LEN)

    cdef int receive_abort(self, ActiveRequest request) except -1:
        if request.receiving == RECEIVING_PARAMS:
            # Nobody has seen it yet, so nobody else can end it (spec 5.4).
            return self.close_request(request, 0, REQUEST_COMPLETE)
        if request.abort_seen:
            return 0
        request.abort_seen = True
        return self.request_aborted(request)

    cdef int receive_stream(self, ActiveRequest request, const Part* part) except -1:
        cdef bint ended = part.length == 0
        cdef int stream = part.type
        cdef int after = receiving_after(request, stream, ended)
        if stream == TYPE_PARAMS:
            return self.receive_params(request, part, after)
        request.receiving = after
        if not ended:
            self.note_unread(request, part.length)
            return self.input_received(request, stream, part.content, part.length)
        if after == RECEIVING_DONE:
            # Nothing more of it will come, so there is nothing to pause for.
            self.set_over_unread(request, False)
        return self.input_ended(request, stream)

    cdef int receive_params(self, ActiveRequest request, const Part* part, int after) except -1:
        cdef ParamsDecoder decoder = request.decoder
        cdef Py_ssize_t most = self.settings.max_unread_total
        cdef dict params
        if part.length:
            decoder.feed_bytes(part.content, part.length)
            self.params_held += part.length
            if self.params_held > most:
                raise LimitExceeded(
                    f"more than max_unread_total={most} bytes of PARAMS on one connection"
                )
            return 0
        params = decoder.take()
        request.receiving = after
        self.awaiting_params_of -= 1
        self.params_held -= decoder.total
        self.release_decoder(request)
        return self.request_received(request, params)

    cdef void note_unread(self, ActiveRequest request, Py_ssize_t size) noexcept:
        """A request has so many more bytes unread, or fewer."""
        cdef bint over
        request.unread += size
        self.unread += size
        over = request.unread >= self.settings.max_unread_stdin
        if over == (size > 0):
            self.set_over_unread(request, over)

    cdef void set_over_unread(self, ActiveRequest request, bint over) noexcept:
        if over != request.over_unread:
            request.over_unread = over
            self.over_unread += 1 if over else -1

    # ---- in: to be overridden ---------------------------------------------------------------

    cdef ActiveRequest new_request(self):
        return ActiveRequest.__new__(ActiveRequest)

    cdef int request_received(self, ActiveRequest request, dict params) except -1:
        """A request began and its PARAMS are complete."""
        raise NotImplementedError

    cdef int input_received(
        self, ActiveRequest request, int stream, const uint8_t* data, Py_ssize_t size
    ) except -1:
        """Part of a request's STDIN or DATA, which stays at `data` until this returns."""
        raise NotImplementedError

    cdef int input_ended(self, ActiveRequest request, int stream) except -1:
        """The empty record that ends a request's STDIN or DATA."""
        raise NotImplementedError

    cdef int request_aborted(self, ActiveRequest request) except -1:
        """ABORT_REQUEST for a request that was reported before (spec 5.4)."""
        raise NotImplementedError

    # ---- out ------------------------------------------------------------------------------

    cdef int write_stdout(self, ActiveRequest request, bytes head, object data) except -1:
        """Part of the answer: head followed by data, either of which may be None."""
        sending_after(request, SEND_STDOUT)
        return self.emit_stream(
            TYPE_STDOUT, request.request_id, head, data, ALIGNED_CONTENT, 0
        )

    cdef int write_stderr(self, ActiveRequest request, object data) except -1:
        """Something for the web server's error log."""
        sending_after(request, SEND_STDERR)
        if size_of(data):
            self.emit_stream(TYPE_STDERR, request.request_id, None, data, STDERR_SIZE, 1)
            request.stderr_used = True
        return 0

    cdef int end_stdout(self, ActiveRequest request) except -1:
        """End the answer; the request stays active until it is closed."""
        cdef uint8_t record[HEADER_LEN]
        cdef int after = sending_after(request, SEND_STDOUT_END)
        write_header(record, TYPE_STDOUT, request.request_id, 0, 0)
        self.emit(record, HEADER_LEN)
        request.sending = after
        return 0

    cdef int close_request(
        self, ActiveRequest request, uint32_t app_status, int protocol_status
    ) except -1:
        """End a request, with statuses that fit their fields (spec 5.5). It is inactive then."""
        cdef uint8_t records[2 * HEADER_LEN + END_REQUEST_LEN]
        cdef uint8_t* p = records
        cdef int after = sending_after(request, SEND_END_REQUEST)
        if request.sending == SENDING_OPEN and protocol_status == REQUEST_COMPLETE:
            write_header(p, TYPE_STDOUT, request.request_id, 0, 0)
            p += HEADER_LEN
        if request.stderr_used:
            write_header(p, TYPE_STDERR, request.request_id, 0, 0)
            p += HEADER_LEN
        write_end_request(p, request.request_id, app_status, protocol_status)
        p += END_REQUEST_LEN
        self.emit(records, p - records)
        request.sending = after
        return self.remove_active(request)

    cdef int abandon_request(self, ActiveRequest request) except -1:
        """Give a request up without END_REQUEST, so that its answer cannot look complete."""
        request.sending = sending_after(request, SEND_END_REQUEST)
        self.closing = True
        return self.remove_active(request)

    # ---- out: to be overridden --------------------------------------------------------------

    cdef int emit(self, const uint8_t* p, Py_ssize_t size) except -1:
        """Whole small records, to be copied."""
        raise NotImplementedError

    cdef int emit_stream(
        self,
        int type,
        int request_id,
        bytes head,
        object data,
        Py_ssize_t max_content,
        int min_padding,
    ) except -1:
        """Records of a stream with head, or None, and then data, any contiguous buffer or None.

        Args:
            max_content: The most content of one record, in bytes.
            min_padding: The least padding of a record, in bytes.
        """
        raise NotImplementedError
