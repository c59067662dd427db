"""A run of the load generator: where to, until when, and how it ends."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wire
from load_server import (
    BIG,
    CONTENT,
    KEPT,
    RIGHT,
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
from fastfcgi.exceptions import ConfigurationError

# --------------------------------------------------------------------------------- addresses


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


# ----------------------------------------------------------------------------------- the run


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


# ----------------------------------------------------------------------- what is left behind


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


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
