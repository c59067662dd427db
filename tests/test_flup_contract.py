"""What flup.server.fcgi.WSGIServer promises, and how public code calls and changes it."""

import inspect
import os
import select
import socket
import stat
import sys
import tempfile
import threading

import pytest
from helpers import Gate, Serving, hello, waiting

import fastfcgi
from fastfcgi import WSGIServer
from fastfcgi.constants import AUTHORIZER, OVERLOADED, RESPONDER

needs_peer = pytest.mark.skipif(not hasattr(select, "poll"), reason="only tried with poll()")
needs_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")

TCP = ("127.0.0.1", 0)


@pytest.fixture
def path():
    with tempfile.TemporaryDirectory(prefix="fcgi-") as folder:
        yield folder + "/app.sock"


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open.set()


def failing(environ, start_response):
    raise RuntimeError("secret")


# ---------------------------------------------------------------------------------- names


def test_signature():
    """Positional order and defaults of flup 1.0.3; what is new is by keyword only."""
    parameters = list(inspect.signature(WSGIServer.__init__).parameters.values())[1:]
    by_position = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [(p.name, p.default) for p in by_position] == [
        ("application", inspect.Parameter.empty),
        ("environ", None),
        ("multithreaded", True),
        ("multiprocess", False),
        ("bindAddress", None),
        ("umask", None),
        ("multiplexed", False),
        ("debug", False),
        ("roles", (1,)),
        ("forceCGI", False),
    ]
    assert {p.kind for p in parameters[len(by_position) :]} == {
        inspect.Parameter.KEYWORD_ONLY,
        inspect.Parameter.VAR_KEYWORD,
    }
    assert list(inspect.signature(WSGIServer.run).parameters) == ["self"]


def test_attributes_after_init():
    server = WSGIServer(
        hello,
        environ={"a": "b"},
        multithreaded=False,
        multiprocess=True,
        bindAddress="/run/app.sock",
        umask=0o7,
        debug=True,
        roles=[RESPONDER, AUTHORIZER],
        forceCGI=True,
    )
    assert server.application is hello
    assert server.environ == {"a": "b"}
    assert (server.multithreaded, server.multiprocess) == (False, True)
    assert (server.debug, server.forceCGI) == (True, True)
    assert tuple(server.roles) == (RESPONDER, AUTHORIZER)
    assert set(server.capability) == {"FCGI_MAX_CONNS", "FCGI_MAX_REQS", "FCGI_MPXS_CONNS"}
    assert (server._bindAddress, server._umask) == ("/run/app.sock", 0o7)
    assert server._hupReceived is False
    assert server._oldSIGs == []
    assert server._web_server_addrs is None


@pytest.mark.parametrize(
    "name",
    "_appLock _connectionClass _threadPool _jobClass _jobArgs _keepGoing".split(),
)
def test_private_names_that_others_touch(name):
    assert hasattr(WSGIServer(hello), name)


def test_class_attributes():
    assert WSGIServer.maxwrite == 8192
    assert WSGIServer.inputStreamShrinkThreshold == 94208
    assert inspect.isclass(WSGIServer.request_class)
    assert inspect.isclass(WSGIServer.cgirequest_class)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("handler", ["req"]),
        ("error", ["req"]),
        ("shutdown", []),
        ("_isClientAllowed", ["addr"]),
        ("_mainloopPeriodic", []),
        ("_exit", ["reload"]),
        ("_installSignalHandlers", []),
        ("_restoreSignalHandlers", []),
        ("_setupSocket", []),
        ("_cleanupSocket", ["sock"]),
    ],
)
def test_methods_that_are_overridden_or_patched(name, parameters):
    assert list(inspect.signature(getattr(WSGIServer, name)).parameters)[1:] == parameters


def test_the_version_is_beside_it():
    assert fastfcgi.__version__[0].isdigit()


# ------------------------------------------------------------------------------ keywords


def test_an_unknown_keyword():
    with pytest.raises(TypeError, match="maxChildren"):
        WSGIServer(hello, maxChildren=5)


@pytest.mark.parametrize("name", ["minSpare", "maxSpare", "maxThreads"])
@pytest.mark.parametrize("value", [-1, "5", None])
def test_what_is_no_number_of_threads(name, value):
    with pytest.raises(fastfcgi.ConfigurationError, match=name):
        WSGIServer(hello, **{name: value})


def test_keywords_that_are_dropped():
    WSGIServer(hello, jobClass=object, jobArgs=(1, 2))


