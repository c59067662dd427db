"""How many workers there shall be, as numbers."""

import pytest

from fastfcgi import policy
from fastfcgi.policy import back_off, dynamic_change, growth, jittered, ondemand_change


def test_back_off_doubles_up_to_a_minute() -> None:
    assert [back_off(n) for n in range(9)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert back_off(-1) == 0
    assert back_off(10**9) == policy.BACK_OFF_MOST


def test_jitter_is_added_to_a_limit_only() -> None:
    assert {jittered(0, 100) for _ in range(50)} == {0}
    assert {jittered(10, 0) for _ in range(50)} == {10}
    found = {jittered(10, 3) for _ in range(500)}
    assert found == {10, 11, 12, 13}


@pytest.mark.parametrize(
    ("total", "idle", "starting", "change"),
    [
        (4, 2, 0, 0),  # as it shall be
        (4, 3, 0, 0),
        (4, 1, 0, 1),  # too few idle
        (4, 0, 0, 2),
        (4, 0, 1, 1),  # one is on its way
        (4, 0, 2, 0),
        (9, 0, 0, 1),  # no more than the most
        (10, 0, 0, 0),
        (12, 0, 0, 0),  # the most was lowered
        (8, 4, 0, -1),  # too many idle: one at a time
        (8, 8, 0, -1),
        (8, 2, 6, 0),  # who starts is not idle yet
    ],
)
def test_dynamic(total: int, idle: int, starting: int, change: int) -> None:
    found = dynamic_change(total, idle, starting, min_spare=2, max_spare=3, most=10)
    assert found == change


def test_the_last_worker_stays() -> None:
    assert dynamic_change(1, 1, 0, min_spare=1, max_spare=0, most=5) == 0


@pytest.mark.parametrize(
    ("total", "idle", "needed", "change"),
    [
        (4, 0, 1, 2),  # min_spare asks for more
        (4, 0, 8, 6),  # the most are ten
        (4, 2, 4, 4),
        (10, 0, 8, 0),
        (12, 0, 8, 0),
    ],
)
def test_dynamic_when_more_are_needed(total: int, idle: int, needed: int, change: int) -> None:
    spare = {"min_spare": 2, "max_spare": 3}
    assert dynamic_change(total, idle, 0, **spare, most=10, needed=needed) == change


def test_growth_doubles_while_somebody_waits() -> None:
    total, step, counts = 1, 1, []
    for _ in range(8):
        found, step = growth(step, waiting=True, free=0, starting=0)
        total += found
        counts.append(total)
    assert counts == [2, 4, 8, 16, 32, 64, 96, 128]
    assert step == policy.STEP_MOST


def test_growth_waits_for_those_that_were_started() -> None:
    assert growth(4, waiting=True, free=0, starting=1) == (0, 4)
    assert growth(4, waiting=True, free=1, starting=0) == (0, 4)


def test_growth_begins_anew_when_nobody_waits() -> None:
    assert growth(16, waiting=False, free=0, starting=0) == (0, 1)


@pytest.mark.parametrize(
    ("total", "idle", "starting", "waiting", "change"),
    [
        (0, 0, 0, False, 0),
        (0, 0, 0, True, 1),
        (1, 0, 1, True, 0),  # one is on its way
        (1, 1, 0, True, 0),  # one can take it
        (1, 0, 0, True, 1),
        (1, 0, 0, False, 0),
        (3, 0, 0, True, 0),  # no more than the most
    ],
)
def test_ondemand(total: int, idle: int, starting: int, waiting: bool, change: int) -> None:
    assert ondemand_change(total, idle, starting, waiting=waiting, most=3) == change
