"""`fastfcgi doctor ADDRESS`: each thing that may be wrong with a socket, and with what is there."""

import http.server
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("needs Linux, as all tests with real processes", allow_module_level=True)

from dataclasses import asdict

from doctored import Found
from helpers import Gate, hello, serving
from processes import Process, free_ports, require, wait_until

from fastfcgi import doctor_address
from fastfcgi.findings import WRONG

# Enough for a machine that is busy with other things; only who hangs is waited for that long.
PATIENCE = 20.0
SHORT = 0.5


def look(address: str, patience: float = PATIENCE, **options: str) -> Found:
    """What is found there; by the eyes of root, where nothing else is said."""
    options = {"web_user": "root", **options}
    found = list(doctor_address.check_address(address, patience, **options))
    return Found(any(one.level == WRONG for one in found), [asdict(one) for one in found])


# ------------------------------------------------------------------------------------- file


def test_no_file(tmp_path: Path) -> None:
    found = look(f"unix:{tmp_path}/app.sock")
    assert found.wrong == ["missing"]
    assert "its directory is there" in found.one("missing")["text"]
    assert "Start the application" in found.advice("missing")


def test_no_directory(tmp_path: Path) -> None:
    """The first one that is missing is named."""
    found = look(f"unix:{tmp_path}/a/b/app.sock")
    assert found.wrong == ["missing"]
    assert f"its directory {tmp_path}/a is missing" in found.one("missing")["text"]


def test_no_directory_below_run() -> None:
    found = look("unix:/run/fastfcgi-is-not-there/app.sock")
    assert "RuntimeDirectory=" in found.advice("missing")


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "s").symlink_to("nowhere")
    assert "is a link to nowhere" in look(f"{tmp_path}/s").one("missing")["text"]


