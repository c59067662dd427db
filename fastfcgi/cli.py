"""The command line: `fastfcgi serve MODULE:APP`, `fastfcgi demo` and `fastfcgi bench ADDRESS`.

A mistake is told in one line on stderr, `fastfcgi: error: ...`. Exit status: 0 after TERM, INT or
HUP, 1 when something could not be done (for bench: not every answer was right), 2 for wrong
options.
"""

import argparse
import contextlib
import functools
import importlib
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import fastfcgi
from fastfcgi import WSGIServer, bench
from fastfcgi.exceptions import ConfigurationError, FastCGIError
from fastfcgi.http_front import HTTPFront
from fastfcgi.sockets import parse_address

DEFAULT_HTTP = ("127.0.0.1", 8000)
DEFAULT_NAMES = ("application", "app")
# How long the front may need to bring the last responses to slow browsers.
FRONT_SECONDS = 5.0

_TARGET = re.compile(r"(?P<module>\w+(\.\w+)*)(:(?P<name>\w+(\.\w+)*)(?P<call>\(\))?)?\Z")

Application = Callable[..., Any]


class CommandError(Exception):
    """What the command cannot do, in one line for the person who typed it."""


class _Ended(BaseException):
    """A signal has ended the command."""


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"fastfcgi: error: {message} ({self.prog} --help shows the options)\n")


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
    options = _parser().parse_args(arguments)
    try:
        with _ended_by_signals():
            status: int | None = options.run(options)
    except _Ended:
        return 0
    except (CommandError, FastCGIError) as error:
        return _fail(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(where + (error.strerror or str(error)))
    return status or 0


def _fail(message: str) -> int:
    print(f"fastfcgi: error: {message}", file=sys.stderr)
    return 1


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


# ------------------------------------------------------------------------------- options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastfcgi", description="A FastCGI server for WSGI applications.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    serve = commands.add_parser(
        "serve",
        help="serve a WSGI application",
        description="Serve a WSGI application over FastCGI. Without --bind and --http it serves on "
        "the socket it was started with: descriptor 0 (spawn-fcgi, mod_fcgid, lighttpd), "
        "systemd's LISTEN_FDS, or as plain CGI.",
    )
    _add_serve_options(serve)
    demo = commands.add_parser(
        "demo",
        help="show a demonstration application in the browser",
        description="Serve a small demonstration over FastCGI, with a development HTTP server "
        "before it, and print its address.",
    )
    demo.set_defaults(run=_run_demo)
    _add_common_options(demo)
    measure = commands.add_parser(
        "bench",
        help="measure how fast a FastCGI server answers",
        description="Make requests to a FastCGI server as fast as it answers them, for "
        f"{bench.DEFAULT_SECONDS:g} seconds, check every answer, and tell how many there were per "
        "second and how long they took. An answer is right when it is complete and its status is "
        "below 400. Exit status: 0, or 1 when any was not right.",
    )
    bench.add_options(measure)
    return parser


def _add_serve_options(serve: argparse.ArgumentParser) -> None:
    serve.set_defaults(run=_run_serve)
    serve.add_argument(
        "target",
        metavar="MODULE:APP",
        type=_target,
        help="the application; APP may be dotted, or a factory as in module:create_app(); "
        f"default: {' or '.join(DEFAULT_NAMES)}",
    )
    serve.add_argument("--chdir", metavar="DIR", help="change to this directory first")
    serve.add_argument(
        "--no-path", action="store_true", help="do not look for modules in the current directory"
    )
    _add_common_options(serve)
    serve.add_argument(
        "--socket-mode", metavar="MODE", type=_mode, help="mode of a unix socket, octal: 660"
    )
    serve.add_argument("--socket-owner", metavar="USER", help="owner of a unix socket")
    serve.add_argument("--socket-group", metavar="GROUP", help="group of a unix socket")


def _add_common_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--bind",
        metavar="ADDRESS",
        action="append",
        type=_address,
        help="unix:/path, unix:@abstract, host:port, [::1]:port, fd:3 or systemd; may be repeated",
    )
    command.add_argument(
        "--http",
        metavar="HOST:PORT",
        type=_host_port,
        help="put an HTTP server for development before it; port 0 takes a free one",
    )
    command.add_argument("--threads", metavar="N", type=_count, help="threads that run requests")
    command.add_argument(
        "--graceful-timeout",
        metavar="SECONDS",
        type=_seconds,
        help="how long running requests may take to finish at the end",
    )
    command.add_argument(
        "--debug", action="store_true", help="show tracebacks in the browser, log more"
    )


def _target(text: str) -> "re.Match[str]":
    found = _TARGET.match(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"not MODULE:APP: {text!r}")
    return found


