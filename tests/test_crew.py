"""The workers as the master sees them, with processes that are only numbers."""

import errno
import os
import signal

import pytest

if os.name != "posix":
    pytest.skip("the master is POSIX only", allow_module_level=True)

from fake_crew import EXIT_0, EXIT_3, Fake, running

from fastfcgi.board import FAILED, RETIRING, STOPPING
from fastfcgi.crew import KILL, KILL_MARGIN, NEVER, RELOAD, RETIRE, STOP
from fastfcgi.scoreboard import LEAST_PLACES

# ------------------------------------------------------------------------------------ numbers


def test_it_starts_as_many_as_there_shall_be_and_is_done() -> None:
    fake = Fake(3)
    fake.step()
    assert fake.pids == [101, 102, 103]
    for _ in range(3):
        fake.step()
    assert fake.pids == [101, 102, 103]
    assert fake.told() == []
    # They may take their time to start, and nothing else is waited for.
    assert fake.crew.next_deadline(fake.now) == fake.now + fake.crew.settings.start_timeout
    fake.serve(101, 102, 103)
    assert fake.crew.next_deadline(fake.now) == NEVER


def test_fewer_are_wanted() -> None:
    fake = running(3)
    fake.crew.members[102].idle_since = 5.0  # for the longest time
    fake.crew.target = 2
    fake.step()
    assert fake.told() == [(102, RETIRE)]
    fake.step()
    assert fake.told() == []
    fake.dies(102, EXIT_0)
    assert fake.pids == [101, 103]


def test_who_does_not_serve_yet_goes_first_and_who_is_busy_last() -> None:
    fake = running(3)
    fake.crew.members[101].board.enter(0, 1, 1.0, "GET /")
    fake.crew.target = 4
    fake.step()
    fake.crew.target = 1
    fake.step()
    assert fake.told() == [(104, STOP), (102, RETIRE), (103, RETIRE)]


def test_there_is_no_room_for_more() -> None:
    fake = running(1)
    fake.crew.target = LEAST_PLACES + 5
    fake.step()
    assert len(fake.pids) == LEAST_PLACES
    assert fake.now < fake.crew.next_deadline(fake.now) < NEVER
    fake.dies(101)
    assert len(fake.pids) == LEAST_PLACES


# -------------------------------------------------------------------------------------- death


def test_who_dies_is_replaced_at_once() -> None:
    fake = running(2)
    fake.dies(101)
    assert fake.pids == [102, 103]
    assert fake.crew.restarts == 1


def test_who_dies_soon_is_replaced_with_back_off() -> None:
    fake = running(1)
    fake.dies(101)
    for failures, wait in enumerate([1, 2, 4, 8, 16, 32, 60, 60], start=1):
        (pid,) = fake.pids
        fake.serve(pid)
        fake.dies(pid)
        assert fake.pids == [], failures
        assert fake.crew.next_deadline(fake.now) == fake.now + wait
        fake.step(wait - 0.01)
        assert fake.pids == []
        fake.step(0.02)
        assert len(fake.pids) == 1
    # One that lives is forgiven.
    (pid,) = fake.pids
    fake.serve(pid)
    fake.step(5)
    fake.dies(pid)
    assert len(fake.pids) == 1


def test_a_death_says_what_comes_next(caplog: pytest.LogCaptureFixture) -> None:
    fake = running(1)
    fake.step(5)
    fake.dies(101)
    fake.dies(102)
    fake.step(2)
    fake.serve(103)
    fake.dies(103)
    assert caplog.messages == [
        "worker 101 died: killed by KILL",
        "worker 102 died: killed by KILL before it served, again in 1 s",
        "worker 103 died: killed by KILL, again in 2 s",
    ]


