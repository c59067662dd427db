"""What signals tell the master to do: each method does one thing, between two looks at the workers.

The master's loop calls them (master.py); none is called from a signal handler.
"""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Final

from fastfcgi import reexec
from fastfcgi.crew import STOP, Crew
from fastfcgi.estate import estate_of
from fastfcgi.holdings import Holdings
from fastfcgi.master_settings import FIXED, MasterSettings
from fastfcgi.notify import Notifier
from fastfcgi.reexec import Check
from fastfcgi.scoreboard import Scoreboard, places_for
from fastfcgi.signals import SignalQueue, blocked

logger: Final = logging.getLogger("fastfcgi")

# Seconds for workers that are to end at once.
AT_ONCE: Final = 1.0

_NAMES: Final = {
    "SIGTERM": "on_end",
    "SIGINT": "on_end",
    "SIGQUIT": "on_quit",
    "SIGHUP": "on_reload",
    "SIGUSR1": "on_reopen",
    "SIGUSR2": "on_upgrade",
    "SIGTTIN": "on_more",
    "SIGTTOU": "on_fewer",
    "SIGCHLD": "on_child",
}
# Signal -> the method that does what it says.
ORDERS: Final = {
    int(getattr(signal, name)): call for name, call in _NAMES.items() if hasattr(signal, name)
}


class Orders:
    """What a master can be told; the attributes are the master's."""

    settings: MasterSettings
    _reread: Callable[[], MasterSettings] | None
    _crew: Crew
    _holdings: Holdings
    _notifier: Notifier
    _signals: SignalQueue
    _folder: str
    _started: float
    _check: Check | None
    _reloading: bool
    _reap: bool

    def _set_looks(self) -> None:
        raise NotImplementedError

    def on_end(self) -> None:
        """TERM, INT: finish what runs. Once more: at once."""
        crew, now = self._crew, time.monotonic()
        if crew.ending:
            self.on_quit()
            return
        logger.info("the end; workers that finish their requests: %d", len(crew.members))
        self._notifier.stopping()
        # Before the workers, so that who comes now is refused and can go elsewhere.
        self._holdings.stop_listening()
        crew.end(STOP, now)

    def on_quit(self) -> None:
        """QUIT: end at once."""
        logger.info("the end, at once")
        self._notifier.stopping()
        self._holdings.stop_listening()
        self._crew.end(signal.SIGQUIT, time.monotonic(), AT_ONCE)

    def on_reload(self) -> None:
        """HUP: a new generation, of settings that are read again; with new sockets in the place of
        those whose files are gone."""
        if self._crew.ending:
            return
        if self.settings.preload and self.settings.command is not None:
            logger.info("the application was loaded beforehand: the master starts again")
            self.on_upgrade()
            return
        if self._reread is not None:
            try:
                settings = self._reread()
            except Exception as error:
                logger.error("no reload, the configuration cannot be used: %s", error)
                return
            try:
                self._use(settings)
            except OSError as error:
                logger.error("no reload: %s", error)
                return
        self._holdings.renew(self.settings.socket_options)
        self._crew.reload()
        self._reloading = True
        self._notifier.reloading()
        logger.info("reload: generation %d", self._crew.generation)

    def _use(self, settings: MasterSettings) -> None:
        """Go on with other settings, as far as that is possible now."""
        fixed = [name for name in FIXED if getattr(settings, name) != getattr(self.settings, name)]
        for name in fixed:
            setattr(settings, name, getattr(self.settings, name))
        if fixed:
            logger.warning("not changed by a reload, only by a restart: %s", ", ".join(fixed))
        layout = places_for(settings.most), settings.threads
        crew = self._crew
        if layout != (crew.scoreboard.places, crew.scoreboard.threads):
            # Old workers go on in the old memory, which nobody reads but us.
            former, crew.scoreboard = crew.scoreboard, Scoreboard(*layout)
            former.close()
        if (settings.mode, settings.first) != (self.settings.mode, self.settings.first):
            crew.target = settings.first
        self.settings = crew.settings = settings
        self._set_looks()

    def on_reopen(self) -> None:
        """USR1: reopen log files, here first: workers may not be allowed to make them."""
        if self.settings.reopen is not None:
            try:
                self.settings.reopen()
            except Exception:
                logger.exception("log files cannot be reopened")
        for pid in list(self._crew.members):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)

    def on_more(self) -> None:
        """TTIN: one worker more."""
        self._resize(1)

    def on_fewer(self) -> None:
        """TTOU: one worker less."""
        self._resize(-1)

    def _resize(self, change: int) -> None:
        crew = self._crew
        most = crew.scoreboard.places // 2 if self.settings.mode == "static" else self.settings.most
        crew.target = min(max(crew.target + change, 1), most)
        logger.info("%d workers are wanted", crew.target)

    def on_child(self) -> None:
        """CHLD: somebody has ended."""
        self._reap = True

    def on_upgrade(self) -> None:
        """USR2: become a new version of the program, once that has been checked."""
        command = self.settings.command
        if self._crew.ending:
            return
        if command is None:
            logger.error("USR2: not available to scripts, nor together with --http")
        elif self._check is not None:
            logger.warning("USR2: the check of the one before still runs")
        else:
            held = [*self._holdings.files(), *filter(None, [self.settings.pidfile])]
            try:
                self._check = Check(command, self._folder, self.settings.start_timeout, held)
            except OSError as error:
                logger.error("USR2: %s cannot be run: %s", command[0], error)

    def _finish_check(self, now: float) -> None:
        if self._check is None or (good := self._check.result(now)) is None:
            return
        self._check = None
        if self._crew.ending:
            return
        if not good:
            logger.error("USR2: the check failed, this master goes on")
            return
        self._become_another()

    def _become_another(self) -> None:
        command = self.settings.command
        assert command is not None
        logger.info("USR2: becoming %s", " ".join(command))
        self._notifier.reloading()
        estate = estate_of(self._crew, self._holdings, self._started)
        with blocked(self._signals.numbers):
            try:
                reexec.become(command, self._folder, estate)
            except OSError as error:
                logger.error("USR2: %s cannot be run: %s", command[0], error)
