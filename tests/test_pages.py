"""Ping and status: answered by whoever receives them, whatever the application does."""

import contextlib
import json
import threading

import pytest
import wire
from helpers import Gate, Serving, blocked, hello, serving, waiting
from wired import Wired, answer, get

from fastfcgi import ConfigurationError, WSGIServer
from fastfcgi.board import Board
from fastfcgi.constants import AUTHORIZER, FILTER, RESPONDER
from fastfcgi.pages import pages_of, snapshot_of
from fastfcgi.status import Snapshot


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open.set()


@pytest.fixture
def wired():
    with contextlib.ExitStack() as stack:

        def make(**options):
            made = Wired(**options)
            stack.callback(made.close)
            made.service.pages = pages_of("/ping", "/status", lambda: snapshot)
            return made

        yield make


snapshot = Snapshot("1.2", 1.0, 2.0, 3, "single", 1, [], 0, ["unix:/s"])


def ping(request_id=1, body=b"", keep_conn=True, role=RESPONDER, end=True, **more):
    more = {"PATH_INFO": "/ping", **more}
    return (
        wire.begin_request(request_id, role, keep_conn)
        + wire.params(request_id, wire.cgi_params(**more))
        + wire.stdin(request_id, body, end=end)
    )


def page(output):
    """Status and body."""
    status, _, body = wire.parse_cgi(output)
    return status, body


# ---- which requests are meant --------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [
        {"SCRIPT_NAME": "", "PATH_INFO": "/ping"},
        {"SCRIPT_NAME": None, "PATH_INFO": "/ping"},
        {"SCRIPT_NAME": "/ping", "PATH_INFO": ""},
        {"SCRIPT_NAME": "/ping", "PATH_INFO": None},  # nginx's stock configuration
        {"SCRIPT_NAME": "/pi", "PATH_INFO": "ng"},
        {"QUERY_STRING": "x=1"},
        {"REQUEST_METHOD": "POST"},
    ],
)
def test_it_is_the_page(params, wired):
    web = wired()
    web.deliver(ping(**params))
    output, ended = web.response()
    assert ended and page(output) == (200, b"pong\n")
    assert web.requests == []


@pytest.mark.parametrize(
    "params",
    [
        {"PATH_INFO": "/ping/"},
        {"PATH_INFO": "/pin"},
        {"PATH_INFO": "/Ping"},
        {"SCRIPT_NAME": "/app", "PATH_INFO": "/ping"},
        {"SCRIPT_NAME": "/ping", "PATH_INFO": "/ping"},
        {"SCRIPT_NAME": None, "PATH_INFO": None, "REQUEST_URI": "/ping"},
        {"SCRIPT_NAME": "", "PATH_INFO": ""},
    ],
)
def test_it_is_the_applications(params, wired):
    web = wired()
    web.deliver(ping(**params))
    assert len(web.requests) == 1
    assert web.response() == (b"", False)


def test_below_a_mount_point(wired):
    web = wired()
    web.service.pages = pages_of("/app/ping", None, lambda: snapshot)
    web.deliver(ping(SCRIPT_NAME="/app", PATH_INFO="/ping"))
    assert page(web.response()[0]) == (200, b"pong\n")


@pytest.mark.parametrize("role", [AUTHORIZER, FILTER])
def test_only_for_responders(role, wired):
    """An authorizer's 200 would let anybody in."""
    web = wired(roles=(RESPONDER, AUTHORIZER, FILTER))
    web.deliver(ping(role=role), wire.data_stream(1) if role == FILTER else b"")
    assert len(web.requests) == 1


# ---- what is answered ----------------------------------------------------------------------


def test_ping(wired):
    web = wired()
    web.deliver(ping())
    output, _ = web.response()
    _, headers, body = wire.parse_cgi(output)
    assert ("Content-Length", "5") in headers and body == b"pong\n"
    assert ("Cache-Control", "no-store") in headers


@pytest.mark.parametrize("path", ["/ping", "/status"])
def test_head_has_no_body(path, wired):
    web = wired()
    web.deliver(ping(REQUEST_METHOD="HEAD", PATH_INFO=path))
    assert page(web.response()[0]) == (200, b"")


def test_status_gets_the_query(wired):
    web = wired()
    web.deliver(ping(PATH_INFO="/status", QUERY_STRING="json"))
    status, body = page(web.response()[0])
    assert status == 200 and json.loads(body)["pid"] == 3
    web.deliver(ping(2, PATH_INFO="/status", QUERY_STRING=None, REQUEST_URI="/status"))
    assert page(web.response(2)[0])[0] == 200


def test_a_page_that_fails(wired, caplog):
    web = wired()
    web.service.pages = {"/ping": lambda params: 1 / 0, "/text": lambda params: "no bytes"}
    web.deliver(ping())
    assert page(web.response()[0]) == (500, b"")
    assert "no page for GET '/ping' [" in caplog.text and "ZeroDivisionError" in caplog.text
    web.deliver(ping(2, PATH_INFO="/text"))
    assert page(web.response(2)[0]) == (500, b"")
    web.deliver(get(3))
    assert len(web.requests) == 1


