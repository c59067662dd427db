"""The load generator, against servers that say exactly what a test wants to be said."""

import contextlib
import errno
import os
import random
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import reference_codec as codec
import wire
from scripted import END, Peer, Script, stdout

from fastfcgi import constants
from fastfcgi.exceptions import ConfigurationError

_load = pytest.importorskip("fastfcgi._load", reason="the load generator needs POSIX")

from fastfcgi._load import Lane, LaneResult  # noqa: E402

KEPT = wire.request(keep_conn=True)
UNKEPT = wire.request()
CONTENT = b"Status: 200 OK\r\nContent-Type: text/plain\r\n\r\nHello"
RIGHT = stdout(CONTENT) + END
BIG = random.Random(1).randbytes(3_000_000)
SO_SNDBUFFORCE = 32  # of Linux; the socket module does not have it
REASONS = {
    "connect failed",
    "timeout",
    "closed early",
    "protocol error",
    "request refused",
    "wrong app_status",
    "wrong status",
    "no response header",
    "different answer",
}


@pytest.fixture
def path() -> Iterator[str]:
    """Where a unix socket can be; short enough for one."""
    with tempfile.TemporaryDirectory(prefix="fastfcgi-") as folder:
        yield f"{folder}/s"


class Server:
    """Runs a script for every connection, each in a thread; ended by the with block.

    Attributes:
        peers: One for each connection that came.
    """

    def __init__(self, script: Script, listener: socket.socket) -> None:
        self.peers: list[Peer] = []
        self.errors: list[BaseException] = []
        self._script = script
        self._listener = listener
        self._threads = [threading.Thread(target=self._accept)]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # the end
                return
            sock.settimeout(wire.DEADLINE)
            self.peers.append(Peer(sock))
            self._threads.append(threading.Thread(target=self._serve, args=(self.peers[-1],)))
            self._threads[-1].start()

    def _serve(self, peer: Peer) -> None:
        with peer.sock:
            try:
                self._script(peer)
            except ConnectionError:
                pass  # the client had enough
            except BaseException as error:
                self.errors.append(error)

    def __enter__(self) -> "Server":
        self._threads[0].start()
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()
        if self.errors:
            raise self.errors[0]


def listening(path: str, backlog: int = 128) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(backlog)
    return sock


def requests_of(peer: Peer) -> Iterator[list[tuple[int, int, bytes]]]:
    """The records of each request that comes over a connection, until the client closes it."""
    while True:
        peer.records.clear()
        peer.receive_request()
        if not peer.has_request():
            return
        yield list(peer.records)


def always(*parts: bytes) -> Script:
    """Answer every request of a connection with these parts, none before the last was read."""

    def script(peer: Peer) -> None:
        for _ in requests_of(peer):
            for part in parts:
                wait_until_read(peer.sock)
                peer.send(part)

    return script


def wait_until_read(sock: socket.socket) -> None:
    """So that what is sent next does not arrive together with what was sent before."""
    if sys.platform != "linux":
        time.sleep(0.001)
        return
    import fcntl
    import termios

    while struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]:
        time.sleep(0)


def once(answer: bytes) -> Script:
    """Answer the first request with this, and close."""

    def script(peer: Peer) -> None:
        for _ in requests_of(peer):
            peer.send(answer)
            return

    return script


def load(
    path: str, script: Script, lane: Lane | None = None, requests: int | None = 5, **options: Any
) -> tuple[LaneResult, Server]:
    """One lane against a server with that script."""
    options = {"timeout": wire.DEADLINE, **options}
    with Server(script, listening(path)) as server:
        (result,) = _load.run(path, [lane or Lane(KEPT, 1)], requests=requests, **options)
    return result, server


def failure(path: str, script: Script, lane: Lane | None = None, **options: Any) -> tuple[str, str]:
    """The reason and its example of a lane whose every request fails for the same."""
    options = {"requests": 3, **options}
    result, _ = load(path, script, lane, **options)
    assert result.requests == 0
    ((reason, number),) = result.errors.items()
    assert number == options["requests"]
    assert reason in REASONS
    return reason, result.examples[reason]


# ------------------------------------------------------------------------- right answers


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


# ---- however they come


