"""Every way to start a front-end script: it is the same each time, and has to find out itself.

Who asks is cgi-fcgi, the FastCGI client of the reference implementation, or the web server that
started the script.
"""

import contextlib
import json
import os
import pwd
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from http_client import HOST, Site, fetch
from processes import (
    AS_ROOT,
    DEADLINE,
    SERVER_USER,
    Address,
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
from webserver_checks import MEGABYTE, sha256
from webservers import apache_fcgid, lighttpd_bin_path, lighttpd_cgi

pytestmark = pytest.mark.webserver

FRONT_END = """
from apps import application
from fastfcgi import WSGIServer

WSGIServer(application).run()
"""


@dataclass(frozen=True)
class Response:
    """What came out of a CGI program."""

    head: list[str]
    body: bytes
    stderr: str
    code: int

    def json(self) -> Any:
        """The body of a 200 as JSON."""
        assert self.head[0] == "Status: 200 OK", (self.head, self.stderr)
        return json.loads(self.body)


def request_env(target: str, method: str = "GET", length: int | None = None) -> dict[str, str]:
    """The CGI variables of a request (RFC 3875)."""
    path, _, query = target.partition("?")
    env = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "/app",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": HOST,
    }
    return env if length is None else {**env, "CONTENT_LENGTH": str(length)}


def run_cgi(command: list[str], env: Mapping[str, str], body: bytes = b"") -> Response:
    """Run a CGI program to its end."""
    done = subprocess.run(command, input=body, env=env, capture_output=True, timeout=DEADLINE)
    head, _, content = done.stdout.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    return Response(lines, content, done.stderr.decode(errors="replace"), done.returncode)


def ask(address: Address, target: str, method: str = "GET", body: bytes = b"") -> Response:
    """Send a request to a FastCGI application by cgi-fcgi."""
    where = address if isinstance(address, str) else "{}:{}".format(*address)
    command = [require("cgi-fcgi"), "-bind", "-connect", where]
    return run_cgi(command, request_env(target, method, len(body) if body else None), body)


@pytest.fixture
def script(folder: Path) -> Path:
    """The front-end script, for those who run as we do."""
    require("cgi-fcgi")
    return own_runtime().script(folder / "app.fcgi", FRONT_END)


@pytest.fixture
def public_script(folder: Path, public_python: Runtime) -> Path:
    """The front-end script, for those who run as the web servers' user."""
    return public_python.script(folder / "app.fcgi", FRONT_END)


def start(folder: Path, *command: str | Path, **env: str) -> Process:
    """Start a command with what our own runtime needs in its environment, and env."""
    words = [str(word) for word in command]
    return Process(words, folder, Path(words[0]).name, {**own_runtime().env, **env})


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
    who = ["-u", SERVER_USER, "-g", str(entry.pw_gid), "-M", "0660"]
    with orphans_adopted() as wait_for_exit:
        [pid] = spawn_daemons(folder, public_script, public_python.env, *who)
        with ended([pid]):
            process = ask(f"{folder}/s", "/process").json()
            assert (process["pid"], process["uid"]) == (pid, entry.pw_uid)
            mode = os.stat(f"{folder}/s")
            assert (mode.st_uid, stat.S_IMODE(mode.st_mode)) == (entry.pw_uid, 0o660)
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


# web servers that start it themselves -------------------------------------------------------------


def test_lighttpd_bin_path(folder: Path, public_script: Path, public_python: Runtime) -> None:
    with lighttpd_bin_path(folder, public_script, public_python.env) as server:
        site = server.sites["root"]
        pids = wait_until(lambda: two_children(server.pid), "two processes")
        for _ in range(10):
            process = fetch(site, "/process").json()
            assert process["pid"] in pids
            assert process["uid"] != 0
        check_serves(site)
        server.stop()  # 0 or 1 is lighttpd's own affair, whether its processes end is ours
        wait_until(lambda: not any(alive(pid) for pid in pids), "its processes to end")


