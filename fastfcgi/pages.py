"""The pages that the server answers itself: ping and status.

They are made by whoever receives the request, so that they come while every thread is busy and the
queue is full.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fastfcgi.exceptions import ConfigurationError

if TYPE_CHECKING:
    from fastfcgi.board import Board
    from fastfcgi.status import Snapshot

PONG: Final = (
    b"Status: 200 OK\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\n"
    b"Content-Length: 5\r\n\r\npong\n"
)

# Makes a CGI response for the params of a request.
Page: TypeAlias = Callable[[dict[str, Any]], bytes]


def pages_of(
    ping_path: str | None, status_path: str | None, snapshot: Callable[[], "Snapshot"]
) -> dict[str, Page] | None:
    """The pages by their paths, None when there are none.

    Args:
        ping_path, status_path: SCRIPT_NAME + PATH_INFO of requests for them.
        snapshot: Called for each status page.

    Raises:
        ConfigurationError: A path that no request has, or one for two pages.
    """
    for name, path in (("ping_path", ping_path), ("status_path", status_path)):
        if path is not None and not (isinstance(path, str) and path.startswith("/")):
            raise ConfigurationError(f"{name}={path!r} does not begin with /")
    if ping_path is not None and ping_path == status_path:
        raise ConfigurationError(f"ping_path and status_path are both {ping_path!r}")
    pages: dict[str, Page] = {}
    if ping_path is not None:
        pages[ping_path] = lambda params: PONG
    if status_path is not None:
        pages[status_path] = lambda params: _status(params.get("QUERY_STRING") or "", snapshot())
    return pages or None


def _status(query: str, snapshot: "Snapshot") -> bytes:
    from fastfcgi.status import respond  # asked for seldom; importing it costs some

    return respond(query, snapshot)


def snapshot_of(board: "Board", threads: int, addresses: Sequence[Any]) -> "Snapshot":
    """A server of one process.

    Args:
        board: What it shows.
        threads: The most requests that run at once.
        addresses: Where it listens: paths of unix sockets ("\\0name" if abstract), or tuples.
    """
    from fastfcgi.status import Snapshot, worker_status

    return Snapshot(
        version=package_version(),
        started=board.started,
        now=time.time(),
        pid=board.pid,
        mode="single",
        generation=max(board.generation, 1),
        workers=[worker_status(board, threads)],
        restarts=0,
        listeners=[_as_bind(address) for address in addresses],
    )


def package_version() -> str:
    """That of fastfcgi, "0+unknown" in a source tree that was never installed."""
    from importlib.metadata import PackageNotFoundError, version  # slower than all our imports

    try:
        return version("fastfcgi")
    except PackageNotFoundError:
        return "0+unknown"


def _as_bind(address: Any) -> str:
    """An address as `bind` takes it."""
    if isinstance(address, str):
        return "unix:" + ("@" + address[1:] if address.startswith("\0") else address)
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
