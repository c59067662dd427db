"""flup.client.fcgi_app: a WSGI application in front of a FastCGI server."""

import socket
from typing import Any

from fastfcgi.client import Response, _Exchange, _read_header, preamble
from fastfcgi.constants import RESPONDER
from fastfcgi.flup._version import attribute
from fastfcgi.flup.client.forwarding import Answer, Forwarder, body_of, length_of, one_address

# Subclasses that write a __call__ of their own import these from here: Record, the numbers, struct.
from fastfcgi.flup.server.record import *  # noqa: F403
from fastfcgi.flup.server.record import FCGI_PARAMS, Record, encode_pair
from fastfcgi.flup.server.record import _debug as _debug

__all__ = ["FCGIApp"]

__getattr__ = attribute


class _OnSocket(_Exchange):
    """A request on a connection that is there already."""

    def use(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock


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

        head = preamble(RESPONDER, self._params(environ))
        body = body_of(environ, length_of(environ))
        sock = self._getConnection()
        exchange = _OnSocket(head, body, self._patience(sock), to_errors)
        exchange.use(sock)
        try:
            return Response(exchange, *_read_header(exchange))
        except BaseException:
            exchange.close()
            raise

    def _fcgiParams(self, sock: socket.socket, requestId: int, params: dict[str, str]) -> None:
        """Send params, or their end without any; for a __call__ of a subclass."""
        pairs = [(name.encode("latin-1"), params[name].encode("latin-1")) for name in params]
        record = Record(FCGI_PARAMS, requestId)
        record.contentData = b"".join(encode_pair(name, value) for name, value in pairs)
        record.contentLength = len(record.contentData)
        record.write(sock)
