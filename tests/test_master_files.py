"""A reload opens a unix socket anew whose file was removed, by hand or by who tidies up."""

import os
import signal
import socket
from pathlib import Path

import pytest
import wire
from master_process import Load, Served
from processes import accepts, descriptors, wait_until

CHANGING = """
def load():
    if os.path.exists("broken"):
        raise RuntimeError("it is broken")
    return app
"""
UPGRADED = """
command = [sys.executable, os.path.abspath("script.py")]
if "--check" in sys.argv:
    sys.exit(0)
settings = MasterSettings(bind=["unix:app.sock"], workers=2, command=command)
sys.exit(Master(settings, load).run())
"""


def ask(peer: wire.Peer) -> int:
    response = peer.request(wire.cgi_params("GET", "/"), keep_conn=True)
    assert response.status == 200
    return int(response.body)


def test_a_reload_makes_it_again(folder: Path) -> None:
    with Served(folder, "workers=2", begin=2) as served, wire.Peer(served.address) as kept:
        ask(kept)
        before = len(descriptors(served.pid))
        for generation in (2, 3):
            os.unlink(served.address)
            assert not accepts(served.address)
            served.send(signal.SIGHUP)
            served.wait_for_log(f"reloaded, generation {generation}")
            served.wait_for_workers(2)
            assert served.get("/status").body.decode().count("unix:app.sock") == 1
            ask(kept)
        assert "there is a new one: app.sock" in served.log()
        # Nothing of the old ones is left, once their workers are gone.
        wait_until(lambda: len(descriptors(served.pid)) == before, "the old sockets to be closed")
        assert served.end() == 0


def test_one_that_is_there_stays(folder: Path) -> None:
    with Served(folder, "workers=1", begin=1) as served:
        before = os.stat(served.address).st_ino
        served.send(signal.SIGHUP)
        served.wait_for_log("reloaded, generation 2")
        assert os.stat(served.address).st_ino == before
        assert "the file of a socket" not in served.log()
        assert served.end() == 0


def test_who_waits_at_the_old_one_is_served(folder: Path) -> None:
    with (
        Served(folder, "workers=1, server_options={'threads': 1}", begin=1) as served,
        wire.Peer(served.address) as waits,
    ):
        with served.holding():
            waits.send(wire.request(1, wire.cgi_params("GET", "/")))
            os.unlink(served.address)
            served.send(signal.SIGHUP)
            wait_until(lambda: accepts(served.address), "the new file")
        assert waits.receive_end().status == 200
        served.wait_for_log("reloaded, generation 2")
        assert served.end() == 0


def test_a_reload_that_fails_leaves_nothing_that_nobody_serves(folder: Path) -> None:
    with (
        Served(folder, "workers=2", CHANGING, begin=2) as served,
        wire.Peer(served.address) as kept,
    ):
        ask(kept)
        (folder / "broken").touch()
        os.unlink(served.address)
        served.send(signal.SIGHUP)
        served.wait_for_log("the reload failed: 2 workers of before stay")
        wait_until(lambda: not os.path.exists(served.address), "the new file to be gone")
        ask(kept)
        (folder / "broken").unlink()
        served.send(signal.SIGHUP)
        served.wait_for_log("reloaded, generation 3")
        assert served.who() in served.workers()
        ask(kept)
        assert served.end() == 0


def test_an_upgrade_makes_it_again(folder: Path) -> None:
    with Served(folder, run=UPGRADED, begin=2) as served, wire.Peer(served.address) as kept:
        ask(kept)
        os.unlink(served.address)
        served.send(signal.SIGUSR2)
        served.wait_for_log("reloaded, generation 2")
        assert served.who() in served.workers()
        ask(kept)
        assert served.end() == 0


def test_others_may_have_taken_the_path(folder: Path) -> None:
    with (
        Served(folder, "workers=1", begin=1) as served,
        wire.Peer(served.address) as kept,
        socket.socket(socket.AF_UNIX) as other,
    ):
        ask(kept)
        os.unlink(served.address)
        other.bind(served.address)
        other.listen()
        served.send(signal.SIGHUP)
        served.wait_for_log("reloaded, generation 2")
        assert "cannot listen on app.sock: another server is listening there" in served.log()
        ask(kept)
        served.send(signal.SIGTERM)
        assert served.wait() == 0
        assert accepts(served.address)
        os.unlink(served.address)


def test_under_load_no_request_that_came_is_lost(folder: Path) -> None:
    with Served(folder, "workers=2", begin=2) as served:
        with Load(served.address, kept=4, closed=0) as load:
            for generation in (2, 3, 4):
                os.unlink(served.address)
                served.send(signal.SIGHUP)
                served.wait_for_log(f"reloaded, generation {generation}")
                load.wait_for_more()
        assert not load.errors, (load.errors, load.examples)
        assert served.end() == 0


@pytest.mark.parametrize("bind", ["['fd:0']", "None"])
def test_the_file_of_a_socket_that_was_passed_is_not_ours(folder: Path, bind: str) -> None:
    path = str(folder / "passed.sock")
    run = f"sys.exit(Master(MasterSettings(bind={bind}, workers=1), load).run())\n"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen(100)
        with (
            Served(folder, run=run, stdin=sock) as served,
            wire.Peer(path) as kept,
        ):
            served.wait_for_workers(1)
            ask(kept)
            os.unlink(path)
            served.send(signal.SIGHUP)
            served.wait_for_log("reloaded, generation 2")
            ask(kept)
            assert not os.path.exists(path)
            assert "the file of a socket" not in served.log()
            served.send(signal.SIGTERM)
            assert served.wait() == 0
