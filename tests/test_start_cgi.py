"""The front-end script as plain CGI: started by itself, by lighttpd and by Apache."""

import contextlib
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checks_bodies import MEGABYTE, sha256
from http_client import fetch
from processes import DEADLINE, Process, environment
from runtimes import Runtime, own_runtime
from starting import FRONT_END, Response, check_serves, request_env, run_cgi
from webservers import start_cgi

pytestmark = pytest.mark.webserver


@pytest.fixture
def script(folder: Path) -> Path:
    """The front-end script, for those who run as we do."""
    return own_runtime().script(folder / "app.fcgi", FRONT_END)


def run_script(script: Path, target: str, method: str = "GET", body: bytes = b"") -> Response:
    """Run the front-end script as plain CGI."""
    cgi = request_env(target, method, len(body) if body else None)
    return run_cgi([str(script)], {**environment(own_runtime().env), **cgi}, body)


def test_plain_cgi(script: Path) -> None:
    response = run_script(script, "/env/a b?c=d")
    environ = response.json()
    assert (response.code, response.stderr) == (0, "")
    assert "Content-Type: application/json" in response.head
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/app", "/env/a b")
    assert environ["QUERY_STRING"] == "c=d"
    assert environ["wsgi.run_once"] is True
    assert environ["wsgi.multithread"] is False


def test_plain_cgi_utf8(script: Path) -> None:
    environ = run_script(script, "/env/é€").json()
    assert environ["PATH_INFO"] == "/env/é€".encode().decode("latin-1")


def test_plain_cgi_bodies(script: Path) -> None:
    body = os.urandom(MEGABYTE)
    assert run_script(script, "/digest", "POST", body).json()["sha256"] == sha256(body)
    assert run_script(script, "/echo", "POST", body).body == body
    assert run_script(script, "/ignore", "POST", body).body == b"ignored"
    assert run_script(script, "/size/1000", "HEAD").body == b""


@contextlib.contextmanager
def cgi_on_a_socket(
    folder: Path, script: Path, target: str, length: int
) -> Iterator[socket.socket]:
    """The script as plain CGI with one unix socket as its stdin and stdout; yields the other end.

    So Apache's mod_cgid starts it.
    """
    ours, theirs = socket.socketpair()
    with ours:
        options: Any = {"stdin": theirs.fileno(), "stdout": theirs.fileno()}
        env = {**own_runtime().env, **request_env(target, "POST", length)}
        with Process([str(script)], folder, "cgi", env, **options) as process:
            theirs.close()
            ours.settimeout(DEADLINE)
            yield ours
            assert process.wait() == 0, process.log()


@pytest.mark.parametrize("length", [1, 100_000])
def test_plain_cgi_takes_in_what_the_application_does_not_read(
    folder: Path, script: Path, length: int
) -> None:
    """The end of a process with input that it has not read resets the connection: the web server
    loses the response."""
    with cgi_on_a_socket(folder, script, "/ignore", length) as sock:
        sock.sendall(bytes(length))
        received = b""
        while block := sock.recv(65536):
            received += block
        assert received.endswith(b"\r\n\r\nignored")


def test_plain_cgi_answers_when_the_body_is_in(folder: Path, script: Path) -> None:
    """Apache's mod_cgid and mod_cgi read nothing before they have sent all of the body: a response
    that is larger than what the system holds for them would wait for that for ever."""
    body = os.urandom(3 * MEGABYTE)
    with cgi_on_a_socket(folder, script, "/echo", len(body)) as sock:
        rest = memoryview(body)
        while rest:
            readable, _, _ = select.select([sock], [sock], [], DEADLINE)
            assert not readable, f"it answers while {len(rest)} bytes are still to be sent"
            rest = rest[sock.send(rest[:65536]) :]
        received = b""
        while block := sock.recv(65536):
            received += block
        assert received.endswith(body)


def test_plain_cgi_errors(script: Path) -> None:
    response = run_script(script, "/error?text=something")
    assert response.head[0].startswith("Status: 500")
    assert "RuntimeError: something" in response.stderr
    assert "something" not in response.body.decode()
    assert run_script(script, "/errors-log?text=noted").stderr == "noted\n"


def test_forced_cgi(folder: Path, script: Path) -> None:
    """FCGI_FORCE_CGI: plain CGI although descriptor 0 is a listening socket."""
    listening = socket.socket(socket.AF_UNIX)
    with contextlib.closing(listening):
        listening.bind(f"{folder}/s")
        listening.listen()
        env = {**own_runtime().env, **request_env("/env"), "FCGI_FORCE_CGI": "Y"}
        options: Any = {"stdin": listening.fileno()}
        with Process([str(script)], folder, "forced", env, **options) as process:
            assert process.wait() == 0
            assert process.log().startswith("Status: 200 OK\n")


@pytest.mark.parametrize("name", ["lighttpd", "apache"])
def test_cgi_of_web_servers(name: str, folder: Path, public_python: Runtime) -> None:
    script = public_python.script(folder / "app.cgi", FRONT_END)
    with start_cgi(name, folder, script, public_python.env) as server:
        environ = fetch(server.site, "/env/%C3%A9%20b?c=d", headers=[("Proxy", "x")]).json()
        assert environ["SCRIPT_NAME"] == server.site.prefix
        assert environ["PATH_INFO"] == "/env/é b".encode().decode("latin-1")
        assert environ["QUERY_STRING"] == "c=d"
        assert environ["wsgi.run_once"] is True
        assert "HTTP_PROXY" not in environ
        pids = {fetch(server.site, "/process").json()["pid"] for _ in range(3)}
        assert len(pids) == 3
        check_serves(server.site)
        assert fetch(server.site, "/errors-log?text=noted-by-cgi").body == b"written"
        server.wait_for_log("noted-by-cgi")
