"""A server that speaks SCGI: applications, errors, cut responses, files, pages, logs, its end."""

import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
from wsgiref.validate import validator

import pytest
import scgi_wire
from helpers import TEXT, Serving, hello, wait_until

from fastfcgi import ConfigurationError, SCGIServer, WSGIServer, config, prefork, single

MIB = 1 << 20


def serving(app, **options):
    return Serving(SCGIServer(app, **{"bind": "127.0.0.1:0", **options}))


def ask(web, path="/", method="GET", body=b"", **more):
    return scgi_wire.ask(web.address, scgi_wire.cgi_params(method, path, **more), body)


# ------------------------------------------------------------------------------- the option


@pytest.mark.parametrize(
    "kind",
    [
        SCGIServer,
        lambda app, **options: WSGIServer(app, protocol="scgi", **options),
        lambda app, **options: single.WSGIServer(app, protocol="scgi", **options),
    ],
)
def test_every_way_to_say_it(kind):
    with Serving(kind(hello, bind="127.0.0.1:0")) as web:
        for _ in range(3):
            output = ask(web)
            assert output.status == 200 and not output.reset


@pytest.mark.parametrize(
    "options", [{"protocol": "SCGI"}, {"protocol": None}, {"protocol": "scgi", "roles": (1, 2)}]
)
def test_what_cannot_be_served(options):
    with pytest.raises(ConfigurationError, match=list(options)[-1]):
        WSGIServer(hello, **options)


def test_prefork_takes_it():
    server = prefork.WSGIServer(hello, protocol="scgi")
    assert server._settings.server_options["protocol"] == "scgi"
    with pytest.raises(ConfigurationError, match="protocol="):
        prefork.WSGIServer(hello, protocol="x")


def test_the_http_front_speaks_fastcgi():
    typed = {"application": "x", "http": ("127.0.0.1", 0), "protocol": "scgi"}
    with pytest.raises(ConfigurationError, match="--http: speaks FastCGI"):
        config.read(typed, {}, "/")


# ------------------------------------------------------------------------------- applications


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_wsgiref_validator_finds_nothing(method):
    def app(environ, start_response):
        body = environ["wsgi.input"].read(100)
        start_response("200 OK", [("Content-Type", "text/plain")])
        environ["wsgi.errors"].write("")
        return [body or b"nothing"]

    def shown(environ, start_response):
        seen.update(environ)
        return validator(app)(environ, start_response)

    seen = {}
    with serving(shown) as web:
        output = ask(web, "/a b", method, b"body" if method == "POST" else b"", HTTP_X="1")
        assert output.status == 200
        assert output.body == {"GET": b"nothing", "POST": b"body", "HEAD": b""}[method]
    assert (seen["PATH_INFO"], seen["SCGI"], seen["HTTP_X"]) == ("/a b", "1", "1")
    assert seen["CONTENT_LENGTH"] == ("4" if method == "POST" else "0")
    assert seen["wsgi.multithread"] is True and seen["wsgi.run_once"] is False


