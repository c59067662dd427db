"""The status page: text, JSON and OpenMetrics, of any snapshot."""

import dataclasses
import json
import os
import re
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
import wire

from fastfcgi import status
from fastfcgi.status import STATES, Snapshot, WorkerStatus, respond

NOW = 1_700_000_000.0

WORKER = WorkerStatus(
    pid=4712,
    state="serving",
    generation=2,
    started=NOW - 3723,
    requests=123456,
    busy=2,
    queued=1,
    connections=7,
    aborted=3,
    errors=4,
    slow=5,
    threads=64,
    memory=45 * 1024**2,
    running=[(0.25, "GET /quick"), (12.3456, "POST /slow?a=1")],
)
OTHER = dataclasses.replace(
    WORKER, pid=4713, state="starting", started=NOW, memory=None, running=[], requests=1
)
SNAPSHOT = Snapshot(
    version="1.2.3",
    started=NOW - 93784,
    now=NOW,
    pid=4711,
    mode="static",
    generation=2,
    workers=[WORKER, OTHER],
    restarts=1,
    listeners=["unix:/run/app.sock", "127.0.0.1:9000"],
)


def snapshot_of(*workers: WorkerStatus, **changes: Any) -> Snapshot:
    return dataclasses.replace(SNAPSHOT, workers=list(workers), **changes)


def page(query: str = "", snapshot: Snapshot = SNAPSHOT) -> tuple[str, str]:
    """Content type and text of an answer that is right."""
    code, headers, body = wire.parse_cgi(respond(query, snapshot))
    found = {name.lower(): value for name, value in headers}
    assert code == 200
    assert found["cache-control"] == "no-store"
    assert int(found["content-length"]) == len(body)
    return found["content-type"], body.decode("utf-8")


# ------------------------------------------------------------------------------------ text

TEXT = """\
fastfcgi 1.2.3, static, process 4711, generation 2

started      2023-11-13 20:10:16 UTC, 1d02h ago
listening    unix:/run/app.sock
             127.0.0.1:9000
workers      1 starting, 1 serving
restarts     1
requests     123,457 finished, 4 running, 2 waiting
             6 aborted, 8 failed, 10 slow
connections  14
memory       45M

 PID STATE    GEN   AGE REQUESTS BUSY WAIT CONNS FAILED MEMORY LONGEST
4712 serving    2 1h02m   123456 2/64    1     7      4    45M     12s
4713 starting   2  0.0s        1 2/64    1     7      4      -       -
"""

RUNNING = """
 PID SECONDS REQUEST
4712    12.3 POST /slow?a=1
4712     0.2 GET /quick
"""


def test_text() -> None:
    assert page() == ("text/plain; charset=utf-8", TEXT)


def test_text_with_running_requests() -> None:
    assert page("full")[1] == TEXT + RUNNING


def test_nothing_to_tell() -> None:
    text = page("full", snapshot_of(listeners=[]))[1]
    assert text.endswith("\n\nNo worker is there.\n\nNo request is running.\n")
    assert "memory" not in text and "listening" not in text
    assert "workers      none\n" in text


def test_text_fits_a_terminal() -> None:
    """However much there is to tell of workers with long numbers."""
    busiest = dataclasses.replace(
        WORKER,
        pid=4194304,
        generation=999,
        started=NOW - 998 * 86400,
        requests=10**13,
        busy=1000,
        threads=1000,
        queued=9999,
        connections=99999,
        errors=10**5,
        memory=9999 * 1024**3,
        running=[(86400.0 * 998, "GET /" + "x" * 195)],
    )
    workers = [dataclasses.replace(busiest, state=state) for state in STATES for _ in range(9)]
    snapshot = snapshot_of(*workers, restarts=10**9, started=NOW - 998 * 86400)
    lines = page("full", snapshot)[1].splitlines()
    assert max(map(len, lines)) == status.PAGE_WIDTH
    assert lines[-1].endswith("xxx...")


HOSTILE = "GET /\x1b[2J\r\n\x00\x7f\x9b\xe9?\u20ac\ud800"
ESCAPED = r"GET /\x1b[2J\x0d\x0a\x00\x7f\x9b\xe9?\u20ac\ud800"


