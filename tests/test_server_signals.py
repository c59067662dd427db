"""WSGIServer on the main thread of a process: signals, exit status, descriptor 0, two processes."""

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time

import pytest
import wire

if os.name != "posix":
    pytest.skip("signals and descriptor 0 are posix's", allow_module_level=True)

from processes import DEADLINE, environment
from served_script import (
    SCRIPT,
    SERVE,
    SERVE_AGAIN,
    SERVE_ANOTHER,
    Script,
    get,
    sleeping,
    stuck,
)


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def path():
    with tempfile.TemporaryDirectory(prefix="fcgi-") as folder:
        yield folder + "/app.sock"


# ----------------------------------------------------------------------------- TERM and INT


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_it_ends_without_any_traffic(listening, signum):
    with Script(sock=listening) as script:
        script.expect("ready")
        assert script.end(signum) == 0
        assert script.lines == ["ready", "ended False"]
        assert script.log() == ""


def test_an_applications_own_use_of_usr1_is_left_alone(listening):
    more = "signal.signal(signal.SIGUSR1, lambda *args: say('mine'))\n" + SERVE
    with Script(more, listening) as script:
        script.expect("ready")
        script.kill(signal.SIGUSR1)
        script.expect("mine")
        assert script.end() == 0


def test_it_ends_with_idle_kept_connections(listening):
    with Script(sock=listening) as script, contextlib.ExitStack() as stack:
        address = listening.getsockname()
        peers = [stack.enter_context(wire.Peer(address)) for _ in range(5)]
        for peer in peers[1:]:
            assert peer.request(keep_conn=True).status == 200
        script.kill()
        for peer in peers[1:]:
            assert peer.receive_close()
        assert script.wait() == 0


@pytest.mark.parametrize("keep_conn", [False, True])
def test_a_running_request_finishes(listening, keep_conn):
    with Script(sock=listening) as script:
        with sleeping(script, listening.getsockname(), 0.3, keep_conn) as peer:
            script.kill()
            response = peer.receive_end()
            assert (response.status, response.ended) == (200, True)
            assert peer.receive_close()
        assert script.wait() == 0


def test_a_stuck_request_ends_after_graceful_timeout(listening):
    with Script(sock=listening, options="graceful_timeout=0.2") as script:
        with sleeping(script, listening.getsockname(), 1000) as peer:
            script.kill()
            assert not peer.receive_end().ended
        assert script.wait() == 0
        assert "graceful_timeout=0.2" in script.log()


def test_a_second_signal_does_not_wait(listening):
    with Script(sock=listening, options="graceful_timeout=1000") as script:
        with stuck(script, listening.getsockname()) as idle:
            script.kill()
            assert idle.receive_close()  # so the first one has arrived
            assert script.end() == 0


def test_signals_in_a_storm(listening):
    with Script(sock=listening) as script:
        script.expect("ready")
        for _ in range(200):
            with contextlib.suppress(ProcessLookupError):
                script.kill()
        # After run() the former handlers are back, so the last of them may still kill.
        assert script.wait() in (0, -signal.SIGTERM)


# -------------------------------------------------------------------------------------- HUP


def test_hup_ends_run_with_true_and_it_can_run_again(listening):
    address = listening.getsockname()
    with Script(SERVE_AGAIN, listening) as script:
        for times in (1, 2, 3):
            script.expect("ready", times)
            assert get(address).status == 200
            script.kill(signal.SIGHUP)
            script.expect("ended True", times)
        script.expect("ready", 4)
        assert get(address).status == 200
        assert script.end() == 0
        assert script.lines[-1] == "ended False"


def test_hup_lets_running_requests_finish(listening):
    with Script(SERVE_AGAIN, listening) as script:
        with sleeping(script, listening.getsockname(), 0.3) as peer:
            script.kill(signal.SIGHUP)
            assert peer.receive_end().ended
        script.expect("ready", 2)
        assert script.end() == 0


