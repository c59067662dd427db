"""`fastfcgi serve` with a master: its settings, and what it calls."""

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, Final

from fastfcgi import config
from fastfcgi.assembly import (
    absolute,
    absolute_bind,
    load,
    log_file,
    log_to,
    look_for_modules,
    server_options,
)
from fastfcgi.config import Settings
from fastfcgi.dev_front import address_in, front_process, private_folder
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.loading import Application, LoadError, load_hook
from fastfcgi.log_files import LogFiles
from fastfcgi.master import Master
from fastfcgi.master_settings import MasterSettings
from fastfcgi.privileges import identity
from fastfcgi.sockets import SocketOptions

logger: Final = logging.getLogger("fastfcgi")

# What MasterSettings has under the same name.
_SAME_NAME: Final = (
    *("mode", "workers", "max_workers", "idle_timeout"),
    *("max_requests", "max_requests_jitter", "hard_timeout", "graceful_timeout"),
    *("user", "group", "umask", "chdir", "preload", "reload"),
)


class Reloading:
    """The settings of now, as the master wants them; they are read anew when it asks.

    Args:
        settings: Those of the start.
        files: The log files of all settings.
        read: Reads them anew.
        command: See MasterSettings.
        more_bind: An address beside those of the settings.
    """

    def __init__(
        self,
        settings: Settings,
        files: LogFiles,
        read: Callable[[], Settings],
        command: list[str] | None,
        more_bind: Sequence[str] = (),
    ) -> None:
        self._settings = settings
        self._files = files
        self._read = read
        self._command = command
        self._more_bind = more_bind
        # Whom workers run as is not changed by a reload.
        self._user = settings.user, settings.group

    def reread(self) -> MasterSettings:
        """What the settings say by now.

        Raises:
            ConfigurationError, OSError: They are wrong; those of before stay.
        """
        settings = self._read()
        if settings.protocol != self._settings.protocol:
            # New workers get the connections that old ones have kept.
            raise ConfigurationError("protocol is not changed by a reload, only by a restart")
        found = self.master_settings(settings)
        self._settings = settings
        return found

    def load(self) -> Application:
        """The application, in a worker.

        Raises:
            BaseException: What its own code raised, or a LoadError.
        """
        if self._settings.chdir:
            os.chdir(self._settings.chdir)
        try:
            return load(self._settings)
        except LoadError as error:
            if self._settings.preload:  # in the master: it ends with that, as one process does
                raise
            failed = error
        # Outside, so that it is not told as if it had come of the LoadError.
        raise failed.__cause__ or failed

    def reopen(self) -> None:
        """Open the log files anew, in the master first: whom workers run as may not create any."""
        self._files.reopen()
        self._give_files()

    def _give_files(self) -> None:
        user = identity(*self._user) if os.geteuid() == 0 else None
        if user is not None:
            self._files.give_to(user.uid)

    def master_settings(self, settings: Settings) -> MasterSettings:
        """For the master; opens log files. When it fails, those of before go on."""
        with self._files.renewed():
            options = server_options(settings, self._files)
            log = log_file(settings, self._files)
            found = for_master(settings, options)
            found.bind = [*(found.bind or []), *self._more_bind] or None
            found.reopen, found.command = self.reopen, self._command
            self._give_files()
            log_to(log, settings)
        for line in config.without_effect(settings):
            logger.warning(line)
        return found


def for_master(settings: Settings, options: dict[str, Any]) -> MasterSettings:
    """What settings are to a master.

    Args:
        options: Of the server in each worker.
    """
    told = {name: getattr(settings, name) for name in _SAME_NAME}
    if settings.mode == "dynamic":
        told.update({name: getattr(settings, name) for name in ("min_spare", "max_spare")})
        told["start_workers"] = settings.workers
    return MasterSettings(
        bind=[absolute_bind(settings, one) for one in settings.bind] or None,
        socket_options=SocketOptions(
            settings.backlog,
            settings.umask,
            settings.socket_mode,
            settings.socket_owner,
            settings.socket_group,
        ),
        max_memory=settings.max_memory or 0,
        pidfile=settings.pidfile and absolute(settings, settings.pidfile),
        post_fork=_hook(settings, settings.post_fork),
        worker_exit=_hook(settings, settings.worker_exit),
        server_options=options,
        **told,
    )


def _hook(settings: Settings, target: str | None) -> Callable[[], object] | None:
    """What a worker calls; imported there, so that a reload brings a new one, too."""
    if target is None:
        return None

    def call() -> object:
        look_for_modules(settings)
        return load_hook(target)()

    return call


def run_master(
    settings: Settings,
    files: LogFiles,
    reread: Callable[[], Settings],
    command: list[str] | None,
) -> int:
    """Run the master; returns its exit status.

    Args:
        command: What was typed to start it, if it was.
    """
    if settings.chdir:
        os.stat(settings.chdir)  # told now, rather than by every worker
    with contextlib.ExitStack() as stack:
        more_bind = []
        if settings.http:
            folder = stack.enter_context(private_folder())
            stack.enter_context(front_process(settings.http, folder))
            more_bind = [address_in(folder)]
            command = None  # the front would not find the next one
        reloading = Reloading(settings, files, reread, command, more_bind)
        first = reloading.master_settings(settings)
        return Master(first, reloading.load, reread=reloading.reread).run()
