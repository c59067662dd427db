"""The connections of the load generator: kept and closed, by either side, and what fails."""

import errno
import os
import socket
import sys
import threading
import time

import pytest
import reference_codec as codec
import wire
from load_server import (
    BIG,
    CONTENT,
    KEPT,
    RIGHT,
    UNKEPT,
    Server,
    always,
    failure,
    listening,
    load,
    once,
    requests_of,
    wait_until_read,
)
from load_server import path as path  # a fixture
from scripted import END, Peer, stdout

from fastfcgi import _load, constants
from fastfcgi._load import Lane, LaneResult

SO_SNDBUFFORCE = 32  # of Linux; the socket module does not have it


# ------------------------------------------------------------------ requests and connections


@pytest.mark.parametrize("expected", [None, CONTENT])
@pytest.mark.parametrize("connections", [1, 3])
def test_kept(path: str, connections: int, expected: bytes | None) -> None:
    lane = Lane(KEPT, connections, expected=expected)
    result, server = load(path, always(RIGHT), lane, requests=20)
    assert (result.requests, result.errors, result.examples) == (20, {}, {})
    assert result.connects == len(server.peers) == connections
    assert result.bytes_received == 20 * len(RIGHT)


def test_a_connection_for_each(path: str) -> None:
    lane = Lane(UNKEPT, 3, keep_conn=False)
    result, server = load(path, once(RIGHT), lane, requests=20)
    assert (result.requests, result.errors) == (20, {})
    assert result.connects == len(server.peers) == 20


def test_a_connection_for_each_is_closed_by_whoever(path: str) -> None:
    """Here by the client, because the server keeps it."""
    lane = Lane(UNKEPT, 2, keep_conn=False)
    result, server = load(path, always(RIGHT), lane, requests=20)
    assert (result.requests, result.errors, len(server.peers)) == (20, {}, 20)


def test_what_is_sent(path: str) -> None:
    """The bytes of the request, and all of it each time."""
    seen: list[list[tuple[int, int, bytes]]] = []

    def script(peer: Peer) -> None:
        for records in requests_of(peer):
            seen.append(records)
            peer.send(RIGHT)

    load(path, script)
    expected = [(t, i, bytes(c)) for t, i, c in codec.RecordReader().feed(KEPT)]
    assert seen == [expected] * 5


def test_another_request_id(path: str) -> None:
    lane = Lane(wire.request(0x0203, keep_conn=True), 1, expected=CONTENT)
    answer = wire.stream(constants.STDOUT, 0x0203, CONTENT)
    answer += codec.encode_end_request(0x0203, 0, 0)

    def script(peer: Peer) -> None:
        for _ in range(2):
            peer.records.clear()
            peer.receive(lambda peer: (constants.STDIN, 0x0203, b"") in peer.records)
            peer.send(answer)

    result, _ = load(path, script, lane, requests=2)
    assert (result.requests, result.errors) == (2, {})


def test_more_connections_than_requests(path: str) -> None:
    result, server = load(path, always(RIGHT), Lane(KEPT, 10), requests=3)
    assert (result.requests, result.connects, len(server.peers)) == (3, 3, 3)


@pytest.mark.parametrize("keep_conn", [True, False])
def test_pause(path: str, keep_conn: bool) -> None:
    lane = Lane(KEPT, 2, keep_conn, pause=0.03)
    result, server = load(path, always(RIGHT), lane, requests=10)
    assert (result.requests, result.errors) == (10, {})
    assert result.seconds >= 0.03 * 4
    assert len(server.peers) == (2 if keep_conn else 10)


def test_a_connection_that_is_closed_in_a_pause(path: str) -> None:
    lane = Lane(KEPT, 2, pause=0.03)
    result, server = load(path, once(RIGHT), lane, requests=10)
    assert (result.requests, result.errors, len(server.peers)) == (10, {}, 10)


# -------------------------------------------------------------------------------- large ones


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's SO_SNDBUFFORCE")
def test_more_than_is_read_in_one_go(path: str) -> None:
    """All of it has arrived before the first byte is read, so that nothing more happens that
    could tell of it."""
    content = BIG * 5
    go, sent = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        for _ in requests_of(peer):
            assert go.wait(wire.DEADLINE)
            peer.sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 100_000_000)
            peer.send(stdout(content) + END)
            sent.set()

    def progress(results: list[LaneResult]) -> None:
        go.set()
        assert sent.wait(wire.DEADLINE)

    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 100_000_000)
        except PermissionError:
            pytest.skip("only root may have such a large buffer")
    lane = Lane(KEPT, 1, expected=content)
    result, _ = load(path, script, lane, requests=1, progress=progress)
    assert (result.requests, result.errors) == (1, {})


