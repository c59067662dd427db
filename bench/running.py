"""A server in processes of its own, from its start to its end."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from bench import meter
from bench.floor import Answer, compile_floor, floor_command
from bench.kinds import INHERITING, ROOT, Missing, command_of

DEADLINE = 20.0
BACKLOG = 4096


class Server:
    """A running server: its kind, the path of its unix socket, its processes.

    Args:
        kind: See bench/kinds.py.
        folder: An empty folder for its socket and its log.
        name: The application's MODULE:NAME.
        options: The server's own.
        workers: Processes that share one listening socket, each with a server.
        answer: What the floor answers; it runs no application.
        python: The interpreter.

    Raises:
        Missing: It cannot be started.
    """

    def __init__(
        self,
        kind: str,
        folder: str,
        name: str,
        options: dict[str, Any],
        workers: int = 1,
        answer: Answer | None = None,
        python: str = sys.executable,
    ) -> None:
        self.kind = kind
        self.folder = folder
        self.path = os.path.join(folder, "fcgi.sock")
        self.processes: list[subprocess.Popen[bytes]] = []
        inherits = workers > 1 or kind in INHERITING
        if answer is not None:
            command = floor_command(compile_floor(folder), folder, answer)
        else:
            command = command_of(kind, "" if inherits else self.path, name, options, python)
        try:
            with contextlib.ExitStack() as stack:
                stdin: Any = subprocess.DEVNULL
                if inherits:
                    stdin = stack.enter_context(socket.socket(socket.AF_UNIX))
                    stdin.bind(self.path)
                    stdin.listen(BACKLOG)
                for _ in range(workers):
                    self._start(command, stdin)
            self._wait_for()
        except BaseException:
            self.stop(0)
            raise

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The first process, or the only one."""
        return self.processes[0]

    def _start(self, command: list[str], stdin: Any) -> None:
        """In a process group of its own, by which its processes are found."""
        with open(os.path.join(self.folder, "log"), "ab") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, stdin=stdin, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.append(process)

    def _wait_for(self) -> None:
        end = time.monotonic() + DEADLINE
        while True:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
                sock.connect(self.path)
                return
            if self.process.poll() is not None or time.monotonic() > end:
                raise Missing(f"{self.kind} does not listen: {self.log()}")
            time.sleep(0.02)

    def log(self) -> str:
        """The end of what it said."""
        with open(os.path.join(self.folder, "log"), errors="replace") as log:
            return " ".join(log.read().split())[-300:]

    def pids(self) -> list[int]:
        return [pid for process in self.processes for pid in meter.group_of(process.pid)]

    def stop(self, patience: float = DEADLINE) -> None:
        """End the processes, by force after so many seconds."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def running(
    kind: str,
    name: str = "bench.apps:page",
    workers: int = 1,
    answer: Answer | None = None,
    python: str = sys.executable,
    **options: Any,
) -> Iterator[Server]:
    """Start a server of that kind, with the application MODULE:NAME, and end it afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        server = Server(kind, folder, name, options, workers, answer, python)
        try:
            yield server
        finally:
            server.stop()
