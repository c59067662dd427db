"""The workers as the master sees them: which there are, which shall be, which have to go.

arrange() compares what is with what shall be and does the next step; it is called after whatever
happened, and calling it once more does nothing. There is one way to get rid of a worker that
serves: its successor is started, and when that serves, the old one is told to retire. So there is
never a worker less than there was.

How a worker is forked and how signals are sent is given, so that this can be tested without.
"""

import logging
import math
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from fastfcgi import policy
from fastfcgi.board import FAILED, RETIRING, SERVING, STOPPING, Board
from fastfcgi.master_settings import MasterSettings
from fastfcgi.scoreboard import Scoreboard
from fastfcgi.signals import ending_of

logger: Final = logging.getLogger("fastfcgi")

# What a worker is told: to stop, or to retire, which gives its idle connections to others.
STOP: Final = signal.SIGTERM
RETIRE: Final = getattr(signal, "SIGUSR2", signal.SIGTERM)
KILL: Final = getattr(signal, "SIGKILL", signal.SIGTERM)

# Why all workers are replaced; other reasons concern one worker.
RELOAD: Final = "a reload"

# Seconds beyond graceful_timeout, after which a worker ends by itself and says so.
KILL_MARGIN: Final = 1.0

# How a worker ends whose application could not be loaded.
NOT_LOADED: Final = 3

NEVER: Final = math.inf


@dataclass(eq=False)
class Member:
    """A worker.

    Attributes:
        pid: Its process, 0 while it is being forked.
        place: Of its board in the scoreboard; None: an old master's, that cannot be read.
        born: When (time.monotonic()).
        most_requests: It is replaced after these; 0 is no limit.
        failures: How many starts of it have failed in a row.
        replaces: Whom it will succeed, until it serves.
        successor: Who will succeed it.
        ready, failed: It has served; its application could not be loaded.
        told: The signal that it was told to end with, 0 while it was not.
        kill_at: When it is killed if it has not ended.
        idle_since: Since when it runs no request, as far as was seen.
        reason: Why it is to be replaced; empty while it is not.
        retry_at: When the next successor may be started.
    """

    board: Board
    scoreboard: Scoreboard | None
    place: int | None
    generation: int
    born: float
    pid: int = 0
    most_requests: int = 0
    failures: int = 0
    replaces: "Member | None" = None
    successor: "Member | None" = None
    ready: bool = False
    failed: bool = False
    told: int = 0
    kill_at: float = NEVER
    idle_since: float = 0.0
    seen_requests: int = 0
    reason: str = ""
    retry_at: float = 0.0

    @property
    def regular(self) -> bool:
        """One of those that are counted: not about to end, nor a successor that does not serve."""
        return not self.told and self.replaces is None

    @property
    def idle(self) -> bool:
        """It serves, and nobody waits for it."""
        return self.ready and not self.board.busy and not self.board.queued

    @property
    def free(self) -> bool:
        """It serves, and could run another request at once."""
        return self.ready and self.board.busy + self.board.queued < self.board.threads

    def doing(self) -> str:
        """What it runs, for a log line; empty when it runs nothing."""
        running = self.board.running()
        if not running:
            return ""
        more = f" and {len(running) - 1} more" if len(running) > 1 else ""
        return f" while it ran {running[0].text}{more}"


@dataclass
class Vacancy:
    """The place of a worker that died, which is not to be filled at once."""

    not_before: float
    failures: int


