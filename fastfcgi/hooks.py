"""What of a running server can be seen, and who is told of it: WSGIServer's options for that."""

import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fastfcgi.board import SERVING, STARTING, STOPPING, Board
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.pages import pages_of
from fastfcgi.reports import AccessRecord, SlowRequest
from fastfcgi.service import Service
from fastfcgi.slow_watch import SlowWatch, log_slow

if TYPE_CHECKING:
    from fastfcgi.status import Snapshot

logger: Final = logging.getLogger("fastfcgi")

AccessLog: TypeAlias = Callable[[AccessRecord], object]
SlowLog: TypeAlias = Callable[[SlowRequest], object]


class Hooks:
    """Pages, logs and the board of one server.

    Args:
        threads: The most requests that run at once.
        snapshot: Makes what a status page shows.
        ping_path, status_path, access_log, slow_timeout, slow_log, board: As WSGIServer has them.

    Attributes:
        board: Of the present run; None where nobody looks at one.
        pages: Path -> page.
        names_requests: There is a log in which applications may want to find their requests.

    Raises:
        ConfigurationError: A value that cannot be served.
    """

    def __init__(
        self,
        threads: int,
        snapshot: Callable[[], "Snapshot"],
        ping_path: str | None,
        status_path: str | None,
        access_log: AccessLog | None,
        slow_timeout: float | None,
        slow_log: SlowLog | None,
        board: Board | None,
    ) -> None:
        for name, log in (("access_log", access_log), ("slow_log", slow_log)):
            if log is not None and not callable(log):
                raise ConfigurationError(f"{name} is not callable: {log!r}")
        if slow_timeout is not None and not _is_time(slow_timeout):
            raise ConfigurationError(f"slow_timeout={slow_timeout!r} is not a time of more than 0")
        if board is not None and board.threads < threads:
            raise ConfigurationError(f"threads={threads}, but its board is for {board.threads}")
        self.pages = pages_of(ping_path, status_path, snapshot)
        self.board = board
        self._threads = threads
        self._given_board = board
        self.names_requests = access_log is not None or slow_timeout is not None
        self._needs_board = status_path is not None or slow_timeout is not None
        self._access_log = access_log
        self._slow_timeout = slow_timeout
        self._slow_log = slow_log or log_slow

    def begin(self) -> Board | None:
        """A run begins; returns the board for its engine."""
        self.board = self._given_board
        if self.board is None and self._needs_board:
            self.board = Board(self._threads)
        if self.board is not None:
            self.board.pid = os.getpid()
            self.board.started = self.board.started or time.time()
        return self.board

    def install(self, service: Service) -> None:
        """Have the connections of a run tell what is asked for."""
        service.pages = self.pages
        service.access_log = self._access_log
        if self._slow_timeout is not None and self.board is not None:
            watch = SlowWatch(self.board, self._slow_timeout, self._slow_log)
            service.engine.slow_timeout = self._slow_timeout
            service.engine.deadlines = lambda now: min(service.on_deadline(now), watch.look(now))

    def serving(self) -> None:
        """The server listens. What was said of it before, such as FAILED, stays true."""
        if self.board is not None and self.board.state == STARTING:
            self.board.state = SERVING

    def stopping(self) -> None:
        """It begins no more requests."""
        if self.board is not None:
            self.board.state = STOPPING


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9
