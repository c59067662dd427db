"""`fastfcgi ping` and `fastfcgi status`: what they say, and what their exit status is, of every
kind of server that may be there."""

import contextlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import reference_codec as codec
import wire
from asking import Runner, process
from asking import run as run  # a fixture
from helpers import Serving, serving
from scripted import END, HEADER, Peer, answering, scripted, stdout
from test_status import SNAPSHOT

from fastfcgi import ask, constants, status

if not hasattr(socket, "AF_UNIX"):
    pytest.skip("unix sockets", allow_module_level=True)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and setpriv")

PAGES = {
    "/ping": ("200 OK", "text/plain", "pong\n"),
    "/health": ("204 No Content", None, ""),
    "/home": ("200 OK", "text/html", "<p>hello"),
    "/login": ("302 Found", "text/html", ""),
    "/text": ("200 OK", "text/plain", "some text"),
}


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """The pages above, a status page, and 404 for the rest; an index page where it is mounted."""
    path = environ["PATH_INFO"]
    if path == "/status":
        page = status.respond(environ["QUERY_STRING"], SNAPSHOT)
        code, headers, body = wire.parse_cgi(page)
        start_response(f"{code} X", headers)
        return [body]
    if environ["SCRIPT_NAME"] and not path:
        path = "/home"
    line, kind, text = PAGES.get(path, ("404 Not Found", "text/html", ""))
    start_response(line, [("Content-Type", kind)] if kind else [])
    return [text.encode()]


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Serving]:
    with serving(application, bind=f"unix:{tmp_path}/s") as found:
        yield found


# ------------------------------------------------------------------------------------ ping


@pytest.mark.parametrize("kind", ["unix", "path", "tcp", "abstract"])
def test_pong(kind: str, run: Runner, tmp_path: Path) -> None:
    abstract = f"unix:@fastfcgi-test-{os.getpid()}"
    bind = {"unix": f"unix:{tmp_path}/s", "path": f"{tmp_path}/s", "abstract": abstract}
    if kind == "abstract" and sys.platform != "linux":
        pytest.skip("Linux only")
    with serving(application, bind=bind.get(kind, "127.0.0.1:0")) as web:
        address = bind[kind] if kind in bind else "127.0.0.1:{1}".format(*web.address)
        done = run("ping", address)
    assert (done.status, done.err) == (0, "")
    start, _, rest = done.out.partition(": pong in ")
    assert start == address and rest.endswith(" ms\n")


@pytest.mark.parametrize(
    ("path", "said"), [("/health", "204 No Content"), ("/home", "200 OK"), ("/text", "200 OK")]
)
def test_a_page_of_the_application(path: str, said: str, web: Serving, run: Runner) -> None:
    done = run("ping", web.address, "--path", path)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"{web.address}: {path} is answered with {said} in ")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/none", "404 Not Found: is it served with --ping-path /none?"),
        ("/a b\u20ac", "404 Not Found: is it served with --ping-path /a%20b%E2%82%AC?"),
        ("/login", "302 Found"),
    ],
)
def test_a_wrong_page(path: str, said: str, web: Serving, run: Runner) -> None:
    """An application without a ping page is not asked as php-fpm is: it would take the path for
    its mount, and answer with its index page."""
    text = run.error("ping", web.address, "--path", path)
    assert text == f"{web.address} answers {ask._path(path)} with status {said}"


def test_an_application_that_fails(run: Runner) -> None:
    head = b"Status: 500 It \x1b[2J broke\r\n\r\n"
    with scripted(answering(stdout(head), END)) as (host, port):
        text = run.error("ping", f"{host}:{port}")
    assert text == rf"{host}:{port} answers /ping with status 500 It \x1b[2J broke"


