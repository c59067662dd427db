"""The look at all workers once a second: who has to be replaced, and whether there are enough."""

import logging
from typing import Final

from fastfcgi import policy
from fastfcgi.crew import Crew, Member
from fastfcgi.master_settings import MasterSettings
from fastfcgi.status import memory_of

logger: Final = logging.getLogger("fastfcgi")

LOOK_INTERVAL: Final = 1.0


def inspect(crew: Crew, now: float) -> None:
    """Note who is idle, and have those replaced that are beyond a limit."""
    for member in crew.regulars():
        if not member.ready:
            continue
        requests = member.board.requests
        if requests != member.seen_requests or not member.idle:
            member.seen_requests, member.idle_since = requests, now
        if not member.reason:
            member.reason = _beyond(crew.settings, member, now)
            if member.reason:
                logger.info("worker %d is replaced: %s", member.pid, member.reason)


def _beyond(settings: MasterSettings, member: Member, now: float) -> str:
    """Which limit a worker is beyond, in words; empty when it is within all."""
    if member.most_requests and member.seen_requests >= member.most_requests:
        return f"it has served {member.seen_requests} requests"
    if settings.max_memory:
        size = memory_of(member.pid) or 0
        if size > settings.max_memory:
            return f"it holds {size // 1024} KiB of memory"
    if settings.hard_timeout is not None:
        for running in member.board.running():
            if now - running.since > settings.hard_timeout:
                return f"{running.text} has run for {now - running.since:.1f} s"
    return ""


def wanted(crew: Crew, now: float, waiting: bool) -> int:
    """How many workers there shall be, given how many there are; to be asked once for each time
    that something may have changed, since in dynamic mode the crew's step grows with it.

    Args:
        waiting: A connection waits that nobody has accepted.
    """
    settings = crew.settings
    if settings.mode == "static":
        return crew.target
    members = crew.regulars()
    ready = [member for member in members if member.ready]
    idle = [member for member in ready if member.idle]
    starting = len(members) - len(ready)
    queued = any(member.board.queued for member in ready)
    if settings.mode == "dynamic":
        free = sum(member.free for member in ready)
        needed, crew.step = policy.growth(
            crew.step, waiting=waiting or queued, free=free, starting=starting
        )
        change = policy.dynamic_change(
            len(members),
            len(idle),
            starting,
            min_spare=settings.min_spare,
            max_spare=settings.max_spare,
            most=settings.max_workers,
            needed=needed,
        )
        if change < 0 and not _long_idle(settings, idle, now):
            change = 0
        return max(crew.target if not change else len(members) + change, 1)
    # While somebody waits nobody ends: it may be a connection that one has handed over to another.
    ends = 0 if waiting else len(_long_idle(settings, idle, now))
    if ends and ends == len(members) and any(member.board.connections for member in members):
        # Nobody else could take the connections that are kept open.
        ends -= 1
    return (
        len(members)
        - ends
        + policy.ondemand_change(
            len(members), len(idle), starting, waiting=waiting or queued, most=settings.max_workers
        )
    )


def _long_idle(settings: MasterSettings, idle: list[Member], now: float) -> list[Member]:
    return [member for member in idle if now - member.idle_since >= settings.idle_timeout]
