"""docs/deployment.md: one machine's settings, and several machines behind HAProxy and nginx.

The machines are network namespaces with the addresses of the page, so its configurations run as
they stand there; only paths of this machine are replaced, and some times shortened.
Clients make requests all the time while a machine is restarted, reloaded, killed or unplugged.
"""

import contextlib
import csv
import grp
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("network namespaces are Linux's", allow_module_level=True)

from cluster import ADDRESSES, APPLICATION, CLIENTS, MACHINES, Clients, Cluster, Held, ask, peers
from network import network
from processes import DEADLINE, environment, require, server_folder, wait_until
from runtimes import own_runtime
from test_docs import DOCS, blocks

PAGE = DOCS / "deployment.md"
ONE, SEVERAL = blocks(PAGE, "toml")

# What a request that is lost looks like: an answer of the web server, or a closed connection (0).
LOST = {0, 502, 503}

# ---- one machine ------------------------------------------------------------------------------


def test_settings_of_one_machine(folder: Path) -> None:
    """They are taken, with folders of ours in the place of those that the page makes."""
    (folder / "myapp.py").write_text(APPLICATION)
    text = re.sub("/srv/app|/run/app|/var/log/app", str(folder), ONE)
    text = text.replace('"www-data"', f'"{grp.getgrgid(os.getgid()).gr_name}"')
    (folder / "app.toml").write_text(text)
    command = [sys.executable, "-m", "fastfcgi", "serve", "--config", "app.toml", "--check"]
    env = environment(own_runtime().env)
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_unit_of_one_machine(folder: Path) -> None:
    """systemd takes every line of it."""
    unit, drop_in = blocks(PAGE, "ini")
    assert drop_in == f"[Service]\nEnvironment=FCGI_WEB_SERVER_ADDRS={peers('a')}\n"
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    unit = unit.replace("/srv/app/venv/bin/fastfcgi", sys.executable)
    (folder / "app.service").write_text(unit)
    command = ["systemd-analyze", "verify", "--man=no", str(folder / "app.service")]
    done = subprocess.run(command, capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if "app.service" in line]
    assert not ours, ours


# ---- several machines -------------------------------------------------------------------------


class Front:
    """A web server on the front. Its parts that differ are in the subclasses.

    Args:
        cluster: what it sends requests to.
        patience: seconds that it waits for an answer, in the place of the page's 60.
    """

    name: str

    def __init__(self, cluster: Cluster, patience: int) -> None:
        self.cluster = cluster
        self.folder = cluster.folder
        self.patience = patience
        self.process = cluster.hosts["front"].process(self.command(), self.folder, self.name)

    def command(self) -> list[str]:
        """Write its configuration; what to start it with."""
        raise NotImplementedError

    def drained(self, machine: str) -> "contextlib.AbstractContextManager[None]":
        """Send nothing to a machine during the block."""
        raise NotImplementedError

    def is_up(self, machine: str) -> bool:
        """Whether its checks of a machine go well; nginx makes none."""
        return False

    def ask(self, path: str) -> int:
        """The status that one GET from the front itself gets, 0 if there is none."""
        found = []

        def fetch() -> None:
            self.cluster.hosts["front"].enter()
            found.append(ask("GET", path)[0])

        thread = threading.Thread(target=fetch)
        thread.start()
        thread.join()
        return found[0]


