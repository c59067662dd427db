"""The end of the engine's threads, and rest: nothing is left, nothing wakes up, no child serves."""

import contextlib
import os
import select
import signal
import sys
import time

import pytest
import wire
from helpers import (
    ENGINES,
    TEXT,
    Gate,
    ask,
    engine_threads,
    hello,
    make_quick,
    serving,
    switches,
    wait_until,
    waiting,
)

pytestmark = pytest.mark.skipif(not hasattr(select, "poll"), reason="only tried with poll()")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(params=ENGINES)
def kind(request, monkeypatch):
    """Every kind of engine serves."""
    monkeypatch.setattr("fastfcgi.server.Engine", ENGINES[request.param])


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open.set()


def test_the_end_leaves_no_thread(kind, gate):
    for number in range(5):
        with serving(gate, threads=4) as web:
            with waiting(web, number) as peers:
                gate.wait_for(number)
                gate.open.set()
                assert all(peer.receive_end().status == 200 for peer in peers)
            gate.open.clear()
        assert web.result is False
        assert engine_threads() == []


def test_the_end_waits_for_requests_that_run_and_that_wait(kind, gate):
    with serving(gate, threads=2) as web, waiting(web, 5) as peers:
        gate.wait_for(2)
        wait_until(lambda: web.server.engine.pending == 3)
        web.server.stop()
        time.sleep(0.1)
        assert web.running
        gate.open.set()
        assert [peer.receive_end().status for peer in peers] == [200] * 5
        web.wait()
    assert engine_threads() == []


def test_a_second_stop_leaves_running_requests_behind(kind, gate):
    """Their threads end when the application lets them, and serve nothing more."""
    with serving(gate, threads=3) as web, waiting(web, 3):
        gate.wait_for(3)
        with waiting(web, 2, "/queued"):
            wait_until(lambda: web.server.engine.pending == 2)
            web.server.stop()
            web.server.stop()
            start = time.monotonic()
            web.wait()
            assert time.monotonic() - start < 4  # nobody is waited for
            assert len(engine_threads()) == 3
        gate.open.set()
        wait_until(lambda: not engine_threads(), "the threads to end")
    assert gate.most == 3


def test_a_request_may_stop_the_server(kind):
    def app(environ, start_response):
        web.server.stop()
        return hello(environ, start_response)

    with serving(app) as web:
        assert web.get().status == 200
        assert web.wait() is False
    assert engine_threads() == []


@linux
def test_nothing_wakes_up_while_nothing_happens(kind, gate):
    """After requests of all kinds, with connections that are kept."""
    gate.open.set()
    with serving(gate, threads=4) as web, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(web.peer()) for _ in range(5)]
        make_quick(peers[0], "/wait")
        gate.open.clear()
        with waiting(web, 3):
            gate.wait_for(3)
            for peer in peers:
                ask(peer)
            gate.open.set()
        gate.wait_for(0)
        time.sleep(0.5)
        threads = [web._thread, *engine_threads()]
        assert len(threads) >= 3
        before = [switches(one) for one in threads]
        time.sleep(1)
        assert [switches(one) for one in threads] == before
        for peer in peers:
            ask(peer)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork()")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_of_fork_does_not_serve(kind):
    """Whatever the application does in it: here it goes on as if nothing had been."""
    children = []

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/fork" and (child := os.fork()):
            children.append(child)
            # The answer is the child's.
            assert os.waitpid(child, 0) == (child, 0)
        start_response("200 OK", list(TEXT))
        return [str(os.getpid()).encode()]

    with serving(app, threads=2) as web, web.peer() as peer:
        try:
            with web.peer() as forking, contextlib.suppress(AssertionError):
                forking.send(wire.request(1, wire.cgi_params("GET", "/fork")))
                forking.receive_end()
            for _ in range(20):
                assert ask(peer, "/pid") == str(os.getpid()).encode()
                assert web.get("/pid").body == str(os.getpid()).encode()
            assert len(children) == 1
        finally:
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
