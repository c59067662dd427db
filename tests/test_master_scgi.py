"""SCGI from several processes: a master's workers, prefork, the command line; reloads meanwhile."""

import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import scgi_wire
from master_process import Served
from processes import Process, wait_until

OPTIONS = "workers=2, server_options={'protocol': 'scgi'}"
PREFORK = """
from fastfcgi import prefork
prefork.WSGIServer(app, bindAddress="app.sock", protocol="scgi", minSpare=1, maxSpare=2).run()
"""
BROKEN = """
def load():
    raise RuntimeError("it is broken")
"""


def ask(address: str, path: str = "/") -> scgi_wire.Output:
    return scgi_wire.ask(address, scgi_wire.cgi_params(path=path))


class Load:
    """Requests from some threads until the end of the block; errors are those not answered."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.answers: Counter[bytes] = Counter()
        self.errors: list[object] = []
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                output = ask(self.address)
                self.answers[output.body] += 1
                if output.status != 200 or output.reset:
                    self.errors.append(output.data)
            except Exception as error:
                self.errors.append(error)

    def wait_for_more(self) -> None:
        before = self.answers.total()
        wait_until(lambda: self.answers.total() > before + 100 or self.errors, "more answers")

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


def test_reloads_under_load_lose_nothing(folder: Path) -> None:
    with Served(folder, OPTIONS, begin=2) as served:
        with Load(served.address) as load:
            for generation in (2, 3):
                old = served.workers()
                served.send(signal.SIGHUP)
                served.wait_for_log(f"reloaded, generation {generation}")
                served.wait_for_workers(2, without=old)
                load.wait_for_more()
        assert not load.errors, (load.errors[:5], served.log())
        assert len(load.answers) > 2  # pids
        assert "died" not in served.log()
        assert served.end() == 0


def test_requests_go_to_whoever_is_free(folder: Path) -> None:
    """A connection that nobody here has a thread for moves to another process."""
    options = "workers=2, server_options={'protocol': 'scgi', 'threads': 1}"
    with Served(folder, options, begin=2) as served:
        (folder / "one").touch()
        held: list[scgi_wire.Output] = []
        holding = threading.Thread(target=lambda: held.append(ask(served.address, "/hold/one")))
        holding.start()
        wait_until(lambda: (folder / "one.held").exists(), "a request that holds its worker")
        pids = {ask(served.address).body for _ in range(20)}
        (folder / "one").unlink()
        holding.join(60)
        (folder / "one.held").unlink()
        assert len(pids) == 1 and held[0].body not in pids
        assert served.end() == 0


def test_an_application_that_cannot_be_loaded(folder: Path) -> None:
    with Served(folder, OPTIONS, BROKEN) as served:
        served.wait_for(served.address)
        output = ask(served.address)
        assert output.status == 500
        assert b"could not be loaded" in output.body
        assert served.end() == 0


def test_prefork(folder: Path) -> None:
    with Served(folder, run=PREFORK, begin=1) as served:
        assert ask(served.address).body.isdigit()
        assert served.end() == 0


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_the_command(folder: Path, workers: list[str]) -> None:
    (folder / "mysite.py").write_text(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Type', 'text/plain')])\n"
        "    return [repr((environ['SCRIPT_NAME'], environ['PATH_INFO'])).encode()]\n"
    )
    address = str(folder / "app.sock")
    options = ["--protocol", "scgi", "--mount", "/a", "--bind", f"unix:{address}", *workers]
    command = [sys.executable, "-m", "fastfcgi", "serve", *options, "mysite:app"]
    env = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with Process(command, folder, "serve", env=env) as process:
        process.wait_for(address)
        assert ask(address, "/a/b").body == b"('/a', '/b')"
        assert ask(address, "/b").status == 404
        assert process.stop() == 0
