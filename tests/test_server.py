"""WSGIServer in a thread: serving, threads, overload, timeouts (its end: test_server_stop)."""

import contextlib
import os
import select
import socket
import sys
import tempfile
import threading

import pytest
import wire
from helpers import DEADLINE, TEXT, Gate, Serving, hello, serving, wait_until, waiting

from fastfcgi import ConfigurationError, WSGIServer
from fastfcgi.constants import AUTHORIZER, FILTER, RESPONDER

pytestmark = pytest.mark.skipif(not hasattr(select, "poll"), reason="only tried with poll()")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open.set()


@pytest.fixture
def quick_ticks(monkeypatch):
    """Timeouts are looked at often."""
    monkeypatch.setattr("fastfcgi.engine.TICK", 0.02)


# --------------------------------------------------------------------------------- serving


def test_it_serves():
    with serving() as web:
        response = web.get("/x")
        assert (response.status, response.body, response.ended) == (200, b"hello /x", True)
        assert response.closed
    assert web.result is False


def test_addresses_are_known_as_soon_as_it_is_ready():
    web = serving()
    assert web.server.addresses == []
    assert not web.server.wait_ready(0)
    with web:
        assert web.server.wait_ready()
        ((host, port),) = web.server.addresses
        assert host == "127.0.0.1" and port > 0
    assert web.server.addresses == []
    assert not web.server.wait_ready(0)


def test_several_addresses():
    with tempfile.TemporaryDirectory() as folder:
        path = folder + "/s"
        with serving(bind=[path, ("127.0.0.1", 0)]) as web:
            for address in web.server.addresses:
                with web.peer(address) as peer:
                    assert peer.request().status == 200
            assert web.server.addresses[0] == path
        assert not os.path.exists(path)


def test_a_ready_socket_stays_open_for_its_owner():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        for _ in range(2):
            with serving(bind=sock) as web:
                assert web.get().status == 200


def test_requests_of_a_kept_connection():
    with serving() as web, web.peer() as peer:
        for i in range(20):
            response = peer.request(wire.cgi_params("GET", f"/{i}"), keep_conn=True)
            assert response.body == f"hello /{i}".encode()
        assert not peer.closed


def test_requests_side_by_side_on_one_connection(gate):
    with serving(gate) as web, web.peer() as peer:
        for request_id in (1, 2, 3):
            params = wire.cgi_params("GET", "/wait")
            peer.send(wire.request(request_id, params, keep_conn=True))
        gate.wait_for(3)
        peer.send(wire.request(4, wire.cgi_params("GET", "/now"), keep_conn=True))
        assert peer.receive_end(4).body == b"hello /now"
        gate.open.set()
        for request_id in (1, 2, 3):
            assert peer.receive_end(request_id).body == b"hello /wait"


@pytest.mark.parametrize("role", [AUTHORIZER, FILTER])
def test_roles(role):
    seen = []

    def app(environ, start_response):
        data = environ["fastfcgi.data"].read() if role == FILTER else None
        seen.append((environ["FCGI_ROLE"], data))
        return hello(environ, start_response)

    with serving(app, roles=(RESPONDER, role)) as web, web.peer() as peer:
        assert peer.request(role=role, data=b"data" if role == FILTER else None).status == 200
    assert seen == [("AUTHORIZER", None) if role == AUTHORIZER else ("FILTER", b"data")]


def test_what_get_values_is_answered_with():
    with serving(threads=3, queue_size=4, max_connections=50) as web, web.peer() as peer:
        peer.send(wire.get_values("FCGI_MAX_CONNS", "FCGI_MAX_REQS", "FCGI_MPXS_CONNS"))
        ((_, content),) = peer.receive(lambda answers: answers.management).management
        assert dict(wire.codec.decode_pairs(content)) == {
            b"FCGI_MAX_CONNS": b"50",
            b"FCGI_MAX_REQS": b"7",
            b"FCGI_MPXS_CONNS": b"1",
        }


def test_what_get_values_is_answered_with_where_nothing_is_multiplexed():
    assert WSGIServer(hello, max_requests_per_connection=1).capability["FCGI_MPXS_CONNS"] == "0"
    assert WSGIServer(hello, max_requests_per_connection=2).capability["FCGI_MPXS_CONNS"] == "1"


