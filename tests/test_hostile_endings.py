"""Endings in the middle of something, with a real server process: peers that abort, half-close or
vanish, and a server that is told to stop (tests/hostile.py says what is looked at)."""

import contextlib
import sys
import time

import pytest

if sys.platform != "linux":
    pytest.skip("what a process holds is read from /proc", allow_module_level=True)

import wire
from hostile import KIB, MIB, Target, push, vanish
from processes import wait_until

pytestmark = pytest.mark.hostile

START = wire.stdin(1, bytes(1100 * KIB), end=False)  # enough of a body for the application to begin

# What was sent when the peer ends it.
STAGES = {
    "nothing": b"",
    "half-a-header": wire.begin_request(1)[:5],
    "begun": wire.begin_request(1, keep_conn=True),
    "in-params": wire.begin_request(1, keep_conn=True) + wire.params(1, {"A": "B"}, end=False),
    "in-a-record": Target.get("/hello", keep_conn=True)[:60],
    "before-the-body": Target.post("/read", keep_conn=True),
    "in-the-body": Target.post("/read", keep_conn=True) + wire.stdin(1, b"abc", end=False),
    "while-it-is-read": Target.post("/read", keep_conn=True) + START,
    "while-nobody-reads-it": Target.post("/hold", keep_conn=True) + START,
    "written-before-it-is-read": Target.post("/early", keep_conn=True) + START,
    "while-the-application-sleeps": Target.get("/hold", keep_conn=True),
    "in-the-response": Target.get("/stream/1000", keep_conn=True),
    "after-a-request": Target.get("/hello", keep_conn=True),
    "after-the-last-request": Target.get("/hello"),
}


@pytest.fixture(scope="module", params=[False, True], ids=["unix", "tcp"])
def target(module_folder, request):
    """One server for all the peers that go away; it is looked at after each of them."""
    folder = module_folder / ("tcp" if request.param else "unix")
    folder.mkdir()
    # The most that one of the tests has the server hold is max_unread_total, in bodies that grow in
    # turn and leave holes in the heap: twice that.
    limits = {"memory": 2 * 16 * MIB, "threads": 16, "linger_timeout": 0.5}
    with Target(folder, tcp=request.param, **limits) as target:
        yield target


def look(target):
    """Let go what sleeps, and see that nothing is left of an attack."""
    wait_until(lambda: target.ask("/release").body == b"0", "all to be let go")
    target.ask("/retain")
    # One may be the watcher's.
    wait_until(lambda: target.connections() <= 1, "descriptors as before")
    target.serve_others(2)


@pytest.mark.parametrize("stage", STAGES)
def test_twelve_peers_vanish(target, stage):
    """Half of them at once, the others when all that they sent was taken in; over TCP by a
    reset."""
    with contextlib.ExitStack() as stack:
        for number in range(12):
            sock = target.socket()
            sock.sendall(STAGES[stage])
            if number % 2:
                stack.callback(vanish, sock)
            else:
                vanish(sock)
        time.sleep(0.1)
    look(target)


def test_a_peer_vanishes_whose_bodies_are_in_files(target):
    """Those of requests that had not begun, so that no application's end closes them."""
    with target.peer() as peer:
        for request_id in range(1, 101):
            peer.send(target.post("/read", request_id, keep_conn=True))
        for _ in range(10):
            for request_id in range(1, 101):
                peer.send(wire.stdin(request_id, bytes(30 * KIB), end=False))
        assert target.connections() > 2, "no files"
        vanish(peer.sock)
    look(target)


@pytest.mark.parametrize("stage", STAGES)
def test_a_peer_that_sends_no_more(target, stage):
    """It is answered if it has sent all of its request, and closed otherwise."""
    with target.peer() as peer:
        peer.send(STAGES[stage])
        peer.half_close()
        if b"/hold" in STAGES[stage]:
            # What is not read is not received either, so the end is seen after that.
            time.sleep(0.1)
            assert not peer.closed
            target.ask("/release")
        assert peer.receive_close()
        complete = stage in ("while-the-application-sleeps", "in-the-response")
        assert bool(peer.response().body) == (complete or stage.startswith("after"))
    look(target)


ABORTED = [
    "begun",
    "in-params",
    "before-the-body",
    "in-the-body",
    "while-it-is-read",
    "while-the-application-sleeps",
    "in-the-response",
    "after-a-request",
]


@pytest.mark.parametrize("stage", ABORTED)
def test_abort_and_the_id_again(target, stage):
    with target.peer() as peer:
        for _ in range(3):
            peer.send(STAGES[stage])
            time.sleep(0.02)
            peer.send(wire.abort(1))
            if b"/hold" in STAGES[stage]:
                target.ask("/release")
            assert peer.receive_end().ended
            assert len(peer.response().body) < 1000 * 64 * KIB
            answer = peer.request(wire.cgi_params(path="/hello"), keep_conn=True)
            assert answer.body == b"hello"
            peer.answers.outputs.clear()
    look(target)


