"""Who runs requests: threads that take turns at polling, or poll side by side (the rest of the
engine: test_engine)."""

import collections
import contextlib
import select
import socket
import sys
import threading
import time

import pytest
import wire
from gil import HAS_GIL
from helpers import (
    DEADLINE,
    ENGINES,
    TEXT,
    Gate,
    Serving,
    ask,
    engine_threads,
    hello,
    make_quick,
    serving,
    switches,
    wait_until,
    waiting,
)

from fastfcgi import WSGIServer
from fastfcgi.engine import Engine

pytestmark = pytest.mark.skipif(not hasattr(select, "poll"), reason="only tried with poll()")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

EAGER = 13  # scores.pxd
# A moment for a deputy that looks every few milliseconds, on a loaded machine.
SOON = 5.0


@pytest.fixture(params=ENGINES)
def kind(request, monkeypatch):
    """Every kind of engine serves; whether its threads take turns."""
    monkeypatch.setattr("fastfcgi.server.Engine", ENGINES[request.param])
    return "parallel" not in request.param


@pytest.fixture(params=[name for name in ENGINES if "parallel" not in name])
def turns(request, monkeypatch):
    """The engines whose threads take turns."""
    monkeypatch.setattr("fastfcgi.server.Engine", ENGINES[request.param])


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open.set()


# ------------------------------------------------------------------- as few threads as needed


def test_threads_are_started_when_they_are_needed(kind, gate):
    with serving(gate, threads=16) as web, web.peer() as peer:
        assert len(engine_threads()) <= 1
        make_quick(peer)
        # One polls, one looks after it; one may have been needed on a loaded machine.
        assert len(engine_threads()) <= 4
        with waiting(web, 6):
            gate.wait_for(6)
            assert 7 <= len(engine_threads()) <= 6 + 3
            assert ask(peer, "/now") == b"hello /now"
            gate.open.set()
    assert engine_threads() == []


@linux
def test_quick_requests_are_run_by_the_thread_that_polls(turns):
    """Waking another for each would cost more than the request."""
    served = collections.Counter()

    def app(environ, start_response):
        served[threading.get_native_id()] += 1
        return hello(environ, start_response)

    def round():
        served.clear()
        before = {one: switches(one) for one in engine_threads()}
        for _ in range(500):
            ask(peer)
        ((leader, count),) = served.most_common(1)
        others = [one for one in before if one.native_id != leader]
        return count, sum(switches(one) - before[one] for one in others)

    with serving(app, threads=8) as web, web.peer() as peer:
        make_quick(peer, "/")
        for _ in range(10):  # a loaded machine makes any call a long one
            time.sleep(0.3)
            count, woken = round()
            if count > 450 and woken < 250:
                return
    raise AssertionError((count, woken))


# ---------------------------------------------------------------------------- what blocks


def test_paths_that_are_not_known_do_not_hold_up_others(kind, gate):
    with serving(gate, threads=3) as web, web.peer() as peer:
        with waiting(web, 2):
            gate.wait_for(2)
            start = time.monotonic()
            assert ask(peer) == b"hello /"
            assert time.monotonic() - start < SOON
            gate.open.set()


def test_a_path_known_to_be_quick_that_blocks_does_not_hold_up_others(kind, gate):
    """Another thread takes over; the second time it is known to block."""
    gate.open.set()
    with serving(gate, threads=3) as web, web.peer() as peer:
        scores = web.server.engine.scores
        make_quick(peer, "/wait")
        for expected in (12, 24):
            gate.open.clear()
            time.sleep(0.2)  # so that all are asleep for good
            with waiting(web, 1):
                gate.wait_for(1)
                start = time.monotonic()
                for _ in range(5):
                    assert ask(peer) == b"hello /"
                assert time.monotonic() - start < SOON
                gate.open.set()
                gate.wait_for(0)
                if kind:  # else nothing has to be known
                    wait_until(lambda n=expected: scores.score("/wait") >= n, "the score")


@pytest.mark.parametrize("threads", [1, 2])
def test_waiting_for_a_body_holds_up_nobody(kind, threads):
    """It does hold its thread, but not whoever polls."""

    def app(environ, start_response):
        body = environ["wsgi.input"].read()
        start_response("200 OK", list(TEXT))
        return [body]

    with serving(app, threads=threads, body_start=1) as web, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(web.peer()) for _ in range(threads)]
        for peer in peers:
            peer.send(wire.begin_request(1) + wire.params(1, wire.cgi_params("POST")))
            peer.send(wire.stdin(1, b"some of ", end=False))
        wait_until(lambda: web.server.engine.busy == threads)
        other = stack.enter_context(web.peer())
        other.send(wire.request(1, wire.cgi_params("POST"), b"other"))
        for peer in peers:
            peer.send(wire.stdin(1, b"it"))
            assert peer.receive_end().body == b"some of it"
        assert other.receive_end().body == b"other"


