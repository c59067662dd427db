"""20 reloads, 5 new versions of the program, 20 killed workers, under load from 16 connections."""

import os
import random
import signal
import time

import pytest
from master_process import Load, Served
from processes import descriptors, wait_until
from test_master_upgrade import RUN

RELOADS, UPGRADES, KILLS = 20, 5, 20

pytestmark = pytest.mark.hostile


@pytest.fixture
def served(folder):
    (folder / "version.txt").write_text("one")
    with Served(folder, "workers=3, pidfile='app.pid'", run=RUN, begin=3) as served:
        yield served
        (folder / "version.txt").unlink()
        assert served.end() == 0


def test_reloads_and_upgrades_lose_nothing(served) -> None:
    numbers = [signal.SIGHUP] * RELOADS + [signal.SIGUSR2] * UPGRADES
    random.Random(4).shuffle(numbers)
    count = len(descriptors(served.pid))
    with Load(served.address) as load:
        for done, number in enumerate(numbers, start=1):
            old = served.workers()
            served.send(number)
            wait_until(lambda n=done: served.log().count("reloaded, generation") == n, "it")
            served.wait_for_workers(3, without=old)
            load.wait_for_more(100)
    assert not load.errors, (load.errors, load.examples, served.log())
    assert "died" not in served.log()
    assert len(descriptors(served.pid)) == count
    print(f"{load.requests} requests, {RELOADS} HUPs, {UPGRADES} USR2s, none lost")


def test_killed_workers_lose_what_they_were_serving(served) -> None:
    with Load(served.address) as load:
        for done in range(1, KILLS + 1):
            time.sleep(1.05)  # who dies soon is replaced later
            victim = random.choice(served.workers())
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda n=done: served.log().count("died: killed by KILL") == n, "its end")
            served.wait_for_workers(3, without=[victim])
            load.wait_for_more(100)
    lost = sum(load.errors.values())
    # Each of the 16 connections had one request under way, and not all were that worker's.
    assert lost <= 16 * KILLS, (load.errors, load.examples)
    # A worker that is gone takes its idle kept connections along, so that is how they are lost.
    assert set(load.errors) <= {"closed early"}, (load.errors, load.examples)
    print(f"{load.requests} requests, {KILLS} workers killed, {lost} requests lost")
