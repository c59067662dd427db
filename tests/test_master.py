"""The master with real processes: start and end, and what it leaves behind."""

import contextlib
import os
import re
import signal
import stat
import sys
import time

import pytest
import wire
from gil import needs_gil
from master_process import Load, Served
from processes import DEADLINE, Process, alive, children, descriptors, wait_until

# ------------------------------------------------------------------------------------ start


def test_it_serves(folder) -> None:
    with Served(folder, "workers=3", begin=3) as served:
        assert served.who() in served.workers()
        assert served.end() == 0
        assert f"master is process {served.pid}" in served.log()


def test_it_cannot_start(folder) -> None:
    run = "sys.exit(Master(MasterSettings(bind=['unix:/nonexistent/app.sock']), load).run())"
    with Served(folder, run=run) as served:
        assert served.wait() == 1
        assert "cannot listen on /nonexistent/app.sock" in served.log()
        served.assert_nothing_left([])


def test_there_is_nothing_to_serve(folder) -> None:
    run = "sys.exit(Master(MasterSettings(), load).run())"
    with Served(folder, run=run) as served:
        assert served.wait() == 1
        assert "name an address" in served.log()


def test_two_cannot_have_one_pid_file(folder) -> None:
    with Served(folder, "workers=1, pidfile='app.pid'", begin=1) as served:
        assert (folder / "app.pid").read_text() == f"{served.pid}\n"
        command = [sys.executable, str(folder / "script.py")]
        second = folder / "second"
        second.mkdir()
        script = served.log_path.with_name("script.py").read_text()
        (folder / "script.py").write_text(script.replace("app.sock", "second.sock"))
        env = {"PYTHONPATH": os.pathsep.join(sys.path)}
        with Process(command, folder, "other", env=env) as it:
            assert it.wait() == 1
            assert f"process {served.pid} is running" in it.log()
        assert (folder / "app.pid").read_text() == f"{served.pid}\n"
        (folder / "other.log").unlink()
        second.rmdir()
        assert served.end() == 0


def test_term_while_it_starts(folder) -> None:
    """Whenever it comes: nothing is left, and the status is 0 once the master has begun."""
    for pause in (0.0, 0.002, 0.005, 0.01, 0.02, 0.05):
        with Served(folder, "workers=4") as served:
            served.wait_for_log(f"master is process {served.pid}")
            time.sleep(pause)  # any moment will do
            assert served.end() == 0, served.log()


def test_term_while_the_application_is_loaded(folder) -> None:
    more = "def load():\n    logging.info('loading')\n    time.sleep(1000)\n"
    with Served(folder, "workers=2", more) as served:
        served.wait_for_log("loading")
        assert served.end() == 0


def test_term_while_the_application_is_loaded_beforehand(folder) -> None:
    more = "def load():\n    logging.info('loading')\n    time.sleep(1000)\n"
    with Served(folder, "preload=True, pidfile='p'", more) as served:
        served.wait_for_log("loading")
        assert served.end() == 0


# -------------------------------------------------------------------------------------- end


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_idle_kept_connections(folder, signum) -> None:
    with Served(folder, begin=2) as served, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(wire.Peer(served.address)) for _ in range(5)]
        for peer in peers:
            assert peer.request(keep_conn=True).status == 200
        served.send(signum)
        for peer in peers:
            assert peer.receive_close()
        assert served.ended() == 0


def test_running_requests_finish(folder) -> None:
    with Served(folder, begin=2) as served:
        workers = served.workers()
        with served.holding():
            served.send(signal.SIGTERM)
            served.wait_for_log("the end")
            wait_until(lambda: not os.path.exists(served.address), "the socket to be gone")
            assert any(map(alive, workers))
        assert served.ended() == 0


def test_who_is_connected_when_the_end_comes_is_served(folder) -> None:
    with Served(folder, begin=2) as served, contextlib.ExitStack() as stack:
        workers = served.workers()
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        peers = [stack.enter_context(wire.Peer(served.address)) for _ in range(20)]
        for peer in peers:
            peer.send(wire.request(1, wire.cgi_params()))
        served.send(signal.SIGTERM)
        served.wait_for_log("the end")
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        for peer in peers:
            assert peer.receive_end().status == 200
        assert served.ended() == 0


def test_a_request_that_does_not_end_is_left_behind(folder) -> None:
    with Served(folder, "workers=1, graceful_timeout=0.3", begin=1) as served:
        with wire.Peer(served.address) as peer:
            peer.send(wire.request(1, wire.cgi_params("GET", "/sleep/1000")))
            wait_until(lambda: "/sleep" in served.running(), "the request to run")
            served.send(signal.SIGTERM)
            assert not peer.receive_end().ended
        assert served.ended() == 0
        assert "killed" not in served.log()


