"""flup.client.scgi_app: a WSGI application in front of an SCGI server."""

import socket
from collections.abc import Iterator
from typing import Any

from fastfcgi.client import (
    _HEADER_END,
    MAX_HEADER_BYTES,
    READ_SIZE,
    BadResponse,
    RequestTimeout,
    ResponseCut,
    _parse_header,
    _wait,
)
from fastfcgi.exceptions import LocalProtocolError
from fastfcgi.flup._version import attribute
from fastfcgi.flup.client.forwarding import Answer, Forwarder, body_of, length_of, one_address

__all__ = ["SCGIApp"]

__getattr__ = attribute


def _request_head(params: dict[str, str], length: int) -> bytes:
    """The netstring that a request begins with: CONTENT_LENGTH first, SCGI=1 among the others.

    Raises:
        LocalProtocolError: A NUL, which ends names and values. Whoever asks for "/%00NAME%00VALUE"
            would set what is the web server's to say, REMOTE_USER for example.
    """
    params = {"CONTENT_LENGTH": str(length), "SCGI": "1"} | {
        name: value for name, value in params.items() if name not in ("CONTENT_LENGTH", "SCGI")
    }
    for name, value in params.items():
        if "\0" in f"{name}{value}":
            raise LocalProtocolError(f"SCGI cannot send a NUL, and {name!r} has one")
    text = "".join(f"{name}\0{value}\0" for name, value in params.items()).encode("latin-1")
    return b"%d:%b," % (len(text), text)


class _Response:
    """A response: a head as of CGI, and a body that the end of the connection ends."""

    def __init__(
        self, sock: socket.socket, head: bytes, body: Iterator[bytes], timeout: float | None
    ) -> None:
        self._sock = sock
        self._unsent = memoryview(head)
        self._source: Iterator[bytes] | None = body
        self._timeout = timeout
        sock.setblocking(False)
        received = b""
        while (end := _HEADER_END.search(received)) is None:
            block = self._receive()
            if not block or len(received) > MAX_HEADER_BYTES:
                raise BadResponse("the response has no complete header")
            received += block
        self.status, self.reason, self.headers = _parse_header(received[: end.start()])
        self._first = received[end.end() :]

    def __iter__(self) -> Iterator[bytes]:
        if self._first:
            yield self._first
        while block := self._receive():
            yield block
        self.close()

    def _receive(self) -> bytes:
        """The next bytes, none at the end; sends the request meanwhile, for the server may answer
        before it has read it."""
        while True:
            fd = [self._sock.fileno()]
            sending = bool(self._unsent) or self._source is not None
            readable, writable = _wait(fd, fd if sending else [], self._timeout)
            if not readable and not writable:
                raise RequestTimeout(f"nothing came for {self._timeout} seconds")
            if writable:
                self._send()
            if readable:
                try:
                    return self._sock.recv(READ_SIZE)
                except BlockingIOError:
                    continue
                except ConnectionError as error:
                    raise ResponseCut(f"the connection broke: {error}") from error

    def _send(self) -> None:
        if not self._unsent and self._source is not None:
            block = next(self._source, None)
            if block is None:
                self._source = None
                return
            self._unsent = memoryview(block)
        try:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
        except BlockingIOError:
            pass
        except ConnectionError:
            # It reads no more; what it has answered may still be there to be read.
            self._unsent, self._source = memoryview(b""), None

    def close(self) -> None:
        self._sock.close()


class SCGIApp(Forwarder):
    """Sends each request to an SCGI server.

    Args:
        connect: The path of a unix socket, or (host, port).
        host, port: The same as connect=(host, port).
        filterEnviron: Send what _environPrefixes, _environCopies and _environRenames name;
            else all whose name is in capitals.

    Raises:
        AssertionError: No address.
    """

    def __init__(
        self,
        connect: "str | tuple[str, int | str] | None" = None,
        host: str | None = None,
        port: "int | str | None" = None,
        filterEnviron: bool = True,
    ) -> None:
        connect = one_address(connect, host, port)
        assert connect is not None, "an address is needed"
        super().__init__(connect, filterEnviron)

    def _ask(self, environ: dict[str, Any]) -> Answer:
        length = length_of(environ)
        head = _request_head(self._params(environ), length)
        sock = self._getConnection()
        try:
            return _Response(sock, head, body_of(environ, length), self._patience(sock))
        except BaseException:
            sock.close()
            raise
