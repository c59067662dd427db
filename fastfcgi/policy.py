"""How many workers there shall be, and when a failed one is started again: pure functions.

They know counts and seconds only; who counts and who starts is elsewhere (crew.py, master.py).
"""

import random
from typing import Final

# Seconds before something that failed is tried again: doubled with each failure in a row. A broken
# application is loaded once a minute at last, which costs nothing and heals soon enough.
BACK_OFF_FIRST: Final = 1.0
BACK_OFF_MOST: Final = 60.0

# In dynamic mode no more workers than these are started at once, however many requests wait.
STEP_MOST: Final = 32

# A worker that dies sooner than this after its start has not proved that starting it makes sense.
QUICK_DEATH: Final = 1.0


def back_off(failures: int) -> float:
    """Seconds to wait after so many failures in a row, 0 for none.

    >>> [back_off(n) for n in (0, 1, 2, 3, 7, 1000)]
    [0.0, 1.0, 2.0, 4.0, 60.0, 60.0]
    """
    if failures <= 0:
        return 0.0
    return min(BACK_OFF_FIRST * 2.0 ** min(failures - 1, 16), BACK_OFF_MOST)


def jittered(limit: int, jitter: int) -> int:
    """A limit of one worker, so that not all of them reach it at once: at most `jitter` above.

    Returns:
        0, which is no limit, stays 0.
    """
    return limit + random.randint(0, jitter) if limit else 0


def growth(step: int, *, waiting: bool, free: int, starting: int) -> tuple[int, int]:
    """How many workers to start in dynamic mode because somebody waits, and the next `step`.

    Each time that those that were started are all busy, too, it is twice as many.

    Args:
        step: What this function gave last, 1 at first.
        waiting: Somebody waits: a connection that nobody accepts, or a request for a thread.
        free: Workers that serve and could run another request.
        starting: As for dynamic_change.

    >>> growth(4, waiting=True, free=0, starting=0)
    (4, 8)
    """
    if not waiting:
        return 0, 1
    if free or starting:
        return 0, step
    return step, min(2 * step, STEP_MOST)


def dynamic_change(
    total: int,
    idle: int,
    starting: int,
    *,
    min_spare: int,
    max_spare: int,
    most: int,
    needed: int = 0,
) -> int:
    """How many workers to start (positive) or to end (negative) in dynamic mode.

    Args:
        total: All that serve or start.
        idle: Those that serve and run no request.
        starting: Those that do not serve yet.
        min_spare: Start as many as are missing for so many idle ones ...
        max_spare: ... and end one, not more at a time, when there are more than so many.
        most: The most workers.
        needed: Start so many at least; see growth.
    """
    missing = max(min_spare - idle - starting, needed)
    if missing > 0:
        return max(min(missing, most - total), 0)
    if idle > max_spare and total > 1:
        return -1
    return 0


def ondemand_change(total: int, idle: int, starting: int, *, waiting: bool, most: int) -> int:
    """How many workers to start in ondemand mode: one or none.

    Args:
        total, idle, starting, most: As for dynamic_change.
        waiting: Somebody waits: a connection that nobody accepts, or a request for a thread.
    """
    return int(waiting and not idle and not starting and total < most)
