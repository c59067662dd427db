"""Reloads, and workers that die, with real processes and requests meanwhile."""

import os
import signal
import time

import pytest
import wire
from gil import needs_gil
from master_process import Load, Served
from processes import alive, wait_until

# Loads what is in app.txt; "broken" cannot be loaded. Settings are what settings.txt says.
CHANGING = """
def load():
    text = open("app.txt").read()
    if text == "broken":
        raise RuntimeError("it is broken")
    if text == "exit":
        sys.exit("no way")
    def changing(environ, start_response):
        if environ["PATH_INFO"] == "/":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [text.encode()]
        return app(environ, start_response)
    return changing
"""


def change(served: Served, text: str) -> None:
    (served.folder / "app.txt").write_text(text)


@pytest.fixture
def changing(folder):
    (folder / "app.txt").write_text("one")
    with Served(folder, "workers=2, max_requests=0", CHANGING, begin=2) as served:
        yield served
        (folder / "app.txt").unlink()
        assert served.end() == 0


# ----------------------------------------------------------------------------------- reloading


def test_reloads_under_load_lose_nothing(folder) -> None:
    with Served(folder, begin=2) as served:
        with Load(served.address) as load:
            for generation in (2, 3, 4):
                old = served.workers()
                served.send(signal.SIGHUP)
                served.wait_for_log(f"reloaded, generation {generation}")
                served.wait_for_workers(2, without=old)
                load.wait_for_more()
        assert not load.errors, (load.errors, load.examples, served.log())
        assert load.requests > 800
        assert "died" not in served.log()
        assert served.end() == 0


def test_hups_on_top_of_each_other_lose_nothing(folder) -> None:
    with Served(folder, begin=2) as served:
        with Load(served.address) as load:
            for _ in range(20):
                served.send(signal.SIGHUP)
                time.sleep(0.01)  # in the middle of the one before
            wait_until(lambda: len(served.workers()) == 2, "all to be quiet")
            load.wait_for_more()
        assert not load.errors, (load.errors, load.examples, served.log())
        assert "died" not in served.log()
        assert served.end() == 0


def test_hup_for_every_process_at_once_loses_nothing(folder) -> None:
    """As of pkill -HUP: workers ask to be replaced, and go on until they are."""
    with Served(folder, begin=2) as served:
        with Load(served.address) as load:
            for _ in range(3):
                old = served.workers()
                for pid in old:
                    os.kill(pid, signal.SIGHUP)
                served.wait_for_workers(2, without=old)
                old = served.workers()
                os.killpg(served.pid, signal.SIGHUP)
                served.wait_for_workers(2, without=old)
            load.wait_for_more()
        assert not load.errors, (load.errors, load.examples, served.log())
        assert served.end() == 0


def test_one_worker_asks(folder) -> None:
    with Served(folder, begin=2) as served:
        first, second = served.workers()
        os.kill(first, signal.SIGHUP)
        assert second in served.wait_for_workers(2, without=[first])
        assert f"worker {first} is replaced: it asked to be" in served.log()
        assert served.end() == 0


def test_a_reload_loads_the_new_code(changing) -> None:
    assert changing.get().body == b"one"
    change(changing, "two")
    changing.send(signal.SIGHUP)
    changing.wait_for_log("reloaded, generation 2")
    assert changing.get().body == b"two"


@pytest.mark.parametrize("how", ["broken", "exit"])
def test_a_reload_that_fails_leaves_the_old_ones(changing, how) -> None:
    old = changing.workers()
    change(changing, how)
    with Load(changing.address) as load:
        changing.send(signal.SIGHUP)
        changing.wait_for_log("the reload failed: 2 workers of before stay")
        load.wait_for_more()
    assert not load.errors, load.errors
    assert changing.wait_for_workers(2) == old
    assert changing.log().count("could not be loaded: ") == 1
    assert "reloaded" not in changing.log()
    assert changing.get().body == b"one"
    change(changing, "two")
    changing.send(signal.SIGHUP)
    changing.wait_for_workers(2, without=old)
    assert changing.get().body == b"two"


def test_running_requests_outlive_a_reload(folder) -> None:
    with Served(folder, begin=2) as served:
        old = served.workers()
        with served.holding():
            served.send(signal.SIGHUP)
            served.wait_for_log("reloaded, generation 2")
            wait_until(lambda: sum(map(alive, old)) == 1, "the idle one to end")
            assert served.who() not in old
        wait_until(lambda: not any(map(alive, old)), "the other one to end")
        assert served.end() == 0


def test_a_kept_connection_outlives_reloads(folder) -> None:
    with Served(folder, begin=2) as served, wire.Peer(served.address) as peer:
        pids = set()
        for generation in range(2, 6):
            pids.add(peer.request(keep_conn=True).body)
            served.send(signal.SIGHUP)
            served.wait_for_log(f"reloaded, generation {generation}")
        assert len(pids) == 4
        assert served.end() == 0


