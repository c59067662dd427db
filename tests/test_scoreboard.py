"""The memory that master and workers share."""

import os

import pytest

if os.name != "posix":
    pytest.skip("the master is POSIX only", allow_module_level=True)

from fastfcgi.board import SERVING, Board
from fastfcgi.scoreboard import (
    LEAST_PLACES,
    MOST_PLACES,
    Facts,
    Scoreboard,
    places_for,
    snapshot,
)


@pytest.fixture
def board():
    made = Scoreboard(LEAST_PLACES, 3)
    yield made
    made.close()


def test_there_is_room_for_workers_that_end() -> None:
    assert places_for(1) == LEAST_PLACES
    assert places_for(100) == 400
    assert places_for(10**6) == MOST_PLACES


def test_places_are_taken_and_freed(board) -> None:
    places = [board.take() for _ in range(LEAST_PLACES)]
    assert sorted(places) == list(range(LEAST_PLACES))
    assert board.take() is None
    board.free(7)
    assert board.take() == 7


def test_a_place_is_taken_empty(board) -> None:
    place = board.take()
    one = board.board(place)
    one.state, one.pid = SERVING, 4711
    one.count(connections=5)
    board.free(place)
    assert board.take() == place
    assert (one.state, one.pid, one.connections) == (0, 0, 0)


def test_places_do_not_overlap(board) -> None:
    for place in range(LEAST_PLACES):
        board.board(place).generation = place + 1
        board.board(place).enter(3, 1, 1.0, "GET /" + "x" * 300)
    assert [board.board(place).generation for place in range(LEAST_PLACES)] == list(
        range(1, LEAST_PLACES + 1)
    )
    assert board.read().generation == 1


def test_another_process_sees_what_one_writes(board) -> None:
    place = board.take()
    pid = os.fork()
    if pid == 0:
        board.board(place).state = SERVING
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert board.board(place).state == SERVING


def test_only_those_that_are_known_are_listed(board) -> None:
    first, second = board.take(), board.take()
    assert board.taken() == []  # being forked
    board.set_pid(second, 12)
    assert board.taken() == [(12, board.board(second))]
    board.free(first)
    board.free(second)
    assert board.taken() == []


def test_the_memory_can_be_taken_over(board) -> None:
    place = board.take()
    board.set_pid(place, 99)
    board.board(place).generation = 5
    board.write(Facts(pid=1, generation=5, restarts=2, mode=1, started=3.5))
    again = Scoreboard(LEAST_PLACES, 3, os.dup(board.fd))
    try:
        assert again.read() == Facts(1, 5, 2, 1, 3.5)
        assert [pid for pid, _ in again.taken()] == [99]
        assert again.board(place).generation == 5
    finally:
        again.close()


@pytest.mark.parametrize(("places", "threads"), [(LEAST_PLACES, 2), (LEAST_PLACES - 1, 3)])
def test_memory_of_another_layout_is_not_taken_over(board, places: int, threads: int) -> None:
    fd = os.dup(board.fd)
    with pytest.raises(ValueError, match="another layout"):
        Scoreboard(places, threads, fd)
    os.close(fd)


def test_memory_that_is_too_small_is_not_taken_over(board) -> None:
    fd = os.dup(board.fd)
    with pytest.raises(ValueError, match="too small"):
        Scoreboard(10 * LEAST_PLACES, 3, fd)
    os.close(fd)


def test_the_descriptor_is_not_inherited_and_no_file_is_left(board) -> None:
    assert not os.get_inheritable(board.fd)
    assert os.fstat(board.fd).st_nlink == 0
    board.close()
    assert board.fd == -1
    board.close()
    assert isinstance(board.board(0), Board)  # the memory is there as long as somebody looks


def test_what_the_status_page_shows(board) -> None:
    place = board.take()
    board.set_pid(place, os.getpid())
    one = board.board(place)
    one.pid, one.state, one.generation = os.getpid(), SERVING, 2
    board.write(Facts(pid=7, generation=2, restarts=4, mode=1, started=9.0))
    shown = snapshot(board, ["unix:/x"])
    assert (shown.pid, shown.generation, shown.restarts) == (7, 2, 4)
    assert (shown.mode, shown.started, shown.listeners) == ("dynamic", 9.0, ["unix:/x"])
    (worker,) = shown.workers
    assert (worker.pid, worker.state, worker.threads) == (os.getpid(), "serving", 3)
