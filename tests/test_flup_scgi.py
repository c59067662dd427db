"""flup.server.scgi and scgi_fork: their arguments, and requests to them."""

import importlib
import importlib.util
import inspect
import io
import logging
import os
import signal
import socket
import sys

import pytest

import fastfcgi

if sys.platform != "linux":
    pytest.skip("looks at processes in Linux's way", allow_module_level=True)
if not hasattr(fastfcgi, "SCGIServer"):
    pytest.skip("no SCGI here", allow_module_level=True)

from helpers import Serving, hello
from processes import Process, children, missing
from runtimes import own_runtime

from fastfcgi.flup.client.scgi_app import SCGIApp
from fastfcgi.flup.server import NoDefault, paste_factory, scgi, scgi_base, scgi_fork

TCP = ("127.0.0.1", 0)


def show(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{environ['SCRIPT_NAME']}|{environ['PATH_INFO']}|".encode("latin-1"), body]


def ask(address, script_name="", path="/x y", body=b"some", **more):
    """(status, body) of a request."""
    environ = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": script_name,
        "PATH_INFO": path,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        **more,
    }
    began = []
    result = SCGIApp(address, filterEnviron=False)(environ, lambda *given: began.append(given))
    return began[0][0], b"".join(result)


SERVERS = {"scgi": scgi.WSGIServer, "scgi_fork": scgi_fork.WSGIServer}


@pytest.mark.parametrize("name", SERVERS)
def test_the_arguments_are_flups(name):
    if importlib.util.find_spec("flup") is None:
        missing("flup")
    flups = importlib.import_module(f"flup.server.{name}")

    def positional(server):
        parameters = inspect.signature(server).parameters.values()
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        given = [(p.name, p.default) for p in parameters if p.kind is kind]
        return [
            (n, "NoDefault" if inspect.isclass(v) and v.__name__ == "NoDefault" else v)
            for n, v in given
        ]

    assert positional(SERVERS[name]) == positional(flups.WSGIServer)
    module = sys.modules[SERVERS[name].__module__]
    assert module.__all__ == flups.__all__
    base = importlib.import_module("flup.server.scgi_base").BaseSCGIServer
    assert positional(scgi_base.BaseSCGIServer) == positional(base)


def test_attributes():
    server = scgi.WSGIServer(
        hello, "/app", {"a": "b"}, False, True, "s", 7, ["127.0.0.1"], 10, True
    )
    assert (server.application, server.scriptName) == (hello, "/app")
    assert server.environ == {"a": "b"}
    assert (server.multithreaded, server.multiprocess, server.debug) == (False, True, True)
    assert (server._bindAddress, server._umask) == ("s", 7)
    assert server._allowedServers == ["127.0.0.1"]
    assert isinstance(server.logger, logging.Logger)
    server = scgi.WSGIServer(hello)
    assert (server.scriptName, server._bindAddress) == (NoDefault, ("localhost", 4000))
    assert server._allowedServers is None
    assert scgi_base.BaseSCGIServer(hello)._allowedServers == ["127.0.0.1"]
    server = scgi_fork.WSGIServer(hello, maxChildren=3, minSpare=2, timeout=5)
    assert (server.multithreaded, server.multiprocess) == (False, True)
    assert server._settings.max_workers == 3


@pytest.mark.parametrize("name", SERVERS)
def test_keywords(name):
    SERVERS[name](hello, jobClass=object, jobArgs=())
    with pytest.raises(TypeError, match="nonsense"):
        SERVERS[name](hello, nonsense=1)
    scgi_fork.WSGIServer(hello, multithreaded=True, multiprocess=False)


CALLS = {
    "1 web.py": {"bindAddress": TCP, "debug": False},
    "17 MoinMoin": {"bindAddress": TCP},
    "18 Paste": {"bindAddress": TCP, "scriptName": "", "allowedServers": ["127.0.0.1"]},
    "a path": {"bindAddress": "app.sock", "umask": 0o77},
}


