"""bench/meter.py and what else measures: CPU, memory, switches and system calls are those that a
process is known to have had."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("needs Linux, as all tests with real processes", allow_module_level=True)

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "bench" / "meter.py").exists():
    pytest.skip("the benchmarks are not here", allow_module_level=True)
sys.path.append(str(ROOT))

from processes import TOKEN, TOKEN_NAME, require  # noqa: E402

from bench import kinds, meter  # noqa: E402
from bench.apps import HELLO, spin_rounds  # noqa: E402
from bench.load import Ask, Failed  # noqa: E402
from bench.rounds import lane_of, measure  # noqa: E402
from bench.running import running  # noqa: E402
from bench.scenarios_http import parse_wrk  # noqa: E402


@pytest.fixture(autouse=True)
def _marked_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is started here is found if it is left behind."""
    monkeypatch.setenv(TOKEN_NAME, TOKEN)


# Burns CPU in a thread that ends, in its first thread, and in a child; then says how much each
# process thinks it was. The child waits for the end of the pipe, as its parent does.
BURNER = """
import os, sys, threading, time

def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass

child = os.fork()
thread = threading.Thread(target=burn, args=(0.15,))
thread.start()
thread.join()
burn(0.05 if child else 0.1)
os.write(1, b"%d\\n" % time.process_time_ns())
sys.stdin.read()
"""


@pytest.fixture
def start() -> Iterator[Callable[[str], "subprocess.Popen[bytes]"]]:
    """Runs Python code in a process group of its own, with pipes."""
    with contextlib.ExitStack() as stack:

        def run(code: str) -> "subprocess.Popen[bytes]":
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", code],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,
                )
            )
            stack.callback(process.kill)
            return process

        yield run


def test_cpu_is_that_of_the_whole_group(
    start: Callable[[str], "subprocess.Popen[bytes]"],
) -> None:
    process = start(BURNER)
    assert process.stdout is not None
    told = sum(int(process.stdout.readline()) for _ in range(2))
    pids = meter.group_of(process.pid)
    assert len(pids) == 2 and process.pid in pids
    meter.wait_idle(pids)
    measured = meter.cpu_ns(pids)
    # What a process does after it has looked at its own clock is little.
    assert told >= 0.44e9
    assert told <= measured < told * 1.03 + 5e6
    tick = 1e9 / os.sysconf("SC_CLK_TCK")
    assert meter.cpu_ticks_ns(pids) == pytest.approx(measured, abs=5 * tick)
    # The clock of one of them alone is less.
    assert meter.cpu_ns(pids[:1]) < measured - 0.15e9
    # Nothing more while they wait.
    time.sleep(0.3)
    assert meter.cpu_ns(pids) - measured < 5e6


def test_cpu_of_a_round() -> None:
    """A request that spins for a known CPU time costs that."""
    rounds = 100_000  # some milliseconds
    times = []
    for _ in range(3):
        began = time.thread_time()
        spin_rounds(rounds)
        times.append(time.thread_time() - began)
    with running("fastfcgi", "bench.apps:application") as server:
        lanes = [lane_of(server, Ask("/spin", HELLO, query=str(rounds)), 1)]
        found = measure(server, lanes, 0.3)
    assert found["cpu"] == pytest.approx(min(times) * 1e6, rel=0.6)


def test_peak_is_the_largest_so_far(start: Callable[[str], "subprocess.Popen[bytes]"]) -> None:
    process = start("import sys; a = b'x' * (50 << 20); del a; print(1, flush=True); input()")
    assert process.stdout is not None
    process.stdout.readline()
    peak = meter.peak_kib([process.pid])
    assert 50 << 10 < peak < 100 << 10


def test_switches_are_counted(start: Callable[[str], "subprocess.Popen[bytes]"]) -> None:
    process = start(
        "import time\n"
        "print(1, flush=True); input()\n"
        "for _ in range(50): time.sleep(0.001)\n"
        "print(2, flush=True); input()"
    )
    assert process.stdout is not None and process.stdin is not None
    process.stdout.readline()
    meter.wait_idle([process.pid])
    before = meter.switches([process.pid])
    process.stdin.write(b"\n")
    process.stdin.flush()
    process.stdout.readline()
    assert 50 <= meter.switches([process.pid]) - before < 80


# As strace 6.1 prints it, with --summary-only.
STRACE = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 43.21    0.123456          12     10001           epoll_wait
 30.00    0.085000           8     10000        17 recvfrom
 20.79    0.059000           5     10000           sendto
  6.00    0.017000           0        34        17 futex
  0.00    0.000000           0         2           epoll_ctl
------ ----------- ----------- --------- --------- ----------------
100.00    0.284456           9     30037        34 total
"""


def test_table_of_strace() -> None:
    calls = meter.parse_strace(STRACE)
    assert calls.by_name == {
        "epoll_wait": 10001,
        "recvfrom": 10000,
        "sendto": 10000,
        "futex": 34,
        "epoll_ctl": 2,
    }
    assert calls.total == 30037
    assert calls.waiting == 10003
    assert meter.parse_strace("").total == 0


def test_strace_counts_all_threads(
    start: Callable[[str], "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    require("strace")
    process = start(
        "import os, threading\n"
        "def call():\n"
        "    ready.wait()\n"
        "    for _ in range(1000): os.getppid()\n"
        "ready = threading.Event()\n"
        "threads = [threading.Thread(target=call) for _ in range(3)]\n"
        "for thread in threads: thread.start()\n"
        "print(1, flush=True); input(); ready.set()\n"
        "for thread in threads: thread.join()\n"
        "print(2, flush=True); input()"
    )
    assert process.stdout is not None and process.stdin is not None
    process.stdout.readline()
    try:
        with meter.strace([process.pid], str(tmp_path)) as counted:
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.stdout.readline()
    except kinds.Missing as exc:
        pytest.skip(str(exc))  # not allowed in every container
    assert counted[0].by_name["getppid"] == 3000


WRK = """\
Running 1s test @ http://127.0.0.1:8000/hello
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.61ms    2.05ms  24.42ms   95.55%
    Req/Sec    12.24k     1.42k   14.72k    70.00%
  Latency Distribution
     50%  980.00us
     75%    1.53ms
     90%    2.53ms
     99%   12.03ms
  12179 requests in 1.00s, 2.07MB read
Requests/sec:  12166.52
Transfer/sec:      2.07MB
"""


def test_output_of_wrk() -> None:
    assert parse_wrk(WRK) == {
        "requests": 12179.0,
        "rate": 12166.52,
        "p50": pytest.approx(0.98),
        "p99": pytest.approx(12.03),
    }


@pytest.mark.parametrize(
    "line",
    ["  Non-2xx or 3xx responses: 3\n", "  Socket errors: connect 0, read 3, write 0, timeout 0\n"],
)
def test_wrong_answers_to_wrk(line: str) -> None:
    with pytest.raises(Failed):
        parse_wrk(WRK.replace("Requests/sec", f"{line}Requests/sec"))
