"""The rules of CGI and WSGI on top of FastCGI, one test each: the request body (RFC 3875, PEP 3333,
and what real web servers need of a FastCGI application).
"""

import threading
import time

import pytest
import wire
from spec_server import (
    DEADLINE,
    MIB,
    Application,
    Gate,
    answer,
    echo,
    serving,
    wait_until,
)

TEXT = [("Content-Type", "text/plain")]
POST = wire.cgi_params("POST")


@pytest.fixture
def serve(tmp_path):
    with serving(tmp_path) as serve:
        yield serve


def pattern(size):
    """Bytes that tell whether any are missing or out of order."""
    return b"".join(b"%015d\n" % number for number in range(size // 16 + 1))[:size]


# ------------------------------------------------------------------------- CONTENT_LENGTH

# CONTENT_LENGTH as sent, body as sent, body as read.
LENGTHS = [
    (None, b"chunked", b"chunked"),
    ("", b"chunked", b"chunked"),
    ("-1", b"chunked", b"chunked"),
    ("x", b"chunked", b"chunked"),
    (None, b"", b""),
    ("", b"", b""),
    ("0", b"", b""),
    ("7", b"as said", b"as said"),
    ("3", b"longer", b"lon"),
    ("0", b"longer", b""),
    ("10", b"short", b"short"),
]


@pytest.mark.parametrize(("length", "sent", "read"), LENGTHS)
def test_end_of_the_body(serve, length, sent, read):
    """CONTENT_LENGTH absent, empty or no number: the body ends with the empty STDIN record (chunked
    uploads). Longer STDIN is cut at CONTENT_LENGTH. Shorter is a client that went away: its end is
    the end, and no more is waited for."""
    application = Application()
    pairs = {**POST} if length is None else {**POST, "CONTENT_LENGTH": length}
    peer = serve(application).connect()
    for _ in range(2):  # a body that was misread would make nonsense of the next request
        assert peer.request(pairs, sent, keep_conn=True).ended
    assert application.bodies == [read, read]


@pytest.mark.parametrize("keep_conn", [False, True])
def test_empty_body_without_the_end_of_stdin(serve, keep_conn):
    """HAProxy never ends the STDIN of an empty chunked body: CONTENT_LENGTH 0 is enough."""
    application = Application()
    peer = serve(application).connect()
    pairs = {**POST, "CONTENT_LENGTH": "0"}
    for _ in range(2 if keep_conn else 1):
        peer.answers.outputs.clear()
        peer.send(wire.begin_request(1, keep_conn=keep_conn) + wire.params(1, pairs))
        assert peer.receive_end().status == 200
    assert set(application.bodies) == {b""}


@pytest.mark.parametrize("length", ["3", "0", "", "100"])
def test_end_of_the_body_while_it_streams(serve, length):
    """The same rules where the application reads while the body arrives."""
    gate = Gate()
    gate.open()
    bodies = []

    def application(environ, start_response):
        first = environ["wsgi.input"].read(1)
        gate.wait()
        bodies.append(first + environ["wsgi.input"].read())
        return answer(start_response)

    peer = serve(application, body_start=1).connect()
    pairs = {**POST, "CONTENT_LENGTH": length}
    peer.send(wire.begin_request(1) + wire.params(1, pairs) + wire.stdin(1, b"a", end=False))
    gate.wait_reached()
    peer.send(wire.stdin(1, b"bcdef"))
    assert peer.receive_end().ended
    assert bodies == [{"3": b"abc", "0": b""}.get(length, b"abcdef")]


# ------------------------------------------------------------------------------ wsgi.input

BODY = b"one\ntwo\n\nfour and more\nlast"


def calls(stream):
    """Everything that PEP 3333 asks of wsgi.input, in turn."""
    yield stream.read(0)
    yield stream.read(2)
    yield stream.readline()
    yield stream.readline(2)
    yield stream.readline(100)
    yield next(iter(stream))
    yield stream.readlines(3)[:1]
    yield from stream
    yield stream.read()
    yield stream.read(10)
    yield stream.readline()
    yield stream.readlines()


# What they give. (readlines() may take its hint as it likes, so BODY has one line for it.)
RESULTS = [
    b"", b"on", b"e\n", b"tw", b"o\n", b"\n", [b"four and more\n"], b"last", b"", b"", b"", [],
]  # fmt: skip


def test_methods_of_wsgi_input(serve):
    """PEP 3333: read, readline, readlines and iteration, of a body that is all there."""
    results = []

    def application(environ, start_response):
        results.extend(calls(environ["wsgi.input"]))
        return answer(start_response)

    assert serve(application).request(POST, BODY).status == 200
    assert results == RESULTS


def test_methods_of_wsgi_input_while_the_body_arrives(serve):
    """PEP 3333: the same, of a body that comes byte by byte while it is read."""
    gate = Gate()
    gate.open()
    results = []

    def application(environ, start_response):
        gate.wait()
        results.extend(calls(environ["wsgi.input"]))
        return answer(start_response)

    peer = serve(application, body_start=1).connect()
    peer.send(wire.begin_request(1) + wire.params(1, POST) + wire.stdin(1, BODY[:1], end=False))
    gate.wait_reached()
    time.sleep(0.05)  # lets the application wait for more
    for offset in range(1, len(BODY)):
        peer.send(wire.stdin(1, BODY[offset : offset + 1], end=False))
        time.sleep(0.002)  # lets the application read it by itself
    peer.send(wire.record(5, 1))
    assert peer.receive_end().status == 200
    assert results == RESULTS


@pytest.mark.parametrize("read", ["read", "readlines", "iterated"])
def test_all_of_a_large_body_is_read(serve, read):
    """PEP 3333: whole, in blocks or in lines, a body of 5 MiB arrives as it was sent."""
    body = pattern(5 * MIB)

    def application(environ, start_response):
        stream = environ["wsgi.input"]
        parts = {"read": lambda: [stream.read()], "readlines": stream.readlines}.get(read, list)
        same = b"".join(parts() if read != "iterated" else stream) == body
        return answer(start_response, str(same).encode())

    served = serve(application)
    for end_known in (True, False):
        pairs = {**POST, "CONTENT_LENGTH": str(len(body))} if end_known else POST
        assert served.request(pairs, body).body == b"True"


def test_wsgi_input_ends(serve):
    """wsgi.input_terminated: reading past the end gives b"", again and again, and needs no
    CONTENT_LENGTH."""
    results = []

    def application(environ, start_response):
        assert environ["wsgi.input_terminated"] is True
        stream = environ["wsgi.input"]
        results.extend([stream.read(100), stream.read(100), stream.read(), stream.read()])
        return answer(start_response)

    assert serve(application).request(POST, b"body").status == 200
    assert results == [b"body", b"", b"", b""]


def test_body_that_breaks_off(serve):
    """A client that goes away within its body: reading fails, for no part of a body passes for
    the whole."""
    gate = Gate()
    gate.open()
    raised = []

    def application(environ, start_response):
        gate.wait()
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            raised.append(error)
            raise
        return answer(start_response)

    peer = serve(application, body_start=1).connect()
    peer.send(wire.begin_request(1) + wire.params(1, POST) + wire.stdin(1, b"part", end=False))
    gate.wait_reached()
    peer.close()
    wait_until(lambda: raised, "the read to fail")


# ----------------------------------------------------------------- when the application starts


@pytest.mark.parametrize("length", [None, str(3 * MIB)])
def test_application_starts_when_a_mebibyte_of_the_body_is_there(serve, length):
    """A request whose body is still on its way holds no thread; the application starts when the
    body is complete, or when 1 MiB of it is there."""
    called = []
    large = threading.Event()

    def application(environ, start_response):
        called.append(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "/large":
            large.set()
        return answer(start_response, b"%d" % len(environ["wsgi.input"].read()))

    # The only thread would be held by the first body, were it given to it.
    served = serve(application, threads=1)
    peer = served.connect()
    more = {} if length is None else {"CONTENT_LENGTH": length}
    for id, path in ((1, "/large"), (2, "/small")):
        pairs = wire.cgi_params("POST", path, **more)
        peer.send(wire.begin_request(id, keep_conn=True) + wire.params(id, pairs))
    peer.send(wire.stdin(2, b"part", end=False))
    peer.send(wire.stdin(1, pattern(MIB - 1), end=False))
    peer.sync()
    assert served.request(wire.cgi_params(path="/quick")).body == b"0"
    assert called == ["/quick"]
    peer.send(wire.stdin(1, b"x", end=False))
    assert large.wait(DEADLINE)
    peer.send(wire.stdin(1, pattern(2 * MIB)) + wire.stdin(2, b"", end=length is None))
    assert peer.receive_end(1).body == b"%d" % (3 * MIB)
    if length is None:
        assert peer.receive_end(2).body == b"4"
    assert called[:2] == ["/quick", "/large"]


def test_waiting_for_bodies_holds_no_threads(serve):
    """A hundred requests whose bodies are on their way need not one thread."""
    served = serve(echo, threads=200)
    before = threading.active_count()
    peers = [served.connect() for _ in range(100)]
    for peer in peers:
        peer.send(wire.begin_request(1) + wire.params(1, POST) + wire.stdin(1, b"x", end=False))
    for peer in peers:
        peer.sync()
    assert threading.active_count() <= before + 2  # who polls may have started meanwhile
    for peer in peers:
        peer.send(wire.stdin(1, b"y"))
        assert peer.receive_end().body == b"xy"


# ----------------------------------------------------------- the body before the first output


@pytest.mark.parametrize("blocks", [1, 2])
def test_body_is_taken_in_before_the_first_output(serve, blocks):
    """A client that stops sending when it sees output (as nginx and mod_fcgid do) has sent all
    before it sees any; and the application still gets all of it."""
    gate = Gate()
    gate.open()
    body = pattern(4 * MIB)
    bodies = []

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        gate.wait()
        if blocks == 1:
            return [b"body"]
        return several(environ["wsgi.input"])

    def several(stream):
        yield b"body"
        bodies.append(stream.read())

    peer = serve(application).connect()
    peer.send(wire.begin_request(1) + wire.params(1, POST))
    peer.send(wire.stdin(1, body[: 2 * MIB], end=False))
    gate.wait_reached()
    peer.assert_silent(0)
    peer.send(wire.stdin(1, body[2 * MIB :], end=False))
    peer.assert_silent(0)
    peer.send(wire.stdin(1))
    response = peer.receive_end()
    assert (response.body, response.ended) == (b"body", True)
    assert bodies == [body][: blocks - 1]


def test_client_that_reads_nothing_before_it_has_sent_all(serve):
    """A client that refuses to read before it has sent all (as H2O and Caddy may) is not waited
    for: much output waits for the rest of the body, and not the other way round."""
    body = pattern(8 * MIB)

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        for offset in range(0, len(body), MIB):
            yield body[offset : offset + MIB]
        yield environ["wsgi.input"].read()

    peer = serve(application).connect()
    peer.send_unread(wire.request(1, POST, body))
    assert peer.receive_end().body == body + body


def test_errors_do_not_precede_the_body(serve):
    """Nor is STDERR sent before the body is complete: it is output too."""
    gate = Gate()

    def application(environ, start_response):
        environ["wsgi.errors"].write("noted")
        environ["wsgi.errors"].flush()
        gate.wait()
        return answer(start_response)

    peer = serve(application, body_start=1).connect()
    peer.send(wire.begin_request(1) + wire.params(1, POST) + wire.stdin(1, b"part", end=False))
    gate.wait_reached()
    peer.assert_silent(0)
    peer.send(wire.stdin(1))
    gate.open()
    assert peer.receive_end().stderr == b"noted"


@pytest.mark.parametrize("length", [None, str(2 * MIB)])
@pytest.mark.parametrize("fails", [False, True])
def test_body_is_read_to_its_end_before_end_request(serve, length, fails):
    """Nothing of a body is left unread at END_REQUEST, whether the application read it or not:
    H2O 2.2.5 aborts when it comes earlier on a kept connection."""
    gate = Gate()
    gate.open()

    def application(environ, start_response):
        gate.wait()
        if fails and environ["PATH_INFO"] == "/":
            raise RuntimeError("on purpose")
        return answer(start_response, b"read none of it")

    peer = serve(application).connect()
    pairs = POST if length is None else {**POST, "CONTENT_LENGTH": length}
    peer.send(wire.begin_request(1, keep_conn=True) + wire.params(1, pairs))
    peer.send(wire.stdin(1, b"x" * MIB, end=False))
    gate.wait_reached()
    peer.assert_silent(0)
    peer.send(wire.stdin(1, b"x" * MIB))
    assert peer.receive_end().status == (500 if fails else 200)
    # Nothing of it is taken for another request.
    assert peer.request(wire.cgi_params(path="/next"), keep_conn=True).body == b"read none of it"


def test_application_that_stops_reading(serve):
    """The same when the application read a part, then answered: the rest is dropped, and the next
    request on the connection gets its own body."""

    def application(environ, start_response):
        return answer(start_response, environ["wsgi.input"].read(5))

    peer = serve(application).connect()
    for number in range(3):
        body = b"%05d" % number + b"x" * (3 * MIB)
        assert peer.request(POST, body, keep_conn=True).body == b"%05d" % number
