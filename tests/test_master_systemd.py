"""What systemd sees of a real master: messages, sockets that it has passed."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import wire
from master_process import Load, Served
from processes import wait_until
from test_master_upgrade import RUN as UPGRADED

# Takes descriptor 0 as systemd's first one, as systemd-socket-activate does.
PASSED = """
if "LISTEN_FDS" not in os.environ and not os.environ.get("_FASTFCGI_MASTER"):
    os.dup2(0, 3)
    os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
settings = MasterSettings({options})
sys.exit(Master(settings, load).run())
"""


class Systemd:
    """The socket that it listens at, and what has arrived."""

    def __init__(self, folder: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path = str(folder / "notify.sock")
        self.sock.bind(self.path)
        self.sock.setblocking(False)
        self.lines: list[str] = []

    def has(self, line: str, times: int = 1) -> bool:
        while True:
            try:
                self.lines += self.sock.recv(4096).decode().splitlines()
            except BlockingIOError:
                return self.lines.count(line) >= times

    def wait_for(self, line: str, times: int = 1) -> None:
        wait_until(lambda: self.has(line, times), f"{line}, not {self.lines}")

    def close(self) -> None:
        self.sock.close()
        os.unlink(self.path)


@pytest.fixture
def systemd(folder) -> Iterator[Systemd]:
    made = Systemd(folder)
    yield made
    made.close()


def test_states(folder, systemd: Systemd) -> None:
    env = {"NOTIFY_SOCKET": systemd.path, "WATCHDOG_USEC": "200000"}
    more = "def load():\n    assert 'NOTIFY_SOCKET' not in os.environ\n    return app\n"
    with Served(folder, "workers=2", more, env=env) as served:
        systemd.wait_for("READY=1")
        assert f"MAINPID={served.pid}" in systemd.lines
        assert len(served.workers()) == 2
        systemd.wait_for("STATUS=2 of 2 workers serve, generation 1")
        systemd.wait_for("WATCHDOG=1", 3)
        served.send(signal.SIGHUP)
        systemd.wait_for("RELOADING=1")
        systemd.wait_for("READY=1", 2)
        assert any(line.startswith("MONOTONIC_USEC=") for line in systemd.lines)
        assert systemd.lines.index("RELOADING=1") > systemd.lines.index("READY=1")
        served.send(signal.SIGTERM)
        systemd.wait_for("STOPPING=1")
        assert served.wait() == 0


def test_ready_means_that_somebody_serves(folder, systemd: Systemd) -> None:
    more = (
        "def load():\n    while os.path.exists('slow'):\n        time.sleep(0.01)\n    return app\n"
    )
    (folder / "slow").touch()
    with Served(folder, "workers=1", more, env={"NOTIFY_SOCKET": systemd.path}) as served:
        systemd.wait_for("STATUS=0 of 1 workers serve, generation 1")
        assert not systemd.has("READY=1")
        (folder / "slow").unlink()
        systemd.wait_for("READY=1")
        served.send(signal.SIGTERM)
        assert served.wait() == 0


def test_an_upgrade_is_a_reload(folder, systemd: Systemd) -> None:
    (folder / "version.txt").write_text("one")
    env = {"NOTIFY_SOCKET": systemd.path}
    with Served(folder, "workers=1", run=UPGRADED, env=env) as served:
        systemd.wait_for("READY=1")
        served.send(signal.SIGUSR2)
        systemd.wait_for("RELOADING=1")
        systemd.wait_for("READY=1", 2)
        assert {line for line in systemd.lines if "MAINPID" in line} == {f"MAINPID={served.pid}"}
        systemd.wait_for("STATUS=1 of 1 workers serve, generation 2")
        (folder / "version.txt").unlink()
        served.send(signal.SIGTERM)
        assert served.wait() == 0


@pytest.mark.parametrize("bind", ["None", "['systemd']", "['fd:0']"])
def test_sockets_that_were_passed_are_kept(folder, bind: str) -> None:
    path = str(folder / "passed.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen(100)
        with Served(folder, f"workers=2, bind={bind}", run=PASSED, stdin=sock) as served:
            served.wait_for_workers(2)
            with Load(path) as load:
                for generation in (2, 3):
                    served.send(signal.SIGHUP)
                    served.wait_for_log(f"reloaded, generation {generation}")
                    load.wait_for_more()
            assert not load.errors, (load.errors, load.examples)
            served.send(signal.SIGTERM)
            assert served.wait() == 0
        # It is systemd's: its file stays, and it goes on taking connections.
        with wire.Peer(path):
            pass
        assert os.path.exists(path)
        os.unlink(path)