def test_nobody_listens(run: Runner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    text = run.error("ping", f"127.0.0.1:{port}")
    assert text == f"no FastCGI server at 127.0.0.1:{port}: Connection refused"


def test_no_such_socket(run: Runner, tmp_path: Path) -> None:
    text = run.error("ping", f"unix:{tmp_path}/none")
    assert text == f"no FastCGI server at unix:{tmp_path}/none: No such file or directory"


def test_a_socket_whose_server_has_died(run: Runner, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{tmp_path}/s")
    text = run.error("ping", f"{tmp_path}/s")
    assert text == f"no FastCGI server at {tmp_path}/s: Connection refused"


def test_no_socket_but_a_file(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert f"no FastCGI server at {tmp_path}/file: " in run.error("ping", f"{tmp_path}/file")


def test_permission_denied(run: Runner) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        with serving(application, bind=f"unix:{folder}/s", socket_mode=0o000):
            root = os.geteuid() == 0  # who may do everything, so somebody else has to ask
            if root:
                os.seteuid(65534)
            try:
                text = run.error("ping", f"{folder}/s")
            finally:
                if root:
                    os.seteuid(0)
    assert text == f"no FastCGI server at {folder}/s: Permission denied"


def test_a_server_that_is_silent(run: Runner) -> None:
    with scripted(Peer.receive_close) as (host, port):
        text = run.error("ping", f"{host}:{port}", "--timeout", "0.1")
    assert text == f"{host}:{port}: no complete answer within 0.1 seconds"


def test_a_server_that_never_ends(run: Runner) -> None:
    """Something moves all the time, and it is too slow nevertheless."""

    def script(peer: Peer) -> None:
        peer.receive_request()
        peer.send(stdout(HEADER))
        with contextlib.suppress(ConnectionError):
            while True:
                peer.send(stdout(b"."))
                time.sleep(0.01)

    with scripted(script) as (host, port):
        began = time.monotonic()
        text = run.error("ping", f"{host}:{port}", "--timeout", "0.3")
    assert text == f"{host}:{port}: no complete answer within 0.3 seconds"
    assert 0.3 <= time.monotonic() - began < wire.DEADLINE


@linux_only
def test_a_full_queue(run: Runner, tmp_path: Path) -> None:
    path = f"{tmp_path}/s"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        text = run.error("ping", path, "--timeout", "0.1")
    assert text == f"no FastCGI server at {path}: its queue of connections is full"


def test_a_server_that_closes_at_once(run: Runner) -> None:
    with scripted(lambda peer: None) as (host, port):
        text = run.error("ping", f"{host}:{port}")
    assert text.startswith(f"{host}:{port}: the ") and "before END_REQUEST" in text


def test_an_http_server(run: Runner) -> None:
    answer = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
    with scripted(lambda peer: peer.send(answer)) as (host, port):
        text = run.error("ping", f"{host}:{port}")
    assert text == f"{host}:{port} does not speak FastCGI: it answers in HTTP"


def test_an_http_server_of_python(run: Runner) -> None:
    """It waits for the end of a line, or does not like what comes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            text = run.error("ping", f"127.0.0.1:{server.server_port}", "--timeout", "0.5")
        finally:
            server.shutdown()
            thread.join()
    assert text.startswith(f"127.0.0.1:{server.server_port}")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([b"SSH-2.0-OpenSSH_9\r\n"], "does not speak FastCGI: version 83 instead of 1"),
        ([wire.stream(constants.STDOUT, 2, HEADER)], "does not speak FastCGI: a record of"),
        ([stdout(b"hello"), END], ": the response has no complete header"),
        ([stdout(HEADER)], ": the peer closed the connection before END_REQUEST"),
        ([codec.encode_end_request(1, 0, 2)], ": refused with protocol_status 2 (OVERLOADED)"),
        (
            [stdout(HEADER + b"pong"), codec.encode_end_request(1, 0, 3)],
            ": refused with protocol_status 3 (UNKNOWN_ROLE)",
        ),
    ],
    ids=["ssh", "other id", "no header", "cut", "overloaded", "late refusal"],
)
def test_answers_that_are_none(answer: list[bytes], said: str, run: Runner) -> None:
    with scripted(answering(*answer)) as (host, port):
        text = run.error("ping", f"{host}:{port}")
    assert text.startswith(f"{host}:{port}") and said in text


def test_an_endless_page(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "MAX_PAGE", 1000)
    with scripted(answering(stdout(HEADER + b"x" * 1001), END)) as (host, port):
        assert "longer than 1000 bytes" in run.error("ping", f"{host}:{port}")
    with scripted(answering(stdout(HEADER + b"x" * 1000), END)) as (host, port):
        assert run("ping", f"{host}:{port}").status == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "ADDRESS"),
        (["nonsense"], "not an address"),
        (["fd:3"], "not an address to connect to"),
        (["./s", "--path", "ping"], "a path begins with a slash"),
        (["./s", "--timeout", "0"], "--timeout"),
        (["./s", "--nothing"], "--nothing"),
    ],
)
def test_wrong_options(arguments: list[str], said: str, run: Runner) -> None:
    assert said in run.error("ping", *arguments, status=2)


# --------------------------------------------------------------------------------- php-fpm

PHP_CONFIG = """[global]
error_log = {folder}/php.log
daemonize = no
[www]
{user}
listen = {folder}/s
pm = static
pm.max_children = 1
ping.path = /ping
pm.status_path = /status
"""


@pytest.fixture
def php(tmp_path: Path) -> Iterator[str]:
    """The address of a php-fpm."""
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])
    names = ["php-fpm", *(f"php-fpm8.{minor}" for minor in range(9, -1, -1))]
    found = next(filter(None, (shutil.which(name, path=folders) for name in names)), None)
    if found is None:
        pytest.skip("php-fpm is not installed")
    user = "user = nobody" if os.getuid() == 0 else ""
    (tmp_path / "php.conf").write_text(PHP_CONFIG.format(folder=tmp_path, user=user))
    command = [found, "-n", "-F", "-y", str(tmp_path / "php.conf")]
    running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + wire.DEADLINE
        while not (tmp_path / "s").exists():
            assert running.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        yield f"unix:{tmp_path}/s"
    finally:
        running.terminate()
        running.wait(wire.DEADLINE)


def test_ping_of_php_fpm(php: str, run: Runner) -> None:
    done = run("ping", php)
    assert (done.status, done.err) == (0, "") and f"{php}: pong in " in done.out
    assert "404 Not Found" in run.error("ping", php, "--path", "/none")


def test_status_of_php_fpm(php: str, run: Runner) -> None:
    assert "process manager:      static" in run("status", php).out
    assert json.loads(run("status", php, "--json", "--full").out)["total processes"] == 1
    assert run("status", php, "--openmetrics").out.endswith("# EOF\n")


def test_only_php_fpm_is_asked_again(run: Runner) -> None:
    """By the sign that its answer has: a path in SCRIPT_NAME, none in PATH_INFO."""
    asked: list[dict[bytes, bytes]] = []
    stderr = wire.stream(constants.STDERR, 1, b"Primary script unknown", end=False)
    missing = stdout(b"Status: 404 Not Found\r\n\r\nFile not found.\n")

    def script(peer: Peer) -> None:
        peer.receive_request()
        asked.append(dict(codec.decode_pairs(peer.stream(constants.PARAMS))))
        peer.send(missing + stderr + END)

    listener = socket.create_server(("127.0.0.1", 0))
    with scripted(script, listener.dup()) as (host, port):
        second = threading.Thread(target=answer_twice, args=(listener, asked))
        second.start()
        done = run("ping", f"{host}:{port}", "--path", "/a%20b")
        second.join()
    assert done.status == 0, done
    places = [tuple(one.get(name) for name in (b"SCRIPT_NAME", b"PATH_INFO")) for one in asked]
    assert places == [(b"", b"/a b"), (b"/a b", b"")]
    assert asked[1][b"SCRIPT_FILENAME"] == b"/a b"


def answer_twice(listener: socket.socket, asked: list[dict[bytes, bytes]]) -> None:
    """Answer the second request, once the first one has come."""
    with listener:
        end = time.monotonic() + wire.DEADLINE
        while not asked and time.monotonic() < end:
            time.sleep(0.01)
        listener.settimeout(wire.DEADLINE)
        sock, _ = listener.accept()
        with sock:
            peer = Peer(sock)
            peer.receive_request()
            asked.append(dict(codec.decode_pairs(peer.stream(constants.PARAMS))))
            peer.send(stdout(HEADER + b"pong") + END)


# ---------------------------------------------------------------------------------- status


@pytest.mark.parametrize(
    ("options", "query"),
    [
        ([], ""),
        (["--full"], "full"),
        (["--json"], "json"),
        (["--json", "--full"], "json&full"),
        (["--full", "--openmetrics"], "full&openmetrics"),
        (["--path", "/status?full", "--json"], "full&json"),
    ],
)
def test_status(options: list[str], query: str, web: Serving, run: Runner) -> None:
    done = run("status", web.address, *options)
    expected = wire.parse_cgi(status.respond(query, SNAPSHOT))[2].decode()
    assert done == (0, expected, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--path", "/none"], "404 Not Found: is it served with --status-path /none?"),
        (["--path", "/health"], "204 No Content"),
        (["--path", "/home"], "text/html: that is no status page"),
        (["--path", "/text", "--json"], "text/plain: that is no status page"),
    ],
)
def test_no_status_page(arguments: list[str], said: str, web: Serving, run: Runner) -> None:
    text = run.error("status", web.address, *arguments)
    assert text.startswith(f"{web.address} answers {arguments[1]} with ") and text.endswith(said)


def test_a_type_that_talks_to_the_terminal(run: Runner) -> None:
    head = b"Content-Type: \x1b[2J\r\n\r\n"
    with scripted(answering(stdout(head), END)) as (host, port):
        assert r"\x1b[2j" in run.error("status", f"{host}:{port}")
    with scripted(answering(stdout(b"\r\n"), END)) as (host, port):
        assert "nothing of a type" in run.error("status", f"{host}:{port}")


def test_two_kinds_of_a_status(run: Runner) -> None:
    assert "not allowed" in run.error("status", "./s", "--json", "--openmetrics", status=2)


@linux_only
def test_in_a_process_of_its_own(web: Serving) -> None:
    """As a container's health check has it."""
    done = process("ping", web.address)
    assert (done.returncode, done.stderr) == (0, b"") and b": pong in " in done.stdout
    done = process("status", web.address, "--path", "/none")
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1 and done.stdout == b""