def test_no_more_connections_than_descriptors(monkeypatch):
    resource = pytest.importorskip("resource")
    for soft, connections in ((200, 136), (10, 1), (resource.RLIM_INFINITY, 500)):
        monkeypatch.setattr(resource, "getrlimit", lambda which, soft=soft: (soft, soft))
        server = WSGIServer(hello, max_connections=500)
        assert server.capability["FCGI_MAX_CONNS"] == str(connections)


def test_environ_of_the_server():
    seen = {}

    def app(environ, start_response):
        seen.update(environ)
        return hello(environ, start_response)

    options = {"environ": {"SERVER_NAME": "mine"}, "multiprocess": True, "threads": 1}
    with serving(app, **options) as web:
        web.get()
    assert seen["SERVER_NAME"] == "mine"
    assert (seen["wsgi.multithread"], seen["wsgi.multiprocess"]) == (False, True)


def test_an_application_that_raises_system_exit_does_not_end_the_server():
    def app(environ, start_response):
        sys.exit(3)

    with serving(app) as web:
        assert web.get().status == 500
        assert web.get().status == 500


def test_debug_shows_the_traceback_to_the_client():
    def app(environ, start_response):
        raise RuntimeError("secret")

    for debug in (False, True):
        with serving(app, debug=debug) as web:
            response = web.get()
            assert (b"secret" in response.body) is debug
            assert b"secret" in response.stderr


# --------------------------------------------------------------------------------- threads


def test_threads_are_started_when_they_are_needed(gate):
    before = set(threading.enumerate())
    with serving(gate, threads=8) as web:
        # The thread that polls, and run()'s.
        wait_until(lambda: len(set(threading.enumerate()) - before) == 2, "them to start")
        assert web.server.engine.idle == 1
        with waiting(web, 3):
            gate.wait_for(3)
            assert len(set(threading.enumerate()) - before) == 2 + 3
            gate.open.set()
    wait_until(lambda: set(threading.enumerate()) <= before, "the threads to end")


def test_no_more_requests_run_at_once_than_there_are_threads(gate):
    with serving(gate, threads=3) as web, waiting(web, 10) as peers:
        gate.wait_for(3)
        wait_until(lambda: web.server.engine.pending == 7, "the others to wait")
        gate.open.set()
        assert [peer.receive_end().status for peer in peers] == [200] * 10
    assert gate.most == 3


def test_not_multithreaded_means_one_at_a_time(gate):
    with serving(gate, multithreaded=False, threads=5) as web, waiting(web, 4) as peers:
        gate.wait_for(1)
        gate.open.set()
        assert [peer.receive_end().status for peer in peers] == [200] * 4
    assert gate.most == 1


def test_idle_kept_connections_hold_no_thread():
    with serving(threads=1) as web, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(web.peer()) for _ in range(20)]
        for _ in range(2):
            for peer in peers:
                assert peer.request(keep_conn=True).status == 200
        wait_until(lambda: web.server.engine.busy == 0, "the thread")


def test_a_body_on_its_way_holds_no_thread():
    def app(environ, start_response):
        body = environ["wsgi.input"].read()
        start_response("200 OK", list(TEXT))
        return [body]

    with serving(app, threads=1) as web, web.peer() as slow:
        whole = wire.request(1, wire.cgi_params("POST"), b"slow body")
        slow.send(whole[:-12])
        for _ in range(3):
            assert web.get().status == 200
        slow.send(whole[-12:])
        assert slow.receive_end().body == b"slow body"


# -------------------------------------------------------------------------------- overload


def test_beyond_the_queue_the_answer_is_503_and_then_it_recovers(gate, caplog):
    with serving(gate, threads=2, queue_size=3) as web, waiting(web, 5) as peers:
        gate.wait_for(2)
        wait_until(lambda: web.server.engine.pending == 3, "the queue to be full")
        for _ in range(3):
            response = web.get()
            assert response.status == 503 and response.ended and response.closed
            assert response.header("Retry-After")
        assert "queue_size" in caplog.text
        gate.open.set()
        assert [peer.receive_end().status for peer in peers] == [200] * 5
        wait_until(lambda: web.server.engine.busy == 0, "the threads")
        assert web.get().status == 200


def test_503_leaves_a_kept_connection_usable(gate):
    with serving(gate, threads=1, queue_size=0) as web, waiting(web, 1), web.peer() as peer:
        gate.wait_for(1)
        assert peer.request(keep_conn=True).status == 503
        gate.open.set()
        wait_until(lambda: web.server.engine.busy == 0, "the thread")
        assert peer.request(keep_conn=True).status == 200


