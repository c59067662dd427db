"""What real web servers need beyond the specification, one test for each rule that is not tested by
the other test_spec*.py files.

Rules and where they stand:

1. The whole body before the first output, to its end before END_REQUEST: test_spec_wsgi_body.py
2. No body after HEAD: test_spec_wsgi_response.py, and here for answers of the server itself
3. What the environ lacks, repeats or must not have: test_spec_wsgi.py
4. PATH_INFO from REQUEST_URI, decoded once; SCRIPT_NAME fixed: test_spec_wsgi.py
5. PARAMS are decoded as one stream: here. Aborted before that: test_spec_requests.py
6. True answers to GET_VALUES: test_spec_connections.py. Side by side: test_spec_requests.py.
   Cut connections are closed at once: here
7. accept() never blocks: here
8. Plain CGI: test_spec_start.py
9. LISTEN_FDS: test_spec_start.py
10. A traceback is on STDERR and on the process's own stderr: test_spec_start.py
11. No CR, LF or NUL in status and headers: test_spec_wsgi_failures.py
12. Idle kept connections hold no threads, 32 and more connections at once: here
"""

import socket
import threading

import pytest
import reference_codec as codec
import wire
from spec_server import DEADLINE, MIB, Application, Gate, answer, echo, serving, wait_until

from fastfcgi.constants import PARAMS


@pytest.fixture
def serve(tmp_path):
    with serving(tmp_path) as serve:
        yield serve


# ------------------------------------------------------------------------- every thread busy


def fill(served, gate):
    """Have the only thread of a server busy; returns the connection that keeps it so."""
    peer = served.connect()
    peer.send(wire.request(1, wire.cgi_params(path="/slow"), keep_conn=True))
    gate.wait_reached()
    return peer


def slow(gate):
    """An application that takes its time below /slow."""

    def application(environ, start_response):
        if environ["PATH_INFO"] == "/slow":
            gate.wait()
        return answer(start_response)

    return application


@pytest.mark.parametrize("keep_conn", [False, True])
def test_busy_is_said_by_status_503(serve, keep_conn):
    """A bare OVERLOADED is a 200 with an empty body behind Apache: "Status: 503" is what every web
    server understands; never a reset. What fits into the queue waits."""
    gate = Gate()
    served = serve(slow(gate), threads=1, queue_size=2)
    first = fill(served, gate)
    waiting = [served.connect() for _ in range(2)]
    for peer in waiting:
        peer.send(wire.request())
        peer.sync()
    peer = served.connect()
    response = peer.request(keep_conn=keep_conn)
    assert (response.status, response.protocol_status) == (503, 0)
    gate.open()
    for peer in (first, *waiting):
        assert peer.receive_end().status == 200


def test_busy_is_said_when_the_body_has_arrived(serve):
    """1: also an answer that the server gives itself comes after the body, not in the midst of
    it."""
    gate = Gate()
    served = serve(slow(gate), threads=1, queue_size=0)
    first = fill(served, gate)
    peer = served.connect()
    peer.send(wire.begin_request(1, keep_conn=True) + wire.params(1, wire.cgi_params("POST")))
    peer.send(wire.stdin(1, b"x" * (3 * MIB), end=False))
    peer.assert_silent(0)
    peer.send(wire.stdin(1))
    assert peer.receive_end().status == 503
    gate.open()
    assert first.receive_end().status == 200
    # Its thread is free a moment after that.
    wait_until(lambda: peer.request(keep_conn=True).status == 200, "room for a request")


# --------------------------------------------------------------------------------- HEAD (2)


def test_head_has_no_body_when_every_thread_is_busy(serve):
    """2: nor has a 503."""
    gate = Gate()
    served = serve(slow(gate), threads=1, queue_size=0)
    first = fill(served, gate)
    response = served.request(wire.cgi_params("HEAD"))
    assert (response.status, response.body, response.ended) == (503, b"", True)
    gate.open()
    assert first.receive_end().status == 200


