"""The slow log: what an entry says, and of which line of which file."""

import os
import re
import sys
import threading
import time
import traceback
from pathlib import Path

from fastfcgi import slow_log
from fastfcgi.reports import SlowRequest
from fastfcgi.slow_log import SlowLog, entry

STACK = '  File "/srv/app.py", line 3, in application\n    time.sleep(60)\n'
SLOW = SlowRequest("4711-12", 10.04, "GET /slow?a=1", 1, STACK)


def test_entry() -> None:
    assert entry(SLOW, 1_700_000_000.9) == (
        f"2023-11-14 22:13:20 UTC process {os.getpid()} [4711-12]"
        " running for 10.0 s: GET /slow?a=1\n"
        '  File "/srv/app.py", line 3, in application\n'
        "    time.sleep(60)\n"
    )


def test_entries_of_a_file(tmp_path: Path) -> None:
    log = SlowLog(str(tmp_path / "slow"))
    log(SLOW)
    log(SLOW._replace(request_id="4711-13", seconds=0.26))
    log.close()
    text = (tmp_path / "slow").read_text()
    first, second, rest = text.split("\n\n")
    assert "[4711-12] running for 10.0 s: " in first
    assert "[4711-13] running for 0.3 s: " in second
    assert first.splitlines()[1:] == second.splitlines()[1:] == STACK.splitlines()
    assert rest == ""
    written = time.strptime(text[:19], "%Y-%m-%d %H:%M:%S")
    assert abs(time.mktime(written) - time.mktime(time.gmtime())) < 120


def waits(event: threading.Event) -> None:
    event.wait(30)  # the line that is to be named


def test_a_thread_that_waits(tmp_path: Path) -> None:
    """The line of the application is in the entry, with its file, function and source."""
    event = threading.Event()
    thread = threading.Thread(target=waits, args=(event,))
    thread.start()
    try:
        while True:
            frame = sys._current_frames().get(thread.ident or 0)
            stack = "".join(traceback.format_stack(frame)) if frame else ""
            if "event.wait" in stack:
                break
    finally:
        event.set()
        thread.join()
    line = waits.__code__.co_firstlineno + 1
    where = re.escape(f'  File "{__file__}", line {line}, in waits\n    event.wait(30)')
    assert re.search(f"^{where}", entry(SLOW._replace(stack=stack), 0), re.MULTILINE)


def test_nobody_writes_entries_of_his_own() -> None:
    text = "GET /\n2023-11-14 22:13:20 UTC process 1\x1b[2J\x9b"
    stack = '  File "x", line 1, in é\u2028\n\x1b]0;owned\x07 = "€"\nnot indented\n\x0c\x85\tx\n'
    lines = entry(SLOW._replace(text=text, stack=stack, request_id="a\nb"), 0).split("\n")
    assert lines[0].endswith(
        r"[a\nb] running for 10.0 s: GET /\n2023-11-14 22:13:20 UTC process 1\x1b[2J\x9b"
    )
    assert lines[1] == '  File "x", line 1, in é'
    assert r'  \x1b]0;owned\x07 = "€"' in lines
    assert "  not indented" in lines
    assert all(line.startswith("  ") for line in lines[1:-1])
    assert all(c.isprintable() or c == "\t" for line in lines for c in line)
    assert lines[-1] == ""


def test_a_deep_stack() -> None:
    """The innermost frames are the ones that say what is slow."""
    stack = "".join(f"  line {number}\n" for number in range(1000))
    lines = entry(SLOW._replace(stack=stack), 0).splitlines()
    assert len(lines) == 1 + slow_log.MAX_LINES
    assert lines[1:3] == ["  ... 801 lines left out", "  line 801"]
    assert lines[-1] == "  line 999"
    stack = "".join(f"  line {number}\n" for number in range(slow_log.MAX_LINES + 1))
    lines = entry(SLOW._replace(stack=stack), 0).splitlines()
    assert lines[1:3] == ["  ... 2 lines left out", "  line 2"]
    whole = "".join(f"  line {number}\n" for number in range(slow_log.MAX_LINES))
    assert entry(SLOW._replace(stack=whole), 0).split("\n")[1:-1] == whole.splitlines()