@needs_gil
def test_a_worker_that_holds_the_gil_is_killed(folder) -> None:
    with Served(folder, "workers=1, graceful_timeout=0.2", begin=1) as served:
        with wire.Peer(served.address) as peer:
            peer.send(wire.request(1, wire.cgi_params("GET", f"/spin/{folder}/spins")))
            wait_until((folder / "spins").exists, "the request to run")
            (folder / "spins").unlink()
            assert served.end() == 0
        assert "has not ended in time, it is killed while it ran GET /spin" in served.log()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_second_signal_does_not_wait(folder, second) -> None:
    with (
        Served(folder, "workers=2, graceful_timeout=1000", begin=2) as served,
        wire.Peer(served.address) as peer,
    ):
        peer.send(wire.request(1, wire.cgi_params("GET", "/sleep/1000")))
        wait_until(lambda: "/sleep" in served.running(), "the request to run")
        served.send(signal.SIGTERM)
        served.wait_for_log("the end")
        assert served.end(second) == 0


def test_quit_does_not_wait(folder) -> None:
    options = "workers=2, graceful_timeout=1000, pidfile='app.pid'"
    with Served(folder, options, begin=2) as served, wire.Peer(served.address) as peer:
        peer.send(wire.request(1, wire.cgi_params("GET", "/sleep/1000")))
        wait_until(lambda: "/sleep" in served.running(), "the request to run")
        assert served.end(signal.SIGQUIT) == 0


def test_ctrl_c_in_a_terminal_is_the_masters_business(folder) -> None:
    with Served(folder, begin=2) as served:
        workers = served.workers()
        with served.holding():
            os.killpg(served.pid, signal.SIGINT)
            served.wait_for_log("the end")
        assert served.ended() == 0
        assert not any(map(alive, workers))
        assert "died" not in served.log()


def test_workers_end_when_the_master_is_killed(folder) -> None:
    with Served(folder, "workers=3", begin=3) as served:
        workers = served.workers()
        with served.holding():
            served.send(signal.SIGKILL)
            served.popen.wait(DEADLINE)
            served.wait_for_log("the master is gone")
        wait_until(lambda: not any(map(alive, workers)), "the workers to end")
        assert (folder / "app.sock").exists()
        (folder / "app.sock").unlink()


def test_a_storm_of_signals(folder) -> None:
    with Served(folder, "workers=2", begin=2) as served:
        for _ in range(50):
            for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTTIN, signal.SIGTTOU):
                served.send(signum)
        served.send(signal.SIGCHLD)

        def quiet() -> bool:
            # Signals of one kind that wait are one: nobody knows how many have come.
            wanted = re.findall(r"(\d+) workers are wanted", served.log())
            return bool(wanted) and len(served.workers()) == int(wanted[-1])

        wait_until(quiet, f"all to be quiet:\n{served.log()}")
        assert served.get().status == 200
        served.end()
        assert served.popen.returncode == 0


# ------------------------------------------------------------------------------- what is shared


def test_workers_hold_nothing_of_the_masters_or_of_each_other(folder) -> None:
    """As many descriptors in the last worker as in the first, and none of the master's pipes."""
    with Served(folder, "workers=4, pidfile='app.pid'", begin=4) as served:
        for _ in range(3):
            old = served.workers()
            served.send(signal.SIGHUP)
            served.wait_for_workers(4, without=old)
        wait_until(lambda: len(set(map(len, map(descriptors, served.workers())))) == 1, "quiet")
        mine = set(descriptors(served.pid))
        shared = [set(descriptors(pid)) & mine for pid in served.workers()]
        names = {name for one in shared for name in one if name.startswith(("pipe:", "socket:"))}
        # lifeline, wake, listening socket and the two ends between workers
        assert len(names) == 5, names
        assert all(sum("memfd" in name for name in one) <= 1 for one in shared)
        count, old = len(descriptors(served.pid)), served.workers()
        served.send(signal.SIGHUP)
        served.wait_for_workers(4, without=old)
        assert len(descriptors(served.pid)) == count
        assert served.end() == 0


def test_programs_that_a_worker_starts_inherit_nothing(folder) -> None:
    more = """
import subprocess
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    code = "import os, signal; print(len(os.listdir('/proc/self/fd')), signal.getsignal(2))"
    return [subprocess.check_output([sys.executable, "-c", code], close_fds=False)]
"""
    with Served(folder, "workers=1", more, begin=1) as served:
        number, handler = served.get().body.decode().split(maxsplit=1)
        assert int(number) == 4  # the three, and that of the folder which is read
        assert "default_int_handler" in handler
        assert served.end() == 0


def test_umask_chdir_and_mode(folder) -> None:
    (folder / "inner").mkdir()
    options = "workers=1, umask=0o027, chdir='inner', pidfile='app.pid'"
    with Served(folder, options, begin=1) as served:
        _, _, _, where, umask = eval(served.get("/who").body)
        assert (where, umask) == (str(folder / "inner"), 0o027)
        assert stat.S_IMODE((folder / "app.pid").stat().st_mode) == 0o644
        (folder / "inner").rmdir()
        assert served.end() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("preload", [False, True])
