"""Which answers the load generator finds right, and what it says of the others."""

import random
from pathlib import Path

import pytest
import reference_codec as codec
import wire
from load_server import (
    BIG,
    CONTENT,
    KEPT,
    REASONS,
    RIGHT,
    always,
    failure,
    load,
    requests_of,
    wait_until_read,
)
from load_server import path as path  # a fixture
from scripted import END, Peer, stdout

from fastfcgi import _load, constants
from fastfcgi._load import Lane

STDOUT_END = wire.record(constants.STDOUT, 1)
STDERR_END = wire.record(constants.STDERR, 1)


# ----------------------------------------------------------------------------- right answers


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


# ----------------------------------------------------------------------------- wrong answers


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


def test_no_answer_but_an_end(path: str) -> None:
    assert failure(path, always(END)) == ("no response header", "")
    Path(path).unlink()
    assert failure(path, always(stdout(CONTENT[:-7]) + END))[0] == "no response header"
    Path(path).unlink()
    result, _ = load(path, always(END), Lane(KEPT, 1, expected=b""))
    assert result.requests == 5


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


# ------------------------------------------------------------------------------------- names


def test_reasons() -> None:
    assert set(_load.REASONS[1:]) == REASONS
