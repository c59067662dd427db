"""A synchronous FastCGI client: what a web server does, for one request at a time.

Every request has a connection of its own (no KEEP_CONN). A response is complete when END_REQUEST
has arrived; a connection that closes without it has cut the response: ResponseCut.

The body leaves and the response arrives on one thread. Both directions are polled together,
because an application may answer before it has read its body (spec 6.2); a client that only
sends until it is done would then wait for ever on a peer that waits for its reader.

What can go wrong is a ClientError below, or a RemoteProtocolError when the records are not right.
"""

import re
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from fastfcgi import _codec
from fastfcgi.constants import (
    END_REQUEST,
    NULL_REQUEST_ID,
    PARAMS,
    REQUEST_COMPLETE,
    RESPONDER,
    STDERR,
    STDIN,
    STDOUT,
)
from fastfcgi.exceptions import FastCGIError, RemoteProtocolError
from fastfcgi.request_body import Body, WaitableBody, blocks
from fastfcgi.sockets import parse_address

REQUEST_ID = 1
READ_SIZE = 65536
MAX_HEADER_BYTES = 65536
MAX_STDERR_BYTES = 1048576  # what is kept of STDERR; more than that is dropped

_HEADER_END = re.compile(rb"(?:\A|\r?\n)\r?\n")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_STATUS_NAMES = ("REQUEST_COMPLETE", "CANT_MPX_CONN", "OVERLOADED", "UNKNOWN_ROLE")


class ClientError(FastCGIError):
    """A request could not be made, or its response could not be had whole."""


class ConnectFailed(ClientError, ConnectionError):
    """Nothing listens at the address, or it may not be used."""


class RequestTimeout(ClientError, TimeoutError):
    """A timeout passed without a byte in either direction, or before the response was complete."""


class ResponseCut(ClientError, ConnectionError):
    """The connection ended before END_REQUEST: what has arrived is not the whole response."""


class RequestRefused(ClientError):
    """The peer ended the request without a response; protocol_status says why (spec 5.5)."""

    def __init__(self, protocol_status: int) -> None:
        name = dict(enumerate(_STATUS_NAMES)).get(protocol_status, "unknown")
        super().__init__(f"refused with protocol_status {protocol_status} ({name})")
        self.protocol_status = protocol_status


class BadResponse(ClientError):
    """STDOUT does not begin with a CGI response header (RFC 3875, section 6)."""


Address: TypeAlias = str | tuple[str, int]
Text: TypeAlias = str | bytes
Params: TypeAlias = Mapping[str, str] | Iterable[tuple[Text, Text]]


def _wait(reads: list[int], writes: list[int], timeout: float | None) -> tuple[set[int], set[int]]:
    """Wait for descriptors; returns those that can be read and those that can be written."""
    if not hasattr(select, "poll"):  # Windows
        readable, writable, _ = select.select(reads, writes, [], timeout)
        return set(readable), set(writable)
    poll = select.poll()
    for fd in {*reads, *writes}:
        events = (select.POLLIN if fd in reads else 0) | (select.POLLOUT if fd in writes else 0)
        poll.register(fd, events)
    found = poll.poll(None if timeout is None else timeout * 1000)
    # An error or a hang-up counts as both: the call that follows says what it is.
    trouble = select.POLLERR | select.POLLHUP | select.POLLNVAL
    readable = [fd for fd, events in found if fd in reads and events & (select.POLLIN | trouble)]
    writable = [fd for fd, events in found if fd in writes and events & (select.POLLOUT | trouble)]
    return set(readable), set(writable)


def preamble(role: int, params: Params, flags: int = 0) -> bytes:
    """BEGIN_REQUEST and the whole PARAMS stream."""
    items = params.items() if isinstance(params, Mapping) else params
    raw = [[t.encode("latin-1") if isinstance(t, str) else t for t in pair] for pair in items]
    pairs = _codec.encode_pairs((name, value) for name, value in raw)
    return b"".join(
        [
            _codec.encode_begin_request(REQUEST_ID, role, flags),
            *_codec.encode_stream(PARAMS, REQUEST_ID, pairs),
            _codec.encode_record(PARAMS, REQUEST_ID),
        ]
    )


