"""FastCGI servers that say exactly what a test wants to be said, and HTTP fronts before them."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import reference_codec as codec
import wire

from fastfcgi import constants
from fastfcgi.client import Address, Body, Client, Response
from fastfcgi.http_front import HTTPFront

PARAMS = wire.cgi_params()
HEADER = b"Status: 200 OK\r\nContent-Type: text/plain\r\n\r\n"
END = codec.encode_end_request(1, 0, constants.REQUEST_COMPLETE)


def stdout(data: bytes) -> bytes:
    return wire.stream(constants.STDOUT, 1, data, end=False)


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.reader = codec.RecordReader()
        self.records: list[tuple[int, int, bytes]] = []
        self.eof = False

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self, until: Callable[["Peer"], object]) -> None:
        """Read until the condition holds or the client has closed."""
        while not until(self) and not self.eof:
            try:
                data = self.sock.recv(65536)
            except ConnectionError:
                data = b""
            self.eof = not data
            self.records += [(t, i, bytes(c)) for t, i, c in self.reader.feed(data)]

    def receive_request(self) -> None:
        self.receive(Peer.has_request)

    def receive_close(self) -> None:
        self.receive(lambda peer: False)

    def has_request(self) -> bool:
        return (constants.STDIN, 1, b"") in self.records

    def stream(self, wanted: int) -> bytes:
        return b"".join(content for kind, _, content in self.records if kind == wanted)


Script = Callable[[Peer], None]


@contextlib.contextmanager
def scripted(script: Script, listener: socket.socket | None = None) -> Iterator[tuple[str, int]]:
    """A server that runs the script for one connection and then closes it; yields its address."""
    if listener is None:
        listener = socket.create_server(("127.0.0.1", 0))
    errors: list[BaseException] = []

    def serve() -> None:
        try:
            sock, _ = listener.accept()
            sock.settimeout(wire.DEADLINE)
            with sock:
                script(Peer(sock))
        except BaseException as error:
            errors.append(error)

    listener.settimeout(wire.DEADLINE)
    thread = threading.Thread(target=serve)
    with listener:
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            thread.join()
    if errors:
        raise errors[0]


def answering(*answer: bytes) -> Script:
    """Read the whole request, then send these bytes."""

    def script(peer: Peer) -> None:
        peer.receive_request()
        for part in answer:
            peer.send(part)

    return script


def fetch(script: Script, body: Body = b"", **options: Any) -> tuple[Response, bytes]:
    """A request to a scripted server; the whole response and its body."""
    with scripted(script) as address:
        response = Client(address, timeout=wire.DEADLINE).request(PARAMS, body, **options)
        return response, response.read()


# ----------------------------------------------------------------------------- the HTTP front

NOBODY = ("127.0.0.1", 1)


@contextlib.contextmanager
def front_of(address: Address, **options: object) -> Iterator[HTTPFront]:
    """A started front before a FastCGI address."""
    front = HTTPFront(("127.0.0.1", 0), address, **options)  # type: ignore[arg-type]
    front.start()
    try:
        yield front
    finally:
        front.stop()


@contextlib.contextmanager
def front_of_script(script: Script, **options: object) -> Iterator[HTTPFront]:
    """A front whose first request gets to a scripted peer."""
    with scripted(script) as address, front_of(address, **options) as front:
        yield front


@contextlib.contextmanager
def connected(front: HTTPFront) -> Iterator[socket.socket]:
    with socket.create_connection(front.server_address[:2], wire.DEADLINE) as sock:
        yield sock


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def exchange(front: HTTPFront, request: bytes) -> bytes:
    """All that comes for these bytes, up to the close."""
    with connected(front) as sock:
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


def status_of(response: bytes) -> int:
    return int(response.split(b" ", 2)[1])


def get(path: str = "/", *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: x", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")
