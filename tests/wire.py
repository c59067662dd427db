"""Wire bytes for the tests: what a web server sends, what it makes of the answer, and a Peer
that does both over a socket. Built on the reference codec only, never on the code under test.
"""

import selectors
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import reference_codec as codec

from fastfcgi.constants import (
    ABORT_REQUEST,
    DATA,
    END_REQUEST,
    GET_VALUES,
    KEEP_CONN,
    MAX_CONTENT_LENGTH,
    PARAMS,
    RESPONDER,
    STDERR,
    STDIN,
    STDOUT,
)

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
# Where there is poll(): select() cannot take descriptors beyond 1023.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)

# A loaded machine is slow; a deadline only has to end a test that hangs.
DEADLINE = 30.0

Pairs = Mapping[str | bytes, str | bytes] | Iterable[tuple[str | bytes, str | bytes]]


def as_bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


def as_pairs(pairs: Pairs) -> list[tuple[bytes, bytes]]:
    items = pairs.items() if isinstance(pairs, Mapping) else pairs
    return [(as_bytes(name), as_bytes(value)) for name, value in items]


# ------------------------------------------------------------------- what a web server sends


def record(
    type: int, request_id: int, content: bytes = b"", padding: bytes = b"", version: int = 1
) -> bytes:
    """One record with any padding and any version."""
    header = codec.encode_header(type, request_id, len(content), len(padding))
    return bytes([version]) + header[1:] + content + padding


def begin_request(request_id: int, role: int = RESPONDER, keep_conn: bool = False) -> bytes:
    return codec.encode_begin_request(request_id, role, KEEP_CONN if keep_conn else 0)


def stream(
    type: int,
    request_id: int,
    data: bytes,
    record_sizes: int | Iterable[int] = MAX_CONTENT_LENGTH,
    end: bool = True,
) -> bytes:
    """A stream in records of the sizes given; the last size counts for all that is left.

    Args:
        record_sizes: Content lengths, one int for all records or one for each.
        end: Whether the empty record that ends the stream follows.
    """
    sizes = [record_sizes] if isinstance(record_sizes, int) else list(record_sizes)
    out = []
    while data:
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        out.append(codec.encode_record(type, request_id, data[:size]))
        data = data[size:]
    if end:
        out.append(codec.encode_record(type, request_id))
    return b"".join(out)


def params(
    request_id: int,
    pairs: Pairs,
    record_sizes: int | Iterable[int] = MAX_CONTENT_LENGTH,
    end: bool = True,
) -> bytes:
    return stream(PARAMS, request_id, codec.encode_pairs(as_pairs(pairs)), record_sizes, end)


def stdin(
    request_id: int,
    data: bytes = b"",
    record_sizes: int | Iterable[int] = MAX_CONTENT_LENGTH,
    end: bool = True,
) -> bytes:
    return stream(STDIN, request_id, data, record_sizes, end)


def data_stream(
    request_id: int,
    data: bytes = b"",
    record_sizes: int | Iterable[int] = MAX_CONTENT_LENGTH,
    end: bool = True,
) -> bytes:
    return stream(DATA, request_id, data, record_sizes, end)


def abort(request_id: int) -> bytes:
    return codec.encode_record(ABORT_REQUEST, request_id)


def get_values(*names: str | bytes) -> bytes:
    pairs = codec.encode_pairs((as_bytes(name), b"") for name in names)
    return codec.encode_record(GET_VALUES, 0, pairs)


def cgi_params(
    method: str = "GET", path: str = "/", query: str = "", **more: str | None
) -> dict[str, str]:
    """What every web server sends; `more` adds to it, or takes a name out with None."""
    all_params: dict[str, str | None] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "REQUEST_URI": f"{path}?{query}" if query else path,
        "SERVER_NAME": "www.example.org",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REMOTE_ADDR": "192.0.2.1",
        "HTTP_HOST": "www.example.org",
        **more,
    }
    return {name: value for name, value in all_params.items() if value is not None}