def test_term_after_hup_is_the_end(listening):
    """Else a service manager that reloads and then stops would have to kill."""
    with Script(SERVE_AGAIN, listening, options="graceful_timeout=1000") as script:
        with stuck(script, listening.getsockname()) as idle:
            script.kill(signal.SIGHUP)
            assert idle.receive_close()
            assert script.end() == 0
        assert "ended False" in script.lines


def test_hup_after_term_changes_nothing(listening):
    """systemd sends both where SendSIGHUP= is set."""
    with Script(SERVE_AGAIN, listening, options="graceful_timeout=1") as script:
        with stuck(script, listening.getsockname()) as idle:
            script.kill()
            assert idle.receive_close()
            assert script.end(signal.SIGHUP) == 0
        assert "ended False" in script.lines


def test_run_again_on_the_sockets_of_systemd(listening):
    more = "import os\nos.environ['LISTEN_PID'] = str(os.getpid())\nos.dup2(0, 3)\n"
    more += "os.close(0)\nos.open(os.devnull, os.O_RDONLY)\n"
    for again, options in ((SERVE_AGAIN, ""), (SERVE_ANOTHER, ""), (SERVE_AGAIN, "bind='systemd'")):
        with Script(more + again, listening, options, LISTEN_FDS="1") as script:
            for times in (1, 2):
                script.expect("ready", times)
                assert get(listening.getsockname()).status == 200
                script.kill(signal.SIGHUP)
                script.expect("ended True", times)
            script.expect("ready", 3)
            assert script.end() == 0


# --------------------------------------------------------------------- what is left of run()


def test_handlers_are_put_back(listening):
    more = """
mine = lambda *args: say("mine")
numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
for number in numbers:
    signal.signal(number, mine)
serve(WSGIServer(app))
assert all(signal.getsignal(number) is mine for number in numbers)
assert signal.set_wakeup_fd(-1) == -1
os.kill(os.getpid(), signal.SIGTERM)
"""
    with Script(more, listening) as script:
        script.expect("ready")
        assert script.end() == 0
        assert script.lines == ["ready", "ended False", "mine"]


def test_handlers_are_put_back_after_an_error(listening):
    more = """
before = signal.getsignal(signal.SIGTERM)
try:
    WSGIServer(app, bind="host.invalid:1").run()
except OSError:
    assert signal.getsignal(signal.SIGTERM) is before
    say("fine")
"""
    with Script(more) as script:
        assert (script.wait(), script.lines) == (0, ["fine"])


def test_the_file_of_a_socket_is_removed(path):
    with Script(options=f"bind={path!r}, socket_mode=0o640") as script:
        script.expect("ready")
        assert stat.S_IMODE(os.lstat(path).st_mode) == 0o640
        assert get(path).status == 200
        assert script.end() == 0
    assert not os.path.lexists(path)


def test_a_killed_server_leaves_a_file_that_the_next_one_replaces(path):
    for _ in range(2):
        with Script(options=f"bindAddress={path!r}") as script:
            script.expect("ready")
            assert get(path).status == 200
            script.end(signal.SIGKILL)
        assert os.path.lexists(path)


def test_an_address_in_use_is_one_clear_sentence(path):
    with Script(options=f"bind={path!r}") as first:
        first.expect("ready")
        with Script(options=f"bind={path!r}") as second:
            assert second.wait() == 1
            last = second.log().strip().splitlines()[-1]
            assert f"cannot listen on {path}: another server is listening there" in last
        assert get(path).status == 200


def test_a_signal_while_the_main_thread_does_not_wait(listening):
    """No system call is interrupted then, and no line of Python runs in its loop."""
    more = """
import ctypes, functools
def kill():
    server.wait_ready()
    # Straight from C to C, in the main thread.
    server.engine.call_soon(functools.partial(ctypes.CDLL(None).kill, os.getpid(), signal.SIGTERM))
server = WSGIServer(app)
threading.Thread(target=kill).start()
serve(server)
"""
    with Script(more, listening) as script:
        script.expect("ended False")
        assert script.wait() == 0


