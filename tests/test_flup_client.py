"""flup's client applications: FCGIApp in front of a FastCGI server, SCGIApp of an SCGI one."""

import contextlib
import importlib.util
import io
import socket
import subprocess
import sys
import threading

import pytest

if not hasattr(socket, "AF_UNIX"):
    pytest.skip("flup runs on POSIX alone", allow_module_level=True)

import wire
from helpers import Serving, hello, serving
from processes import DEADLINE, accepts, environment, missing, wait_until
from runtimes import own_runtime

import fastfcgi
from fastfcgi import WSGIServer
from fastfcgi.client import BadResponse, ConnectFailed, RequestTimeout, ResponseCut
from fastfcgi.exceptions import LocalProtocolError
from fastfcgi.flup.client.fcgi_app import FCGIApp
from fastfcgi.flup.client.forwarding import body_of, length_of
from fastfcgi.flup.client.scgi_app import SCGIApp

TCP = ("127.0.0.1", 0)


def environ_of(method="GET", path="/x", body=b"", **more):
    """What a WSGI server gives an application."""
    return {
        **wire.cgi_params(method, path, CONTENT_LENGTH=str(len(body))),
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "lower": "case",
        **more,
    }


class Call:
    """One call of an application."""

    def __init__(self, app, environ=None):
        self.environ = environ or environ_of()
        self.status = self.headers = None
        self.result = app(self.environ, self.start_response)

    def start_response(self, status, headers, exc_info=None):
        self.status, self.headers = status, headers

    @property
    def body(self):
        return b"".join(self.result)


def show(environ, start_response):
    """All that was sent, sorted; the body behind it."""
    body = environ["wsgi.input"].read()
    environ["wsgi.errors"].write("caf\xe9 noted\n")
    start_response("207 Many", [("X-One", "1"), ("X-One", "2"), ("Content-Type", "text/plain")])
    names = (name for name in sorted(environ) if name == name.upper())
    return [f"{name}={environ[name]}\n".encode("latin-1") for name in names] + [body]


@pytest.fixture(scope="module")
def fcgi_server():
    with Serving(WSGIServer(show, bind="127.0.0.1:0")) as web:
        yield web.address


def test_a_request(fcgi_server):
    body = b"some bytes"
    call = Call(FCGIApp(connect=fcgi_server), environ_of("POST", "/a b", body))
    lines = call.body.decode("latin-1")
    assert call.status == "207 Many"
    assert call.headers[:2] == [("X-One", "1"), ("X-One", "2")]
    assert all(type(text) is str for header in call.headers for text in header)
    assert "PATH_INFO=/a b\n" in lines and "REQUEST_METHOD=POST\n" in lines
    assert lines.endswith("some bytes")
    assert call.environ["wsgi.errors"].getvalue() == "caf\xe9 noted\n"


@pytest.mark.parametrize(
    "arguments",
    [
        lambda host, port: {"host": host, "port": port},
        lambda host, port: {"host": host, "port": str(port)},
        lambda host, port: {"connect": (host, port)},
    ],
)
def test_addresses(fcgi_server, arguments):
    assert b"PATH_INFO=/x\n" in Call(FCGIApp(**arguments(*fcgi_server))).body


def test_a_unix_socket(tmp_path, monkeypatch):
    """A str is a path, whatever it looks like."""
    monkeypatch.chdir(tmp_path)
    for name in ("s", "127.0.0.1:80"):
        with Serving(WSGIServer(hello, bindAddress=name)):
            assert Call(FCGIApp(connect=name)).body == b"hello /x"


@pytest.mark.parametrize(
    "arguments",
    [{}, {"command": "x", "connect": "y"}, {"host": "localhost"}, {"command": "x", "host": "y"}],
)
def test_arguments_that_do_not_fit(arguments):
    with pytest.raises(AssertionError):
        FCGIApp(**arguments)


def test_a_command_is_not_started():
    """Nor by flup."""
    app = FCGIApp(command="/bin/true")
    with pytest.raises(NotImplementedError):
        app(environ_of(), None)
    if importlib.util.find_spec("flup"):
        flups = pytest.importorskip("flup.client.fcgi_app").FCGIApp(command="/bin/true")
        with pytest.raises(NotImplementedError):
            flups(environ_of(), None)


# --------------------------------------------------------------------------------- filters


def names_sent(app, **more):
    lines = Call(app, environ_of(**more)).body.decode("latin-1").splitlines()
    return {line.partition("=")[0]: line.partition("=")[2] for line in lines}


