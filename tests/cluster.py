"""Machines behind a front, in network namespaces: their servers, and clients of the front."""

import contextlib
import http.client
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from network import Host
from processes import DEADLINE, Process, environment, wait_until
from runtimes import own_runtime

if TYPE_CHECKING:
    from typing_extensions import Self

# They are those of docs/deployment.md.
ADDRESSES = {"front": "10.0.0.1", "a": "10.0.0.11", "b": "10.0.0.12"}
MACHINES = ["a", "b"]
CLIENTS = 8

# It says which machine it runs on, and keeps what was posted in a file. Requests for /hold/... run
# on until the machine's file `.hold` is gone.
APPLICATION = """
import os, time

MACHINE = os.environ.get("MACHINE", "")

def note(kind, line):
    with open(f"{MACHINE}.{kind}", "a") as file:
        file.write(line + "\\n")

def application(environ, start_response):
    if environ["REQUEST_METHOD"] == "POST":
        environ["wsgi.input"].read()
        note("posts", environ["PATH_INFO"])
    time.sleep(0.003)
    if environ["PATH_INFO"].startswith("/hold/") and os.path.exists(MACHINE + ".hold"):
        note("held", environ["REQUEST_METHOD"])
        while os.path.exists(MACHINE + ".hold"):
            time.sleep(0.01)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [MACHINE.encode()]
"""


def peers(machine: str) -> str:
    """Who may connect to a machine: the front, and itself."""
    return f"{ADDRESSES['front']},{ADDRESSES[machine]}"


class Cluster:
    """The hosts, and a server on each machine behind the front.

    Args:
        folder: where all that they write is.
        hosts: "front", and the machines.
        settings: those of machine "a", as docs/deployment.md has them.
    """

    def __init__(self, folder: Path, hosts: dict[str, Host], settings: str) -> None:
        self.folder = folder
        self.hosts = hosts
        self.servers: dict[str, Process] = {}
        (folder / "myapp.py").write_text(APPLICATION)
        for machine in MACHINES:
            text = settings.replace(ADDRESSES["a"], ADDRESSES[machine])
            text = text.replace("/srv/app", str(folder)).replace('"auto"', "2")
            (folder / f"{machine}.toml").write_text(text)
            self.start(machine)

    def start(self, machine: str, pings: int = 0) -> None:
        """Start a machine's server, and wait until `fastfcgi ping` says so."""
        config = str(self.folder / f"{machine}.toml")
        command = [sys.executable, "-m", "fastfcgi", "serve", "--config", config]
        env = {**own_runtime().env, "MACHINE": machine, "FCGI_WEB_SERVER_ADDRS": peers(machine)}
        name = f"{machine}-{sum(1 for _ in self.folder.glob(f'{machine}-*.log'))}"
        process = self.hosts[machine].process(command, self.folder, name, env=env)
        self.servers[machine] = process
        wait_until(lambda: self.ping(machine).returncode == pings, f"{machine} to serve")

    def ping(self, machine: str, host: str = "front") -> "subprocess.CompletedProcess[str]":
        """`fastfcgi ping` from a host."""
        command = [sys.executable, "-m", "fastfcgi", "ping", f"{ADDRESSES[machine]}:9000"]
        command = self.hosts[host].command(*command)
        env = environment(own_runtime().env)
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=DEADLINE)

    def stop(
        self,
        machine: str,
        held: "Held | None" = None,
        condition: Callable[[], bool] = lambda: True,
    ) -> None:
        """End it as systemd does; it must go well. Held requests run on until nothing listens
        there and a condition is met."""
        process = self.servers.pop(machine)
        process.popen.send_signal(signal.SIGTERM)
        if held:
            wait_until(lambda: self.ping(machine).returncode == 1, "the end of its socket")
            wait_until(condition, f"the condition for the end of {machine}")
            held.release()
        assert process.wait() == 0, process.log()

    @contextlib.contextmanager
    def application_fails(self, machine: str) -> Iterator[None]:
        """During the block its application cannot be loaded."""
        config = self.folder / f"{machine}.toml"
        text = config.read_text()
        self.stop(machine)
        config.write_text(text.replace("myapp:", "gone:"))
        try:
            self.start(machine, pings=1)
            yield
            self.stop(machine)
        finally:
            config.write_text(text)
            self.start(machine)

    def kill(self, machine: str) -> None:
        """Kill all its processes at once."""
        process = self.servers.pop(machine)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def reload(self, machine: str) -> None:
        """HUP, and wait for the new workers."""
        process = self.servers[machine]
        before = process.log().count("reloaded, generation")
        process.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: process.log().count("reloaded, generation") > before, "the reload")

    def link(self, machine: str, state: str) -> None:
        """Plug its network in ("up") or out ("down")."""
        self.hosts[machine].ip("link", "set", "eth0", state)

    def posts(self) -> list[str]:
        """What the machines have taken since the last call, in no order."""
        found = []
        for path in self.folder.glob("*.posts"):
            found += path.read_text().split()
            path.unlink()
        return found


