"""Every way to start a front-end script: it is the same each time, and has to find out itself.

Who asks is cgi-fcgi, the FastCGI client of the reference implementation, or the web server that
started the script.
"""

import concurrent.futures
import contextlib
import os
import pwd
import signal
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from checks_bodies import MEGABYTE, sha256
from http_client import HOST, fetch
from processes import (
    AS_ROOT,
    DEADLINE,
    SERVER_USER,
    Process,
    alive,
    children,
    environment,
    free_ports,
    orphans_adopted,
    require,
    wait_until,
)
from runtimes import Runtime, own_runtime
from starting import FRONT_END, ask, check_serves, request_env, start
from webservers import start as start_web_server

pytestmark = pytest.mark.webserver


@pytest.fixture
def script(folder: Path) -> Path:
    """The front-end script, for those who run as we do."""
    require("cgi-fcgi")
    return own_runtime().script(folder / "app.fcgi", FRONT_END)


@pytest.fixture
def public_script(folder: Path, public_python: Runtime) -> Path:
    """The front-end script, for those who run as the web servers' user."""
    return public_python.script(folder / "app.fcgi", FRONT_END)


# spawn-fcgi ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_spawn_fcgi_in_the_foreground(folder: Path, script: Path, signum: int) -> None:
    address = f"{folder}/s"
    with start(folder, require("spawn-fcgi"), "-n", "-s", address, "--", script) as process:
        process.wait_for(address)
        assert ask(address, "/process").json()["pid"] == process.pid
        assert process.stop(signum) == 0, process.log()
        assert process.log() == ""
    assert os.path.exists(address)  # spawn-fcgi's, not ours


def test_spawn_fcgi_on_tcp(folder: Path, script: Path) -> None:
    address = (HOST, free_ports(1)[0])
    where = ["-a", HOST, "-p", str(address[1])]
    with start(folder, require("spawn-fcgi"), "-n", *where, "--", script) as process:
        process.wait_for(address)
        assert ask(address, "/env/x").json()["PATH_INFO"] == "/env/x"
        assert process.stop() == 0, process.log()


def test_spawn_fcgi_stopped_without_any_traffic(folder: Path, script: Path) -> None:
    """With the server waiting for its first connection, however far it has come with starting."""
    address = f"{folder}/s"
    with start(folder, require("spawn-fcgi"), "-n", "-s", address, "--", script) as process:
        wait_until(lambda: handles_term(process.pid), "the signal handler")
        assert process.stop() == 0, process.log()


