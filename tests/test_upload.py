"""Large bodies, read while they arrive: however they are cut, and whoever receives them."""

import hashlib
import itertools
import random
import selectors
import socket
import threading
import time
from typing import ClassVar

import pytest
import wire
from helpers import DEADLINE, ENGINES, serving, wait_until

from fastfcgi.constants import FILTER, RESPONDER, STDIN

DATA = random.Random(8).randbytes(3 * 1024 * 1024 + 77)
CHUNKS = [1, 5, 4095, 4096, 4097, 8184, 32768, 65528, 65535]


@pytest.fixture(params=ENGINES)
def engine(request, monkeypatch):
    monkeypatch.setattr("fastfcgi.server.Engine", ENGINES[request.param])


def digesting(environ, start_response):
    """The digest of the body, read by as much as the query says."""
    stream, digest, total = environ["wsgi.input"], hashlib.sha256(), 0
    sizes = itertools.cycle(map(int, environ["QUERY_STRING"].split(",")))
    while data := stream.read(next(sizes)):
        digest.update(data)
        total += len(data)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{total} {digest.hexdigest()}".encode()]


def expected(data):
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}".encode()


def records(request_id, data, chunks, padding=0):
    """data as STDIN, in records of these sizes in turn."""
    sizes, position, made = itertools.cycle(chunks), 0, []
    while position < len(data):
        size = next(sizes)
        made.append(
            wire.record(STDIN, request_id, data[position : position + size], bytes(padding))
        )
        position += size
    return b"".join(made)


def upload(data, chunks, reads, request_id=1, padding=0, length=True):
    more = {"CONTENT_LENGTH": str(len(data))} if length else {}
    params = wire.cgi_params("POST", QUERY_STRING=reads, **more)
    return (
        wire.begin_request(request_id, RESPONDER, True)
        + wire.params(request_id, params)
        + records(request_id, data, chunks, padding)
        + wire.stdin(request_id)
    )


@pytest.mark.parametrize("reads", ["65536", "8192", "100,70000", "1000000", "-1"])
@pytest.mark.parametrize("chunks", [[size] for size in CHUNKS[2:]] + [CHUNKS])
def test_every_size_of_records_and_of_reads(chunks, reads):
    with serving(digesting, body_start=1000) as web, web.peer() as peer:
        for number, padding in ((1, 0), (2, 255)):
            peer.send(upload(DATA, chunks, reads, number, padding, length=number == 1))
            assert peer.receive_end(number).body == expected(DATA)


def test_on_every_kind_of_engine(engine):
    with serving(digesting, threads=2, body_start=1000) as web, web.peer() as peer:
        for number in range(1, 4):
            peer.send(upload(DATA, [32768], "65536", number))
            assert peer.receive_end(number).body == expected(DATA)


@pytest.mark.parametrize("pieces", [1000, 70_000])
def test_one_that_comes_in_bits(pieces):
    """Both kinds of waiting: by the application's thread for a moment, and by whoever polls."""
    data = DATA[: 60 * pieces]
    sent = upload(data, [8184], "65536")
    with serving(digesting, threads=1, body_start=1000) as web, web.peer() as peer:
        for number, start in enumerate(range(0, len(sent), pieces)):
            peer.send(sent[start : start + pieces])
            threading.Event().wait(0.03 if number % 7 == 0 else 0.001)
        assert peer.receive_end().body == expected(data)


def test_many_at_once():
    with serving(digesting, threads=8, body_start=1000) as web:
        peers = [web.peer() for _ in range(8)]
        threads = [
            threading.Thread(target=peer.send, args=(upload(DATA, [size], "65536"),))
            for peer, size in zip(peers, itertools.cycle([8184, 65528]))
        ]
        for thread in threads:
            thread.start()
        for peer, thread in zip(peers, threads, strict=True):
            thread.join(DEADLINE)
            assert peer.receive_end().body == expected(DATA)
            peer.close()