def test_an_answer_without_end(path: str) -> None:
    """One that comes as fast as it is read is no reason to forget the time."""

    def script(peer: Peer) -> None:
        block = stdout(CONTENT + bytes(60000)) * 20
        for _ in requests_of(peer):
            while True:
                peer.send(block)

    assert failure(path, script, requests=1, timeout=0.3) == ("timeout", "")


@pytest.mark.parametrize("keep_conn", [True, False])
def test_uploads_that_are_read_slowly(path: str, keep_conn: bool) -> None:
    seen: list[bool] = []

    def script(peer: Peer) -> None:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for records in requests_of(peer):
            body = b"".join(content for kind, _, content in records if kind == constants.STDIN)
            seen.append(body == BIG)
            peer.send(RIGHT)

    request = wire.request(body=BIG, keep_conn=keep_conn)
    lane = Lane(request, 2, keep_conn, expected=CONTENT)
    result, server = load(path, script, lane, requests=6)
    assert (result.requests, result.errors, seen) == (6, {}, [True] * 6)
    assert len(server.peers) == (2 if keep_conn else 6)


def test_an_answer_while_the_request_is_sent(path: str) -> None:
    """The server sends more than a socket holds before it reads on."""
    content = BIG[:1_000_000]

    def script(peer: Peer) -> None:
        while True:
            peer.records.clear()
            peer.receive(lambda peer: peer.stream(constants.STDIN))
            if peer.eof:
                return
            peer.send(stdout(content))
            peer.receive_request()
            peer.send(END)

    lane = Lane(wire.request(body=BIG, keep_conn=True), 2, expected=content)
    result, server = load(path, script, lane, requests=6)
    assert (result.requests, result.errors, len(server.peers)) == (6, {}, 2)


@pytest.mark.parametrize("closes", [True, False])
def test_an_answer_before_the_request_was_read(path: str, closes: bool) -> None:
    """It counts; the connection cannot be used for another request."""

    def script(peer: Peer) -> None:
        peer.receive(lambda peer: peer.stream(constants.STDIN))
        peer.send(RIGHT)
        if not closes:
            wait_until_read(peer.sock)  # before more of the request is
            peer.receive_close()

    lane = Lane(wire.request(body=BIG, keep_conn=True), 1, expected=CONTENT)
    result, server = load(path, script, lane)
    # A unix socket that is closed with something unread is reset, which may overtake the answer.
    if not closes:
        assert (result.requests, result.errors, len(server.peers)) == (5, {}, 5)
    assert result.requests + result.errors.get("closed early", 0) == 5


@pytest.mark.skipif(sys.platform != "linux", reason="what a socket says that is half closed")
def test_an_answer_of_a_server_that_reads_no_more(path: str) -> None:
    """Sending fails, but the answer is there."""

    def script(peer: Peer) -> None:
        peer.receive(lambda peer: peer.stream(constants.STDIN))
        if not peer.eof:
            peer.send(RIGHT)
            peer.sock.shutdown(socket.SHUT_RD)
            wait_until_read(peer.sock)

    lane = Lane(wire.request(body=BIG, keep_conn=True), 1, expected=CONTENT)
    result, _ = load(path, script, lane, requests=30)
    assert (result.requests, result.errors, result.connects) == (30, {}, 30)


# ----------------------------------------------------------------- kept connections that end


def test_a_server_that_closes_kept_connections(path: str) -> None:
    result, server = load(path, once(RIGHT), Lane(KEPT, 2, expected=CONTENT), requests=20)
    assert (result.requests, result.errors) == (20, {})
    assert len(server.peers) >= 20  # one that was closed behind the answer may be used once more


def test_a_kept_connection_that_is_closed_when_it_is_used_again(path: str) -> None:
    """That is no error, as it may have crossed with a timeout of the server."""

    def script(peer: Peer) -> None:
        for _ in range(2):
            peer.records.clear()
            peer.receive_request()
            if peer.has_request():
                peer.send(RIGHT)
        peer.records.clear()
        peer.receive_request()

    result, _ = load(path, script, requests=7)
    assert (result.requests, result.errors, result.connects) == (7, {}, 4)


def test_a_kept_connection_that_ends_in_an_answer(path: str) -> None:
    def script(peer: Peer) -> None:
        for number, _ in enumerate(requests_of(peer)):
            peer.send(RIGHT if number == 0 else RIGHT[:9])
            if number:
                return

    result, _ = load(path, script, requests=4)
    assert (result.requests, result.errors) == (2, {"closed early": 2})