def handles_term(pid: int) -> bool:
    """Whether the process has a handler of its own for SIGTERM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


def spawn_daemons(folder: Path, script: Path, env: Mapping[str, str], *options: str) -> list[int]:
    """Let spawn-fcgi start the script in the background at FOLDER/s; returns the process ids."""
    pid_file = folder / "pids"
    where = ["-s", f"{folder}/s", "-P", str(pid_file), *options]
    with (folder / "spawn-fcgi.log").open("wb") as log:
        subprocess.run(
            [require("spawn-fcgi"), *where, "--", str(script)],
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            timeout=DEADLINE,
            check=True,
        )
    return [int(word) for word in pid_file.read_text().split()]


@contextlib.contextmanager
def ended(pids: list[int]) -> Iterator[None]:
    """However the block ends, these processes do."""
    try:
        yield
    finally:
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(not AS_ROOT, reason="only root can start a process as somebody else")
def test_spawn_fcgi_as_another_user(
    folder: Path, public_script: Path, public_python: Runtime
) -> None:
    require("cgi-fcgi")
    assert SERVER_USER
    entry = pwd.getpwnam(SERVER_USER)
    nobody = pwd.getpwnam("nobody")
    who = ["-u", SERVER_USER, "-g", str(entry.pw_gid), "-M", "0640"]
    owner = ["-U", "nobody", "-G", str(nobody.pw_gid)]
    with orphans_adopted() as wait_for_exit:
        [pid] = spawn_daemons(folder, public_script, public_python.env, *who, *owner)
        with ended([pid]):
            process = ask(f"{folder}/s", "/process").json()
            assert (process["pid"], process["uid"]) == (pid, entry.pw_uid)
            assert process["gid"] == entry.pw_gid
            file = os.stat(f"{folder}/s")
            assert (file.st_uid, file.st_gid) == (nobody.pw_uid, nobody.pw_gid)
            assert stat.S_IMODE(file.st_mode) == 0o640
            os.kill(pid, signal.SIGTERM)
            assert wait_for_exit(pid) == 0


def test_spawn_fcgi_two_processes_on_one_socket(folder: Path, script: Path) -> None:
    """Both wake for a connection, one gets it; the other neither hangs nor ignores TERM."""
    with orphans_adopted() as wait_for_exit:
        pids = spawn_daemons(folder, script, own_runtime().env, "-F", "2")
        assert len(pids) == 2
        with ended(pids):
            wait_until(lambda: all(handles_term(pid) for pid in pids), "both to run")
            for _ in range(20):
                assert ask(f"{folder}/s", "/process").json()["pid"] in pids
            os.kill(pids[0], signal.SIGTERM)
            assert wait_for_exit(pids[0]) == 0
            for _ in range(5):
                assert ask(f"{folder}/s", "/process").json()["pid"] == pids[1]
            os.kill(pids[1], signal.SIGTERM)
            assert wait_for_exit(pids[1]) == 0


def test_spawn_fcgi_two_processes_behind_nginx(folder: Path, script: Path) -> None:
    """Both serve; when one is stopped, nginx's idle connections to it are no trouble."""
    with orphans_adopted() as wait_for_exit:
        pids = spawn_daemons(folder, script, own_runtime().env, "-F", "2", "-M", "0666")
        with ended(pids), start_web_server("nginx", folder, f"{folder}/s") as nginx:
            wait_until(lambda: all(handles_term(pid) for pid in pids), "both to run")

            def serving(_: object) -> int:
                pid: int = fetch(nginx.site, "/span/20").json()["pid"]
                return pid

            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                wait_until(lambda: {*pool.map(serving, range(8))} == {*pids}, "both to serve")
                os.kill(pids[0], signal.SIGTERM)
                assert wait_for_exit(pids[0]) == 0
                assert set(pool.map(serving, range(40))) == {pids[1]}
            os.kill(pids[1], signal.SIGTERM)
            assert wait_for_exit(pids[1]) == 0


# multiwatch ---------------------------------------------------------------------------------------


def test_multiwatch(folder: Path, script: Path) -> None:
    address = f"{folder}/s"
    command = ["-n", "-s", address, "--", require("multiwatch"), "-f", "2", "--", str(script)]
    with start(folder, require("spawn-fcgi"), *command) as watcher:
        watcher.wait_for(address)
        pids = wait_until(lambda: two_children(watcher.pid), "two processes")
        assert ask(address, "/process").json()["pid"] in pids

        os.kill(pids[0], signal.SIGTERM)  # it ends, and is replaced
        wait_until(lambda: pids[0] not in children(watcher.pid), "the first to end")
        pids = wait_until(lambda: two_children(watcher.pid), "another one in its place")
        assert ask(address, "/process").json()["pid"] in pids

        assert watcher.stop() == 0, watcher.log()
        assert not any(alive(pid) for pid in pids)


def two_children(pid: int) -> list[int]:
    """The process ids of its two children, when there are two and they are ready to be stopped."""
    found = children(pid)
    return found if len(found) == 2 and all(handles_term(child) for child in found) else []


# lighttpd, which starts it itself; Apache's mod_fcgid is in test_matrix_apache.py -----------------


def test_lighttpd_bin_path(folder: Path, public_script: Path, public_python: Runtime) -> None:
    two = {'"max-procs" => 1': '"max-procs" => 2'}
    options: Any = {"script": public_script, "env": public_python.env, "changed": two}
    with start_web_server("lighttpd-bin-path", folder, **options) as server:
        pids = wait_until(lambda: two_children(server.pid), "two processes")
        for _ in range(10):
            process = fetch(server.site, "/process").json()
            assert process["pid"] in pids
            assert process["uid"] != 0
        check_serves(server.site)
        server.stop()  # 0 or 1 is lighttpd's own affair, whether its processes end is ours
        wait_until(lambda: not any(alive(pid) for pid in pids), "its processes to end")


