"""The look at all workers once a second, with processes that are only numbers; settings."""

import os

import pytest

if os.name != "posix":
    pytest.skip("the master is POSIX only", allow_module_level=True)

from fake_crew import EXIT_0, Fake, running

from fastfcgi import overseer
from fastfcgi.crew import RETIRE
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.master_settings import MasterSettings

ONE_THREAD = {"server_options": {"threads": 1}}


def test_a_worker_that_has_served_enough_is_replaced() -> None:
    fake = running(1, max_requests=2)
    board = fake.crew.members[101].board
    for _ in range(2):
        fake.look()
        assert fake.pids == [101]
        board.enter(0, 1, 1.0, "GET /")
        board.leave(0)
    fake.look()
    assert fake.pids == [101, 102]


def test_a_worker_that_holds_too_much_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {101: 5000}
    monkeypatch.setattr(overseer, "memory_of", sizes.get)
    fake = running(1, max_memory=5000)
    fake.look()
    assert fake.pids == [101]
    sizes[101] = 5001
    fake.look()
    assert fake.pids == [101, 102]


def test_a_worker_with_a_request_beyond_the_hard_limit_is_replaced() -> None:
    fake = running(2, hard_timeout=5.0)
    fake.crew.members[102].board.enter(1, 1, fake.now, "GET /stuck")
    fake.look(4.5)
    assert fake.pids == [101, 102]
    fake.look(1)
    assert fake.pids == [101, 102, 103]
    assert "GET /stuck has run for 5.5 s" in fake.crew.members[102].reason
    fake.look(1)
    assert fake.pids == [101, 102, 103]


def test_dynamic_grows_and_shrinks() -> None:
    limits = {"min_spare": 1, "max_spare": 2, "max_workers": 4, "idle_timeout": 10}
    fake = Fake(1, mode="dynamic", start_workers=1, **limits)
    fake.step()
    fake.serve(101)
    counts = []
    for _ in range(6):
        for member in fake.crew.members.values():
            if member.ready and not member.board.busy:
                member.board.enter(0, 1, fake.now, "GET /")
                break
        fake.look()
        fake.serve(*fake.pids)
        counts.append(len(fake.pids))
    assert counts == [2, 3, 4, 4, 4, 4]
    for member in fake.crew.members.values():
        member.board.leave(0)
    fake.look()
    assert fake.told() == []  # not idle for long enough
    fake.look(9.5)
    assert fake.told() == []
    for left in (3, 2, 2, 2):
        fake.look()
        for pid, member in list(fake.crew.members.items()):
            if member.told:
                fake.dies(pid, EXIT_0)
        assert len(fake.pids) == left


def test_dynamic_grows_by_twice_as_many_while_somebody_waits() -> None:
    fake = Fake(1, mode="dynamic", start_workers=1, max_spare=1, max_workers=20, **ONE_THREAD)
    fake.step()
    fake.serve(101)
    counts = []
    for _ in range(6):
        for member in fake.crew.members.values():
            if not member.board.busy:
                member.board.enter(0, 1, fake.now, "GET /")
        fake.look(waiting=True)
        fake.look(0, waiting=True)  # those that were started do not serve yet
        fake.serve(*fake.pids)
        fake.look(0, waiting=True)  # they could take who waits
        counts.append(len(fake.pids))
    assert counts == [2, 4, 8, 16, 20, 20]


def test_dynamic_grows_slowly_while_a_thread_is_free() -> None:
    fake = Fake(1, mode="dynamic", start_workers=1, max_workers=20, server_options={"threads": 2})
    fake.step()
    fake.serve(101)
    for count in (2, 3, 4):
        for member in fake.crew.members.values():
            if not member.board.busy:
                member.board.enter(0, 1, fake.now, "GET /")
        fake.look(waiting=True)
        fake.serve(*fake.pids)
        assert len(fake.pids) == count