def test_waiting_for_room_to_send_holds_up_nobody(kind):
    block = b"x" * 100_000

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/large":
            start_response("200 OK", list(TEXT))
            return (block for _ in range(200))
        return hello(environ, start_response)

    with serving(app, threads=2, max_unsent=1000) as web, web.peer() as peer:
        make_quick(peer)
        with web.peer() as slow:
            slow.sock.sendall(wire.request(1, wire.cgi_params("GET", "/large")))
            wait_until(lambda: any(channel.unsent > 1000 for channel in list(web.server.channels)))
            for _ in range(5):
                assert ask(peer) == b"hello /"
            wait_until(lambda: web.server.engine.busy == 1)  # an answer is out before it is counted
            assert len(slow.receive_end().body) == 200 * len(block)


class Looking(WSGIServer):
    """A server whose application looks at how its own connection is watched.

    The request is there when its connection has just been accepted, because who accepts sends it.
    So it is served at once, by the thread that polls.

    Attributes:
        seen: The masks that it found, -1 for not at all.
    """

    def __init__(self):
        super().__init__(self.application, bind="127.0.0.1:0", threads=3)
        self.seen = []
        self.client = self.request = None

    def _isClientAllowed(self, addr):
        if self.request is not None:
            self.client.sendall(self.request)
            self.request = None
        return True

    def application(self, environ, start_response):
        if environ["PATH_INFO"].endswith("look"):
            (channel,) = (one for one in list(self.channels) if not one.served)
            self.seen.append(channel.mask)
            wait_until(lambda: channel.mask > 0)
        return hello(environ, start_response)

    def look(self, number, score):
        """One look, of a path that is given a score first."""
        path = f"/quick{number}/look"
        self.engine.scores.note(path, score)
        request = wire.request(1, wire.cgi_params("GET", path))
        with socket.socket() as self.client:
            self.client.settimeout(DEADLINE)
            self.request = request
            self.client.connect(self.addresses[0])
            answer = b"".join(iter(lambda: self.client.recv(4096), b""))
        assert path.encode() in answer  # its block is a record


def test_a_connection_is_watched_again_when_its_request_blocks(turns):
    """While it is served by whoever polls, nobody would look at it."""
    server = Looking()
    with Serving(server) as web, web.peer() as peer:
        make_quick(peer)
        for number in range(20):  # a loaded machine stops any thread for a while
            server.look(number, -36)
            if -1 in server.seen:
                return
            time.sleep(0.3)  # so that who watches over whoever polls is calm again
    raise AssertionError(server.seen)


def test_a_path_known_to_block_is_handed_over_beforehand(turns):
    server = Looking()
    with Serving(server) as web, web.peer() as peer:
        make_quick(peer)
        for number in range(20):
            server.look(number, 36)
    assert server.seen == [1] * 20


def test_a_connection_is_watched_whoever_runs_its_request(kind):
    """Here it is a thread that comes back from a request while who polls accepts another
    connection."""
    inside, connected, go = (threading.Event() for _ in range(3))
    calls = []

    class Server(WSGIServer):
        def _isClientAllowed(self, addr):
            calls.append(addr)
            if len(calls) == 2:
                assert connected.wait(DEADLINE)
            if len(calls) == 3:
                go.set()
                time.sleep(0.1)
            return True

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/back":
            inside.set()
            assert go.wait(DEADLINE)
        elif environ["PATH_INFO"] == "/look":
            wait_until(lambda: all(channel.mask > 0 for channel in list(web.server.channels)))
        return hello(environ, start_response)

    with Serving(Server(app, bind="127.0.0.1:0", threads=4)) as web:
        with web.peer() as back, contextlib.ExitStack() as stack:
            back.send(wire.request(1, wire.cgi_params("GET", "/back")))
            assert inside.wait(DEADLINE)
            peers = [stack.enter_context(web.peer()) for _ in range(2)]
            for peer in peers:
                peer.send(wire.request(1, wire.cgi_params("GET", "/look")))
            connected.set()
            for peer in [back, *peers]:
                assert peer.receive_end().status == 200


def test_a_web_server_that_goes_away_is_noticed_while_its_request_blocks(kind, gate):
    aborted = threading.Event()

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/block":
            (channel,) = (one for one in list(web.server.channels) if one is not kept)
            started.set()
            wait_until(lambda: channel.closed, "the loss to be seen")
            aborted.set()
        return hello(environ, start_response)

    started = threading.Event()
    with serving(app, threads=3) as web, web.peer() as peer:
        ask(peer)
        (kept,) = web.server.channels
        make_quick(peer)
        with web.peer() as other:
            other.send(wire.request(1, wire.cgi_params("GET", "/block")))
            assert started.wait(DEADLINE)
            other.send(b"\xff" * 8)  # of no use
            other.sock.shutdown(2)
        assert aborted.wait(DEADLINE)