def test_workers_are_somebody_else(folder, preload) -> None:
    options = f"workers=2, user='nobody', group='daemon', preload={preload}"
    more = "def load():\n    logging.info('loaded by %d', os.getuid())\n    return app\n"
    with Served(folder, options, more, begin=2) as served:
        uid, gid, groups, *_ = eval(served.get("/who").body)
        assert (uid, gid) == (65534, 1)
        assert 0 not in groups
        assert "loaded by 65534" in served.log()
        assert os.stat(served.address).st_uid == 0  # opened first
        assert served.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs workers as root")
def test_workers_as_root_are_warned_of(folder) -> None:
    with Served(folder, "workers=1", begin=1) as served:
        assert served.log().count("workers run as root") == 1
        assert served.end() == 0


def test_an_application_loaded_beforehand_is_loaded_once(folder) -> None:
    more = "def load():\n    logging.info('loaded')\n    return app\n"
    with Served(folder, "workers=3, preload=True", more, begin=3) as served:
        assert served.log().count("loaded") == 1
        assert served.end() == 0


def test_hooks(folder) -> None:
    more = """
def begin():
    logging.info("begin %d", os.getpid())
def end():
    logging.info("end %d", os.getpid())
import atexit
def load():
    atexit.register(logging.info, "atexit %d", os.getpid())
    return app
"""
    with Served(folder, "workers=2, post_fork=begin, worker_exit=end", more, begin=2) as served:
        # One that TERM meets before it serves ends as it stands.
        wait_until(lambda: "2 serving" in served.running(), "both to serve")
        workers = served.workers()
        assert served.end() == 0
        for word in ("begin", "end", "atexit"):
            assert [served.log().count(f"{word} {pid}") for pid in workers] == [1, 1], word


def test_an_exit_hook_that_raises(folder) -> None:
    more = "def end():\n    raise RuntimeError('oops')\n"
    with Served(folder, "workers=1, worker_exit=end", more, begin=1) as served:
        assert served.end() == 0
        assert "worker_exit failed" in served.log()
        assert "oops" in served.log()


# ------------------------------------------------------------------------------------- numbers


def test_one_more_and_one_fewer(folder) -> None:
    with Served(folder, "workers=1", begin=1) as served:
        for signum, count in ((signal.SIGTTIN, 2), (signal.SIGTTIN, 3), (signal.SIGTTOU, 2)):
            served.send(signum)
            served.wait_for_workers(count)
        served.send(signal.SIGTTOU)
        served.send(signal.SIGTTOU)
        served.wait_for_workers(1)
        assert served.get().status == 200
        assert "died" not in served.log()
        assert served.end() == 0


def test_log_files_are_reopened_everywhere(folder) -> None:
    more = "def reopen():\n    logging.info('reopened in %d', os.getpid())\n"
    with Served(folder, "workers=2, reopen=reopen", more, begin=2) as served:
        served.send(signal.SIGUSR1)
        for pid in (served.pid, *served.workers()):
            served.wait_for_log(f"reopened in {pid}")
        first = served.log().index("reopened in")
        assert served.log().startswith(f"reopened in {served.pid}", first)
        assert served.get().status == 200
        assert served.end() == 0


def test_an_upgrade_is_not_to_be_had(folder) -> None:
    with Served(folder, "workers=1", begin=1) as served:
        served.send(signal.SIGUSR2)
        served.wait_for_log("USR2: not available")
        assert served.get().status == 200
        assert served.end() == 0


def test_a_busy_worker_leaves_connections_to_others(folder) -> None:
    options = "workers=3, server_options={'threads': 1}"
    with Served(folder, options, begin=3) as served, served.holding("a"), served.holding("b"):
        with Load(served.address, kept=0, closed=1) as load:
            load.wait_for_more(300)
        assert not load.errors, load.errors
    assert children(served.pid) == []


def test_pages_are_answered_while_all_are_busy(folder) -> None:
    options = "workers=2, server_options={'threads': 1, 'status_path': '/status'}"
    with Served(folder, options, begin=2) as served, wire.Peer(served.address) as waits:
        with served.holding("a"), served.holding("b"):
            waits.send(wire.request(1, wire.cgi_params()))
            for _ in range(5):
                assert served.running().count("/hold/") == 2
        # Who waited is served as soon as somebody is free.
        assert waits.receive_end().status == 200


def test_who_waits_is_served_by_whoever_is_free_first(folder) -> None:
    options = "workers=2, server_options={'threads': 1}"
    with Served(folder, options, begin=2) as served, served.holding("a"):
        with contextlib.ExitStack() as stack:
            with served.holding("b"):
                peers = [stack.enter_context(wire.Peer(served.address)) for _ in range(8)]
                for peer in peers:
                    peer.send(wire.request(1, wire.cgi_params()))
                time.sleep(0.5)  # all are given up for now, by both
            for peer in peers:
                assert peer.receive_end().status == 200
