"""What a scenario is: servers with their options, and what one round gives of them."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench import meter
from bench.apps import HELLO
from bench.floor import Answer
from bench.kinds import NOT_KEEPING, backlog
from bench.load import (
    Ask,
    check,
    idle_connections,
    request_of,
    starved,
    stdout_of,
)
from bench.running import Server
from fastfcgi import _load

HELLOS = Ask("/hello", HELLO)
IDLE_SECONDS = 2.0

# What one round measured, by the names of report.MEASURES.
Measures = dict[str, float]
# One round of so many seconds.
Round = Callable[[float], Measures]
# Makes a server ready and gives its rounds.
Entry = Callable[[Server], AbstractContextManager[Round]]


@dataclass(frozen=True)
class Contestant:
    """A server with its options; see bench.running."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    workers: int = 1
    python: str = sys.executable


Contestants = Mapping[str, Contestant]


@dataclass(frozen=True)
class Scenario:
    """What is measured.

    Attributes:
        name: For --scenario and the JSON.
        title: For people.
        enter: See Entry.
        servers: Label -> server.
        shown: The measures that the table shows; the first is the one of the picture.
        answer: Makes what the floor answers.
        application: Its MODULE:NAME.
        fresh: Whether each round has a new server.
        against: Another scenario's name: the report shows the ratio to it.
        needs: Programs without which it is left out.
    """

    name: str
    title: str
    enter: Entry
    servers: Contestants
    shown: tuple[str, ...] = ("rate", "cpu")
    answer: Callable[[], Answer] | None = None
    application: str = "bench.apps:application"
    fresh: bool = False
    against: str | None = None
    needs: tuple[str, ...] = ()


# ---- the servers ------------------------------------------------------------------------------


def spare(connections: int) -> dict[str, int]:
    """flup's threads. A kept connection holds one, and of a burst of more connections than there
    are spare threads (5 by default) some are never answered."""
    return {"minSpare": connections, "maxSpare": connections}


def one_process(connections: int, *left_out: str) -> Contestants:
    """fastfcgi with its defaults, uWSGI as one process without threads, its fastest."""
    servers = {
        "fastfcgi": Contestant("fastfcgi"),
        "flup": Contestant("flup", spare(connections + 2)),
        "flipflop": Contestant("flipflop"),
        "fcgisgi": Contestant("fcgisgi"),
        "uwsgi": Contestant("uwsgi", {"processes": 1, "listen": backlog()}),
        "floor": Contestant("floor"),
    }
    return {label: server for label, server in servers.items() if label not in left_out}


def with_threads(threads: int, connections: int) -> Contestants:
    """All with so many threads, but flup with as many as there are connections; flipflop has no
    such option."""
    return {
        "fastfcgi": Contestant("fastfcgi", {"threads": threads}),
        "flup": Contestant("flup", spare(connections + 2)),
        "flipflop": Contestant("flipflop"),
        "fcgisgi": Contestant("fcgisgi", {"max_workers": threads}),
        "uwsgi-threads": Contestant("uwsgi", {"threads": threads, "listen": backlog()}),
    }


# ---- rounds -----------------------------------------------------------------------------------


def lane_of(server: Server, ask: Ask, connections: int, keep: bool = True) -> _load.Lane:
    """Connections that make this request over and over, and want the answer to be the same every
    time. uWSGI is asked over new ones."""
    keep = keep and server.kind not in NOT_KEEPING
    expected = stdout_of(server.path, ask)
    return _load.Lane(request_of(ask, keep), connections, keep, expected=expected)


