"""The body of a request: memory, then a file."""

import contextlib
import errno
import tracemalloc
from array import array
from random import Random

import pytest

from fastfcgi.body import Body
from fastfcgi.exceptions import RequestAborted


@pytest.fixture
def filled():
    """Makes a body that has received some parts; its file is closed after the test."""
    bodies = []

    def make(*parts, **options):
        body = Body(**options)
        bodies.append(body)
        for part in parts:
            body.append(part)
        return body

    yield make
    for body in bodies:
        body.discard()


def everything(body, size=7):
    """Read to the end in steps of `size`."""
    return b"".join(iter(lambda: body.take(size)[0], b""))


# ------------------------------------------------------------------------------ in memory


def test_what_is_appended_is_taken_in_order(filled):
    body = filled(b"abc", memoryview(b"defg"))
    assert body.available == body.in_memory == 7
    assert body.take(2) == (b"ab", 2)
    assert body.take(100) == (b"cdefg", 5)
    assert body.take(100) == (b"", 0)
    assert body.available == body.in_memory == 0


def test_append_copies(filled):
    buffer = bytearray(b"abc")
    body = filled(memoryview(buffer))
    buffer[:] = b"xyz"
    assert everything(body) == b"abc"


def test_append_tells_how_much_is_held_in_memory(filled):
    body = filled(content_length=5)
    assert body.append(b"abc") == 3
    assert body.append(b"defg") == 2
    assert body.append(b"h") == 0


def test_reading_and_arriving_take_turns(filled):
    body, taken = filled(), b""
    for i in range(100):
        body.append(bytes([i]) * 3)
        taken += body.take(2)[0]
    assert taken + everything(body) == b"".join(bytes([i]) * 3 for i in range(100))


# --------------------------------------------------------------------------------- its end


def test_without_a_length_the_end_of_the_stream_is_the_end(filled):
    body = filled(b"abc")
    assert not body.complete and not body.ended
    body.end()
    assert body.complete and body.ended
    assert everything(body) == b"abc"


def test_the_announced_length_completes_it_before_its_end_comes(filled):
    body = filled(b"ab", content_length=3)
    assert not body.complete
    body.append(b"c")
    assert body.complete and not body.ended


def test_length_0_is_complete_from_the_start(filled):
    assert filled(content_length=0).complete
    assert not filled(content_length=0).ended


def test_more_than_the_announced_length_is_cut(filled):
    body = filled(b"ab", b"cdefg", b"hij", content_length=3)
    body.end()
    assert everything(body) == b"abc"


def test_an_end_before_the_announced_length_is_a_shorter_body(filled):
    body = filled(b"ab", content_length=3)
    body.end()
    assert body.complete
    assert everything(body) == b"ab"
    assert body.take(1) == (b"", 0)


def test_aborted_what_came_can_be_read_and_then_it_fails(filled):
    body = filled(b"abc")
    body.abort()
    assert body.complete and body.ended
    assert body.take(100) == (b"abc", 3)
    with pytest.raises(RequestAborted):
        body.take(1)
    with pytest.raises(ConnectionError):
        body.take(1)


@pytest.mark.parametrize("finish", [Body.end, lambda body: body.append(b"c")])
def test_abort_after_the_whole_body_came_changes_nothing(finish, filled):
    body = filled(b"ab", content_length=3)
    finish(body)
    whole = body.available
    body.abort()
    assert len(everything(body)) == whole
    assert body.take(1) == (b"", 0)


# ------------------------------------------------------------------------------ in a file


def test_spill_frees_the_memory_and_keeps_the_bytes(filled):
    body = filled(b"abcdef")
    assert body.spill() == 6
    assert (body.in_memory, body.available) == (0, 6)
    assert body.spill() == 0
    assert body.take(4) == (b"abcd", 0)
    assert (body.in_memory, body.available) == (0, 2)
    assert body.take(4) == (b"ef", 0)


def test_what_follows_bytes_in_the_file_goes_there_too(filled):
    body = filled(b"abc")
    body.spill()
    assert body.append(b"def") == 0
    assert (body.in_memory, body.available) == (0, 6)
    assert everything(body, 4) == b"abcdef"


def test_after_the_file_was_read_memory_is_used_again(filled):
    body = filled(b"abc")
    body.spill()
    assert everything(body) == b"abc"
    assert body.append(b"def") == 3
    assert body.take(9) == (b"def", 3)


def test_the_order_holds_over_many_spills(filled):
    body, expected, taken = filled(), b"", b""
    for i in range(200):
        part = bytes([i]) * (i % 7)
        body.append(part)
        expected += part
        if i % 3 == 0:
            body.spill()
        taken += body.take(i % 5)[0]
    assert taken + everything(body) == expected


def test_the_file_has_no_name(tmp_path, monkeypatch, filled):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    body = filled(b"abc")
    body.spill()
    if body.file.__class__.__name__ != "_TemporaryFileWrapper":  # Windows cannot unlink it
        assert list(tmp_path.iterdir()) == []
    body.discard()
    assert list(tmp_path.iterdir()) == []


def test_beyond_max_file_reading_that_far_fails(filled):
    body = filled(b"abcd", max_file=6)
    body.spill()
    for part in (b"ef", b"g", b"h"):
        assert body.append(part) == 0
    body.end()
    assert body.complete and body.available == 6
    assert body.take(100) == (b"abcdef", 0)
    for _ in range(2):
        with pytest.raises(OSError, match="max_body_file=6") as caught:
            body.take(1)
        assert caught.value.errno == errno.EFBIG