@pytest.mark.parametrize("expected", [None, CONTENT])
def test_byte_by_byte(path: str, expected: bytes | None) -> None:
    answer = wire.record(constants.STDERR, 1, b"oh", b"pad")
    answer += wire.record(constants.STDOUT, 1, CONTENT, bytes(5))
    answer += wire.record(constants.STDOUT, 1)
    answer += wire.record(constants.END_REQUEST, 1, bytes(8), b"pad")
    lane = Lane(KEPT, 1, expected=expected)
    parts = [answer[at : at + 1] for at in range(len(answer))]
    result, _ = load(path, always(*parts), lane, requests=3)
    assert (result.requests, result.errors) == (3, {})


@pytest.mark.parametrize("expected", [None, CONTENT])
def test_cut_anywhere(path: str, expected: bytes | None) -> None:
    answer = stdout(CONTENT[:20]) + stdout(CONTENT[20:]) + END
    cuts = iter(range(1, len(answer)))

    def script(peer: Peer) -> None:
        for _ in requests_of(peer):
            cut = next(cuts)
            peer.send(answer[:cut])
            wait_until_read(peer.sock)
            peer.send(answer[cut:])

    lane = Lane(KEPT, 1, expected=expected)
    result, _ = load(path, script, lane, requests=len(answer) - 1)
    assert (result.requests, result.errors) == (len(answer) - 1, {})


def test_every_padding(path: str) -> None:
    lengths = iter(range(256))

    def script(peer: Peer) -> None:
        for _ in requests_of(peer):
            padding = b"\xff" * next(lengths)
            peer.send(wire.record(constants.STDOUT, 1, CONTENT, padding))
            peer.send(wire.record(constants.STDOUT, 1, b"", padding))
            peer.send(wire.record(constants.END_REQUEST, 1, bytes(8), padding))

    result, _ = load(path, script, Lane(KEPT, 1, expected=CONTENT), requests=256)
    assert (result.requests, result.errors) == (256, {})


def test_stderr_in_between(path: str) -> None:
    noise = wire.stream(constants.STDERR, 1, b"trouble" * 100, end=False)
    answer = noise + stdout(CONTENT[:7]) + noise + stdout(CONTENT[7:]) + noise
    answer += wire.record(constants.STDERR, 1) + wire.record(constants.STDOUT, 1) + END
    result, _ = load(path, always(answer), Lane(KEPT, 1, expected=CONTENT))
    assert (result.requests, result.errors) == (5, {})


def test_management_records_are_passed_over(path: str) -> None:
    record = codec.encode_record(constants.UNKNOWN_TYPE, 0, bytes(8))
    lane = Lane(KEPT, 1, expected=CONTENT)
    for parts in (
        [record + RIGHT + record],
        [record[:4], record[4:] + RIGHT + record[:4], record[4:]],
    ):
        result, _ = load(path, always(*parts), lane)
        assert (result.requests, result.errors) == (5, {})
        Path(path).unlink()


@pytest.mark.parametrize("size", [1, 65535, 65536, 262144 - 24, 3_000_000])
def test_large_answers(path: str, size: int) -> None:
    content = BIG[:size]
    lane = Lane(KEPT, 2, expected=content)
    result, _ = load(path, always(stdout(content) + END), lane, requests=6)
    assert (result.requests, result.errors) == (6, {})
    assert result.bytes_received == 6 * len(stdout(content) + END)


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


# ---- large requests


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


# ---- kept connections that are closed


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


# ------------------------------------------------------------------------- wrong answers


@pytest.mark.parametrize(
    ("answer", "common"),
    [
        (b"x" + CONTENT[1:], 0),
        (CONTENT[:-1] + b"x", len(CONTENT) - 1),
        (CONTENT[:-1], len(CONTENT) - 1),
        (CONTENT + b"x", len(CONTENT)),
        (CONTENT + CONTENT, len(CONTENT)),
        (b"", 0),
    ],
    ids=["first byte", "last byte", "short", "long", "twice", "empty"],
)
def test_a_different_answer(path: str, answer: bytes, common: int) -> None:
    expected = ("different answer", f"from byte {common} of STDOUT on")
    lane = Lane(KEPT, 1, expected=CONTENT)
    assert failure(path, always(stdout(answer) + END), lane) == expected
    parts = [stdout(answer[at : at + 1]) for at in range(len(answer))]
    Path(path).unlink()
    assert failure(path, always(*parts, END), lane) == expected