# ---------------------------------------------------------------------------- descriptor 0


def test_what_is_printed_does_not_reach_a_connection(listening):
    """A web server may start it with descriptor 0 alone (spec 2.2)."""
    more = """
os.close(1); os.close(2)
def noisy(environ, start_response):
    print("noise", flush=True)
    for fd in (1, 2):
        os.write(fd, b"noise")
    return app(environ, start_response)
WSGIServer(noisy).run()
"""
    with Script(more, listening) as script:
        for _ in range(3):
            response = get(listening.getsockname())
            assert (response.status, response.body) == (200, str(script.popen.pid).encode())
        assert script.end() == 0


def test_started_with_descriptor_0_alone(listening):
    code = SCRIPT + "WSGIServer(app).run()"
    command = ["sh", "-c", 'exec "$0" -c "$1" >&- 2>&-', sys.executable, code]
    env = environment({"PYTHONPATH": os.pathsep.join(sys.path)})
    with subprocess.Popen(command, stdin=listening, env=env) as process:
        try:
            address = listening.getsockname()
            assert get(address).body == str(process.pid).encode()
            response = get(address, "/sleep/0")  # says so on descriptor 1
            assert (response.status, response.stderr) == (200, b"")
            process.terminate()
            assert process.wait(DEADLINE) == 0
        finally:
            process.kill()


def test_errors_are_not_written_to_stderr_too_on_descriptor_0(listening, path):
    """flup's rule: a terminal is watched where an address was given."""
    more = """
def writing(environ, start_response):
    environ["wsgi.errors"].write("an error line\\n")
    return app(environ, start_response)
serve(WSGIServer(writing, {options}))
"""
    for options, address in (("", listening.getsockname()), (f"bind={path!r}", path)):
        with Script(more, listening, options) as script:
            script.expect("ready")
            assert get(address).stderr == b"an error line\n"
            assert script.end() == 0
            assert script.log() == ("an error line\n" if options else "")


# ---------------------------------------------------------------------------- two processes


def test_two_processes_on_one_socket_end_both(listening):
    more = """
child = os.fork()
if child:
    serve(WSGIServer(app, multiprocess=True))
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
say("child", os.getpid())
serve(WSGIServer(app, multiprocess=True))
"""
    address = listening.getsockname()
    with Script(more, listening) as script:
        script.expect("ready", 2)
        pids = {script.popen.pid}
        pids.update(int(line.split()[1]) for line in script.lines if line.startswith("child"))
        served, end = set(), time.monotonic() + DEADLINE
        while served != pids and time.monotonic() < end:
            with sleeping(script, address, 0.05) as first, sleeping(script, address, 0) as second:
                served |= {int(peer.receive_end().body) for peer in (first, second)}
        assert served <= pids and served
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        assert script.wait() == 0
        assert script.lines.count("ended False") == 2


def test_the_other_process_goes_on_alone(listening):
    """Both wake for a connection and one gets it: the other must not sit in accept()."""
    address = listening.getsockname()
    with Script(sock=listening) as first, Script(sock=listening) as second:
        first.expect("ready")
        second.expect("ready")
        for _ in range(20):
            assert get(address).status == 200
        assert first.end() == 0
        assert [int(get(address).body) for _ in range(5)] == [second.popen.pid] * 5
        assert second.end() == 0


# --------------------------------------------------------------------- another thread's run()


def test_run_off_the_main_thread_leaves_signals_to_the_process(listening):
    more = """
server = WSGIServer(app)
signal.signal(signal.SIGTERM, lambda *args: server.stop())
thread = threading.Thread(target=serve, args=(server,))
thread.start()
while thread.is_alive():
    thread.join(0.05)
"""
    with Script(more, listening) as script:
        script.expect("ready")
        assert get(listening.getsockname()).status == 200
        assert script.end() == 0
        assert script.lines == ["ready", "ended False"]