def test_apache_mod_fcgid(folder: Path, public_script: Path, public_python: Runtime) -> None:
    with apache_fcgid(folder, public_script, public_python.env) as server:
        for site in server.sites.values():
            environ = fetch(site, "/env/a%20b?c=d").json()
            assert environ["SCRIPT_NAME"] == site.prefix
            assert environ["PATH_INFO"] == "/env/a b"
            assert environ["QUERY_STRING"] == "c=d"
            check_serves(site)
        pid = fetch(server.sites["root"], "/process").json()["pid"]
        server.stop()
        wait_until(lambda: not alive(pid), "its process to end")


def check_serves(site: Site, prefix: str = "") -> None:
    """A body up, one down, a failure."""
    body = os.urandom(MEGABYTE)
    answer = fetch(site, prefix + "/digest", "POST", body).json()
    assert answer == {"length": len(body), "sha256": sha256(body)}
    assert len(fetch(site, prefix + "/size/1000000").body) == 1000000
    head = fetch(site, prefix + "/size/1000", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert fetch(site, prefix + "/error").status == 500
    assert fetch(site, prefix + "/ignore", "POST", body).body == b"ignored"


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


def test_listen_fds_of_another_process(folder: Path, script: Path) -> None:
    """LISTEN_PID says whom the sockets are for; for others they do not exist: this is plain CGI."""
    request = request_env("/env")
    with activate(folder, script, f"{folder}/s", pid_offset=1, **request) as process:
        assert process.wait() == 0
        assert process.log().startswith("Status: 200 OK\n")


# plain CGI ----------------------------------------------------------------------------------------


def run_script(script: Path, target: str, method: str = "GET", body: bytes = b"") -> Response:
    """Run the front-end script as plain CGI."""
    cgi = request_env(target, method, len(body) if body else None)
    return run_cgi([str(script)], {**environment(own_runtime().env), **cgi}, body)


def test_plain_cgi(script: Path) -> None:
    response = run_script(script, "/env/a b?c=d")
    environ = response.json()
    assert (response.code, response.stderr) == (0, "")
    assert "Content-Type: application/json" in response.head
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/app", "/env/a b")
    assert environ["QUERY_STRING"] == "c=d"
    assert environ["wsgi.run_once"] is True
    assert environ["wsgi.multithread"] is False


def test_plain_cgi_utf8(script: Path) -> None:
    environ = run_script(script, "/env/é€").json()
    assert environ["PATH_INFO"] == "/env/é€".encode().decode("latin-1")


def test_plain_cgi_bodies(script: Path) -> None:
    body = os.urandom(MEGABYTE)
    assert run_script(script, "/digest", "POST", body).json()["sha256"] == sha256(body)
    assert run_script(script, "/echo", "POST", body).body == body
    assert run_script(script, "/ignore", "POST", body).body == b"ignored"
    assert run_script(script, "/size/1000", "HEAD").body == b""


def test_plain_cgi_errors(script: Path) -> None:
    response = run_script(script, "/error?text=something")
    assert response.head[0].startswith("Status: 500")
    assert "RuntimeError: something" in response.stderr
    assert "something" not in response.body.decode()
    assert run_script(script, "/errors-log?text=noted").stderr == "noted\n"


def test_forced_cgi(folder: Path, script: Path) -> None:
    """FCGI_FORCE_CGI: plain CGI although descriptor 0 is a listening socket."""
    listening = socket.socket(socket.AF_UNIX)
    with contextlib.closing(listening):
        listening.bind(f"{folder}/s")
        listening.listen()
        env = {**own_runtime().env, **request_env("/env"), "FCGI_FORCE_CGI": "Y"}
        options: Any = {"stdin": listening.fileno()}
        with Process([str(script)], folder, "forced", env, **options) as process:
            assert process.wait() == 0
            assert process.log().startswith("Status: 200 OK\n")


def test_cgi_through_lighttpd(folder: Path, public_python: Runtime) -> None:
    script = public_python.script(folder / "app.cgi", FRONT_END)
    with lighttpd_cgi(folder, script, public_python.env) as server:
        site = server.sites["root"]
        environ = fetch(site, "/app.cgi/env/%C3%A9%20b?c=d").json()
        assert environ["SCRIPT_NAME"] == "/app.cgi"
        assert environ["PATH_INFO"] == "/env/é b".encode().decode("latin-1")
        check_serves(site, "/app.cgi")


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