def test_side_by_side_on_one_connection():
    first, second = DATA[:500_001], DATA[1_000_000:]
    one, two = (
        [wire.record(STDIN, number, data[i : i + 9000]) for i in range(0, len(data), 9000)]
        for number, data in ((1, first), (2, second))
    )
    mixed = [part for pair in itertools.zip_longest(one, two) for part in pair if part]
    with serving(digesting, threads=4, body_start=1000) as web, web.peer() as peer:
        for number in (1, 2):
            params = wire.cgi_params("POST", QUERY_STRING="65536")
            peer.send(wire.begin_request(number, RESPONDER, True) + wire.params(number, params))
        peer.send(b"".join(mixed) + wire.stdin(1) + wire.stdin(2))
        assert peer.receive_end(1).body == expected(first)
        assert peer.receive_end(2).body == expected(second)


def test_another_request_of_the_connection_need_not_wait_for_the_next_read():
    pulling = Pulling()

    def app(environ, start_response):
        if environ["REQUEST_METHOD"] == "POST":
            return pulling(environ, start_response)
        start_response("200 OK", [])
        return [b"another"]

    with serving(app, threads=4, body_start=1000) as web, web.peer() as peer:
        sent = upload(DATA, [32768], "")
        half = len(sent) - len(records(1, DATA[40 * 32768 :], [32768]) + wire.stdin(1))
        peer.send(sent[:half])
        peer.send(sent[half : half + 10 * (32768 + 8)])
        assert pulling.read.wait(DEADLINE)
        peer.send(wire.request(2, wire.cgi_params(), keep_conn=True))
        assert peer.receive_end(2).body == b"another"
        pulling.go.set()
        peer.send(sent[half + 10 * (32768 + 8) :])
        assert peer.receive_end(1).body == b"read"


def test_what_goes_beyond_content_length_is_cut():
    params = wire.cgi_params("POST", QUERY_STRING="65536", CONTENT_LENGTH="2000000")
    with serving(digesting, body_start=1000) as web, web.peer() as peer:
        peer.send(wire.begin_request(1, RESPONDER, True) + wire.params(1, params))
        peer.send(records(1, DATA, [30_000]) + wire.stdin(1))
        assert peer.receive_end().body == expected(DATA[:2_000_000])
        peer.send(upload(DATA, [30_000], "65536", 2))
        assert peer.receive_end(2).body == expected(DATA)


class Telling(selectors.DefaultSelector):
    """Notes whose bytes it tells of."""

    told: ClassVar[list[int]] = []

    def select(self, timeout=None):
        ready = super().select(timeout)
        self.told.extend(key.fd for key, mask in ready if mask & selectors.EVENT_READ)
        return ready


@pytest.mark.skipif("turns" not in ENGINES, reason="without a GIL every thread polls")
def test_nobody_else_receives_a_body_while_its_application_reads_it(monkeypatch):
    monkeypatch.setattr("fastfcgi.server.Engine", ENGINES["selector"])
    monkeypatch.setattr("selectors.DefaultSelector", Telling)
    counts = []

    def app(environ, start_response):
        stream = environ["wsgi.input"]
        time.sleep(0.1)  # until all is here that is taken in before it is read
        before = len(Telling.told)
        for _ in range(4):
            assert stream.read(65536)
            time.sleep(0.005)
        counts.append(len(Telling.told) - before)
        start_response("200 OK", [])
        return [b"read"]

    for _ in range(5):
        # A thread that gets no processor for long may be taken for one that does not read.
        with serving(app, threads=2) as web, web.peer() as peer:
            sender = threading.Thread(target=peer.send, args=(upload(DATA, [32768], ""),))
            sender.start()
            peer.receive_end(1)
            sender.join()
        if counts[-1] == 0:
            break
    assert counts[-1] == 0, counts


