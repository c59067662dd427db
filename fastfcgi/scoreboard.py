"""Memory that the master and all workers share: a head, and a Board for each worker.

Each worker writes its own Board, and the master the head; everybody reads all of it. The master
takes nothing for granted that stands in a Board: which processes there are it knows itself.
"""

import mmap
import os
import struct
import tempfile
import time
from dataclasses import dataclass
from typing import Final

from fastfcgi.board import Board
from fastfcgi.master_settings import MODES
from fastfcgi.pages import package_version
from fastfcgi.status import Snapshot, worker_status

# Another number for every other layout of the head: a new version of the program may find the
# memory of an old one.
_LAYOUT: Final = 0xFA57FC6B0001
# layout, places, threads, master's pid, generation, restarts, mode, started
_HEAD: Final = struct.Struct("<7qd")
_PIDS_AT: Final = 128
_PID: Final = struct.Struct("<q")
_LINE: Final = 64  # of the processor's cache

# Places beside those of all workers at once: workers that end may take their time while others
# have taken over, and after the next reload once more. Memory that is not used costs nothing.
PLACES_PER_WORKER: Final = 4
LEAST_PLACES: Final = 32
MOST_PLACES: Final = 8192


@dataclass(frozen=True)
class Facts:
    """What the master tells about itself.

    Attributes:
        pid: The master's.
        generation: 1, and one more with each reload.
        restarts: Workers that died and were replaced.
        mode: An index of master_settings.MODES.
        started: When (time.time()).
    """

    pid: int = 0
    generation: int = 1
    restarts: int = 0
    mode: int = 0
    started: float = 0.0


def places_for(workers: int) -> int:
    """How many places a scoreboard for so many workers has."""
    return min(max(PLACES_PER_WORKER * workers, LEAST_PLACES), MOST_PLACES)


class Scoreboard:
    """The memory and who uses which place of it.

    Args:
        places: How many workers there may be, those that end included.
        threads: Of one worker.
        fd: Memory of another program that became this one (exec); None makes new memory.

    Attributes:
        fd: Its descriptor; -1 after close().

    Raises:
        ValueError: The memory at fd is of another layout.
        OSError: There is no memory.
    """

    def __init__(self, places: int, threads: int, fd: int | None = None) -> None:
        self.places = places
        self.threads = threads
        self._first = -(-(_PIDS_AT + _PID.size * places) // _LINE) * _LINE
        self._step = -(-Board.size(threads) // _LINE) * _LINE
        size = self._first + self._step * places
        self.fd = _new_memory(size) if fd is None else fd
        if os.fstat(self.fd).st_size < size:
            raise ValueError("the memory of the former master is too small")
        self._memory = mmap.mmap(self.fd, size)
        self._boards: dict[int, Board] = {}
        if fd is None:
            self.write(Facts(os.getpid(), started=time.time()))
        elif _HEAD.unpack_from(self._memory)[:3] != (_LAYOUT, places, threads):
            raise ValueError("the memory of the former master has another layout")

    def write(self, facts: Facts) -> None:
        """The master's facts, for all to read."""
        counts = (facts.pid, facts.generation, facts.restarts, facts.mode, facts.started)
        _HEAD.pack_into(self._memory, 0, _LAYOUT, self.places, self.threads, *counts)

    def read(self) -> Facts:
        """What write() wrote."""
        return Facts(*_HEAD.unpack_from(self._memory)[3:])

    def take(self) -> int | None:
        """A free place, from now on taken; None when there is none."""
        for place in range(self.places):
            if self.pid_at(place) == 0:
                self.set_pid(place, -1)
                self.board(place).clear()
                return place
        return None

    def free(self, place: int) -> None:
        """The worker at a place is gone."""
        self.set_pid(place, 0)

    def set_pid(self, place: int, pid: int) -> None:
        """Say who is there; -1 for one that is being started."""
        _PID.pack_into(self._memory, _PIDS_AT + _PID.size * place, pid)

    def pid_at(self, place: int) -> int:
        """Who is there, 0 for nobody."""
        return int(_PID.unpack_from(self._memory, _PIDS_AT + _PID.size * place)[0])

    def board(self, place: int) -> Board:
        """The Board of a place."""
        found = self._boards.get(place)
        if found is None:
            start = self._first + self._step * place
            view = memoryview(self._memory)[start : start + self._step]
            found = self._boards[place] = Board(self.threads, view)
        return found

    def taken(self) -> list[tuple[int, Board]]:
        """(pid, board) of all workers that are known by now."""
        pids = ((place, self.pid_at(place)) for place in range(self.places))
        return [(pid, self.board(place)) for place, pid in pids if pid > 0]

    def close(self) -> None:
        """Give the descriptor back; the memory itself stays while a Board looks at it."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _new_memory(size: int) -> int:
    """A descriptor of zeroed memory that no file stands for, closed on exec."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("fastfcgi-scoreboard")
    else:
        with tempfile.TemporaryFile(prefix="fastfcgi-") as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd


def snapshot(scoreboard: Scoreboard, listeners: list[str]) -> Snapshot:
    """What the status page shows, as any process sees it that has the memory.

    Args:
        listeners: Addresses in the notation of --bind.
    """
    facts = scoreboard.read()
    return Snapshot(
        version=package_version(),
        started=facts.started,
        now=time.time(),
        pid=facts.pid,
        mode=MODES[facts.mode],
        generation=facts.generation,
        workers=[worker_status(board, scoreboard.threads) for _, board in scoreboard.taken()],
        restarts=facts.restarts,
        listeners=listeners,
    )
