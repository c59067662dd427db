"""Requests that take long: what their threads are doing goes to the slow log."""

import logging
import math
import os
import sys
import traceback
from collections.abc import Callable
from typing import Final

from fastfcgi.board import Board
from fastfcgi.reports import SlowRequest

logger: Final = logging.getLogger("fastfcgi")


def log_slow(slow: SlowRequest) -> None:
    """The slow log of a server that is given none: a warning."""
    logger.warning(
        "a request has been running for %.1f s: %s [%s]\n%s",
        *(slow.seconds, slow.text, slow.request_id, slow.stack.rstrip("\n")),
    )


class SlowWatch:
    """Looks at the requests of a board, and tells of each one that takes long, once.

    Args:
        board: Of a server in this process.
        timeout: Seconds that a request may run.
        log: Called with a SlowRequest, by the thread that looks.
    """

    def __init__(self, board: Board, timeout: float, log: Callable[[SlowRequest], object]) -> None:
        self._board = board
        self._timeout = timeout
        self._log = log
        self._told: set[int] = set()

    def look(self, now: float) -> float:
        """Tell of those that have become slow; returns when to look again.

        Args:
            now: On time.monotonic()'s clock, as the result.
        """
        due = math.inf
        present = set()
        for thread, since, text, number in self._board.watched():
            present.add(number)
            if number in self._told:
                continue
            if now < since + self._timeout:
                due = min(due, since + self._timeout)
            elif self._tell(thread, now - since, text, number):
                self._told.add(number)
        self._told &= present
        return due

    def _tell(self, thread: int, seconds: float, text: str, number: int) -> bool:
        """Returns False for a request that is over by now."""
        frame = sys._current_frames().get(thread)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
        del frame  # it holds whatever the application's variables hold
        # Looked at before it was certain that the thread is still in the same request.
        if all(other != number for _, _, _, other in self._board.watched()):
            return False
        self._board.count(slow=1)
        slow = SlowRequest(f"{os.getpid()}-{number}", seconds, text, thread, stack)
        try:
            self._log(slow)
        except Exception:
            logger.exception("the slow log failed")
        return True
