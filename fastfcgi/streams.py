"""The standard streams of a command: what is closed, and whoever has stopped to read.

A reader such as `head` may have seen enough: the command then ends quietly, with exit status 1.
What was closed by whoever started the command is like /dev/null.
"""

import contextlib
import os
import select
import sys
from collections.abc import Iterator
from typing import Final

# Of a command whose reader has gone. Not that of a death by PIPE, which Windows does not have.
GONE: Final = 1


@contextlib.contextmanager
def standard() -> Iterator[None]:
    """Around all that writes to stdout and stderr; nothing is left to be written at the end.

    A BrokenPipeError that leaves the block has to be that of stdout, see reader_has_gone().

    Raises:
        SystemExit: What was to be written could not be.
    """
    _open_missing()
    _take_any_name()
    try:
        yield
    except BrokenPipeError:
        _drop_stdout()
        sys.exit(GONE)
    finally:
        _finish()


def reader_has_gone() -> bool:
    """Whether stdout is a pipe that nobody reads."""
    try:
        poll = select.poll()  # not on every system
        poll.register(sys.stdout.fileno(), 0)
        return any(events & select.POLLERR for _, events in poll.poll(0))
    except (AttributeError, OSError, ValueError):
        return False


def tell(text: str) -> None:
    """A line on stderr, if somebody reads that."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def give_up() -> None:
    """Forget what cannot be written to stdout."""
    try:
        sys.stdout.flush()
    except OSError:
        _drop_stdout()


def _open_missing() -> None:
    """Without this, the next file that is opened gets a number below 3, and what is printed."""
    if None not in (sys.stdin, sys.stdout, sys.stderr):
        return
    from fastfcgi.sockets import reserve_standard_fds

    reserve_standard_fds()
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "w" if fd else "r"
            setattr(sys, name, open(fd, mode, encoding="utf-8", closefd=False))


def _take_any_name() -> None:
    """A file's name need not be text in the encoding of the terminal: it is given back as it came
    where that is possible, and else as an escape."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # stdout is something else
        if sys.stdout.errors == "strict":
            is_utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
            errors = "surrogateescape" if is_utf8 else "backslashreplace"
            sys.stdout.reconfigure(errors=errors)  # type: ignore[union-attr]


def _finish() -> None:
    """Write what is left, so that an error is told here and not by Python at exit."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
        sys.exit(GONE)
    except OSError as error:
        _drop_stdout()
        tell(f"fastfcgi: error: cannot write to stdout: {error.strerror or error}")
        sys.exit(1)
    except (AttributeError, ValueError):
        pass  # the application has closed it, or put something else there


def _drop_stdout() -> None:
    """So that Python does not try again at exit, and complain."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