@pytest.mark.parametrize("kind", ["plain file", "directory", "pipe"])
def test_no_socket(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    {"plain file": path.touch, "directory": path.mkdir, "pipe": lambda: os.mkfifo(path)}[kind]()
    found = look(f"unix:{path}")
    assert found.wrong == ["not-a-socket"]
    assert f"is a {kind}, not a socket" in found.one("not-a-socket")["text"]


def test_a_file_for_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = look(f"unix:{tmp_path}/file/s")
    assert found.wrong == ["not-a-directory"]


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    assert look(f"unix:{tmp_path}/{'x' * 110}").wrong == ["path-too-long"]


# --------------------------------------------------------------------------------- listening


@contextmanager
def listening(path: Path, backlog: int = 5) -> Iterator[socket.socket]:
    """A socket that nobody accepts connections of."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(backlog)
        yield sock


def test_a_file_left_behind(folder: Path) -> None:
    with listening(folder / "s"):
        pass
    found = look(f"unix:{folder}/s", path="/")
    assert found.wrong == ["connect"]
    assert "left behind by a server that is gone" in found.one("connect")["text"]


def test_nobody_at_a_port() -> None:
    found = look(f"127.0.0.1:{free_ports(1)[0]}")
    assert found.wrong == ["connect"]
    assert "nobody listens" in found.one("connect")["text"]
    assert "file" not in found.one("connect")["text"]


def test_no_such_host() -> None:
    assert "no host of that name" in look("name.invalid:9000").one("connect")["text"]


def test_a_full_queue(folder: Path) -> None:
    with listening(folder / "s", 0), socket.socket(socket.AF_UNIX) as first:
        first.connect(str(folder / "s"))
        found = look(f"unix:{folder}/s", SHORT)
    assert found.wrong == ["connect"]
    assert "queue of connections is full" in found.one("connect")["text"]
    assert "more workers or threads" in found.advice("connect")


def test_a_server_that_hangs(folder: Path) -> None:
    with listening(folder / "s"):
        found = look(f"unix:{folder}/s", SHORT)
        assert found.wrong == ["silent"]
        assert "--request /" in found.advice("silent")
        # Asked with a request, that is what is wrong.
        assert look(f"unix:{folder}/s", SHORT, path="/").wrong == ["request"]


# ---------------------------------------------------------------------------- what is spoken


@pytest.mark.parametrize("kind", ["unix", "tcp", "abstract"])
def test_fastfcgi(kind: str, folder: Path) -> None:
    """No application gets to see the question."""
    asked = []

    def application(environ, start_response):
        asked.append(environ)
        return hello(environ, start_response)

    bind = {"unix": f"unix:{folder}/s", "abstract": f"unix:@fastfcgi-doctor-{os.getpid()}"}
    with serving(application, bind=bind.get(kind, "127.0.0.1:0"), threads=7) as web:
        found = look(bind.get(kind, "127.0.0.1:{1}".format(*web.address)))
        assert found.wrong == []
        said = found.one("fastcgi", "ok")["text"]
        assert said.startswith("FastCGI is spoken there; limits: MAX_CONNS ")
        assert said.endswith("MAX_REQS 128, MPXS_CONNS 1")
        wait_until(lambda: not web.server.channels, "the connection to be closed")
    assert not asked


def test_a_busy_server_answers(folder: Path) -> None:
    """Its one thread runs a request, and goes on with it."""
    gate = Gate()
    with serving(gate, bind=f"unix:{folder}/s", threads=1) as web, web.peer() as peer:
        import wire

        peer.send(wire.request(1, wire.cgi_params("GET", "/wait")))
        gate.wait_for(1)
        assert look(f"unix:{folder}/s").wrong == []
        gate.open.set()
        assert peer.receive_end().status == 200


@pytest.mark.parametrize("path", ["/", "/page"])
def test_a_request(path: str, folder: Path) -> None:
    with serving(hello, bind=f"unix:{folder}/s"):
        found = look(f"unix:{folder}/s", path=path)
    assert (
        f"GET {path} is answered with 200, {6 + len(path)} bytes"
        in (found.one("request", "ok")["text"])
    )


def test_a_request_that_fails(folder: Path) -> None:
    def application(environ, start_response):
        raise LookupError("on purpose")

    with serving(application, bind=f"unix:{folder}/s"):
        found = look(f"unix:{folder}/s", path="/")
    assert found.wrong == ["request"]
    assert "answered with 500" in found.one("request")["text"]


def test_ping(folder: Path) -> None:
    def application(environ, start_response):
        start_response("404 Not Found", [])
        return [b""]

    with serving(application, bind=f"unix:{folder}/s", ping_path="/ping"):
        found = look(f"unix:{folder}/s", ping_path="/ping")
        assert found.wrong == []
        assert "GET /ping is answered with 200" in found.one("ping", "ok")["text"]
        found = look(f"unix:{folder}/s", ping_path="/health")
        assert found.wrong == ["ping"]
        assert "--ping-path /health" in found.advice("ping")


def test_an_http_server(folder: Path) -> None:
    """That of the standard library."""
    handler = http.server.SimpleHTTPRequestHandler
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        web.RequestHandlerClass.log_message = lambda *ignored: None  # type: ignore[method-assign]
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            found = look(f"127.0.0.1:{web.server_port}")
        finally:
            web.shutdown()
            thread.join()
    assert found.wrong == ["http"]
    assert "proxy_pass" in found.advice("http")


@pytest.mark.webserver
def test_nginx_itself(folder: Path) -> None:
    """The address of the web server is not that of the application."""
    from doctored import nginx

    with nginx(folder) as port:
        assert look(f"127.0.0.1:{port}").wrong == ["http"]


@contextmanager
def flup(folder: Path, kind: str) -> Iterator[str]:
    """A server of flup at a socket."""
    pytest.importorskip(f"flup.server.{kind}")
    code = (
        f"from flup.server.{kind} import WSGIServer\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', []); return [b'x']\n"
        f"WSGIServer(app, bindAddress='{folder}/s').run()"
    )
    env = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with Process([sys.executable, "-c", code], folder, "flup", env=env) as process:
        process.wait_for(f"{folder}/s")
        yield f"unix:{folder}/s"
        process.stop()


def test_flup(folder: Path) -> None:
    with flup(folder, "fcgi") as address:
        found = look(address, path="/")
    assert found.wrong == []
    assert "FastCGI is spoken there" in found.one("fastcgi", "ok")["text"]


def test_scgi(folder: Path) -> None:
    with flup(folder, "scgi") as address:
        found = look(address)
    assert found.wrong == ["other"]
    assert "scgi_pass" in found.advice("other")


def test_php_fpm(folder: Path) -> None:
    """Whoever speaks FastCGI is known by it."""
    (folder / "php.conf").write_text(
        f"[global]\nerror_log = {folder}/php.log\n[www]\nlisten = {folder}/s\n"
        "user = nobody\npm = static\npm.max_children = 1\nping.path = /ping\n"
    )
    names = ["php-fpm", *(f"php-fpm8.{number}" for number in range(9))]
    import shutil

    found = [path for name in names if (path := shutil.which(name, path="/usr/sbin:/usr/bin"))]
    program = found[0] if found else require("php-fpm")
    words = [program, "-F", "-R", "-y", str(folder / "php.conf")]
    with Process(words, folder, "php-fpm") as process:
        process.wait_for(f"{folder}/s")
        answered = look(f"unix:{folder}/s")
    assert answered.wrong == []
    assert "limits: MPXS_CONNS 0" in answered.one("fastcgi", "ok")["text"]


def test_something_else(folder: Path) -> None:
    """A service that greets, such as mail servers do; a stand-in for these."""
    with listening(folder / "s") as sock:

        def greet() -> None:
            peer, _ = sock.accept()
            with peer:
                peer.sendall(b"220 mail.example.org ESMTP\r\n")
                peer.recv(1000)

        thread = threading.Thread(target=greet)
        thread.start()
        found = look(f"unix:{folder}/s")
        thread.join()
    assert found.wrong == ["other"]
    assert "220 mail" in found.one("other")["text"]
