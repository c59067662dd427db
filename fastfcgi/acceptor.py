"""Accepts connections from a listening socket, as many as there is room for."""

import contextlib
import errno
import logging
import socket
from typing import TYPE_CHECKING, Any, Final

from fastfcgi.channel import Channel
from fastfcgi.engine import READ
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

    def fileno(self) -> int:
        return self._listener.sock.fileno()

    def on_ready(self, mask: int) -> None:
        for _ in range(_BATCH):
            if not self._server.make_room():
                self.pause()
                return
            try:
                sock, peer = self._listener.sock.accept()
            except OSError as error:
                # Nothing there: another process that shares the socket was first.
                if error.errno in _NO_ROOM:
                    self._no_descriptors(error)
                return
            self._welcome(sock, peer)

    def on_tick(self, now: float) -> None:
        """Not asked for."""

    def on_failure(self) -> None:
        """Nothing is lost but the attempt."""

    def resume(self) -> None:
        """Accept again."""
        self._server.engine.watch(self, READ, tick=False)

    def pause(self) -> None:
        """Let connections wait in the kernel's backlog until there is room."""
        self._server.engine.forget(self)

    def _no_descriptors(self, error: OSError) -> None:
        logger.error("cannot accept a connection: %s", error)
        self._server.close_longest_idle()
        self.pause()
        # The descriptors may be used by the application: look again at the next tick.
        tickers = self._server.engine.tickers

        def again(now: float) -> None:
            tickers.discard(again)
            self._server.resume_accepting()

        tickers.add(again)

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