@pytest.mark.parametrize(
    "options",
    [
        {"multiplexed": True, "bindAddress": TCP, "debug": False},  # web.py, 1
        {"multiplexed": True, "bindAddress": None, "debug": False},  # web.py 1, INGInious 11
        {"debug": False, "bindAddress": TCP},  # Django, 3
        {"maxThreads": 15},  # Trac, 4
        {"maxSpare": 100, "minSpare": 100, "maxThreads": 100},  # Trac elsewhere, 5
        {"minSpare": 1, "maxSpare": 5, "maxThreads": 50},  # TurboGears, 6
        {"minSpare": 2, "maxSpare": 10, "maxThreads": 500},  # 7
        {"minSpare": 3, "maxSpare": 10, "maxThreads": 20},  # 7
        {"maxThreads": sys.maxsize},  # flup's default
        {"bindAddress": ("127.0.0.1", 0, 0), "roles": (AUTHORIZER, RESPONDER)},  # 15
    ],
)
@needs_peer
def test_call_patterns(options):
    server = WSGIServer(hello, **options)
    if server._bindAddress != TCP:  # what the web server would have passed
        server._bindAddress = TCP
    with Serving(server) as web:
        assert web.get("/x").body == b"hello /x"


def test_max_threads_is_the_bound():
    assert WSGIServer(hello, maxThreads=15)._threadPool.threads == 15
    assert WSGIServer(hello, maxThreads=15, threads=3)._threadPool.threads == 3
    default = WSGIServer(hello)._threadPool.threads
    assert WSGIServer(hello, maxThreads=sys.maxsize)._threadPool.threads == default


@needs_peer
def test_max_threads_is_kept(gate):
    with Serving(WSGIServer(gate, bindAddress=TCP, maxThreads=2)) as web:
        with waiting(web, 5) as peers:
            gate.wait_for(2)
            gate.open.set()
            assert [peer.receive_end().status for peer in peers] == [200] * 5
    assert gate.most == 2


# ------------------------------------------------------------------------------- addresses


@needs_peer
@needs_unix
def test_a_path_and_an_umask(path):
    """supysonic, 8."""
    with Serving(WSGIServer(hello, bindAddress=path, umask=0)) as web:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o777
        assert web.get().status == 200
    assert not os.path.exists(path)


@needs_peer
@needs_unix
def test_a_str_is_a_path_whatever_it_looks_like(path, monkeypatch):
    monkeypatch.chdir(os.path.dirname(path))
    for name in ("127.0.0.1:0", "systemd", "fd:0"):
        with Serving(WSGIServer(hello, bindAddress=name)) as web:
            assert os.path.exists(name), name
            assert web.get().status == 200


@needs_peer
def test_a_longer_tuple_is_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    for bind_address in (("::1", 0, 0), ("::1", 0, 0, 0)):
        with Serving(WSGIServer(hello, bindAddress=bind_address)) as web:
            assert web.address[0] == "::1"
            assert web.get().status == 200


@needs_peer
def test_bottles_adapter():
    """14: bottle.run(server='flup', host=..., port=...)."""
    options = {}
    options.setdefault("bindAddress", TCP)
    with Serving(WSGIServer(hello, **options)) as web:
        assert web.get().status == 200


# ---------------------------------------------------------------------------- run() and its end


@needs_peer
@pytest.mark.parametrize(("arguments", "result"), [((), False), ((True,), True)])
def test_exit(arguments, result):
    """_exit(reload) is how flup's users end it from within."""

    def app(environ, start_response):
        web.server._exit(*arguments)
        return hello(environ, start_response)

    with Serving(WSGIServer(app, bindAddress=TCP)) as web:
        assert web.get().status == 200
        assert web.wait() is result


@needs_peer
def test_a_reload_from_another_thread_is_not_lost():
    class Server(WSGIServer):
        def stop(self):
            super().stop()
            web.wait()  # it may end as soon as this

    with Serving(Server(hello, bindAddress=TCP)) as web:
        web.server._exit(True)
        assert web.wait() is True


@needs_peer
def test_cherrypy_stops_it_from_another_thread():
    """13: it also patches away the signal handlers."""
    server = WSGIServer(hello, bindAddress=TCP)
    server._installSignalHandlers = lambda: None
    server._oldSIGs = []
    with Serving(server) as web:
        assert web.get().status == 200
        server._keepGoing = False
        server._threadPool.maxSpare = server._threadPool._idleCount
        assert web.wait() is False


@needs_peer
def test_keep_going_tells_whether_it_does():
    server = WSGIServer(hello, bindAddress=TCP)
    with Serving(server) as web:
        assert server._keepGoing
        server._keepGoing = True
        assert web.get().status == 200


@needs_peer
def test_shutdown_is_called_at_the_end():
    class Server(WSGIServer):
        calls = 0

        def shutdown(self):
            self.calls += 1

    with Serving(Server(hello, bindAddress=TCP)) as web:
        assert web.server.calls == 0
    assert web.server.calls == 1


