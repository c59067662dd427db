"""USR2: the master becomes a new version of the program, in the same process."""

import os
import re
import signal
import time

import pytest
import wire
from master_process import Load, Served
from processes import alive, children, descriptors, wait_until

# The version is what version.txt says; "broken" does not pass the check, "gone" ends after it.
RUN = """
version = open("version.txt").read()
if "--check" in sys.argv:
    assert "_FASTFCGI_MASTER" not in os.environ
    if version == "slow":
        time.sleep(1000)
    sys.exit(version == "broken")
if version == "gone":
    sys.exit("it cannot run")

def load():
    def versioned(environ, start_response):
        if environ["PATH_INFO"] == "/version":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [version.encode()]
        return app(environ, start_response)
    return versioned

settings = MasterSettings(
    **{
        "bind": ["unix:app.sock"],
        "command": [sys.executable, *sys.orig_argv[1:]],
        "server_options": {"status_path": "/status"},
        **dict({options}),
    }
)
if version == "threads":
    settings.server_options["threads"] = 3
if version == "other":
    settings.bind = ["unix:other.sock"]
sys.exit(Master(settings, load).run())
"""


def change(served: Served, version: str) -> None:
    (served.folder / "version.txt").write_text(version)


@pytest.fixture
def start(folder):
    """Starts one whose version can be changed."""

    def start(options="workers=2", begin=2):
        (folder / "version.txt").write_text("one")
        return Upgraded(folder, options, run=RUN, begin=begin)

    return start


class Upgraded(Served):
    def ended(self) -> int:
        (self.folder / "version.txt").unlink()
        return super().ended()

    def upgrade(self) -> None:
        """USR2, and wait until it has been done."""
        old = self.workers()
        done = self.log().count("reloaded")
        self.send(signal.SIGUSR2)
        wait_until(lambda: self.log().count("reloaded") > done, "the upgrade")
        self.wait_for_workers(len(old), without=old)


def test_upgrades_under_load_lose_nothing(start) -> None:
    with start("workers=2, pidfile='app.pid'") as served:
        with Load(served.address) as load:
            for version in ("two", "three"):
                change(served, version)
                served.upgrade()
                load.wait_for_more()
                assert served.get("/version").body.decode() == version
        assert not load.errors, (load.errors, load.examples, served.log())
        assert "died" not in served.log()
        assert (served.folder / "app.pid").read_text() == f"{served.pid}\n"
        assert served.log().count("2 workers taken over") == 2
        assert served.end() == 0


def test_nothing_piles_up(start) -> None:
    with start() as served:
        served.upgrade()
        count, names = len(descriptors(served.pid)), sorted(descriptors(served.pid))
        worker = len(descriptors(served.workers()[0]))
        for _ in range(3):
            served.upgrade()
        # Another pipe for signals each time, but as many.
        assert len(descriptors(served.pid)) == count, (names, sorted(descriptors(served.pid)))
        assert {len(descriptors(pid)) for pid in served.workers()} == {worker}
        assert b"_FASTFCGI_MASTER" not in environ_of(served.workers()[0])
        assert served.end() == 0


def environ_of(pid: int) -> bytes:
    """What a program that it starts would find: that of the process was read at its exec."""
    with open(f"/proc/{pid}/environ", "rb") as file:
        return b"" if b"FASTFCGI_TEST_RUN" in file.read() else b"?"


def test_running_requests_and_kept_connections_outlive_it(start) -> None:
    with start() as served, wire.Peer(served.address) as kept:
        before = kept.request(keep_conn=True).body
        old = served.workers()
        with served.holding():
            change(served, "two")
            served.send(signal.SIGUSR2)
            served.wait_for_log("reloaded")
            assert sum(map(alive, old)) >= 1
            assert kept.request(wire.cgi_params("GET", "/version"), keep_conn=True).body == b"two"
            # The page knows the old one, too.
            assert "/hold/" in served.running()
        assert kept.request(keep_conn=True).body != before
        wait_until(lambda: not any(map(alive, old)), "the old ones to end")
        assert served.end() == 0


