"""The command line: `fastfcgi serve MODULE:APP`, `fastfcgi demo` and those that ask a server.

A mistake is told in one line on stderr, `fastfcgi: error: ...`. Exit status: 0 after TERM, INT or
HUP, 1 when something could not be done (for bench: not every answer was right) or nobody read the
output, 2 for wrong options.
"""

import argparse
import contextlib
import difflib
import importlib
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NoReturn

import fastfcgi
from fastfcgi import streams
from fastfcgi.exceptions import FastCGIError


class _Ended(BaseException):
    """A signal has ended the command."""


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, and which option was meant."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def print_help(self, file: Any = None) -> None:
        print(self.format_help(), end="", file=file)  # its own way to print hides errors

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"fastfcgi: error: {message} ({self.prog} --help shows the options)\n")


class _Command(_Parser):
    """One command. Its options are added when it is asked for, because that imports what runs
    it.

    Args:
        fill: Adds them.
    """

    def __init__(self, *, fill: Callable[["_Command"], None], **options: Any) -> None:
        super().__init__(**options)
        self._fill: Callable[[_Command], None] | None = fill

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        fill, self._fill = self._fill, None
        if fill is not None:
            fill(self)
        # First: what was meant as the value of such an option would be told as a wrong argument.
        words = itertools.takewhile(lambda word: word != "--", args or ())
        known = self._option_string_actions
        unknown = [w for w in words if w.startswith("--") and w.partition("=")[0] not in known]
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._meant(unknown)}")
        found, left = super().parse_known_args(args, namespace)
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}{self._meant(left)}")
        return found, left

    def _meant(self, left: list[str]) -> str:
        name = next((one.partition("=")[0] for one in left if one.startswith("--")), "")
        close = difflib.get_close_matches(name, self._option_string_actions, 1)
        return f"; did you mean {close[0]}?" if close else ""


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *others: object) -> NoReturn:
        # Not before it is asked for: it is read from the metadata of the installed package.
        print(f"fastfcgi {fastfcgi.__version__}")
        parser.exit(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status.

    Args:
        arguments: Without the program's name; those of the process by default.
    """
    with streams.standard():
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(arguments)
        # How to start this once more, if it was typed.
        options.command = [sys.executable, *sys.orig_argv[1:]] if arguments is None else None
        with _ended_by_signals():
            status: int | None = options.run(options)
    except _Ended:
        return 0
    except FastCGIError as error:
        return _fail(error)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and streams.reader_has_gone():
            raise
        streams.tell(f"fastfcgi: error: {_where(error)}{error.strerror or error}")
        streams.give_up()  # stdout, if it was that: it is told once
        return 1
    return status or 0


def _where(error: OSError) -> str:
    if error.filename:
        return f"{os.fsdecode(error.filename)}: "
    try:
        os.getcwd()
    except OSError as lost:
        if lost.errno == error.errno:
            return "the current directory: "
    return ""


def _fail(error: FastCGIError) -> int:
    from fastfcgi.config import SettingError
    from fastfcgi.loading import LoadError, show_cause

    if isinstance(error, LoadError):
        show_cause(error)
    streams.tell(f"fastfcgi: error: {error}")
    return 2 if isinstance(error, SettingError) else 1


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Until the server handles signals itself, and after that, they end the command tidily."""

    def end(*signal_and_frame: object) -> None:
        raise _Ended

    names = [name for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
    previous = {name: signal.signal(getattr(signal, name), end) for name in names}
    try:
        yield
    finally:
        for name, handler in previous.items():
            signal.signal(getattr(signal, name), handler)


# ---- commands ---------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastfcgi", description="A FastCGI server for WSGI applications.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Command)
    for name, (text, description, fill) in _COMMANDS.items():
        commands.add_parser(name, help=text, description=description or text, fill=fill)
    return parser


def _from(module: str, name: str = "add_options") -> Callable[[argparse.ArgumentParser], None]:
    """What adds the options of a command, by the module that has it."""

    def fill(command: argparse.ArgumentParser) -> None:
        getattr(importlib.import_module(f"fastfcgi.{module}"), name)(command)

    return fill


_SERVE: Final = (
    "Serve a WSGI application over FastCGI. Without --bind and --http it serves on the socket it"
    " was started with: descriptor 0 (spawn-fcgi, mod_fcgid, lighttpd), systemd's LISTEN_FDS, or"
    " as plain CGI. With --workers, and with what needs it, a master process starts and replaces"
    " worker processes."
)
_DEMO: Final = (
    "Serve a small demonstration over FastCGI, with a development HTTP server before it, and print"
    " its address."
)
_PING: Final = (
    "Ask a FastCGI server for its ping page, for health checks. Exit status: 0 if it answers with a"
    " status from 200 to 299, else 1."
)
_REQUEST: Final = (
    "Make a request to a FastCGI server as nginx does. Exit status: 0 if the response is complete"
    " and its status below 400, else 1."
)
_TOP: Final = (
    "Show the status page of a server as a table that is drawn again and again; q ends it."
)
_DOCTOR: Final = (
    "Say what is wrong between a web server and an application, and what to change. With an"
    " ADDRESS: is there a socket, may the web server use it, is FastCGI spoken there? With a URL:"
    " what arrives of requests through the web server, when the doctor answers at --bind in the"
    " application's place? Exit status: 0 if nothing is wrong, 1 if something is."
)
_BENCH: Final = (
    "Make requests to a FastCGI server as fast as it answers them, for 5 seconds, check every"
    " answer, and tell how many there were per second and how long they took. An answer is right"
    " when it is complete and its status is below 400. Exit status: 0, or 1 when any was not right."
)
_CONFIG: Final = (
    "Print a configuration of a web server, or of what starts the application, that works as it"
    " is. Without SERVER, list those that are known."
)

# Name -> its line in the list, what its own help begins with, what adds its options.
_COMMANDS: Final[dict[str, tuple[str, str, Callable[[Any], None]]]] = {
    "serve": ("serve a WSGI application", _SERVE, _from("serve")),
    "demo": (
        "show a demonstration application in the browser",
        _DEMO,
        _from("serve", "add_demo_options"),
    ),
    "ping": (
        "ask a FastCGI server whether it answers",
        _PING,
        _from("ask", "add_ping_options"),
    ),
    "status": (
        "print the status page of a server",
        "Print the status page of a server that has --status-path.",
        _from("ask", "add_status_options"),
    ),
    "request": (
        "make a request to a FastCGI server",
        _REQUEST,
        _from("ask", "add_request_options"),
    ),
    "top": (
        "show what a server does, in a live table",
        _TOP,
        _from("top"),
    ),
    "doctor": (
        "find out what is wrong between a web server and an application",
        _DOCTOR,
        _from("doctor"),
    ),
    "config": (
        "print a configuration of a web server",
        _CONFIG,
        _from("site_command"),
    ),
    "bench": ("measure how fast a FastCGI server answers", _BENCH, _from("bench")),
}
