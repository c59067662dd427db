"""A WSGIServer that really runs, and the web server's end of its connections, for test_spec*.py."""

import contextlib
import itertools
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import wire

import fastfcgi
from fastfcgi import WSGIServer
from fastfcgi.constants import MAX_CONNS

DEADLINE = wire.DEADLINE

# How long the absence of something is watched: long enough that a server which breaks the rule
# is seen to do it, while one that keeps it passes however slow the machine is.
A_WHILE = 0.3

MIB = 1024 * 1024

HAS_UNIX_SOCKETS = hasattr(socket, "AF_UNIX")


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Ask until condition() is true.

    Raises:
        AssertionError: It was not within DEADLINE.
    """
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)


# --------------------------------------------------------------------------- applications


def answer(
    start_response: Callable[..., Any],
    body: bytes = b"ok",
    status: str = "200 OK",
    headers: Iterable[tuple[str, str]] = (),
) -> list[bytes]:
    """The shortest way to a response of one block."""
    start_response(status, [("Content-Type", "text/plain"), *headers])
    return [body]


class Application:
    """Reads the body, answers b"ok" and remembers each environ and body."""

    def __init__(self) -> None:
        self.environs: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        self.environs.append(environ)
        self.bodies.append(environ["wsgi.input"].read())
        return answer(start_response)

    @property
    def environ(self) -> dict[str, Any]:
        """Of the last request."""
        return self.environs[-1]


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    return answer(start_response, environ["wsgi.input"].read())


class Body:
    """A response that counts its close() calls; `parts` may hold exceptions, which are raised,
    and callables, which are called for the block."""

    def __init__(self, *parts: Any) -> None:
        self.parts = iter(parts)
        self.closed = 0
        self.asked = 0

    def __iter__(self) -> "Body":
        return self

    def __next__(self) -> bytes:
        self.asked += 1
        part = next(self.parts)
        if isinstance(part, BaseException):
            raise part
        return part() if callable(part) else part

    def close(self) -> None:
        self.closed += 1


class Gate:
    """Lets an application and its test wait for each other."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def wait(self) -> None:
        """Called by the application: go on when the test says so."""
        self._reached.set()
        assert self._opened.wait(DEADLINE), "the test never opened the gate"

    @property
    def reached(self) -> bool:
        return self._reached.is_set()

    def wait_reached(self) -> None:
        """Called by the test: until the application is at the gate."""
        assert self._reached.wait(DEADLINE), "the application never came to the gate"

    def open(self) -> None:
        self._opened.set()


# ------------------------------------------------------------------------- the web server


class Record(NamedTuple):
    """One record as it stood on the wire."""

    version: int
    type: int
    request_id: int
    content: bytes
    padding: bytes
    reserved: int


def split_records(raw: bytes) -> list[Record]:
    """Take whole records apart (spec 3.3), every border kept."""
    records = []
    while raw:
        version, type, request_id, size, padding, reserved = struct.unpack("!BBHHBB", raw[:8])
        content, rest = raw[8 : 8 + size], raw[8 + size :]
        records.append(Record(version, type, request_id, content, rest[:padding], reserved))
        raw = rest[padding:]
    return records


class _Answers(wire.Answers):
    """Keeps the bytes too."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = bytearray()

    def feed(self, data: bytes) -> None:
        self.raw += data
        super().feed(data)


class Peer(wire.Peer):
    """A web server's end that also knows the records."""

    answers: _Answers

    def __init__(self, address: str | tuple, timeout: float = DEADLINE) -> None:
        super().__init__(address, timeout)
        self.answers = _Answers()

    @property
    def records(self) -> list[Record]:
        return split_records(bytes(self.answers.raw))

    def stdout(self, request_id: int = 1) -> bytes:
        """What came on STDOUT so far."""
        return bytes(self.answers.outputs.get(request_id, wire.Output()).stdout)

    def ended(self, request_id: int = 1) -> bool:
        """Whether END_REQUEST came."""
        return self.answers.outputs.get(request_id, wire.Output()).ended

    def receive_stdout(self, text: bytes, request_id: int = 1) -> None:
        """Read until STDOUT ends with text."""
        self.receive(lambda answers: self.stdout(request_id).endswith(text))
        assert self.stdout(request_id).endswith(text)

    def sync(self) -> None:
        """Until the server has taken in all that was sent: management records are answered by
        its loop, in the order of their arrival."""
        seen = len(self.answers.management)
        self.send(wire.get_values(MAX_CONNS))
        self.receive(lambda answers: len(answers.management) > seen)
        assert len(self.answers.management) > seen, "the server closed the connection"

    def assert_silent(self, received: int | None = None) -> None:
        """Nothing comes for a while.

        Args:
            received: The bytes that may have come until now; None for any number.
        """
        expected = self.received if received is None else received
        with contextlib.suppress(TimeoutError):
            self.receive(lambda answers: self.received > expected, A_WHILE)
        assert self.received == expected, f"this came: {self.records}"

    def send_unread(self, data: bytes) -> None:
        """Send all of data and read nothing meanwhile."""
        self.sock.settimeout(DEADLINE)
        self.sock.sendall(data)
        self.sock.setblocking(False)


# ------------------------------------------------------------------------------ the server


class Served(NamedTuple):
    """A server that runs."""

    server: WSGIServer
    address: Any
    stack: contextlib.ExitStack

    def connect(self) -> Peer:
        """A connection; closed at the end of the test at the latest."""
        return self.stack.enter_context(Peer(self.address))

    def request(self, *args: Any, **kwargs: Any) -> wire.Response:
        """One request on a connection of its own; see wire.Peer.request."""
        with self.connect() as peer:
            return peer.request(*args, **kwargs)


class Serve:
    """Starts servers, see serving()."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._count = itertools.count()

    def __call__(
        self,
        application: Callable[..., Any],
        *,
        tcp: bool = False,
        kind: type[WSGIServer] = WSGIServer,
        **options: Any,
    ) -> Served:
        """Run a server in a thread.

        Args:
            tcp: On a free port of 127.0.0.1; else on a unix socket, where there is one.
            kind: The class of the server.
            options: Its keyword arguments.
        """
        path = str(self._folder / f"{next(self._count)}.sock")
        # A path of more than 103 bytes does not fit into the address of macOS.
        if tcp or not HAS_UNIX_SOCKETS or len(path) > 100:
            path = "127.0.0.1:0"
        server = kind(application, **{"bind": path, "graceful_timeout": 5.0, **options})
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        self._stack.callback(_stop, server, thread)
        assert server.wait_ready(DEADLINE)
        return Served(server, server.addresses[0], self._stack)


def _stop(server: WSGIServer, thread: threading.Thread) -> None:
    server.stop()
    thread.join(DEADLINE)
    assert not thread.is_alive(), "run() did not end"


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Serve]:
    """Servers for the time of a test; at its end their connections are closed, then they stop."""
    with contextlib.ExitStack() as stack:
        yield Serve(folder, stack)


# ---------------------------------------------------------------- a process of its own


def start_script(
    text: str, *, stdin: Any, env: dict[str, str], wrapper: Iterable[str] = ()
) -> "subprocess.Popen[bytes]":
    """Run a front-end script with this interpreter, as a web server would: with `stdin` as
    descriptor 0 and nothing in the environment but `env` and what Python needs.

    Args:
        wrapper: The beginning of the command line.
    """
    folder = Path(fastfcgi.__file__).parent.parent
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    return subprocess.Popen(
        [*wrapper, sys.executable, "-c", text],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**kept, "PYTHONPATH": str(folder), **env},
    )
