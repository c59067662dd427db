"""The master: opens the sockets, forks workers that serve, and looks after them.

It has one thread and one loop, which waits for signals, for workers that say something, and for
deadlines. Nothing is done in signal handlers. What it decides about workers stands in crew.py.
"""

import contextlib
import gc
import logging
import math
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from fastfcgi import overseer, reexec
from fastfcgi.crew import KILL, KILL_MARGIN, Crew, Member
from fastfcgi.estate import adopt, take_memory
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.holdings import Holdings
from fastfcgi.master_settings import MODES, MasterSettings
from fastfcgi.notify import Notifier
from fastfcgi.orders import ORDERS, Orders
from fastfcgi.pidfile import PidFile
from fastfcgi.privileges import Identity, identity
from fastfcgi.reexec import Check, Estate
from fastfcgi.scoreboard import Facts, snapshot
from fastfcgi.server import WSGIServer
from fastfcgi.signals import SignalQueue, blocked
from fastfcgi.sockets import reserve_standard_fds
from fastfcgi.worker import Application, Duty, ServerFactory, run_worker

if sys.platform != "win32":
    from fastfcgi.guard import stand_guard

logger: Final = logging.getLogger("fastfcgi")

# After a connection was seen waiting, the listening sockets are left alone for so long: a worker
# needs a moment to accept it, and it would be seen again and again.
LISTEN_PAUSE: Final = 0.02


class Interrupted(BaseException):
    """TERM or INT while the application was being loaded."""


