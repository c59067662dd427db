"""Buffers on their way out of a non-blocking socket."""

import itertools
import socket
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Buffers in one sendmsg call; POSIX promises 16, Linux takes 1024.
_MAX_BUFFERS: Final = 64

# Writes in a row, each as much as the socket takes: a fast reader of a large response must not
# keep the lock, or the loop, from the others.
_MAX_WRITES: Final = 16

_HAS_SENDMSG: Final = hasattr(socket.socket, "sendmsg")


class Outbox:
    """What is to be sent on one socket, in order and uncopied.

    Attributes:
        size: Bytes that wait.
        blocked: The socket takes no more for now, or others are to have their turn: send again
            when it is writable.
        sent_at: time.monotonic() of the last progress, or of the first bytes to wait after none.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffers: deque[Buffer] = deque()
        self.size = 0
        self.blocked = False
        self.sent_at = time.monotonic()

    def add(self, buffers: "Iterable[Buffer]") -> None:
        """Have buffers sent after those that wait."""
        if not self.size:
            self.sent_at = time.monotonic()
        for buffer in buffers:
            self._buffers.append(buffer)
            self.size += memoryview(buffer).nbytes

    def clear(self) -> None:
        """Forget what waits."""
        self._buffers.clear()
        self.size = 0

    def send(self) -> None:
        """Send what the socket takes.

        Raises:
            OSError: The peer is gone.
        """
        writes = 0
        while self._buffers and not self.blocked:
            if writes == _MAX_WRITES:
                self.blocked = True
                return
            writes += 1
            try:
                sent = _send(self._sock, self._buffers)
            except (BlockingIOError, InterruptedError):
                self.blocked = True
                return
            self.sent_at = time.monotonic()
            self.size -= sent
            _advance(self._buffers, sent)


def _send(sock: socket.socket, buffers: "deque[Buffer]") -> int:
    """One gathered write; returns the bytes taken."""
    if _HAS_SENDMSG:
        return sock.sendmsg(itertools.islice(buffers, _MAX_BUFFERS))
    return sock.send(b"".join(itertools.islice(buffers, _MAX_BUFFERS)))


def _advance(buffers: "deque[Buffer]", sent: int) -> None:
    """Drop what was sent from the front."""
    while sent:
        view = memoryview(buffers[0]).cast("B")
        if sent < len(view):
            buffers[0] = view[sent:]
            return
        sent -= len(view)
        buffers.popleft()
