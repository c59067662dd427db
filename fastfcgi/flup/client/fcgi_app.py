"""flup.client.fcgi_app: a WSGI application in front of a FastCGI server."""

import socket
from typing import Any

from fastfcgi._codec import encode_pairs
from fastfcgi.client import Client
from fastfcgi.flup._version import attribute
from fastfcgi.flup.client.forwarding import Answer, Forwarder, body_of, length_of, one_address

# Subclasses that write a __call__ of their own import these from here: Record, the numbers, struct.
from fastfcgi.flup.server.record import *  # noqa: F403
from fastfcgi.flup.server.record import FCGI_PARAMS, Record
from fastfcgi.flup.server.record import _debug as _debug

__all__ = ["FCGIApp"]

__getattr__ = attribute


class _OnSocket(Client):
    """Makes a request on a connection that is there already."""

    def __init__(self, sock: socket.socket, timeout: float | None) -> None:
        super().__init__("", timeout=timeout)
        self._sock = sock

    def _connect(self) -> socket.socket:
        return self._sock


class FCGIApp(Forwarder):
    """Sends each request to a FastCGI server, over a connection of its own.

    The body is read from wsgi.input as the server takes it; the response's is handed on as it
    comes; STDERR goes to wsgi.errors.

    Args:
        command: Of flup, which never started it either.
        connect: The path of a unix socket, or (host, port).
        host, port: The same as connect=(host, port).
        filterEnviron: Send what _environPrefixes, _environCopies and _environRenames name;
            else all whose name is in capitals.

    Raises:
        AssertionError: Not exactly one of command and an address.
        NotImplementedError: When it is called: it has a command.
    """

    def __init__(
        self,
        command: Any = None,
        connect: "str | tuple[str, int | str] | None" = None,
        host: str | None = None,
        port: "int | str | None" = None,
        filterEnviron: bool = True,
    ) -> None:
        connect = one_address(connect, host, port)
        assert (command is None) != (connect is None), "either command or an address"
        super().__init__(connect, filterEnviron)
        self._command = command

    def _ask(self, environ: dict[str, Any]) -> Answer:
        if self._command is not None:
            raise NotImplementedError("a FastCGI program is not started here; use connect")

        def to_errors(data: bytes) -> None:
            environ["wsgi.errors"].write(data.decode("utf-8", "replace"))

        params, body = self._params(environ), body_of(environ, length_of(environ))
        sock = self._getConnection()
        try:
            client = _OnSocket(sock, self._patience(sock))
            return client.request(params, body, on_stderr=to_errors)
        except BaseException:
            sock.close()
            raise

    def _fcgiParams(self, sock: socket.socket, requestId: int, params: dict[str, str]) -> None:
        """Send params, or their end without any; for a __call__ of a subclass."""
        pairs = [(name.encode("latin-1"), params[name].encode("latin-1")) for name in params]
        record = Record(FCGI_PARAMS, requestId)
        record.contentData = encode_pairs(pairs)
        record.contentLength = len(record.contentData)
        record.write(sock)
