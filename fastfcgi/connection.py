"""One FastCGI connection of an application, without the socket: bytes in, events out; calls in,
buffers out (FastCGI 1.0, sections 3 to 5).

Not thread-safe: whoever owns the socket calls it from one thread at a time.
"""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final

from fastfcgi import constants
from fastfcgi._codec import (
    ParamsDecoder,
    RecordReader,
    decode_begin_request,
    decode_pairs,
    encode_end_request,
    encode_pairs,
    encode_record,
    encode_stream,
)
from fastfcgi.constants import (
    ABORT_REQUEST,
    AUTHORIZER,
    BEGIN_REQUEST,
    CANT_MPX_CONN,
    FILTER,
    GET_VALUES,
    GET_VALUES_RESULT,
    KEEP_CONN,
    MAX_TYPE,
    OVERLOADED,
    PARAMS,
    RECORD_NAMES,
    REQUEST_COMPLETE,
    RESPONDER,
    STDERR,
    STDOUT,
    UNKNOWN_ROLE,
    UNKNOWN_TYPE,
)
from fastfcgi.events import Event, InputEnded, InputReceived, RequestAborted, RequestReceived
from fastfcgi.exceptions import LimitExceeded, LocalProtocolError, RemoteProtocolError
from fastfcgi.states import RECEIVING, SENDING, Receiving, Send, Sending

if TYPE_CHECKING:
    from typing_extensions import Buffer

KIB: Final = 1024
MIB: Final = 1024 * KIB

# Every limit with the reason for its default. They bound what one peer can make us hold.
DEFAULT_MAX_PARAMS_BYTES: Final = 1 * MIB  # web servers take 8 to 72 KiB of request headers
DEFAULT_MAX_PARAMS_PAIRS: Final = 1024  # 25 are usual; Apache stops at 100 request headers
DEFAULT_MAX_REQUESTS: Final = 128  # HAProxy multiplexes 32 when told to, 1 by default
DEFAULT_MAX_UNREAD_STDIN: Final = 1 * MIB  # what arrives while an application does not read
DEFAULT_MAX_UNREAD_TOTAL: Final = 16 * MIB  # the same over all requests, and PARAMS under way


# Content of one STDERR record, and it is always padded, by 8 bytes rather than by none: HAProxy
# 2.6 crashes over a record larger than its buffer of 16 KiB, and over one without padding.
_STDERR_SIZE: Final = 8000


class _Request:
    """The state of one active request_id."""

    __slots__ = (
        "aborted",
        "keep_conn",
        "params",
        "receiving",
        "role",
        "sending",
        "stderr_used",
        "unread",
    )

    def __init__(self, role: int, keep_conn: bool, params: ParamsDecoder) -> None:
        self.role = role
        self.keep_conn = keep_conn
        self.params = params
        self.receiving = Receiving.PARAMS
        self.sending = Sending.OPEN
        self.aborted = False
        self.stderr_used = False
        self.unread = 0