class HAProxy(Front):
    name = "haproxy"

    def command(self) -> list[str]:
        (text,) = blocks(PAGE, "haproxy")
        text = text.replace("log /dev/log local0", "log stderr format raw local0")
        text = text.replace("/run/haproxy", str(self.folder))
        assert "timeout server 60s" in text
        text = text.replace("timeout server 60s", f"timeout server {self.patience}s")
        (self.folder / "haproxy.cfg").write_text(text)
        return [require("haproxy"), "-db", "-f", str(self.folder / "haproxy.cfg")]

    def admin(self, line: str) -> str:
        """What the page sends to the administrator's socket by socat."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(DEADLINE)
            sock.connect(str(self.folder / "admin.sock"))
            sock.sendall(line.encode() + b"\n")
            return sock.makefile().read()

    @contextlib.contextmanager
    def drained(self, machine: str) -> Iterator[None]:
        (block,) = [block for block in blocks(PAGE, "sh") if "socat" in block]
        first, *_, last = [line for line in block.splitlines() if line]
        form = r'echo "(set server app/)a( state \w+)" \| socat stdio /run/haproxy/admin.sock'
        for line in (first, last):
            match = re.fullmatch(form, line)
            assert match, line
            answer = self.admin(machine.join(match.groups()))
            assert not answer.strip(), answer
            if line is first:
                yield

    def stat(self, machine: str, column: str) -> str:
        """What its statistics have on a machine."""
        names, *rows = csv.reader(self.admin("show stat").removeprefix("# ").splitlines())
        (row,) = [row for row in rows if row[:2] == ["app", machine]]
        return row[names.index(column)]

    def is_up(self, machine: str) -> bool:
        return self.stat(machine, "check_health") != "0"


class Nginx(Front):
    name = "nginx"

    def command(self) -> list[str]:
        self.write()
        return [require("nginx"), "-e", "stderr", "-c", str(self.folder / "nginx.conf")]

    def write(self, down: str = "") -> None:
        """Its configuration: the page's, with one machine marked as down."""
        (text,) = blocks(PAGE, "nginx")
        text = text.replace("include fastcgi_params", "include /etc/nginx/fastcgi_params")
        shorter = {"fail_timeout=10s": 2, "read_timeout 60s": self.patience}
        shorter["next_upstream_timeout 10s"] = min(10, self.patience - 1)
        for name, seconds in shorter.items():
            assert name in text
            text = text.replace(name, re.sub(r"\d+", str(seconds), name))
        if down:
            line = re.escape(ADDRESSES[down]) + ":9000 [^;]*"
            text, found = re.subn(line, r"\g<0> down", text)
            assert found == 1
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "\n".join(f"{kind}_temp_path {self.folder}/{kind};" for kind in kinds)
        (self.folder / "nginx.conf").write_text(
            f"daemon off; pid {self.folder}/nginx.pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; {paths}\n{text} }}\n"
        )

    @contextlib.contextmanager
    def drained(self, machine: str) -> Iterator[None]:
        for down in (machine, ""):
            self.write(down)
            before = self.workers()
            self.process.popen.send_signal(signal.SIGHUP)  # what `nginx -s reload` sends
            wait_until(lambda old=before: self.workers() - old, "new processes of nginx")
            if down:
                yield

    def workers(self) -> set[str]:
        """The ids of its worker processes."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return set(path.read_text().split())


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with server_folder() as folder, network(folder, ADDRESSES) as hosts:
        cluster = Cluster(folder, hosts, SEVERAL)
        try:
            yield cluster
        finally:
            for machine in list(cluster.servers):
                cluster.servers.pop(machine).__exit__(None, None, None)


@pytest.fixture
def patience() -> int:
    """Seconds that the web server waits for an answer."""
    return 60


@pytest.fixture(params=[HAProxy, Nginx], ids=["haproxy", "nginx"])
def front(request: pytest.FixtureRequest, cluster: Cluster, patience: int) -> Iterator[Front]:
    """The web server, once it sends requests to both machines, all of whose servers run."""
    make: Callable[[Cluster, int], Front] = request.param
    front = make(cluster, patience)
    with front.process:
        wait_until(lambda: front.ask("/x") == 200, f"{front.name}:\n{front.process.log()}")
        yield front


several = pytest.mark.webserver


@several
def test_restarts_and_reloads_lose_nothing(cluster: Cluster, front: Front) -> None:
    """Nor is a request cut that still runs when the checks of the machine have begun to fail."""
    with Clients(cluster) as clients:
        clients.wait_for_answers("a", "b")
        for machine, other in (("a", "b"), ("b", "a")):
            with Held(cluster, machine) as held, front.drained(machine):
                cluster.stop(machine, held, lambda m=machine: not front.is_up(m))
                clients.wait_for_answers(other)
                cluster.start(machine)
            assert not held.lost("GET") | held.lost("POST"), held.answers
            clients.wait_for_answers("a", "b")
        for machine in MACHINES:
            cluster.reload(machine)
            clients.wait_for_answers("a", "b")
    assert not clients.lost, clients.lost


@several
def test_killed(cluster: Cluster, front: Front) -> None:
    """POSTs that it was running are lost, and nothing else; none is done twice."""
    with Clients(cluster) as clients:
        with Held(cluster, "a") as held:
            cluster.kill("a")
        assert not held.lost("GET"), held.answers
        assert held.lost("POST") and held.lost("POST") <= LOST, held.answers
        clients.wait_for_answers("b")
        cluster.start("a")
        clients.wait_for_answers("a", "b")
    assert len(clients.lost) <= CLIENTS, clients.lost
    assert {method for method, _ in clients.lost} <= {"POST"}, clients.lost
    assert {status for _, status in clients.lost} <= LOST, clients.lost


@several
@pytest.mark.parametrize("patience", [4])
def test_vanished(cluster: Cluster, front: Front) -> None:
    """What it was running is lost, in a bounded time; it is taken again when it is back."""
    with Clients(cluster) as clients:
        with Held(cluster, "a") as held:
            cluster.link("a", "down")
            try:
                for thread in held.threads:
                    thread.join(4 * DEADLINE)
                clients.wait_for_answers("b")
                wait_until(lambda: not front.is_up("a"), "the end of its health")
            finally:
                cluster.link("a", "up")
        assert held.lost("POST") and held.lost("GET") | held.lost("POST") == {504}, held.answers
        clients.wait_for_answers("a", "b")
    # What was on its way, at most once for each client, and after that whoever tried it first.
    assert len(clients.lost) <= 2 * CLIENTS, clients.lost
    assert {status for _, status in clients.lost} <= {*LOST, 504}, clients.lost


@several
@pytest.mark.parametrize("front", [HAProxy], ids=["haproxy"], indirect=True)
def test_health_checks_see_an_application_that_fails(cluster: Cluster, front: HAProxy) -> None:
    """Its machine takes connections and answers, with 500: nobody is to get that."""

    def wait_for_check(result: str, code: str) -> None:
        wanted = [result, code]
        columns = ["check_status", "check_code"]
        wait_until(
            lambda: [front.stat("a", c) for c in columns] == wanted, f"a check to be {wanted}"
        )

    wait_for_check("L7OK", "200")
    with cluster.application_fails("a"):
        wait_for_check("L7STS", "500")
        wait_until(lambda: not front.is_up("a"), "two failed checks")
        assert {front.ask("/x") for _ in range(10)} == {200}
    wait_for_check("L7OK", "200")


@several
def test_all_are_gone(cluster: Cluster, front: Front) -> None:
    for machine in MACHINES:
        cluster.stop(machine)
    try:
        gone = {"haproxy": 503, "nginx": 502}[front.name]
        wait_until(lambda: front.ask("/x") == gone, f"a {gone}")
    finally:
        for machine in MACHINES:
            cluster.start(machine)
    wait_until(lambda: front.ask("/x") == 200, "an answer again")


@several
def test_pages_are_kept_from_clients(cluster: Cluster, front: Front) -> None:
    kept = {"haproxy": 403, "nginx": 404}[front.name]
    assert [front.ask(path) for path in ("/ping", "/status", "/x")] == [kept, kept, 200]


@several
def test_only_the_front_may_connect(cluster: Cluster) -> None:
    assert cluster.ping("a", "front").returncode == 0
    assert cluster.ping("a", "a").returncode == 0
    assert cluster.ping("a", "b").returncode == 1
