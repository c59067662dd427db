"""What scripts written for flup's server.fcgi read, set and override.

Nothing that serves stands here; WSGIServer inherits these names so that changing the import is
the whole migration.
"""

import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from fastfcgi import cgi
from fastfcgi.cgi import CGIRequest
from fastfcgi.channel import Channel
from fastfcgi.constants import REQUEST_COMPLETE
from fastfcgi.engine import Engine
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.request import Request
from fastfcgi.sockets import (
    Listener,
    SocketOptions,
    default_addresses,
    is_allowed,
    open_listeners,
)

if TYPE_CHECKING:
    from fastfcgi.handoff import Others
    from fastfcgi.wsgi import Gateway

# Threads are started when they are needed: this many only if this many requests block at once.
# More than the 32 requests that HAProxy sends over one connection, or an Apache process at once.
DEFAULT_THREADS: Final = 64

# The options of flup's thread pool, and others that it took and left alone.
_POOL_OPTIONS = ("minSpare", "maxSpare", "maxThreads")
_IGNORED_OPTIONS = ("jobClass", "jobArgs")


def take_pool_options(options: dict[str, Any]) -> dict[str, int]:
    """Take flup's options out of keyword arguments; returns minSpare, maxSpare, maxThreads.

    Raises:
        ConfigurationError: One that is not a number.
    """
    pool = {name: options.pop(name) for name in _POOL_OPTIONS if name in options}
    for name, value in pool.items():
        if not isinstance(value, int) or value < 0:
            raise ConfigurationError(f"{name} is a number, not {value!r}")
    for name in _IGNORED_OPTIONS:
        options.pop(name, None)
    return pool


def thread_count(threads: int | None, pool: dict[str, int], multithreaded: bool) -> int:
    """How many threads: ours, else flup's maxThreads, whose default was no bound at all."""
    wanted = pool.pop("maxThreads", sys.maxsize)
    if threads is None:
        threads = DEFAULT_THREADS if wanted == sys.maxsize else wanted
    if not isinstance(threads, int) or threads < 1:
        raise ConfigurationError(f"threads={threads!r} is not a number of at least 1")
    return threads if multithreaded else 1


_NO_SOCKET: Final = (
    "there is nothing to serve: file descriptor 0 is not a listening socket, systemd passed none,"
    " and this was not started as a CGI program. Start it with spawn-fcgi or from the web server,"
    " or name an address: bind='unix:/run/app.sock' or bind='127.0.0.1:9000' (--bind likewise)"
)


def listeners_of(sockets: Any) -> list[Listener]:
    """What _setupSocket gave, as listeners: an overridden one may give a listening socket, as
    flup's did."""
    if isinstance(sockets, socket.socket):
        sockets.setblocking(False)  # others may take what it was readable for
        return [Listener(sockets)]
    return list(sockets)


class ThreadPool:
    """The names under which others reach into flup's pool of threads.

    Args:
        threads: The most threads.
        minSpare, maxSpare: Kept to be read and set; threads are started when needed and stay.

    Attributes:
        engine: What has the threads, once the server runs.
    """

    def __init__(self, threads: int, minSpare: int = 1, maxSpare: int = 5) -> None:
        self.threads = threads
        self.minSpare = minSpare
        self.maxSpare = maxSpare
        self.engine: Engine | None = None

    @property
    def _idleCount(self) -> int:
        return 0 if self.engine is None else self.engine.idle

    def shutdown(self) -> None:
        """Nothing to wait for: run() has ended the threads."""