def request(
    request_id: int = 1,
    pairs: Pairs | None = None,
    body: bytes = b"",
    keep_conn: bool = False,
    role: int = RESPONDER,
    data: bytes | None = None,
) -> bytes:
    """A whole request. CONTENT_LENGTH is sent as it stands in `pairs`, never made up."""
    return (
        begin_request(request_id, role, keep_conn)
        + params(request_id, cgi_params() if pairs is None else pairs)
        + stdin(request_id, body)
        + (b"" if data is None else data_stream(request_id, data))
    )


# -------------------------------------------------------------- what it makes of the answer


@dataclass
class Output:
    """What came for one request_id."""

    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    stdout_ended: bool = False
    stderr_ended: bool = False
    app_status: int | None = None
    protocol_status: int | None = None

    @property
    def ended(self) -> bool:
        """Whether END_REQUEST came."""
        return self.protocol_status is not None

    def take(self, type: int, content: bytes) -> None:
        if self.ended:
            raise AssertionError(f"record of type {type} after END_REQUEST")
        if type == END_REQUEST:
            self.app_status, self.protocol_status = codec.decode_end_request(content)
        elif type == STDOUT:
            if self.stdout_ended:
                raise AssertionError("STDOUT after its end")
            self.stdout += content
            self.stdout_ended = not content
        elif type == STDERR:
            if self.stderr_ended:
                raise AssertionError("STDERR after its end")
            self.stderr += content
            self.stderr_ended = not content
        else:
            raise AssertionError(f"a web server is never sent a record of type {type}")


@dataclass
class Answers:
    """What a web server read from a connection, sorted by request_id."""

    outputs: dict[int, Output] = field(default_factory=dict)
    management: list[tuple[int, bytes]] = field(default_factory=list)
    reader: codec.RecordReader = field(default_factory=codec.RecordReader)

    def feed(self, data: bytes) -> None:
        for type, request_id, content in self.reader.feed(data):
            if request_id == 0:
                self.management.append((type, bytes(content)))
            else:
                self.outputs.setdefault(request_id, Output()).take(type, bytes(content))

    def __getitem__(self, request_id: int) -> Output:
        return self.outputs[request_id]


def parse_response(data: bytes) -> Answers:
    """Sort whole records by request_id.

    Raises:
        AssertionError: A record that may not be there, or one that is cut.
    """
    answers = Answers()
    answers.feed(data)
    if not answers.reader.at_border:
        raise AssertionError("the last record is cut")
    return answers