# systemd ------------------------------------------------------------------------------------------

# What systemd does for a .socket unit: the listening sockets at 3 and up, and two variables.
ACTIVATE = """
import os, socket, sys
for number, address in enumerate(sys.argv[2:sys.argv.index("--")], 3):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(address)
    sock.listen()
    os.dup2(sock.detach(), number)
    os.set_inheritable(number, True)
pid = os.getpid() + int(sys.argv[1])
os.environ.update(LISTEN_PID=str(pid), LISTEN_FDS=str(number - 2), LISTEN_FDNAMES="app")
command = sys.argv[sys.argv.index("--") + 1:]
os.execv(command[0], command)
"""


def activate(
    folder: Path, script: Path, *addresses: str, pid_offset: int = 0, **env: str
) -> Process:
    """Start the script as systemd does by socket activation; LISTEN_PID is off by pid_offset."""
    command = [own_runtime().python, "-c", ACTIVATE, str(pid_offset), *addresses, "--"]
    return start(folder, *command, script, **env)


def test_listen_fds(folder: Path, script: Path) -> None:
    address = f"{folder}/s"
    with activate(folder, script, address) as process:
        process.wait_for(address)
        answer = ask(address, "/process").json()
        assert answer["pid"] == process.pid
        # Nothing that the application starts may take the sockets for its own.
        assert not [name for name in answer["environment"] if name.startswith("LISTEN_")]
        body = os.urandom(MEGABYTE)
        assert ask(address, "/digest", "POST", body).json()["sha256"] == sha256(body)
        assert process.stop() == 0, process.log()
    assert os.path.exists(address)  # systemd's: it listens on


def test_listen_fds_all_of_them(folder: Path, script: Path) -> None:
    addresses = [f"{folder}/{name}" for name in "abc"]
    with activate(folder, script, *addresses) as process:
        for address in addresses:
            process.wait_for(address)
            assert ask(address, "/process").json()["pid"] == process.pid
        assert process.stop() == 0, process.log()


def test_systemd_socket_activate(folder: Path, script: Path) -> None:
    """systemd's own program, which starts the script at the first connection."""
    address = f"{folder}/s"
    variables = [f"-E{name}" for name in own_runtime().env]
    command = [require("systemd-socket-activate"), "-l", address, *variables, script]
    with start(folder, *command) as process:
        wait_until(lambda: os.path.exists(address), "the socket")
        answer = ask(address, "/process").json()
        assert answer["pid"] == process.pid
        assert not [name for name in answer["environment"] if name.startswith("LISTEN_")]
        assert process.stop() == 0, process.log()


def test_listen_fds_of_another_process(folder: Path, script: Path) -> None:
    """LISTEN_PID says whom the sockets are for; for others they do not exist: this is plain CGI."""
    request = request_env("/env")
    with activate(folder, script, f"{folder}/s", pid_offset=1, **request) as process:
        assert process.wait() == 0
        assert process.log().startswith("Status: 200 OK\n")


# cgi-fcgi as the client ---------------------------------------------------------------------------


def test_cgi_fcgi(folder: Path, script: Path) -> None:
    address = f"{folder}/s"
    with start(folder, require("spawn-fcgi"), "-n", "-s", address, "--", script) as process:
        process.wait_for(address)
        response = ask(address, "/headers")
        assert (response.code, response.stderr) == (0, "")
        cookies = [line for line in response.head if line.startswith("Set-Cookie")]
        assert cookies == ["Set-Cookie: a=1", "Set-Cookie: b=2; Path=/", "Set-Cookie: a=3"]
        body = os.urandom(3 * MEGABYTE)
        assert ask(address, "/echo", "POST", body).body == body
        assert len(ask(address, f"/size/{20 * MEGABYTE}").body) == 20 * MEGABYTE
        assert ask(address, "/errors-log?text=noted").stderr == "noted\n"
        failed = ask(address, "/error?text=something")
        assert failed.head[0].startswith("Status: 500")
        assert "RuntimeError: something" in failed.stderr
        assert process.stop() == 0, process.log()
