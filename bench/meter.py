"""What server processes cost: CPU, memory, switches, system calls. Linux."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from bench.kinds import Missing, need

ATTACH = 10.0  # seconds that strace may take
WAITING = (
    *("epoll_wait", "epoll_pwait", "epoll_pwait2", "epoll_ctl"),
    *("poll", "ppoll", "select", "pselect6"),
)


def group_of(leader: int) -> list[int]:
    """The processes of the process group that has this leader."""
    pids = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                if int(_stat(int(name))[2]) == leader:
                    pids.append(int(name))
    return sorted(pids)


def _stat(pid: int) -> list[str]:
    """The fields of proc(5)'s stat, from the third (state) on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_ns(pids: Iterable[int]) -> int:
    """CPU time of the processes, user and system, in ns.

    From each process's CPU clock: the scheduler's own sum, exact to the ns, with the threads that
    have ended. /proc/PID/stat says the same in ticks of 10 ms, and /proc/PID/task/*/schedstat,
    which not every kernel has, forgets the threads that have ended.
    """
    # The number of another process's clock: see clock_getcpuclockid() in the C library.
    return sum(time.clock_gettime_ns((~pid << 3) | 2) for pid in pids)


def cpu_ticks_ns(pids: Iterable[int]) -> int:
    """The same from /proc/PID/stat: utime and stime, rounded down to ticks."""
    ticks = sum(int(field) for pid in pids for field in _stat(pid)[11:13])
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _status(path: str, name: str) -> int:
    text = Path(path).read_text()
    found = re.search(rf"^{name}:\s*(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def peak_kib(pids: Iterable[int]) -> int:
    """The largest resident set so far, summed over the processes."""
    return sum(_status(f"/proc/{pid}/status", "VmHWM") for pid in pids)


def _tasks(pids: Iterable[int]) -> list[str]:
    return [f"/proc/{pid}/task/{tid}" for pid in pids for tid in os.listdir(f"/proc/{pid}/task")]


def threads(pids: Iterable[int]) -> int:
    return len(_tasks(pids))


def switches(pids: Iterable[int]) -> int:
    """Voluntary context switches of all threads that are there: how often one of them waited."""
    total = 0
    for task in _tasks(pids):
        with suppress(OSError):  # it has ended
            total += _status(f"{task}/status", "voluntary_ctxt_switches")
    return total


def wait_idle(pids: list[int], seconds: float = 20.0) -> None:
    """Wait until the processes have used no CPU for 0.15 s: whatever they do at their start is
    done."""
    end = time.monotonic() + seconds
    used = -1
    while used != (now := cpu_ns(pids) // 1_000_000) and time.monotonic() < end:
        used = now
        time.sleep(0.15)


class Calls(NamedTuple):
    """System calls by name."""

    by_name: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.by_name.values())

    @property
    def waiting(self) -> int:
        """Those that wait for descriptors or tell the kernel which."""
        return sum(self.by_name.get(name, 0) for name in WAITING)


def parse_strace(text: str) -> Calls:
    """The table that strace -c prints: % time, seconds, usecs/call, calls, errors or nothing,
    name."""
    by_name = {}
    for line in text.splitlines():
        found = re.fullmatch(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)(?:\s+\d+)?\s+(\w+)", line)
        if found and found[2] != "total":
            by_name[found[2]] = int(found[1])
    return Calls(by_name)


@contextmanager
def strace(pids: list[int], folder: str) -> Iterator[list[Calls]]:
    """Count the system calls of all threads of these processes; gives a list that holds the
    Calls when the block is left.

    Raises:
        Missing: There is no strace, or it may not look at the processes.
    """
    table = Path(folder, "strace")
    log = Path(folder, "strace.log")
    attached = [word for pid in pids for word in ("-p", str(pid))]
    command = [need("strace"), "-c", "-f", "-o", str(table), *attached]
    counted: list[Calls] = []
    with log.open("wb") as stderr, subprocess.Popen(command, stderr=stderr) as process:
        try:
            end = time.monotonic() + ATTACH
            while len(re.findall(r"Process \d+ attached", log.read_text())) < len(pids):
                if process.poll() is not None or time.monotonic() > end:
                    raise Missing(f"strace does not attach: {log.read_text().strip()[-200:]}")
                time.sleep(0.02)
            yield counted
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            try:
                process.wait(ATTACH)
            except subprocess.TimeoutExpired:
                process.kill()
    counted.append(parse_strace(table.read_text()))