@needs_gil  # and it holds it
def test_a_worker_that_does_not_retire_is_killed(folder) -> None:
    with Served(folder, "workers=1, graceful_timeout=0.2", begin=1) as served:
        with wire.Peer(served.address) as peer:
            peer.send(wire.request(1, wire.cgi_params("GET", f"/spin/{folder}/spins")))
            wait_until((folder / "spins").exists, "the request to run")
            (folder / "spins").unlink()
            old = served.workers()
            served.send(signal.SIGHUP)
            served.wait_for_workers(1, without=old)
            assert f"worker {old[0]} has not ended in time" in served.log()
        assert served.end() == 0


def test_term_during_a_reload(folder) -> None:
    more = "def load():\n    time.sleep(0.3 if os.path.exists('slow') else 0)\n    return app\n"
    with Served(folder, "workers=2", more, begin=2) as served:
        (folder / "slow").touch()
        served.send(signal.SIGHUP)
        served.wait_for_log("reload: generation 2")
        wait_until(lambda: len(served.workers()) == 3, "the first of the new ones")
        (folder / "slow").unlink()
        assert served.end() == 0


# ------------------------------------------------------------------------------------ settings

REREAD = """
settings = MasterSettings(bind=["unix:app.sock"], workers=1)

def reread():
    return eval(open("settings.txt").read())

sys.exit(Master(settings, load, reread=reread).run())
"""


def test_settings_are_read_again(folder) -> None:
    text = folder / "settings.txt"
    text.write_text("MasterSettings(bind=['unix:app.sock'], workers=3)")
    with Served(folder, run=REREAD, begin=1) as served:
        served.send(signal.SIGHUP)
        served.wait_for_workers(3)
        # Other threads mean other memory.
        text.write_text(
            "MasterSettings(bind=['unix:app.sock'], workers=20,"
            " server_options={'threads': 2, 'status_path': '/status'})"
        )
        old = served.workers()
        served.send(signal.SIGHUP)
        served.wait_for_workers(20, without=old)
        # The page itself is no request.
        wait_until(lambda: served.running().count("0/2") == 20, "all on one page")
        text.write_text("MasterSettings(bind=['unix:other.sock'], workers=1)")
        served.send(signal.SIGHUP)
        served.wait_for_workers(1)
        assert "not changed by a reload, only by a restart: bind" in served.log()
        for wrong in ("nonsense(", "MasterSettings(workers=0)"):
            text.write_text(wrong)
            served.send(signal.SIGHUP)
        wait_until(lambda: served.log().count("the configuration cannot be used") == 2, "a line")
        assert "workers=0" in served.log()
        assert served.get().status == 200
        text.unlink()
        assert served.end() == 0


# --------------------------------------------------------------------------------------- death


def test_a_killed_worker_loses_only_what_it_was_serving(folder) -> None:
    with Served(folder, "workers=3", begin=3) as served:
        time.sleep(1.1)  # workers that die soon are replaced later
        with Load(served.address) as load:
            victim = served.workers()[0]
            os.kill(victim, signal.SIGKILL)
            served.wait_for_workers(3, without=[victim])
            load.wait_for_more()
        # All of the 16 could have been with it; it cannot be more.
        assert sum(load.errors.values()) <= 16, load.errors
        assert f"worker {victim} died: killed by KILL" in served.log()
        assert served.end() == 0


def test_what_it_was_doing_is_told(folder) -> None:
    with Served(folder, "workers=1", begin=1) as served:
        (worker,) = served.workers()
        with wire.Peer(served.address) as peer:
            peer.send(wire.request(1, wire.cgi_params("GET", "/die/7")))
            assert not peer.receive_end().ended
        served.wait_for_log(f"worker {worker} died: exit status 7 while it ran GET /die/7")
        served.wait_for_workers(1, without=[worker])
        assert served.get().status == 200
        assert served.end() == 0


@pytest.mark.parametrize("status", [0, 3, 9])
def test_workers_that_die_again_and_again_are_not_started_hot(folder, status) -> None:
    """Also where their application ends them with the status of one that could not be loaded."""
    more = f"def load():\n    os._exit({status})\n"
    died = f"died: exit status {status} before it served, again in "
    with Served(folder, "workers=2", more) as served:
        wait_until(lambda: served.log().count(died) >= 4, "two rounds")
        began = time.monotonic()
        time.sleep(1.5)
        # Two workers, after 1 and 2 seconds: no more than one round is due in this time.
        assert served.log().count(died) <= 8
        assert time.monotonic() - began < 10
        assert served.end() == 0


def test_a_reload_lasts_until_all_are_there(folder) -> None:
    more = "def load():\n    if os.path.exists('broken'):\n        os._exit(3)\n    return app\n"
    (folder / "broken").touch()
    with Served(folder, "workers=1", more) as served:
        served.wait_for_log("again in 1 s")
        served.send(signal.SIGHUP)
        served.wait_for_log("reload: generation 2")
        served.wait_for_log("again in 2 s")
        assert "reloaded" not in served.log()
        (folder / "broken").unlink()
        served.wait_for_log("reloaded, generation 2")
        assert served.get().status == 200
        assert served.end() == 0


