"""The status page: what a server and its workers do, for people, for scripts and for Prometheus.

docs/monitoring.md describes what is on it; names there and here are compared by a test.
"""

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

# Names of the states of a worker; the number that a board has is the place in this tuple.
STATES: Final = ("starting", "serving", "retiring", "stopping", "failed", "dead")
PAGE_WIDTH: Final = 80

JSON_TYPE: Final = "application/json"
TEXT_TYPE: Final = "text/plain; charset=utf-8"
OPENMETRICS_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

# What may stand in the query string of the page.
WORDS: Final = ("full", "json", "openmetrics")


@dataclass(frozen=True)
class WorkerStatus:
    """One worker.

    Attributes:
        pid: Its process id.
        state: One of STATES.
        generation: That of the server when it was started.
        started: When, as time.time().
        requests: Finished ones.
        busy: Running ones.
        queued: Those that wait for a thread.
        connections: Open ones, idle ones included.
        aborted: Requests that the web server gave up.
        errors: Requests whose application failed.
        slow: Requests that ran for longer than slow_timeout.
        threads: The most requests that run at once.
        memory: Resident bytes; None where the system does not tell.
        running: Seconds and text ("GET /path?query") of each running request.
    """

    pid: int
    state: str
    generation: int
    started: float
    requests: int
    busy: int
    queued: int
    connections: int
    aborted: int
    errors: int
    slow: int
    threads: int
    memory: int | None
    running: list[tuple[float, str]]


@dataclass(frozen=True)
class Snapshot:
    """A server at one moment.

    Attributes:
        version: That of fastfcgi.
        started: When the server was, as time.time().
        now: The moment, as time.time().
        pid: The server's process id: the master's, if there is one.
        mode: "single", "static", "dynamic" or "ondemand".
        generation: How often it has been reloaded, from 1 on.
        workers: Those that there are.
        restarts: Workers that were started in the place of one that had ended by itself.
        listeners: Addresses, in the notation of --bind.
    """

    version: str
    started: float
    now: float
    pid: int
    mode: str
    generation: int
    workers: list[WorkerStatus]
    restarts: int
    listeners: list[str]


def worker_status(board: Any, threads: int) -> WorkerStatus:
    """What the board of a worker with so many threads says just now.

    Args:
        board: A Board, which another process may be writing to.
    """
    now = time.monotonic()
    known = 0 <= board.state < len(STATES)
    return WorkerStatus(
        pid=board.pid,
        state=STATES[board.state] if known else str(board.state),
        generation=board.generation,
        started=board.started,
        requests=board.requests,
        busy=board.busy,
        queued=board.queued,
        connections=board.connections,
        aborted=board.aborted,
        errors=board.errors,
        slow=board.slow,
        threads=threads,
        memory=memory_of(board.pid),
        # Nothing locks a board: a time may be that of a request which has begun since.
        running=[(max(0.0, now - one.since), one.text) for one in board.running()],
    )