class Master(Orders):
    """Serves an application in worker processes. POSIX only.

    Args:
        settings: See MasterSettings.
        load: Gives the application; called in each worker, or once here with preload. What it
            raises is logged with its traceback, a FastCGIError as one line without.
        server: Makes the server of a worker: called with the application and keyword options.
        reread: Gives the settings anew at a reload; None keeps those that there are.
    """

    def __init__(
        self,
        settings: MasterSettings,
        load: Callable[[], Application],
        server: ServerFactory = WSGIServer,
        reread: Callable[[], MasterSettings] | None = None,
    ) -> None:
        self.settings = settings
        self._load = load
        self._server = server
        self._reread = reread
        self._holdings = Holdings()
        self._notifier = Notifier({})
        self._check: Check | None = None
        self._identity: Identity | None = None
        self._ready = self._reloading = False
        self._reap = True
        self._next_look = self._next_watchdog = math.inf
        self._listen_at = 0.0

    # ---- running ---------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until TERM, INT or QUIT; returns the exit status, 0.

        Raises:
            ConfigurationError, OSError: It cannot start, for the reason that is said.
        """
        if threading.current_thread() is not threading.main_thread():
            raise ConfigurationError("the master runs on the main thread only")
        reserve_standard_fds()
        self._folder = reexec.working_directory()
        self._notifier = Notifier()
        estate = reexec.inherit()
        self._signals = SignalQueue(ORDERS)
        self._pidfile: PidFile | None = None
        try:
            self._open(estate)
            self._loop()
        except Interrupted:
            return 0
        finally:
            self._close()
        return 0

    def _open(self, estate: Estate | None) -> None:
        settings = self.settings
        self._identity = identity(settings.user, settings.group)
        if self._identity is None and os.geteuid() == 0:
            logger.warning("workers run as root; another user is safer (--user)")
        if settings.pidfile is not None:
            pidfile = PidFile(settings.pidfile)
            pidfile.write()
            self._pidfile = pidfile
        scoreboard, former = take_memory(settings, estate)
        self._crew = Crew(settings, scoreboard, self._fork)
        self._started = time.time() if estate is None else estate.started
        if estate is None:
            self._holdings.open_pipes()
        else:
            self._holdings.take_over(estate)
        self._listen()
        if estate is not None:
            self._holdings.renew(settings.socket_options)
        if settings.preload:
            self._preload()
        self._crew.target = settings.first
        if estate is not None:
            adopt(self._crew, estate, former)
            self._reloading = True
        if self._notifier.watchdog_interval is not None:
            self._next_watchdog = time.monotonic()
        self._set_looks()
        logger.info(
            "serving %s, master is process %d",
            ", ".join(self._holdings.addresses()) or "nothing",
            os.getpid(),
        )

    def _listen(self) -> None:
        self._holdings.listen(self.settings.bind, self.settings.socket_options)

    def _preload(self) -> None:
        """Load the application here, as the user of the workers."""
        settings = self.settings
        if self._identity is not None:
            self._identity.take()
            self._identity = None
        if settings.chdir is not None:
            os.chdir(settings.chdir)
        self._signals.interrupt(Interrupted)
        try:
            application = self._load()
        finally:
            self._signals.interrupt(None)
        self._load = lambda: application
        if threading.active_count() > 1:
            logger.warning(
                "the application has started %d threads; forked workers do not have them",
                threading.active_count() - 1,
            )
        # What is there now is shared with the workers as long as nobody writes to it.
        gc.collect()
        gc.freeze()

    def _loop(self) -> None:
        crew = self._crew
        while not (crew.ending and not crew.members):
            for number in self._signals.take():
                getattr(self, ORDERS[number])()
            now = time.monotonic()
            self._bury(now)
            self._look(now)
            crew.arrange(now)
            self._finish_check(now)
            self._tell_systemd(now)
            self._write_facts()
            if not (crew.ending and not crew.members):
                self._wait()

    def _wait(self) -> None:
        now = time.monotonic()
        deadline = min(self._crew.next_deadline(now), self._next_look, self._next_watchdog)
        if self._check is not None:
            deadline = min(deadline, self._check.deadline)
        poll = select.poll()
        poll.register(self._signals.fd, select.POLLIN)
        poll.register(self._holdings.wake[0], select.POLLIN)
        if self._may_start_more():
            listen_at = max([self._listen_at, *(one.not_before for one in self._crew.vacancies)])
            if now >= listen_at:
                for fd in self._waiting_places():
                    poll.register(fd, select.POLLIN)
            else:
                deadline = min(deadline, listen_at)
        timeout = None if deadline == math.inf else max(deadline - now, 0.0) * 1000 + 1
        ready = {fd for fd, _ in poll.poll(timeout)}
        if self._holdings.wake[0] in ready:
            with contextlib.suppress(BlockingIOError):
                while os.read(self._holdings.wake[0], 4096):
                    pass
            # A worker that has just begun to serve may not be enough.
            self._next_look = min(self._next_look, self._look_at_once())
        if ready - {self._signals.fd, self._holdings.wake[0]}:
            self._listen_at = time.monotonic() + LISTEN_PAUSE
            self._change_target(time.monotonic(), waiting=True)

    def _waiting_places(self) -> list[int]:
        """Where connections wait for somebody."""
        fds = [listener.sock.fileno() for listener in self._holdings.sockets]
        if self._holdings.handoff is not None:
            fds.append(self._holdings.handoff[1].fileno())
        return fds

    def _has_room(self) -> bool:
        return len(self._crew.regulars()) < self.settings.max_workers

    def _may_start_more(self) -> bool:
        return self.settings.mode == "ondemand" and not self._crew.ending and self._has_room()

    def _bury(self, now: float) -> None:
        """Take note of workers that have ended: of ours alone, by their number."""
        if not self._reap:
            return
        self._reap = False
        for pid in list(self._crew.members):
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:  # somebody else, such as a library, has taken it
                ended, status = pid, 0
            if ended:
                self._crew.ended(pid, status, now)
        if os.getpid() == 1:
            self._bury_strangers()

    def _bury_strangers(self) -> None:
        """As the first process of a container: orphans are ours to bury, too."""
        ours = {*self._crew.members, 0 if self._check is None else self._check.pid}
        with contextlib.suppress(ChildProcessError):
            while True:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if found is None or found.si_pid in ours:
                    return  # one of ours sends its CHLD, too
                os.waitpid(found.si_pid, os.WNOHANG)

    # ---- looks -----------------------------------------------------------------------------

    def _set_looks(self) -> None:
        # Not at once: the first look would take those that are about to be started for missing.
        first = time.monotonic() + overseer.LOOK_INTERVAL
        self._next_look = first if self.settings.looks else math.inf

    def _look_at_once(self) -> float:
        return time.monotonic() if self.settings.mode == "dynamic" else math.inf

    def _look(self, now: float) -> None:
        if now < self._next_look or self._crew.ending:
            return
        self._next_look = now + overseer.LOOK_INTERVAL
        overseer.inspect(self._crew, now)
        dynamic = self.settings.mode == "dynamic"
        waiting = dynamic and self._somebody_waits()
        self._change_target(now, waiting)
        if waiting and self._has_room():
            self._next_look = now + LISTEN_PAUSE  # whoever has begun to serve may take it

    def _somebody_waits(self) -> bool:
        poll = select.poll()
        for fd in self._waiting_places():
            poll.register(fd, select.POLLIN)
        return bool(poll.poll(0))

    def _change_target(self, now: float, waiting: bool) -> None:
        crew = self._crew
        if not crew.ending:
            crew.target = overseer.wanted(crew, now, waiting)

    def _write_facts(self) -> None:
        crew = self._crew
        mode = MODES.index(self.settings.mode)
        crew.scoreboard.write(
            Facts(os.getpid(), crew.generation, crew.restarts, mode, self._started)
        )

    def _tell_systemd(self, now: float) -> None:
        crew, notifier = self._crew, self._notifier
        if crew.ending:
            return
        regulars = crew.regulars()
        settled = len(regulars) >= crew.target and all(one.ready or one.failed for one in regulars)
        serving = sum(one.ready for one in regulars)
        failed = ", the last reload failed" if crew.given_up else ""
        notifier.status(
            f"{serving} of {crew.target} workers serve, generation {crew.generation}{failed}"
        )
        if self._reloading and not crew.reloading and settled:
            self._reloading = False
            self._ready = True
            new = any(one.ready and one.generation == crew.generation for one in regulars)
            self._holdings.settle(serves=new or not crew.given_up)
            if not crew.given_up:
                logger.info("reloaded, generation %d", crew.generation)
            notifier.ready()
        elif not (self._ready or self._reloading) and settled:
            self._ready = True
            notifier.ready()
        if notifier.watchdog_interval is not None and now >= self._next_watchdog:
            self._next_watchdog = now + notifier.watchdog_interval
            notifier.watchdog()

    # ---- starting workers ------------------------------------------------------------------

    def _fork(self, member: Member) -> int:
        """Start the process of a worker; returns its pid. OSError when the system is out of it."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()  # or both processes write it
        master = os.getpid()
        with blocked(self._signals.numbers):
            pid = os.fork()
            if pid == 0:
                self._be_worker(member, master)
        return pid

    def _be_worker(self, member: Member, master: int) -> None:
        """In the child: never returns."""
        try:
            self._signals.abandon()
            self._holdings.close_in_worker()
            crew = self._crew
            crew.scoreboard.close()
            self._stand_guard(master)
            duty = Duty(
                settings=self.settings,
                load=self._load,
                server=self._server,
                listeners=self._holdings.sockets,
                handoff=self._holdings.handoff,
                board=member.board,
                identity=self._identity,
                failures=member.failures,
                is_successor=member.replaces is not None,
                others=lambda: [board for _, board in crew.scoreboard.taken()],
                lifeline=self._holdings.lifeline[0],
                wake=self._holdings.wake[1],
                snapshot=lambda: snapshot(crew.scoreboard, self._holdings.addresses()),
            )
        except BaseException:
            logger.exception("a worker could not be started")
            os._exit(1)
        run_worker(duty)

    def _stand_guard(self, master: int) -> None:
        """In the child: have it end some time after the master, whatever it is stuck in."""
        patience = self.settings.graceful_timeout + KILL_MARGIN
        words = f"worker {os.getpid()} has outlived its master for {patience:g} s, it ends\n"
        try:
            stand_guard(self._holdings.lifeline[0], master, patience, words.encode())
        except OSError as error:
            logger.warning("worker %d goes without a guard: %s", os.getpid(), error.strerror)

    # ---- the end ---------------------------------------------------------------------------

    def _close(self) -> None:
        """Whatever happened: leave nothing behind."""
        if self._check is not None:
            self._check.cancel()
        crew = getattr(self, "_crew", None)
        if crew is not None:
            # Empty, unless something of ours has failed.
            for pid in list(crew.members):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, KILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
                del crew.members[pid]
            crew.scoreboard.close()
        self._holdings.close()
        if self._pidfile is not None:
            self._pidfile.remove()
        self._signals.close()