@dataclass
class Response:
    """The answer to one request.

    Attributes:
        status: The number of the Status header, 200 without one, None when no whole header came.
        headers: All other headers in their order, repeated ones repeated.
        ended: Whether END_REQUEST came.
        closed: Whether the server closed the connection within the exchange.
    """

    status: int | None
    headers: list[tuple[str, str]]
    body: bytes
    stderr: bytes
    app_status: int | None
    protocol_status: int | None
    ended: bool
    closed: bool

    def header(self, name: str) -> str | None:
        """The last value of a header, or None."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        return values[-1] if values else None


def parse_cgi(stdout: bytes) -> tuple[int | None, list[tuple[str, str]], bytes]:
    """(status, headers, body) of a CGI response (RFC 3875 section 6)."""
    head, found, body = stdout.partition(b"\r\n\r\n")
    if not found:
        return None, [], stdout
    status = 200
    headers = []
    for line in head.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if not colon:
            raise AssertionError(f"a header line without a colon: {line!r}")
        if name.lower() == "status":
            status = int(value.split()[0])
        else:
            headers.append((name, value.strip(" \t")))
    return status, headers, body


# ------------------------------------------------------------------------------------- Peer


class Peer:
    """A web server's end of a connection; blocking, every wait has a deadline.

    Args:
        address: Path of a unix socket ("\\0name": abstract), or (host, port).
        timeout: Seconds that any one wait may take.

    Attributes:
        answers: All that was read (see Answers).
        closed: The server closed the connection; reset: by a reset.
    """

    def __init__(self, address: str | tuple, timeout: float = DEADLINE) -> None:
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        else:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.timeout = timeout
        self.sock.settimeout(timeout)
        try:
            self.sock.connect(address)
        except BaseException:
            self.sock.close()
            raise
        self.sock.setblocking(False)
        self.answers = Answers()
        self.received = 0
        self.closed = self.reset = False

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def half_close(self) -> None:
        """Send nothing more; reading goes on."""
        self.sock.shutdown(socket.SHUT_WR)

    def send(self, data: bytes, timeout: float | None = None) -> None:
        """Send all of data, and read what comes meanwhile so that neither side waits for ever.

        Stops early when the server has closed the connection (see `closed`).
        """
        rest = memoryview(data)
        deadline = self._deadline(timeout)
        while rest and not self.closed:
            _, writable = self._wait(deadline, write=True)
            if writable:
                rest = rest[self._send_some(rest) :]

    def receive(self, until=None, timeout: float | None = None) -> Answers:
        """Read until `until(answers)` is true or the server has closed.

        Args:
            until: None reads to the close.

        Raises:
            TimeoutError: Neither happened in time.
        """
        deadline = self._deadline(timeout)
        while not self.closed and not (until is not None and until(self.answers)):
            self._wait(deadline)
        return self.answers

    def receive_end(self, request_id: int = 1, timeout: float | None = None) -> Response:
        """Read until END_REQUEST of a request, or the close."""

        def ended(answers: Answers) -> bool:
            output = answers.outputs.get(request_id)
            return output is not None and output.ended

        self.receive(ended, timeout)
        return self.response(request_id)

    def receive_close(self, timeout: float | None = None) -> bool:
        """Read until the server closes.

        Returns:
            Whether it closed in order, without a reset.
        """
        self.receive(None, timeout)
        return not self.reset

    def request(
        self,
        pairs: Pairs | None = None,
        body: bytes = b"",
        *,
        request_id: int = 1,
        keep_conn: bool = False,
        role: int = RESPONDER,
        data: bytes | None = None,
        timeout: float | None = None,
    ) -> Response:
        """Send a whole request and read its answer; without keep_conn also the close.

        With pairs None, CONTENT_LENGTH follows from the body.
        """
        if pairs is None:
            method = "POST" if body else "GET"
            pairs = cgi_params(method, CONTENT_LENGTH=str(len(body)))
        self.answers.outputs.pop(request_id, None)
        self.send(request(request_id, pairs, body, keep_conn, role, data), timeout)
        self.receive_end(request_id, timeout)
        if not keep_conn:
            self.receive_close(timeout)
        return self.response(request_id)

    def response(self, request_id: int = 1) -> Response:
        """What has come for a request so far."""
        output = self.answers.outputs.get(request_id, Output())
        status, headers, body = parse_cgi(bytes(output.stdout))
        return Response(
            status,
            headers,
            body,
            bytes(output.stderr),
            output.app_status,
            output.protocol_status,
            output.ended,
            self.closed,
        )

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self.timeout if timeout is None else timeout)

    def _wait(self, deadline: float, write: bool = False) -> tuple[bool, bool]:
        """Wait for the socket; what there is to read is read at once."""
        left = deadline - time.monotonic()
        with _Selector() as selector:
            selector.register(self.sock, READ | (WRITE if write else 0))
            events = selector.select(max(left, 0))
        if not events and left <= 0:
            raise TimeoutError(f"nothing in time; so far: {self.answers.outputs}")
        happened = events[0][1] if events else 0
        readable = bool(happened & READ)
        if readable:
            self._receive_some()
        return readable, bool(happened & WRITE)

    def _receive_some(self) -> None:
        try:
            data = self.sock.recv(1 << 18)
        except BlockingIOError:
            return
        except ConnectionError:
            self.closed = self.reset = True
            return
        self.received += len(data)
        self.closed = not data
        self.answers.feed(data)

    def _send_some(self, data: memoryview) -> int:
        try:
            return self.sock.send(data[: 1 << 18])
        except BlockingIOError:
            return 0
        except ConnectionError:
            # What the server sent before it closed may still be there to be read.
            while not self.closed:
                self._wait(time.monotonic() + self.timeout)
            return len(data)
