"""Servers that say to the load generator exactly what a test wants to be said."""

import contextlib
import random
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import wire
from scripted import END, Peer, Script, stdout

_load = pytest.importorskip("fastfcgi._load", reason="the load generator needs POSIX")

from fastfcgi._load import Lane, LaneResult  # noqa: E402

KEPT = wire.request(keep_conn=True)
UNKEPT = wire.request()
CONTENT = b"Status: 200 OK\r\nContent-Type: text/plain\r\n\r\nHello"
RIGHT = stdout(CONTENT) + END
BIG = random.Random(1).randbytes(3_000_000)
REASONS = {
    "connect failed",
    "timeout",
    "closed early",
    "protocol error",
    "request refused",
    "wrong app_status",
    "wrong status",
    "no response header",
    "different answer",
}


@pytest.fixture
def path() -> Iterator[str]:
    """Where a unix socket can be; short enough for one."""
    with tempfile.TemporaryDirectory(prefix="fastfcgi-") as folder:
        yield f"{folder}/s"


class Server:
    """Runs a script for every connection, each in a thread; ended by the with block.

    Attributes:
        peers: One for each connection that came.
    """

    def __init__(self, script: Script, listener: socket.socket) -> None:
        self.peers: list[Peer] = []
        self.errors: list[BaseException] = []
        self._script = script
        self._listener = listener
        self._threads = [threading.Thread(target=self._accept)]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # the end
                return
            sock.settimeout(wire.DEADLINE)
            self.peers.append(Peer(sock))
            self._threads.append(threading.Thread(target=self._serve, args=(self.peers[-1],)))
            self._threads[-1].start()

    def _serve(self, peer: Peer) -> None:
        with peer.sock:
            try:
                self._script(peer)
            except ConnectionError:
                pass  # the client had enough
            except BaseException as error:
                self.errors.append(error)

    def __enter__(self) -> "Server":
        self._threads[0].start()
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()
        if self.errors:
            raise self.errors[0]


def listening(path: str, backlog: int = 128) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(backlog)
    return sock


def requests_of(peer: Peer) -> Iterator[list[tuple[int, int, bytes]]]:
    """The records of each request that comes over a connection, until the client closes it."""
    while True:
        peer.records.clear()
        peer.receive_request()
        if not peer.has_request():
            return
        yield list(peer.records)


def always(*parts: bytes) -> Script:
    """Answer every request of a connection with these parts, none before the last was read."""

    def script(peer: Peer) -> None:
        for _ in requests_of(peer):
            for part in parts:
                wait_until_read(peer.sock)
                peer.send(part)

    return script


def wait_until_read(sock: socket.socket) -> None:
    """So that what is sent next does not arrive together with what was sent before."""
    if sys.platform != "linux":
        time.sleep(0.001)
        return
    import fcntl
    import termios

    while struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]:
        time.sleep(0)


def once(answer: bytes) -> Script:
    """Answer the first request with this, and close."""

    def script(peer: Peer) -> None:
        for _ in requests_of(peer):
            peer.send(answer)
            return

    return script


def load(
    path: str, script: Script, lane: Lane | None = None, requests: int | None = 5, **options: Any
) -> tuple[LaneResult, Server]:
    """One lane against a server with that script."""
    options = {"timeout": wire.DEADLINE, **options}
    with Server(script, listening(path)) as server:
        (result,) = _load.run(path, [lane or Lane(KEPT, 1)], requests=requests, **options)
    return result, server


def failure(path: str, script: Script, lane: Lane | None = None, **options: Any) -> tuple[str, str]:
    """The reason and its example of a lane whose every request fails for the same."""
    options = {"requests": 3, **options}
    result, _ = load(path, script, lane, **options)
    assert result.requests == 0
    ((reason, number),) = result.errors.items()
    assert number == options["requests"]
    assert reason in REASONS
    return reason, result.examples[reason]
