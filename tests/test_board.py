"""A worker's part of the memory that others look into."""

import mmap
import os
import sys
import threading

import pytest
from helpers import DEADLINE

from fastfcgi.board import DEAD, FAILED, RETIRING, SERVING, STARTING, STOPPING, Board, Running

NUMBERS = ("requests", "busy", "queued", "connections", "aborted", "errors", "slow")


def numbers(board):
    return {name: getattr(board, name) for name in NUMBERS}


def test_a_new_one_is_all_zero():
    board = Board(3)
    assert (board.pid, board.generation, board.state, board.started) == (0, 0, STARTING, 0.0)
    assert numbers(board) == dict.fromkeys(NUMBERS, 0)
    assert board.running() == []
    assert board.threads == 3


def test_states_are_different_numbers():
    assert [STARTING, SERVING, RETIRING, STOPPING, FAILED, DEAD] == list(range(6))


def test_what_is_set_is_read():
    board = Board(1)
    board.pid, board.generation, board.state, board.started = 1 << 22, 7, FAILED, 1.5e9
    assert (board.pid, board.generation, board.state, board.started) == (1 << 22, 7, 4, 1.5e9)


def test_numbers_are_those_of_all_threads():
    board = Board(2)
    for index in (0, 1, 2, 2):  # one more than requests may run at once: somebody polls
        board.enter(index, 11, 5.0, "GET /")
        board.leave(index)
    board.enter(1, 11, 5.0, "GET /")
    board.count(queued=1, connections=2, aborted=3, errors=4, slow=5)
    board.count(connections=-1)
    assert list(numbers(board).values()) == [4, 1, 1, 1, 3, 4, 5]


def test_running_has_the_oldest_first():
    board = Board(4)
    board.enter(0, 10, 7.0, "GET /b")
    board.enter(3, 13, 6.0, "GET /a?x=1", number=5)
    board.enter(1, 11, 8.0, "GET /gone")
    board.leave(1)
    assert board.running() == [Running(13, 6.0, "GET /a?x=1"), Running(10, 7.0, "GET /b")]
    assert sorted(board.watched()) == [(10, 7.0, "GET /b", 0), (13, 6.0, "GET /a?x=1", 5)]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("GET /" + "x" * 195, "GET /" + "x" * 195),
        ("GET /" + "x" * 196, "GET /" + "x" * 195),
        ("GET /\n\x1b[2J", "GET /\\x0a\\x1b[2J"),
        ("GET /\xe9", "GET /\xe9"),
        ("GET /\u20ac", ""),  # no web server sends it: such a text has no bytes
    ],
)
def test_texts(text, shown):
    board = Board(1)
    board.enter(0, 1, 1.0, "something before")
    board.enter(0, 1, 1.0, text)
    assert [one.text for one in board.running()] == [shown]


@pytest.mark.parametrize("index", [-1, 3])
def test_a_place_that_is_not_there(index):
    board = Board(2)
    with pytest.raises(IndexError):
        board.enter(index, 1, 1.0, "")
    with pytest.raises(IndexError):
        board.leave(index)


def test_clear():
    board = Board(2)
    board.enter(2, 1, 1.0, "GET /")
    board.leave(1)
    board.count(queued=1, slow=1)
    board.pid = board.state = 3
    board.clear()
    assert (board.pid, board.state) == (0, 0)
    assert numbers(board) == dict.fromkeys(NUMBERS, 0)
    Board(2).clear()


# ---- memory -----------------------------------------------------------------------------------


def test_boards_beside_each_other_in_one_memory():
    size = Board.size(3)
    assert size % 64 == 0
    with mmap.mmap(-1, 2 * size) as memory:
        view = memoryview(memory)
        boards = [Board(3, view[at : at + size]) for at in (0, size)]
        for thread in range(4):
            boards[0].enter(thread, thread, 1.0, "x" * 300)
        boards[0].pid = -1
        assert boards[1].pid == 0 and boards[1].running() == [] and boards[1].requests == 0
        same = Board(3, view[:size])
        assert same.pid == -1 and len(same.running()) == 4
        del boards, same, view


def test_memory_is_held_as_long_as_the_board():
    memory = bytearray(Board.size(1) + 8)
    board = Board(1, memory)
    with pytest.raises(BufferError):
        memory.clear()
    del board
    memory.clear()


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads(threads):
    with pytest.raises(ValueError, match="threads"):
        Board(threads)


def test_memory_that_does_not_fit():
    with pytest.raises(ValueError, match="too few"):
        Board(2, bytearray(Board.size(2) - 1))
    with pytest.raises(ValueError, match="multiple of 8"):
        Board(1, memoryview(bytearray(Board.size(1) + 8))[4:])
    with pytest.raises((BufferError, TypeError)):
        Board(1, bytes(Board.size(1)))
    with pytest.raises(TypeError):
        Board(1, "memory")


def test_memory_of_another_version():
    memory = bytearray(Board.size(1))
    Board(1, memory)
    memory[0] ^= 1
    with pytest.raises(ValueError, match="another version"):
        Board(1, memory)


def test_whatever_stands_in_memory_is_read_without_harm():
    """A writer that died in the middle, or memory that another program wrote to."""
    memory = bytearray(Board.size(3))
    Board(3, memory)
    layout = bytes(memory[:8])
    for value in (0xFF, 0x7F, 0x80, 1):
        memory[:] = layout + bytes([value]) * (len(memory) - 8)
        board = Board(3, memory)
        for one in board.running():
            assert len(one.text) <= 4 * 200
        assert set(numbers(board)) == set(NUMBERS)
        del board


def test_written_while_it_is_read():
    board = Board(2)
    texts = {f"GET /{letter * 190}" for letter in "ab"}
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for text in texts:
                board.enter(1, 1, 1.0, text)
            board.leave(1)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(2000):
            assert all(len(one.text) <= 200 for one in board.running())
            assert board.requests >= 0
    finally:
        stop.set()
        thread.join(DEADLINE)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_another_process_writes():
    board = Board(1)
    pid = os.fork()
    if pid == 0:
        board.state = SERVING
        board.enter(0, 1, 2.0, "GET /child")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert board.state == SERVING
    assert board.running() == [Running(1, 2.0, "GET /child")]


@pytest.mark.skipif(sys.platform == "win32", reason="long has 32 bits there")
def test_numbers_beyond_32_bits():
    board = Board(1)
    board.count(aborted=1 << 40)
    assert board.aborted == 1 << 40