def _address(text: str) -> str:
    try:
        parse_address(text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _host_port(text: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:(?:\[([0-9A-Fa-f:.%\w]+)\]|([^:\[\]]*)):)?([0-9]{1,5})", text)
    if found is None or int(found[3]) > 65535:
        raise argparse.ArgumentTypeError(f"not HOST:PORT: {text!r}")
    return (found[1] or found[2] or DEFAULT_HTTP[0], int(found[3]))


def _mode(text: str) -> int:
    if not re.fullmatch("(0o?)?[0-7]{3,4}", text):
        raise argparse.ArgumentTypeError(f"not an octal mode such as 660: {text!r}")
    return int(text, 8)


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,6}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"not a number from 1: {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", text):
        raise argparse.ArgumentTypeError(f"not a number of seconds: {text!r}")
    return float(text)


# ------------------------------------------------------------------------ the application


def load_application(target: "re.Match[str]") -> Application:
    """Import the application that MODULE:APP names.

    Raises:
        CommandError: There is no such module or attribute, or it cannot be called. What the
            module itself raises is shown as a traceback before.
    """
    module = _import(target["module"])
    name = target["name"]
    if name is None:
        name = next((n for n in DEFAULT_NAMES if hasattr(module, n)), None)
        if name is None:
            names = " or ".join(repr(n) for n in DEFAULT_NAMES)
            raise CommandError(f"module {target['module']!r} has no attribute {names}")
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise CommandError(f"module {target['module']!r} has no attribute {name!r}")
        found = getattr(found, part)
    if target["call"] and callable(found):
        found = _guarded(found, f"calling {name}() of {target['module']!r}")
    if not callable(found):
        raise CommandError(f"{target[0]!r} is not a WSGI application: it cannot be called")
    return found  # type: ignore[no-any-return]


def _import(name: str) -> Any:
    try:
        return _guarded(
            functools.partial(importlib.import_module, name), f"importing {name!r}", name
        )
    except ModuleNotFoundError as error:
        raise CommandError(f"{error} (looked for in {os.getcwd()} and sys.path)") from None


def _guarded(call: Callable[[], Any], what: str, module: str = "") -> Any:
    """Run code of the user; what it raises is shown whole, and then named in one line."""
    try:
        return call()
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise  # the module itself is missing, not one that it imports
        raised: BaseException = error
    except (Exception, SystemExit) as error:
        raised = error
    frames = raised.__traceback__
    while frames is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    traceback.print_exception(type(raised), raised, frames)
    text = traceback.format_exception_only(type(raised), raised)[-1].strip()
    raise CommandError(f"{what} failed: {text}")


def _is_ours(filename: str) -> bool:
    return filename == __file__ or filename == importlib.__file__ or "importlib._boot" in filename


# ------------------------------------------------------------------------------- serving


def _run_demo(options: argparse.Namespace) -> None:
    from fastfcgi.demo import application

    options.http = options.http or DEFAULT_HTTP
    _serve(application, "demo", options)


def _run_serve(options: argparse.Namespace) -> None:
    if options.chdir:
        os.chdir(options.chdir)
    if not options.no_path:
        sys.path.insert(0, os.getcwd())
    _serve(load_application(options.target), options.target[0], options)


def _serve(application: Application, name: str, options: argparse.Namespace) -> None:
    _set_up_logging(options.debug)
    settings = {
        key: value
        for key in ("threads", "socket_mode", "socket_owner", "socket_group", "graceful_timeout")
        if (value := getattr(options, key, None)) is not None
    }
    with contextlib.ExitStack() as stack:
        bind = options.bind
        if options.http and not bind:
            # Private: its directory lets nobody else in.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fastfcgi-"))
            bind = [f"unix:{folder}/fcgi.sock"]
        front = stack.enter_context(_front(options.http)) if options.http else None
        server = WSGIServer(application, bind=bind, debug=options.debug, **settings)
        if bind:
            stack.enter_context(_announced(server, front, name))
        server.run()


def _set_up_logging(debug: bool) -> None:
    # Only our own loggers: the root logger is the application's.
    logger = logging.getLogger("fastfcgi")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False


@contextlib.contextmanager
def _front(address: tuple[str, int]) -> Iterator[HTTPFront]:
    """The HTTP front, listening but not yet serving; stopped at the end."""
    try:
        front = HTTPFront(address, "", fastcgi_timeout=None, log_stderr=False)
    except OSError as error:
        where = "{}:{}".format(*address)
        raise CommandError(f"cannot listen on {where}: {error.strerror or error}") from error
    try:
        yield front
    finally:
        front.stop(FRONT_SECONDS)


@contextlib.contextmanager
def _announced(server: Any, front: HTTPFront | None, name: str) -> Iterator[None]:
    """Start the front and say where it is, once the server listens."""
    ended = threading.Event()

    def announce() -> None:
        while not server.wait_ready(0.1):
            if ended.is_set():
                return
        where = [_text(address) for address in server.addresses]
        if not where:  # it has been stopped already
            return
        print(f"fastfcgi: serving {name} at {', '.join(where)}", file=sys.stderr, flush=True)
        if front is not None:
            front.fastcgi_address = where[0]
            front.start()
            print(f"Open {front.url} (for development only; Ctrl-C ends it)", flush=True)

    thread = threading.Thread(target=announce, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _text(address: Any) -> str:
    """An address of server.addresses in the notation of --bind."""
    if isinstance(address, str):
        return "unix:" + address.replace("\0", "@", 1)
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
