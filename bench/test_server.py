"""Requests per second through a unix socket: fastfcgi and flup, measured in one run.

The client (fastfcgi._load) shares the machine with the server: bench/servers.py measures more, and
more servers.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bench import corpus
from bench.kinds import installed
from bench.load import Load
from bench.running import running

pytestmark = pytest.mark.benchmark(max_time=2.5, min_rounds=5)

# Of one round: enough that a round takes longer than the scheduler's whims.
REQUESTS = 200
AT_ONCE = 8

Benchmark = Callable[..., Any]


@pytest.fixture(scope="module")
def fastfcgi() -> Iterator[str]:
    with running("fastfcgi") as server:
        yield server.path


@pytest.fixture(scope="module")
def flup() -> Iterator[str]:
    if not installed("flup"):
        pytest.skip("flup is not installed")
    # A kept connection holds a thread of flup's, and of more connections at once than it has
    # spare threads (5 by default) some are never answered.
    with running("flup", minSpare=16, maxSpare=16) as server:
        yield server.path


def measure(benchmark: Any, path: str, at_once: int, keep_conn: bool) -> None:
    load = Load(path, corpus.PARAMS_NGINX, at_once, keep_conn)
    load.check()
    benchmark.extra_info["requests"] = REQUESTS
    benchmark(load.run, REQUESTS)


def test_kept_connection(benchmark: Benchmark, fastfcgi: str) -> None:
    measure(benchmark, fastfcgi, 1, True)


def test_kept_connection_by_flup(benchmark: Benchmark, flup: str) -> None:
    measure(benchmark, flup, 1, True)


def test_kept_connections_8(benchmark: Benchmark, fastfcgi: str) -> None:
    measure(benchmark, fastfcgi, AT_ONCE, True)


def test_kept_connections_8_by_flup(benchmark: Benchmark, flup: str) -> None:
    measure(benchmark, flup, AT_ONCE, True)


def test_connection_per_request(benchmark: Benchmark, fastfcgi: str) -> None:
    measure(benchmark, fastfcgi, 1, False)


def test_connection_per_request_by_flup(benchmark: Benchmark, flup: str) -> None:
    measure(benchmark, flup, 1, False)


def test_connection_per_request_8(benchmark: Benchmark, fastfcgi: str) -> None:
    measure(benchmark, fastfcgi, AT_ONCE, False)


def test_connection_per_request_8_by_flup(benchmark: Benchmark, flup: str) -> None:
    measure(benchmark, flup, AT_ONCE, False)