def test_max_file_counts_what_is_in_the_file_now(filled):
    body = filled(max_file=4)
    for part in (b"abcd", b"efgh", b"ijkl"):
        body.append(part)
        body.spill()
        assert everything(body) == part


def test_a_file_that_lost_its_end_gives_what_it_has(filled):
    body = filled(b"abcdef")
    body.spill()
    body.file.truncate(4)
    assert body.take(3) == (b"abc", 0)
    assert body.take(3) == (b"d", 0)


def test_a_file_that_cannot_be_made_fails_the_reader_not_the_receiver(
    tmp_path, monkeypatch, filled
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    body = filled(b"abc")
    assert body.spill() == 3
    assert body.append(b"def") == 0
    with pytest.raises(FileNotFoundError):
        body.take(1)


# --------------------------------------------------------------------------------- discard


def test_discard_forgets_what_came_and_what_comes(filled):
    body = filled(b"abc")
    assert body.discard() == 3
    assert body.append(b"def") == 0
    assert body.available == body.in_memory == 0
    assert body.take(1) == (b"", 0)


def test_discard_forgets_the_file(filled):
    body = filled(b"abc")
    body.spill()
    file = body.file
    assert body.discard() == 0
    assert file.closed
    assert body.available == 0


def test_a_discarded_body_still_becomes_complete(filled):
    body = filled(content_length=6)
    body.append(b"abc")
    body.discard()
    body.append(b"def")
    assert body.complete and not body.ended
    body.end()
    assert body.ended


# ---------------------------------------------------------------------------------- memory

KIB = 1024


@contextlib.contextmanager
def allocating(limit):
    """Inside, never more than `limit` bytes are allocated beyond what was before."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < limit


@pytest.mark.parametrize("length", [None, 0, 10**9])
def test_a_body_that_has_not_come_takes_no_memory(length, filled):
    with allocating(4 * KIB):
        filled(content_length=length)


def test_an_announced_length_is_not_allocated_before_it_comes(filled):
    with allocating(100 * KIB):
        filled(b"x" * 16 * KIB, content_length=10**9)


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_takes_little_more_memory_than_its_size(announced, filled):
    part, length = b"x" * 64 * KIB, 16 * 64 * KIB
    with allocating(length + 70 * KIB):
        body = filled(content_length=length if announced else None)
        for _ in range(16):
            body.append(part)


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_all_of_an_announced_body_is_given_without_a_copy(parts, filled):
    """As far as one chunk of memory goes, which is 64 KiB."""
    part = b"x" * 16 * KIB
    body = filled(*[part] * parts, content_length=parts * len(part))
    with allocating(10 * KIB):
        data, freed = body.take(10**9)
    assert len(data) == freed == parts * len(part)
    assert body.take(1) == (b"", 0)


def test_what_was_given_does_not_change_when_more_comes(filled):
    body = filled(b"abc", content_length=9)
    first, _ = body.take(9)
    body.append(b"def")
    second, _ = body.take(9)
    body.append(b"ghi")
    assert (first, second, body.take(9)[0]) == (b"abc", b"def", b"ghi")


@pytest.mark.parametrize("behind", [0, 1, 3])
def test_a_body_that_is_read_as_it_comes_needs_little_memory(behind, filled):
    part = b"x" * 64 * KIB
    with allocating((4 * behind + 6) * len(part)):
        body = filled(*[part] * behind)
        for _ in range(100):
            body.append(part)
            assert body.take(len(part))[0] == part


def test_nothing_is_kept_of_a_body_that_was_read(filled):
    with allocating(400 * KIB):
        for _ in range(1000):
            body = filled(b"x" * 1000, content_length=1000)
            assert len(body.take(999)[0] + body.take(1)[0]) == 1000


@pytest.mark.parametrize("size", [1, 7, 4096, 65536, 100_000])
@pytest.mark.parametrize("announced", [True, False])
def test_every_byte_keeps_its_place(size, announced, filled):
    """Parts and reads of every size, with some of it always behind."""
    whole = bytes(range(256)) * 2000
    body = filled(content_length=len(whole) if announced else None)
    random, taken, sent = Random(size), [], 0
    while sent < len(whole):
        part = whole[sent : sent + random.randrange(1, 2 * size + 2)]
        assert body.append(part) == len(part)
        sent += len(part)
        while random.random() < 0.5:
            data, freed = body.take(random.randrange(1, 2 * size + 2))
            assert len(data) == freed
            taken.append(data)
    assert b"".join(taken) + everything(body, size) == whole
    assert body.available == 0


@pytest.mark.parametrize("size", [1, 4096, 65536])
@pytest.mark.parametrize("taken", [1, 7, 4096])
def test_memory_that_is_full_in_a_circle(size, taken, filled):
    """What came last lies before what came first in it."""
    whole = bytes(range(256)) * (2 * size // 256 + 33)
    body = filled(whole[: size + taken])
    assert body.take(taken)[0] == whole[:taken]
    body.append(whole[size + taken : size + 2 * taken])
    assert body.take(10**9) == (whole[taken : size + 2 * taken], size + taken)


def test_any_buffer_is_taken_in_but_one_with_holes(filled):
    body = filled(bytearray(b"ab"), memoryview(b"12345678").cast("I"), array("B", b"cd"))
    assert everything(body) == b"ab12345678cd"
    with pytest.raises(BufferError):
        body.append(memoryview(b"abcd")[::2])
    with pytest.raises(TypeError):
        body.append("text")
    assert body.available == 0