def test_whose_application_cannot_be_loaded_has_said_so(caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake(1)
    fake.step()
    fake.show(FAILED, 101)
    fake.dies(101, EXIT_3)
    fake.crew.members[102].board.state = FAILED  # which nobody has looked at yet
    fake.dies(102, EXIT_3)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("serves", [False, True])
def test_the_same_status_of_one_that_has_said_nothing_is_a_death(
    caplog: pytest.LogCaptureFixture, serves: bool
) -> None:
    """An application may call os._exit(), also while it is imported."""
    fake = Fake(1)
    fake.step()
    if serves:
        fake.serve(101)
    fake.dies(101, EXIT_3)
    assert fake.pids == []
    before = "" if serves else " before it served"
    assert caplog.messages == [f"worker 101 died: exit status 3{before}, again in 1 s"]
    fake.step(1)
    assert fake.pids == [102]


def test_the_back_off_of_one_does_not_hold_up_another() -> None:
    fake = running(2)
    fake.dies(101)
    fake.dies(103)  # 101's successor, at once
    assert fake.pids == [102]
    fake.step(0.5)
    fake.dies(102)  # which had lived for long
    assert fake.pids == [104]
    fake.step(0.6)
    assert fake.pids == [104, 105]


def test_whose_application_cannot_be_loaded_has_waited_itself() -> None:
    fake = Fake(1)
    fake.step()
    fake.show(FAILED, 101)
    assert fake.pids == [101]
    assert fake.crew.members[101].failures == 0
    fake.now += 1
    fake.show(STOPPING, 101)  # by itself
    assert fake.pids == [101]
    fake.dies(101, EXIT_3)
    assert fake.pids == [102]
    assert fake.crew.members[102].failures == 1


def test_who_does_not_start_is_killed() -> None:
    fake = Fake(1, start_timeout=20)
    fake.step()
    fake.step(19)
    assert fake.told() == []
    fake.step(1)
    assert fake.told() == [(101, KILL)]
    fake.step(50)
    assert fake.told() == []
    fake.dies(101)
    assert fake.pids == []  # that was a failure
    fake.step(1)
    assert fake.pids == [102]


def test_the_system_is_out_of_processes() -> None:
    fake = Fake(2)
    fake.refuse = OSError(errno.EAGAIN, "no")
    fake.step()
    assert fake.pids == []
    assert fake.crew.next_deadline(fake.now) == fake.now + 1
    fake.step(1)
    assert fake.pids == []
    fake.refuse = None
    fake.step(2)
    assert len(fake.pids) >= 1
    fake.step(2)
    assert len(fake.pids) == 2
    assert all(fake.crew.scoreboard.pid_at(place) >= 0 for place in range(LEAST_PLACES))


def test_who_was_told_by_somebody_else_is_replaced_at_once() -> None:
    fake = running(1)
    fake.show(STOPPING, 101)
    assert fake.pids == [101, 102]
    fake.dies(101, EXIT_0)
    assert fake.pids == [102]
    assert fake.crew.restarts == 0


# ------------------------------------------------------------------------------------ replacing


def test_a_worker_that_asks_is_replaced_without_a_gap() -> None:
    fake = running(1)
    fake.show(RETIRING, 101)
    assert fake.pids == [101, 102]
    assert fake.told() == []
    fake.serve(102)
    assert fake.told() == [(101, RETIRE)]
    fake.dies(101, EXIT_0)
    assert fake.pids == [102]
    assert fake.crew.restarts == 0


def test_a_reload_begins_with_one() -> None:
    fake = running(3)
    fake.crew.reload()
    fake.step()
    assert fake.pids == [101, 102, 103, 104]
    assert fake.crew.reloading
    # The others wait for it, and not by looking again and again.
    assert fake.crew.next_deadline(fake.now) > fake.now + 1
    fake.serve(104)
    assert fake.told() == [(101, RETIRE)]
    assert fake.pids == [101, 102, 103, 104, 105, 106]
    fake.serve(105, 106)
    assert sorted(fake.told()) == [(102, RETIRE), (103, RETIRE)]
    assert not fake.crew.reloading
    for pid in (101, 102, 103):
        fake.dies(pid, EXIT_0)
    assert fake.pids == [104, 105, 106]
    assert {member.generation for member in fake.crew.members.values()} == {2}


@pytest.mark.parametrize("seen_first", [True, False])
def test_a_reload_that_fails_leaves_the_old_ones(seen_first: bool) -> None:
    fake = running(2)
    fake.crew.reload()
    fake.step()
    if seen_first:
        fake.show(FAILED, 103)
        assert fake.told() == [(103, STOP)]
    fake.dies(103, EXIT_3)
    for _ in range(3):
        fake.step(100)
    assert fake.pids == [101, 102]
    assert fake.told() == []
    assert not fake.crew.reloading
    # The next one is another try.
    fake.crew.reload()
    fake.step()
    assert fake.pids == [101, 102, 104]


def test_a_reload_during_a_reload() -> None:
    fake = running(2)
    fake.crew.reload()
    fake.step()
    fake.serve(103)
    assert fake.told() == [(101, RETIRE)]
    assert fake.pids == [101, 102, 103, 104]
    fake.crew.reload()
    fake.step()
    # 104 is of no use any more; 103 serves, and is replaced as 102 is.
    assert fake.told() == [(104, STOP)]
    assert len(fake.pids) == 5
    newest = fake.pids[-1]
    fake.dies(104, -0)
    fake.serve(newest)
    assert len(fake.told()) == 1
    fake.serve(fake.pids[-1])
    fake.dies(101, EXIT_0)
    for pid, member in list(fake.crew.members.items()):
        if member.told:
            fake.dies(pid, EXIT_0)
    assert len(fake.pids) == 2
    assert {member.generation for member in fake.crew.members.values()} == {3}
    assert fake.crew.restarts == 0


def test_a_reload_while_it_starts() -> None:
    fake = Fake(2)
    fake.step()
    fake.crew.reload()
    fake.step()
    assert fake.told() == [(101, STOP), (102, STOP)]
    assert fake.pids == [101, 102, 103, 104]


def test_a_reload_does_not_wait_for_a_back_off() -> None:
    fake = running(1)
    fake.dies(101)
    fake.dies(102)
    assert fake.pids == []
    fake.crew.reload()
    fake.step()
    assert fake.pids == [103]


def test_a_reload_replaces_at_once_who_has_failed() -> None:
    fake = Fake(1)
    fake.step()
    fake.show(FAILED, 101)
    fake.crew.reload()
    fake.step()
    assert fake.told() == [(101, STOP)]
    assert fake.pids == [101, 102]


def test_the_old_one_dies_before_its_successor_serves() -> None:
    fake = running(1)
    fake.crew.reload()
    fake.step()
    fake.dies(101)
    assert fake.pids == [102]
    fake.serve(102)
    assert fake.told() == []
    assert fake.crew.members[102].replaces is None


def test_a_dead_successor_is_not_signalled() -> None:
    """Its number may be another process's by then."""
    fake = running(1)
    fake.crew.reload()
    fake.step()
    fake.dies(102)
    assert fake.told() == []
    assert fake.pids == [101]


def test_another_successor_is_tried_with_back_off() -> None:
    fake = running(1)
    fake.show(RETIRING, 101)
    for wait in (1, 2, 4):
        newest = fake.pids[-1]
        fake.dies(newest, EXIT_3)
        assert fake.pids == [101]
        fake.step(wait - 0.1)
        assert fake.pids == [101]
        fake.step(0.2)
        assert len(fake.pids) == 2
    fake.serve(fake.pids[-1])
    assert fake.told() == [(101, RETIRE)]


# ------------------------------------------------------------------------------------- the end


def test_who_does_not_end_is_killed_once() -> None:
    fake = running(1)
    fake.crew.end(STOP, fake.now)
    assert fake.told() == [(101, STOP)]
    fake.step(30 + KILL_MARGIN - 0.1)
    assert fake.told() == []
    fake.step(0.2)
    assert fake.told() == [(101, KILL)]
    fake.step(100)
    assert fake.told() == []
    fake.dies(101)
    assert fake.pids == []


def test_nothing_is_started_at_the_end() -> None:
    fake = running(2)
    fake.crew.reload()
    fake.step()
    fake.crew.end(STOP, fake.now)
    assert sorted(fake.told()) == [(101, STOP), (102, STOP), (103, STOP)]
    fake.serve(103)
    fake.dies(101)
    fake.dies(103)
    assert fake.pids == [102]
    assert fake.told() == []


def test_an_end_at_once_after_a_graceful_one() -> None:
    fake = running(1)
    fake.crew.end(STOP, fake.now)
    fake.crew.end(signal.SIGQUIT, fake.now, 1.0)
    assert fake.told() == [(101, STOP), (101, signal.SIGQUIT)]
    fake.step(1)
    assert fake.told() == [(101, KILL)]


def test_number_0_is_never_signalled() -> None:
    fake = running(1)
    fake.crew.members[101].pid = 0
    fake.crew.end(STOP, fake.now)
    assert fake.told() == []


def test_reload_is_a_reason_among_others() -> None:
    fake = running(1)
    fake.crew.reload()
    assert fake.crew.members[101].reason == RELOAD
