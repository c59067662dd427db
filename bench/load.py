"""A raw client: the bytes that nginx sends, over and over, and nothing parsed but the end."""

import select
import socket

import reference_codec
import wire

from bench.servers import PAGE
from fastfcgi.constants import STDIN

END_REQUEST = reference_codec.encode_end_request(1, 0, 0)
TIMEOUT = 20.0


def request_bytes(keep_conn: bool, params: bytes) -> bytes:
    """A GET on request_id 1 with an encoded PARAMS stream."""
    return (
        wire.begin_request(1, keep_conn=keep_conn)
        + wire.stream(wire.PARAMS, 1, params)
        + reference_codec.encode_record(STDIN, 1)
    )


class Load:
    """Makes requests to a unix socket, a number of them at once, all from one thread.

    Args:
        path: The socket.
        params: The encoded PARAMS stream of each request.
        at_once: How many requests are under way at any time.
        keep_conn: Whether connections are kept, or made for each request.
        timeout: Seconds without a response after which run() raises TimeoutError.
    """

    def __init__(
        self, path: str, params: bytes, at_once: int, keep_conn: bool, timeout: float = TIMEOUT
    ) -> None:
        self._path = path
        self._request = request_bytes(keep_conn, params)
        self._keep_conn = keep_conn
        self._poll = select.poll()
        self._idle: list[socket.socket] = []
        self._received: dict[int, bytes] = {}
        self._sockets: dict[int, socket.socket] = {}
        self._at_once = at_once
        self._timeout = timeout

    def close(self) -> None:
        for sock in (*self._idle, *self._sockets.values()):
            sock.close()

    def run(self, requests: int) -> None:
        """Make so many requests and read the responses to their end."""
        left = requests
        for _ in range(min(self._at_once, requests)):
            self._send()
            left -= 1
        while self._sockets:
            events = self._poll.poll(self._timeout * 1000)
            if not events:
                raise TimeoutError("no response")
            for fd, _ in events:
                if self._receive(fd) and left:
                    self._send()
                    left -= 1

    def _send(self) -> None:
        if self._idle:
            sock = self._idle.pop()
        else:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(self._path)
        fd = sock.fileno()
        self._sockets[fd] = sock
        self._received[fd] = b""
        self._poll.register(fd, select.POLLIN)
        sock.sendall(self._request)

    def _receive(self, fd: int) -> bool:
        """Read what is there; whether that was the end of the response."""
        data = self._sockets[fd].recv(65536)
        received = self._received[fd] = self._received[fd] + data
        if not received.endswith(END_REQUEST):
            if not data:
                raise ConnectionError(f"closed after {received!r}")
            return False
        self._poll.unregister(fd)
        sock = self._sockets.pop(fd)
        if self._keep_conn:
            self._idle.append(sock)
        else:
            sock.close()
        return True

    def check(self) -> None:
        """Make one request and look at the response: a fast server of wrong ones must not win.

        Raises:
            AssertionError: It is not that of the application in bench.servers.
        """
        self.run(1)
        (response,) = self._received.values()
        status, _, body = wire.parse_cgi(bytes(wire.parse_response(response)[1].stdout))
        if (status, body) != (200, PAGE):
            raise AssertionError(f"not the response of the application: {response!r}")