def connect(address: Address, timeout: float | None = None) -> socket.socket:
    """Connect to a FastCGI server.

    Args:
        address: As in WSGIServer's bind: "unix:/path", "/path", "unix:@abstract", "host:port",
            "[::1]:port" or (host, port).
        timeout: Seconds; None waits as long as the system does.

    Raises:
        ConnectFailed: Nothing listens there, it may not be used, or it did not answer in time.
        ConfigurationError: The address is not in the notation.
    """
    parsed: tuple[Any, ...] = parse_address(address)
    family, target = parsed[0], parsed[-1]
    known = ("tcp", "unix") if hasattr(socket, "AF_UNIX") else ("tcp",)
    if family not in known:
        raise ConnectFailed(f"{address} is not an address to connect to")
    sock = None
    try:
        if family == "tcp":
            return socket.create_connection(target, timeout)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A full queue of a unix socket refuses a non-blocking connect at once, so the socket
        # blocks, and this option is what limits the wait.
        limit = struct.pack("@ll", *divmod(int((timeout or 0) * 1000000), 1000000))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        sock.connect(target)
        return sock
    except OSError as error:
        if sock is not None:
            sock.close()
        full = isinstance(error, BlockingIOError)
        why = "its queue of connections is full" if full else error.strerror or error
        raise ConnectFailed(f"no FastCGI server at {address}: {why}") from error


