"""What master and workers hold after much work is what they held at the start."""

import signal
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

import pytest
import wire
from master_process import Load, Served
from processes import descriptors, wait_until

from fastfcgi.constants import RESPONDER
from fastfcgi.status import memory_of

REQUESTS, ABORTED, RELOADS = 100_000, 1_000, 50
WORKERS, THREADS = 2, 4

# Bytes that a process may have more: the allocator keeps a heap for each thread, which it does not
# give back, and which does not grow beyond what was needed at once. A leak of 100 bytes in each
# request would be more than twice as much.
MEMORY = 2 << 20

# Seconds without a change after which a process is taken to be at rest.
REST = 0.5

pytestmark = pytest.mark.hostile


class Held(NamedTuple):
    """What a process holds."""

    descriptors: int
    threads: int
    memory: int


def held_by(pid: int) -> Held:
    with open(f"/proc/{pid}/status") as file:
        (threads,) = (int(line.split()[1]) for line in file if line.startswith("Threads:"))
    memory = memory_of(pid)
    assert memory
    return Held(len(descriptors(pid)), threads, memory)


def at_rest(pids: Iterable[int]) -> dict[int, Held]:
    """What each of them holds as soon as it stays the same: on a loaded machine a connection may be
    accepted long after its client went away."""
    then, since = {}, 0.0

    def same() -> bool:
        nonlocal then, since
        now = {pid: held_by(pid) for pid in pids}
        if [held[:2] for held in now.values()] != [held[:2] for held in then.values()]:
            since = time.monotonic()
        then = now
        return time.monotonic() - since > REST

    wait_until(same, "processes that rest")
    return then


def like(now: Held, then: Held) -> bool:
    return now[:2] == then[:2] and now.memory - then.memory <= MEMORY


@pytest.fixture
def served(folder):
    options = f"workers={WORKERS}, server_options={{'threads': {THREADS}}}"
    with Served(folder, options, begin=WORKERS) as served:
        yield served
        assert served.end() == 0


def warm_up(served: Served) -> dict[int, Held]:
    """Have every worker start all its threads and fill its caches; what each holds then."""

    def sleep() -> None:
        assert served.get("/sleep/0.3").status == 200

    workers = served.wait_for_workers(WORKERS)
    opened = [held.descriptors for held in at_rest(workers).values()]
    for _ in range(3):
        threads = [threading.Thread(target=sleep) for _ in range(3 * WORKERS * THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ask(served, 4000)
    abort(served, 500)
    held = {}

    def closed() -> bool:
        held.update(at_rest(workers))
        return [each.descriptors for each in held.values()] == opened

    wait_until(closed, f"connections to be closed: {opened}")
    return held


def ask(served: Served, count: int) -> None:
    """So many requests at least, kept and not."""
    with Load(served.address) as load:
        load.wait_for_more(count)
    assert not load.errors, (load.errors, load.examples)


def abort(served: Served, count: int) -> None:
    """So many clients that go away at some moment of a request."""
    params = wire.cgi_params("POST", "/sleep/0.001", CONTENT_LENGTH="100000")
    whole = (
        wire.begin_request(1, RESPONDER, True)
        + wire.params(1, params)
        + wire.stdin(1, b"x" * 100_000)
    )
    ends = [4, 20, 300, len(whole) // 2, len(whole) - 3, len(whole)]
    for number in range(count):
        with wire.Peer(served.address) as peer:
            end = ends[number % len(ends)]
            peer.send(whole[:end])
            if number % 12 == 4:
                peer.send(wire.abort(1))


def settle(served: Served, then: dict[int, Held]) -> None:
    """Wait until the processes hold what they held."""
    wait_until(
        lambda: all(like(held_by(pid), held) for pid, held in then.items()),
        f"{then}, not {[held_by(pid) for pid in then]}",
    )


def test_nothing_is_held_after_many_requests_and_aborted_clients(served) -> None:
    then = warm_up(served)
    then[served.pid] = held_by(served.pid)
    ask(served, REQUESTS)
    settle(served, then)
    abort(served, ABORTED)
    settle(served, then)
    assert served.who() in then


def test_nothing_is_held_after_many_reloads(served) -> None:
    then = warm_up(served)
    most = Held(*(max(numbers) for numbers in zip(*then.values(), strict=True)))
    for done in range(1, RELOADS + 1):
        old = served.workers()
        served.send(signal.SIGHUP)
        wait_until(lambda n=done: served.log().count("reloaded, generation") == n, "the reload")
        served.wait_for_workers(WORKERS, without=old)
        if done == 1:
            master = held_by(served.pid)
    settle(served, {served.pid: master})
    settle(served, dict.fromkeys(warm_up(served), most))