def measure(server: Server, lanes: list[_load.Lane], seconds: float) -> Measures:
    """One round; the measures are those of the first lane, CPU is all of the server's.

    Raises:
        Failed: A request was not answered, or wrongly.
    """
    pids = server.pids()
    cpu, ticks = meter.cpu_ns(pids), meter.cpu_ticks_ns(pids)
    results = _load.run(server.path, lanes, seconds=seconds)
    cpu, ticks = meter.cpu_ns(pids) - cpu, meter.cpu_ticks_ns(pids) - ticks
    check(results)
    result = results[0]
    return {
        "rate": result.requests / result.seconds,
        "cpu": cpu / 1000 / result.requests,
        "cpu_by_ticks": ticks / 1000 / result.requests,
        "p50": result.percentile(50) * 1000,
        "p99": result.percentile(99) * 1000,
        "requests": result.requests,
        "connects": result.connects,
        "received": result.bytes_received,
        "seconds": result.seconds,
        "starved": float(starved(result)),
        "others": sum(other.requests for other in results[1:]),
        "peak": meter.peak_kib(pids) / 1024,
    }


def asking(ask: Ask, connections: int, keep: bool = True) -> Entry:
    """Rounds of one kind of request."""

    @contextmanager
    def enter(server: Server) -> Iterator[Round]:
        lanes = [lane_of(server, ask, connections, keep)]
        yield lambda seconds: measure(server, lanes, seconds)

    return enter


def moving(make: Callable[[], Ask], size: int, warm: Ask | None = HELLOS) -> Entry:
    """Rounds of large requests or responses, one after another: MB/s, and the growth of memory
    since before the first.

    Args:
        make: Makes the request; it is too large to be about when it is not needed.
        size: The bytes that are moved.
        warm: What is asked first, so that what one request takes is not counted.
    """

    @contextmanager
    def enter(server: Server) -> Iterator[Round]:
        pids = server.pids()
        if warm and server.kind != "floor":  # that has one answer
            stdout_of(server.path, warm)
        meter.wait_idle(pids)
        before = meter.peak_kib(pids)
        lanes = [lane_of(server, make(), 1)]

        def round(seconds: float) -> Measures:
            measures = measure(server, lanes, seconds)
            measures["speed"] = measures["rate"] * size / 1e6
            measures["growth"] = measures["peak"] - before / 1024
            measures["cpu_per_mb"] = measures["cpu"] / (size / 1e6)
            return measures

        yield round

    return enter


def counting(ask: Ask, connections: int, keep: bool, blocks: int = 1) -> Entry:
    """Rounds under strace: system calls per request, or per block of its response. It makes them
    slow, so what a server does from time to time counts for more than it is."""

    @contextmanager
    def enter(server: Server) -> Iterator[Round]:
        lanes = [lane_of(server, ask, connections, keep)]

        def round(seconds: float) -> Measures:
            with meter.strace(server.pids(), server.folder) as counted:
                (result,) = _load.run(server.path, lanes, seconds=seconds)
            check([result])
            (calls,) = counted
            number = result.requests * blocks
            by_name = {f"call_{name}": n / number for name, n in calls.by_name.items()}
            return {
                "calls": calls.total / number,
                "waits": calls.waiting / number,
                "requests": result.requests,
                **by_name,
            }

        yield round

    return enter


@contextmanager
def idling(server: Server) -> Iterator[Round]:
    """Rounds of load, then 16 connections that are kept and ask for nothing: what the server does
    in that time. A round of less than 0.3 s waits for less."""
    lanes = [lane_of(server, HELLOS, 16)]

    def round(seconds: float) -> Measures:
        check(_load.run(server.path, lanes, seconds=seconds))
        pids = server.pids()
        with idle_connections(server.path, HELLOS, 16):
            meter.wait_idle(pids, 2)
            cpu, switches = meter.cpu_ns(pids), meter.switches(pids)
            wait = IDLE_SECONDS if seconds >= 0.3 else IDLE_SECONDS / 4
            time.sleep(wait)
            cpu, switches = meter.cpu_ns(pids) - cpu, meter.switches(pids) - switches
        return {"switches": switches / wait, "idle_cpu": cpu / 1000 / wait}

    yield round