@pytest.mark.parametrize("size", [1, 70_000, 20 * MIB])
@pytest.mark.parametrize("drip", [1 << 16, 1 << 20])
def test_uploads(size, drip):
    def app(environ, start_response):
        digest, stream = hashlib.sha256(), environ["wsgi.input"]
        while block := stream.read(60_000):
            digest.update(block)
        start_response("200 OK", TEXT)
        return [digest.hexdigest().encode()]

    body = os.urandom(min(size, MIB)) * max(size // MIB, 1)
    data = scgi_wire.request(scgi_wire.cgi_params("POST"), body)
    with serving(app) as web:
        parts = [data[i : i + drip] for i in range(0, len(data), drip)]
        with scgi_wire.Peer(web.address) as peer:
            for part in parts:
                peer.send(part)
            assert peer.read().body == hashlib.sha256(body).hexdigest().encode()


@pytest.mark.parametrize("kind", ["blocks", "one", "file", "whole file"])
def test_downloads(kind):
    block = bytes(i % 251 for i in range(65_536))

    def app(environ, start_response):
        start_response("200 OK", TEXT)
        if kind == "blocks":
            return (block for _ in range(800))
        if kind == "one":
            return [block * 800]
        file = tempfile.TemporaryFile()
        file.write(block * 800)
        file.seek(0 if kind == "whole file" else 5)
        return environ["wsgi.file_wrapper"](file)

    expected = block * 800 if kind != "file" else (block * 800)[5:]
    with serving(app) as web:
        assert hashlib.sha256(ask(web).body).digest() == hashlib.sha256(expected).digest()


@pytest.mark.skipif(sys.platform != "linux", reason="the system sends no files")
def test_it_is_the_system_that_sends_a_file():
    """A file that is shortened meanwhile cuts the response; read into memory it would be whole."""

    def app(environ, start_response):
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"](file)

    with tempfile.TemporaryFile() as file:
        file.write(b"x" * (30 * MIB))
        file.seek(0)
        with serving(app) as web, scgi_wire.Peer(web.address) as peer:
            peer.send(scgi_wire.request(scgi_wire.cgi_params()))
            assert peer.sock.recv(100)
            os.truncate(file.fileno(), MIB)
            output = peer.read()
            assert len(output.data) < 30 * MIB


def test_what_goes_to_wsgi_errors_goes_to_stderr_once(capsys):
    def app(environ, start_response):
        environ["wsgi.errors"].write("seen once\n")
        return hello(environ, start_response)

    with serving(app) as web:
        assert ask(web).status == 200
    assert capsys.readouterr().err.count("seen once") == 1


@pytest.mark.skipif(os.name != "posix", reason="sockets are not handed to programs there")
def test_the_socket_that_it_was_started_with():
    """As spawn-fcgi and lighttpd start a script; it is FCGI_STDERR that there is none of."""
    script = """
from fastfcgi import SCGIServer
def app(environ, start_response):
    environ["wsgi.errors"].write("seen")
    start_response("200 OK", [])
    return [b"fine"]
SCGIServer(app).run()
"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", script]
        with subprocess.Popen(command, stdin=listener, stderr=subprocess.PIPE, env=env) as process:
            assert scgi_wire.ask(listener.getsockname(), scgi_wire.cgi_params()).body == b"fine"
            process.terminate()
            assert process.communicate(timeout=30)[1] == b"seen"


def test_a_failure_is_a_500_and_told_once(capsys, caplog):
    def app(environ, start_response):
        raise RuntimeError("told once")

    with serving(app) as web:
        assert ask(web).status == 500
    assert caplog.text.count("RuntimeError: told once") == 1
    assert "told once" not in capsys.readouterr().err


@pytest.mark.parametrize("length", [None, "1000"])
@pytest.mark.parametrize("fails", [True, False])
def test_a_failure_in_mid_response_resets_the_connection(length, fails, caplog):
    def app(environ, start_response):
        headers = [*TEXT, ("Content-Length", length)] if length else TEXT
        start_response("200 OK", headers)
        yield b"x" * 100
        received.wait(30)
        if fails:
            raise RuntimeError("late")

    received = threading.Event()
    with serving(app) as web, scgi_wire.Peer(web.address) as peer:
        peer.send(scgi_wire.request(scgi_wire.cgi_params()))
        data = b""
        while b"x" * 100 not in data:
            data += peer.sock.recv(1000)
        received.set()
        output = peer.read()
        assert output.data == b""
        assert output.reset == (fails or length is not None)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs unix sockets")
def test_a_client_that_goes_away_aborts(tmp_path):
    def app(environ, start_response):
        started.set()
        wait_until(environ["fastfcgi.aborted"], "the abort")
        aborted.set()
        return hello(environ, start_response)

    started, aborted = threading.Event(), threading.Event()
    with serving(app, bind=f"unix:{tmp_path}/s") as web:
        with scgi_wire.Peer(web.address) as peer:
            peer.send(scgi_wire.request(scgi_wire.cgi_params()))
            assert started.wait(30)
        assert aborted.wait(30)


# ------------------------------------------------------------------------------- beside it


def test_pages_and_logs():
    records = []
    options = {"ping_path": "/ping", "status_path": "/status", "access_log": records.append}
    with serving(hello, **options) as web:
        assert ask(web, "/ping").body == b"pong\n"
        assert b"fastfcgi" in ask(web, "/status").body
        # As nginx sends it, by its scgi_params.
        assert scgi_wire.ask(web.address, {"DOCUMENT_URI": "/ping"}).body == b"pong\n"
        assert ask(web, "/x", "POST", b"body").status == 200
    ((path, status, sent),) = [(r.environ["PATH_INFO"], r.status, r.sent) for r in records]
    assert (path, status[:3]) == ("/x", "200") and sent > 0


def test_a_mount():
    def app(environ, start_response):
        start_response("200 OK", TEXT)
        return [repr((environ["SCRIPT_NAME"], environ["PATH_INFO"])).encode()]

    with serving(app, mount="/a") as web:
        pairs = {"DOCUMENT_URI": "/a/b", "REQUEST_URI": "/a//b"}
        assert scgi_wire.ask(web.address, pairs).body == b"('/a', '/b')"
        assert ask(web, "/b").status == 404


def test_strangers_are_told_in_the_log(caplog):
    with serving(hello) as web:
        with scgi_wire.Peer(web.address) as peer:
            peer.send(b"GET / HTTP/1.0\r\n\r\n")
            assert peer.read().data == b""
        assert ask(web).status == 200
    assert "looks like HTTP" in caplog.text


def test_stopping_finishes_what_runs():
    def app(environ, start_response):
        started.set()
        assert go_on.wait(30)
        return hello(environ, start_response)

    started, go_on = threading.Event(), threading.Event()
    with serving(app) as web, scgi_wire.Peer(web.address) as peer:
        peer.send(scgi_wire.request(scgi_wire.cgi_params()))
        assert started.wait(30)
        web.server.stop()
        wait_until(lambda: not web.server.addresses, "the listening socket to close")
        go_on.set()
        assert peer.read().status == 200
        assert web.wait() is False


def test_many_at_once():
    with serving(hello, threads=4) as web:
        failed = []

        def work():
            for _ in range(50):
                output = ask(web)
                if output.status != 200 or output.reset:
                    failed.append(output)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failed == []


def test_as_the_first_of_a_kind_is_the_same_as_later_ones():
    """Values that are shared from one request to the next are each request's own."""

    def app(environ, start_response):
        environ["SERVER_NAME"] = "changed"
        environ["wsgi.version"] = "changed"
        return hello(environ, start_response)

    seen = []

    def outer(environ, start_response):
        seen.append((environ["SERVER_NAME"], environ["wsgi.version"], environ["HTTP_X"]))
        return app(environ, start_response)

    with serving(outer) as web:
        for number in range(8):
            assert ask(web, HTTP_X=str(number)).status == 200
    assert seen == [("www.example.org", (1, 0), str(number)) for number in range(8)]