class Pulling:
    """An application that has read a good part of its body and goes on when it is told to."""

    def __init__(self):
        self.read, self.go = threading.Event(), threading.Event()
        self.error = None

    def __call__(self, environ, start_response):
        stream = environ["wsgi.input"]
        stream.read(1_500_000)
        self.read.set()
        assert self.go.wait(DEADLINE)
        try:
            while stream.read(65536):
                pass
        except OSError as error:
            self.error = error
            raise
        start_response("200 OK", [])
        return [b"read"]


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="only they tell that all is closed")
@pytest.mark.parametrize("when", ["before", "while"])
def test_a_web_server_that_goes_away_in_the_middle(when, tmp_path):
    app = Pulling()
    options = {"threads": 2, "body_start": 1000, "bind": f"unix:{tmp_path}/socket"}
    with serving(app, **options) as web, web.peer() as peer:
        peer.send(upload(DATA, [32768], "")[:2_000_000])
        assert app.read.wait(DEADLINE)
        if when == "before":
            peer.close()
            wait_until(lambda: not web.server.channels)  # noticed though nobody reads
            app.go.set()
        else:
            app.go.set()
            threading.Event().wait(0.05)
            peer.close()
        wait_until(lambda: not web.server.channels)
        wait_until(lambda: app.error is not None)
        assert type(app.error).__name__ == "RequestAborted"


def test_an_abort_in_the_middle():
    app = Pulling()
    with serving(app, threads=2, body_start=1000) as web, web.peer() as peer:
        # All but the end of the stream: no record can come within another.
        peer.send(upload(DATA, [32768], "", length=False)[: -len(wire.stdin(1))])
        assert app.read.wait(DEADLINE)
        app.go.set()
        threading.Event().wait(0.05)
        peer.send(wire.abort(1))
        assert peer.receive_end().ended
        wait_until(lambda: app.error is not None)
        peer.send(upload(DATA, [30_000], "", 2))
        assert peer.receive_end(2).body == b"read"


def test_a_stop_in_the_middle_waits_for_it():
    app = Pulling()
    with serving(app, threads=2, body_start=1000) as web, web.peer() as peer:
        sent = upload(DATA, [32768], "")
        peer.send(sent[:2_000_000])
        assert app.read.wait(DEADLINE)
        web.server.stop()
        wait_until(lambda: web.server._stopping_until is not None)
        app.go.set()
        peer.send(sent[2_000_000:])
        assert peer.receive_end().body == b"read"


def test_a_body_that_does_not_go_on_is_aborted():
    app = Pulling()
    app.go.set()
    with serving(app, threads=2, body_start=1000, body_timeout=0.5) as web, web.peer() as peer:
        peer.send(upload(DATA, [32768], "")[:2_000_000])
        assert app.read.wait(DEADLINE)
        wait_until(lambda: app.error is not None)
        assert peer.receive_close()


def test_an_application_that_does_not_read_is_not_taken_for_a_web_server_that_does_not_send():
    app = Pulling()
    with serving(app, threads=2, body_start=1000, body_timeout=0.3) as web, web.peer() as peer:
        sender = threading.Thread(target=peer.send, args=(upload(DATA, [32768], ""),))
        sender.start()
        assert app.read.wait(DEADLINE)
        threading.Event().wait(1.0)
        app.go.set()
        sender.join(DEADLINE)
        assert peer.receive_end().body == b"read"


def filtering(environ, start_response):
    """The digests of what the query says in its order: DATA or STDIN."""
    streams = {"data": environ["fastfcgi.data"], "stdin": environ["wsgi.input"]}
    digests = [
        hashlib.sha256(streams[name].read()).hexdigest()
        for name in environ["QUERY_STRING"].split(",")
    ]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [" ".join(digests).encode()]


@pytest.mark.parametrize("order", ["data", "data,stdin", "stdin,data"])
def test_a_filter_that_reads_its_data_before_a_large_body(order):
    """DATA comes after all of STDIN, so that must not wait to be read (spec 6.4)."""
    sent = {"stdin": DATA, "data": DATA[::-1]}
    params = wire.cgi_params("POST", QUERY_STRING=order, CONTENT_LENGTH=str(len(DATA)))
    options = {"roles": (FILTER,), "graceful_timeout": 1}
    with serving(filtering, **options) as web, web.peer() as peer:
        for number in (1, 2):
            peer.send(
                wire.begin_request(number, FILTER, True)
                + wire.params(number, params)
                + wire.stdin(number, sent["stdin"])
                + wire.data_stream(number, sent["data"])
            )
            expected = [hashlib.sha256(sent[name]).hexdigest() for name in order.split(",")]
            assert peer.receive_end(number).body.decode().split() == expected
