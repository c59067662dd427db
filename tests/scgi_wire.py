"""What a web server sends over SCGI and what comes back, in plain Python: the oracle of the tests,
and a client that knows nothing of the code under test.
"""

import socket
from collections.abc import Iterable
from typing import Any

import wire

DEADLINE = wire.DEADLINE

MORE = "more"
Pairs = wire.Pairs


class Refused(Exception):
    """Where the oracle finds what is not allowed: the byte, or None for a limit."""

    def __init__(self, offset: int | None) -> None:
        super().__init__(offset)
        self.offset = offset


def netstring(content: bytes) -> bytes:
    return b"%d:%s," % (len(content), content)


def header(pairs: Pairs) -> bytes:
    """A header of just these pairs."""
    parts = (name + b"\0" + value + b"\0" for name, value in wire.as_pairs(pairs))
    return netstring(b"".join(parts))


def request(pairs: Pairs = (), body: bytes = b"", length: int | None = None) -> bytes:
    """A request with CONTENT_LENGTH (that of the body, or as told) and SCGI before these pairs."""
    size = len(body) if length is None else length
    first = [(b"CONTENT_LENGTH", b"%d" % size), (b"SCGI", b"1")]
    return header([*first, *wire.as_pairs(pairs)]) + body


def cgi_params(
    method: str = "GET", path: str = "/", query: str = "", **more: Any
) -> dict[str, str]:
    return wire.cgi_params(method, path, query, **more)


# ------------------------------------------------------------------------------- the oracle


def parse_header(
    data: bytes, max_bytes: int = 1 << 20, max_pairs: int = 1024
) -> tuple[int, dict[str, str], int] | str:
    """Bytes of the header, its entries and the length of the body; MORE when it is not whole.

    Raises:
        Refused: It is no header.
    """
    size = 0
    for pos, octet in enumerate(data):
        if octet == ord(":") and pos > 0:
            break
        if not chr(octet).isdigit() or octet > 127 or (pos == 1 and data[:1] == b"0"):
            raise Refused(pos)
        size = 10 * size + int(chr(octet))
        if size > max_bytes:
            raise Refused(None)
    else:
        return MORE
    start = pos + 1
    if size == 0:
        raise Refused(pos)
    if len(data) < start + size + 1:
        return MORE
    content = data[start : start + size]
    if data[start + size] != ord(","):
        raise Refused(start + size)
    if content[-1:] != b"\0":
        raise Refused(start + size - 1)
    length = _content_length(content, start)
    found = _entries(content, start, max_pairs)
    if found.get("SCGI") != "1":
        raise Refused(start + size)
    return start + size + 1, found, length


def _content_length(content: bytes, start: int) -> int:
    if not content.startswith(b"CONTENT_LENGTH\0"):
        raise Refused(start)
    text, end, _ = content[15:].partition(b"\0")
    if not end or not 0 < len(text) <= 18:
        raise Refused(start + 15)
    for pos, octet in enumerate(text):
        if octet not in b"0123456789":
            raise Refused(start + 15 + pos)
    return int(text)


def _entries(content: bytes, start: int, max_pairs: int) -> dict[str, str]:
    words = content[:-1].split(b"\0")
    found: dict[str, list[bytes]] = {}
    pos = start
    for number in range(0, len(words), 2):
        name, *value = words[number : number + 2]
        if not name or not value:
            raise Refused(pos)
        if number // 2 >= max_pairs:
            raise Refused(None)
        if name == b"CONTENT_LENGTH" and found.get("CONTENT_LENGTH", value) != value:
            raise Refused(pos)
        found.setdefault(name.decode("latin-1"), []).append(value[0])
        if name == b"CONTENT_LENGTH":
            del found["CONTENT_LENGTH"][1:]
        pos += len(name) + len(value[0]) + 2
    return {name: _joined(name, values).decode("latin-1") for name, values in found.items()}


def _joined(name: str, values: list[bytes]) -> bytes:
    if not name.startswith("HTTP_") or name == "HTTP_HOST":
        return values[-1]
    return (b"; " if name == "HTTP_COOKIE" else b", ").join(values)


# ------------------------------------------------------------------------------- the client


class Output:
    """A response: the bytes as they came, and whether the connection was reset after them."""

    def __init__(self, data: bytes, reset: bool) -> None:
        self.data = data
        self.reset = reset

    @property
    def status(self) -> int:
        status: int = wire.parse_cgi(self.data)[0]
        return status

    @property
    def headers(self) -> Any:
        return wire.parse_cgi(self.data)[1]

    @property
    def body(self) -> bytes:
        return wire.parse_cgi(self.data)[2]


class Peer:
    """One connection to a server; closes with the with block."""

    def __init__(self, address: Any) -> None:
        family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
        self.sock = socket.socket(family)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(address)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *error: object) -> None:
        self.sock.close()

    def send(self, *parts: bytes) -> None:
        self.sock.sendall(b"".join(parts))

    def read(self) -> Output:
        """All that comes, to the end of the connection."""
        data = []
        try:
            while block := self.sock.recv(1 << 18):
                data.append(block)
        except ConnectionResetError:
            return Output(b"".join(data), True)
        return Output(b"".join(data), False)


def ask(address: Any, pairs: Pairs, body: bytes = b"", parts: Iterable[bytes] = ()) -> Output:
    """The response to a request on a connection of its own.

    Args:
        parts: What is sent in the place of it.
    """
    with Peer(address) as peer:
        peer.send(*(list(parts) or [request(pairs, body)]))
        return peer.read()