def test_what_is_sent_of_the_environ(fcgi_server):
    more = {"DOCUMENT_ROOT": "/srv", "SCRIPT_FILENAME": "/srv/x", "AUTH_TYPE": "Basic"}
    sent = names_sent(FCGIApp(connect=fcgi_server), **more)
    assert {"HTTP_HOST", "REMOTE_ADDR", "SERVER_NAME", "AUTH_TYPE", "SCRIPT_NAME"} <= set(sent)
    assert not {"DOCUMENT_ROOT", "SCRIPT_FILENAME", "GATEWAY_INTERFACE"} & set(sent)
    sent = names_sent(FCGIApp(connect=fcgi_server, filterEnviron=False), **more)
    assert sent["DOCUMENT_ROOT"] == "/srv" and sent["GATEWAY_INTERFACE"] == "CGI/1.1"
    assert "lower" not in sent


def test_filters_that_are_changed(fcgi_server, monkeypatch):
    """21: names are added to the lists of the class."""
    prefixes = [*FCGIApp._environPrefixes]
    monkeypatch.setattr(FCGIApp, "_environPrefixes", prefixes)
    monkeypatch.setattr(FCGIApp, "_environRenames", {"OLD_NAME": "NEW_NAME"})
    FCGIApp._environPrefixes.extend(("DOCUMENT_", "SCRIPT_"))
    more = {"DOCUMENT_ROOT": "/srv", "SCRIPT_FILENAME": "/srv/x", "OLD_NAME": "value"}
    sent = names_sent(FCGIApp(connect=fcgi_server), **more)
    assert (sent["DOCUMENT_ROOT"], sent["SCRIPT_FILENAME"]) == ("/srv", "/srv/x")
    assert sent["NEW_NAME"] == "value" and "OLD_NAME" not in sent


@pytest.mark.parametrize("name", ["FCGIApp", "SCGIApp"])
def test_the_filters_are_flups(name):
    if importlib.util.find_spec("flup") is None:
        missing("flup")
    module = "fcgi_app" if name == "FCGIApp" else "scgi_app"
    theirs = getattr(importlib.import_module(f"flup.client.{module}"), name)(connect="s")
    ours = {"FCGIApp": FCGIApp, "SCGIApp": SCGIApp}[name](connect="s")
    environ = environ_of(AUTH_TYPE="x", OTHER="y", SERVER_X="z", **{"wsgi.version": (1, 0)})
    for method in ("_defaultFilterEnviron", "_lightFilterEnviron"):
        assert getattr(ours, method)(environ) == getattr(theirs, method)(environ)
    for names in ("_environPrefixes", "_environCopies", "_environRenames"):
        assert getattr(ours, names) == getattr(theirs, names)


def test_datadogs_way(fcgi_server, monkeypatch):
    """21: text streams, the port as str, and [0] of what is returned as the whole body."""
    host, port = fcgi_server
    opened = []

    def get_connection(self):
        opened.append(socket.create_connection(self._connect))
        return opened[0]

    monkeypatch.setattr(FCGIApp, "_getConnection", get_connection)
    environ = {**environ_of(), "wsgi.input": io.StringIO(), "wsgi.errors": io.StringIO()}
    app = FCGIApp(host=host, port=str(port))
    result = app(environ, lambda *args, **kwargs: "")
    assert b"PATH_INFO=/x\n" in result[0] and b"SERVER_NAME=" in result[0]
    assert result[-1] == result[0] == b"".join(result)
    assert [sock.fileno() for sock in opened] == [-1]
    with pytest.raises(IndexError):
        _ = result[1]


# ---------------------------------------------------------------------------------- bodies


