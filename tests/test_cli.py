"""The command line, as real processes: what it serves, what it says, how it ends."""

import contextlib
import errno
import http.client
import importlib.metadata
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import wire

import fastfcgi
from fastfcgi import client

if sys.platform == "win32":
    pytest.skip("signals and unix sockets", allow_module_level=True)

from processes import environment, wait_until

COMMAND = [sys.executable, "-m", "fastfcgi"]
PACKAGE = str(Path(fastfcgi.__file__).parents[1])

APP = """
    import os, threading, time
    started = threading.Event()

    def application(environ, start_response):
        path = environ["PATH_INFO"]
        if path == "/error":
            raise LookupError("a secret")
        if path == "/slow":
            started.set()
            open("started", "w").close()
            time.sleep(float(environ["QUERY_STRING"]))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"main {os.getcwd()} {environ['wsgi.multithread']}".encode()]

    def app(environ, start_response):
        start_response("200 OK", [])
        return [b"app"]

    def create():
        return app

    class Nested:
        inner = staticmethod(app)

    number = 5
"""


def child_environment(**extra: str) -> dict[str, str]:
    return environment({"PYTHONPATH": PACKAGE, **extra})


class Running:
    """A running command; its output is in a file. Ended at the end of the with block."""

    def __init__(self, arguments: Sequence[str], cwd: Path, **options: Any) -> None:
        self.output_path = cwd / "output"
        with self.output_path.open("wb") as output:
            options = {"stdin": subprocess.DEVNULL, "env": child_environment(), **options}
            self.popen = subprocess.Popen(
                [*COMMAND, *arguments], cwd=cwd, stdout=output, stderr=output, **options
            )

    def output(self) -> str:
        return self.output_path.read_text(errors="replace")

    def wait_for(self, pattern: str) -> "re.Match[str]":
        """Wait for a line in the output."""

        def found() -> "re.Match[str] | None":
            match = re.search(pattern, self.output(), re.MULTILINE)
            assert match or self.popen.poll() is None, f"it ended:\n{self.output()}"
            return match

        match = wait_until(found, f"{pattern!r} in the output")
        assert match is not None
        return match

    def url(self) -> "tuple[str, int]":
        """Host and port of the HTTP front, once it is there."""
        found = self.wait_for(r"^Open http://(.*):(\d+)/ ")
        return found[1], int(found[2])

    def stop(self, signum: int = signal.SIGTERM) -> int:
        self.popen.send_signal(signum)
        return self.popen.wait(wire.DEADLINE)

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *error: object) -> None:
        if self.popen.poll() is None:
            self.popen.terminate()  # so that it takes its folder away
            try:
                self.popen.wait(wire.DEADLINE)
            finally:
                self.popen.kill()
                self.popen.wait()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with the modules of these tests; short, so that a socket's path fits."""
    with tempfile.TemporaryDirectory(prefix="fastfcgi-") as name:
        (Path(name) / "site.cfg").touch()
        (Path(name) / "webapp.py").write_text(textwrap.dedent(APP))
        yield Path(name)


def fetch(address: client.Address, path: str = "/", query: str = "") -> bytes:
    return client.request(address, wire.cgi_params(path=path, query=query)).read()


def http_get(url: tuple[str, int], path: str = "/") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*url, timeout=wire.DEADLINE)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def run(arguments: Sequence[str], cwd: Path, **options: Any) -> "subprocess.CompletedProcess[str]":
    options = {"stdin": subprocess.DEVNULL, "env": child_environment(), **options}
    return subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, **options
    )


def error_of(arguments: Sequence[str], cwd: Path, status: int, **options: Any) -> str:
    """The one line of a command that fails."""
    done = run(arguments, cwd, **options)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert re.fullmatch(r"fastfcgi: error: [^\n]+\n", done.stderr), done.stderr
    return done.stderr.removeprefix("fastfcgi: error: ")


# ---------------------------------------------------------------------------------- options


def test_version(folder: Path) -> None:
    try:
        version = importlib.metadata.version("fastfcgi")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed, so it has no version")
    assert run(["--version"], folder).stdout == f"fastfcgi {version}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["demo", "--help"]])
