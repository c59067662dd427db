"""A server process under attack: what it holds, what it logs, and how others fare meanwhile.

Every attack of test_hostile*.py runs inside `with Target(...) as target`. While it lasts another
process asks /hello every 50 ms and has to be answered; when it is over the server has to be as it
was before: the same descriptors, the same threads, bounded memory, no internal error in its log,
and TERM ends it with status 0.

Linux only: what the process holds is read from /proc.
"""

import contextlib
import json
import os
import re
import socket
import statistics
import struct
import time
from pathlib import Path
from typing import Any

import wire
from gil import HAS_GIL
from processes import DEADLINE, TESTS, Process, descriptors, free_ports, wait_until
from runtimes import own_runtime

KIB = 1024
MIB = 1024 * KIB

# What others were promised, whoever attacks: an answer within so many seconds.
PROMISE = 1.0

# What the process may grow by without any named limit being concerned: fragmentation, the free
# lists of the interpreter and of malloc, one arena per thread. A Python without a GIL keeps a
# heap of its own for each thread.
SLACK = (16 if HAS_GIL else 48) * MIB

THREADS = 8

# Short timeouts, so that tests need not wait for them.
QUICK = {"header_timeout": 0.5, "body_timeout": 0.5, "send_timeout": 0.5, "linger_timeout": 0.5}

# Never in the log, whatever a peer sends.
_BUGS = re.compile(
    "internal error|Exception in thread|job of the thread pool|Exception ignored|ResourceWarning"
)


