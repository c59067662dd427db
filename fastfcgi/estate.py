"""What one master leaves to the next when the process becomes another program (reexec.py)."""

import logging
import math
import os
import time
from typing import Final

from fastfcgi.board import SERVING, Board
from fastfcgi.crew import Crew, Member
from fastfcgi.holdings import Holdings
from fastfcgi.master_settings import MasterSettings
from fastfcgi.reexec import Estate, HeldWorker
from fastfcgi.scoreboard import Scoreboard, places_for

logger: Final = logging.getLogger("fastfcgi")


def estate_of(crew: Crew, holdings: Holdings, started: float) -> Estate:
    """All that the next master gets of this one."""
    assert holdings.handoff is not None
    workers = [
        HeldWorker(
            pid=member.pid,
            # The board of one from before the last change of threads cannot be named.
            place=member.place if member.scoreboard is crew.scoreboard else None,
            generation=member.generation,
            told=member.told,
            kill_at=None if member.kill_at == math.inf else member.kill_at,
            ready=member.ready,
        )
        for member in crew.members.values()
    ]
    return Estate(
        pid=os.getpid(),
        listeners=holdings.held(),
        handoff=[sock.fileno() for sock in holdings.handoff],
        wake=list(holdings.wake),
        lifeline=list(holdings.lifeline),
        memory=crew.scoreboard.fd,
        places=crew.scoreboard.places,
        threads=crew.scoreboard.threads,
        generation=crew.generation,
        restarts=crew.restarts,
        started=started,
        workers=workers,
    )


def take_memory(
    settings: MasterSettings, estate: Estate | None
) -> tuple[Scoreboard, Scoreboard | None]:
    """The scoreboard for new workers, and that of old ones, where it can be read: the same one
    if it fits.

    Raises:
        OSError: There is no memory.
    """
    wanted = places_for(settings.most), settings.threads
    if estate is None:
        return Scoreboard(*wanted), None
    try:
        former = Scoreboard(estate.places, estate.threads, estate.memory)
    except (ValueError, OSError) as error:
        logger.warning("%s; what old workers do is not known", error)
        os.close(estate.memory)
        return Scoreboard(*wanted), None
    if (former.places, former.threads) == wanted:
        known = {worker.pid for worker in estate.workers}
        for place in range(former.places):
            if former.pid_at(place) not in known:
                former.free(place)
        return former, former
    former.close()
    return Scoreboard(*wanted), former


def adopt(crew: Crew, estate: Estate, former: Scoreboard | None) -> None:
    """Go on with the workers of the former master, and have them replaced.

    Args:
        former: The scoreboard that their boards are in, None when it cannot be read.
    """
    now = time.monotonic()
    crew.generation, crew.restarts = estate.generation, estate.restarts
    for held in estate.workers:
        place = None if former is None else held.place
        board = Board(1) if former is None or place is None else former.board(place)
        if place is None:
            board.pid, board.generation, board.state = held.pid, held.generation, SERVING
        crew.members[held.pid] = Member(
            board,
            former,
            place,
            held.generation,
            now,
            pid=held.pid,
            ready=held.ready,
            told=held.told,
            kill_at=math.inf if held.kill_at is None else held.kill_at,
            idle_since=now,
        )
    logger.info("%d workers taken over from the former master", len(crew.members))
    crew.reload()
    crew.target = max(crew.target, 1 if crew.regulars() else 0)