class FlupNames:
    """The methods and attributes that flup's users override, call and set."""

    # Read by subclasses; flup's values.
    request_class = Request
    cgirequest_class = CGIRequest
    maxwrite = 8192
    inputStreamShrinkThreshold = 102400 - 8192
    _connectionClass: Any = Channel
    _jobClass: Any = None
    _jobArgs: tuple[Any, ...] = ()

    # Set where several processes serve the same sockets: who of them is free gets the connections
    # that would have to wait here.
    others: "Others | None" = None

    _gateway: "Gateway | None" = None
    _allowed: frozenset[str] | None = None
    _going = True
    _hupReceived = False

    # What to listen on: flup's way to say it, ours, and how.
    forceCGI: bool
    _bindAddress: Any
    _bind: Any
    _socket_options: SocketOptions

    def __init__(self) -> None:
        self._oldSIGs: list[tuple[int, Any]] = []

    def stop(self) -> None:
        """End run()."""
        raise NotImplementedError

    def handler(self, req: Any) -> tuple[int, int]:
        """Run one request; returns (protocol_status, app_status). May be overridden."""
        assert self._gateway is not None
        self._gateway.handle(req)
        return REQUEST_COMPLETE, 0

    def error(self, req: Any) -> None:
        """Send a page in the place of a response that failed before it began; the exception is
        in sys.exc_info(). May and should be overridden: write to req.stdout."""
        assert self._gateway is not None
        self._gateway.send_error_page(req)

    def shutdown(self) -> None:
        """Called at the end of run()."""

    def _mainloopPeriodic(self) -> None:
        """Called about once a second by run()'s thread."""

    def _isClientAllowed(self, addr: Any) -> bool:
        """Whether a peer may connect (FCGI_WEB_SERVER_ADDRS, spec 3.2)."""
        return is_allowed(addr, self._allowed)

    @property
    def _keepGoing(self) -> bool:
        return self._going

    @_keepGoing.setter
    def _keepGoing(self, value: bool) -> None:
        if value:
            self._going = True
        elif self._going:
            self.stop()

    def _exit(self, reload: bool = False) -> None:
        """Stop, from a request or a signal handler; with reload, run() returns True, unless it
        was to stop already."""
        if self._going:
            self._hupReceived = reload
            self.stop()

    def _installSignalHandlers(self) -> None:
        handlers = {"SIGINT": self._intHandler, "SIGTERM": self._intHandler}
        handlers["SIGHUP"] = self._hupHandler
        if getattr(signal, "SIGUSR1", None) and signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
            # libfcgi's "finish and end", which multiwatch sends. Where the application has a use
            # of its own for it, it keeps that.
            handlers["SIGUSR1"] = self._intHandler
        for name, handler in handlers.items():
            number = getattr(signal, name, None)
            if number is not None:
                self._oldSIGs.append((number, signal.signal(number, handler)))

    def _restoreSignalHandlers(self) -> None:
        for number, previous in self._oldSIGs:
            signal.signal(number, previous)
        self._oldSIGs = []

    def _intHandler(self, signum: int, frame: Any) -> None:
        self.stop()

    def _hupHandler(self, signum: int, frame: Any) -> None:
        self._exit(reload=True)

    def _setupSocket(self) -> Any:
        """Open what is to be listened on: a list of listeners, None for plain CGI."""
        if isinstance(self._bindAddress, str):
            # flup: a str is a path, whatever it looks like.
            given: Any = "unix:" + self._bindAddress
        else:
            given = self._bind if self._bindAddress is None else self._bindAddress
        if given is None:
            given = self._default_addresses()
            if given is None:
                return None
        elif not isinstance(given, Sequence) or isinstance(given, (str, tuple)):
            given = [given]
        return open_listeners(given, self._socket_options)

    def _default_addresses(self) -> list[int] | None:
        """What this process was started with, None for plain CGI."""
        force = self.forceCGI or os.environ.get("FCGI_FORCE_CGI", "N").upper().startswith("Y")
        given = None if force else default_addresses()
        if given is None and not force and not cgi.is_cgi(os.environ):
            raise ConfigurationError(_NO_SOCKET)
        return given

    def _cleanupSocket(self, sock: Any) -> None:
        """Close what _setupSocket opened; files of sockets go with it."""
        for listener in [sock] if isinstance(sock, socket.socket) else sock:
            listener.close()