def test_head_has_no_body_when_the_application_fails(serve):
    """2: H2O passes a body after HEAD on, and its client is out of step: a 500 has none either."""

    def application(environ, start_response):
        raise RuntimeError("on purpose")

    response = serve(application).request(wire.cgi_params("HEAD"))
    assert (response.status, response.body, response.ended) == (500, b"", True)


# ------------------------------------------------------------------------------- PARAMS (5)


def test_large_params_cut_inside_a_pair(serve):
    """5: H2O cuts 72 KB of PARAMS at 65535, inside a pair: collect them to the empty record, then
    decode."""
    application = Application()
    pairs = wire.cgi_params(**{f"HTTP_X_{number:03}": f"{number:03}" * 300 for number in range(80)})
    data = codec.encode_pairs(wire.as_pairs(pairs))
    assert 65535 < len(data) < 2 * 65535
    peer = serve(application).connect()
    peer.send(wire.begin_request(1))
    peer.send(wire.record(PARAMS, 1, data[:65535]) + wire.record(PARAMS, 1, data[65535:]))
    peer.send(wire.record(PARAMS, 1) + wire.stdin(1))
    assert peer.receive_end().status == 200
    assert {name: application.environ[name] for name in pairs} == pairs


# ---------------------------------------------------------------------- cut connections (6)


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_connections_that_are_cut_are_closed_at_once(serve, tcp):
    """6: a client that goes away during a download, several on one connection: the descriptor is
    closed and the applications end. No descriptor and no thread is left behind."""
    endings = []

    def application(environ, start_response):
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * 65536
        finally:
            endings.append(True)

    served = serve(application, tcp=tcp)
    peers = [served.connect() for _ in range(5)]
    for peer in peers:
        for id in (1, 2):
            peer.send(wire.request(id, keep_conn=True))
        peer.receive(lambda answers, peer=peer: peer.stdout(1) and peer.stdout(2))
    for peer in peers:
        peer.close()
    wait_until(lambda: not served.server.channels, "the descriptors to be closed")
    wait_until(lambda: len(endings) == 10, "the applications to be ended")


# ---------------------------------------------------------------------------- accept (7)


def test_accept_never_blocks(serve):
    """7: two servers wait on one listening socket (spawn-fcgi -F 2): both wake, one accepts, the
    other must not block: both stop when they are told to, and no connection is lost."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        both = [serve(echo, bind=listener) for _ in range(2)]
        for _ in range(20):
            assert both[0].request(body=b"body").body == b"body"
        for served in both:
            served.server.stop()
        # They stop at the end of the test; until then a blocked one would not even notice.
        wait_until(lambda: not any(s.server.wait_ready(0) for s in both), "both to stop")


# --------------------------------------------------------------- many connections (12)


def test_idle_connections_hold_no_threads(serve):
    """12: web servers keep connections, one for each of their threads: idle ones cost no thread,
    so two threads serve any number of them."""
    served = serve(echo, threads=2)
    peers = [served.connect() for _ in range(50)]
    for _ in range(2):
        for number, peer in enumerate(peers):
            body = b"%d" % number
            assert peer.request(body=body, keep_conn=True).body == body


def test_40_connections_at_once(serve):
    """12: 32 and more connections bring requests at the same time, and all of them run."""
    together = threading.Barrier(40)

    def application(environ, start_response):
        together.wait(DEADLINE)
        return answer(start_response)

    served = serve(application)
    peers = [served.connect() for _ in range(40)]
    for peer in peers:
        peer.send(wire.request())
    for peer in peers:
        assert peer.receive_end().status == 200


def test_idle_connections_do_not_keep_the_server_from_stopping(serve):
    """12: nor do idle kept connections hold up its end."""
    served = serve(echo, graceful_timeout=10 * DEADLINE)
    peers = [served.connect() for _ in range(20)]
    for peer in peers:
        peer.request(keep_conn=True)
    served.server.stop()
    wait_until(lambda: not served.server.wait_ready(0), "run() to end")
    for peer in peers:
        assert peer.receive_close()
