"""A worker in which nothing of Python can run any more ends some time after its master."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("who is stuck in what is seen in /proc", allow_module_level=True)

import wire
from gil import needs_gil
from master_process import Served
from processes import DEADLINE, alive, wait_until


def spin(served: Served) -> wire.Peer:
    """Have a worker hold the GIL for ever."""
    spins = served.folder / "spins"
    peer = wire.Peer(served.address)
    peer.send(wire.request(1, wire.cgi_params("GET", f"/spin/{spins}")))
    wait_until(spins.exists, "the request to run")
    spins.unlink()
    return peer


@needs_gil
def test_a_worker_that_holds_the_gil_outlives_its_master_for_a_while_only(folder: Path) -> None:
    with Served(folder, "workers=2, graceful_timeout=0.2", begin=2) as served:
        workers = served.workers()
        with spin(served):
            served.send(signal.SIGKILL)
            served.popen.wait(DEADLINE)
            wait_until(lambda: not any(map(alive, workers)), "the workers to end")
        served.wait_for_log("has outlived its master for 1.2 s, it ends")
        (folder / "app.sock").unlink()


@needs_gil
def test_one_that_is_stuck_at_its_start_does_so_too(folder: Path) -> None:
    more = "\ndef load():\n    open('loads', 'w').close()\n    spin()\n"
    with Served(folder, "workers=1, graceful_timeout=0.2", more) as served:
        wait_until((folder / "loads").exists, "the application to be loaded")
        workers = served.workers()
        served.send(signal.SIGKILL)
        served.popen.wait(DEADLINE)
        wait_until(lambda: not any(map(alive, workers)), "the worker to end")
        (folder / "app.sock").unlink()
        (folder / "loads").unlink()


def test_a_healthy_one_has_its_time_to_finish(folder: Path) -> None:
    with Served(folder, "workers=1, graceful_timeout=30", begin=1) as served:
        workers = served.workers()
        with served.holding():
            served.send(signal.SIGKILL)
            served.popen.wait(DEADLINE)
            served.wait_for_log("the master is gone")
        wait_until(lambda: not any(map(alive, workers)), "the workers to end")
        assert "outlived" not in served.log()
        (folder / "app.sock").unlink()


ALONE = """
import os, sys, time
from fastfcgi.guard import stand_guard
read, write = os.pipe()
stand_guard({fd}, {master}, {seconds}, b"words\\n")
time.sleep(float(sys.argv[1]))
print("all is well")
"""


def run_alone(
    fd: str, master: str, seconds: float = 0.0, sleep: float = DEADLINE
) -> "subprocess.CompletedProcess[str]":
    code = ALONE.format(fd=fd, master=master, seconds=seconds)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(sleep)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=2 * DEADLINE)


def test_it_waits_and_ends() -> None:
    before = time.monotonic()
    found = run_alone("os.close(write) or read", "-1", 1.1)
    assert (found.returncode, found.stdout, found.stderr) == (1, "", "words\n")
    assert time.monotonic() - before > 1.1


@pytest.mark.parametrize("fd", ["os.close(write) or read", "999"])
def test_it_does_nothing_while_the_master_is_there(fd: str) -> None:
    """The application may have closed the descriptor, and have got another one in its place."""
    found = run_alone(fd, "os.getppid()", sleep=0.5)
    assert (found.returncode, found.stdout, found.stderr) == (0, "all is well\n", "")