def test_help(arguments: list[str], folder: Path) -> None:
    done = run(arguments, folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: fastfcgi")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unknown"],
        ["serve"],
        ["serve", "webapp", "--unknown"],
        ["serve", "webapp", "--thr", "1"],
        ["serve", "web-app"],
        ["serve", "webapp:"],
        ["serve", "webapp:a b"],
        ["serve", "webapp:create(1)"],
        ["serve", "webapp", "--bind", "nonsense"],
        ["serve", "webapp", "--bind", "host:99999"],
        ["serve", "webapp", "--bind", "tcp://127.0.0.1:9000"],
        ["serve", "webapp", "--bind", "a..b:80"],
        ["ping", "http://localhost/ping"],
        ["serve", "webapp", "--http", "host"],
        ["serve", "webapp", "--http", "1:2:3"],
        ["serve", "webapp", "--http", "127.0.0.1:65536"],
        ["serve", "webapp", "--threads", "0"],
        ["serve", "webapp", "--threads", "x"],
        ["serve", "webapp", "--socket-mode", "689"],
        ["serve", "webapp", "--socket-mode", "rw"],
        ["serve", "webapp", "--graceful-timeout", "-1"],
        ["demo", "--socket-mode", "660"],
    ],
)
def test_wrong_options(arguments: list[str], folder: Path) -> None:
    assert "--help" in error_of(arguments, folder, 2)


@pytest.mark.parametrize(
    ("arguments", "name", "meant"),
    [
        (["serve", "--workrs", "2", "webapp"], "--workrs", "--workers"),
        (["serve", "webapp", "--thread=2"], "--thread=2", "--threads"),
        (["config", "--mout", "/x", "nginx"], "--mout", "--mount"),
    ],
)
def test_misspelt_option(arguments: list[str], name: str, meant: str, folder: Path) -> None:
    """It is what is told, not its value, which stands where another argument is looked for."""
    told = error_of(arguments, folder, 2)
    assert f"unrecognized arguments: {name}; did you mean {meant}?" in told


def test_what_follows_two_dashes_is_no_option(folder: Path) -> None:
    assert "--thr" in error_of(["serve", "--", "--thr"], folder, 2)
    assert "unrecognized" not in error_of(["serve", "--", "--thr"], folder, 2)


# -------------------------------------------------------------------------- the application


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("webapp", b"main"),
        ("webapp:application", b"main"),
        ("webapp:app", b"app"),
        ("webapp:create()", b"app"),
        ("webapp:Nested.inner", b"app"),
        ("only_app", b"app"),
        ("package.module:app", b"app"),
    ],
)
def test_targets(target: str, expected: bytes, folder: Path) -> None:
    (folder / "only_app.py").write_text("from webapp import app")
    (folder / "package").mkdir()
    (folder / "package" / "module.py").write_text("from webapp import app")
    with Running(["serve", target, "--bind", "./s"], folder) as command:
        command.wait_for(f"^fastfcgi: serving {re.escape(target)} at unix:./s$")
        assert fetch(str(folder / "s")).startswith(expected)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("nothing_here:app", "No module named 'nothing_here'"),
        ("webapp.sub:app", "No module named 'webapp.sub'"),
        ("webapp:missing", "module 'webapp' has no attribute 'missing'"),
        ("webapp:Nested.missing", "module 'webapp' has no attribute 'Nested.missing'"),
        ("webapp:number", "'webapp:number' is not a WSGI application"),
        ("webapp:number()", "'webapp:number()' is not a WSGI application"),
        ("empty", "module 'empty' has no attribute 'application' or 'app'"),
    ],
)
def test_no_such_application(target: str, expected: str, folder: Path) -> None:
    (folder / "empty.py").touch()
    assert expected in error_of(["serve", target, "--bind", "./s"], folder, 1)


@pytest.mark.parametrize(
    ("text", "target", "expected", "cause"),
    [
        (
            "import webapp\nimport not_installed",
            "broken",
            "importing 'broken' failed: ModuleNotFoundError: No module named 'not_installed'",
            "import not_installed",
        ),
        ("x = (", "broken", "importing 'broken' failed: SyntaxError: ", "x = ("),
        ("x = 1 / 0", "broken", "failed: ZeroDivisionError: division by zero", "x = 1 / 0"),
        ("raise SystemExit(3)", "broken", "failed: SystemExit: 3", "raise SystemExit(3)"),
        ("def f():\n  return {}[1]", "broken:f()", "calling f() of 'broken' failed", "{}[1]"),
    ],
)
def test_a_module_that_fails(
    text: str, target: str, expected: str, cause: str, folder: Path
) -> None:
    (folder / "broken.py").write_text(text)
    done = run(["serve", target, "--bind", "./s"], folder)
    assert done.returncode == 1
    *trace, line = done.stderr.splitlines()
    assert line.startswith("fastfcgi: error: ") and expected in line
    assert trace[0] == "Traceback (most recent call last):" or cause.startswith("x = (")
    assert any(cause in shown for shown in trace)
    # Only what the user wrote, not how we came there.
    assert not any("importlib" in shown or "cli.py" in shown for shown in trace)


