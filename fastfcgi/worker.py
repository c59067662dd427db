"""What a worker does between its fork and its end.

Its signals: HUP asks the master to be replaced, so that HUP for all processes at once loses
nothing; USR2 retires it (the master's word); TERM stops it gracefully, QUIT at once; USR1 reopens
log files; INT, which a terminal sends to all, is the master's business.
"""

import atexit
import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from fastfcgi import notify, policy
from fastfcgi.board import FAILED, RETIRING, SERVING, STOPPING, Board
from fastfcgi.crew import NOT_LOADED
from fastfcgi.engine import READ
from fastfcgi.exceptions import ConfigurationError, FastCGIError
from fastfcgi.handler import Handler
from fastfcgi.handoff import Others
from fastfcgi.master_settings import MasterSettings
from fastfcgi.orders import ORDERS
from fastfcgi.privileges import Identity
from fastfcgi.reloader import Reloader
from fastfcgi.server import WSGIServer
from fastfcgi.sockets import Listener

logger: Final = logging.getLogger("fastfcgi")

# How a worker ends that cannot become what it shall be, such as another user.
NOT_SET_UP: Final = 4

_FAILED_PAGE: Final = b"The application could not be loaded. The server's log says why.\n"

Application = Callable[..., Any]
ServerFactory = Callable[..., WSGIServer]


@dataclass(frozen=True)
class Duty:
    """What a worker is started with.

    Attributes:
        settings: Of its generation.
        load: Gives the application.
        server: Makes a server of the application and keyword options.
        listeners: What to serve; the files of their sockets are the master's.
        handoff: The two ends by which retiring workers give connections to others.
        board: Its own.
        identity: Whom to become, None to stay.
        failures: How often starting it has failed in a row.
        is_successor: It replaces a worker that serves.
        others: The boards of all workers.
        lifeline: Ends (EOF) when the master does.
        wake: A byte written to it makes the master look at the boards.
        snapshot: For the status page; None leaves the server's own.
    """

    settings: MasterSettings
    load: Callable[[], Application]
    server: ServerFactory
    listeners: list[Listener]
    handoff: tuple[socket.socket, socket.socket] | None
    board: Board
    identity: Identity | None
    failures: int
    is_successor: bool
    others: Callable[[], Iterable[Board]]
    lifeline: int
    wake: int
    snapshot: Callable[[], Any] | None = None

    def others_serve(self) -> bool:
        """Whether there are others that answer."""
        return any(board.state == SERVING for board in self.others())

    def others_free(self) -> bool:
        """Whether another one has a free thread."""
        own = os.getpid()
        return any(
            board.state == SERVING
            and board.pid != own
            and board.busy + board.queued < board.threads
            for board in self.others()
        )

    def show(self, state: int) -> None:
        """Have the master see a state."""
        self.board.state = state
        with contextlib.suppress(OSError):  # full: it wakes up; broken: it is no more
            os.write(self.wake, b"\0")


def run_worker(duty: Duty) -> NoReturn:
    """Be a worker; ends the process, whatever happens. To be called in a child of fork()."""
    status = 1
    try:
        status = _work(duty)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        logger.exception("worker %d ends", os.getpid())
    finally:
        _leave(status)


def _leave(status: int) -> NoReturn:
    """End without going back through the master's code, whose finally blocks are not for us."""
    try:
        # What the application has registered; threads of its own are not waited for.
        run = getattr(atexit, "_run_exitfuncs", None)
        if run is not None:
            run()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
    finally:
        os._exit(status)


def _work(duty: Duty) -> int:
    if not _set_up(duty):
        return NOT_SET_UP
    try:
        _enter(duty.settings)
        if duty.settings.post_fork is not None:
            duty.settings.post_fork()
        server = duty.server(duty.load(), **_options(duty))
    except BaseException as error:
        return _Failure(duty, error).run()
    return _Life(duty, server).run()


