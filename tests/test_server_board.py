"""What a server shows on its board."""

import contextlib
import json
import os
import threading
import time

import pytest
import wire
from fake_request import answering
from helpers import ENGINES, Gate, Serving, ask, hello, serving, wait_until, waiting
from wired import Wired, get

from fastfcgi import ConfigurationError, WSGIServer, server
from fastfcgi.board import FAILED, SERVING, STARTING, STOPPING, Board
from fastfcgi.engine import Engine


@pytest.fixture(params=sorted(ENGINES))
def kind(request, monkeypatch):
    monkeypatch.setattr(server, "Engine", ENGINES[request.param])


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open.set()


@contextlib.contextmanager
def shown(app=hello, threads=4, **options):
    """A server and its board."""
    board = Board(threads)
    with serving(app, threads=threads, board=board, **options) as web:
        yield web, board


def test_a_life():
    board = Board(64)
    web = serving(board=board)
    assert (board.state, board.pid) == (STARTING, 0)
    before = time.time()
    with web:
        assert (board.state, board.pid) == (SERVING, os.getpid())
        assert before - 1 <= board.started <= time.time()
    assert board.state == STOPPING


def test_what_was_said_before_stays():
    board = Board(64)
    board.state, board.started, board.generation = FAILED, 1.0, 4
    with serving(board=board) as web:
        assert web.get().status == 200
        assert (board.state, board.started, board.generation) == (FAILED, 1.0, 4)


def test_what_runs(gate, kind):
    with shown(gate, threads=2) as (web, board):
        with waiting(web, 3, "/wait?x=1") as peers:
            gate.wait_for(2)
            wait_until(lambda: board.queued == 1, "the third one")
            assert (board.busy, board.connections, board.requests) == (2, 3, 0)
            threads = {one.ident for one in threading.enumerate()}
            for one in board.running():
                assert one.text == "GET /wait?x=1" and one.thread in threads
                assert 0 < one.since <= time.monotonic()
            assert len(board.running()) == 2
            gate.open.set()
            for peer in peers:
                assert peer.receive_end().status == 200
        wait_until(lambda: board.requests == 3, "three requests")
        wait_until(lambda: not board.connections, "no connection")
        assert (board.busy, board.queued, board.running()) == (0, 0, [])


def test_every_request_counts_once(kind):
    with shown(threads=4) as (web, board):

        def ask_on():
            with web.peer() as peer:
                for _ in range(100):
                    ask(peer)

        threads = [threading.Thread(target=ask_on) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: board.requests == 600, "all requests")
        wait_until(lambda: board.connections == 0, "the end of the connections")
        assert (board.errors, board.aborted, board.queued) == (0, 0, 0)


LONG = "/" + "x" * 1000


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({}, "GET /"),
        ({"REQUEST_URI": "/a%20b?c=d"}, "GET /a%20b?c=d"),
        ({"REQUEST_URI": None, "PATH_INFO": "/b", "QUERY_STRING": "x=1"}, "GET /b?x=1"),
        ({"REQUEST_URI": "", "SCRIPT_NAME": "/a", "PATH_INFO": "/b"}, "GET /a/b"),
        ({"REQUEST_URI": None, "PATH_INFO": None, "QUERY_STRING": None}, "GET "),
        ({"REQUEST_METHOD": None}, "/"),
        ({"REQUEST_METHOD": LONG}, LONG[:200]),
        ({"REQUEST_METHOD": LONG[:199]}, LONG[:199] + " "),
        ({"REQUEST_URI": LONG}, "GET " + LONG[:196]),
        ({"REQUEST_URI": None, "SCRIPT_NAME": LONG[:195], "PATH_INFO": "/y"}, f"GET {LONG[:195]}/"),
        ({"REQUEST_URI": None, "SCRIPT_NAME": LONG, "PATH_INFO": "/y"}, "GET " + LONG[:196]),
        ({"REQUEST_URI": None, "PATH_INFO": LONG, "QUERY_STRING": "q"}, "GET " + LONG[:196]),
        ({"REQUEST_URI": None, "PATH_INFO": LONG[:195], "QUERY_STRING": "q"}, f"GET {LONG[:195]}?"),
        (
            {"REQUEST_URI": None, "PATH_INFO": LONG[:194], "QUERY_STRING": "qr"},
            f"GET {LONG[:194]}?q",
        ),
    ],
)
def test_texts(params, text):
    seen = []

    def app(environ, start_response):
        seen.extend(one.text for one in board.running())
        return hello({"PATH_INFO": ""}, start_response)

    with shown(app) as (web, board), web.peer() as peer:
        peer.request(wire.cgi_params(**params))
    assert seen == [text]


