"""Requests that run for long: told of once, with the line that they are at."""

import os
import threading
import time

import pytest
from helpers import DEADLINE, ENGINES, Gate, hello, serving, wait_until, waiting

from fastfcgi import ConfigurationError, WSGIServer, server
from fastfcgi.board import Board
from fastfcgi.slow_watch import SlowWatch


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open.set()


@pytest.fixture(params=sorted(ENGINES))
def kind(request, monkeypatch):
    monkeypatch.setattr(server, "Engine", ENGINES[request.param])


# ---- the watch itself ----------------------------------------------------------------------


class Watched:
    """A board with one thread that waits in here, and what was told of it."""

    def __init__(self, timeout=5.0):
        self.board = Board(4)
        self.told = []
        self.watch = SlowWatch(self.board, timeout, self.told.append)
        self.going = threading.Event()
        self.thread = threading.Thread(target=self.wait_in_the_application)
        self.thread.start()

    def wait_in_the_application(self):
        assert self.going.wait(DEADLINE)

    def enter(self, index, since, number):
        self.board.enter(index, self.thread.ident, since, f"GET /{number}", number)


@pytest.fixture
def watched():
    made = Watched()
    yield made
    made.going.set()
    made.thread.join(DEADLINE)


def test_each_is_told_once(watched):
    watched.enter(0, 100.0, 1)
    assert watched.watch.look(104.9) == 105.0
    assert watched.told == []
    for now in (105.0, 105.1, 500.0):
        assert watched.watch.look(now) == float("inf")
    (slow,) = watched.told
    assert slow.request_id == f"{os.getpid()}-1"
    assert (slow.seconds, slow.text, slow.thread) == (5.0, "GET /1", watched.thread.ident)
    assert "wait_in_the_application" in slow.stack
    assert watched.board.slow == 1


def test_the_next_request_of_a_thread_is_another_one(watched):
    watched.enter(0, 100.0, 1)
    watched.watch.look(110.0)
    watched.board.leave(0)
    watched.enter(0, 109.0, 2)
    assert watched.watch.look(110.0) == 114.0
    watched.watch.look(114.0)
    assert [slow.text for slow in watched.told] == ["GET /1", "GET /2"]


def test_it_looks_again_for_the_nearest(watched):
    for number, since in enumerate((103.0, 101.0, 102.0), 1):
        watched.enter(number, since, number)
    assert watched.watch.look(104.0) == 106.0
    assert watched.watch.look(106.0) == 107.0
    assert [slow.text for slow in watched.told] == ["GET /2"]


def test_nothing_runs(watched):
    assert watched.watch.look(1e9) == float("inf")


def test_a_request_that_ends_while_it_is_looked_at(watched):
    """Its thread's stack may be that of the next one."""

    class Board:
        looks = 0

        def watched(self):
            self.looks += 1
            return [(watched.thread.ident, 1.0, "GET /", 5)] if self.looks == 1 else []

    watch = SlowWatch(Board(), 5.0, watched.told.append)
    assert watch.look(100.0) == float("inf")
    assert watched.told == []


def test_a_thread_that_has_ended(watched):
    watched.board.enter(0, 1, 100.0, "GET /", 3)
    watched.watch.look(200.0)
    assert [slow.stack for slow in watched.told] == [""]


def test_a_log_that_fails(watched, caplog):
    watch = SlowWatch(watched.board, 5.0, lambda slow: 1 / 0)
    watched.enter(0, 100.0, 1)
    assert watch.look(200.0) == watch.look(201.0) == float("inf")
    assert caplog.text.count("the slow log failed") == 1
    assert watched.board.slow == 1


# ---- in a server ---------------------------------------------------------------------------


def test_a_slow_request_names_its_line(gate, kind):
    told = []
    options = {"slow_timeout": 0.2, "slow_log": told.append}
    with serving(gate, threads=2, **options) as web, waiting(web, 1, "/wait?x=1") as (peer,):
        gate.wait_for(1)
        wait_until(lambda: told, "the slow log")
        for _ in range(5):
            assert web.get("/quick").status == 200
        gate.open.set()
        assert peer.receive_end().status == 200
    (slow,) = told
    assert slow.text == "GET /wait?x=1"
    assert "assert self.open.wait(DEADLINE)" in slow.stack
    assert 0.2 <= slow.seconds < DEADLINE


def test_each_of_several(gate, kind):
    told = []
    options = {"slow_timeout": 0.1, "slow_log": told.append, "threads": 3}
    with serving(gate, **options) as web:
        with waiting(web, 5) as peers:
            wait_until(lambda: len(told) == 3, "three slow requests")
            gate.open.set()
            for peer in peers:
                peer.receive_end()
        assert len({slow.request_id for slow in told}) == len(told)
        assert web.server._hooks.board.slow == len(told)


def test_by_default_it_is_a_warning(gate, caplog):
    with serving(gate, slow_timeout=0.05) as web, waiting(web, 1):
        wait_until(lambda: "a request has been running" in caplog.text, "the warning")
        gate.open.set()
    (line,) = [one for one in caplog.messages if "has been running" in one]
    assert "GET /wait [" in line and "self.open.wait" in line


def test_the_application_knows_the_id(gate):
    told, ids = [], []

    def app(environ, start_response):
        ids.append(environ["fastfcgi.request_id"])
        return gate(environ, start_response)

    with serving(app, slow_timeout=0.05, slow_log=told.append) as web, waiting(web, 1):
        wait_until(lambda: told, "the slow log")
        gate.open.set()
    assert [slow.request_id for slow in told] == ids


def test_quick_requests_wake_nobody_up(monkeypatch):
    """Only their first one has run()'s thread look, once."""
    looks = []
    look = SlowWatch.look
    monkeypatch.setattr(SlowWatch, "look", lambda self, now: looks.append(now) or look(self, now))
    with serving(slow_timeout=0.5, slow_log=print) as web:
        start = time.monotonic()
        for _ in range(200):
            assert web.get().status == 200
        time.sleep(1.2)
        assert len(looks) <= 2 * (time.monotonic() - start) + 2
        count = len(looks)
        time.sleep(0.7)
        assert len(looks) == count


@pytest.mark.parametrize("value", [0, -1, "5", True, float("nan"), float("inf")])
def test_timeouts_that_make_no_sense(value):
    with pytest.raises(ConfigurationError, match="slow_timeout"):
        WSGIServer(hello, slow_timeout=value)


def test_a_log_that_cannot_be_called():
    with pytest.raises(ConfigurationError, match="slow_log"):
        WSGIServer(hello, slow_timeout=1, slow_log="slow.log")