def test_its_body_is_thrown_away_and_waited_for(wired):
    """Of any length, without a place to keep it; answered at its end, as web servers want it."""
    web = wired(max_unread_stdin=1000, max_body_memory=1000)
    web.deliver(ping(body=b"x" * 5000, end=False, REQUEST_METHOD="POST", CONTENT_LENGTH="100000"))
    for _ in range(9):
        web.deliver(wire.stdin(1, b"x" * 10000, end=False))
    assert web.response() == (b"", False)
    assert not web.channel.connection.paused
    web.deliver(wire.stdin(1, b"x" * 5000))
    assert page(web.response()[0]) == (200, b"pong\n")


def test_an_aborted_one_is_not_answered(wired):
    web = wired()
    web.deliver(ping(body=b"x", end=False, CONTENT_LENGTH="5"), wire.abort(1))
    assert web.response() == (b"", True)
    web.deliver(get(1))
    assert len(web.requests) == 1


def test_side_by_side_with_others(wired):
    web = wired()
    web.deliver(get(1), ping(2), get(3), ping(4))
    for number in (2, 4):
        assert page(web.response(number)[0]) == (200, b"pong\n")
    assert [request.request_id for request in web.requests] == [1, 3]
    for request in web.requests:
        answer(request)
    assert web.response(3)[1]


def test_the_connection_is_kept_or_closed_after_it(wired):
    web = wired()
    web.deliver(ping(1), ping(2))
    assert not web.closed and web.channel.idle
    assert web.channel.served == 2
    web.deliver(ping(3, keep_conn=False))
    web.read()
    assert web.saw_end and web.closed


def test_a_kept_connection_of_pings_is_not_closed_for_lack_of_requests(wired):
    """It has keep_alive_timeout from the last one, not header_timeout from accept."""
    web = wired(header_timeout=1, keep_alive_timeout=1000)
    web.deliver(ping())
    web.channel.on_tick(web.channel.idle_since + 500)
    assert not web.closed
    web.channel.on_tick(web.channel.idle_since + 1001)
    assert web.closed


# ---- while the server is busy --------------------------------------------------------------


def test_with_every_thread_busy_and_the_queue_full(gate):
    options = {"ping_path": "/ping", "status_path": "/status"}
    with serving(gate, threads=2, queue_size=1, **options) as web, waiting(web, 3):
        gate.wait_for(2)
        for _ in range(3):
            assert web.get("/").status == 503
            assert web.get("/ping").body == b"pong\n"
        with web.peer() as peer:
            params = wire.cgi_params("GET", "/status", "json")
            worker = json.loads(peer.request(params).body)["workers"][0]
        assert (worker["busy"], worker["queued"], worker["state"]) == (2, 1, "serving")
        gate.open.set()


def test_while_a_page_is_made_its_connection_alone_waits():
    entered, going = threading.Event(), threading.Event()

    class Server(WSGIServer):
        def snapshot(self):
            entered.set()
            assert going.wait(30)
            return snapshot

    server = Server(hello, bind="127.0.0.1:0", status_path="/status", ping_path="/ping")
    with Serving(server) as web, blocked(web.get, "/status") as status:
        assert entered.wait(30)
        going.set()
        assert b"1.2" in status.result().body


# ---- options -------------------------------------------------------------------------------


def test_no_pages_by_default():
    with serving() as web:
        assert web.get("/ping").body == b"hello /ping"
        with pytest.raises(RuntimeError, match="no board"):
            web.server.snapshot()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ping_path": "ping"}, "ping_path"),
        ({"ping_path": ""}, "ping_path"),
        ({"status_path": b"/status"}, "status_path"),
        ({"status_path": "/x", "ping_path": "/x"}, "are both '/x'"),
    ],
)
def test_paths_that_make_no_sense(options, message):
    with pytest.raises(ConfigurationError, match=message):
        WSGIServer(hello, **options)


def test_snapshot_of_a_server():
    with serving(status_path="/status", threads=3) as web:
        web.get()
        found = web.server.snapshot()
        (worker,) = found.workers
        assert worker.threads == 3 and worker.pid == found.pid
        assert found.listeners == [f"127.0.0.1:{web.address[1]}"]
        assert found.started <= found.now and (found.mode, found.generation) == ("single", 1)


def test_addresses_are_written_as_bind_takes_them():
    board = Board(1)
    given = ["/run/s", "\0name", ("127.0.0.1", 80), ("::1", 80, 0, 0)]
    expected = ["unix:/run/s", "unix:@name", "127.0.0.1:80", "[::1]:80"]
    assert snapshot_of(board, 1, given).listeners == expected
