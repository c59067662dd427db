# cython: language_level=3, freethreading_compatible=True
"""The thread that calls run(): the clock, signals, and calls from other threads.

It sleeps but for a deadline, a tick that somebody asked for, a call, or a signal; nothing wakes up
an idle server.
"""

import logging
import socket
from collections import deque

from cpython.exc cimport PyErr_CheckSignals

from fastfcgi._sys cimport ff_free_mutex, ff_lock, ff_now, ff_unlock

logger = logging.getLogger("fastfcgi")

cdef double NEVER = float("inf")
# Seconds: deadlines are looked at that often while there are any, whatever they say.
cdef double LONGEST_NAP = 3600.0


cdef class Loop:
    """What an engine does besides polling and running requests.

    Args:
        tick: Seconds between the calls of tickers.

    Attributes:
        tickers: Called by run() with time.monotonic().
        deadlines: Called by run() with time.monotonic() when a deadline has come (attend);
            returns the next one.
        wakes_at: When that is.
    """

    def __init__(self, double tick):
        self.tick = tick
        self.wakes_at = NEVER
        self.tickers = set()
        self.soon = deque()
        self.wake_out, self.wake_in = socket.socketpair()
        self.wake_in.setblocking(False)

    def __dealloc__(self):
        ff_free_mutex(&self.mutex)

    cdef int start_thread(self) except -1:
        """One more thread that polls and serves; to be overridden."""
        raise NotImplementedError

    def run(self):
        """Serve until finish() is called."""
        self.start_thread()
        last_tick = ff_now()
        while not self.finished:
            # Handlers of signals are called between lines of Python, and there are none here.
            PyErr_CheckSignals()
            now = ff_now()
            due = min(self.wakes_at, last_tick + self.tick if self.tickers else NEVER)
            if now < due:
                self._wait(due - now)
            while self.soon:
                self._call(self.soon.popleft())
            now = ff_now()
            if self.tickers and now >= last_tick + self.tick:
                last_tick = now
                for ticker in list(self.tickers):
                    self._call(ticker, now)
            if now >= self.wakes_at and self.deadlines is not None:
                self.wakes_at = NEVER
                self.attend(min(self._call(self.deadlines, now) or NEVER, now + LONGEST_NAP))

    def _wait(self, seconds):
        """Until somebody calls wake(), or for so many seconds."""
        self.wake_out.settimeout(None if seconds == NEVER else seconds)
        try:
            self.wake_out.recv(4096)
        except (TimeoutError, BlockingIOError):
            pass

    def _call(self, call, *args):
        try:
            return call(*args)
        except Exception:
            logger.exception("internal error, the server goes on")

    # ---- by any thread ---------------------------------------------------------------------

    cdef int attend(self, double deadline) except -1:
        """Have run() look at the deadlines when this one has come."""
        if deadline >= self.wakes_at:
            return 0
        ff_lock(&self.mutex)
        try:
            if deadline >= self.wakes_at:
                return 0
            self.wakes_at = deadline
        finally:
            ff_unlock(&self.mutex)
        self.wake()
        return 0

    def call_soon(self, call):
        """Have run()'s thread make a call."""
        self.soon.append(call)
        self.wake()

    def wake(self):
        """Let run() look at its state again."""
        try:
            self.wake_in.send(b"\0")
        except OSError:
            pass  # full: it will wake up; closed: it has ended
