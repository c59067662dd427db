"""What is made of settings: the application, the server's arguments, the logs."""

import os
import time
from collections.abc import Callable
from typing import Any, Final

from fastfcgi.config import Settings
from fastfcgi.limits import LIMIT_NAMES
from fastfcgi.loading import Application, find_modules_in, load_application
from fastfcgi.log_files import LogFile, LogFiles, keep_logging, set_up_logging
from fastfcgi.sockets import parse_address

# What WSGIServer takes under the same name.
_SAME_NAME: Final = (
    *("threads", "debug", "ping_path", "status_path", "mount", "protocol"),
    *sorted(LIMIT_NAMES),
)


def enter(settings: Settings) -> None:
    """Go where all relative paths begin."""
    if settings.chdir:
        os.chdir(settings.chdir)
    if settings.umask is not None:
        os.umask(settings.umask)


def look_for_modules(settings: Settings) -> None:
    """Have modules found where the settings say."""
    folders = [os.path.abspath(folder) for folder in settings.pythonpath]
    find_modules_in([*folders, *([] if settings.no_path else [os.getcwd()])])


def load(settings: Settings) -> Application:
    """The application."""
    look_for_modules(settings)
    application = load_application(settings.application)
    keep_logging()
    return application


def absolute(settings: Settings, path: str) -> str:
    """A path as the settings mean it. The master itself stays where it was started, so that it
    can be started once more."""
    return path if path == "-" else os.path.join(settings.chdir or os.getcwd(), path)


def absolute_bind(settings: Settings, text: str) -> str:
    """The same for an address."""
    kind, *rest = parse_address(text)
    path = str(rest[0]) if kind == "unix" else "\0"
    return text if path.startswith("\0") else f"unix:{absolute(settings, path)}"


def server_options(settings: Settings, files: LogFiles) -> dict[str, Any]:
    """Arguments of WSGIServer, those that somebody gave."""
    found = settings.given(*_SAME_NAME)
    if settings.environ:
        found["environ"] = dict(settings.environ)
    if settings.timeout is not None:
        found["slow_timeout"] = settings.timeout
        if settings.slow_log:  # else the server logs a warning
            found["slow_log"] = _slow_log(settings, files)
    if settings.access_log:
        found["access_log"] = _access_log(settings, files)
    return found


def _access_log(settings: Settings, files: LogFiles) -> Callable[[Any], None]:
    from fastfcgi.access_log import compile_format

    line = compile_format(settings.access_format)
    file = files.open(absolute(settings, settings.access_log), 1)
    return lambda record: file.write(line(record))


def _slow_log(settings: Settings, files: LogFiles) -> Callable[[Any], None]:
    from fastfcgi.slow_log import entry

    file = files.open(absolute(settings, settings.slow_log), 1)
    return lambda request: file.write(entry(request, time.time()))


def log_file(settings: Settings, files: LogFiles) -> LogFile:
    """Where messages go."""
    return files.open(absolute(settings, settings.error_log))


def log_to(file: LogFile, settings: Settings) -> None:
    """Let messages go there."""
    level = "debug" if settings.debug and not settings.given("log_level") else settings.log_level
    set_up_logging(file, level)
