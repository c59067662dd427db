"""The loop that waits for sockets, and the threads that run requests.

The seam to the rest is narrow: handlers (something with a descriptor) are watched and told what is
ready; jobs (callables) are run by a bounded pool. Nothing here knows FastCGI.
"""

import logging
import queue
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

logger: Final = logging.getLogger("fastfcgi")

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE

# How exact timeouts are, in seconds; there are no ticks while nothing needs them.
TICK: Final = 1.0
# The same while the server stops, so that it ends soon after its last request.
STOPPING_TICK: Final = 0.05


class Handler(Protocol):
    """Something with a descriptor that the loop watches. All methods are called by the loop."""

    def fileno(self) -> int: ...

    def on_ready(self, mask: int) -> None:
        """READ or WRITE or both would not block."""

    def on_tick(self, now: float) -> None:
        """About once every TICK seconds; now is time.monotonic()."""

    def on_failure(self) -> None:
        """on_ready or on_tick raised: close and forget."""


class Pool:
    """A bounded pool of threads, each started when it is first needed.

    Args:
        threads: The most threads.
        queue_size: The most jobs waiting for one.
    """

    def __init__(self, threads: int, queue_size: int) -> None:
        self.threads = threads
        self.queue_size = queue_size
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._unfinished = 0  # jobs that were submitted and have not ended

    @property
    def busy(self) -> int:
        """Threads that are running a job, or are about to."""
        return min(self._unfinished, self._started)

    @property
    def idle(self) -> int:
        """Threads that wait for a job."""
        return self._started - self.busy

    @property
    def pending(self) -> int:
        """Jobs that wait for a thread."""
        return self._unfinished - self.busy

    def submit(self, job: Callable[[], None]) -> bool:
        """Have a job run by some thread; False when every thread is busy and the queue full."""
        with self._lock:
            if self._unfinished >= self._started and self._started < self.threads:
                self._start_thread()
            if self._started == 0:
                return False
            # Up to one job for each thread needs no room in the queue.
            if self._unfinished >= self._started + self.queue_size:
                return False
            self._unfinished += 1
        self._jobs.put(job)
        return True

    def close(self) -> None:
        """Let idle threads end, and busy ones after the jobs that are queued."""
        for _ in range(self._started):
            self._jobs.put(None)

    def _start_thread(self) -> None:
        """One more thread, if the system lets us."""
        name = f"fastfcgi-{self._started + 1}"
        try:
            threading.Thread(target=self._work, name=name, daemon=True).start()
        except RuntimeError as error:
            # Shared hosting limits threads: go on with those that there are.
            logger.warning("cannot start another thread: %s", error)
            self.threads = max(self._started, 1)
        else:
            self._started += 1

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except BaseException:
                logger.exception("a job of the thread pool failed")
            del job  # not kept alive by a thread that waits
            with self._lock:
                self._unfinished -= 1


class Engine:
    """Watches handlers and runs jobs.

    Args:
        pool: Runs the jobs.

    Attributes:
        tick: Seconds between ticks.
        tickers: Called at each tick with time.monotonic(), beside the handlers.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.tick = TICK
        self.tickers: set[Callable[[float], None]] = set()
        self._selector = selectors.DefaultSelector()
        self._handlers: set[Handler] = set()
        self._ticking: set[Handler] = set()
        self._soon: deque[Callable[[], None]] = deque()
        self._finished = False
        self._wake_out, self.wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self.wake_in.setblocking(False)
        self._selector.register(self._wake_out, READ)

    # ---- by the loop's thread -------------------------------------------------------------

    def watch(self, handler: Handler, mask: int, tick: bool = True) -> None:
        """Watch handler for what mask says from now on; 0 for nothing but ticks, if those."""
        self._handlers.add(handler)
        if tick:
            self._ticking.add(handler)
        try:
            key = self._selector.get_key(handler)
        except KeyError:
            if mask:
                self._selector.register(handler, mask)
            return
        if not mask:
            self._selector.unregister(handler)
        elif key.events != mask:
            self._selector.modify(handler, mask)

    def forget(self, handler: Handler) -> None:
        """Watch handler no longer; to be called before its descriptor is closed."""
        self._handlers.discard(handler)
        self._ticking.discard(handler)
        try:
            self._selector.unregister(handler)
        except (KeyError, ValueError):
            pass

    def dispatch(self, handler: Handler, mask: int | None) -> None:
        """Tell a handler what is ready, or None for a tick. A handler's bug ends that handler,
        not the server."""
        try:
            if handler not in self._handlers:
                return  # forgotten since it was found ready
            if mask is None:
                handler.on_tick(time.monotonic())
            else:
                handler.on_ready(mask)
        except Exception:
            logger.exception("internal error, the connection is closed")
            handler.on_failure()

    def run(self) -> None:
        """Serve until finish() is called."""
        last_tick = time.monotonic()
        while not self._finished:
            timeout = None
            if self._ticking or self.tickers:
                timeout = max(0.0, last_tick + self.tick - time.monotonic())
            for key, mask in self._selector.select(timeout):
                if key.fileobj is self._wake_out:
                    self._drain_wakeups()
                else:
                    self.dispatch(key.fileobj, mask)  # type: ignore[arg-type]
            self._make_calls()
            now = time.monotonic()
            if now >= last_tick + self.tick:
                last_tick = now
                for ticker in list(self.tickers):
                    ticker(now)
                for handler in list(self._ticking):
                    self.dispatch(handler, None)

    def close(self) -> None:
        """Give back what the engine holds; running jobs go on."""
        self.pool.close()
        self._selector.close()
        self._wake_out.close()
        self.wake_in.close()

    def _make_calls(self) -> None:
        while self._soon:
            try:
                self._soon.popleft()()
            except Exception:
                logger.exception("internal error, the server goes on")

    def _drain_wakeups(self) -> None:
        try:
            while self._wake_out.recv(4096):
                pass
        except BlockingIOError:
            pass

    # ---- by any thread --------------------------------------------------------------------

    def call_soon(self, call: Callable[[], None]) -> None:
        """Have the loop's thread make a call."""
        self._soon.append(call)
        self.wake()

    def wake(self) -> None:
        """Let the loop look at its state again."""
        try:
            self.wake_in.send(b"\0")
        except (BlockingIOError, OSError):
            pass  # full: it will wake up; closed: it has ended

    def finish(self) -> None:
        """Let run() return."""
        self._finished = True
        self.wake()
