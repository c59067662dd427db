"""A kept connection goes from one process to another without its web server noticing.

What a process that retires would close, it sends through a pair of unix sockets that its
successors hold, too: one byte that says whether requests were answered on the connection, and with
it the descriptor (SCM_RIGHTS). Whoever serves then, takes it from the other end. A request that
arrives meanwhile waits in the connection's own buffer.
"""

import errno
import logging
import math
import os
import socket
import time
from collections.abc import Callable
from typing import Final, TypeAlias

from fastfcgi.exceptions import ConfigurationError

logger: Final = logging.getLogger("fastfcgi")

# Seconds that a no to "is anybody free?" is taken to be true.
REFUSED_SECONDS: Final = 0.005

_FRESH: Final = b"\0"
_SERVED: Final = b"\1"

# There is no room just now: nobody has taken what was sent before.
_LATER: Final = frozenset(
    (
        *(errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ENOMEM),
        # Linux: as many descriptors are on their way as this user may have open.
        getattr(errno, "ETOOMANYREFS", errno.EAGAIN),
    )
)


# What connections are given to, and what they are taken from.
Pair: TypeAlias = tuple[socket.socket, socket.socket]


def open_pair(pair: Pair | None) -> Pair | None:
    """The pair, made ready: its ends wait for nothing.

    Raises:
        ConfigurationError: It is no pair of unix sockets, or this system sends no descriptors.
    """
    if pair is None:
        return None
    if not hasattr(socket, "send_fds"):
        raise ConfigurationError("handoff: this system cannot send connections to other processes")
    give, take = pair
    for sock in (give, take):
        if not isinstance(sock, socket.socket) or sock.family != socket.AF_UNIX:
            raise ConfigurationError(f"handoff is a pair of unix sockets, not {pair!r}")
        sock.setblocking(False)
    return give, take


class Giver:
    """The end of the pair that connections are sent through.

    Args:
        sock: A unix socket that does not wait.

    Attributes:
        failed: Nobody can take them any more.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.failed = False
        self._sock = sock

    def give(self, fd: int, served: bool) -> bool:
        """Send a connection, which is another process's then; the caller closes its own descriptor.

        Args:
            served: Requests were answered on it.

        Returns:
            Whether it is sent; if not, it may be tried again later unless `failed` is set.
        """
        if self.failed:
            return False
        try:
            return socket.send_fds(self._sock, [_SERVED if served else _FRESH], [fd]) == 1
        except OSError as error:
            if error.errno not in _LATER:
                self.failed = True
                logger.error("connections cannot be handed over: %s", error)
            return False


class Others:
    """The other processes that serve the same sockets.

    Args:
        pair: What connections go through.
        free: Asks whether one of them has a free thread.
    """

    def __init__(self, pair: Pair, free: Callable[[], bool]) -> None:
        self.give: Final = Giver(pair[0]).give
        self._free = free
        self._refused_at = -math.inf

    def are_free(self) -> bool:
        """Whether one has a free thread. When the answer was no, the question is not asked again
        for a moment: while all are busy it comes with each connection."""
        now = time.monotonic()
        if now - self._refused_at < REFUSED_SECONDS:
            return False
        if self._free():
            return True
        self._refused_at = now
        return False


def take(sock: socket.socket) -> tuple[int, bool, bool]:
    """The next connection that was handed over: its descriptor, whether it is one of TCP, and
    whether requests were answered on it.

    Raises:
        OSError: There is none (EAGAIN), or no descriptor for it is free (EMFILE, ENFILE).
        EOFError: Nobody can hand over any more.
    """
    # Without a free descriptor the system would throw the connection away.
    os.close(os.dup(sock.fileno()))
    message, fds, _, _ = socket.recv_fds(sock, 1, 1, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
    if not message:
        raise EOFError("nobody hands over connections any more")
    if not fds:
        raise OSError(errno.EPROTO, "a message that brings no connection")
    fd = fds[0]
    os.set_inheritable(fd, False)
    connection = socket.socket(fileno=fd)
    try:
        connection.setblocking(False)
        return fd, connection.family != socket.AF_UNIX, message == _SERVED
    finally:
        connection.detach()