def test_a_wrong_answer_does_not_end_the_connection(path: str) -> None:
    def script(peer: Peer) -> None:
        for number, _ in enumerate(requests_of(peer)):
            peer.send(stdout(b"x" + CONTENT if number % 2 else CONTENT) + END)

    result, server = load(path, script, Lane(KEPT, 1, expected=CONTENT), requests=10)
    assert (result.requests, result.errors) == (5, {"different answer": 5})
    assert len(server.peers) == 1


# ------------------------------------------------------------------------- servers that fail


@pytest.mark.parametrize("length", [0, 1, 8, 30, len(RIGHT) - 1])
@pytest.mark.parametrize("keep_conn", [True, False])
def test_closed_early(path: str, length: int, keep_conn: bool) -> None:
    lane = Lane(KEPT if keep_conn else UNKEPT, 1, keep_conn)
    reason, example = failure(path, once(RIGHT[:length]), lane)
    assert (reason, example) == ("closed early", "")


def test_reset(path: str) -> None:
    """Closed with something unread."""

    def script(peer: Peer) -> None:
        peer.sock.recv(1)

    reason, example = failure(path, script)
    assert reason == "closed early"
    assert example in ("", os.strerror(errno.ECONNRESET))


@pytest.mark.parametrize("keep_conn", [True, False])
@pytest.mark.parametrize("answer", [b"", RIGHT[:-1]])
def test_never_answered(path: str, keep_conn: bool, answer: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.receive_request()
        peer.send(answer)
        peer.receive_close()

    lane = Lane(KEPT, 2, keep_conn)
    assert failure(path, script, lane, requests=2, timeout=0.1) == ("timeout", "")


def test_a_kept_connection_is_not_used_after_a_timeout(path: str) -> None:
    """Its answer may still come, and would be taken for that of the next request."""
    late = threading.Event()

    def script(peer: Peer) -> None:
        for _ in requests_of(peer):
            if not late.is_set():
                late.set()
                peer.receive_close()
                peer.sock.close()
                return
            peer.send(RIGHT)

    result, server = load(path, script, requests=3, timeout=1.0)
    assert (result.requests, result.errors, len(server.peers)) == (2, {"timeout": 1}, 2)


def test_a_run_that_only_fails_ends(path: str) -> None:
    """A million requests, each of which takes a timeout: the lane gives up."""
    result, _ = load(path, Peer.receive_close, Lane(KEPT, 3), requests=1_000_000, timeout=0.1)
    assert result.requests == 0
    assert set(result.errors) == {"timeout"}
    assert 3 <= result.errors["timeout"] <= 12


def test_nobody_there(path: str) -> None:
    (result,) = _load.run(path, [Lane(KEPT, 2)], requests=4)
    assert (result.requests, result.errors, result.connects) == (0, {"connect failed": 4}, 0)
    assert result.examples == {"connect failed": "No such file or directory"}
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
    (result,) = _load.run(address, [Lane(KEPT, 2)], requests=4)
    assert result.errors == {"connect failed": 4}
    assert result.examples == {"connect failed": "Connection refused"}


def test_nobody_there_is_not_asked_without_a_pause(path: str) -> None:
    (result,) = _load.run(path, [Lane(KEPT, 2)], seconds=0.1)
    assert 2 <= result.errors["connect failed"] <= 2 * 11  # one in 10 ms


def test_nobody_there_any_more(path: str) -> None:
    def script(peer: Peer) -> None:
        server.close()
        once(RIGHT)(peer)

    with listening(path) as server, Server(script, server):
        (result,) = _load.run(path, [Lane(KEPT, 1)], seconds=0.1)
    assert result.requests >= 1
    assert set(result.errors) == {"connect failed"}


def test_a_time_limit_holds_however_requests_end(path: str) -> None:
    began = time.monotonic()
    (result,) = _load.run(path, [Lane(KEPT, 100)], seconds=0.1, timeout=wire.DEADLINE)
    assert time.monotonic() - began < wire.DEADLINE
    assert set(result.errors) == {"connect failed"}


@pytest.mark.skipif(sys.platform != "linux", reason="others refuse when the queue is full")
def test_a_full_queue_of_connections(path: str) -> None:
    """It is waited for, which is no error."""
    with Server(once(RIGHT), listening(path, backlog=0)):
        lane = Lane(UNKEPT, 40, keep_conn=False)
        (result,) = _load.run(path, [lane], requests=400, timeout=wire.DEADLINE)
    assert (result.requests, result.errors) == (400, {})


@pytest.mark.skipif(sys.platform != "linux", reason="others refuse when the queue is full")
def test_a_queue_of_connections_that_stays_full(path: str) -> None:
    with listening(path, backlog=3):
        (result,) = _load.run(path, [Lane(KEPT, 10)], requests=10, timeout=0.2)
    assert result.errors == {"timeout": 4, "connect failed": 6}
    assert result.examples["connect failed"] == "Resource temporarily unavailable"
