"""What FCGIApp and SCGIApp have in common: what of the environ is sent, and what comes back."""

import socket
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Final, Protocol

from fastfcgi.client import connect

_BLOCK_SIZE: Final = 65536
_CONNECT_TIMEOUT: Final = 10.0


class Answer(Protocol):
    """A response: fastfcgi.client.Response, or what is like it."""

    status: int
    reason: str
    headers: list[tuple[str, str]]

    def __iter__(self) -> Iterator[bytes]: ...
    def close(self) -> None: ...


class Blocks:
    """The body of a response: its blocks as they come, or, as of flup's list, [0] for all of it."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._whole: bytes | None = None

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._answer if self._whole is None else [self._whole])

    def __getitem__(self, index: int) -> bytes:
        if index not in (0, -1):
            raise IndexError("the body is one piece")
        if self._whole is None:
            self._whole = b"".join(self._answer)
        return self._whole

    def close(self) -> None:
        """Hang up."""
        self._answer.close()


def body_of(environ: dict[str, Any], length: int) -> Iterator[bytes]:
    """So many bytes of wsgi.input, in blocks; fewer where it ends before. Programs that make an
    environ themselves have an io.StringIO there, too."""
    while length:
        block = environ["wsgi.input"].read(min(length, _BLOCK_SIZE))
        if not block:
            return
        if isinstance(block, str):
            block = block.encode("latin-1")
        length -= len(block)
        yield block


def length_of(environ: dict[str, Any]) -> int:
    """CONTENT_LENGTH, 0 without one; Caddy sends -1 for a body of unknown length."""
    return max(int(environ.get("CONTENT_LENGTH") or 0), 0)


class Forwarder:
    """A WSGI application that sends each request to another server.

    Args:
        connect: The path of a unix socket, or (host, port).
        filterEnviron: Send the entries that the three class attributes below name; else all
            whose name is in capitals.

    Attributes:
        timeout: Seconds that the server may let us wait for a byte; None, as here, for ever.
    """

    # Programs change these.
    _environPrefixes: ClassVar = ["SERVER_", "HTTP_", "REQUEST_", "REMOTE_", "PATH_", "CONTENT_"]
    _environCopies: ClassVar = ["SCRIPT_NAME", "QUERY_STRING", "AUTH_TYPE"]
    _environRenames: ClassVar[dict[str, str]] = {}

    timeout: float | None = None

    def __init__(self, connect: "str | tuple[str, int | str] | None", filterEnviron: bool) -> None:
        self._connect = connect
        self._filterEnviron = filterEnviron

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Blocks:
        """Answer a request (PEP 3333).

        Raises:
            OSError: No server, or no whole response of it (fastfcgi.client.ClientError, too).
            FastCGIError: The response is not one.
        """
        answer = self._ask(environ)
        reason = answer.reason or type(self).__name__
        try:
            start_response(f"{answer.status} {reason}", list(answer.headers))
        except BaseException:
            answer.close()
            raise
        return Blocks(answer)

    def _ask(self, environ: dict[str, Any]) -> Answer:
        raise NotImplementedError

    def _getConnection(self) -> socket.socket:
        """A connection for one request. May be overridden; a timeout that is set on it then counts
        for the response, too."""
        sock = connect(self._address(), _CONNECT_TIMEOUT)
        sock.settimeout(None)
        return sock

    def _patience(self, sock: socket.socket) -> float | None:
        return sock.gettimeout() if self.timeout is None else self.timeout

    def _address(self) -> "str | tuple[str, int]":
        """Where the server listens, in our notation."""
        if isinstance(self._connect, str):
            return f"unix:{self._connect}"
        assert self._connect is not None
        host, port = self._connect
        return host, int(port)

    def _params(self, environ: dict[str, Any]) -> dict[str, str]:
        choose = self._defaultFilterEnviron if self._filterEnviron else self._lightFilterEnviron
        return choose(environ)

    def _defaultFilterEnviron(self, environ: dict[str, Any]) -> dict[str, Any]:
        prefixes = tuple(self._environPrefixes)
        chosen = {
            name: value
            for name, value in environ.items()
            if name.startswith(prefixes) or name in self._environCopies
        }
        for name, other in self._environRenames.items():
            if name in environ:
                chosen[other] = environ[name]
        return chosen

    def _lightFilterEnviron(self, environ: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in environ.items() if name == name.upper()}


def one_address(
    connect: Any, host: str | None, port: "int | str | None"
) -> "str | tuple[str, int | str] | None":
    """The address that a constructor's arguments name."""
    if host is None:
        return connect  # type: ignore[no-any-return]
    assert port is not None, "host needs port"
    return host, port