def test_a_different_byte_in_a_large_answer(path: str) -> None:
    answer = bytearray(BIG)
    answer[2_222_222] ^= 1
    found = failure(path, always(stdout(bytes(answer)) + END), Lane(KEPT, 1, expected=BIG))
    assert found == ("different answer", "from byte 2222222 of STDOUT on")


def test_a_wrong_answer_does_not_end_the_connection(path: str) -> None:
    def script(peer: Peer) -> None:
        for number, _ in enumerate(requests_of(peer)):
            peer.send(stdout(b"x" + CONTENT if number % 2 else CONTENT) + END)

    result, server = load(path, script, Lane(KEPT, 1, expected=CONTENT), requests=10)
    assert (result.requests, result.errors) == (5, {"different answer": 5})
    assert len(server.peers) == 1


def test_no_answer_but_an_end(path: str) -> None:
    assert failure(path, always(END)) == ("no response header", "")
    Path(path).unlink()
    assert failure(path, always(stdout(CONTENT[:-7]) + END))[0] == "no response header"
    Path(path).unlink()
    result, _ = load(path, always(END), Lane(KEPT, 1, expected=b""))
    assert result.requests == 5


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("Status: 404 Not Found\r\nA: b\r\n\r\n", 404),
        ("A: b\r\nstatus:404\n\n", 404),
        ("A: b\n" + "B: " + "c" * 200 + "\nSTATUS:   500\n\n", 500),
        ("Status: 99\r\n\r\n", 0),
        ("Status: 2000\r\n\r\n", 0),
        ("Status: none\r\n\r\n", 0),
        ("Status:" + " " * 30 + "200\r\n\r\n", 0),
        ("X" * 10 + "4X\nStatus: 40\n\n", 0),
        ("A: b\r\n\r\nStatus: 404\r\n\r\n", None),
        ("X-Status: 404\r\nStatus: 302 Found\r\n\r\n", None),
        ("\r\n", None),
        ("\n", None),
    ],
)
def test_http_status(path: str, head: str, status: int | None) -> None:
    answer = stdout(head.encode() + b"Status: 404\r\n\r\n") + END
    parts = [answer[at : at + 1] for at in range(len(answer))]
    for script in (always(answer), always(*parts)):
        if status is None:
            assert load(path, script)[0].requests == 5
        else:
            assert failure(path, script) == ("wrong status", f"status {status}")
        Path(path).unlink()


@pytest.mark.parametrize(("asked", "right"), [(0, 3), (204, 3), (200, 0), (404, 0)])
def test_the_only_right_status(path: str, asked: int, right: int) -> None:
    answer = stdout(b"Status: 204 No Content\r\n\r\n") + END
    result, _ = load(path, always(answer), Lane(KEPT, 1, status=asked), requests=3)
    assert (result.requests, result.errors.get("wrong status", 0)) == (right, 3 - right)


@pytest.mark.parametrize("app_status", [1, 256, 0x80000000, 0xFFFFFFFF])
def test_app_status(path: str, app_status: int) -> None:
    answer = stdout(CONTENT) + codec.encode_end_request(1, app_status, 0)
    assert failure(path, always(answer)) == ("wrong app_status", f"app_status {app_status}")


@pytest.mark.parametrize("protocol_status", [1, 2, 3, 255])
@pytest.mark.parametrize("content", [b"", CONTENT])
def test_refused(path: str, protocol_status: int, content: bytes) -> None:
    answer = stdout(content) + codec.encode_end_request(1, 0, protocol_status)
    for expected in (None, CONTENT, b"other"):
        found = failure(path, always(answer), Lane(KEPT, 1, expected=expected))
        assert found == ("request refused", f"protocol_status {protocol_status}")
        Path(path).unlink()


STDOUT_END = wire.record(constants.STDOUT, 1)
STDERR_END = wire.record(constants.STDERR, 1)