def test_failures_and_aborts():
    def app(environ, start_response):
        if environ["PATH_INFO"] == "/fail":
            raise ValueError
        return hello(environ, start_response)

    with shown(app) as (web, board):
        for path in ("/", "/fail", "/fail"):
            web.get(path)
        assert (board.errors, board.aborted) == (2, 0)
        with web.peer() as peer:  # before its application starts
            params = wire.cgi_params("POST", CONTENT_LENGTH="5")
            peer.send(wire.begin_request(1) + wire.params(1, params) + wire.abort(1))
            peer.receive_end()
        assert board.aborted == 1
        wait_until(lambda: board.requests == 3, "three requests")


def test_an_abort_counts_once(gate):
    """However many ways a web server has to say it."""
    with shown(gate) as (web, board):
        with web.peer() as peer:
            peer.send(wire.request(1, wire.cgi_params("GET", "/wait"), keep_conn=True))
            gate.wait_for(1)
            peer.send(wire.abort(1))
            wait_until(lambda: board.aborted, "the abort")
            peer.send(wire.abort(1))
            peer.send(b"no record" * 10)  # all requests of the connection are given up
            assert peer.receive_close()
        assert board.aborted == 1
        gate.open.set()
        wait_until(lambda: board.requests == 1, "its end")
    assert (board.aborted, board.errors) == (1, 0)


def test_pages_are_no_requests():
    with shown(ping_path="/ping") as (web, board):
        assert web.get("/ping").status == 200
        assert board.requests == 0


def test_its_own_board_where_somebody_looks():
    assert serving().server._hooks.begin() is None
    for options in ({"status_path": "/status"}, {"slow_timeout": 5.0}):
        with serving(**options) as web:
            web.get()
            wait_until(lambda web=web: web.server.snapshot().workers[0].requests == 1, "it")


def test_each_run_has_a_new_one():
    web = serving(status_path="/status")
    for _ in range(2):
        with Serving(web.server) as again:
            again.get()
            body = again.get("/status").body
            assert b"stopping" not in body
            (worker,) = again.server.snapshot().workers
            assert worker.requests <= 1


def test_a_board_for_too_few_threads():
    with pytest.raises(ConfigurationError, match="board"):
        WSGIServer(hello, threads=3, board=Board(2))
    WSGIServer(hello, threads=2, board=Board(3))


def test_more_threads_than_places():
    """Those without a place work nevertheless."""
    engine = Engine(4, 0, board=Board(1))
    with contextlib.closing(engine):
        assert engine.board.threads == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_a_child_of_an_application_writes_nothing():
    """It comes back from the application as the parent does, and ends its request, too."""
    ended = threading.Event()

    def app(environ, start_response):
        child = os.fork()
        if child == 0:
            threading.Timer(0.3, os._exit, (0,)).start()
        else:
            os.waitpid(child, 0)
            ended.set()
        return hello(environ, start_response)

    with shown(app, threads=2) as (web, board):
        with web.peer() as peer:
            peer.send(wire.request(1, wire.cgi_params(), keep_conn=True))
            wait_until(ended.is_set, "the child's end")
            wait_until(lambda: board.requests and not board.busy, "the parent's end")
            time.sleep(0.2)
            assert (board.requests, board.busy, board.connections) == (1, 0, 1)
        wait_until(lambda: board.connections == 0, "the end of the connection")


def test_a_channel_without_a_board():
    with contextlib.closing(Wired()) as web:
        web.deliver(get(1))
        assert web.engine.board is None
        web.requests[0].end()


def test_the_status_page_of_a_server():
    with serving(answering([b"x"]), status_path="/status", threads=2) as web, web.peer() as peer:
        for _ in range(3):
            peer.request(wire.cgi_params(), keep_conn=True)
        page = peer.request(wire.cgi_params("GET", "/status", "json&full"), keep_conn=True)
        (worker,) = json.loads(page.body)["workers"]
        assert worker["requests"] in (2, 3) and worker["connections"] == 1
