"""The FastCGI client: what it sends, and what it makes of the records that come."""

import contextlib
import io
import random
import socket
import threading
from collections.abc import Iterator

import pytest
import reference_codec as codec
import wire
from scripted import END, HEADER, PARAMS, Peer, answering, fetch, scripted, stdout

from fastfcgi import client, constants
from fastfcgi.client import (
    BadResponse,
    Client,
    RequestRefused,
)
from fastfcgi.exceptions import RemoteProtocolError

# ---------------------------------------------------------------------------- what is sent


def test_the_request_on_the_wire() -> None:
    peers: list[Peer] = []

    def script(peer: Peer) -> None:
        peers.append(peer)
        peer.receive_request()
        peer.send(stdout(HEADER) + END)

    pairs = [("A", "é"), (b"B\xff", b"\0"), ("A", "2")]
    with scripted(script) as address:
        Client(address).request(pairs, b"body", role=constants.AUTHORIZER).read()
    (peer,) = peers
    kind, request_id, begin = peer.records[0]
    assert (kind, request_id) == (constants.BEGIN_REQUEST, 1)
    assert codec.decode_begin_request(begin) == (constants.AUTHORIZER, 0)
    kinds = [kind for kind, _, _ in peer.records]
    assert kinds == sorted(kinds)  # BEGIN_REQUEST 1, PARAMS 4, STDIN 5
    expected = [(b"A", b"\xe9"), (b"B\xff", b"\0"), (b"A", b"2")]
    assert codec.decode_pairs(peer.stream(constants.PARAMS)) == expected
    assert (constants.PARAMS, 1, b"") in peer.records
    assert peer.stream(constants.STDIN) == b"body"


BIG = random.Random(1).randbytes(300_000)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", b""),
        (b"abc", b"abc"),
        (BIG, BIG),
        (bytearray(BIG), BIG),
        (memoryview(BIG), BIG),
        (io.BytesIO(BIG), BIG),
        ([b"a", b"", BIG, b""], b"a" + BIG),
        ((BIG[i : i + 7000] for i in range(0, len(BIG), 7000)), BIG),
    ],
    ids=["empty", "short", "bytes", "bytearray", "memoryview", "file", "list", "generator"],
)
def test_body_shapes(body: client.Body, expected: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.receive_request()
        sent = peer.stream(constants.STDIN)
        peer.send(stdout(HEADER) + stdout(sent) + END)

    assert fetch(script, body)[1] == expected


def test_long_params() -> None:
    value = "x" * 200_000

    def script(peer: Peer) -> None:
        peer.receive_request()
        pairs = dict(codec.decode_pairs(peer.stream(constants.PARAMS)))
        peer.send(stdout(HEADER + b"%d" % len(pairs[b"HTTP_LONG"])) + END)

    with scripted(script) as address:
        assert client.request(address, {**PARAMS, "HTTP_LONG": value}).read() == b"200000"


def test_wrong_arguments_make_no_request() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        caller = Client(listener.getsockname())
        with pytest.raises(UnicodeEncodeError):
            caller.request({"PATH_INFO": "/\u20ac"})
        with pytest.raises(TypeError):
            caller.request(PARAMS, "text")
        listener.settimeout(0)
        for _ in range(2):
            with contextlib.suppress(BlockingIOError):
                sock, _ = listener.accept()
                with sock:
                    assert sock.recv(1) == b""


def test_a_body_that_raises_hangs_up() -> None:
    seen: list[bool] = []

    def script(peer: Peer) -> None:
        peer.receive_close()
        seen.append(peer.has_request())

    def body() -> Iterator[bytes]:
        yield b"part"
        raise LookupError("gone")

    with scripted(script) as address, pytest.raises(LookupError):
        Client(address).request(PARAMS, body())
    assert seen == [False]  # the end of STDIN would have made it look complete


# ------------------------------------------------------------------------- what is received


def test_a_response() -> None:
    header = b"Status: 404 Not Here\r\nX-A: 1\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n"
    stderr = wire.stream(constants.STDERR, 1, b"oops")
    end = codec.encode_end_request(1, 7, constants.REQUEST_COMPLETE)
    response, body = fetch(answering(stderr, stdout(header + b"one"), stdout(b"two"), end))
    assert (response.status, response.reason) == (404, "Not Here")
    assert response.headers == [("X-A", "1"), ("Set-Cookie", "a"), ("Set-Cookie", "b")]
    assert response.header("set-cookie") == "a"
    assert response.header("none") is None
    assert body == b"onetwo"
    assert response.stderr == b"oops"
    assert (response.app_status, response.protocol_status) == (7, 0)


def test_blocks_come_as_they_arrive() -> None:
    go = threading.Event()

    def script(peer: Peer) -> None:
        peer.receive_request()
        peer.send(stdout(HEADER))
        for block in (b"first", b"second"):
            peer.send(stdout(block))
            assert go.wait(wire.DEADLINE)
            go.clear()
        peer.send(END)

    with scripted(script) as address:
        response = Client(address).request(PARAMS)
        assert next(response) == b"first"
        assert response.app_status is None
        go.set()
        assert next(response) == b"second"
        go.set()
        assert list(response) == []
        assert response.app_status == 0


@pytest.mark.parametrize("size", [1, 3, 9])
def test_a_response_in_small_pieces(size: int) -> None:
    whole = stdout(HEADER) + stdout(b"body" * 10) + wire.stream(constants.STDOUT, 1, b"") + END

    def script(peer: Peer) -> None:
        peer.receive_request()
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(whole), size):
            peer.send(whole[start : start + size])

    assert fetch(script)[1] == b"body" * 10