def test_chdir(folder: Path) -> None:
    arguments = ["serve", "webapp", "--chdir", str(folder), "--bind", "./s"]
    (folder / "elsewhere").mkdir()
    with Running(arguments, folder / "elsewhere") as command:
        command.wait_for("serving")
        assert fetch(str(folder / "s")).split()[1] == os.fsencode(folder.resolve())
    arguments[3] = "no/such"
    assert "no/such: No such file or directory" in error_of(arguments, folder, 1)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="PYTHONSAFEPATH")
def test_no_path(folder: Path) -> None:
    safe = child_environment(PYTHONSAFEPATH="1")
    with Running(["serve", "webapp", "--bind", "./s"], folder, env=safe) as command:
        command.wait_for("serving")
    arguments = ["serve", "webapp", "--bind", "./t", "--no-path"]
    assert "No module named 'webapp'" in error_of(arguments, folder, 1, env=safe)


# ----------------------------------------------------------------------------------- places


def test_several_addresses(folder: Path) -> None:
    arguments = ["serve", "webapp:app", "--bind", "unix:./a", "--bind", "127.0.0.1:0"]
    with Running(arguments, folder) as command:
        port = int(command.wait_for(r"at unix:\./a, 127\.0\.0\.1:(\d+)$")[1])
        assert fetch(str(folder / "a")) == fetch(f"127.0.0.1:{port}") == b"app"


def test_socket_options(folder: Path) -> None:
    owner = ["--socket-owner", str(os.getuid()), "--socket-group", str(os.getgid())]
    arguments = ["serve", "webapp", "--bind", "./s", "--socket-mode", "600", *owner]
    with Running([*arguments, "--threads", "1"], folder) as command:
        command.wait_for("serving")
        assert stat.S_IMODE((folder / "s").stat().st_mode) == 0o600
        assert fetch(str(folder / "s")).endswith(b"False")
    assert "no such user" in error_of([*arguments, "--socket-owner", "no-one-here"], folder, 1)