def test_an_application_that_cannot_be_loaded(folder) -> None:
    """One log line with the traceback, 500 for clients, and it heals by itself."""
    (folder / "app.txt").write_text("broken")
    with Served(folder, "workers=1", CHANGING) as served:
        served.wait_for_log("could not be loaded, again in 1 s: RuntimeError: it is broken\n")
        assert "died" not in served.log()
        assert served.get("/anything").status == 500
        served.wait_for_log("again in 2 s")
        (folder / "app.txt").write_text("one")
        wait_until(lambda: served.get().status == 200, "it to heal")
        assert served.get().body == b"one"
        (folder / "app.txt").unlink()
        assert served.end() == 0


def test_a_failed_worker_ends_at_once(folder) -> None:
    (folder / "app.txt").write_text("broken")
    with Served(folder, "workers=2, graceful_timeout=1000", CHANGING) as served:
        wait_until(lambda: served.log().count("again in 1 s") == 2, "both to fail")
        assert served.get().status == 500
        (folder / "app.txt").unlink()
        assert served.end() == 0


def test_a_reload_heals_at_once(folder) -> None:
    (folder / "app.txt").write_text("broken")
    with Served(folder, "workers=1", CHANGING) as served:
        served.wait_for_log("again in 2 s")
        (folder / "app.txt").write_text("one")
        served.send(signal.SIGHUP)
        served.wait_for_log("reloaded, generation 2")
        assert served.get().body == b"one"
        assert "again in 4 s" not in served.log()
        (folder / "app.txt").unlink()
        assert served.end() == 0


def test_an_error_for_a_person_has_no_traceback(folder) -> None:
    more = (
        "from fastfcgi.exceptions import ConfigurationError\n"
        "def load():\n    raise ConfigurationError('no module named so')\n"
    )
    with Served(folder, "workers=1", more) as served:
        served.wait_for_log("no module named so")
        assert "Traceback" not in served.log()
        assert served.get().status == 500
        assert served.end() == 0


def test_a_worker_that_does_not_get_ready_is_killed(folder) -> None:
    more = "def load():\n    time.sleep(1000)\n"
    with Served(folder, "workers=1, start_timeout=0.3", more) as served:
        served.wait_for_log("has not started in 0.3 s, it is killed")
        served.wait_for_log("died: killed by KILL")
        assert served.end() == 0


def test_an_option_that_the_server_does_not_take(folder) -> None:
    options = "workers=1, server_options={'nonsense': 1}"
    with Served(folder, options) as served:
        served.wait_for_log("WSGIServer has no option 'nonsense'")
        assert served.get().status == 500
        assert served.end() == 0


def test_a_hook_that_raises(folder) -> None:
    more = "def begin():\n    raise RuntimeError('oops')\n"
    with Served(folder, "workers=1, post_fork=begin", more) as served:
        served.wait_for_log("oops")
        assert served.get().status == 500
        assert served.end() == 0


def test_a_folder_that_is_not_there(folder) -> None:
    with Served(folder, "workers=1, chdir='nowhere'") as served:
        served.wait_for_log("could not be loaded, again in 1 s: nowhere: No such file or directory")
        assert served.get().status == 500
        assert "Traceback" not in served.log()
        assert served.end() == 0


# -------------------------------------------------------------------------------------- limits


def test_workers_are_replaced_after_max_requests(folder) -> None:
    with Served(folder, "workers=2, max_requests=100", begin=2) as served:
        old = served.workers()
        with Load(served.address) as load:
            served.wait_for_log("is replaced: it has served")
            served.wait_for_workers(2, without=old)
        assert not load.errors, (load.errors, load.examples)
        assert "died" not in served.log()
        assert served.end() == 0


def test_a_worker_that_holds_too_much_memory_is_replaced(folder) -> None:
    more = """
hog = []
def hungry(environ, start_response):
    if environ["PATH_INFO"] == "/eat":
        hog.append(b"x" * 64_000_000)
    return app(environ, start_response)
def load():
    return hungry
"""
    with Served(folder, "workers=1, max_memory=80_000_000", more, begin=1) as served:
        old = served.workers()
        assert served.get("/eat").status == 200
        served.wait_for_workers(1, without=old)
        assert "is replaced: it holds" in served.log()
        assert served.end() == 0


def test_past_the_hard_limit_a_worker_is_replaced_while_the_others_go_on(folder) -> None:
    options = "workers=2, hard_timeout=0.5, graceful_timeout=0.3"
    with Served(folder, options, begin=2) as served:
        with wire.Peer(served.address) as peer, Load(served.address, 0, 4) as load:
            peer.send(wire.request(1, wire.cgi_params("GET", "/sleep/1000")))
            served.wait_for_log("is replaced: GET /sleep/1000 has run for")
            load.wait_for_more()
            assert not peer.receive_end().ended
        assert not load.errors, (load.errors, load.examples)
        served.wait_for_workers(2)
        assert served.end() == 0
