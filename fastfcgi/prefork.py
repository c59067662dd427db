"""flup.server.fcgi_fork: a server whose requests run in processes of their own, one at a time each.

`from fastfcgi.prefork import WSGIServer` in the place of `from flup.server.fcgi_fork import
WSGIServer` is the whole migration. New programs are better served by `fastfcgi serve`.
"""

import os
import signal
from collections.abc import Collection, Mapping
from typing import Any, Final

from fastfcgi import constants, server
from fastfcgi.board import Board
from fastfcgi.drop_in import listeners_of
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.handoff import Pair, open_pair
from fastfcgi.hooks import Hooks
from fastfcgi.master import Master
from fastfcgi.master_settings import MasterSettings
from fastfcgi.sockets import Listener
from fastfcgi.wsgi import WSGIApplication

# Options of what can be seen of a server, which each worker needs anew with its own board.
_HOOK_OPTIONS: Final = ("ping_path", "status_path", "access_log", "slow_timeout", "slow_log")
# flup took these and left them alone.
_IGNORED: Final = ("multithreaded", "multiprocess", "jobClass", "jobArgs", "threads")


def _settings(
    least: int,
    most: int,
    children: int,
    requests: int,
    timeout: float | None,
    graceful: float,
    protocol: str,
) -> MasterSettings:
    """flup's options as ours."""
    least = min(least, children)
    return MasterSettings(
        mode="dynamic",
        min_spare=least,
        max_spare=most,
        start_workers=least,
        max_workers=children,
        max_requests=requests,
        hard_timeout=timeout or None,
        graceful_timeout=graceful,
        server_options={"threads": 1, "protocol": protocol},
    )


class _Master(Master):
    """A master that does what flup's signals mean: HUP ends it, USR1 begins with new workers."""

    def __init__(self, settings: MasterSettings, owner: "WSGIServer", sockets: list[Listener]):
        super().__init__(settings, lambda: owner.application, owner._in_worker)
        self._given = sockets
        self.reload_asked = False

    def _listen(self) -> None:
        self._holdings.listeners = [("", listener) for listener in self._given]

    def on_reload(self) -> None:
        """HUP: end; who called run() begins again."""
        if not self._crew.ending:
            self.reload_asked = True
            self.on_end()

    def on_end(self) -> None:
        """TERM, INT; TERM after HUP is the end."""
        if self._crew.ending:
            self.reload_asked = False
        super().on_end()

    def on_reopen(self) -> None:
        """USR1: new workers."""
        if not self._crew.ending:
            self._crew.reload()


class WSGIServer(server.WSGIServer):
    """Serves a WSGI application in several processes, one request at a time in each. POSIX only.

    Args:
        application, environ, bindAddress, umask, multiplexed, debug, roles, forceCGI: As those of
            fastfcgi.WSGIServer.
        timeout: Seconds after which the worker of a request is replaced; None is never.
        minSpare, maxSpare: Workers that run no request, at least and at most.
        maxChildren: The most workers.
        maxRequests: A worker is replaced after so many; 0 is never.
        sockTimeout: Seconds that a web server may let us wait for part of a body, or for room
            for a response; 0 leaves the limits as they are.
        **options: As those of fastfcgi.WSGIServer: bind, limits, pages.

    Raises:
        ValueError: minSpare is less than 1, or more than maxSpare.
        TypeError: An option that does not exist.
    """

    def __init__(
        self,
        application: WSGIApplication,
        environ: Mapping[str, Any] | None = None,
        bindAddress: "str | tuple[Any, ...] | None" = None,
        umask: int | None = None,
        multiplexed: bool = False,
        debug: bool = False,
        roles: Collection[int] = (constants.RESPONDER,),
        forceCGI: bool = False,
        timeout: float | None = None,
        *,
        minSpare: int = 1,
        maxSpare: int = 5,
        maxChildren: int = 50,
        maxRequests: int = 0,
        sockTimeout: float = 0,
        **options: Any,
    ) -> None:
        if minSpare < 1:
            raise ValueError("minSpare must be at least 1")
        if maxSpare < minSpare:
            raise ValueError("maxSpare must be at least as large as minSpare")
        for name in _IGNORED:
            options.pop(name, None)
        if "maxThreads" in options:
            raise TypeError("there is no option 'maxThreads' here, but maxChildren")
        if sockTimeout:
            options.setdefault("body_timeout", sockTimeout)
            options.setdefault("send_timeout", sockTimeout)
        super().__init__(
            *(application, environ, False, True, bindAddress, umask, multiplexed, debug, roles),
            forceCGI=forceCGI,
            **options,
        )
        self._hook_options = {name: options.get(name) for name in _HOOK_OPTIONS}
        self._settings = _settings(
            *(minSpare, maxSpare, maxChildren, maxRequests, timeout, self.limits.graceful_timeout),
            options.get("protocol", "fastcgi"),
        )
        self._master_pid = 0

    def run(self) -> bool:
        """Serve until TERM or INT, or HUP, with True as the result then; USR1 begins with new
        workers. Started as plain CGI, it answers that request and raises SystemExit(0).

        Raises:
            ConfigurationError: There is nothing to listen on, or this is not the main thread.
            OSError: The system refused the address.
        """
        if self._is_worker:
            return super().run()
        if not hasattr(os, "fork"):
            raise ConfigurationError("this system cannot fork; use fastfcgi.WSGIServer")
        sockets = self._setupSocket()
        if sockets is None:
            self._run_cgi()
        self._listeners = listeners_of(sockets)
        self._master_pid = os.getpid()
        master = _Master(self._settings, self, self._listeners)
        self._ready.set()
        try:
            master.run()
        finally:
            self._master_pid = 0
            self._ready.clear()
            self._cleanupSocket(sockets)
            self._listeners = []
            self.shutdown()
        self._hupReceived = master.reload_asked
        return master.reload_asked

    @property
    def _is_worker(self) -> bool:
        return self._master_pid not in (0, os.getpid())

    def stop(self) -> None:
        """End run(), as TERM does."""
        if self._is_worker:
            super().stop()
        elif self._master_pid:
            os.kill(self._master_pid, signal.SIGTERM)

    def _in_worker(
        self, application: WSGIApplication, *, board: Board, handoff: Pair | None, **others: Any
    ) -> server.WSGIServer:
        """This server, in a process that was forked, with what is its own there.

        What the program has changed since it was made, such as `debug`, stays changed.
        """
        self._ready.clear()
        self._listeners = []
        self._handoff = open_pair(handoff)
        made: dict[str, Any] = self._hook_options
        self._hooks = Hooks(self._threads, lambda: self.snapshot(), board=board, **made)
        return self