class Target:
    """A server process whose threads have all been started.

    Args:
        folder: For its socket and its logs.
        tcp: Listen on 127.0.0.1 instead of at a unix socket.
        memory: What it may grow by: bytes that the named limits allow the attack to take.
        watched: Whether others are looked after; not where an attack takes every thread.
        env: Added to its environment.
        options: For WSGIServer; "descriptors" for what the process may open.

    Attributes:
        grown: The most memory it used beyond what it had before, in bytes (at the end).
        slowest: The longest that another client's request took, in seconds (at the end).
    """

    def __init__(
        self,
        folder: Path,
        *,
        tcp: bool = False,
        memory: int = 0,
        watched: bool = True,
        env: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.folder = folder
        self.address: Any = ("127.0.0.1", free_ports(1)[0]) if tcp else str(folder / "s")
        self.options = {"threads": THREADS, **options}
        self.memory = memory
        self.watched = watched
        self._env = env or {}
        self._stack = contextlib.ExitStack()
        self.grown = 0
        self.slowest = 0.0

    def __enter__(self) -> "Target":
        with contextlib.ExitStack() as stack:
            bind = self.address
            if isinstance(bind, tuple):
                bind = f"{bind[0]}:{bind[1]}"
            options = {"bind": bind, **self.options}
            self.process = stack.enter_context(self._process("server", "serve", options))
            self.process.wait_for(self.address)
            self._warm_up()
            if self.watched:
                self._watcher = stack.enter_context(self._process("watcher", "watch", self.address))
                self.serve_others(2)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: Any, *details: Any) -> None:
        with self._stack:
            if kind is None:
                self._check()
            else:
                print(self.process.log()[-4000:])  # pytest shows it with the failure
                self.process.popen.kill()  # what has failed already need not end in order
                self.process.wait()

    def _process(self, name: str, what: str, argument: Any) -> Process:
        runtime = own_runtime()
        command = [runtime.python, str(TESTS / "hostile_app.py"), what, json.dumps(argument)]
        # What is dropped instead of closed is told in the log.
        env = {"PYTHONWARNINGS": "default::ResourceWarning", **runtime.env, **self._env}
        return Process(command, self.folder, name, env=env)

    # ---- before ---------------------------------------------------------------------------

    def _warm_up(self) -> None:
        """Have every thread started, so that their number tells something afterwards."""
        threads = range(1, self.options["threads"] + 1)
        with self.peer() as peer:
            for number in threads:
                peer.send(self.get(f"/together/{len(threads)}", number, keep_conn=True))
            for number in threads:
                assert peer.receive_end(number).body == b"together"
        self._descriptors = wait_until(self._settled, "its descriptors to settle")
        self._threads = self.threads
        self._memory = self._status("VmRSS")
        # The kernel's high-water mark begins anew: from here on it is the attack's.
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def _settled(self) -> int:
        before = len(descriptors(self.process.pid))
        time.sleep(0.1)
        return before if before == len(descriptors(self.process.pid)) else 0

    # ---- meanwhile ------------------------------------------------------------------------

    def peer(self) -> wire.Peer:
        """One more connection."""
        return wire.Peer(self.address)

    def socket(self) -> socket.socket:
        """One more connection that nobody reads; what cannot be sent waits for 10 s at most."""
        family = socket.AF_INET if isinstance(self.address, tuple) else socket.AF_UNIX
        sock = socket.socket(family)
        sock.settimeout(10)
        sock.connect(self.address)
        return sock

    @staticmethod
    def get(path: str, request_id: int = 1, keep_conn: bool = False) -> bytes:
        """A whole request without a body."""
        return wire.request(request_id, wire.cgi_params(path=path), keep_conn=keep_conn)

    @staticmethod
    def post(path: str, request_id: int = 1, keep_conn: bool = False, **params: str) -> bytes:
        """A request whose body has still to be sent."""
        begin = wire.begin_request(request_id, keep_conn=keep_conn)
        return begin + wire.params(request_id, wire.cgi_params("POST", path, **params))

    def ask(self, path: str = "/hello") -> wire.Response:
        """Ask for a path on a connection of its own."""
        with self.peer() as peer:
            return peer.request(wire.cgi_params(path=path))

    @property
    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def connections(self) -> int:
        """How many descriptors are open beyond those at the start."""
        return len(descriptors(self.process.pid)) - self._descriptors

    def log(self) -> str:
        return self.process.log()

    def expect_log(self, text: str, since: int = 0) -> None:
        """Wait for a text in its log, behind so many characters."""
        wait_until(lambda: text in self.log()[since:], f"{text!r} in the log")

    def serve_others(self, count: int = 10) -> None:
        """Go on until others were answered so many times more."""
        have = len(self._answers())
        wait_until(lambda: len(self._answers()) >= have + count, "answers to others")

    def _answers(self) -> list[list[Any]]:
        return [json.loads(line) for line in self._watcher.log().splitlines(True) if "\n" in line]

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)[1]) * KIB

    # ---- afterwards -----------------------------------------------------------------------

    def _check(self) -> None:
        if self.process.popen.poll() is not None:
            return  # the test has ended it, and looked
        if self.watched:
            self.serve_others(5)
            self._watcher.stop()
            self._check_answers()
        wait_until(
            lambda: self.connections() == 0 and self.threads == self._threads,
            "descriptors and threads as before",
        )
        self.grown = self._status("VmHWM") - self._memory
        allowed = self.memory + SLACK
        assert self.grown <= allowed, f"{self.grown / MIB:.0f} of {allowed / MIB:.0f} MiB"
        print(f"it grew by {self.grown / MIB:.1f} of {allowed / MIB:.0f} MiB")
        self.stop()

    def _check_answers(self) -> None:
        answers = self._answers()
        failed = [answer for answer, _ in answers if isinstance(answer, str)]
        assert not failed, failed
        # What the watcher itself had to wait for the machine is nobody's fault.
        lag = max(lag for _, lag in answers)
        self.slowest = max(seconds for seconds, _ in answers)
        print(f"{len(answers)} answers, the slowest after {self.slowest:.3f} s; lag {lag:.3f} s")
        assert self.slowest <= PROMISE + lag, (self.slowest, lag, len(answers))
        assert statistics.median(seconds for seconds, _ in answers) <= PROMISE / 2

    def stop(self, seconds: float = DEADLINE, term: bool = True) -> None:
        """End it by TERM, within so many seconds; nothing of it may be left, and its log shows no
        bug. Without `term` it is about to end anyway."""
        begin = time.monotonic()
        assert (self.process.stop() if term else self.process.wait()) == 0, self.log()
        took = time.monotonic() - begin
        assert took <= seconds, f"it took {took:.1f} s to end"
        assert not (isinstance(self.address, str) and os.path.exists(self.address))
        bug = _BUGS.search(self.log())
        assert not bug, self.log()


def push(sock: socket.socket, data: bytes, total: int) -> int:
    """Send data again and again, up to `total` bytes in all; stops when the server takes no more
    for a second or closes the connection. Returns the bytes it took."""
    sock.settimeout(1.0)
    taken, view = 0, memoryview(data)
    while taken < total:
        try:
            taken += sock.send(view[taken % len(data) :])
        except OSError:
            break
    return taken


def vanish(sock: socket.socket) -> None:
    """Close at once; over TCP with a reset instead of an end."""
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