def ask(method: str, path: str) -> tuple[int, str]:
    """One request to port 80 of the calling thread's host: status and body, (0, "") if cut."""
    connection = http.client.HTTPConnection("127.0.0.1", timeout=3 * DEADLINE)
    try:
        connection.request(method, path, body=b"x" * 2000 if method == "POST" else None)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


class Held:
    """At least one GET and one POST that a machine is running; they end by release().

    Attributes:
        answers: (method, status, body) of all that were made; some may come from other machines.
        threads: those that make them.
    """

    def __init__(self, cluster: Cluster, machine: str) -> None:
        self.answers: list[tuple[str, int, str]] = []
        self._front = cluster.hosts["front"]
        self._flag = cluster.folder / f"{machine}.hold"
        self._noted = cluster.folder / f"{machine}.held"
        self.threads: list[threading.Thread] = []
        self._latest: dict[str, threading.Thread] = {}
        self.machine = machine

    def _make(self, method: str, number: int) -> None:
        self._front.enter()
        self.answers.append((method, *ask(method, f"/hold/{id(self)}-{number}")))

    def _both(self) -> bool:
        noted = set(self._noted.read_text().split()) if self._noted.exists() else set()
        for method in {"GET", "POST"} - noted:
            if method in self._latest and self._latest[method].is_alive():
                continue  # on its way; on another machine it ends at once
            arguments = (method, len(self.threads))
            thread = threading.Thread(target=self._make, args=arguments, daemon=True)
            thread.start()
            self.threads.append(thread)
            self._latest[method] = thread
        return noted == {"GET", "POST"}

    def release(self) -> None:
        """Let those that still run end; wait for all answers."""
        self._flag.unlink(missing_ok=True)
        for thread in self.threads:
            thread.join(4 * DEADLINE)

    def lost(self, method: str) -> set[int]:
        """The statuses of those without an answer of the application."""
        return {status for made, status, _ in self.answers if made == method} - {200}

    def __enter__(self) -> "Self":
        self._flag.touch()
        wait_until(self._both, f"a GET and a POST to run on {self.machine}")
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
        self._noted.unlink()


class Clients:
    """Clients on the front that make requests until the block ends, every third one a POST.

    Attributes:
        lost: (method, status) of every request without an answer of the application; 0: the
            connection was closed.
        answered: machine -> number of answers.
        posted: what was posted and answered.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.lost: list[tuple[str, int]] = []
        self.answered: Counter[str] = Counter()
        self.posted: list[str] = []
        self._cluster = cluster
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=self._visit, args=(number,), daemon=True)
            for number in range(CLIENTS)
        ]

    def _visit(self, client: int) -> None:
        self._cluster.hosts["front"].enter()
        for number in itertools.count():
            if self._done.is_set():
                return
            method = "GET" if number % 3 else "POST"
            status, body = ask(method, f"/{client}-{number}")
            if status == 200:
                self.answered[body] += 1
                if method == "POST":
                    self.posted.append(f"/{client}-{number}")
            else:
                self.lost.append((method, status))
            self._done.wait(0.005)  # what is measured here is not speed

    def wait_for_answers(self, *machines: str, count: int = 100) -> None:
        """Wait until each of these machines has answered so many more."""
        goals = {machine: self.answered[machine] + count for machine in machines}
        what = f"answers of {machines}, not {self.answered}, lost {self.lost[:20]}"
        wait_until(lambda: all(self.answered[m] >= goals[m] for m in goals), what, 2 * DEADLINE)

    def __enter__(self) -> "Self":
        self._cluster.posts()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(4 * DEADLINE)
        if kind is None:
            taken = self._cluster.posts()
            assert len(taken) == len(set(taken)), "a POST was done twice"
            assert set(self.posted) <= set(taken)
