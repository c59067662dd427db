"""`fastfcgi top`: what a server does just now, in the terminal.

The numbers are those of the status page (docs/monitoring.md); rates are what has changed since it
was looked at before. rich draws the tables; it comes with the extra "top".
"""

import argparse
import contextlib
import json
import os
import select
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from fastfcgi import ask, bench
from fastfcgi.status import JSON_TYPE, age_text, count_text, printable, size_text

if TYPE_CHECKING:
    from rich.console import RenderableType

DEFAULT_INTERVAL: Final = 1.0
MAX_RUNNING: Final = 100  # requests in the table; a terminal has fewer lines

WORKER_COLUMNS: Final = (
    *("PID", "STATE", "GEN", "AGE", "REQ/S", "DONE", "BUSY", "WAIT", "CONNS", "FAIL"),
    *("MEMORY", "LONGEST"),
)

RUNNING_COLUMNS: Final = ("PID", "FOR", "REQUEST")

Document: TypeAlias = dict[str, Any]


def add_options(top: argparse.ArgumentParser) -> None:
    """The command's options, for run()."""
    top.set_defaults(run=run)
    ask._add_page_options(top, ask.STATUS_PATH)
    top.add_argument(
        "--interval",
        metavar="S",
        type=bench._seconds,
        default=DEFAULT_INTERVAL,
        help=f"seconds between two looks; default: {DEFAULT_INTERVAL:g}",
    )
    top.add_argument("--once", action="store_true", help="print one table, without rates, and end")


def run(options: argparse.Namespace) -> int:
    """`fastfcgi top`: until q or Ctrl-C; returns the exit status."""
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        text = "fastfcgi top needs rich: pip install 'fastfcgi[top]'"
        raise ask.AskError(text) from None
    now = document(options)
    console = Console(highlight=False)
    if options.once or not console.is_terminal:
        console.print(screen(now, None, options.address))
        return 0
    before: Document | None = None
    trouble = ""
    with keys() as stdin, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(screen(now, before, options.address, trouble), refresh=True)
            if asked_to_end(stdin, options.interval):
                return 0
            try:
                before, now, trouble = now, document(options), ""
            except ask.AskError as error:
                # It may be on its way back; what was seen last stays on the screen.
                trouble = str(error)


def document(options: argparse.Namespace) -> Document:
    """The status page.

    Raises:
        AskError: There is none at that path.
    """
    address, path = options.address, options.path
    response, body = ask.fetch(address, path, options.timeout, "json&full")
    if response.status != 200:
        raise ask._not_answered(options, response, "--status-path")
    ask.expect_type(address, path, response, JSON_TYPE)
    try:
        found: Document = json.loads(body)
        # Whatever is drawn of it has to be there.
        _ = head(found, found, address), numbers(found, found), running(found)
        return found
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise ask.AskError(f"{address} answers {path} with no status page of fastfcgi") from error


# --------------------------------------------------------------------------------- numbers


def rates(now: Document, before: Document | None) -> dict[int, float]:
    """Requests per second of each worker since it was looked at before, by pid."""
    if before is None:
        return {}
    passed = now["now"] - before["now"]
    counted = {worker["pid"]: worker["requests"] for worker in before["workers"]}
    found = {}
    for worker in now["workers"]:
        done = worker["requests"] - counted.get(worker["pid"], 0)
        # A pid may have been given to another worker, and a clock may have been set.
        found[worker["pid"]] = done / passed if done > 0 and passed > 0 else 0.0
    return found


def numbers(now: Document, before: Document | None) -> list[list[str]]:
    """The rows of the table of workers."""
    per_second = rates(now, before)
    return [
        [
            str(worker["pid"]),
            printable(worker["state"]),
            str(worker["generation"]),
            age_text(worker["uptime"]),
            rate_text(per_second.get(worker["pid"])),
            count_text(worker["requests"]),
            f"{worker['busy']}/{worker['threads']}",
            str(worker["queued"]),
            str(worker["connections"]),
            count_text(worker["errors"]),
            "-" if worker["memory"] is None else size_text(worker["memory"]),
            "-" if worker["longest"] is None else age_text(worker["longest"]),
        ]
        for worker in now["workers"]
    ]