@pytest.mark.parametrize(
    ("header", "status", "reason", "headers", "body"),
    [
        (b"Content-Type: a\n\nx\n\n", 200, "OK", [("Content-Type", "a")], b"x\n\n"),
        (b"Status: 201\r\n\r\n", 201, "", [], b""),
        (b"status:  299  Odd One \r\n\r\n", 299, "Odd One", [], b""),
        (b"Location: /x\r\n\r\n", 302, "Found", [("Location", "/x")], b""),
        (b"\r\nbody", 200, "OK", [], b"body"),
        (b"A:b:c\r\nB:\r\n\r\n\r\n", 200, "OK", [("A", "b:c"), ("B", "")], b"\r\n"),
        (b"A: \xe9\r\n\r\n", 200, "OK", [("A", "é")], b""),
    ],
)
def test_headers(
    header: bytes, status: int, reason: str, headers: list[tuple[str, str]], body: bytes
) -> None:
    response, received = fetch(answering(stdout(header), END))
    assert (response.status, response.reason, response.headers) == (status, reason, headers)
    assert received == body


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Status: 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"no colon\r\n\r\n",
        b"A: b\r\n folded\r\n\r\n",
        b"A B: c\r\n\r\n",
        b"A: b\rC: d\r\n\r\n",
        b"A: b\0\r\n\r\n",
        b"Status: OK\r\n\r\n",
        b"Status: 2000\r\n\r\n",
        b"Status: 099\r\n\r\n",
        b"A: " + b"x" * 70000 + b"\r\n\r\n",
        b"x" * 70000,
    ],
)
def test_what_is_no_header(header: bytes) -> None:
    with pytest.raises(BadResponse):
        fetch(answering(stdout(header), END))


def test_management_and_late_records_are_ignored() -> None:
    unknown = wire.record(constants.UNKNOWN_TYPE, 0, b"\x20" + bytes(7))
    answer = unknown + stdout(HEADER + b"x") + END + stdout(b"late")
    assert fetch(answering(answer))[1] == b"x"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        wire.stream(constants.STDOUT, 2, HEADER),
        wire.record(constants.STDIN, 1, b"x"),
        wire.record(constants.END_REQUEST, 1, b"short"),
    ],
    ids=["http", "other id", "other type", "short end"],
)
def test_wrong_records(answer: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        fetch(answering(answer, END))


@pytest.mark.parametrize("status", [1, 2, 3, 77])
def test_refused(status: int) -> None:
    with pytest.raises(RequestRefused) as caught:
        fetch(answering(codec.encode_end_request(1, 0, status)))
    assert caught.value.protocol_status == status


def test_stderr_as_it_comes_and_within_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_STDERR_BYTES", 10)
    pieces: list[bytes] = []
    records = [wire.record(constants.STDERR, 1, b"12345678") for _ in range(3)]
    response, _ = fetch(answering(*records, stdout(HEADER), END), on_stderr=pieces.append)
    assert b"".join(pieces) == b"12345678" * 3
    assert response.stderr == b"1234567812"