@needs_peer
def test_mainloop_periodic_is_called_about_once_a_second(monkeypatch):
    monkeypatch.setattr("fastfcgi.engine.TICK", 0.01)
    called = threading.Event()

    class Server(WSGIServer):
        def _mainloopPeriodic(self):
            called.set()

    with Serving(Server(hello, bindAddress=TCP)):
        assert called.wait(30)
    called.clear()
    server = WSGIServer(hello, bindAddress=TCP)
    server._mainloopPeriodic = called.set
    with Serving(server):
        assert called.wait(30)


@needs_peer
def test_setup_and_cleanup_of_the_socket_can_be_wrapped():
    calls = []

    class Server(WSGIServer):
        def _setupSocket(self):
            calls.append("setup")
            return super()._setupSocket()

        def _cleanupSocket(self, sock):
            calls.append("cleanup")
            super()._cleanupSocket(sock)

    with Serving(Server(hello, bindAddress=TCP)) as web:
        assert web.get().status == 200
    assert calls == ["setup", "cleanup"]


@needs_peer
def test_setup_of_the_socket_may_give_a_socket():
    """As flup's did: subclasses bind in ways of their own."""
    opened = []

    class Server(WSGIServer):
        def _setupSocket(self):
            sock = socket.create_server(TCP)
            opened.append(sock)
            return sock

    with Serving(Server(hello)) as web:
        assert web.get().status == 200
    assert [sock.fileno() for sock in opened] == [-1]


# --------------------------------------------------------------------- requests and errors


@needs_peer
def test_error_may_and_should_be_overridden():
    class Server(WSGIServer):
        def error(self, req):
            assert str(sys.exc_info()[1]) == "secret"
            req.stdout.write("Status: 500 Mine\r\nContent-Type: text/plain\r\n\r\n")
            req.stdout.write(b"sorry, " + req.params["PATH_INFO"].encode())
            req.stderr.write("noted\n")

    with Serving(Server(failing, bindAddress=TCP)) as web:
        response = web.get("/x")
        assert (response.status, response.body) == (500, b"sorry, /x")
        assert response.stderr.endswith(b"noted\n")
        assert response.ended


@needs_peer
def test_an_error_page_that_fails_does_not_look_complete():
    class Server(WSGIServer):
        def error(self, req):
            raise ValueError("worse")

    with Serving(Server(failing, bindAddress=TCP)) as web:
        response = web.get()
        assert (response.ended, response.closed) == (False, True)


@needs_peer
def test_debug_can_be_set_before_run():
    """15: serv.debug = False."""
    server = WSGIServer(failing, bindAddress=TCP, debug=True)
    server.debug = False
    with Serving(server) as web:
        assert b"secret" not in web.get().body


@needs_peer
def test_handler_may_be_overridden():
    class Server(WSGIServer):
        def handler(self, req):
            if req.params["PATH_INFO"] == "/busy":
                return OVERLOADED, 3
            if req.params["PATH_INFO"] == "/none":
                super().handler(req)
                return None
            if req.params["PATH_INFO"] == "/fails":
                raise RuntimeError
            return super().handler(req)

    with Serving(Server(hello, bindAddress=TCP)) as web:
        for path in ("/x", "/none"):
            response = web.get(path)
            assert (response.status, response.ended, response.app_status) == (200, True, 0)
        response = web.get("/busy")
        assert (response.protocol_status, response.app_status) == (OVERLOADED, 3)
        response = web.get("/fails")
        assert (response.ended, response.closed) == (False, True)


@needs_peer
def test_what_a_request_shows():
    seen = {}

    class Server(WSGIServer):
        def handler(self, req):
            seen.update(
                id=req.requestId, role=req.role, flags=req.flags, server=req.server, req=req
            )
            return super().handler(req)

    with Serving(Server(hello, bindAddress=TCP)) as web:
        web.get(request_id=7)
        assert seen.pop("req").aborted is False
        assert seen == {"id": 7, "role": RESPONDER, "flags": 0, "server": web.server}


@needs_peer
def test_str_bodies_and_headers_are_latin_1():
    def app(environ, start_response):
        write = start_response("200 caf\xe9", [("X-Name", "caf\xe9")])
        write("written ")
        return ["caf\xe9"]

    with Serving(WSGIServer(app, bindAddress=TCP)) as web:
        response = web.get()
        assert response.header("X-Name") == "caf\xe9"
        assert response.body == b"written caf\xe9"


@needs_peer
def test_errors_are_written_to_stderr_too_where_an_address_was_given(capsys):
    def app(environ, start_response):
        environ["wsgi.errors"].write("seen\n")
        return hello(environ, start_response)

    with Serving(WSGIServer(app, bindAddress=TCP)) as web:
        assert web.get().stderr == b"seen\n"
    assert capsys.readouterr().err == "seen\n"


@needs_peer
def test_is_client_allowed_may_be_overridden():
    class Server(WSGIServer):
        def _isClientAllowed(self, addr):
            return addr[0] != "127.0.0.1"

    with Serving(Server(hello, bindAddress=TCP)) as web, web.peer() as peer:
        peer.receive_close()
