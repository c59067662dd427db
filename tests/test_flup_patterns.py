"""The ways in which public programs call flup's servers: each serves requests by fastfcgi.

The numbers are those of a list of such programs; a test calls as the program does.
"""

import select
import socket
import stat
import sys

import pytest

if not hasattr(socket, "AF_UNIX") or not hasattr(select, "poll"):
    pytest.skip("flup runs on POSIX alone", allow_module_level=True)

import os

import wire
from helpers import Serving, hello

from fastfcgi.flup.server import fcgi, fcgi_base, fcgi_single, threadedserver
from fastfcgi.flup.server.fcgi_base import (
    FCGI_AUTHORIZER,
    FCGI_RESPONDER,
)

TCP = ("127.0.0.1", 0)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """The path of a socket, short enough for its address."""
    monkeypatch.chdir(tmp_path)
    return "app.sock"


def ask(server, path="/x y", body=b""):
    """A request to a server in a thread."""
    with Serving(server) as web, web.peer() as peer:
        response = peer.request(wire.cgi_params("POST", path), body)
    assert response.ended and response.status == 200, response
    return response.body


# ------------------------------------------------------------ calls with threads, by number

CALLS = {
    "1 web.py": {"multiplexed": True, "bindAddress": TCP, "debug": False},
    "1, 11 started by a web server": {"multiplexed": True, "bindAddress": None, "debug": False},
    "2 Open Library": {"multiplexed": True, "bindAddress": "app.sock", "maxThreads": 4},
    "3 Django": {"maxSpare": 5, "minSpare": 2, "maxThreads": 50, "debug": False},
    "4 Trac": {"maxThreads": 15},
    "5 Trac elsewhere": {"maxSpare": 100, "minSpare": 100, "maxThreads": 100},
    "6 TurboGears": {"minSpare": 1, "maxSpare": 5, "maxThreads": 50},
    "7": {"minSpare": 2, "maxSpare": 10, "maxThreads": 500},
    "7 again": {"minSpare": 3, "maxSpare": 10, "maxThreads": 20},
    "7 none to spare": {"minSpare": 0, "maxSpare": 1, "maxThreads": 2},
    "8 supysonic": {"bindAddress": "app.sock", "umask": 0},
    "12 WsgiDAV": {"bindAddress": TCP},
    "15 roles": {"bindAddress": TCP, "roles": (FCGI_AUTHORIZER, FCGI_RESPONDER)},
    "19 web2py": {"bindAddress": "app.sock"},
}


@pytest.mark.parametrize("module", [fcgi, fcgi_single], ids=["fcgi", "fcgi_single"])
@pytest.mark.parametrize("number", CALLS)
def test_a_call(number, module, path):
    """By flup.server.fcgi; fcgi_single takes whatever it is given."""
    options = CALLS[number]
    server = module.WSGIServer(hello, **options)
    if server._bindAddress is None:  # what the web server would have passed
        server._bindAddress = TCP
    with Serving(server) as web:
        assert web.get("/a b").body == b"hello /a b"
        if options.get("umask") == 0:
            assert stat.S_IMODE(os.stat("app.sock").st_mode) == 0o777


def test_a_longer_tuple_is_ipv6():
    """15: fork there, but the address is the same."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    server = fcgi.WSGIServer(hello, bindAddress=("::1", 0, 0), roles=(FCGI_AUTHORIZER, 1))
    server.debug = False
    assert ask(server) == b"hello /x y"


def test_bytes_for_start_response():
    """15: what flup on Python 3 takes, and hands on as it is."""

    def app(environ, start_response):
        status = environ["PATH_INFO"][1:].encode()
        write = start_response(status, [(b"X-Name", b"caf\xe9"), ("X-Other", "text")])
        write("written ")
        return [b"body"]

    with Serving(fcgi.WSGIServer(app, bindAddress=TCP)) as web:
        response = web.get("/401 ")
        assert (response.status, response.body) == (401, b"written body")
        assert response.header("X-Name") == "caf\xe9"
        assert response.header("X-Other") == "text"
        assert web.server.application is app


def test_bytes_after_an_exception():
    def app(environ, start_response):
        start_response("200 OK", [])
        try:
            raise ValueError
        except ValueError:
            start_response(b"503 Busy", [(b"X-Name", b"value")], sys.exc_info())
        return []

    with Serving(fcgi.WSGIServer(app, bindAddress=TCP)) as web:
        response = web.get()
        assert (response.status, response.header("X-Name")) == (503, "value")


# ------------------------------------------------------------------- classes that are changed


def test_cherrypys_adapter():
    """13: arguments by name, handlers patched away, stopped by private names."""
    server = fcgi.WSGIServer(application=hello, bindAddress=TCP)
    server._installSignalHandlers = lambda: None
    server._oldSIGs = []
    with Serving(server) as web:
        assert web.get().status == 200
        server._keepGoing = False
        server._threadPool.maxSpare = server._threadPool._idleCount
        assert web.wait() is False


def test_a_printer_stops_it_by_stop():
    """The camera and the others of a 3D printer: run() in threads of its own, stop()."""
    servers = [
        fcgi.WSGIServer(hello, bindAddress=TCP),
        fcgi.WSGIServer(hello, bindAddress=TCP, multithreaded=False, debug=False),
    ]
    for server in servers:
        with Serving(server) as web:
            assert web.get().status == 200
            server.stop()
            assert web.wait() is False


def test_a_handler_that_is_mixed_in():
    """One that answers in the place of a failed application, and ends the server."""

    class Mixin:
        def handler(self, req):
            try:
                raise KeyError
            except KeyError:
                req.stdout.write("Status: 200 OK\r\nRefresh: 1\r\n\r\nrestarting")
            self._keepGoing = False
            return fcgi_base.FCGI_REQUEST_COMPLETE, 0

    class Server(Mixin, fcgi.WSGIServer):
        pass

    with Serving(Server(hello, bindAddress=TCP)) as web:
        response = web.get()
        assert (response.body, response.header("Refresh")) == (b"restarting", "1")
        assert web.wait() is False


METHODS = ["_installSignalHandlers", "_restoreSignalHandlers", "_mainloopPeriodic"]


@pytest.mark.parametrize("name", METHODS)
def test_methods_patched_into_threadedserver(name, monkeypatch):
    """pyLoad: ThreadedServer._installSignalHandlers = noop, then fcgi.WSGIServer as ever."""
    assert getattr(fcgi.WSGIServer, name) is not noop
    monkeypatch.setattr(threadedserver.ThreadedServer, name, noop)
    assert getattr(fcgi.WSGIServer, name) is noop
    assert ask(fcgi.WSGIServer(hello, bindAddress=TCP)) == b"hello /x y"


def noop(*arguments):
    pass
