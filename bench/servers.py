"""The servers that are compared, each in a process of its own, all with the same application.

As a program, `python -m bench.servers KIND PATH MODULE:NAME` serves an application: at a unix
socket, or with flipflop at descriptor 0, which is all it knows.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("fastfcgi", "flup", "flipflop", "uwsgi")
PAGE = b"<p>Hello, world.</p>" * 50
DEADLINE = 20.0
UWSGI_OPTIONS = ["--master", "--threads=16", "--die-on-term", "--need-app", "--disable-logging"]


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """One kilobyte, whatever was asked for."""
    headers = [("Content-Type", "text/html"), ("Content-Length", str(len(PAGE)))]
    start_response("200 OK", headers)
    return [PAGE]


def installed(kind: str) -> bool:
    """Whether that kind of server is here."""
    if kind == "uwsgi":
        return _uwsgi() is not None
    return importlib.util.find_spec(kind) is not None


def _uwsgi() -> str | None:
    folders = [os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]
    return shutil.which("uwsgi", path=os.pathsep.join(folders))


def serve(kind: str, path: str, name: str, options: str = "{}") -> None:
    """Serve until TERM. Options, in JSON, are the server's own; its defaults without."""
    module, _, attribute = name.partition(":")
    app = getattr(importlib.import_module(module), attribute)
    if kind == "fastfcgi":
        from fastfcgi import WSGIServer

        WSGIServer(app, bindAddress=path, **json.loads(options)).run()
    elif kind == "flup":
        from flup.server.fcgi import WSGIServer

        WSGIServer(app, bindAddress=path, **json.loads(options)).run()
    elif kind == "flipflop":
        from flipflop import WSGIServer

        WSGIServer(app).run()


def command_of(kind: str, path: str, name: str, options: dict[str, Any]) -> list[str]:
    """What starts that kind of server, in the folder ROOT."""
    if kind == "uwsgi":
        program = _uwsgi() or kind
        python = ["--virtualenv", sys.prefix, "--pythonpath", str(ROOT), "--module", name]
        return [program, "--fastcgi-socket", path, *python, *UWSGI_OPTIONS]
    return [sys.executable, "-m", "bench.servers", kind, path, name, json.dumps(options)]


class Server:
    """A running server: its kind, the path of its unix socket, and its process."""

    def __init__(self, kind: str, folder: str, name: str, options: dict[str, Any]) -> None:
        self.kind = kind
        self.path = os.path.join(folder, "fcgi.sock")
        command = command_of(kind, self.path, name, options)
        with contextlib.ExitStack() as stack:
            stdin: Any = subprocess.DEVNULL
            if kind == "flipflop":
                stdin = stack.enter_context(socket.socket(socket.AF_UNIX))
                stdin.bind(self.path)
                stdin.listen(1024)
            log = stack.enter_context(open(os.path.join(folder, "log"), "wb"))
            self.process = subprocess.Popen(command, cwd=ROOT, stdin=stdin, stdout=log, stderr=log)
        try:
            self._wait_for()
        except BaseException:
            self.process.kill()
            raise

    def _wait_for(self) -> None:
        end = time.monotonic() + DEADLINE
        while True:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
                sock.connect(self.path)
                return
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{self.process.args!r} does not listen")
            time.sleep(0.02)

    def stop(self) -> None:
        """End the process, by force if need be."""
        self.process.terminate()
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def running(kind: str, name: str = "bench.servers:application", **options: Any) -> Iterator[Server]:
    """Start a server of that kind, with the application MODULE:NAME, and end it afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        server = Server(kind, folder, name, options)
        try:
            yield server
        finally:
            server.stop()


if __name__ == "__main__":
    serve(*sys.argv[1:])
