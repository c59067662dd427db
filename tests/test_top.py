"""`fastfcgi top`: rates, tables, a real terminal, and what is no status page."""

import contextlib
import copy
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wire
from asking import COMMAND, Runner, environment
from asking import run as run  # a fixture
from helpers import Serving, serving
from scripted import END, answering, scripted, stdout
from test_status import SNAPSHOT

from fastfcgi import status, top

if not hasattr(socket, "AF_UNIX"):
    pytest.skip("unix sockets", allow_module_level=True)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs a terminal of Linux")

JSON = b"Content-Type: application/json\r\n\r\n"


def document(**worker: Any) -> dict[str, Any]:
    """The status page of two workers; the first is changed."""
    found: dict[str, Any] = status.as_dict(SNAPSHOT, full=True)
    found["workers"][0].update(worker)
    return found


class Pages:
    """An application that has a status page, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.running = "GET /slow"

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        page = {"/status": status.respond("json&full", SNAPSHOT), "/text": b"Status: 200\r\n\r\nx"}
        code, headers, body = wire.parse_cgi(page.get(environ["PATH_INFO"], b"Status: 404\r\n\r\n"))
        if environ["PATH_INFO"] == "/status":
            assert environ["QUERY_STRING"] == "json&full"
            self.asked += 1
            found = json.loads(body)
            found["now"] += self.asked
            found["workers"][0]["requests"] += 1000 * (self.asked - 1)
            found["workers"][0]["running"][0]["request"] = self.running
            body = json.dumps(found).encode()
            headers = [(name, value) for name, value in headers if name != "Content-Length"]
        start_response(f"{code} X", headers)
        return [body]


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
def web(pages: Pages, tmp_path: Path) -> Iterator[Serving]:
    with serving(pages, bind=f"unix:{tmp_path}/s") as found:
        yield found


# --------------------------------------------------------------------------------- numbers


def test_rates() -> None:
    before, now = document(), document(requests=123456 + 300)
    now["now"] += 2
    assert top.rates(now, before) == {4712: 150.0, 4713: 0.0}
    assert top.rates(now, None) == {}


def test_rates_of_workers_that_come_and_go() -> None:
    before, now = document(pid=1, requests=10**6), document(pid=2, requests=50)
    now["now"] += 5
    assert top.rates(now, before) == {2: 10.0, 4713: 0.0}
    # The same pid, given anew.
    assert top.rates(document(pid=1, requests=5) | {"now": now["now"]}, before)[1] == 0.0


@pytest.mark.parametrize("passed", [0, -5])
def test_rates_by_a_clock_that_was_set(passed: float) -> None:
    before, now = document(), document(requests=10**6)
    now["now"] += passed
    assert top.rates(now, before) == {4712: 0.0, 4713: 0.0}


def test_numbers() -> None:
    before, now = document(), document(requests=123456 + 300)
    now["now"] += 2
    assert top.numbers(now, before) == [
        "4712 serving 2 1h02m 150.0 123756 2/64 1 7 4 45M 12s".split(),
        "4713 starting 2 0.0s 0.0 1 2/64 1 7 4 - -".split(),
    ]
    assert [row[4] for row in top.numbers(now, None)] == ["-", "-"]
    assert all(len(row) == len(top.WORKER_COLUMNS) for row in top.numbers(now, None))


def test_running_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    now = document()
    now["workers"][1]["running"] = [{"seconds": 70, "request": "GET /\x1b[2J"}]
    rows = [["4713", "1m10s", r"GET /\x1b[2J"], ["4712", "12s", "POST /slow?a=1"]]
    assert top.running(now) == [*rows, ["4712", "0.2s", "GET /quick"]]
    monkeypatch.setattr(top, "MAX_RUNNING", 2)
    assert top.running(now) == rows


def test_head() -> None:
    before, now = document(), document(requests=123456 + 3)
    now["now"] += 2
    assert top.head(now, before, "./s") == [
        "fastfcgi 1.2.3 at ./s, static, pid 4711, generation 2, up 1d02h",
        "1.5 requests/s, 4 of 128 threads busy, 2 waiting, 14 connections",
        "123,457 requests: 6 aborted, 8 failed, 10 slow; workers restarted: 1",
    ]
    assert top.head(now, None, "./s")[1].startswith("- requests/s, ")
    assert top.numbers(document(state="\x1b"), None)[0][1] == r"\x1b"
    assert top.head(now | {"mode": "\x1b"}, None, "./s")[0].count(r"\x1b") == 1


@pytest.mark.parametrize(
    ("rate", "text"), [(None, "-"), (0.0, "0.0"), (999.94, "999.9"), (123456.7, "123457")]
)
def test_rate_text(rate: float | None, text: str) -> None:
    assert top.rate_text(rate) == text


# ------------------------------------------------------------------------------- one look


def test_once(web: Serving, run: Runner) -> None:
    pytest.importorskip("rich")
    done = run("top", web.address, "--once")
    assert (done.status, done.err) == (0, "")
    lines = [line.rstrip() for line in done.out.splitlines()]
    assert lines[0].startswith(f"fastfcgi 1.2.3 at {web.address}"[:79])
    assert lines[4:7] == [
        " PID STATE    GEN   AGE REQ/S   DONE BUSY WAIT CONNS FAIL MEMORY LONGEST",
        "4712 serving    2 1h02m     - 123456 2/64    1     7    4    45M     12s",
        "4713 starting   2  0.0s     -      1 2/64    1     7    4      -       -",
    ]
    assert lines[8:] == [" PID  FOR REQUEST", "4712  12s GET /slow", "4712 0.2s GET /quick"]


def test_where_nobody_looks(web: Serving, run: Runner) -> None:
    """Into a file or a pipe it draws once."""
    pytest.importorskip("rich")
    done = run("top", web.address)
    assert (done.status, done.err) == (0, "") and done.out.count("REQ/S") == 1
    assert "\x1b" not in done.out


def test_a_long_request_and_marks_of_rich(web: Serving, pages: Pages, run: Runner) -> None:
    """The request is what is cut, and nothing in it is taken for a colour."""
    pytest.importorskip("rich")
    pages.running = "GET /[bold red]x[/]" + "y" * 170
    lines = run("top", web.address, "--once").out.splitlines()
    line = next(line for line in lines if "bold" in line)
    assert line.startswith("4712  12s GET /[bold red]x[/]yyy")
    assert "4712 serving    2 1h02m" in "\n".join(lines)


def test_nothing_is_running() -> None:
    console = pytest.importorskip("rich.console").Console(width=80, file=open(os.devnull, "w"))
    now = document(running=[])
    with contextlib.closing(console.file), console.capture() as captured:
        console.print(top.screen(now, None, "./s", "lost \x1b"))
    assert "REQUEST" not in captured.get()
    assert captured.get().splitlines()[3].rstrip() == r"lost \x1b"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--path", "/none"], "404 X: is it served with --status-path /none?"),
        (["--path", "/text"], "nothing of a type: that is no status page"),
    ],
)
def test_no_status_page(arguments: list[str], said: str, web: Serving, run: Runner) -> None:
    pytest.importorskip("rich")
    assert run.error("top", web.address, *arguments).endswith(said)


def damaged(*path: "str | int") -> bytes:
    """The page without one of its entries."""
    found = copy.deepcopy(document())
    place: Any = found
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return json.dumps(found).encode()


@pytest.mark.parametrize(
    "page",
    [
        *(b"", b"[]", b"{", b"7", b'"x"', b'{"pool": "www"}', b"\xff"),
        *(b'{"workers": 5, "now": 1}', b'{"workers": [], "totals": {}, "now": 1}'),
        json.dumps(document(uptime=float("inf"))).encode(),
        damaged("totals"),
        damaged("workers", 0, "running", 0, "request"),
        damaged("workers", 1, "longest"),
    ],
)
def test_another_json(page: bytes, run: Runner) -> None:
    pytest.importorskip("rich")
    with scripted(answering(stdout(JSON + page), END)) as (host, port):
        text = run.error("top", f"{host}:{port}", "--once")
    assert text == f"{host}:{port} answers /status with no status page of fastfcgi"


def test_nobody_there(run: Runner, tmp_path: Path) -> None:
    pytest.importorskip("rich")
    assert run.error("top", f"{tmp_path}/none").startswith("no FastCGI server at ")


def test_without_rich(web: Serving, run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    text = run.error("top", web.address, "--once")
    assert text == "fastfcgi top needs rich: pip install 'fastfcgi[top]'"


@pytest.mark.parametrize("option", ["--interval=0", "--path=x", "--nothing"])
def test_wrong_options(option: str, run: Runner) -> None:
    assert option[2:].partition("=")[0] in run.error("top", "./s", option, status=2)


# ------------------------------------------------------------------------------ a terminal


class Terminal:
    """`fastfcgi top` in a terminal of 80 columns and 24 lines."""

    def __init__(self, *arguments: str, stdin: int | None = None) -> None:
        import fcntl
        import pty
        import termios

        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.settings = termios.tcgetattr(theirs)
        self.theirs = theirs
        self.process = subprocess.Popen(
            [*COMMAND, "top", *arguments],
            env=environment(TERM="xterm"),
            stdin=theirs if stdin is None else stdin,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        self.seen = b""

    def wait_for(self, pattern: bytes) -> None:
        """Read on until what was drawn has the pattern; then forget it."""
        end = time.monotonic() + wire.DEADLINE
        while not re.search(pattern, self.seen, re.DOTALL):
            assert time.monotonic() < end, self.seen
            if select.select([self.ours], [], [], 0.1)[0]:
                self.seen += os.read(self.ours, 65536)
        self.seen = b""

    def rest(self) -> bytes:
        """What comes until its end."""
        end = time.monotonic() + wire.DEADLINE
        while self.process.poll() is None or select.select([self.ours], [], [], 0.1)[0]:
            assert time.monotonic() < end, self.seen
            if select.select([self.ours], [], [], 0.1)[0]:
                self.seen += os.read(self.ours, 65536)
        return self.seen

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        """Take the terminal away."""
        for fd in (self.ours, self.theirs):
            with contextlib.suppress(OSError):
                os.close(fd)
        self.ours = self.theirs = -1


@linux_only
@pytest.mark.parametrize("way", ["q", "TERM", "INT"])
def test_in_a_terminal(way: str, web: Serving) -> None:
    """It draws again and again, and leaves the terminal as it was."""
    import termios

    pytest.importorskip("rich")
    with Terminal(web.address, "--interval", "0.05") as terminal:
        terminal.wait_for(rb"REQ/S.* 1000\b.*GET /slow")  # a rate: 1000 in each second
        terminal.wait_for(rb"REQ/S")
        if way == "q":
            os.write(terminal.ours, b"xq")
        else:
            terminal.process.send_signal(getattr(signal, f"SIG{way}"))
        last = terminal.rest()
        assert terminal.process.returncode == 0
        assert b"\x1b[?1049l" in last and b"\x1b[?25h" in last  # the screen and cursor of before
        assert b"Traceback" not in last
        assert termios.tcgetattr(terminal.theirs) == terminal.settings


@linux_only
def test_a_server_that_is_away_for_a_while(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    address = f"unix:{tmp_path}/s"
    with contextlib.ExitStack() as stack:
        with serving(Pages(), bind=address):
            terminal = stack.enter_context(Terminal(address, "--interval", "0.05"))
            terminal.wait_for(rb"REQ/S")
        terminal.wait_for(rb"no FastCGI server at .*4712 ")  # and what was seen last
        with serving(Pages(), bind=address):
            terminal.wait_for(rb"workers restarted: 1 *\r\n *\r\n")
            os.write(terminal.ours, b"q")
            terminal.rest()
            assert terminal.process.returncode == 0


@linux_only
def test_once_in_a_terminal(web: Serving) -> None:
    pytest.importorskip("rich")
    with Terminal(web.address, "--once") as terminal:
        assert terminal.rest().count(b"REQ/S") == 1
        assert terminal.process.returncode == 0


@linux_only
def test_a_terminal_that_is_closed(web: Serving) -> None:
    pytest.importorskip("rich")
    with Terminal(web.address, "--interval", "0.05") as terminal:
        terminal.wait_for(rb"REQ/S")
        terminal.close()
        assert terminal.process.wait(wire.DEADLINE) in (0, 1)


@linux_only
def test_without_a_terminal_for_keys(web: Serving) -> None:
    """stdin is /dev/null, stdout is a terminal: Ctrl-C ends it still."""
    pytest.importorskip("rich")
    with Terminal(web.address, "--interval", "0.05", stdin=subprocess.DEVNULL) as terminal:
        terminal.wait_for(rb"REQ/S.* 1000\b")
        terminal.process.send_signal(signal.SIGINT)
        terminal.rest()
        assert terminal.process.returncode == 0
