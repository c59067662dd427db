"""Signals that a loop takes when it is ready for them, and the moments when none may come."""

import collections
import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from typing import Any, Final

# Bytes that are read off the pipe at once; what they are says nothing, that they came is all.
_READ_SIZE: Final = 4096


class SignalQueue:
    """Notes signals, and wakes up who polls `fd`.

    The handler does nothing but note, so a signal may come at any moment. The pipe may be full:
    who polls wakes up then, too.

    Args:
        numbers: The signals to take.

    Attributes:
        fd: Readable when there may be something to take().
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self.numbers = frozenset(numbers)
        self._noted: collections.deque[int] = collections.deque()
        self._raises: type[BaseException] | None = None
        self._previous: dict[int, Any] = {}
        self.fd, self._wake = os.pipe()
        for end in (self.fd, self._wake):
            os.set_blocking(end, False)
        self._wakeup_before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in self.numbers:
            self._previous[number] = signal.signal(number, self._note)
        # Blocked by the program that became this one, so that none was lost on the way (exec).
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.numbers)

    def _note(self, number: int, frame: Any) -> None:
        self._noted.append(number)
        if self._raises is not None and number in (signal.SIGTERM, signal.SIGINT):
            raise self._raises

    def interrupt(self, error: type[BaseException] | None) -> None:
        """From now on TERM and INT raise an exception wherever the process is, or do so no more.
        For code of others that may take long, and for nothing else."""
        self._raises = error

    def take(self) -> list[int]:
        """The signals since the last call, in their order."""
        # The pipe first: a signal after that leaves a byte there again.
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fd, _READ_SIZE):
                pass
        noted = []
        while self._noted:
            noted.append(self._noted.popleft())
        return noted

    def close(self) -> None:
        """Handle signals as before; those that were not taken are forgotten."""
        for number, handler in self._previous.items():
            # None: it was not set by Python, and cannot be set again by it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self.fd)
        os.close(self._wake)

    def abandon(self) -> None:
        """In a child of fork(), signals still being blocked: leave all to the parent."""
        signal.set_wakeup_fd(-1)
        for number in self.numbers:
            signal.signal(number, signal.SIG_DFL)
        os.close(self.fd)
        os.close(self._wake)


@contextlib.contextmanager
def blocked(numbers: Iterable[int]) -> Iterator[set[Any]]:
    """Hold signals back while the block runs; yields the mask of before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def name_of(number: int) -> str:
    """Such as "TERM"."""
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return str(number)


def ending_of(status: int) -> str:
    """What waitpid() said, in words: "killed by KILL", "exit status 3"."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit status {code}"
    return f"killed by {name_of(-code)}"
