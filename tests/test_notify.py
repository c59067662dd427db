"""What systemd is told: the datagrams themselves."""

import os
import socket
import tempfile
import time
from collections.abc import Iterator

import pytest

if not hasattr(socket, "AF_UNIX"):
    pytest.skip("systemd is not here", allow_module_level=True)

from fastfcgi.notify import Notifier


@pytest.fixture
def systemd() -> Iterator[socket.socket]:
    with (
        tempfile.TemporaryDirectory(prefix="fcgi-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        sock.bind(f"{folder}/notify")
        sock.settimeout(10)
        yield sock


def received(sock: socket.socket) -> list[str]:
    return sock.recv(4096).decode().splitlines()


def notifier(sock: socket.socket, **more: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": sock.getsockname(), **more})


def test_states(systemd: socket.socket) -> None:
    told = notifier(systemd)
    told.ready()
    assert received(systemd) == ["READY=1", f"MAINPID={os.getpid()}"]
    before = time.monotonic_ns() // 1000
    told.reloading()
    first, second = received(systemd)
    assert first == "RELOADING=1"
    name, _, number = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(number) <= time.monotonic_ns() // 1000
    told.stopping()
    assert received(systemd) == ["STOPPING=1"]
    told.watchdog()
    assert received(systemd) == ["WATCHDOG=1"]


def test_a_status_is_sent_when_it_changes(systemd: socket.socket) -> None:
    told = notifier(systemd)
    told.status("one")
    told.status("one")
    told.status("two")
    assert received(systemd) == ["STATUS=one"]
    assert received(systemd) == ["STATUS=two"]
    told.ready()
    assert received(systemd)[2:] == ["STATUS=two"]


@pytest.mark.skipif(not os.path.exists("/proc/net/unix"), reason="abstract sockets are Linux's")
def test_an_abstract_socket() -> None:
    name = f"fastfcgi-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        sock.settimeout(10)
        Notifier({"NOTIFY_SOCKET": "@" + name}).stopping()
        assert received(sock) == ["STOPPING=1"]


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_systemd_nothing_happens(environ: dict[str, str]) -> None:
    told = Notifier({**environ, "WATCHDOG_USEC": "1000000"})
    told.ready()
    told.status("x")
    assert told.watchdog_interval is None


def test_who_is_gone_is_complained_of_once(caplog: pytest.LogCaptureFixture) -> None:
    told = Notifier({"NOTIFY_SOCKET": "/nonexistent/notify"})
    told.ready()
    told.stopping()
    assert len(caplog.records) == 1
    assert "/nonexistent/notify" in caplog.text


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        ("2000000", None, 1.0),
        ("2000000", str(os.getpid()), 1.0),
        ("2000000", "1", None),  # somebody else's
        ("0", None, None),
        ("", None, None),
        ("-5", None, None),
        ("x", None, None),
    ],
)
def test_the_watchdogs_interval(
    systemd: socket.socket, usec: str, pid: str | None, interval: float | None
) -> None:
    more = {} if pid is None else {"WATCHDOG_PID": pid}
    assert notifier(systemd, WATCHDOG_USEC=usec, **more).watchdog_interval == interval
