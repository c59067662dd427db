"""The body of a request: memory, then a file."""

import errno

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
    if body._file.__class__.__name__ != "_TemporaryFileWrapper":  # Windows cannot unlink it
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
    file = body._file
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