class _Exchange:
    """One request on one connection; step() moves bytes in whichever direction can move."""

    def __init__(
        self,
        preamble: bytes,
        body: Body,
        timeout: float | None,
        on_stderr: Callable[[bytes], None] | None,
        total_timeout: float | None = None,
    ) -> None:
        self._sock: socket.socket | None = None
        self._unsent = memoryview(preamble)
        self._source: Iterator[bytes | memoryview] | None = blocks(body)
        self._waitable = body if isinstance(body, WaitableBody) else None
        self._timeout = timeout
        self._total = total_timeout
        self._until = None if total_timeout is None else time.monotonic() + total_timeout
        self._reader = _codec.RecordReader()
        self._on_stderr = on_stderr
        self.stdout: deque[bytes] = deque()
        self.stderr = bytearray()
        self.ended: tuple[int, int] | None = None  # app_status, protocol_status

    def use(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
        self._sock = None
        self._source = self._waitable = None

    def next_block(self) -> bytes | None:
        """The next block of STDOUT; None after END_REQUEST. Any error closes the connection."""
        try:
            while not self.stdout and self.ended is None:
                self._step()
        except BaseException:
            self.close()
            raise
        if self.stdout:
            return self.stdout.popleft()
        self.close()
        return None

    def _step(self) -> None:
        if self._sock is None:
            raise ResponseCut("the response was closed before its end")
        here = self._sock.fileno()
        reads, writes = [here], []
        awaited = None if self._unsent else self._waitable
        if awaited is not None and not awaited.ready():
            reads.append(awaited.fileno())
        elif self._unsent or self._source is not None:
            writes.append(here)
        patience = self._patience()
        readable, writable = _wait(reads, writes, patience)
        if not readable and not writable:
            if patience == self._timeout:
                raise RequestTimeout(f"nothing moved for {patience:g} seconds")
            return  # next time the whole request has had its time
        # What arrives goes first: it may say that the rest of the body is not wanted.
        if here in readable:
            self._receive(self._sock)
        elif here in writable:
            self._send(self._sock)
        else:
            self._load()

    def _patience(self) -> float | None:
        """Seconds that may pass without a byte."""
        if self._until is None:
            return self._timeout
        left = self._until - time.monotonic()
        if left <= 0:
            raise RequestTimeout(f"no complete answer within {self._total:g} seconds")
        return left if self._timeout is None else min(left, self._timeout)

    def _load(self) -> None:
        """Take the next block of the body in; after the last one, the end of the stream."""
        if self._source is None:
            return
        for block in self._source:
            if len(block):  # an empty record would end the stream
                records = _codec.encode_stream(STDIN, REQUEST_ID, block)
                self._unsent = memoryview(b"".join(records))
                return
        self._unsent = memoryview(_codec.encode_record(STDIN, REQUEST_ID))
        self._source = self._waitable = None

    def _send(self, sock: socket.socket) -> None:
        if not self._unsent:
            self._load()
        try:
            sent = sock.send(self._unsent)
        except BlockingIOError:
            return
        except ConnectionError:
            # The peer reads no more, but what it wrote before may still be there to be read.
            self._unsent = memoryview(b"")
            self._source = self._waitable = None
            return
        self._unsent = self._unsent[sent:]

    def _receive(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except ConnectionError as error:
            raise ResponseCut(f"the connection broke before END_REQUEST: {error}") from error
        if not data:
            raise ResponseCut("the peer closed the connection before END_REQUEST")
        for record_type, request_id, content in self._reader.feed(data):
            if self.ended is None and request_id != NULL_REQUEST_ID:
                self._take(record_type, request_id, content)

    def _take(self, record_type: int, request_id: int, content: bytes | memoryview) -> None:
        if request_id != REQUEST_ID:
            raise RemoteProtocolError(f"a record of request_id {request_id}, which is not active")
        if record_type == STDOUT:
            if content:
                self.stdout.append(bytes(content))
        elif record_type == STDERR:
            self._take_stderr(bytes(content))
        elif record_type == END_REQUEST:
            self.ended = _codec.decode_end_request(content)
        else:
            raise RemoteProtocolError(f"a record of type {record_type} in a response")

    def _take_stderr(self, content: bytes) -> None:
        self.stderr += content[: MAX_STDERR_BYTES - len(self.stderr)]
        if content and self._on_stderr is not None:
            self._on_stderr(content)


def _read_header(exchange: _Exchange) -> tuple[bytes, bytes]:
    """The response header and what of the body came with it."""
    received = b""
    while True:
        block = exchange.next_block()
        if block is None:
            assert exchange.ended is not None
            if exchange.ended[1] != REQUEST_COMPLETE:
                raise RequestRefused(exchange.ended[1])
            raise BadResponse("the response has no complete header")
        received += block
        end = _HEADER_END.search(received)
        if end is not None and end.start() <= MAX_HEADER_BYTES:
            return received[: end.start()], received[end.end() :]
        if len(received) > MAX_HEADER_BYTES:
            raise BadResponse(f"the response header is longer than {MAX_HEADER_BYTES} bytes")


def _parse_header(raw: bytes) -> tuple[int, str, list[tuple[str, str]]]:
    """Status code, reason and the other headers of a CGI response, in their order."""
    headers = []
    status: str | None = None
    for line in raw.decode("latin-1").split("\n"):
        line = line.removesuffix("\r")
        name, colon, value = line.partition(":")
        if not line:
            continue
        if not colon or not _HEADER_NAME.match(name) or "\r" in value or "\0" in value:
            raise BadResponse(f"not a response header line: {line[:100]!r}")
        if name.lower() == "status":
            status = value.strip()
        else:
            headers.append((name, value.strip()))
    if status is None:
        # RFC 3875, 6.2.3: a Location on its own is a redirect.
        redirect = any(name.lower() == "location" for name, _ in headers)
        return (302, "Found", headers) if redirect else (200, "OK", headers)
    code, _, reason = status.partition(" ")
    if not re.fullmatch("[1-9][0-9][0-9]", code):
        raise BadResponse(f"not a status: {status[:100]!r}")
    return int(code), reason.strip(), headers


class Response:
    """A response whose body is still on its way: iterate it for the blocks as they come.

    Attributes:
        status: The status code, 100 to 999.
        reason: What stands after the code, may be empty.
        headers: (name, value) in their order, repeated ones repeated, without Status.

    Iterating raises ResponseCut, RequestTimeout or RemoteProtocolError when the rest of the body
    cannot be had; only a body that ended without an exception is whole.
    """

    def __init__(self, exchange: _Exchange, header: bytes, first: bytes) -> None:
        self.status, self.reason, self.headers = _parse_header(header)
        self._exchange = exchange
        if first:
            exchange.stdout.appendleft(first)

    @property
    def stderr(self) -> bytes:
        """What arrived on STDERR so far, up to 1 MiB of it."""
        return bytes(self._exchange.stderr)

    @property
    def app_status(self) -> int | None:
        """app_status of END_REQUEST; None until it arrived."""
        return self._exchange.ended[0] if self._exchange.ended else None

    @property
    def protocol_status(self) -> int | None:
        """protocol_status of END_REQUEST; None until it arrived."""
        return self._exchange.ended[1] if self._exchange.ended else None

    def header(self, name: str, default: str | None = None) -> str | None:
        """The first header of that name, in any case of letters."""
        return next((v for n, v in self.headers if n.lower() == name.lower()), default)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        block = self._exchange.next_block()
        if block is None:
            raise StopIteration
        return block

    def read(self) -> bytes:
        """The rest of the body as one piece; raises what iterating raises."""
        return b"".join(self)

    def close(self) -> None:
        """Hang up. Before the end this is how a client tells that it wants no more."""
        self._exchange.close()

    def __enter__(self) -> "Response":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Client:
    """Makes requests to one FastCGI server; may be used by several threads at once.

    Args:
        address: See connect().
        timeout: Seconds that may pass without a byte in either direction; None is without end.
        connect_timeout: Seconds for the connection itself.
        total_timeout: Seconds for all of a request, from connecting to the end of its response,
            however lively the peer is; None is without end.
    """

    def __init__(
        self,
        address: Address,
        *,
        timeout: float | None = 60.0,
        connect_timeout: float = 10.0,
        total_timeout: float | None = None,
    ) -> None:
        self.address = address
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self.total_timeout = total_timeout

    def request(
        self,
        params: Params,
        body: Body = b"",
        *,
        role: int = RESPONDER,
        on_stderr: Callable[[bytes], None] | None = None,
    ) -> Response:
        """Send a request; returns when the header of its response is there.

        Args:
            params: A mapping or (name, value) pairs, which may repeat a name. str is encoded as
                latin-1, the way of PEP 3333; bytes go out as they are.
            body: bytes, a binary file, an iterable of blocks, or a WaitableBody. The blocks of a
                plain iterable are asked for one at a time, and one that waits holds the response
                up; a WaitableBody does not. An exception it raises closes the connection.
            role: RESPONDER, AUTHORIZER or FILTER (the DATA stream of a filter is not sent).
            on_stderr: Called with each piece of STDERR as it arrives.

        Raises:
            ConnectFailed, RequestTimeout, ResponseCut, RequestRefused, BadResponse: See above.
            RemoteProtocolError: The peer does not speak FastCGI, or not by its rules.
            UnicodeEncodeError: A str of the params does not fit latin-1.
        """
        head = preamble(role, params)
        exchange = _Exchange(head, body, self.timeout, on_stderr, self.total_timeout)
        exchange.use(self._connect())
        try:
            return Response(exchange, *_read_header(exchange))
        except BaseException:
            exchange.close()
            raise

    def _connect(self) -> socket.socket:
        return connect(self.address, self.connect_timeout)


def request(address: Address, params: Params, body: Body = b"", timeout: float = 60) -> Response:
    """One request to an address; see Client and Client.request."""
    return Client(address, timeout=timeout).request(params, body)