@dataclass(eq=False)
class Crew:
    """All workers.

    Args:
        settings: May be replaced by others at a reload.
        scoreboard: Where new workers get their boards.
        fork: Starts the process of a Member and returns its pid; OSError when it cannot.
        kill: os.kill, as a rule.

    Attributes:
        members: Of all processes that have not ended, by pid.
        target: How many there shall be.
        generation: Of those that are started now.
        restarts: How many died and were replaced.
        ending: None is started any more.
        step: How many are started next when somebody waits in dynamic mode; see policy.growth.
    """

    settings: MasterSettings
    scoreboard: Scoreboard
    fork: Callable[[Member], int]
    kill: Callable[[int, int], None] = os.kill
    generation: int = 1
    restarts: int = 0
    ending: bool = False
    target: int = 0
    members: dict[int, Member] = field(default_factory=dict)
    vacancies: list[Vacancy] = field(default_factory=list)
    # A worker of this generation has served, so starting others like it makes sense.
    proven: bool = True
    # The last reload was given up.
    given_up: bool = False
    crowded: bool = False
    step: int = 1

    def regulars(self) -> list[Member]:
        """Those that count."""
        return [member for member in self.members.values() if member.regular]

    # ---- one step --------------------------------------------------------------------------

    def arrange(self, now: float) -> None:
        """Do what is to be done now."""
        for member in list(self.members.values()):
            self._look(member, now)
        if not self.ending:
            self._replace(now)
            self._fill(now)
            self._trim(now)
        self._kill_late(now)

    def _look(self, member: Member, now: float) -> None:
        """What its board says by now."""
        state = member.board.state
        if state in (SERVING, RETIRING) and not member.ready:
            member.ready, member.idle_since = True, now
            self._serves(member, now)
        elif state == FAILED and not member.failed:
            member.failed = True
            if member.replaces is not None:
                self._successor_failed(member, now)
        elif state == STOPPING and not (member.told or member.failed):
            # Somebody else told it so; it may take its time, and another one is needed now.
            member.told, member.kill_at = STOP, now + self._patience
        if state == RETIRING and not member.told and not member.reason:
            member.reason = "it asked to be"
            logger.info("worker %d is replaced: %s", member.pid, member.reason)

    def _serves(self, member: Member, now: float) -> None:
        self.proven = self.proven or member.generation == self.generation
        old, member.replaces = member.replaces, None
        if old is not None and not member.told:
            old.successor = None
            self.tell(old, RETIRE, now)

    @property
    def _patience(self) -> float:
        return self.settings.graceful_timeout + KILL_MARGIN

    def tell(self, member: Member, signum: int, now: float) -> None:
        """Tell a worker to end; it is killed when it does not in time."""
        # One that loads its application has no request to finish: TERM ends it as it stands.
        member.told = signum if member.ready else STOP
        member.kill_at = min(member.kill_at, now + self._patience)
        self._send(member, member.told)

    def _send(self, member: Member, signum: int) -> None:
        if member.pid <= 0:
            return  # to kill() that is a group of processes, ours among them
        try:
            self.kill(member.pid, signum)
        except ProcessLookupError:
            pass  # not reaped yet, so it cannot be another process
        except PermissionError as error:
            logger.error("cannot signal worker %d: %s", member.pid, error)

    def _kill_late(self, now: float) -> None:
        for member in list(self.members.values()):
            if now >= member.kill_at:
                member.kill_at = NEVER
                logger.error(
                    "worker %d has not ended in time, it is killed%s", member.pid, member.doing()
                )
                self._send(member, KILL)
            elif not (member.ready or member.failed or member.told) and now >= self._late(member):
                timeout = self.settings.start_timeout
                logger.error("worker %d has not started in %g s, it is killed", member.pid, timeout)
                # Told nothing: it is a failure, and counts as one.
                member.born = NEVER
                self._send(member, KILL)

    def _late(self, member: Member) -> float:
        return member.born + self.settings.start_timeout

    # ---- replacing -------------------------------------------------------------------------

    def reload(self) -> None:
        """A new generation."""
        self.generation += 1
        self.given_up = False
        self.vacancies.clear()
        # The first of them goes alone: what is broken is said once, and nothing is lost.
        self.proven = not self.members
        for member in self.members.values():
            if not member.told:
                member.reason, member.retry_at, member.failures = RELOAD, 0.0, 0

    @property
    def reloading(self) -> bool:
        """Some workers of a former generation have still to be replaced."""
        return any(one.reason == RELOAD and not one.told for one in self.members.values())

    def _replace(self, now: float) -> None:
        for member in list(self.members.values()):
            if member.replaces is not None and member.generation != self.generation:
                self._dismiss(member, now)
        for member in self.regulars():
            if not member.reason or member.successor is not None:
                continue
            if not member.ready:
                self.tell(member, STOP, now)  # there is nothing in it that could be lost
            elif now >= member.retry_at and (self.proven or not self._trying()):
                self._start(now, member.failures, member)

    def _trying(self) -> bool:
        """Whether a worker of this generation is being started."""
        return any(
            member.generation == self.generation and not member.told and not member.ready
            for member in self.members.values()
        )

    def _dismiss(self, member: Member, now: float) -> None:
        """A successor that is not wanted any more."""
        if member.replaces is not None:
            member.replaces.successor = None
            member.replaces = None
        if not member.told:
            self.tell(member, STOP, now)

    def _successor_failed(self, member: Member, now: float) -> None:
        old = member.replaces
        assert old is not None
        self._dismiss(member, now)
        if old.reason != RELOAD:
            old.failures += 1
            old.retry_at = now + policy.back_off(old.failures)
            logger.error("worker %d stays for now: its successor failed", old.pid)
            return
        stay = [one for one in self.members.values() if one.reason == RELOAD and not one.told]
        for one in stay:
            one.reason = ""
            if one.successor is not None:
                self._dismiss(one.successor, now)
        self.proven = self.given_up = True
        logger.error("the reload failed: %d workers of before stay", len(stay))

    # ---- as many as there shall be ---------------------------------------------------------

    def _fill(self, now: float) -> None:
        missing = self.target - len(self.regulars())
        due = [vacancy for vacancy in self.vacancies if vacancy.not_before <= now]
        fresh = missing - len(self.vacancies)
        for _ in range(fresh):
            if not self._start(now, 0):
                return
        for vacancy in due[: max(missing, 0)]:
            self.vacancies.remove(vacancy)
            if not self._start(now, vacancy.failures):
                return

    def _start(self, now: float, failures: int, replaces: Member | None = None) -> bool:
        place = self.scoreboard.take()
        if place is None:
            if not self.crowded:
                logger.warning("another worker has to wait until one has ended")
            self.crowded = True
            return False
        self.crowded = False
        board = self.scoreboard.board(place)
        board.generation = self.generation
        member = Member(board, self.scoreboard, place, self.generation, now, replaces=replaces)
        limits = self.settings.max_requests, self.settings.max_requests_jitter
        member.most_requests, member.failures = policy.jittered(*limits), failures
        if replaces is not None:
            replaces.successor = member
        try:
            member.pid = self.fork(member)
        except OSError as error:
            self._fork_failed(member, error, now)
            return False
        self.scoreboard.set_pid(place, member.pid)
        self.members[member.pid] = member
        return True

    def _fork_failed(self, member: Member, error: OSError, now: float) -> None:
        """The system is out of something, for a while as a rule."""
        assert member.scoreboard is not None and member.place is not None
        member.scoreboard.free(member.place)
        failures = member.failures + 1
        again = now + policy.back_off(failures)
        if member.replaces is not None:
            old, member.replaces = member.replaces, None
            old.successor, old.failures, old.retry_at = None, failures, again
        else:
            self.vacancies.append(Vacancy(again, failures))
        logger.error("cannot start a worker, again in %g s: %s", again - now, error)

    def _trim(self, now: float) -> None:
        regulars = self.regulars()
        surplus = len(regulars) - self.target
        if surplus <= 0:
            return
        # Those that do not serve first, then who has been idle for longest, who is busy last.
        regulars.sort(key=lambda one: (one.ready, not one.idle, one.idle_since))
        for member in regulars[:surplus]:
            if member.successor is not None:
                self._dismiss(member.successor, now)
            self.tell(member, RETIRE, now)

    # ---- ends ------------------------------------------------------------------------------

    def ended(self, pid: int, status: int, now: float) -> None:
        """A worker is no more; status is that of waitpid()."""
        member = self.members.pop(pid)
        doing = member.doing()
        # Asked of its board, too: it may have said so since the last look.
        member.failed = member.failed or member.board.state == FAILED
        if member.scoreboard is not None and member.place is not None:
            member.scoreboard.free(member.place)
        if member.successor is not None:
            member.successor.replaces = None  # it takes the place at once
        if self.settings.mode == "ondemand":
            # The next one is started when somebody waits, not because there was one.
            self.target = min(self.target, len(self.regulars()))
        if member.told:
            logger.debug("worker %d has ended: %s", pid, ending_of(status))
        elif not self.ending:
            self._died(member, status, doing, now)

    def _died(self, member: Member, status: int, doing: str, now: float) -> None:
        self.restarts += 1
        failures = member.failures + 1
        # Whose application could not be loaded has said so, and has waited itself, to answer. An
        # application that calls os._exit() may end with the same status.
        told = member.failed and os.waitstatus_to_exitcode(status) == NOT_LOADED
        quick = not member.ready or now - member.born < policy.QUICK_DEATH
        pause = policy.back_off(failures) if quick and not told and member.replaces is None else 0.0
        logger.log(
            logging.DEBUG if told else logging.ERROR,
            "worker %d died: %s%s%s%s",
            *(member.pid, ending_of(status), doing),
            "" if member.ready or told else " before it served",
            f", again in {pause:g} s" if pause else "",
        )
        member.told = KILL  # it is no more: nobody is to be told anything under its number
        if member.replaces is not None:
            self._successor_failed(member, now)
        elif told or pause:
            self.vacancies.append(Vacancy(now + pause, failures))
        del self.vacancies[self.settings.most :]

    def end(self, signum: int, now: float, patience: float | None = None) -> None:
        """Tell all to end; none is started any more."""
        self.ending = True
        for member in self.members.values():
            self.tell(member, signum, now)
            if patience is not None:
                member.kill_at = min(member.kill_at, now + patience)

    def next_deadline(self, now: float) -> float:
        """When arrange() has something to do although nothing happens (time.monotonic())."""
        found = [NEVER]
        for member in self.members.values():
            found.append(member.kill_at)
            if not (member.ready or member.failed or member.told):
                found.append(self._late(member))
            if member.reason and member.successor is None and not member.told:
                found.append(member.retry_at)
        if len(self.regulars()) < self.target:
            found += [vacancy.not_before for vacancy in self.vacancies]
        # What is due and was not done waits for something to happen.
        return min(deadline for deadline in found if deadline > now)