@pytest.fixture(scope="module")
def echo_server():
    def echo(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/wait":
            yield b"first"
            assert gate.wait(DEADLINE)
            yield b"second"
        while block := environ["wsgi.input"].read(65536):
            yield block

    gate = threading.Event()
    with serving(echo) as web:
        web.gate = gate
        yield web


def test_big_bodies_in_both_directions(echo_server):
    """The server answers while it reads."""
    body = bytes(range(256)) * 40_000
    assert Call(FCGIApp(connect=echo_server.address), environ_of("POST", body=body)).body == body


def test_a_body_that_is_longer_or_shorter_than_announced(echo_server):
    for length in (0, 4, 6, 100):
        sent = b"".join(body_of({"wsgi.input": io.BytesIO(b"longer")}, length))
        assert sent == b"longer"[:length]
    app = FCGIApp(connect=echo_server.address)
    assert Call(app, environ_of("POST", body=b"longer", CONTENT_LENGTH="4")).body == b"long"
    assert Call(app, environ_of("POST", body=b"ignored", CONTENT_LENGTH="")).body == b""


def test_the_response_comes_as_it_is_made(echo_server):
    call = Call(FCGIApp(connect=echo_server.address), environ_of(path="/wait"))
    blocks = iter(call.result)
    assert next(blocks) == b"first"
    echo_server.gate.set()
    assert b"".join(blocks) == b"second"


def test_whoever_wants_no_more_hangs_up(echo_server):
    with socket.create_server(TCP) as listener:
        listener.settimeout(DEADLINE)
        thread = threading.Thread(target=answer, args=(listener, STARTED, True))
        thread.start()
        call = Call(FCGIApp(connect=listener.getsockname()))
        call.result.close()
        thread.join(DEADLINE)
        assert not thread.is_alive()


def test_through_a_server_of_its_own(fcgi_server):
    """As in a real set-up: it is the application of another server."""
    with serving(FCGIApp(connect=fcgi_server)) as web, web.peer() as peer:
        response = peer.request(wire.cgi_params("POST", "/z", CONTENT_LENGTH="3"), b"abc")
        assert (response.status, response.body[-3:]) == (207, b"abc")
        assert b"PATH_INFO=/z\n" in response.body
        assert response.stderr == "caf\xe9 noted\n".encode()


def test_wsgiref_finds_nothing_wrong(fcgi_server):
    from wsgiref.validate import validator

    with serving(validator(FCGIApp(connect=fcgi_server))) as web:
        assert web.get("/v").status == 207


# --------------------------------------------------------------------------------- failures

HEAD = b"Content-Type: text/plain\r\n\r\n"
STARTED = wire.record(wire.STDOUT, 1, HEAD + b"begun")


def answer(listener, data, wait_for_close=False):
    """Take a connection, its request, and answer with these bytes."""
    sock, _ = listener.accept()
    with sock, contextlib.suppress(ConnectionError):
        sock.settimeout(DEADLINE)
        sock.recv(65536)
        sock.sendall(data)
        while wait_for_close and sock.recv(65536):
            pass


@contextlib.contextmanager
def answering(data, **options):
    with socket.create_server(TCP) as listener:
        listener.settimeout(DEADLINE)
        thread = threading.Thread(target=answer, args=(listener, data), kwargs=options)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            thread.join(DEADLINE)
            assert not thread.is_alive()


def test_nobody_listens(tmp_path):
    for app in (FCGIApp, SCGIApp):
        with pytest.raises(ConnectFailed) as caught:
            app(connect=str(tmp_path / "none"))(environ_of(), None)
        assert isinstance(caught.value, OSError)


def test_a_response_that_is_cut():
    with answering(STARTED) as address:
        call = Call(FCGIApp(connect=address))
        with pytest.raises(ResponseCut) as caught:
            _ = call.body
        assert isinstance(caught.value, OSError)


def test_no_response():
    with answering(b"") as address, pytest.raises(ResponseCut):
        FCGIApp(connect=address)(environ_of(), None)


def test_a_time_that_may_pass():
    class Patient(FCGIApp):
        timeout = 0.05

    with answering(b"", wait_for_close=True) as address, pytest.raises(RequestTimeout):
        Patient(connect=address)(environ_of(), None)


def test_a_status_without_a_reason():
    ended = wire.record(wire.STDOUT, 1, b"Status: 404\r\n" + HEAD) + wire.record(3, 1, bytes(8))
    with answering(ended) as address:
        call = Call(FCGIApp(connect=address))
        assert (call.status, call.body) == ("404 FCGIApp", b"")


def test_start_response_that_fails():
    """The connection does not stay open."""

    def refuse(status, headers):
        raise KeyError

    for data, app in ((STARTED, FCGIApp), (HEAD, SCGIApp)):
        with answering(data, wait_for_close=True) as address, pytest.raises(KeyError):
            app(connect=address)(environ_of(), refuse)


# ------------------------------------------------------------------------------------ SCGI


def test_the_bytes_of_an_scgi_request():
    """The netstring of the protocol's own example, with these names in this order."""
    taken = []

    def take(listener):
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(DEADLINE)
            while not b"".join(taken).endswith(b"What is the answer to life?"):
                taken.append(sock.recv(65536))
            sock.sendall(b"Status: 200 OK\r\nContent-Type: text/plain\r\n\r\n42")

    body = b"What is the answer to life?"
    environ = {
        "CONTENT_LENGTH": "27",
        "REQUEST_METHOD": "POST",
        "REQUEST_URI": "/deepthought",
        "SCGI": "2",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
    }
    with socket.create_server(TCP) as listener:
        listener.settimeout(DEADLINE)
        thread = threading.Thread(target=take, args=(listener,))
        thread.start()
        call = Call(SCGIApp(connect=listener.getsockname()), environ)
        assert (call.status, call.body) == ("200 OK", b"42")
        thread.join()
    head = (
        b"CONTENT_LENGTH\x0027\x00SCGI\x001\x00REQUEST_METHOD\x00POST\x00"
        b"REQUEST_URI\x00/deepthought\x00"
    )
    assert b"".join(taken) == b"70:" + head + b"," + body


@pytest.mark.parametrize(
    "more", [{"PATH_INFO": "/x\0REMOTE_USER\0admin"}, {"HTTP_X\0REMOTE_USER": "admin"}]
)
def test_a_client_sets_no_params_by_scgi(more):
    """WSGI servers decode %00; the bytes behind it would be names and values of their own."""
    with socket.create_server(TCP) as listener:
        app = SCGIApp(connect=listener.getsockname())
        app.timeout = 1.0  # for nobody answers
        with pytest.raises(LocalProtocolError, match=r"cannot send a NUL, and '(PATH_INFO|HTTP)"):
            app(environ_of(**more), None)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("length", ["-1", "-5", "0", ""])
def test_no_length_is_no_body(length):
    environ = environ_of("POST", body=b"never read")
    environ["CONTENT_LENGTH"] = length
    assert list(body_of(environ, length_of(environ))) == []


def test_scgi_responses_that_are_none():
    for data in (b"", b"no header", b"Status: 200 OK\r\n", b"x" * 70000):
        with answering(data) as address, pytest.raises((BadResponse, OSError)):
            SCGIApp(connect=address)(environ_of(), None)


def test_scgi_and_a_time_that_may_pass():
    app = SCGIApp(host="127.0.0.1", port="1")
    app.timeout = 0.05
    with answering(b"", wait_for_close=True) as (_, port), pytest.raises(RequestTimeout):
        app._connect = ("127.0.0.1", port)
        app(environ_of(), None)


@pytest.fixture(scope="module")
def scgi_address():
    """An SCGI server: flup's own, in a process, so that this is compared with another's code."""
    if importlib.util.find_spec("flup") is None:
        missing("flup")
    with socket.socket() as sock:
        sock.bind(TCP)
        address = sock.getsockname()
    text = f"""
from flup.server.scgi import WSGIServer
def app(environ, start_response):
    start_response("207 Many", [("X-Path", environ["PATH_INFO"])])
    size = int(environ["CONTENT_LENGTH"])
    yield b"begun "
    while size:
        block = environ["wsgi.input"].read(min(size, 65536))
        size -= len(block)
        yield block
WSGIServer(app, bindAddress={address!r}, loggingLevel=50).run()
"""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", text], env=environment(own_runtime().env)
    )
    try:
        wait_until(lambda: accepts(address), "flup to listen")
        yield address
    finally:
        process.terminate()
        process.wait(DEADLINE)


def test_scgi(scgi_address):
    call = Call(SCGIApp(connect=scgi_address), environ_of("POST", "/a b", b"some"))
    assert (call.status, call.headers) == ("207 Many", [("X-Path", "/a b")])
    assert call.body == b"begun some"


def test_big_bodies_by_scgi(scgi_address):
    """The server answers while it reads; who sends all first would wait for ever."""
    body = bytes(range(256)) * 40_000
    call = Call(SCGIApp(scgi_address), environ_of("POST", body=body))
    assert call.body == b"begun " + body


def test_scgi_in_front_of_ours():
    server = getattr(fastfcgi, "SCGIServer", None)
    if server is None:
        pytest.skip("no SCGI server here")
    with Serving(server(show, bind="127.0.0.1:0")) as web:
        call = Call(SCGIApp(connect=web.address), environ_of("POST", "/a b", b"some"))
        body = call.body
        assert b"PATH_INFO=/a b\n" in body and body.endswith(b"some")
