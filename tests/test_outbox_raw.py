"""An Outbox of a protocol without records: the same bytes, whatever they are given as."""

import contextlib
import os
import socket

import pytest

from fastfcgi.file_wrapper import FilePart
from fastfcgi.outbox import Outbox

MIB = 1 << 20


@pytest.fixture
def pair():
    with contextlib.ExitStack() as stack:
        ends = [stack.enter_context(end) for end in socket.socketpair()]
        for end in ends:
            end.setblocking(False)
        yield ends


def sent(box, pair, most=MIB):
    """All that the box sends, read by so much at a time."""
    out = []
    while box.size:
        box.blocked = False
        box.send_to(pair[0].fileno())
        with contextlib.suppress(BlockingIOError):
            while data := pair[1].recv(most):
                out.append(data)
    return b"".join(out)


def pattern(size):
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def a_file(path, data, offset=0):
    path.write_bytes(pattern(offset) + data)
    fd = os.open(path, os.O_RDONLY)
    return FilePart(fd, offset, len(data))


@pytest.mark.parametrize("size", [0, 1, 40, 41, 65535, 65536, 3 * MIB + 1])
@pytest.mark.parametrize("head", [None, b"", b"Status: 200 OK\r\n\r\n"])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_head_and_data(pair, size, head, kind):
    box, data = Outbox(), pattern(size)
    box.put_raw(head, kind(data) if size or kind is not bytes else None)
    assert box.size == len(head or b"") + size
    assert sent(box, pair, 100_000) == (head or b"") + data


def test_order(pair, tmp_path):
    box = Outbox()
    box.put_raw(b"head", b"data")
    box.put(b"copied")
    box.put_raw(None, a_file(tmp_path / "f", b"file"))
    box.put_raw(b"end", None)
    assert sent(box, pair) == b"headdatacopiedfileend"


@pytest.mark.skipif(os.name != "posix", reason="files are read there")
@pytest.mark.parametrize("size", [0, 1, 4096, 3 * MIB + 1])
@pytest.mark.parametrize("offset", [0, 5])
@pytest.mark.parametrize("most", [1000, MIB])
def test_files(pair, tmp_path, size, offset, most):
    box, data = Outbox(), pattern(size)
    box.put_raw(b"head", a_file(tmp_path / "f", data, offset))
    assert box.size == 4 + size
    assert sent(box, pair, most) == b"head" + data


@pytest.mark.skipif(os.name != "posix", reason="files are read there")
def test_a_file_that_was_shortened_fails(pair, tmp_path):
    box = Outbox()
    box.put_raw(b"head", a_file(tmp_path / "f", b"x" * 100))
    os.truncate(tmp_path / "f", 40)
    with pytest.raises(OSError, match=r"Input/output"):
        sent(box, pair)
    assert pair[1].recv(MIB) == b"head" + b"x" * 40


def test_data_that_is_not_contiguous_is_refused():
    box = Outbox()
    with pytest.raises(BufferError):
        box.put_raw(None, memoryview(b"abcdef")[::2])
    assert box.size == 0


def test_nothing_is_copied_and_all_is_let_go(pair):
    import sys

    box, head, data = Outbox(), bytes(pattern(1000)), bytearray(100_000)
    before = sys.getrefcount(head)
    box.put_raw(head, data)
    assert sys.getrefcount(head) > before
    with pytest.raises(BufferError):
        data.append(1)  # it is looked at where it is
    assert len(sent(box, pair)) == 101_000
    data.append(1)
    assert sys.getrefcount(head) == before
    box.put_raw(head, data)
    box.clear()
    data.append(1)
    assert sys.getrefcount(head) == before
