"""`fastfcgi serve --check`: all that can be found out without serving, opening or writing."""

import os
import socket
import sys
from typing import cast

from fastfcgi import WSGIServer, config, listen_errors
from fastfcgi.assembly import absolute, absolute_bind, enter, load, server_options
from fastfcgi.config import Settings
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.loading import load_hook
from fastfcgi.log_files import STANDARD, LogFiles
from fastfcgi.reexec import held_files
from fastfcgi.sockets import group_id, parse_address, tcp_places, user_id


def run(settings: Settings) -> int:
    """Check them; prints one line.

    It does not matter whether a server runs with them just now: that one asks before it is
    replaced.

    Raises:
        ConfigurationError, OSError: What is wrong.
    """
    sys.dont_write_bytecode = True
    enter(settings)
    held = set(filter(os.path.lexists, held_files()))
    for one in settings.bind:
        # As the server itself will be told it: a master takes absolute paths.
        address = absolute_bind(settings, one) if settings.wants_master else one
        _check_address(address, held)
    if settings.http:
        host, port = settings.http
        tcp_places(host, port, socket.AF_UNSPEC)  # as the front does
    user_id(settings.socket_owner)
    group_id(settings.socket_group)
    if settings.pidfile:
        pidfile = absolute(settings, settings.pidfile)
        if pidfile not in held:
            _writable_file(pidfile)
    for log in (settings.error_log, settings.access_log, settings.slow_log):
        if log and log not in ("-", *STANDARD):
            _writable_file(absolute(settings, log))
    options = server_options(settings, LogFiles(opens=False))
    if settings.wants_master:
        # Imported before: whom workers run as may not be able to read where Python is.
        from fastfcgi.under_master import for_master

        for_master(settings, options)
        _become_worker(settings)
    application = load(settings)
    for target in (settings.post_fork, settings.worker_exit):
        if target:
            load_hook(target)
    WSGIServer(application, bind=settings.bind or None, **options)
    print(summary(settings))
    return 0


def summary(settings: Settings) -> str:
    """What would be served, in one line."""
    front = [f"http://{listen_errors.tcp_text(*settings.http)}/"] if settings.http else []
    where = ", ".join([*settings.bind, *front]) or "what it is started with"
    if not settings.wants_master:
        who = "one process"
    elif settings.mode == "static":
        who = f"{settings.workers} worker{'s' * (settings.workers > 1)}"
    else:
        who = f"up to {settings.max_workers} workers"
    useless = "; ".join(config.without_effect(settings))
    line = f"fastfcgi: {settings.application} can be served at {where} by {who}"
    return f"{line} of {settings.threads} threads{useless and '; ' + useless}"


def _become_worker(settings: Settings) -> None:
    """The application is loaded as whom it will run as: root has no business in it."""
    from fastfcgi.privileges import identity

    user = identity(settings.user, settings.group)
    if user is not None:
        user.take()


def _check_address(text: str, held: set[str]) -> None:
    parsed = parse_address(text)
    if parsed[0] == "unix":
        path = str(parsed[1])  # type: ignore[misc]
        if os.path.abspath(path) not in held:
            _check_unix(path)
    elif parsed[0] == "tcp":
        tcp_places(*cast("tuple[str, int]", parsed[1]))  # type: ignore[misc]


def _check_unix(path: str) -> None:
    reason = listen_errors.of_unix(path)
    if reason:
        where = path.replace("\0", "@", 1)
        raise ConfigurationError(f"cannot listen on {where}: {reason}")


def _writable_file(path: str) -> None:
    """Whether a file can be written or made there."""
    if os.path.isdir(path):
        raise ConfigurationError(f"{path}: it is a directory")
    if not os.path.exists(path):
        _writable_folder(path)
    elif not os.access(path, os.W_OK):
        raise ConfigurationError(f"{path}: it may not be written to")


def _writable_folder(path: str) -> None:
    """Whether a file can be made beside this one."""
    reason = listen_errors.of_folder(os.path.dirname(path))
    if reason:
        raise ConfigurationError(f"{path}: {reason}")
