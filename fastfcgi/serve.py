"""`fastfcgi serve`: from the settings to one process that serves, or to a master with workers."""

import argparse
import contextlib
import functools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from fastfcgi import WSGIServer, cgi, config
from fastfcgi.assembly import enter, load, log_file, log_to, server_options
from fastfcgi.config import SettingError, Settings
from fastfcgi.dev_front import address_in, as_bind, front_thread, private_folder, tell_opened
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.loading import Application
from fastfcgi.log_files import LogFiles
from fastfcgi.notify import VARIABLES, Notifier
from fastfcgi.settings import OPTIONS, SECTIONS, Option
from fastfcgi.sockets import is_listening
from fastfcgi.values import DEFAULT_HTTP

if TYPE_CHECKING:
    from fastfcgi.http_front import HTTPFront

logger: Final = logging.getLogger("fastfcgi")

_OF_SOCKETS: Final = ("socket_mode", "socket_owner", "socket_group", "backlog")


# ---- options ----------------------------------------------------------------------------------


class _WideHelp(argparse.HelpFormatter):
    """Most options and what they mean on one line."""

    def __init__(self, prog: str, **more: Any) -> None:
        super().__init__(prog, max_help_position=30, **more)


def add_options(serve: argparse.ArgumentParser) -> None:
    """All options, in sections, for run()."""
    serve.set_defaults(run=run)
    serve.formatter_class = _WideHelp
    serve.usage = "fastfcgi serve [options] MODULE:APP"
    serve.epilog = (
        "Yes-or-no options are taken back by --no-NAME. All of them may stand in FILE, or in the"
        " environment as FASTFCGI_NAME; the command line goes before the environment, and that"
        " before the file. Relative paths are relative to --chdir."
    )
    for section, options in SECTIONS.items():
        group = serve.add_argument_group(section)
        for option in options:
            add_option(group, option)


def add_demo_options(demo: argparse.ArgumentParser) -> None:
    """Those that `fastfcgi demo` has, too, for run_demo()."""
    demo.set_defaults(run=run_demo)
    for option in OPTIONS.values():
        if option.demo:
            add_option(demo, option)


def add_option(to: Any, option: Option) -> None:
    """One option of the table; without it, it is None."""
    text = option.help + (f"; default: {option.default}" if option.default else "")
    text = text.replace("%", "%%")
    if option.metavar is None:
        to.add_argument(option.typed, dest=option.name, action="store_const", const=True, help=text)
        back = "--" + option.key[3:] if option.key.startswith("no-") else f"--no-{option.key}"
        to.add_argument(
            back, dest=option.name, action="store_const", const=False, help=argparse.SUPPRESS
        )
        return
    more: dict[str, Any] = {"metavar": option.metavar, "type": _typed(option), "help": text}
    if option.name == "application":
        to.add_argument(option.name, nargs="?", **more)
    else:
        action = "append" if option.repeat else "store"
        to.add_argument(option.typed, dest=option.name, action=action, **more)


def _typed(option: Option) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return option.parse(text)
        except ConfigurationError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


# ---- running ----------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int | None:
    """`fastfcgi serve`; returns the exit status, None for 0.

    Raises:
        SettingError: The settings are wrong.
        LoadError: The application cannot be loaded.
        ConfigurationError, OSError: Something that they name is not there or not allowed.
    """
    reread = functools.partial(_read, vars(options), os.getcwd())
    settings = reread()
    if settings.wants_master and os.name != "posix":
        name = next(name for name in settings.given(*OPTIONS) if OPTIONS[name].master)
        raise ConfigurationError(f"{settings.where(name)} needs a master, and that a POSIX system")
    if settings.check:
        from fastfcgi import check

        return check.run(settings)
    files = LogFiles()  # never closed: requests that are left behind may log to the very end
    if settings.wants_master and not is_plain_cgi(settings):
        from fastfcgi.under_master import run_master

        return run_master(settings, files, reread, options.command)
    enter(settings)
    _run_single(settings, files)
    return None


def run_demo(options: argparse.Namespace) -> None:
    """`fastfcgi demo`: the same in one process, without a file and the environment."""
    from fastfcgi.demo import application

    found = {name: value for name, value in vars(options).items() if value is not None}
    settings = Settings({"http": DEFAULT_HTTP, **found}, {})
    files = LogFiles()
    log_to(log_file(settings, files), settings)
    serve_application(application, "demo", settings, server_options(settings, files))


def _read(typed: dict[str, Any], folder: str) -> Settings:
    settings = config.read(typed, os.environ, folder)
    if settings.application is None:
        raise SettingError(
            "there is no MODULE:APP on the command line, no FASTFCGI_APPLICATION and no"
            " application in a --config file (fastfcgi serve --help shows the options)"
        )
    return settings


def is_plain_cgi(settings: Settings) -> bool:
    """Whether a web server started this for one request: no master then, whatever the file says."""
    return not settings.bind and not is_listening(0) and cgi.is_cgi(os.environ)


# ---- in one process ---------------------------------------------------------------------------


def _run_single(settings: Settings, files: LogFiles) -> None:
    options = server_options(settings, files)
    log = log_file(settings, files)
    with _reopened_by_usr1(files):
        application = load(settings)
        log_to(log, settings)
        for line in config.without_effect(settings):
            logger.warning(line)
        options.update(settings.given(*_OF_SOCKETS))
        serve_application(application, settings.application, settings, options)


@contextlib.contextmanager
def _reopened_by_usr1(files: LogFiles) -> Iterator[None]:
    """Without a log file, and where the application wants that signal, it means what it does
    to any server."""
    number = getattr(signal, "SIGUSR1", None)
    if number is None or not files.are_files or signal.getsignal(number) != signal.SIG_DFL:
        yield
        return
    signal.signal(number, lambda *signal_and_frame: files.reopen())
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL)


def serve_application(
    application: Application, name: str, settings: Settings, options: dict[str, Any]
) -> None:
    """Serve until a signal ends it, with the HTTP front before it where one is asked for."""
    with contextlib.ExitStack() as stack:
        bind = settings.bind or None
        if settings.http and not bind:
            bind = [address_in(stack.enter_context(private_folder()))]
        front = stack.enter_context(front_thread(settings.http)) if settings.http else None
        server = WSGIServer(application, bind=bind, **options)
        systemd = Notifier(dict(os.environ)) if "NOTIFY_SOCKET" in os.environ else None
        for variable in VARIABLES:  # not for what the application starts
            os.environ.pop(variable, None)
        if bind or systemd:
            announce = functools.partial(_announce, server, front, name if bind else "", systemd)
            stack.enter_context(_beside(announce))
        server.run()


@contextlib.contextmanager
def _beside(call: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run a call in a thread, which gets an event for the end of the block."""
    ended = threading.Event()
    thread = threading.Thread(target=call, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _announce(
    server: WSGIServer,
    front: "HTTPFront | None",
    name: str,
    systemd: Notifier | None,
    ended: threading.Event,
) -> None:
    """Start the front and say where it is, and tell systemd, once the server listens."""
    while not server.wait_ready(0.1):
        if ended.is_set():
            return
    where = [as_bind(address) for address in server.addresses]
    if not where:  # it has been stopped already
        return
    if name:
        with contextlib.suppress(OSError):  # nobody reads that any more, but requests may come
            print(f"fastfcgi: serving {name} at {', '.join(where)}", file=sys.stderr, flush=True)
    if front is not None:
        front.fastcgi_address = where[0]
        front.start()
        tell_opened(front)
    if systemd is not None:
        systemd.ready()
        while not ended.wait(systemd.watchdog_interval):
            systemd.watchdog()