def test_nothing_that_a_terminal_obeys() -> None:
    snapshot = snapshot_of(dataclasses.replace(WORKER, running=[(1.0, HOSTILE)]))
    text = page("full", snapshot)[1]
    assert text.splitlines()[-1] == "4712     1.0 " + ESCAPED
    snapshot = snapshot_of(
        dataclasses.replace(WORKER, state=HOSTILE),
        mode=HOSTILE,
        version=HOSTILE,
        listeners=[HOSTILE],
    )
    assert re.fullmatch(r"[ -~\n]*", page("full", snapshot)[1])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0.0s"), (9.94, "9.9s"), (9.97, "9s"), (59.9, "59s"), (60, "1m00s")),
        *((3599, "59m59s"), (3600, "1h00m"), (86399, "23h59m"), (86400, "1d00h")),
        (999 * 86400 - 1, "998d23h"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert status.age_text(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        *((0, "0B"), (10239, "10239B"), (10240, "10K"), (10 * 1024**2, "10M")),
        *((10 * 1024**2 - 1, "10M"), (3 * 1024**4, "3072G")),
    ],
)
def test_sizes(number: int, text: str) -> None:
    assert status.size_text(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(9_999_999, "9999999"), (10**7, "10.0M"), (10**11, "100.0G"), (10**13, "10000.0G")],
)
def test_counts(number: int, text: str) -> None:
    assert status.count_text(number) == text
    assert len(text) <= 8


# ------------------------------------------------------------------------------------ JSON

# As docs/monitoring.md promises: what scripts read stays.
SERVER_KEYS = [
    *("version", "started", "now", "pid", "mode", "generation", "workers", "restarts"),
    *("listeners", "uptime", "totals"),
]
TOTAL_KEYS = [
    *("requests", "busy", "queued", "connections", "aborted", "errors", "slow", "threads"),
    "memory",
]
WORKER_KEYS = [
    *("pid", "state", "generation", "started", "requests", "busy", "queued", "connections"),
    *("aborted", "errors", "slow", "threads", "memory", "uptime", "longest"),
]


def document(query: str = "json", snapshot: Snapshot = SNAPSHOT) -> dict[str, Any]:
    kind, text = page(query, snapshot)
    assert kind == "application/json"
    found: dict[str, Any] = json.loads(text)
    return found


def test_json() -> None:
    found = document()
    assert list(found) == SERVER_KEYS
    assert [list(worker) for worker in found["workers"]] == [WORKER_KEYS, WORKER_KEYS]
    values = [123457, 4, 2, 14, 6, 8, 10, 128, 45 * 1024**2]
    assert list(found["totals"].items()) == list(zip(TOTAL_KEYS, values, strict=True))
    assert (found["uptime"], found["mode"], found["restarts"]) == (93784.0, "static", 1)
    first, second = found["workers"]
    assert (first["pid"], first["state"], first["uptime"]) == (4712, "serving", 3723.0)
    assert (first["longest"], first["memory"]) == (12.346, 45 * 1024**2)
    assert (second["longest"], second["memory"]) == (None, None)


@pytest.mark.parametrize("query", ["json&full", "full&json", "json=1&full=", "&json&&full&"])
def test_json_with_running_requests(query: str) -> None:
    first, second = document(query)["workers"]
    assert list(first) == [*WORKER_KEYS, "running"]
    assert first["running"] == [
        {"seconds": 12.346, "request": "POST /slow?a=1"},
        {"seconds": 0.25, "request": "GET /quick"},
    ]
    assert second["running"] == []


def test_json_of_anything() -> None:
    snapshot = snapshot_of(dataclasses.replace(WORKER, running=[(1.0, HOSTILE)]), mode=HOSTILE)
    found = document("json&full", snapshot)
    assert found["workers"][0]["running"][0]["request"] == ESCAPED
    assert found["mode"] == HOSTILE
    assert respond("json&full", snapshot).isascii()


def test_a_clock_that_was_set_back() -> None:
    found = document(snapshot=dataclasses.replace(SNAPSHOT, now=1.0))
    assert (found["uptime"], found["workers"][0]["uptime"]) == (0.0, 0.0)
    assert " UTC, 0.0s ago" in page(snapshot=dataclasses.replace(SNAPSHOT, now=1.0))[1]


# ----------------------------------------------------------------------------- OpenMetrics


def metrics(snapshot: Snapshot = SNAPSHOT) -> dict[str, dict[str, str]]:
    """Sample name -> labels -> value, read with a few lines of our own."""
    kind, text = page("openmetrics", snapshot)
    assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert text.endswith("\n# EOF\n")
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            assert match, line
            samples = found.setdefault(match[1], {})
            assert (match[2] or "") not in samples, line
            samples[match[2] or ""] = match[3]
    return found