def _set_up(duty: Duty) -> bool:
    """Become what the settings say; tells whether it worked."""
    settings = duty.settings
    for name in notify.VARIABLES:
        os.environ.pop(name, None)
    _early_signals()
    duty.board.pid = os.getpid()
    duty.board.started = time.time()
    try:
        if duty.identity is not None:
            duty.identity.take()
        if settings.umask is not None:
            os.umask(settings.umask)
    except (OSError, RuntimeError) as error:
        logger.error("worker %d cannot be set up: %s", os.getpid(), error)
        return False
    return True


def _enter(settings: MasterSettings) -> None:
    """Go where the application is, as the user who shall be able to."""
    if settings.chdir is not None:
        try:
            os.chdir(settings.chdir)
        except OSError as error:
            raise ConfigurationError(f"{settings.chdir}: {error.strerror}") from None


def _early_signals() -> None:
    """Until it serves: TERM and QUIT end it as it stands, the others mean nothing yet."""
    for name in ("SIGTERM", "SIGUSR2", "SIGCHLD"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, lambda *_: os._exit(0))  # its default would dump core
    for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGTTIN", "SIGTTOU"):
        # Not SIG_IGN, which programs that the application starts would inherit.
        signal.signal(getattr(signal, name), _nothing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ORDERS)


def _nothing(*signal_and_frame: object) -> None:
    pass


def _options(duty: Duty) -> dict[str, Any]:
    """What the server is made with."""
    settings = duty.settings
    options: dict[str, Any] = {
        "graceful_timeout": settings.graceful_timeout,
        "multiprocess": settings.most > 1,
        **settings.server_options,
        "bind": [listener.sock for listener in duty.listeners],
        "board": duty.board,
    }
    if duty.handoff is not None:
        options["handoff"] = duty.handoff
    return options


class _Lifeline(Handler):
    """Calls when the master is no more."""

    def __init__(self, fd: int, call: Callable[[], None]) -> None:
        super().__init__(fd)
        self._call = call

    def on_ready(self, mask: int) -> None:
        self._call()


class _Life:
    """A server's run in a worker: signals, the master's end, states.

    Args:
        serves: The state to show when it serves.
    """

    def __init__(self, duty: Duty, server: WSGIServer, serves: int = SERVING) -> None:
        self._duty = duty
        self._server = server
        self._serves = serves
        self._retiring = False
        self._stopping = False
        self._lifeline = _Lifeline(duty.lifeline, self._master_gone)
        # The sockets are opened already. To the server they are its own, so that it accepts who is
        # there before it ends; their files are not known to it, and stay. The engine is there when
        # signals are installed.
        server._setupSocket = self._listeners  # type: ignore[method-assign]
        server._installSignalHandlers = self._install  # type: ignore[method-assign]
        if duty.handoff is not None and duty.settings.most > 1:
            server.others = Others(duty.handoff, duty.others_free)
        if duty.snapshot is not None:
            server.snapshot = duty.snapshot  # type: ignore[method-assign]

    def run(self) -> int:
        """Serve to the end; returns the exit status."""
        if self._duty.settings.reload and self._serves == SERVING:
            Reloader(self._ask, ()).start()
        try:
            self._server.run()
        finally:
            if self._duty.settings.worker_exit is not None and self._serves == SERVING:
                try:
                    self._duty.settings.worker_exit()
                except Exception:
                    logger.exception("worker %d: worker_exit failed", os.getpid())
        return 0

    def _listeners(self) -> list[Listener]:
        return [Listener(one.sock, owned=True) for one in self._duty.listeners]

    def _install(self) -> None:
        handlers = {
            signal.SIGTERM: self.stop,
            signal.SIGQUIT: self._quit,
            signal.SIGHUP: self._ask,
            signal.SIGUSR1: self._reopen,
            signal.SIGUSR2: self._retire,
            signal.SIGINT: _nothing,
        }
        for number, call in handlers.items():
            signal.signal(number, self._soon(call))
        engine = self._server.engine
        engine.watch(self._lifeline, READ)
        engine.call_soon(self._begin)

    def _soon(self, call: Callable[[], None]) -> Callable[..., None]:
        """A handler that does nothing but have run()'s thread make a call: it may come at any
        moment, within a log line for example."""

        def handle(*signal_and_frame: object) -> None:
            try:
                engine = self._server.engine
            except RuntimeError:
                return  # it has ended already
            engine.call_soon(call)

        return handle

    def _begin(self) -> None:
        # By run()'s thread, so that connections are accepted by now.
        if not (self._retiring or self._stopping):
            self._duty.show(self._serves)

    # ---- by run()'s thread -----------------------------------------------------------------

    def _ask(self) -> None:
        """Ask the master for a successor."""
        if not (self._retiring or self._stopping):
            self._duty.show(RETIRING)

    def _retire(self) -> None:
        """End, and give away the connections that others can go on with."""
        if self._retiring or self._stopping:
            return
        self._retiring = True
        self._server.retire()
        self._duty.show(STOPPING)

    def stop(self) -> None:
        """End gracefully; connections are closed, since others end, too."""
        if self._stopping:
            return
        self._stopping = True
        self._server.stop()
        self._duty.show(STOPPING)

    def _quit(self) -> None:
        """End at once."""
        self.stop()
        self._server.stop()

    def _reopen(self) -> None:
        if self._duty.settings.reopen is not None:
            try:
                self._duty.settings.reopen()
            except Exception:
                logger.exception("worker %d: log files cannot be reopened", os.getpid())

    def _master_gone(self) -> None:
        engine = self._server.engine
        engine.unwatch(self._lifeline)
        logger.error("worker %d ends: the master is gone", os.getpid())
        engine.call_soon(self.stop)