def test_dynamic_counts_who_waits_in_a_worker() -> None:
    fake = Fake(1, mode="dynamic", start_workers=1, max_workers=20, **ONE_THREAD)
    fake.step()
    fake.serve(101)
    for count in (2, 4, 8):
        for member in fake.crew.members.values():
            if not member.board.busy:
                member.board.enter(0, 1, fake.now, "GET /")
                member.board.count(queued=1)
        fake.look()
        fake.serve(*fake.pids)
        assert len(fake.pids) == count


def test_ondemand_begins_with_none_and_ends_with_none() -> None:
    fake = Fake(1, mode="ondemand", max_workers=2, idle_timeout=3)
    fake.step()
    fake.look()
    assert fake.pids == []
    fake.look(0, waiting=True)
    assert fake.pids == [101]
    fake.look(0, waiting=True)
    assert fake.pids == [101]  # it is on its way
    fake.serve(101)
    fake.crew.members[101].board.enter(0, 1, 1.0, "GET /")
    fake.look(0, waiting=True)
    assert fake.pids == [101, 102]
    fake.serve(102)
    fake.crew.members[102].board.enter(0, 1, 1.0, "GET /")
    fake.look(0, waiting=True)
    assert fake.pids == [101, 102]  # the most
    fake.crew.members[101].board.leave(0)
    fake.crew.members[102].board.leave(0)
    fake.look()
    fake.look(2.5)
    assert fake.told() == []
    fake.look()
    assert sorted(fake.told()) == [(101, RETIRE), (102, RETIRE)]


def test_ondemand_keeps_one_for_kept_connections() -> None:
    fake = Fake(1, mode="ondemand", max_workers=2, idle_timeout=3)
    fake.step()
    fake.look(0, waiting=True)
    fake.serve(101)
    fake.crew.members[101].board.count(connections=1)
    fake.look()
    fake.look(10)
    assert fake.told() == []
    fake.crew.members[101].board.count(connections=-1)
    fake.look()
    assert fake.told() == [(101, RETIRE)]


def test_ondemand_ends_nobody_while_somebody_waits() -> None:
    fake = Fake(1, mode="ondemand", max_workers=2, idle_timeout=3)
    fake.step()
    fake.look(0, waiting=True)
    fake.serve(101)
    fake.look(10, waiting=True)
    assert fake.told() == []
    fake.look()
    assert fake.told() == [(101, RETIRE)]


def test_ondemand_does_not_replace_who_died() -> None:
    fake = Fake(1, mode="ondemand", max_workers=2)
    fake.step()
    fake.look(0, waiting=True)
    fake.serve(101)
    fake.step(5)
    fake.dies(101)
    fake.look()
    assert fake.pids == []
    fake.look(0, waiting=True)
    assert fake.pids == [102]
    fake.dies(102)  # soon
    fake.look(0, waiting=True)
    assert fake.pids == []
    fake.step(1)
    fake.look(0, waiting=True)
    assert fake.pids == [103]


# ------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"mode": "some"}, "static, dynamic, ondemand"),
        ({"workers": 0}, "workers=0"),
        ({"workers": 100000}, "workers=100000"),
        ({"min_spare": 3, "max_spare": 2}, "max_spare=2 is less than min_spare=3"),
        ({"mode": "dynamic", "min_spare": 5, "max_spare": 9, "max_workers": 4}, "max_workers=4"),
        ({"start_workers": 20}, "start_workers=20"),
        ({"max_requests": -1}, "max_requests=-1"),
        ({"graceful_timeout": float("nan")}, "graceful_timeout=nan"),
        ({"hard_timeout": 0}, "hard_timeout=0"),
        ({"idle_timeout": -1.0}, "idle_timeout=-1.0"),
    ],
)
def test_settings_that_make_no_sense(wrong: dict, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        MasterSettings(**wrong)


def test_how_many_to_begin_with() -> None:
    assert MasterSettings(workers=7).first == 7
    assert MasterSettings(mode="ondemand").first == 0
    assert MasterSettings(mode="dynamic", min_spare=2, max_spare=6).first == 4
    assert MasterSettings(mode="dynamic", start_workers=5).first == 5
    assert MasterSettings(mode="dynamic", max_spare=90, max_workers=10).first == 10