def test_openmetrics() -> None:
    found = metrics()
    assert found["fastfcgi_build_info"] == {'version="1.2.3",mode="static"': "1"}
    assert found["fastfcgi_restarts_total"] == {"": "1"}
    assert found["fastfcgi_start_time_seconds"] == {"": str(SNAPSHOT.started)}
    states = {f'state="{state}"': str(int(state in ("serving", "starting"))) for state in STATES}
    assert found["fastfcgi_workers"] == states
    both = {
        "fastfcgi_requests_total": ("123456", "1"),
        "fastfcgi_requests_running": ("2", "2"),
        "fastfcgi_requests_queued": ("1", "1"),
        "fastfcgi_requests_aborted_total": ("3", "3"),
        "fastfcgi_requests_failed_total": ("4", "4"),
        "fastfcgi_requests_slow_total": ("5", "5"),
        "fastfcgi_connections": ("7", "7"),
        "fastfcgi_threads": ("64", "64"),
        "fastfcgi_longest_request_seconds": ("12.346", "0"),
        "fastfcgi_worker_start_time_seconds": (str(WORKER.started), str(OTHER.started)),
        "fastfcgi_worker_generation": ("2", "2"),
    }
    for name, (first, second) in both.items():
        assert found[name] == {'pid="4712"': first, 'pid="4713"': second}, name
    # Where the system does not tell, there is no sample: 0 would be wrong.
    assert found["fastfcgi_memory_bytes"] == {'pid="4712"': str(45 * 1024**2)}


def test_openmetrics_of_boards_that_are_given_on() -> None:
    """A series must not come twice: Prometheus would throw the whole page away."""
    dead = dataclasses.replace(WORKER, state="dead", pid=9)
    found = metrics(snapshot_of(dead, WORKER, WORKER))
    assert list(found["fastfcgi_requests_total"]) == ['pid="4712"']
    assert found["fastfcgi_workers"]['state="dead"'] == "1"


@pytest.mark.parametrize(
    "snapshot",
    [SNAPSHOT, snapshot_of(), snapshot_of(WORKER, version='a"b\\c\nd'), snapshot_of(WORKER, OTHER)],
    ids=["two", "none", "escapes", "unsorted"],
)
def test_openmetrics_as_prometheus_reads_it(snapshot: Snapshot) -> None:
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    families = list(parser.text_string_to_metric_families(page("openmetrics", snapshot)[1]))
    assert [(one.name, one.type, one.unit) for one in families] == [
        (metric.name, metric.kind, metric.unit) for metric in status.METRICS
    ]
    build = families[0].samples[0]
    assert build.labels == {"version": snapshot.version, "mode": "static"}
    assert all(one.documentation for one in families)


def test_every_number_of_a_worker_is_a_metric() -> None:
    told = {metric.field for metric in status.METRICS if metric.per == "worker"}
    fields = {field.name for field in dataclasses.fields(WorkerStatus)}
    assert told == fields - {"pid", "state", "running"} | {"longest"}


# ------------------------------------------------------------------------------ the answer


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("jsn", "'jsn'"),
        ("json&html", "'html'"),
        ("\x1b[2J%0a", r"\x1b[2J"),
        ("json&openmetrics", "one kind"),
        ("x" * 100_000, "'" + "x" * 40 + "'"),
    ],
)
def test_what_is_not_known(query: str, said: str) -> None:
    code, headers, body = wire.parse_cgi(respond(query, SNAPSHOT))
    assert code == 400
    assert dict(headers)["Content-Type"].startswith("text/plain")
    assert said in body.decode("ascii")
    assert re.fullmatch(rb"[ -~]{1,160}\n", body)


# ------------------------------------------------------------------------------- the board


def board(**changes: Any) -> SimpleNamespace:
    """What is there of a worker's board."""
    now = time.monotonic()
    running = [
        SimpleNamespace(thread=1, since=now - 5, text="GET /a"),
        SimpleNamespace(thread=2, since=now + 1000, text="GET /b"),
    ]
    values = dataclasses.asdict(WORKER) | {"pid": os.getpid(), "state": 1}
    return SimpleNamespace(**{**values, "running": lambda: running, **changes})


def test_status_of_a_board() -> None:
    found = status.worker_status(board(), 9)
    same = {"pid": os.getpid(), "threads": 9, "memory": found.memory, "running": found.running}
    assert found == dataclasses.replace(WORKER, **same)
    (first, text), other = found.running
    assert (text, other) == ("GET /a", (0.0, "GET /b"))
    assert 5 <= first < 5 + wire.DEADLINE


@pytest.mark.parametrize("state", range(-1, 8))
def test_states_of_a_board(state: int) -> None:
    known = dict(enumerate(STATES)).get(state, str(state))
    assert status.worker_status(board(state=state), 1).state == known


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_memory() -> None:
    before = status.memory_of(os.getpid())
    block = b"x" * (64 << 20)
    after = status.memory_of(os.getpid())
    assert before is not None and after is not None
    assert len(block) / 2 < after - before < len(block) * 2


def test_memory_of_nobody() -> None:
    assert status.memory_of(2**31 - 1) is None