def test_abort_of_a_body_that_nobody_reads_is_seen_when_it_is_read(target):
    with target.peer() as peer:
        peer.send(target.post("/late", keep_conn=True))
        peer.send(wire.stdin(1, bytes(1000 * KIB), end=False) + wire.abort(1))
        target.ask("/release")
        assert peer.receive_end().ended
        assert peer.request(wire.cgi_params(path="/hello"), keep_conn=True).body == b"hello"
    look(target)


def test_2000_requests_of_one_id_are_aborted(target):
    stages = ("begun", "in-params", "in-the-body", "before-the-body")
    with target.peer() as peer:
        for stage in stages * 500:
            peer.send(STAGES[stage] + wire.abort(1))
            assert peer.receive_end().ended
            peer.answers.outputs.clear()
        assert peer.request(wire.cgi_params(path="/hello"), keep_conn=True).body == b"hello"
    look(target)


# ------------------------------------------------------------------------------ stopping

GRACE = 0.5  # graceful_timeout of these servers
NOISE = 5.0  # what a slow machine may take on top

# At these stages no request is running, so there is nothing to wait for; a moment for PARAMS.
NOT_RUNNING = ["nothing", "half-a-header", "after-a-request", "after-the-last-request"]
IN_PARAMS = ["begun", "in-params", "in-a-record"]
RUNNING = [stage for stage in STAGES if stage not in NOT_RUNNING + IN_PARAMS]


@pytest.fixture
def server(folder):
    with Target(folder, graceful_timeout=GRACE, watched=False, linger_timeout=0.2) as target:
        yield target


@pytest.fixture
def patient(folder):
    """One that would wait for a long time if there were something to wait for."""
    with Target(folder, graceful_timeout=60, watched=False, linger_timeout=0.2) as target:
        yield target


def begin(server, stages, stack):
    for stage in stages:
        sock = stack.enter_context(server.socket())
        sock.sendall(STAGES[stage])
    time.sleep(0.1)


@pytest.mark.parametrize("stages", [NOT_RUNNING, IN_PARAMS], ids=["not-running", "in-params"])
def test_term_does_not_wait_for_requests_that_do_not_run(patient, stages):
    with contextlib.ExitStack() as stack:
        begin(patient, stages * 10, stack)
        patient.stop(NOISE)
        assert "graceful_timeout" not in patient.log()


@pytest.mark.parametrize("stage", RUNNING)
def test_term_in_the_middle_of(server, stage):
    with contextlib.ExitStack() as stack:
        begin(server, [stage] * 4, stack)
        server.stop(GRACE + NOISE)
        server.expect_log("stopped after graceful_timeout=0.5 s")


def test_term_while_more_is_going_on_than_there_are_threads(server):
    with contextlib.ExitStack() as stack:
        begin(server, list(STAGES) * 5, stack)
        server.stop(GRACE + NOISE)


def test_term_under_a_flood(server):
    with server.socket() as sock, server.socket() as other:
        sock.sendall(server.post("/hello"))
        other.sendall(server.post("/early"))
        flood = wire.stdin(1, bytes(65535), end=False)
        server.process.popen.terminate()
        assert push(sock, flood, 1 << 40) > MIB
        push(other, flood, 1 << 40)
        server.stop(GRACE + NOISE, term=False)


def test_running_requests_end_before_the_server_does(patient):
    with patient.peer() as peer, patient.peer() as idle, patient.peer() as mean:
        peer.send(patient.get("/nap/700", 1, keep_conn=True))
        peer.send(patient.get("/nap/500", 2, keep_conn=True))
        mean.send(STAGES["in-params"])
        assert idle.request(wire.cgi_params(path="/hello"), keep_conn=True).ended
        patient.process.popen.terminate()
        assert peer.receive_end(2).body == b"awake"
        assert peer.receive_end(1).body == b"awake"
        assert peer.receive_close() and idle.receive_close() and mean.receive_close()
        patient.stop(NOISE, term=False)


def test_stop_out_of_a_request(patient):
    with patient.peer() as peer, patient.peer() as mean:
        mean.send(STAGES["in-a-record"])
        peer.send(patient.get("/stop"))
        assert peer.receive_end().body == b"stopping"
        assert peer.receive_close()
        patient.stop(NOISE, term=False)


def test_a_second_term_waits_for_nobody(patient):
    with patient.peer() as peer:
        peer.send(STAGES["while-the-application-sleeps"])
        time.sleep(0.1)
        patient.process.popen.terminate()
        time.sleep(0.1)
        patient.stop(NOISE)
        assert "graceful_timeout" not in patient.log()