def test_beyond_max_connections_an_idle_one_is_closed():
    with serving(max_connections=3) as web, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(web.peer()) for _ in range(3)]
        for peer in peers:
            assert peer.request(keep_conn=True).status == 200
        wait_until(lambda: all(channel.idle for channel in web.server.channels), "idleness")
        assert web.get().status == 200
        assert peers[0].receive_close()
        for peer in peers[1:]:
            assert peer.request(keep_conn=True).status == 200


def test_beyond_max_connections_others_wait(gate):
    with serving(gate, max_connections=2) as web, waiting(web, 2), web.peer() as third:
        gate.wait_for(2)
        third.send(wire.request())
        assert len(web.server.channels) == 2
        gate.open.set()
        assert third.receive_end().status == 200


# -------------------------------------------------------------------------------- timeouts


@pytest.mark.parametrize("size", [0, 1, 50])
def test_a_request_that_never_comes_is_timed_out(size, quick_ticks):
    with serving(header_timeout=0.2) as web, web.peer() as peer, web.peer() as other:
        assert other.request(keep_conn=True).status == 200
        peer.send(wire.request()[:size])
        peer.receive_close()
        assert other.request(keep_conn=True).status == 200


def test_a_body_that_never_comes_is_timed_out(quick_ticks, caplog):
    with serving(body_timeout=0.2) as web, web.peer() as peer:
        peer.send(wire.request(1, wire.cgi_params("POST"), b"body")[:-9])
        peer.receive_close()
    assert "body_timeout" in caplog.text


def test_an_idle_connection_is_timed_out(quick_ticks):
    with serving(keep_alive_timeout=0.2) as web, web.peer() as peer:
        assert peer.request(keep_conn=True).status == 200
        assert peer.receive_close()


def test_a_response_that_nobody_takes_is_timed_out(quick_ticks, caplog):
    ended = threading.Event()

    def app(environ, start_response):
        start_response("200 OK", list(TEXT))
        try:
            while True:
                yield b"x" * 100_000
        finally:
            ended.set()

    with serving(app, send_timeout=0.3) as web, web.peer() as peer:
        peer.sock.send(wire.request())
        assert ended.wait(DEADLINE)
    assert "send_timeout" in caplog.text


# ------------------------------------------------------------------------- who may connect


@pytest.mark.parametrize(
    ("addresses", "served"), [("192.0.2.1", False), ("192.0.2.1, 127.0.0.1", True)]
)
def test_web_server_addrs(addresses, served, monkeypatch):
    monkeypatch.setenv("FCGI_WEB_SERVER_ADDRS", addresses)
    with serving() as web:
        assert web.server._web_server_addrs == addresses
        with contextlib.suppress(ConnectionError), web.peer() as peer:
            assert (peer.request().status == 200) is served


def test_unix_peers_are_not_subject_to_web_server_addrs(monkeypatch):
    monkeypatch.setenv("FCGI_WEB_SERVER_ADDRS", "192.0.2.1")
    with tempfile.TemporaryDirectory() as folder, serving(bind=folder + "/s") as web:
        assert web.get().status == 200


def test_web_server_addrs_that_are_none(monkeypatch):
    monkeypatch.setenv("FCGI_WEB_SERVER_ADDRS", "localhost")
    with pytest.raises(ConfigurationError, match="FCGI_WEB_SERVER_ADDRS"):
        WSGIServer(hello, bind="127.0.0.1:0").run()


# ------------------------------------------------------------------------------ wrong options


def test_an_address_in_use_is_an_error_of_run():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        web = serving(bind=address)
        with web:
            error = web.wait()
        assert isinstance(error, OSError)
        assert f"cannot listen on {address}" in str(error)
    with Serving(web.server) as again:
        assert again.get().status == 200


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 0},
        {"threads": -1},
        {"threads": "4"},
        {"threads": 1.5},
        {"bind": "127.0.0.1:0", "bindAddress": "/run/app.sock"},
        {"queue_size": -1},
    ],
)
def test_what_cannot_be_served(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        WSGIServer(hello, **options)


def test_an_application_that_cannot_be_called():
    with pytest.raises(TypeError, match="not callable"):
        WSGIServer("module:app")


def test_an_unknown_option():
    with pytest.raises(TypeError, match="thread"):
        WSGIServer(hello, thread=1)
