"""The checking application (apps.py) behind a web server, and what its processes hold."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from http_client import HOST
from processes import TESTS, Process, children, descriptors, free_ports, wait_until
from runtimes import own_runtime
from webservers import WebServer


@dataclass(frozen=True)
class App:
    """The application's processes, whoever has started them.

    Attributes:
        pids: gives their process ids.
        log: gives what they have written to stderr.
    """

    pids: Callable[[], list[int]]
    log: Callable[[], str]

    def wait_for_log(self, text: str) -> None:
        """Wait until its log holds the text."""
        wait_until(lambda: text in self.log(), f"{text!r} in the application's log")

    def descriptors(self) -> list[str]:
        """What the open descriptors of a process point at: of the one that has the most."""
        return max(self._descriptors(), key=len, default=[])

    def sockets(self) -> set[str]:
        """The open sockets of all; each has a number of its own."""
        return {
            name for found in self._descriptors() for name in found if name.startswith("socket:")
        }

    def _descriptors(self) -> Iterator[list[str]]:
        for pid in self.pids():
            with contextlib.suppress(FileNotFoundError):  # ended in the meantime
                yield descriptors(pid)


@dataclass(frozen=True)
class Front:
    """A web server, and the application behind it.

    Attributes:
        address: of the application, see running_app(); None: the web server starts it itself.
        options: what the starter of the web server was given besides, for another one.
    """

    server: WebServer
    app: App
    address: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def running_app(
    folder: Path, flup: bool = False, tcp: bool = False, **options: Any
) -> Iterator[tuple[Process, str]]:
    """apps.py served at a unix socket that everybody may use: the process, and the socket's path.

    At the end TERM has to end it with exit status 0, whatever the web server still holds open.

    Args:
        folder: where the socket and the log go.
        flup: say it to WSGIServer in flup's words.
        tcp: serve at a port of 127.0.0.1 as well, and yield host:port in place of the path.
        options: more for WSGIServer.
    """
    address = str(folder / "app.sock")
    runtime = own_runtime()
    listen: dict[str, object] = {"bind": f"unix:{address}", "socket_mode": 0o666}
    if flup:
        listen = {"bindAddress": address, "umask": 0}
    there = f"{HOST}:{free_ports(1)[0]}" if tcp else address
    if tcp:
        listen["bind"] = [f"unix:{address}", there]
    arguments = json.dumps({**listen, **options})
    command = [runtime.python, str(TESTS / "apps.py"), arguments]
    with Process(command, folder, "app", env=runtime.env) as process:
        process.wait_for(address)
        yield process, there
        assert process.stop() == 0, process.log()
        assert not os.path.exists(address), "the socket file is still there"


def served(process: Process) -> App:
    """The application that is one process of ours."""
    return App(lambda: [process.pid], process.log)


def started_by(server: WebServer, script: Path) -> App:
    """The application that a web server starts from a front-end script; its stderr is the server's.

    Args:
        server: it or a process of its.
        script: what is found in the command line of the application's processes.
    """

    def pids() -> list[int]:
        found, todo = [], [server.pid]
        while todo:
            for pid in children(todo.pop()):
                todo.append(pid)
                with contextlib.suppress(OSError):
                    if os.fsencode(script) in Path(f"/proc/{pid}/cmdline").read_bytes():
                        found.append(pid)
        return found

    return App(pids, server.log)
