"""How a master becomes another program, a new version of itself as a rule, in the same process.

What it holds is inherited: descriptors stay open over exec, and one environment variable says
which is what. Workers are not touched; they are children of the process, and stay so.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from fastfcgi import notify

logger: Final = logging.getLogger("fastfcgi")

# Not FASTFCGI_*: these are settings.
VARIABLE: Final = "_FASTFCGI_MASTER"
# Tells a check which files the master has already, and keeps.
_HELD_FILES: Final = "_FASTFCGI_HELD_FILES"
# Another number for every other meaning of what is below.
_FORMAT: Final = 1


@dataclass
class HeldListener:
    """A listening socket: what it was opened as, and what Listener knows about it."""

    key: str
    fd: int
    owned: bool
    path: str | None
    inode: list[int] | None


@dataclass
class HeldWorker:
    """A worker. told: the signal that it was told to end with, 0 while it was not."""

    pid: int
    place: int | None
    generation: int
    told: int
    kill_at: float | None
    ready: bool


@dataclass
class Estate:
    """All that the next master gets.

    Attributes:
        pid: Of the process; in any other process the estate is not ours.
        handoff, wake, lifeline: Pairs of descriptors.
        memory, places, threads: The scoreboard: descriptor and layout.
    """

    pid: int
    listeners: list[HeldListener]
    handoff: list[int]
    wake: list[int]
    lifeline: list[int]
    memory: int
    places: int
    threads: int
    generation: int
    restarts: int
    started: float
    workers: list[HeldWorker] = field(default_factory=list)
    format: int = _FORMAT

    @property
    def descriptors(self) -> list[int]:
        """All that have to stay open."""
        fds = [one.fd for one in self.listeners]
        return [*fds, *self.handoff, *self.wake, *self.lifeline, self.memory]

    def dumps(self) -> str:
        """As text, for loads()."""
        return json.dumps(asdict(self))


def loads(text: str) -> Estate | None:
    """What dumps() gave; None when it is not for this process."""
    try:
        found: dict[str, Any] = json.loads(text)
        if (found["format"], found["pid"]) != (_FORMAT, os.getpid()):
            return None
        found["listeners"] = [HeldListener(**one) for one in found["listeners"]]
        found["workers"] = [HeldWorker(**one) for one in found["workers"]]
        return Estate(**found)
    except (ValueError, KeyError, TypeError):
        return None


def inherit(environ: MutableMapping[str, str] = os.environ) -> Estate | None:
    """The estate of the master that this process was before; None when it was none.

    Its descriptors are closed on exec from now on, and the variable is gone.
    """
    text = environ.pop(VARIABLE, None)
    estate = loads(text) if text else None
    if text and estate is None:
        logger.error("what the former master left cannot be read; its workers will end")
    if estate is not None:
        for fd in estate.descriptors:
            os.set_inheritable(fd, False)
    return estate


def working_directory() -> str:
    """Where we are, as it was named: a symbolic link that is another one's by then leads the next
    program to where it shall be."""
    here, named = os.getcwd(), os.environ.get("PWD", "")
    with contextlib.suppress(OSError):
        if os.path.isabs(named) and os.path.samefile(here, named):
            return named
    return here


def become(command: list[str], folder: str, estate: Estate) -> None:
    """Run the command in this process; returns only when that cannot be done.

    Args:
        command: Program and arguments.
        folder: The directory to run it in.
        estate: Left to it.

    Raises:
        OSError: It cannot be run; everything is as it was.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    environ = {**os.environ, VARIABLE: estate.dumps()}
    here = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with _kept_open(estate.descriptors):
            os.chdir(folder)
            os.execvpe(command[0], command, environ)
    finally:
        os.fchdir(here)
        os.close(here)


@contextlib.contextmanager
def _kept_open(fds: list[int]) -> Iterator[None]:
    for fd in fds:
        os.set_inheritable(fd, True)
    try:
        yield
    finally:
        for fd in fds:
            os.set_inheritable(fd, False)


class Check:
    """The command run with --check, in a child, while the master goes on.

    Args:
        command: Program and arguments.
        folder: The directory to run it in.
        seconds: How long it may take.
        held: Files that the next master gets, so that it need not be allowed to make them.

    Raises:
        OSError: It cannot be run.
    """

    def __init__(
        self, command: list[str], folder: str, seconds: float, held: Iterable[str] = ()
    ) -> None:
        environ = {k: v for k, v in os.environ.items() if k not in notify.VARIABLES}
        environ[_HELD_FILES] = json.dumps(list(held))
        self._popen = subprocess.Popen(
            [*command, "--check"],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            # Its output goes where ours goes; standard output may be a protocol's.
            stdout=sys.stderr.fileno() if _has_descriptor(sys.stderr) else subprocess.DEVNULL,
        )
        self.deadline = time.monotonic() + seconds

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._popen.pid

    def result(self, now: float) -> bool | None:
        """Whether all is well; None while it runs."""
        status = self._popen.poll()
        if status is None and now >= self.deadline:
            logger.error("the check for the new master takes too long, it is killed")
            self.cancel()
            status = -signal.SIGKILL
        return None if status is None else status == 0

    def cancel(self) -> None:
        """End it."""
        self._popen.kill()
        self._popen.wait()


def held_files(environ: MutableMapping[str, str] = os.environ) -> set[str]:
    """In a check: the files that the master who asked for it keeps. The variable is gone then."""
    return set(json.loads(environ.pop(_HELD_FILES, "[]")))


def _has_descriptor(stream: Any) -> bool:
    try:
        return bool(stream.fileno() >= 0)
    except (AttributeError, OSError, ValueError):
        return False