@pytest.mark.parametrize(
    ("answer", "example"),
    [
        (wire.record(constants.STDOUT, 1, CONTENT, version=2), "version"),
        (wire.record(constants.STDOUT, 2, CONTENT), "request_id"),
        (wire.record(constants.STDOUT, 257, CONTENT), "request_id"),
        (wire.record(constants.STDIN, 1, CONTENT), "type"),
        (wire.record(12, 1, CONTENT), "type"),
        (stdout(CONTENT) + codec.encode_end_request(2, 0, 0), "request_id"),
        (STDOUT_END + RIGHT, "after its end"),
        (STDOUT_END + STDOUT_END, "after its end"),
        (STDERR_END + STDERR_END, "after its end"),
        (RIGHT + stdout(b"x"), "after END_REQUEST"),
        (RIGHT + END, "after END_REQUEST"),
        (wire.record(constants.END_REQUEST, 1, bytes(7)), "8 bytes"),
        (wire.record(constants.END_REQUEST, 1, bytes(16)), "8 bytes"),
        (wire.record(constants.END_REQUEST, 1), "8 bytes"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "version"),
        (random.Random(2).randbytes(4000), "version"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_protocol_errors(path: str, answer: bytes, example: str) -> None:
    def script(peer: Peer) -> None:
        always(answer)(peer)
        assert peer.eof  # the client has closed it

    reason, found = failure(path, script)
    assert reason == "protocol error"
    assert example in found


def test_any_garbage(path: str) -> None:
    """Whatever comes, each request ends with some reason."""
    chance = random.Random(3)
    good = bytes(RIGHT)

    def script(peer: Peer) -> None:
        for _ in requests_of(peer):
            answer = bytearray(good)
            for _ in range(chance.randrange(1, 4)):
                answer[chance.randrange(len(answer))] = chance.randrange(256)
            peer.send(bytes(answer))
            if chance.random() < 0.5:
                return

    lane = Lane(KEPT, 4, expected=CONTENT)
    result, _ = load(path, script, lane, requests=400, timeout=0.1, seconds=wire.DEADLINE)
    assert result.requests + sum(result.errors.values()) == 400
    assert {"protocol error", "different answer"} < set(result.errors) <= REASONS


# ------------------------------------------------------------------- servers that fail


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


# ----------------------------------------------------------------------------- addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
@pytest.mark.parametrize("keep_conn", [True, False])
def test_tcp(host: str, keep_conn: bool) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host.strip("[]"), 0), family=family)
    except OSError:
        pytest.skip(f"no {host} here")
    with Server(always(RIGHT), listener):
        address = f"{host}:{listener.getsockname()[1]}"
        lane = Lane(KEPT, 3, keep_conn, expected=CONTENT)
        (result,) = _load.run(address, [lane], requests=20, timeout=wire.DEADLINE)
    assert (result.requests, result.errors) == (20, {})


def test_tcp_with_large_messages() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with Server(always(stdout(BIG) + END), listener):
        lane = Lane(wire.request(body=BIG, keep_conn=True), 2, expected=BIG)
        (result,) = _load.run(listener.getsockname(), [lane], requests=6, timeout=wire.DEADLINE)
    assert (result.requests, result.errors) == (6, {})


def test_unix(path: str) -> None:
    with Server(always(RIGHT), listening(path)):
        for address in (path, f"unix:{path}"):
            (result,) = _load.run(address, [Lane(KEPT, 1)], requests=2, timeout=wire.DEADLINE)
            assert result.requests == 2


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_abstract() -> None:
    name = f"fastfcgi-test-{os.getpid()}"
    with Server(always(RIGHT), listening("\0" + name)):
        for address in (f"@{name}", f"unix:@{name}"):
            (result,) = _load.run(address, [Lane(KEPT, 1)], requests=2, timeout=wire.DEADLINE)
            assert result.requests == 2


def test_the_longest_path(path: str) -> None:
    folder = os.path.dirname(path)
    longest = path.ljust(107, "s")
    with Server(always(RIGHT), listening(longest)):
        (result,) = _load.run(longest, [Lane(KEPT, 1)], requests=2, timeout=wire.DEADLINE)
        assert result.requests == 2
    assert os.listdir(folder) == [os.path.basename(longest)]
    with pytest.raises(ConfigurationError, match="too long"):
        _load.run(longest + "s", [Lane(KEPT, 1)], requests=2)


@pytest.mark.parametrize("address", ["fd:3", "systemd", "nonsense", "", 3])
def test_not_an_address(address: Any) -> None:
    with pytest.raises(ConfigurationError, match="address"):
        _load.run(address, [Lane(KEPT, 1)], requests=1)


def test_an_unknown_host() -> None:
    with pytest.raises(OSError):
        _load.run("no-such-host.invalid:9000", [Lane(KEPT, 1)], requests=1)


# ------------------------------------------------------------------------------- the run


def test_until_the_time_is_up(path: str) -> None:
    result, _ = load(path, always(RIGHT), Lane(KEPT, 2), requests=None, seconds=0.2)
    assert result.requests >= 2
    assert result.errors == {}
    assert result.seconds >= 0.1


def test_whatever_comes_first(path: str) -> None:
    result, _ = load(path, always(RIGHT), Lane(KEPT, 2), requests=3, seconds=wire.DEADLINE)
    assert result.requests == 3
    Path(path).unlink()
    lane = Lane(KEPT, 2, pause=0.01)
    result, _ = load(path, always(RIGHT), lane, requests=1_000_000, seconds=0.1)
    assert 2 <= result.requests < 1000


def test_what_is_under_way_at_the_end_is_waited_for(path: str) -> None:
    def script(peer: Peer) -> None:
        for _ in requests_of(peer):
            time.sleep(0.3)
            peer.send(RIGHT)

    result, _ = load(path, script, Lane(KEPT, 2), requests=None, seconds=0.05)
    assert (result.requests, result.errors) == (2, {})
    assert result.seconds >= 0.3
    assert result.percentile(0) >= 0.3


def test_lanes_side_by_side(path: str) -> None:
    big, small = Lane(KEPT, 1, expected=BIG), Lane(UNKEPT, 2, keep_conn=False, expected=CONTENT)
    wrong = Lane(KEPT, 1, expected=CONTENT)

    def script(peer: Peer) -> None:
        for records in requests_of(peer):
            kept = codec.decode_begin_request(records[0][2])[1]
            peer.send(stdout(BIG if kept else CONTENT) + END)

    with Server(script, listening(path)):
        results = _load.run(path, [big, small, wrong], requests=10, timeout=wire.DEADLINE)
    assert [result.requests for result in results] == [10, 10, 0]
    assert [result.errors for result in results] == [{}, {}, {"different answer": 10}]
    assert [result.connects for result in results] == [1, 10, 1]


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


def test_a_pause_ends_with_the_time(path: str) -> None:
    began = time.monotonic()
    lane = Lane(KEPT, 1, pause=wire.DEADLINE)
    result, _ = load(path, always(RIGHT), lane, requests=None, seconds=0.1)
    assert result.requests == 1
    assert time.monotonic() - began < wire.DEADLINE


def test_progress(path: str) -> None:
    seen: list[int] = []

    def progress(results: list[LaneResult]) -> bool:
        seen.append(results[0].requests)
        return len(seen) >= 3 and seen[-1] > 0

    result, _ = load(path, always(RIGHT), requests=None, seconds=wire.DEADLINE, progress=progress)
    assert sorted(seen) == seen
    assert 0 < seen[-1] <= result.requests
    assert result.errors == {}


def test_an_exception_of_progress_ends_the_run(path: str) -> None:
    def progress(results: list[LaneResult]) -> bool:
        raise LookupError("as asked")

    before = descriptors()
    with pytest.raises(LookupError, match="as asked"):
        load(path, always(RIGHT), Lane(KEPT, 20), requests=None, seconds=30, progress=progress)
    assert descriptors() == before


def test_a_signal_ends_the_run(path: str) -> None:
    """Though nothing happens at the sockets."""

    def handler(*signal_and_frame: object) -> None:
        raise LookupError("a signal")

    previous = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(LookupError, match="a signal"):
            load(path, Peer.receive_close, Lane(KEPT, 2), requests=2)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def test_nothing_stays_open(path: str) -> None:
    scripts: list[Callable[[Peer], None]] = [
        *[always(RIGHT), once(RIGHT), once(RIGHT[:9]), always(b"garbage!"), always(END)],
        Peer.receive_close,
    ]
    before = descriptors()
    for script in scripts:
        for keep_conn in (True, False):
            load(path, script, Lane(KEPT, 5, keep_conn), requests=20, timeout=0.1)
            Path(path).unlink()
    _load.run(path, [Lane(KEPT, 5)], requests=20)
    assert descriptors() == before


def test_a_lane_serves_many_runs(path: str) -> None:
    """Also at once, each in a thread."""
    lane = Lane(KEPT, 2, expected=CONTENT)
    results: list[LaneResult] = []

    def go() -> None:
        results.extend(_load.run(path, [lane, lane], requests=50, timeout=wire.DEADLINE))

    with Server(always(RIGHT), listening(path)):
        threads = [threading.Thread(target=go) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [(result.requests, result.errors) for result in results] == [(50, {})] * 6


def test_too_few_descriptors(path: str) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Server(always(RIGHT), listening(path)):
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + 2, hard))
        try:
            (result,) = _load.run(path, [Lane(KEPT, 20)], requests=20, timeout=0.1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert result.errors["connect failed"] > 0
    assert result.examples["connect failed"] == "Too many open files"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"requests": 0},
        {"requests": -1},
        {"seconds": -1},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"requests": 1, "timeout": 0},
        {"requests": 1, "timeout": -1},
    ],
)
def test_runs_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        _load.run("/nowhere", [Lane(KEPT, 1)], **options)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((b"", 1), {}),
        ((KEPT[:15], 1), {}),
        ((b"\2" + KEPT[1:], 1), {}),
        ((wire.params(1, []) + KEPT, 1), {}),
        ((KEPT, 0), {}),
        ((KEPT, -1), {}),
        ((KEPT, 1), {"pause": -1}),
        ((KEPT, 1), {"pause": float("nan")}),
    ],
)
def test_lanes_that_make_no_sense(arguments: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Lane(*arguments, **options)


def test_what_is_no_lane() -> None:
    for lane in (None, "lane", KEPT):
        with pytest.raises(TypeError):
            _load.run("/nowhere", [lane], requests=1)
    for request in (None, "request", bytearray(KEPT)):
        with pytest.raises(TypeError):
            Lane(request, 1)  # type: ignore[arg-type]
    assert _load.run("/nowhere", [], requests=1) == []


# ----------------------------------------------------------------------------- latencies


def test_percentiles(path: str) -> None:
    result, _ = load(path, always(RIGHT), Lane(KEPT, 3), requests=500)
    found = [result.percentile(q) for q in (0, 1, 10, 50, 90, 99, 99.9, 100)]
    assert found == sorted(found)
    assert 0 < found[0] <= result.mean <= found[-1] == result.max
    for q in (-1, 101, float("nan")):
        with pytest.raises(ValueError):
            result.percentile(q)


@pytest.mark.parametrize("delay", [0, 0.0001, 0.003, 0.1])
def test_resolution(path: str, delay: float) -> None:
    """Of two latencies, mean and maximum tell the shorter one; it is counted 0.8 % too long at
    most, and never too short."""

    def script(peer: Peer) -> None:
        for number, _ in enumerate(requests_of(peer)):
            time.sleep(delay + number * 0.05)
            peer.send(RIGHT)

    result, _ = load(path, script, requests=2)
    shorter = 2 * result.mean - result.max
    assert shorter >= delay
    assert shorter * 0.999 <= result.percentile(50) <= shorter * 1.009
    assert result.percentile(50.1) == result.percentile(100) == result.max


def test_the_longest_need_not_be_the_last(path: str) -> None:
    def script(peer: Peer) -> None:
        for number, _ in enumerate(requests_of(peer)):
            time.sleep(0 if number else 0.1)
            peer.send(RIGHT)

    result, _ = load(path, script, requests=3)
    assert 0.1 <= result.max == result.percentile(100)


def test_percentiles_of_nothing() -> None:
    (result,) = _load.run("/nowhere/at/all", [Lane(KEPT, 1)], requests=1)
    assert (result.percentile(50), result.mean, result.max) == (0, 0, 0)
    empty = LaneResult()
    assert (empty.requests, empty.errors, empty.seconds, empty.percentile(99)) == (0, {}, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="others refuse when the queue is full")
def test_latency_includes_connecting(path: str) -> None:
    """The queue is full until somebody accepts: when progress is first told, after 0.1 s."""
    server = Server(once(RIGHT), listening(path, backlog=0))
    begun: list[Server] = []

    def progress(results: list[LaneResult]) -> None:
        if not begun:
            begun.append(server.__enter__())

    lane = Lane(UNKEPT, 1, keep_conn=False)
    with socket.socket(socket.AF_UNIX) as first:
        first.connect(path)
        (result,) = _load.run(path, [lane], requests=1, timeout=wire.DEADLINE, progress=progress)
    server.__exit__()
    assert result.requests == 1
    assert result.max >= 0.1


# --------------------------------------------------------------------------------- names


def test_reasons() -> None:
    assert set(_load.REASONS[1:]) == REASONS
