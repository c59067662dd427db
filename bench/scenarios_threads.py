"""The scenarios in which requests wait, or take the CPU from each other."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench import apps, meter
from bench.apps import BLOCK, HELLO, LINE
from bench.floor import answer_of
from bench.kinds import backlog
from bench.load import Ask, Failed, check, request_of, slow_clients
from bench.rounds import (
    HELLOS,
    Contestant,
    Contestants,
    Entry,
    Measures,
    Round,
    Scenario,
    asking,
    lane_of,
    measure,
    with_threads,
)
from bench.running import Server
from fastfcgi import _load

LATENCIES = ("rate", "p50", "p99")


def sleeping(milliseconds: int) -> Ask:
    return Ask("/sleep", HELLO, query=str(milliseconds))


def spinning(milliseconds: float) -> Ask:
    """A loop that takes so long on this machine when it is alone. Its length is measured once, so
    that it is the same for all servers."""
    return Ask("/spin", HELLO, query=str(round(_rounds_per_ms() * milliseconds)))


def _rounds_per_ms(found: list[float] = []) -> float:  # noqa: B006  # it is measured once
    if not found:
        times = []
        for _ in range(5):
            began = time.thread_time()
            apps.spin_rounds(50_000)
            times.append(time.thread_time() - began)
        found.append(50 / min(times))
    return found[0]


@contextmanager
def first_ever(server: Server) -> Iterator[Round]:
    """The first 32 requests of a new server, at once, 50 ms each: the last of them."""
    meter.wait_idle(server.pids())
    ask = sleeping(50)

    def round(seconds: float) -> Measures:
        lane = _load.Lane(request_of(ask, False), 32, False, status=200)
        results = _load.run(server.path, [lane], requests=32)
        check(results)
        if results[0].requests != 32:
            raise Failed(f"{results[0].requests} of 32 were answered")
        return {"last": results[0].max * 1000, "p50": results[0].percentile(50) * 1000}

    yield round


def beside(ask: Ask, connections: int, hellos: int) -> Entry:
    """Rounds of hello and, beside it, of something else."""

    @contextmanager
    def enter(server: Server) -> Iterator[Round]:
        lanes = [lane_of(server, HELLOS, hellos), lane_of(server, ask, connections)]
        yield lambda seconds: measure(server, lanes, seconds)

    return enter


@contextmanager
def beside_slow_ones(server: Server) -> Iterator[Round]:
    """Rounds of 16 clients of hello; beside them two of a generator that sleeps between its blocks,
    two that send slowly and two that read slowly."""
    drip = Ask("/drip", LINE * 20, query="20")
    lanes = [lane_of(server, HELLOS, 16), lane_of(server, drip, 2)]
    sent = Ask("/digest", b"", body=BLOCK)
    read = Ask("/down", b"", query="256")

    def round(seconds: float) -> Measures:
        with slow_clients(server.path, sent, read, 2):
            time.sleep(0.1)
            return measure(server, lanes, seconds)

    yield round


def thread_scenarios() -> Iterator[Scenario]:
    """11 to 16."""
    yield Scenario(
        "first-32",
        "the first 32 requests ever, 50 ms each, 32 threads",
        first_ever,
        with_threads(32, 32),
        ("last",),
        fresh=True,
    )
    yield Scenario(
        "sleep-50",
        "50 ms each, 32 clients, 32 threads",
        asking(sleeping(50), 32),
        with_threads(32, 32),
        LATENCIES,
    )
    yield Scenario(
        "sleep-1",
        "1 ms each, 16 clients, 16 threads",
        asking(sleeping(1), 16),
        with_threads(16, 16),
        ("rate", "cpu"),
    )
    yield Scenario(
        "mix-sleep",
        "hello, 24 clients, beside 8 of 20 ms, 16 threads",
        beside(sleeping(20), 8, 24),
        with_threads(16, 32),
        (*LATENCIES, "cpu"),
    )
    yield Scenario(
        "mix-slow",
        "hello, 16 clients, beside slow ones, 16 threads",
        beside_slow_ones,
        with_threads(16, 24),
        ("p99", "p50", "rate"),
    )
    yield Scenario("threads-1", "hello, 16 clients, 1 thread", asking(HELLOS, 16), one_or_16(1))
    yield Scenario(
        "threads-16",
        "hello, 16 clients, 16 threads",
        asking(HELLOS, 16),
        one_or_16(16),
        against="threads-1",
    )
    yield Scenario(
        "mix-spin",
        "hello, 14 clients, beside 2 that spin for 20 ms, 16 threads",
        beside(spinning(20), 2, 14),
        with_threads(16, 16),
        LATENCIES,
    )


def one_or_16(threads: int) -> Contestants:
    """Those that can be had with one thread as well; uWSGI with one has no threads at all."""
    uwsgi = {"threads": threads} if threads > 1 else {"processes": 1}
    return {
        "fastfcgi": Contestant("fastfcgi", {"threads": threads}),
        "fcgisgi": Contestant("fcgisgi", {"max_workers": threads}),
        "uwsgi-threads": Contestant("uwsgi", {**uwsgi, "listen": backlog()}),
    }


def worker_scenarios() -> Iterator[Scenario]:
    """20: processes that share one listening socket."""
    for keep, how in ((True, "kept"), (False, "a connection each")):
        for workers in (1, 2):
            short = how.split()[-1]
            yield Scenario(
                f"workers-{workers}-{short}",
                f"hello, 16 clients, {how}, {workers} process{'es' * (workers - 1)}",
                asking(HELLOS, 16, keep),
                {
                    "fastfcgi": Contestant("fastfcgi", workers=workers),
                    "uwsgi": Contestant("uwsgi", {"processes": workers, "listen": backlog()}),
                    "floor": Contestant("floor", workers=workers),
                },
                ("cpu", "rate"),
                lambda: answer_of(HELLO),
                against=None if workers == 1 else f"workers-1-{short}",
            )


def free_threaded_scenarios(python: str) -> Iterator[Scenario]:
    """40 us of CPU in each request, by a Python without the GIL."""
    for threads in (1, 2):
        server = Contestant("fastfcgi", {"threads": threads}, python=os.path.abspath(python))
        yield Scenario(
            f"free-threaded-{threads}",
            f"40 us of Python, 8 clients, no GIL, {threads} thread{'s' * (threads - 1)}",
            asking(spinning(0.04), 8),
            {"fastfcgi": server},
            against=None if threads == 1 else "free-threaded-1",
        )