class Connection:
    """The application's end of a FastCGI connection.

    Args:
        roles: The roles served; a request in another one is answered with UNKNOWN_ROLE.
        max_params_bytes: Bytes of PARAMS per request.
        max_params_pairs: Name-value pairs per request.
        max_requests: Requests active at once; one more is answered with OVERLOADED, or with
            CANT_MPX_CONN when it is 1.
        max_unread_stdin: Bytes of STDIN and DATA per request that were reported and not yet
            acknowledged, before `paused` turns true.
        max_unread_total: The same for all requests together, with the PARAMS under way.
        reserved: Params whose names begin with this are left out.
        values: What GET_VALUES is answered with: name -> value, both str.
    """

    def __init__(
        self,
        *,
        roles: Collection[int] = (RESPONDER,),
        max_params_bytes: int = DEFAULT_MAX_PARAMS_BYTES,
        max_params_pairs: int = DEFAULT_MAX_PARAMS_PAIRS,
        max_requests: int = DEFAULT_MAX_REQUESTS,
        max_unread_stdin: int = DEFAULT_MAX_UNREAD_STDIN,
        max_unread_total: int = DEFAULT_MAX_UNREAD_TOTAL,
        reserved: bytes = b"",
        values: Mapping[str, str] | None = None,
    ) -> None:
        unknown = set(roles) - {RESPONDER, AUTHORIZER, FILTER}
        if unknown:
            raise ValueError(f"no roles of FastCGI 1.0: {sorted(unknown)}")
        self._roles = frozenset(roles)
        self._max_params_bytes = max_params_bytes
        self._max_params_pairs = max_params_pairs
        self._max_requests = max_requests
        self._max_unread_stdin = max_unread_stdin
        self._max_unread_total = max_unread_total
        self._reserved = reserved
        self._values = dict(values or {})
        self._reader = RecordReader()
        self._requests: dict[int, _Request] = {}
        self._out: list[Buffer] = []
        self._unread = 0
        self._params_held = 0
        self._closing = False
        self._over_unread: set[int] = set()
        self.ignored_records = 0
        self.input_expected = False

    # ---- what the owner of the socket asks ------------------------------------------------

    @property
    def active(self) -> int:
        """How many requests are active: begun and not yet ended (spec 3.3)."""
        return len(self._requests)

    @property
    def idle(self) -> bool:
        """No request is active and no record has arrived in part."""
        return not self._requests and self._reader.at_border

    @property
    def paused(self) -> bool:
        """Too much was received that nobody has read: receive no more for now."""
        if self._over_unread:
            return True
        return self._unread > 0 and self._unread + self._params_held >= self._max_unread_total

    @property
    def awaiting_params(self) -> bool:
        """Something of a request has arrived, but not yet its whole PARAMS."""
        if not self._requests:
            return not self._reader.at_border
        return any(r.receiving is Receiving.PARAMS for r in self._requests.values())

    @property
    def should_close(self) -> bool:
        """The last answer is out and the web server did not ask to keep the connection
        (spec 3.5), or a request was abandoned. `input_expected` then tells whether the peer may
        still be sending."""
        return self._closing and not self._requests

    def is_active(self, request_id: int) -> bool:
        return request_id in self._requests

    # ---- in -------------------------------------------------------------------------------

    def receive_data(self, data: "Buffer", size: int = -1) -> list[Event]:
        """Take in the first `size` bytes of data (all when -1), cut anywhere.

        Returns the events in order. Answers that need no application (management records,
        refusals) wait in data_to_send().

        Raises:
            RemoteProtocolError: The peer broke the protocol or a limit (LimitExceeded). The
                connection is to be closed; no other exception comes from any input.
        """
        events: list[Event] = []
        for type_, request_id, content in self._reader.feed(data, size):
            if request_id == constants.NULL_REQUEST_ID:
                self._receive_management(type_, bytes(content))
            elif type_ == BEGIN_REQUEST:
                self._begin_request(request_id, content)
            elif (request := self._requests.get(request_id)) is None:
                # Sent before the peer saw our END_REQUEST: to be ignored (spec 3.3).
                self.ignored_records += 1
            elif type_ == ABORT_REQUEST:
                self._abort_request(request_id, request, events)
            elif type_ > MAX_TYPE:
                self.ignored_records += 1
            else:
                self._receive_stream(type_, request_id, request, content, events)
        return events

    def acknowledge(self, request_id: int, size: int) -> None:
        """`size` bytes of a request's STDIN or DATA are read and no longer held in memory."""
        request = self._requests.get(request_id)
        if request is None:
            return
        request.unread -= size
        self._unread -= size
        if request.unread < self._max_unread_stdin:
            self._over_unread.discard(request_id)

    def _receive_management(self, type_: int, content: bytes) -> None:
        if type_ == GET_VALUES:
            known = self._values
            asked = dict.fromkeys(name.decode("latin-1") for name, _ in decode_pairs(content))
            result = encode_pairs(
                [(name.encode(), known[name].encode()) for name in asked if name in known]
            )
            self._out.append(encode_record(GET_VALUES_RESULT, 0, result))
        elif type_ in (GET_VALUES_RESULT, UNKNOWN_TYPE):
            # Answers to questions that an application never asks; no answer to an answer.
            self.ignored_records += 1
        else:
            # Spec 4.2. An application record on request_id 0 is no known management record either.
            body = bytes((type_, 0, 0, 0, 0, 0, 0, 0))
            self._out.append(encode_record(UNKNOWN_TYPE, 0, body))

    def _begin_request(self, request_id: int, content: "Buffer") -> None:
        role, flags = decode_begin_request(content)
        if request_id in self._requests:
            raise RemoteProtocolError(
                f"BEGIN_REQUEST for request_id {request_id}, which is active (spec 3.3)"
            )
        keep_conn = bool(flags & KEEP_CONN)
        if role not in self._roles:
            self._refuse(request_id, keep_conn, UNKNOWN_ROLE)
        elif len(self._requests) >= self._max_requests or self._closing:
            status = CANT_MPX_CONN if self._max_requests == 1 else OVERLOADED
            self._refuse(request_id, keep_conn, status)
        else:
            decoder = ParamsDecoder(self._max_params_bytes, self._max_params_pairs, self._reserved)
            self._requests[request_id] = _Request(role, keep_conn, decoder)

    def _refuse(self, request_id: int, keep_conn: bool, protocol_status: int) -> None:
        """Answer a request that never becomes active; the rest of it will be ignored."""
        self._out.append(encode_end_request(request_id, 0, protocol_status))
        if not keep_conn:
            self._closing = True
            self.input_expected = True

    def _abort_request(self, request_id: int, request: _Request, events: list[Event]) -> None:
        if request.receiving is Receiving.PARAMS:
            # Nobody has seen it yet, so nobody else can end it (spec 5.4).
            self.end_request(request_id)
        elif not request.aborted:
            request.aborted = True
            events.append(RequestAborted(request_id))

    def _receive_stream(
        self,
        type_: int,
        request_id: int,
        request: _Request,
        content: bytes | memoryview,
        events: list[Event],
    ) -> None:
        ended = not content
        try:
            request.receiving = RECEIVING[request.role][request.receiving, type_, ended]
        except KeyError:
            raise RemoteProtocolError(
                f"{RECORD_NAMES.get(type_, type_)} for request_id {request_id} while its"
                f" {request.receiving.value} is next (spec 6)"
            ) from None
        if type_ == PARAMS:
            self._receive_params(request_id, request, content, events)
        elif ended:
            if request.receiving is Receiving.DONE:
                # Nothing more of it will come, so there is nothing to pause for.
                self._over_unread.discard(request_id)
            events.append(InputEnded(request_id, type_))
        else:
            size = len(content)
            request.unread += size
            self._unread += size
            if request.unread >= self._max_unread_stdin:
                self._over_unread.add(request_id)
            events.append(InputReceived(request_id, type_, content))

    def _receive_params(
        self,
        request_id: int,
        request: _Request,
        content: bytes | memoryview,
        events: list[Event],
    ) -> None:
        if content:
            request.params.feed(content)
            self._params_held += len(content)
            if self._params_held > self._max_unread_total:
                raise LimitExceeded(
                    f"more than max_unread_total={self._max_unread_total} bytes of PARAMS"
                    " on one connection"
                )
        else:
            self._params_held -= request.params.received
            params = request.params.finish()
            events.append(RequestReceived(request_id, request.role, request.keep_conn, params))

    # ---- out ------------------------------------------------------------------------------

    def send_stdout(self, request_id: int, data: "Buffer") -> None:
        """Part of the answer. Empty data sends nothing: the stream ends by end_request.

        Raises:
            LocalProtocolError: request_id is not active or its STDOUT is closed.
        """
        self._advance(request_id, Send.STDOUT)
        self._out += encode_stream(STDOUT, request_id, data)

    def send_stderr(self, request_id: int, data: "Buffer") -> None:
        """Something for the web server's error log.

        Raises:
            LocalProtocolError: request_id is not active.
        """
        request = self._advance(request_id, Send.STDERR)
        buffers = encode_stream(STDERR, request_id, data, _STDERR_SIZE, min_padding=1)
        if buffers:
            request.stderr_used = True
            self._out += buffers

    def close_stdout(self, request_id: int) -> None:
        """End the answer; the request stays active until end_request.

        Raises:
            LocalProtocolError: request_id is not active or its STDOUT is closed.
        """
        self._advance(request_id, Send.STDOUT_END)
        self._out.append(encode_record(STDOUT, request_id))

    def end_request(
        self, request_id: int, app_status: int = 0, protocol_status: int = REQUEST_COMPLETE
    ) -> None:
        """End a request: its open streams, then END_REQUEST (spec 5.5). It is inactive then.

        Raises:
            LocalProtocolError: request_id is not active.
            ValueError, OverflowError: app_status has more than four bytes, protocol_status more
                than one; nothing was sent.
        """
        request = self._active(request_id)
        end = encode_end_request(request_id, app_status, protocol_status)
        if request.sending is Sending.OPEN and protocol_status == REQUEST_COMPLETE:
            self.close_stdout(request_id)
        if request.stderr_used:
            self._out.append(encode_record(STDERR, request_id))
        self._advance(request_id, Send.END_REQUEST)
        self._out.append(end)
        self._forget(request_id)

    def abandon(self, request_id: int) -> None:
        """Give a request up without END_REQUEST, so that its answer cannot look complete. The
        connection closes as soon as no other request is active on it.

        Raises:
            LocalProtocolError: request_id is not active.
        """
        self._advance(request_id, Send.END_REQUEST)
        self._forget(request_id)
        self._closing = True

    def close_when_idle(self) -> None:
        """Begin no further request; should_close turns true after the last active one."""
        self._closing = True

    def data_to_send(self) -> "list[Buffer]":
        """The buffers to write next, in order, as sendmsg takes them; each is given out once.

        Large data given to send_stdout is among them uncopied and must not change before it
        is written.
        """
        buffers, self._out = self._out, []
        return buffers

    def _active(self, request_id: int) -> _Request:
        request = self._requests.get(request_id)
        if request is None:
            raise LocalProtocolError(f"request_id {request_id} is not active")
        return request

    def _advance(self, request_id: int, what: Send) -> _Request:
        request = self._active(request_id)
        try:
            request.sending = SENDING[request.sending, what]
        except KeyError:
            raise LocalProtocolError(
                f"{what.value} for request_id {request_id} whose answer is {request.sending.value}"
            ) from None
        return request

    def _forget(self, request_id: int) -> None:
        request = self._requests.pop(request_id)
        self._over_unread.discard(request_id)
        if request.receiving is Receiving.PARAMS:
            self._params_held -= request.params.received
        self._unread -= request.unread
        if request.receiving is not Receiving.DONE:
            self.input_expected = True
        if not request.keep_conn:
            self._closing = True