def test_descriptor_0(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()
        with Running(["serve", "webapp:app"], folder, stdin=listener) as command:
            assert fetch(str(folder / "s")) == b"app"
            assert command.stop() == 0
        assert command.output() == ""
        assert (folder / "s").exists()  # not ours to remove


def test_plain_cgi(folder: Path) -> None:
    env = {**child_environment(), **wire.cgi_params()}
    done = run(["serve", "webapp:app"], folder, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Status: 200 OK\n")
    assert done.stdout.endswith("\n\napp")


def test_nothing_to_serve_on(folder: Path) -> None:
    assert "--bind" in error_of(["serve", "webapp"], folder, 1)


def test_addresses_in_use(folder: Path) -> None:
    arguments = ["serve", "webapp", "--bind", "./s"]
    with Running([*arguments, "--http", "127.0.0.1:0"], folder) as command:
        _, port = command.url()
        assert "./s" in error_of(arguments, folder, 1)
        tcp = ["serve", "webapp", "--bind", f"127.0.0.1:{port}"]
        in_use = os.strerror(errno.EADDRINUSE)
        assert in_use in error_of(tcp, folder, 1)
        front = ["serve", "webapp", "--http", f"127.0.0.1:{port}"]
        line = error_of(front, folder, 1)
        assert line == f"cannot listen on 127.0.0.1:{port}: {in_use}\n"
    assert "webapp.py" in error_of(["serve", "webapp", "--bind", "./webapp.py"], folder, 1)
    line = error_of(["serve", "webapp", "--bind", "./no/s"], folder, 1)
    assert line == f"cannot listen on ./no/s: there is no directory {folder}/no\n"


def test_no_permission(folder: Path) -> None:
    # Root may do everything, so it becomes nobody before the server listens.
    (folder / "nobody.py").write_text(
        "import os\nfrom webapp import app\nif os.geteuid() == 0: os.seteuid(65534)"
    )
    (folder / "closed").mkdir(mode=0o500)
    arguments = ["serve", "nobody", "--bind", f"{folder}/closed/s"]
    assert f"the directory {folder}" in error_of(arguments, folder, 1)


# ---------------------------------------------------------------------------- the HTTP front


def test_http_before_a_private_socket(folder: Path) -> None:
    env = child_environment(TMPDIR=str(folder / "tmp"))
    (folder / "tmp").mkdir()
    with Running(["serve", "webapp", "--http", "127.0.0.1:0"], folder, env=env) as command:
        assert http_get(command.url())[1].startswith(b"main")
        (private,) = (folder / "tmp").iterdir()
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert command.stop() == 0
    assert list((folder / "tmp").iterdir()) == []


def test_http_and_bind(folder: Path) -> None:
    arguments = ["serve", "webapp:app", "--bind", "127.0.0.1:0", "--http", "0"]
    with Running(arguments, folder) as command:
        host, port = command.url()
        assert host == "127.0.0.1"  # loopback unless told otherwise
        address = command.wait_for(r"at (127\.0\.0\.1:\d+)$")[1]
        assert http_get((host, port)) == (200, b"app")
        assert fetch(address) == b"app"


def test_debug_shows_tracebacks_and_nothing_else_does(folder: Path) -> None:
    for extra, shown in ([], False), (["--debug"], True):
        with Running(["serve", "webapp", "--http", "0", *extra], folder) as command:
            status, body = http_get(command.url(), "/error")
            assert status == 500
            assert (b"a secret" in body) is shown
            command.wait_for("LookupError: a secret")
            wait_until(lambda: '"GET /error HTTP/1.1" 500' in command.output(), "the access line")
            assert command.output().count("LookupError: a secret") == 1


# ---------------------------------------------------------------------------------- the end


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals(signum: int, folder: Path) -> None:
    with Running(["serve", "webapp", "--bind", "./s", "--http", "0"], folder) as command:
        url = command.url()
        with socket.create_connection(url):  # an idle browser holds nothing up
            assert http_get(url)[0] == 200
            assert command.stop(signum) == 0
        assert "Traceback" not in command.output()
    assert not (folder / "s").exists()


def test_a_signal_while_the_module_is_imported(folder: Path) -> None:
    (folder / "slow.py").write_text("import time; open('started', 'w').close(); time.sleep(60)")
    for signum in (signal.SIGTERM, signal.SIGINT):
        with Running(["serve", "slow", "--http", "0"], folder) as command:
            wait_until((folder / "started").exists, "the import")
            assert command.stop(signum) == 0
            assert command.output() == ""
        (folder / "started").unlink()


@pytest.mark.parametrize("by_http", [True, False])
def test_a_running_request_finishes(by_http: bool, folder: Path) -> None:
    with Running(["serve", "webapp", "--bind", "./s", "--http", "0"], folder) as command:
        url = command.url()
        with contextlib.ExitStack() as stack:
            if by_http:
                connection = stack.enter_context(
                    contextlib.closing(http.client.HTTPConnection(*url, timeout=wire.DEADLINE))
                )
                connection.request("GET", "/slow?1")
            else:
                peer = stack.enter_context(wire.Peer(str(folder / "s")))
                peer.send(wire.request(pairs=wire.cgi_params(path="/slow", query="1")))
            wait_until((folder / "started").exists, "the request to run")
            command.popen.terminate()
            if by_http:
                assert connection.getresponse().read().startswith(b"main")
            else:
                assert peer.receive_end().body.startswith(b"main")
        assert command.popen.wait(wire.DEADLINE) == 0


def test_graceful_timeout(folder: Path) -> None:
    arguments = ["serve", "webapp", "--bind", "./s", "--graceful-timeout", "0.2"]
    with Running(arguments, folder) as command:
        command.wait_for("serving")
        with wire.Peer(str(folder / "s")) as peer:
            peer.send(wire.request(pairs=wire.cgi_params(path="/slow", query="60")))
            wait_until((folder / "started").exists, "the request to run")
            assert command.stop() == 0