def rate_text(rate: float | None) -> str:
    """A rate in at most 6 columns; "-" where there is none yet."""
    if rate is None:
        return "-"
    return f"{rate:.1f}" if rate < 1000 else f"{rate:.0f}"


def running(now: Document) -> list[list[str]]:
    """The rows of the table of running requests, the longest first."""
    found = sorted(
        (
            (one["seconds"], worker["pid"], one["request"])
            for worker in now["workers"]
            for one in worker["running"]
        ),
        reverse=True,
    )
    return [
        [str(pid), age_text(seconds), printable(text)] for seconds, pid, text in found[:MAX_RUNNING]
    ]


def head(now: Document, before: Document | None, address: str) -> list[str]:
    """The lines about the whole server."""
    totals = now["totals"]
    rate = "-" if before is None else rate_text(sum(rates(now, before).values()))
    server = (
        f"fastfcgi {now['version']} at {address}, {now['mode']}, pid {now['pid']},"
        f" generation {now['generation']}, up {age_text(now['uptime'])}"
    )
    present = (
        f"{rate} requests/s, {totals['busy']} of {totals['threads']} threads busy,"
        f" {totals['queued']} waiting, {totals['connections']} connections"
    )
    past = (
        f"{totals['requests']:,} requests: {totals['aborted']:,} aborted, {totals['errors']:,}"
        f" failed, {totals['slow']:,} slow; workers restarted: {now['restarts']:,}"
    )
    return [printable(line) for line in (server, present, past)]


# --------------------------------------------------------------------------------- drawing


def screen(
    now: Document, before: Document | None, address: str, trouble: str = ""
) -> "RenderableType":
    """All that is shown at one moment."""
    from rich.console import Group
    from rich.text import Text

    lines = head(now, before, address)
    first, *others = (Text(line, overflow="ellipsis", no_wrap=True) for line in lines)
    first.stylize("bold")
    parts: list[RenderableType] = [first, *others]
    if trouble:
        parts.append(Text(printable(trouble), style="red"))
    parts += ["", _table(WORKER_COLUMNS, numbers(now, before))]
    requests = running(now)
    if requests:
        parts += ["", _table(RUNNING_COLUMNS, requests)]
    return Group(*parts)


def _table(heads: tuple[str, ...], rows: list[list[str]]) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="reverse")
    for name, *cells in zip(heads, *rows, strict=True):
        side: Literal["left", "right"] = "left" if name in ("STATE", "REQUEST") else "right"
        # It is the request that is cut where there is no room.
        width = None if name == "REQUEST" else max(map(len, (name, *cells)))
        table.add_column(name, justify=side, no_wrap=True, overflow="ellipsis", min_width=width)
    for row in rows:
        # Not as str: rich would take brackets in a URL for its own marks.
        named = zip(heads, row, strict=True)
        table.add_row(*(Text(cell, style=_style(name, cell)) for name, cell in named))
    return table


def _style(name: str, cell: str) -> str:
    """What asks for attention is coloured."""
    if name == "STATE":
        return {"serving": "green", "failed": "red", "dead": "red"}.get(cell, "yellow")
    if name in ("WAIT", "FAIL") and cell != "0":
        return "yellow"
    return ""


# ---------------------------------------------------------------------------------- keys


@contextlib.contextmanager
def keys() -> Iterator[int | None]:
    """Inside, keys are read one by one and not shown; yields stdin, None if it is no terminal."""
    try:
        import termios
        import tty
    except ImportError:  # Windows: Ctrl-C ends it
        yield None
        return
    fd = sys.stdin.fileno()
    if not os.isatty(fd):
        yield None
        return
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def asked_to_end(stdin: int | None, seconds: float) -> bool:
    """Wait so many seconds; whether q was typed, or the terminal is gone."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if stdin is None:
            time.sleep(left)
        elif select.select([stdin], [], [], left)[0]:
            typed = os.read(stdin, 1)
            if typed in (b"q", b"Q", b"\x03", b""):
                return True
    return False