@pytest.mark.parametrize("number", CALLS)
def test_a_call(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Serving(scgi.WSGIServer(show, **CALLS[number])) as web:
        assert ask(web.address) == ("200 OK", b"|/x y|some")
        if number == "a path":
            assert os.stat("app.sock").st_mode & 0o777 == 0o700


@pytest.mark.parametrize("script_name", ["/app", "/app/"])
def test_script_name(script_name):
    """Whichever part of the path the web server sends where."""
    with Serving(scgi.WSGIServer(show, script_name, bindAddress=TCP)) as web:
        for sent in (("/app/a b", ""), ("", "/app/a b"), ("/app", "/a b"), ("/a", "pp/a b")):
            assert ask(web.address, *sent)[1] == b"/app|/a b|some", sent


@pytest.mark.parametrize("script_name", [None, NoDefault])
def test_without_a_script_name(script_name):
    with Serving(scgi.WSGIServer(show, script_name, bindAddress=TCP)) as web:
        assert ask(web.address, "/app", "/a")[1] == b"/app|/a|some"


def test_path_info_from_the_uri():
    """Where the web server sends none; decoded, unlike flup's."""
    with Serving(scgi.WSGIServer(show, bindAddress=TCP)) as web:
        assert ask(web.address, "/app", "", REQUEST_URI="/app/a%20b?c")[1] == b"/app|/a b|some"


@pytest.mark.parametrize("allowed", [["192.0.2.1"], []])
def test_who_may_connect(allowed):
    with Serving(scgi.WSGIServer(show, bindAddress=TCP, allowedServers=allowed)) as web:
        with pytest.raises((OSError, fastfcgi.FastCGIError)):
            ask(web.address)


def test_who_may_connect_by_a_unix_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Serving(scgi.WSGIServer(show, bindAddress="s", allowedServers=[])) as web:
        assert ask(web.address)[0] == "200 OK"


def test_bytes_for_start_response():
    def app(environ, start_response):
        start_response(b"201 Made", [(b"X-Name", b"value")])
        return ["text"]

    with Serving(scgi.WSGIServer(app, bindAddress=TCP)) as web:
        assert ask(web.address) == ("201 Made", b"text")


@pytest.mark.parametrize("name", SERVERS)
def test_an_address_that_is_taken(name, caplog):
    """run() returns False, as flup meant to."""
    with socket.create_server(TCP) as taken:
        server = SERVERS[name](hello, bindAddress=taken.getsockname())
        assert server.run() is False
    assert "cannot listen: " in caplog.text


def test_cherrypys_adapter():
    """13: arguments by name, handlers patched away, stopped by private names."""
    server = scgi.WSGIServer(application=show, bindAddress=TCP)
    server._installSignalHandlers = lambda: None
    server._oldSIGs = []
    with Serving(server) as web:
        assert ask(web.address)[0] == "200 OK"
        server._keepGoing = False
        server._threadPool.maxSpare = 0
        assert web.wait() is False


SCRIPT = """
import os, sys
from flup.server.{module} import WSGIServer

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode(), b" " + WSGIServer.__module__.encode()]

ret = WSGIServer(app, bindAddress="s", {options}).run()
sys.exit(ret and 42 or 0)
"""


@pytest.mark.parametrize("name", SERVERS)
def test_a_script(folder, name):
    """Unchanged, by python -m fastfcgi.flup; HUP ends it with flup's number for "again"."""
    options = "debug=True" if name == "scgi" else "maxRequests=100, minSpare=2, maxChildren=3"
    path = folder / "site.py"
    path.write_text(SCRIPT.format(module=name, options=options))
    command = [sys.executable, "-m", "fastfcgi.flup", str(path)]
    with Process(command, folder, "site", own_runtime().env) as process:
        process.wait_for(f"{folder}/s")
        pid, module = ask(f"{folder}/s")[1].decode().split()
        assert module == f"fastfcgi.flup.server.{name}"
        assert (int(pid) == process.pid) == (name == "scgi")
        assert int(pid) in [process.pid, *children(process.pid)]
        assert process.stop(signal.SIGHUP) == 42, process.log()


RUNNERS = {"scgi_thread": "maxThreads", "scgi_fork": "maxChildren"}


@pytest.mark.parametrize("name", RUNNERS)
def test_paste(name, monkeypatch):
    """18, 22: the options of an ini, all of them str."""
    made = []
    module = {"scgi_thread": scgi, "scgi_fork": scgi_fork}[name]

    class Server(module.WSGIServer):
        def run(self):
            made.append(self)

    monkeypatch.setattr(module, "WSGIServer", Server)
    options = {"minSpare": "2", "maxSpare": "4", RUNNERS[name]: "9"}
    run = getattr(paste_factory, f"run_{name}")
    run(hello, {"debug": "true"}, port="4001", allowedServers="127.0.0.1 ::1", **options)
    run(hello, {}, scriptName="/app")
    first, second = made
    assert (first._bindAddress, first.debug) == (("localhost", 4001), True)
    assert first._allowedServers == ["127.0.0.1", "::1"]
    assert second._allowedServers == ["127.0.0.1"] and second.scriptName == "/app"
    with pytest.raises(fastfcgi.ConfigurationError, match="port is a number"):
        run(hello, {}, port="many")
