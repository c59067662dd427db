"""A master as a process: a script that runs one, what it logs, who its workers are, load on it."""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wire
from processes import Process, _pids, _stat, alive, children, wait_until

from fastfcgi import _load, load

if TYPE_CHECKING:
    from typing_extensions import Self

# The application. Its paths: /sleep/N, /hold/NAME waits until the file NAME is gone, /die/N ends
# its process with status N, /spin/NAME makes the file NAME and holds the GIL for ever; all others
# answer with the pid.
SCRIPT = """
import logging, os, re, signal, sys, threading, time
from fastfcgi.master import Master
from fastfcgi.master_settings import MasterSettings

logging.basicConfig(level=logging.DEBUG, format="%(process)d %(message)s")

def spin():
    re.match("(a+)+$", "a" * 60 + "b")

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/sleep/"):
        time.sleep(float(path[7:]))
    elif path.startswith("/hold/"):
        name = path[6:]
        open(name + ".held", "w").close()
        while os.path.exists(name):
            time.sleep(0.005)
    elif path.startswith("/die/"):
        os._exit(int(path[5:]))
    elif path.startswith("/spin/"):
        open(path[5:], "w").close()
        spin()
    elif path == "/who":
        body = repr((os.getuid(), os.getgid(), os.getgroups(), os.getcwd(), os.umask(0))).encode()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]

def load():
    return app
"""
RUN = """
options = {"server_options": {"status_path": "/status"}, **dict({options})}
settings = MasterSettings(bind=["unix:app.sock"], **options)
sys.exit(Master(settings, load).run())
"""


class Served(Process):
    """A master that serves SCRIPT's application at app.sock in a folder.

    Args:
        folder: Where its script, socket and log are.
        options: Arguments of MasterSettings, as they are written.
        more: Code between SCRIPT and RUN.
        run: The code in the place of RUN.
        begin: Workers that are waited for.
    """

    def __init__(
        self,
        folder: Path,
        options: str = "workers=2",
        more: str = "",
        run: str = RUN,
        begin: int | None = None,
        **popen: Any,
    ) -> None:
        script = folder / "script.py"
        script.write_text(SCRIPT + more + run.replace("{options}", options))
        env = {"PYTHONPATH": os.pathsep.join(sys.path), **popen.pop("env", {})}
        super().__init__([sys.executable, str(script)], folder, "master", env=env, **popen)
        self.folder = folder
        self.address = str(folder / "app.sock")
        self.seen_dead: set[int] = set()
        if begin is not None:
            self.wait_for(self.address)
            self.wait_for_workers(begin)

    def send(self, signum: int) -> None:
        """Signal the master."""
        self.popen.send_signal(signum)

    def workers(self) -> list[int]:
        """The pids of its processes that are workers (not a check of a new version)."""
        return [pid for pid in children(self.pid) if _is_worker(pid)]

    def wait_for_workers(self, count: int, without: "list[int] | None" = None) -> list[int]:
        """Wait until so many workers are there, and none of these."""
        gone = set(without or ())

        def there() -> list[int]:
            found = self.workers()
            return found if len(found) == count and not gone & set(found) else []

        def end() -> bool:
            assert self.popen.poll() is None, f"the master has ended:\n{self.log()}"
            return len(there()) == count

        wait_until(end, f"{count} workers, not {self.workers()}:\n{self.log()}")
        return there()

    def get(self, path: str = "/", query: str = "", **options: Any) -> wire.Response:
        """One request on a connection of its own."""
        with wire.Peer(self.address) as peer:
            params = wire.cgi_params("GET", path, QUERY_STRING=query)
            return peer.request(params, **options)

    def running(self) -> str:
        """The status page with the running requests."""
        return self.get("/status", query="full").body.decode()

    def who(self) -> int:
        """The pid of the worker that answers."""
        response = self.get()
        assert response.status == 200, (response, self.log())
        return int(response.body)

    @contextlib.contextmanager
    def holding(self, name: str = "hold") -> Iterator[wire.Peer]:
        """A peer whose request runs until the block ends."""
        lock, held = self.folder / name, self.folder / f"{name}.held"
        lock.touch()
        lock.chmod(0o666)
        try:
            with wire.Peer(self.address) as peer:
                peer.send(wire.request(1, wire.cgi_params("GET", f"/hold/{lock}")))
                wait_until(held.exists, "the request to run")
                yield peer
                lock.unlink()
                response = peer.receive_end()
                assert (response.status, response.ended) == (200, True), self.log()
        finally:
            lock.unlink(missing_ok=True)
            held.unlink(missing_ok=True)

    def end(self, signum: int = signal.SIGTERM) -> int:
        """End it; nothing may be left of it. Returns the exit status."""
        self.send(signum)
        return self.ended()

    def ended(self) -> int:
        """Wait for the end that was asked for. (Another signal could come when the master has put
        back the handlers of before.)"""
        status = self.wait()
        self.assert_nothing_left([])
        return status

    def assert_nothing_left(self, workers: "list[int]") -> None:
        """No process of its session, no socket, no pid file."""
        wait_until(lambda: not any(map(alive, workers)), f"the workers to end\n{self.log()}")
        assert not [pid for pid in _pids() if _stat(pid)[3:4] == [str(self.pid)] and alive(pid)]
        left = {path.name for path in self.folder.iterdir()}
        assert left <= {"script.py", "master.log"}, left

    def __enter__(self) -> "Self":
        super().__enter__()
        return self


def _is_worker(pid: int) -> bool:
    """Forked, not started: its command line is that of the master."""
    try:
        mine = Path(f"/proc/{pid}/cmdline").read_bytes()
        parent = Path(f"/proc/{_stat(pid)[1]}/cmdline").read_bytes()
    except (OSError, IndexError):
        return False
    return mine == parent


class Load(threading.Thread):
    """Requests without a pause until the block ends.

    Args:
        address: Of the server.
        kept, closed: Connections that are used again and again, and those used once.

    Attributes:
        errors: Reason -> how many requests failed for it.
        examples: Reason -> what it was at first.
        requests: Those that were answered rightly.
    """

    def __init__(self, address: str, kept: int = 8, closed: int = 8, path: str = "/") -> None:
        super().__init__(daemon=True)
        self.address = f"unix:{address}"
        params = load.params("minimal", target=path)
        self.lanes = [
            _load.Lane(load.request_bytes(params, keep_conn=keep), count, keep, status=200)
            for keep, count in ((True, kept), (False, closed))
            if count
        ]
        self._done = threading.Event()
        self._counted = 0
        self.errors: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.requests = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            results = _load.run(self.address, self.lanes, seconds=120, progress=self._progress)
        except BaseException as error:
            self.failure = error
            return
        self.requests = sum(result.requests for result in results)
        for result in results:
            self.errors.update(result.errors)
            self.examples.update(result.examples)

    def _progress(self, results: "list[_load.LaneResult]") -> bool:
        self._counted = sum(result.requests for result in results)
        return self._done.is_set()

    def wait_for_more(self, count: int = 200) -> None:
        """Wait until so many more requests were answered."""
        goal = self._counted + count
        wait_until(lambda: self._counted >= goal or not self.is_alive(), "more answers")

    def __enter__(self) -> "Self":
        self.start()
        self.wait_for_more()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self.join(60)
        assert not self.is_alive()
        assert self.failure is None, self.failure
        logging.getLogger(__name__).info("%d requests", self.requests)