class _Failure:
    """A worker whose application could not be loaded: says so, in the log and to clients.

    Where others answer, it is silent for the time that it has to wait before the next try.
    """

    def __init__(self, duty: Duty, error: BaseException) -> None:
        self._duty = duty
        self._changed = threading.Event()
        self._files = _files_of(error)
        self.seconds = policy.back_off(duty.failures + 1)
        again = "" if duty.is_successor else f", again in {self.seconds:g} s"
        # An error of ours is one line for a person; others need their traceback.
        shown = None if isinstance(error, FastCGIError) else error
        what = str(error) if shown is None else f"{type(error).__name__}: {error}".rstrip(": ")
        logger.error(
            "worker %d: the application could not be loaded%s: %s",
            *(os.getpid(), again, what),
            exc_info=shown,
        )

    def run(self) -> int:
        """Wait; returns the exit status."""
        duty = self._duty
        if duty.is_successor:
            duty.show(FAILED)
        elif duty.others_serve():
            duty.show(FAILED)
            self._watch(self._changed.set)
            self._wait()
        else:
            self._serve()
        return NOT_LOADED

    def _watch(self, call: Callable[[], None]) -> None:
        if self._duty.settings.reload:
            Reloader(call, self._files).start()

    def _wait(self) -> None:
        """Until it is time, a file has changed, or the master is gone."""
        end = time.monotonic() + self.seconds
        while not self._changed.is_set() and (left := end - time.monotonic()) > 0:
            if select.select([self._duty.lifeline], [], [], min(left, 0.2))[0]:
                return

    def _serve(self) -> None:
        duty = self._duty
        options: dict[str, Any] = {
            "threads": 1,
            "protocol": duty.settings.server_options.get("protocol", "fastcgi"),
            "bind": [listener.sock for listener in duty.listeners],
            "board": duty.board,
        }
        if duty.handoff is not None:
            options["handoff"] = duty.handoff
        life = _Life(duty, WSGIServer(_failed_application, **options), serves=FAILED)
        duty.board.state = FAILED  # what the server leaves alone
        self._watch(life.stop)
        timer = threading.Timer(self.seconds, life.stop)
        timer.daemon = True
        timer.start()
        life.run()


def _failed_application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response(
        "500 Internal Server Error",
        [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")],
    )
    return [_FAILED_PAGE]


def _files_of(error: BaseException) -> tuple[str, ...]:
    """The files that an error concerns; a module that failed is in sys.modules no more."""
    files = set()
    trace = error.__traceback__
    while trace is not None:
        files.add(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename:
        files.add(error.filename)
    return tuple(files)