def test_computing_is_not_blocking(turns):
    """Nothing would be gained: whoever computes holds the GIL."""

    def app(environ, start_response):
        if environ["PATH_INFO"].startswith("/compute"):
            end = time.thread_time() + 0.0005
            while time.thread_time() < end:
                pass
        return hello(environ, start_response)

    with serving(app) as web, web.peer() as peer:
        scores = web.server.engine.scores
        make_quick(peer)
        for number in range(60):  # on a loaded machine some take long for another reason
            path = f"/compute{number}"
            for _ in range(30):
                scores.note(path, -1)
            for _ in range(4):
                ask(peer, path)
            if scores.score(path) < EAGER:
                return
    raise AssertionError("each of them is taken for one that blocks")


# -------------------------------------------------------------------- how many run and wait


def test_no_more_requests_at_once_than_threads(kind, gate):
    with serving(gate, threads=3) as web, waiting(web, 12) as peers, web.peer() as other:
        gate.wait_for(3)
        wait_until(lambda: web.server.engine.pending == 9, "the others to wait")
        assert web.server.engine.busy == 3
        other.send(wire.request())
        gate.open.set()
        assert [peer.receive_end().status for peer in [*peers, other]] == [200] * 13
        wait_until(lambda: not web.server.engine.busy, "the threads")
    assert gate.most == 3


def test_one_thread_is_one_at_a_time(kind, gate):
    gate.open.set()
    with serving(gate, threads=1) as web, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(web.peer()) for _ in range(20)]
        for number in range(10):
            for peer in peers:
                peer.send(wire.request(1, wire.cgi_params("GET", f"/{number}"), keep_conn=True))
            for peer in peers:
                assert peer.receive_end().status == 200
                peer.answers.outputs.clear()
    assert gate.most == 1


def test_requests_that_wait_are_run_in_order(kind, gate):
    order = []

    def app(environ, start_response):
        order.append(environ["PATH_INFO"])
        return gate(environ, start_response)

    with serving(app, threads=1) as web, waiting(web, 1), contextlib.ExitStack() as stack:
        gate.wait_for(1)
        for number in range(8):
            peer = stack.enter_context(web.peer())
            peer.send(wire.request(1, wire.cgi_params("GET", f"/{number}")))
            wait_until(lambda n=number: web.server.engine.pending == n + 1)
        gate.open.set()
        wait_until(lambda: len(order) == 9)
    assert order[1:] == [f"/{number}" for number in range(8)]


@pytest.mark.parametrize("queue_size", [0, 1, 3])
def test_no_more_requests_wait_than_that(kind, gate, queue_size, caplog):
    with serving(gate, threads=2, queue_size=queue_size) as web, web.peer() as peer:
        with waiting(web, 2) as running:
            gate.wait_for(2)
            with waiting(web, queue_size) as queued:
                wait_until(lambda: web.server.engine.pending == queue_size)
                for _ in range(3):
                    response = peer.request(keep_conn=True)
                    assert response.status == 503 and response.ended
                assert f"queue_size={queue_size}" in caplog.text
                gate.open.set()
                assert {one.receive_end().status for one in [*running, *queued]} == {200}
        wait_until(lambda: web.server.engine.busy == 0)
        ask(peer)


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyboardInterrupt])
def test_a_handler_that_fails_ends_nothing(kind, error, caplog):
    class Server(WSGIServer):
        def handler(self, req):
            if req.params["PATH_INFO"] == "/fail":
                raise error("failed as asked")
            return super().handler(req)

    with Serving(Server(hello, bind="127.0.0.1:0", threads=2)) as web:
        for _ in range(5):
            assert not web.get("/fail").ended
            assert web.get("/").status == 200
        wait_until(lambda: web.server.engine.busy == 0)
    assert caplog.text.count("handler() failed") == 5


# ------------------------------------------------------------ a system that is short of threads


@pytest.fixture
def thread_limit(monkeypatch):
    """So many threads of the engine can be started."""

    def set_limit(most):
        start = threading.Thread.start

        def limited(thread):
            if thread.name.startswith("fastfcgi-"):
                nonlocal most
                if most == 0:
                    raise RuntimeError("can't start new thread")
                most -= 1
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", limited)

    return set_limit


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_system_that_starts_no_more_threads(kind, thread_limit, most, gate, caplog):
    """Shared hosting limits threads: the engine goes on with those that it has."""
    thread_limit(most)
    with serving(gate, threads=8) as web:
        with waiting(web, 5) as peers:
            gate.wait_for(min(most, 5))
            gate.open.set()
            assert [peer.receive_end().status for peer in peers] == [200] * 5
        with web.peer() as peer:
            make_quick(peer)
    assert gate.most <= most
    assert 1 <= caplog.text.count("cannot start another thread: can't start new thread") <= 5


def test_a_system_that_starts_no_thread_at_all(kind, thread_limit):
    thread_limit(0)
    with serving() as web:
        assert isinstance(web.wait(), RuntimeError)
    assert engine_threads() == []


def test_threads_poll_side_by_side_where_there_is_no_gil():
    with contextlib.closing(Engine(1, 0)) as engine:
        assert engine.parallel is not HAS_GIL