def memory_of(pid: int) -> int | None:
    """The resident memory of a process in bytes; None where there is no /proc, or no such one."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None


# ------------------------------------------------------------------------------ the answer


def respond(query: str, snapshot: Snapshot) -> bytes:
    """The page as a CGI response.

    Args:
        query: The query string: nothing for a page of text, "full" for one with the running
            requests, "json", "json&full", or "openmetrics". "json=" and "json=1" are "json",
            because some clients cannot send one without. Anything else is answered with 400.
    """
    asked = {part.partition("=")[0] for part in query.split("&") if part}
    unknown = sorted(asked.difference(WORDS))
    if unknown or asked >= {"json", "openmetrics"}:
        what = f"does not know {printable(unknown[0])[:40]!r}" if unknown else "is of one kind"
        text = f"The status page {what}: ask for full, json, json&full or openmetrics.\n"
        return _response("400 Bad Request", TEXT_TYPE, text)
    full = "full" in asked
    if "openmetrics" in asked:
        return _response("200 OK", OPENMETRICS_TYPE, as_openmetrics(snapshot))
    if "json" in asked:
        text = json.dumps(as_dict(snapshot, full), indent=1) + "\n"
        return _response("200 OK", JSON_TYPE, text)
    return _response("200 OK", TEXT_TYPE, as_text(snapshot, full))


def _response(status: str, content_type: str, text: str) -> bytes:
    body = text.encode("utf-8")
    head = (
        f"Status: {status}\r\n"
        f"Content-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        # Running requests are on the page, and anybody may have sent them.
        "X-Content-Type-Options: nosniff\r\n\r\n"
    )
    return head.encode("ascii") + body


def printable(text: str) -> str:
    """The text with everything but the printable characters of ASCII as \\x1b or \\u20ac."""

    def escaped(found: "re.Match[str]") -> str:
        code = ord(found[0])
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"

    return re.sub("[^ -~]", escaped, text)


def _longest(worker: WorkerStatus) -> float | None:
    """Seconds that the longest running request of a worker has been running for."""
    return max((seconds for seconds, _ in worker.running), default=None)


def _total(snapshot: Snapshot, name: str) -> int:
    return sum(getattr(worker, name) or 0 for worker in snapshot.workers)


# ------------------------------------------------------------------------------------ JSON

# What the workers have in sum.
TOTALS: Final = (
    *("requests", "busy", "queued", "connections", "aborted", "errors", "slow", "threads"),
    "memory",
)


def as_dict(snapshot: Snapshot, full: bool) -> dict[str, Any]:
    """The JSON document; with `full`, running requests, the longest first."""
    found: dict[str, Any] = asdict(snapshot)
    found["uptime"] = _age(snapshot, snapshot.started)
    found["totals"] = {name: _total(snapshot, name) for name in TOTALS}
    for worker, entry in zip(snapshot.workers, found["workers"], strict=True):
        longest = _longest(worker)
        entry["uptime"] = _age(snapshot, worker.started)
        entry["longest"] = None if longest is None else round(longest, 3)
        requests = sorted(entry.pop("running"), reverse=True)
        if full:
            entry["running"] = [
                {"seconds": round(seconds, 3), "request": printable(text)}
                for seconds, text in requests
            ]
    return found


def _age(snapshot: Snapshot, started: float) -> float:
    # The clock may have been set back since.
    return round(max(0.0, snapshot.now - started), 3)


# ------------------------------------------------------------------------------------ text

COLUMNS: Final = (
    *("PID", "STATE", "GEN", "AGE", "REQUESTS", "BUSY", "WAIT", "CONNS", "FAILED", "MEMORY"),
    "LONGEST",
)


def as_text(snapshot: Snapshot, full: bool) -> str:
    """The page for people, PAGE_WIDTH columns wide; with `full`, running requests."""
    lines = [*_summary(snapshot), ""]
    cells = [_cells(snapshot, worker) for worker in snapshot.workers]
    lines += table(COLUMNS, cells) if cells else ["No worker is there."]
    if full:
        lines += ["", *_running(snapshot.workers)]
    return "\n".join(lines) + "\n"


def _summary(snapshot: Snapshot) -> Iterator[str]:
    """What is true of the whole server, in lines of a name and a value."""

    def line(name: str, value: str) -> str:
        return f"{name:13}{value}"

    yield printable(
        f"fastfcgi {snapshot.version}, {snapshot.mode}, process {snapshot.pid},"
        f" generation {snapshot.generation}"
    )
    yield ""
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(snapshot.started))
    yield line("started", f"{since}, {age_text(_age(snapshot, snapshot.started))} ago")
    for number, address in enumerate(snapshot.listeners):
        yield line("" if number else "listening", printable(address))
    states = [worker.state for worker in snapshot.workers]
    counts = [f"{states.count(state):,} {state}" for state in STATES if state in states]
    yield line("workers", ", ".join(counts) or "none")
    yield line("restarts", f"{snapshot.restarts:,}")
    told = [("finished", "requests"), ("running", "busy"), ("waiting", "queued")]
    yield line("requests", _counts(snapshot, told))
    yield line("", _counts(snapshot, [(name, name) for name in ("aborted", "failed", "slow")]))
    yield line("connections", f"{_total(snapshot, 'connections'):,}")
    if any(worker.memory is not None for worker in snapshot.workers):
        yield line("memory", size_text(_total(snapshot, "memory")))


def _counts(snapshot: Snapshot, told: list[tuple[str, str]]) -> str:
    fields = {"failed": "errors"}
    return ", ".join(
        f"{_total(snapshot, fields.get(field, field)):,} {word}" for word, field in told
    )


def _cells(snapshot: Snapshot, worker: WorkerStatus) -> list[str]:
    """The row of a worker in the table."""
    longest = _longest(worker)
    return [
        str(worker.pid),
        printable(worker.state),
        str(worker.generation),
        age_text(_age(snapshot, worker.started)),
        count_text(worker.requests),
        f"{worker.busy}/{worker.threads}",
        str(worker.queued),
        str(worker.connections),
        count_text(worker.errors),
        "-" if worker.memory is None else size_text(worker.memory),
        "-" if longest is None else age_text(longest),
    ]


def _running(workers: Iterable[WorkerStatus]) -> list[str]:
    """The table of running requests, the longest first."""
    found = sorted(
        ((seconds, worker.pid, text) for worker in workers for seconds, text in worker.running),
        reverse=True,
    )
    if not found:
        return ["No request is running."]
    cells = [[str(pid), f"{seconds:.1f}", printable(text)] for seconds, pid, text in found]
    return [cut(line, PAGE_WIDTH) for line in table(("PID", "SECONDS", "REQUEST"), cells)]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns as wide as they need; those of words to the left, of numbers to the
    right."""
    columns = list(zip(heads, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    # One space between columns: with two, eleven of them do not fit.
    return [
        " ".join(
            f"{cell:<{width}}" if head in ("STATE", "REQUEST") else f"{cell:>{width}}"
            for head, cell, width in zip(heads, row, widths, strict=True)
        ).rstrip()
        for row in (heads, *rows)
    ]


def cut(text: str, width: int) -> str:
    """The text in so many columns; dots stand for what is left out."""
    return text if len(text) <= width else text[: width - 3] + "..."


def count_text(number: int) -> str:
    """A count in at most 8 columns, up to 10 ** 13."""
    if number < 10_000_000:
        return str(number)
    return f"{number / 1e6:.1f}M" if number < 10**11 else f"{number / 1e9:.1f}G"


def age_text(seconds: float) -> str:
    """A time in at most 6 columns, up to 999 days, in the two units that matter."""
    whole = int(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if not minutes:
        return f"{seconds:.1f}s" if seconds < 9.95 else f"{whole}s"
    if not hours:
        return f"{minutes}m{whole % 60:02}s"
    if not days:
        return f"{hours}h{minutes % 60:02}m"
    return f"{days}d{hours % 24:02}h"


def size_text(number: float) -> str:
    """Bytes in at most 6 columns, up to 99999 GiB."""
    for unit in ("B", "K", "M"):
        if number < 10239.5:
            return f"{number:.0f}{unit}"
        number /= 1024
    return f"{number:.0f}G"


# ----------------------------------------------------------------------------- OpenMetrics


@dataclass(frozen=True)
class Metric:
    """A metric family of the page.

    Attributes:
        name: Without the _total or _info that its samples end with.
        kind: Its OpenMetrics type.
        help: One line.
        field: Where its value is: in a worker if it is `per` "worker", else in the snapshot.
        per: What one sample is for: "server", "state" or "worker".
    """

    name: str
    kind: str
    help: str
    field: str
    per: str = "worker"

    @property
    def sample(self) -> str:
        """The name of its samples."""
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")

    @property
    def unit(self) -> str:
        """The unit that its name ends with, or nothing."""
        last = self.name.rpartition("_")[2]
        return last if last in ("seconds", "bytes") else ""


# Those of a worker are told apart by its pid. Sums over workers would fall when one ends, which
# a counter must not: rate() would take that for a new start, and the sum for an increase.
METRICS: Final = (
    Metric("fastfcgi_build", "info", "Version and mode of the server.", "", "server"),
    Metric("fastfcgi_start_time_seconds", "gauge", "When it was started.", "started", "server"),
    Metric("fastfcgi_generation", "gauge", "The present generation.", "generation", "server"),
    Metric("fastfcgi_restarts", "counter", "Workers started for dead ones.", "restarts", "server"),
    Metric("fastfcgi_workers", "gauge", "Workers in each state.", "state", "state"),
    Metric("fastfcgi_requests", "counter", "Finished requests.", "requests"),
    Metric("fastfcgi_requests_aborted", "counter", "Given up by the web server.", "aborted"),
    Metric("fastfcgi_requests_failed", "counter", "Whose application failed.", "errors"),
    Metric("fastfcgi_requests_slow", "counter", "Longer than slow_timeout.", "slow"),
    Metric("fastfcgi_requests_running", "gauge", "Running requests.", "busy"),
    Metric("fastfcgi_requests_queued", "gauge", "Those that wait for a thread.", "queued"),
    Metric("fastfcgi_connections", "gauge", "Open connections.", "connections"),
    Metric("fastfcgi_threads", "gauge", "The most requests that run at once.", "threads"),
    Metric("fastfcgi_longest_request_seconds", "gauge", "The longest running one.", "longest"),
    Metric("fastfcgi_memory_bytes", "gauge", "Resident memory.", "memory"),
    Metric("fastfcgi_worker_start_time_seconds", "gauge", "When it was started.", "started"),
    Metric("fastfcgi_worker_generation", "gauge", "That it belongs to.", "generation"),
)


def as_openmetrics(snapshot: Snapshot) -> str:
    """The page for Prometheus and its like (OpenMetrics 1.0, which ends with # EOF)."""
    lines = []
    for metric in METRICS:
        lines.append(f"# TYPE {metric.name} {metric.kind}")
        if metric.unit:
            lines.append(f"# UNIT {metric.name} {metric.unit}")
        lines.append(f"# HELP {metric.name} {metric.help}")
        samples = _samples(snapshot, metric)
        lines += (f"{metric.sample}{labels} {value}" for labels, value in samples)
    return "\n".join([*lines, "# EOF"]) + "\n"


def _samples(snapshot: Snapshot, metric: Metric) -> Iterator[tuple[str, int | float]]:
    """Labels and value of each sample of a metric."""
    if metric.kind == "info":
        yield _labels(version=snapshot.version, mode=snapshot.mode), 1
    elif metric.per == "server":
        yield "", getattr(snapshot, metric.field)
    elif metric.per == "state":
        states = [worker.state for worker in snapshot.workers]
        for state in STATES:
            yield _labels(state=state), states.count(state)
    else:
        # One sample per pid, whatever a board says that is being given to the next worker.
        there = {worker.pid: worker for worker in snapshot.workers if worker.state != "dead"}
        for pid, worker in there.items():
            if metric.field == "longest":
                value = round(_longest(worker) or 0, 3)
            else:
                value = getattr(worker, metric.field)
            if value is not None:
                yield _labels(pid=str(pid)), value


def _labels(**labels: str) -> str:
    escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    inside = ",".join(f'{name}="{value.translate(escapes)}"' for name, value in labels.items())
    return f"{{{inside}}}"
