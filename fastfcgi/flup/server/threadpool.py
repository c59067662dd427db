"""flup.server.threadpool: threads for jobs; a job is whatever has a run()."""

import logging
import sys
import threading
from collections import deque
from typing import Final, Protocol

from fastfcgi.flup._version import attribute

__all__ = ["ThreadPool"]

__getattr__ = attribute

logger: Final = logging.getLogger("fastfcgi")


class Job(Protocol):
    """What a pool runs."""

    def run(self) -> object: ...


class ThreadPool:
    """Threads that are started when they are needed, and end when too many have nothing to do.

    Args:
        minSpare: Taken for flup's sake; no thread is started beforehand.
        maxSpare: Threads that may wait for a job.
        maxThreads: The most threads.
    """

    def __init__(self, minSpare: int = 1, maxSpare: int = 5, maxThreads: int = sys.maxsize) -> None:
        self.minSpare = minSpare
        self.maxSpare = maxSpare
        self.maxThreads = max(maxThreads, 1)
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._threads: set[threading.Thread] = set()
        self._idleCount = 0
        self._ended = False

    def addJob(self, job: Job, allowQueuing: bool = True) -> bool:
        """Have a thread run a job.

        Args:
            allowQueuing: Let it wait where no thread is free and no other may be started.

        Returns:
            Whether it will be run.
        """
        with self._changed:
            free = self._idleCount > len(self._jobs)
            full = len(self._threads) >= self.maxThreads
            if self._ended or (not free and full and not allowQueuing):
                return False
            self._jobs.append(job)
            if free or full:
                self._changed.notify()
            else:
                thread = threading.Thread(target=self._work, daemon=True)
                self._threads.add(thread)
                thread.start()
            return True

    def shutdown(self) -> None:
        """Take no more jobs, and wait until those that were taken are done."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._next_job()) is not None:
            try:
                job.run()
            except BaseException:  # SystemExit too: the thread is counted on
                logger.exception("a job failed")

    def _next_job(self) -> Job | None:
        """A job for this thread, None when it is to end."""
        with self._changed:
            self._idleCount += 1
            try:
                while not self._jobs:
                    if self._ended or self._idleCount > self.maxSpare:
                        self._threads.discard(threading.current_thread())
                        return None
                    self._changed.wait()
                return self._jobs.popleft()
            finally:
                self._idleCount -= 1
