"""A server in a thread of this process, and a client's connection to it."""

import os
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import reference_codec

from fastfcgi import WSGIServer

END_REQUEST = reference_codec.encode_end_request(1, 0, 0)
TIMEOUT = 60

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class InProcess:
    """A WSGIServer on a unix socket, and a client that makes one request to it over and over.

    Args:
        application: What is served; its responses are all of one length.
        request: The records of the request, with request_id 1.

    Attributes:
        response: Bytes of records of a response.
    """

    def __init__(self, application: Application, request: bytes) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        self._path = str(Path(self._folder.name, "s"))
        # One thread: which of several takes a request is not to make a difference.
        self._server = WSGIServer(application, bind=f"unix:{self._path}", threads=1)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._data = request

    def __enter__(self) -> "InProcess":
        # Client and server take turns anyway, and waking each other on another CPU takes longer
        # than a request, now more and now less so.
        if hasattr(os, "sched_setaffinity"):  # not on macOS
            self._cpus = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {max(self._cpus)})
        self._thread.start()
        if not self._server.wait_ready(TIMEOUT):
            raise RuntimeError("the server does not listen")
        with self._connect() as sock:
            self.response = self._first_response(sock)
        self._buffer = bytearray(self.response)
        self._sock = self._connect()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._sock.close()
        self._server.stop()
        self._thread.join(TIMEOUT)
        self._folder.cleanup()
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, self._cpus)

    def request(self) -> bytes:
        """One request on the kept connection; returns the last record of its response."""
        return self._exchange(self._sock)

    def request_alone(self) -> bytes:
        """The same on a connection of its own."""
        with self._connect() as sock:
            return self._exchange(sock)

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        # Not settimeout(): its sockets do not block, and return from MSG_WAITALL with less.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", TIMEOUT, 0))
        sock.connect(self._path)
        return sock

    def _first_response(self, sock: socket.socket) -> int:
        """Read to END_REQUEST; how many bytes there were."""
        sock.sendall(self._data)
        received = b""
        while not received.endswith(END_REQUEST):
            data = sock.recv(1 << 18)
            if not data:
                raise ConnectionError(f"closed after {received[:1000]!r}")
            received += data
        return len(received)

    def _exchange(self, sock: socket.socket) -> bytes:
        # One call for all of it: a client that wakes up for every block takes turns with the
        # server for the interpreter, and those are what would be measured.
        sock.sendall(self._data)
        size = sock.recv_into(self._buffer, self.response, socket.MSG_WAITALL)
        if size != self.response:
            raise ConnectionError(f"{size} bytes of a response of {self.response}")
        return bytes(self._buffer[-len(END_REQUEST) :])
