"""What the load generator is asked to do, and what it counts."""

import socket
import sys
import threading
import time
from typing import Any

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
    listening,
    load,
    once,
    requests_of,
)
from load_server import path as path  # a fixture
from scripted import END, Peer, stdout

from fastfcgi import _load
from fastfcgi._load import Lane, LaneResult

# ------------------------------------------------------------------------------------- lanes


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


# --------------------------------------------------------------------------------- latencies


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
