"""Accepts connections from a listening socket, as many as there is room for."""

import contextlib
import errno
import logging
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from fastfcgi.channel import Channel
from fastfcgi.engine import READ, TICK
from fastfcgi.sockets import Listener

if TYPE_CHECKING:
    from fastfcgi.server import WSGIServer

logger: Final = logging.getLogger("fastfcgi")

# Connections accepted in a row before others get their turn.
_BATCH: Final = 16

_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Watches one listening socket."""

    def __init__(self, listener: Listener, server: "WSGIServer") -> None:
        self._listener = listener
        self._server = server
        self._complained_at = -TICK

    def fileno(self) -> int:
        return self._listener.sock.fileno()

    def on_ready(self, mask: int) -> None:
        for _ in range(_BATCH):
            if self._is_full() and not self._one_is_idle():
                self._wait()
                return
            try:
                sock, peer = self._listener.sock.accept()
            except OSError as error:
                # Nothing there: another process that shares the socket was first.
                if error.errno in _NO_ROOM:
                    self._no_descriptors(error)
                return
            if self._is_full():
                # Only now: had nobody been there, it would have been closed for nothing.
                self._server.close_longest_idle()
            self._welcome(sock, peer)

    def on_tick(self, now: float) -> None:
        """Not asked for."""

    def on_failure(self) -> None:
        """Nothing is lost but the attempt."""

    def resume(self) -> None:
        """Accept again."""
        self._server.engine.watch(self, READ, tick=False)

    def drain(self) -> None:
        """Take in who is connected already: closing the socket would reset them."""
        count = -1
        while count != len(self._server.channels):
            count = len(self._server.channels)
            self.on_ready(READ)

    def pause(self) -> None:
        """Let connections wait in the kernel's backlog until there is room."""
        self._server.engine.forget(self)

    def _is_full(self) -> bool:
        return len(self._server.channels) >= self._server.max_connections

    def _one_is_idle(self) -> bool:
        """Whether a connection can be closed for another: its next request may have arrived, so
        it has to be looked for."""
        while idle := [channel for channel in self._server.channels if channel.idle]:
            longest = min(idle, key=lambda channel: channel.idle_since)
            self._server.engine.dispatch(longest, READ)
            if longest.idle:
                return True
        return False

    def _no_descriptors(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._complained_at >= TICK:
            self._complained_at = now
            logger.error("cannot accept a connection: %s", error)
        before = len(self._server.channels)
        self._one_is_idle()  # as far as is known after a look at it
        self._server.close_longest_idle()
        if len(self._server.channels) == before:
            # The application may give some back.
            self._wait()

    def _wait(self) -> None:
        """Accept nothing before the next tick."""
        self.pause()
        self._server.engine.tickers.add(self._again)

    def _again(self, now: float) -> None:
        self._server.engine.tickers.discard(self._again)
        self._server.resume_accepting()

    def _welcome(self, sock: socket.socket, peer: Any) -> None:
        if not self._server._isClientAllowed(peer):
            logger.warning("connection from %r refused: not in FCGI_WEB_SERVER_ADDRS", peer)
            sock.close()
            return
        if isinstance(peer, tuple):
            with contextlib.suppress(OSError):  # gone already: its read will tell
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        channel = Channel(sock, peer, self._server)
        self._server.channels.add(channel)
        engine = self._server.engine
        engine.watch(channel, READ)
        # The request is there already as a rule: read it now, not after another wait.
        engine.dispatch(channel, READ)
