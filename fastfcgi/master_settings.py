"""What the master is told: how many workers, as whom, for how long."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from fastfcgi.drop_in import DEFAULT_THREADS
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.sockets import SocketOptions

MODES: Final = ("static", "dynamic", "ondemand")

# All of them cost at least a process; more than this is a mistake in typing.
MOST_WORKERS: Final = 2000

# Taken at the start; a reload that brings another value says that it needs a restart.
FIXED: Final = ("bind", "socket_options", "user", "group", "pidfile", "preload")


@dataclass
class MasterSettings:
    """What the master is told. Times are seconds, sizes are bytes.

    Attributes:
        bind: Addresses as open_listeners takes them; None serves what the process was started
            with: systemd's sockets, else descriptor 0.
        socket_options: How listening sockets are opened.
        mode: "static" keeps `workers`; "dynamic" keeps min_spare to max_spare of them without a
            request; "ondemand" starts one when somebody waits, and ends those idle.
        workers: How many in static mode.
        min_spare, max_spare: In dynamic mode: workers without a request, at least and at most.
        start_workers: How many to begin with in dynamic mode; None is the middle of the two.
        max_workers: The most in dynamic and ondemand mode.
        idle_timeout: How long a worker is idle before it is ended in those modes.
        max_requests: A worker is replaced after so many (looked at once a second); 0 is never.
        max_requests_jitter: At most so many more, chosen for each worker.
        max_memory: A worker that holds more (RSS) is replaced; 0 is never.
        hard_timeout: A worker with a request that runs for longer is replaced; None is never.
        graceful_timeout: How long requests may take to finish when their worker ends.
        start_timeout: How long loading the application may take; a worker that takes longer is
            killed. Also for the check before the master is replaced.
        user, group: Whom workers run as, by name or number; None: as the master.
        umask, chdir: Of the workers.
        pidfile: Path of the file with the master's process id.
        preload: Load the application once, before the workers are forked.
        post_fork: Called without arguments in each worker before the application is loaded, as
            the worker's user.
        worker_exit: The same at a worker's end, after its last request.
        reopen: Called on USR1, in the master and then in each worker: reopen log files.
        reload: Replace a worker when a module that it has loaded changes (development).
        command: The program and its arguments as they were started, for USR2; None: USR2 is not
            to be had. With "--check" after them they only check.
        server_options: Keyword arguments of the server in each worker, such as threads.

    Raises:
        ConfigurationError: A value that makes no sense.
    """

    bind: "list[Any] | None" = None
    socket_options: SocketOptions = field(default_factory=SocketOptions)
    mode: str = "static"
    workers: int = 1
    min_spare: int = 1
    max_spare: int = 3
    start_workers: int | None = None
    max_workers: int = 10
    idle_timeout: float = 10.0
    max_requests: int = 0
    max_requests_jitter: int = 0
    max_memory: int = 0
    hard_timeout: float | None = None
    graceful_timeout: float = 30.0
    start_timeout: float = 120.0
    user: str | int | None = None
    group: str | int | None = None
    umask: int | None = None
    chdir: str | None = None
    pidfile: str | None = None
    preload: bool = False
    post_fork: Callable[[], object] | None = None
    worker_exit: Callable[[], object] | None = None
    reopen: Callable[[], object] | None = None
    reload: bool = False
    command: "list[str] | None" = None
    server_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigurationError(f"mode is one of {', '.join(MODES)}, not {self.mode!r}")
        for name in ("workers", "max_workers", "min_spare"):
            self._within(name, 1, MOST_WORKERS)
        if self.max_spare < self.min_spare:
            raise ConfigurationError(
                f"max_spare={self.max_spare} is less than min_spare={self.min_spare}"
            )
        if self.mode == "dynamic" and self.min_spare > self.max_workers:
            raise ConfigurationError(
                f"min_spare={self.min_spare} is more than max_workers={self.max_workers}"
            )
        if self.start_workers is not None:
            self._within("start_workers", 1, self.max_workers)
        for name in ("max_requests", "max_requests_jitter", "max_memory", "graceful_timeout"):
            if not getattr(self, name) >= 0:  # so that NaN is refused, too
                raise ConfigurationError(f"{name}={getattr(self, name)!r} is less than 0")
        for name in ("idle_timeout", "start_timeout", "hard_timeout"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigurationError(f"{name}={value!r} is not more than 0")

    def _within(self, name: str, least: int, most: int) -> None:
        value = getattr(self, name)
        if not least <= value <= most:
            raise ConfigurationError(f"{name}={value!r} is not between {least} and {most}")

    @property
    def most(self) -> int:
        """The most workers that serve at once."""
        return self.workers if self.mode == "static" else self.max_workers

    @property
    def first(self) -> int:
        """How many workers to begin with."""
        if self.mode == "static":
            return self.workers
        if self.mode == "ondemand":
            return 0
        middle = (self.min_spare + self.max_spare) // 2
        return min(self.start_workers or middle, self.max_workers)

    @property
    def threads(self) -> int:
        """The most requests of one worker at once."""
        if self.server_options.get("multithreaded") is False:
            return 1
        given = self.server_options.get("threads") or self.server_options.get("maxThreads")
        return int(given or DEFAULT_THREADS)

    @property
    def looks(self) -> bool:
        """Whether the workers have to be looked at once a second."""
        watches = self.max_requests or self.max_memory or self.hard_timeout
        return self.mode != "static" or bool(watches)
