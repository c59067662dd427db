"""The slow log: where requests that take too long are, as the stack of their thread."""

import os
import re
import time
from typing import Final

from fastfcgi.access_log import escaped
from fastfcgi.log_files import LogFile
from fastfcgi.reports import SlowRequest

# Of one stack; what is left out are its outer frames. A recursion may have a thousand.
MAX_LINES: Final = 200


def entry(request: SlowRequest, now: float) -> str:
    """A few lines that end with an empty one: when, who, for how long, what, and where.

    Args:
        now: As time.time().
    """
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now))
    head = (
        f"{moment} UTC process {os.getpid()} [{escaped(request.request_id)}]"
        f" running for {request.seconds:.1f} s: {escaped(request.text)}"
    )
    lines = [_printable(line) for line in request.stack.splitlines()]
    left_out = len(lines) - MAX_LINES
    if left_out > 0:
        lines[: left_out + 1] = [f"  ... {left_out + 1} lines left out"]
    return "\n".join([head, *lines, ""])


def _printable(line: str) -> str:
    """A line of a stack: the source may be in any language, but is no command of a terminal."""
    text = re.sub("[^\t -~]", lambda found: _shown(found[0]), line)
    # What is not indented begins an entry.
    return text if text.startswith("  ") else f"  {text}"


def _shown(character: str) -> str:
    return character if character.isprintable() else f"\\x{ord(character):02x}"


class SlowLog(LogFile):
    """What WSGIServer takes as `slow_log`: appends an entry for each request.

    Args:
        path: "-" is stdout.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, standard=1)

    def __call__(self, request: SlowRequest) -> None:
        self.write(entry(request, time.time()))