def test_another_layout_of_the_memory(start) -> None:
    with start() as served:
        with served.holding(), Load(served.address) as load:
            change(served, "threads")
            served.send(signal.SIGUSR2)
            served.wait_for_log("reloaded")
            load.wait_for_more()
        assert not load.errors, (load.errors, load.examples)
        served.wait_for_workers(2)
        assert served.running().count("0/3") == 2
        assert served.end() == 0


def test_other_addresses(start) -> None:
    with start() as served:
        change(served, "other")
        served.send(signal.SIGUSR2)
        served.wait_for_log("reloaded")
        assert not os.path.exists(served.address)
        served.address = str(served.folder / "other.sock")
        assert served.get("/version").body == b"other"
        served.send(signal.SIGTERM)
        assert served.ended() == 0


def test_a_version_that_does_not_pass_the_check(start) -> None:
    with start() as served:
        old = served.workers()
        change(served, "broken")
        served.send(signal.SIGUSR2)
        served.wait_for_log("USR2: the check failed, this master goes on")
        assert served.workers() == old
        assert served.get("/version").body == b"one"
        change(served, "two")
        served.upgrade()
        assert served.get("/version").body == b"two"
        assert served.end() == 0


def test_a_check_that_takes_too_long(start) -> None:
    with start("workers=2, start_timeout=1.0") as served:
        change(served, "slow")
        served.send(signal.SIGUSR2)
        served.wait_for_log("takes too long")
        served.wait_for_log("USR2: the check failed")
        assert len(children(served.pid)) == 2
        assert served.end() == 0


def test_twice_at_once(start) -> None:
    with start() as served:
        change(served, "slow")
        served.send(signal.SIGUSR2)
        wait_until(lambda: len(children(served.pid)) == 3, "the check to run")
        served.send(signal.SIGUSR2)
        served.wait_for_log("the check of the one before still runs")
        # The end does not wait for it.
        assert served.end() == 0


def test_an_upgrade_in_the_middle_of_a_reload(start) -> None:
    with start() as served:
        old = served.workers()
        with Load(served.address) as load:
            for _ in range(3):
                served.send(signal.SIGHUP)
                served.send(signal.SIGUSR2)
                served.send(signal.SIGHUP)
                time.sleep(0.05)
            wait_until(lambda: "taken over" in served.log(), "the upgrade")
            served.wait_for_workers(2, without=old)
            load.wait_for_more()
        assert not load.errors, (load.errors, load.examples, served.log())
        assert "died" not in served.log()
        assert served.end() == 0


def test_a_program_that_is_gone(start) -> None:
    with start("workers=2, command=['/nonexistent/program']") as served:
        served.send(signal.SIGUSR2)
        served.wait_for_log("USR2: /nonexistent/program cannot be run")
        assert served.get("/version").body == b"one"
        assert served.end() == 0


def test_a_program_that_is_gone_after_the_check(start) -> None:
    program = "(lambda f: (f.write_text('#!/bin/sh\\nrm $0\\n'), f.chmod(0o755), str(f))[2])"
    path = "(__import__('pathlib').Path('program').absolute())"
    with start(f"workers=2, command=[{program}{path}]") as served:
        old = served.workers()
        served.send(signal.SIGUSR2)
        wait_until(lambda: re.search("program cannot be run", served.log()), "a line")
        assert served.workers() == old
        assert served.get("/version").body == b"one"
        served.send(signal.SIGHUP)
        served.wait_for_workers(2, without=old)
        assert served.end() == 0


def test_a_new_version_that_cannot_run_after_all(start) -> None:
    """The old workers end with the process, having finished what they were doing."""
    with start() as served:
        workers = served.workers()
        change(served, "gone")
        with served.holding():
            served.send(signal.SIGUSR2)
            served.wait_for_log("it cannot run")
            assert served.wait() == 1
        wait_until(lambda: not any(map(alive, workers)), "the workers to end")
        os.unlink(served.address)
        (served.folder / "version.txt").unlink()


def test_with_preload_a_reload_is_an_upgrade(start) -> None:
    with start("workers=2, preload=True") as served:
        old = served.workers()
        change(served, "two")
        served.send(signal.SIGHUP)
        served.wait_for_log("the master starts again")
        served.wait_for_workers(2, without=old)
        assert served.get("/version").body == b"two"
        assert served.end() == 0
