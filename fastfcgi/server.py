"""WSGIServer: a WSGI application behind web servers that speak FastCGI.

Its names are those of flup.server.fcgi, so that changing the import is the whole migration, and
beside them the ones documented first: bind, threads, socket_mode and their like.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from fastfcgi import cgi, constants
from fastfcgi.acceptor import Acceptor, Taker
from fastfcgi.board import Board
from fastfcgi.connection import ConnectionSettings
from fastfcgi.drop_in import (
    FlupNames,
    ThreadPool,
    listeners_of,
    take_pool_options,
    thread_count,
)
from fastfcgi.engine import STOPPING_TICK, Engine
from fastfcgi.environ import checked_mount
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.handoff import Giver, Pair, open_pair
from fastfcgi.hooks import AccessLog, Hooks, SlowLog
from fastfcgi.limits import LIMIT_NAMES, Limits, fitting_connections
from fastfcgi.pages import snapshot_of
from fastfcgi.service import Service
from fastfcgi.sockets import (
    DEFAULT_BACKLOG,
    Listener,
    SocketOptions,
    allowed_peers,
    reserve_standard_fds,
)
from fastfcgi.wsgi import Gateway, WSGIApplication

if TYPE_CHECKING:
    from fastfcgi.status import Snapshot

logger: Final = logging.getLogger("fastfcgi")


# What web servers may speak, and whether it is SCGI.
PROTOCOLS: Final = {"fastcgi": False, "scgi": True}


class WSGIServer(FlupNames):
    """Serves a WSGI application over FastCGI 1.0, or over SCGI.

    Args:
        application: The WSGI callable (PEP 3333).
        environ: Entries that replace what the web server sends, for every request.
        multithreaded: Run requests in several threads; False means one at a time.
        multiprocess: What wsgi.multiprocess says.
        bindAddress: flup's way to name one address: None for descriptor 0, a str for the path
            of a unix socket, a tuple (host, port) for TCP.
        umask: Set while a unix socket is bound.
        multiplexed: Taken for flup's sake; requests of one connection always run side by side.
        debug: Show tracebacks to clients.
        roles: The FastCGI roles served: 1 responder, 2 authorizer, 3 filter.
        forceCGI: Serve one request as plain CGI, whatever descriptor 0 is.
        bind: An address or a list of them: "unix:/path", "unix:@abstract", "host:port",
            "[::1]:port", "fd:N", "systemd", (host, port), a listening socket. Without any, the
            socket that this process was started with: systemd's, or descriptor 0.
        threads: The most threads; each is started when it is first needed.
        socket_mode: Permissions of a unix socket, such as 0o660.
        socket_owner, socket_group: Name or number of its owner and group.
        backlog: Connections that the kernel lets wait.
        ping_path: A request whose SCRIPT_NAME + PATH_INFO is this is answered with "pong", at
            once, even when every thread is busy and the queue is full.
        status_path: The same for the page of fastfcgi.status.
        access_log: Called with an AccessRecord (fastfcgi.reports) after each request.
        slow_timeout: Seconds after which slow_log is told of a request that still runs.
        slow_log: Called with a SlowRequest, once for each; by default it is a warning.
        board: Shows other processes what the server does; for at least as many threads.
        handoff: A connected pair of unix stream sockets. Connections come by the second one, and
            go by the first one after retire().
        mount: The path that the application is mounted at, such as "/app"; "" or "/" is the root.
            It becomes SCRIPT_NAME, and what follows it PATH_INFO, wherever the web server puts
            which part of the path; what is not below it is answered with 404. None leaves both as
            the web server sends them.
        protocol: "fastcgi" or "scgi". SCGI has one request on a connection, and no stream for
            wsgi.errors, which goes to stderr.
        **options: The fields of fastfcgi.limits.Limits by name; flup's maxThreads (as threads),
            minSpare and maxSpare.

    Raises:
        TypeError: An option that does not exist.
        ConfigurationError: A value that cannot be served.
    """

    def __init__(
        self,
        application: WSGIApplication,
        environ: Mapping[str, Any] | None = None,
        multithreaded: bool = True,
        multiprocess: bool = False,
        bindAddress: "str | tuple[Any, ...] | None" = None,
        umask: int | None = None,
        multiplexed: bool = False,
        debug: bool = False,
        roles: Collection[int] = (constants.RESPONDER,),
        forceCGI: bool = False,
        *,
        bind: Any = None,
        threads: int | None = None,
        socket_mode: int | None = None,
        socket_owner: str | int | None = None,
        socket_group: str | int | None = None,
        backlog: int = DEFAULT_BACKLOG,
        ping_path: str | None = None,
        status_path: str | None = None,
        access_log: AccessLog | None = None,
        slow_timeout: float | None = None,
        slow_log: SlowLog | None = None,
        board: Board | None = None,
        handoff: Pair | None = None,
        mount: str | None = None,
        protocol: str = "fastcgi",
        **options: Any,
    ) -> None:
        super().__init__()
        if bind is not None and bindAddress is not None:
            raise ConfigurationError("bind and bindAddress name the same thing; use one")
        self._mount = checked_mount(mount)
        if mount is not None and {"SCRIPT_NAME", "PATH_INFO"} & (environ or {}).keys():
            raise ConfigurationError("mount and environ both say where the application is; use one")
        if protocol not in PROTOCOLS:
            raise ConfigurationError(f"protocol={protocol!r} is not fastcgi or scgi")
        self._scgi = PROTOCOLS[protocol]
        if self._scgi and tuple(roles) != (constants.RESPONDER,):
            raise ConfigurationError(f"roles={tuple(roles)!r}: SCGI knows responders alone")
        if not callable(application):
            raise TypeError(f"application is not callable: {application!r}")
        self.application = application
        self.environ = dict(environ or {})
        self.multithreaded = multithreaded
        self.multiprocess = multiprocess
        self.debug = debug
        self.roles = tuple(roles)
        self.forceCGI = forceCGI
        self._bindAddress = bindAddress
        self._umask = umask
        self._bind = bind
        self._socket_options = SocketOptions(
            backlog, umask, socket_mode, socket_owner, socket_group
        )
        pool = take_pool_options(options)
        unknown = sorted(set(options) - LIMIT_NAMES)
        if unknown:
            raise TypeError(f"WSGIServer has no option {unknown[0]!r}")
        self.limits = Limits(**options)
        self._threads = thread_count(threads, pool, multithreaded)
        self._threadPool = ThreadPool(self._threads, **pool)
        self._hooks = Hooks(
            *(self._threads, lambda: self.snapshot(), ping_path, status_path),
            *(access_log, slow_timeout, slow_log, board),
        )
        self._handoff = open_pair(handoff)
        self.max_connections = fitting_connections(self.limits.max_connections)
        self.capability = self._capability()
        self._appLock = threading.Lock()
        self._web_server_addrs: str | None = None
        self._ready = threading.Event()
        self._stopping_until: float | None = None
        self._giver: Giver | None = None  # while it retires
        self._acceptors: list[Acceptor] = []
        self._sockets: Any = None  # what _setupSocket gave, for _cleanupSocket
        self._listeners: list[Listener] = []
        self._engine: Engine | None = None
        self._service: Service | None = None

    def _capability(self) -> dict[str, str]:
        """What GET_VALUES is answered with (spec 4.1)."""
        per_connection = self.limits.max_requests_per_connection
        requests = min(self._threads + self.limits.queue_size, per_connection)
        return {
            constants.MAX_CONNS: str(self.max_connections),
            constants.MAX_REQS: str(requests),
            constants.MPXS_CONNS: "1" if per_connection > 1 else "0",
        }

    # ---- running --------------------------------------------------------------------------

    def run(self) -> bool:
        """Serve until stopped by a signal or stop().

        On the main thread SIGINT, SIGTERM and SIGUSR1 (unless the application handles that)
        stop the server and SIGHUP does so too, with True as the result; on any other thread
        signals are left alone. Started as plain CGI, it answers that request and raises
        SystemExit(0).

        Returns:
            True after SIGHUP (flup's scripts then start again), else False.

        Raises:
            ConfigurationError: There is nothing to listen on, or not as the options say.
            OSError: The system refused the address.
        """
        reserve_standard_fds()
        self._web_server_addrs = os.environ.get("FCGI_WEB_SERVER_ADDRS")
        self._allowed = allowed_peers(self._web_server_addrs)
        self._sockets = self._setupSocket()
        if self._sockets is None:
            self._run_cgi()
        self._hupReceived = False
        try:
            self._listeners = listeners_of(self._sockets)
            self._gateway = self._new_gateway(run_once=False)
            board = self._hooks.begin()
            self._engine = Engine(self._threads, self.limits.queue_size, board=board)
            self._threadPool.engine = self._engine
            self._service = self._new_service()
            with self._signals():
                self._serve()
        finally:
            self._close()
        return self._hupReceived

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Handle signals, where they can be handled: on the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        try:
            self._installSignalHandlers()
            wakeup = signal.set_wakeup_fd(self.engine.wake_in.fileno(), warn_on_full_buffer=False)
            try:
                yield
            finally:
                signal.set_wakeup_fd(wakeup)
        finally:
            self._restoreSignalHandlers()

    def stop(self) -> None:
        """End run(): begin no request, finish those that run. From any thread or signal
        handler; a second call ends it without waiting for them."""
        second = not self._going and self._giver is None
        self._going, self._giver = False, None
        if second:
            self._hupReceived = False  # TERM after HUP is the end
        engine = self._engine  # read once: run() may be ending in another thread
        if engine is not None:
            engine.call_soon(engine.finish if second else self._begin_stop)

    def retire(self) -> None:
        """As stop(), but connections that web servers keep are not closed: each is handed to
        another process as soon as no request is under way on it. Without `handoff` it is stop().
        A stop() after it keeps the patience, but hands over no more."""
        if self._handoff is None:
            self.stop()
        elif self._going:
            self._going, self._giver = False, Giver(self._handoff[0])
            engine = self._engine
            if engine is not None:
                engine.call_soon(self._begin_stop)

    def snapshot(self) -> "Snapshot":
        """What the status page shows. A server that is one of several may override this.

        Raises:
            RuntimeError: Nobody keeps count: no status_path, slow_timeout or board was given.
        """
        if self._hooks.board is None:
            raise RuntimeError("the server has no board")
        return snapshot_of(self._hooks.board, self._threads, self.addresses)

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait, in another thread than run()'s, until the sockets listen.

        Args:
            timeout: Seconds, None for ever.

        Returns:
            Whether they do.
        """
        return self._ready.wait(timeout)

    @property
    def engine(self) -> Engine:
        """The loop of the present run()."""
        if self._engine is None:
            raise RuntimeError("the server is not running")
        return self._engine

    @property
    def addresses(self) -> list[Any]:
        """Where it listens: paths of unix sockets ("\\0name" if abstract), tuples for TCP."""
        return [listener.address for listener in self._listeners]

    def _serve(self) -> None:
        assert self._service is not None
        self._acceptors = [Acceptor(one, self, self._service) for one in self._listeners]
        if self._handoff is not None:
            pair_end = Listener(self._handoff[1], owned=False)
            self._acceptors.append(Taker(pair_end, self, self._service))
        self._hooks.serving()
        self.resume_accepting()
        if self._overrides("_mainloopPeriodic"):
            self.engine.tickers.add(lambda now: self._mainloopPeriodic())
        self._ready.set()
        if not self._going:
            self._begin_stop()
        self.engine.run()

    def _close(self) -> None:
        """The end of run(), however it came: nothing of it is left."""
        self._acceptors = []
        for channel in list(self.channels):
            channel.on_failure()
        self._cleanupSocket(self._sockets)
        self._listeners = []
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()
        self._ready.clear()
        self._going, self._stopping_until, self._giver = True, None, None
        self.shutdown()

    def _begin_stop(self) -> None:
        """By the loop's thread: no new connection, no new request. A second time when a server
        that retires is to stop."""
        first = self._stopping_until is None
        if first:
            self._end_accepting()
        service, giver = self._service, self._giver
        if service is not None and (first or service.retiring):
            if giver is not None:
                service.giver = giver.give
            service.retiring = giver is not None
            service.stopping = True  # for those that are just being accepted
            for channel in list(self.channels):
                channel.on_stop() if giver is None else channel.on_retire()
        if first:
            self.engine.tick = STOPPING_TICK
            self.engine.tickers.add(self._check_stopped)
            self._check_stopped(time.monotonic())

    def _end_accepting(self) -> None:
        self._hooks.stopping()
        self._stopping_until = time.monotonic() + self.limits.graceful_timeout
        # Who comes now is refused and can go elsewhere; who was there before is served. Sockets
        # that others opened stay, for others may serve them.
        for acceptor in self._acceptors:
            acceptor.pause()
            if acceptor.listener.owned or self._giver is not None:
                acceptor.drain()
            if acceptor.listener.owned:
                acceptor.listener.close()
        self._listeners = [listener for listener in self._listeners if not listener.owned]

    def _check_stopped(self, now: float) -> None:
        engine, giver = self.engine, self._giver
        if giver is not None and giver.failed:
            self._giver = None
            self._begin_stop()
        elif giver is not None:
            for channel in list(self.channels):
                channel.on_retire()
        accepting = any(acceptor.accepting for acceptor in self._acceptors)
        if not (self.channels or accepting or engine.busy or engine.pending):
            engine.finish()
        elif self._stopping_until is not None and now >= self._stopping_until:
            logger.error(
                "stopped after graceful_timeout=%s s with %d requests unfinished",
                self.limits.graceful_timeout,
                engine.busy + engine.pending,
            )
            engine.finish()

    def _run_cgi(self) -> None:
        request = cgi.standard_request()
        self._gateway = self._new_gateway(run_once=True)
        self.handler(request)
        sys.exit(1 if request.abandoned else 0)

    def _new_gateway(self, run_once: bool) -> Gateway:
        given = self._bindAddress is not None or self._bind is not None
        return Gateway(
            self.application,
            environ=self.environ,
            multithread=self._threads > 1 and not run_once,
            multiprocess=self.multiprocess,
            run_once=run_once,
            debug=self.debug,
            tee_errors=given or (self._scgi and not run_once),
            error_page=self.error,
            names_requests=self._hooks.names_requests,
            mount=self._mount,
        )

    def _overrides(self, name: str) -> bool:
        return getattr(type(self), name) is not getattr(WSGIServer, name) or name in vars(self)

    def _new_service(self) -> Service:
        """What the connections of this run share."""
        limits = self.limits
        assert self._gateway is not None
        settings = ConnectionSettings(
            roles=self.roles,
            max_params_bytes=limits.max_params_bytes,
            max_params_pairs=limits.max_params_pairs,
            max_requests=limits.max_requests_per_connection,
            max_unread_stdin=limits.max_unread_stdin,
            max_unread_total=limits.max_unread_total,
            reserved=b"wsgi.",
            values=self.capability,
            base=self._gateway.base,
        )
        service = Service(
            self, self.engine, self._gateway, limits, settings, self.max_connections,
            overridden=self._overrides("handler"), scgi=self._scgi,
        )
        self.engine.deadlines = service.on_deadline
        self._hooks.install(service)
        return service

    # ---- for channels and acceptors -------------------------------------------------------

    @property
    def channels(self) -> "set[Any]":
        """The connections that are open."""
        return set() if self._service is None else self._service.channels

    @property
    def checks_peers(self) -> bool:
        """Whether _isClientAllowed has to be asked about each peer."""
        return self._allowed is not None or self._overrides("_isClientAllowed")

    def resume_accepting(self) -> None:
        """Accept connections, unless the server stops."""
        if self._stopping_until is None:
            for acceptor in self._acceptors:
                acceptor.resume()


class SCGIServer(WSGIServer):
    """WSGIServer with protocol="scgi".

    Args:
        application, *arguments, **options: As those of WSGIServer.
    """

    def __init__(self, application: WSGIApplication, *arguments: Any, **options: Any) -> None:
        super().__init__(application, *arguments, **{"protocol": "scgi", **options})
