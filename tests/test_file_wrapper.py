"""wsgi.file_wrapper: files that the system sends."""

import gc
import os
import sys
import types

import pytest
from fake_request import answering, handled
from file_sending import DATA, MIB, SENT, SendingRequest, length_of, needs_parts, sent
from helpers import TEXT

from fastfcgi import file_wrapper
from fastfcgi.wsgi import FileWrapper


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


# ---------------------------------------------------------------------------------- as parts


@needs_parts
@pytest.mark.parametrize("buffering", [0, 4096, 10 * MIB])
def test_a_file_is_sent_as_it_lies_there(path, buffering):
    file = path.open("rb", buffering)
    request = sent(file)
    assert request.body == DATA
    assert request.parts == [len(DATA)]
    assert request.headers == TEXT
    assert file.closed and not request.abandoned


@needs_parts
def test_it_goes_out_with_the_header(path):
    request = sent(path.open("rb"))
    assert request.blocks[0].startswith(b"Status: 200 OK\r\n")
    assert (len(request.blocks), len(request.writes)) == (2, 1)
    assert not any(request.lasts)


@needs_parts
@pytest.mark.parametrize("position", [1, 4095, 4096, 5000, MIB, MIB + 1, len(DATA) - SENT])
@pytest.mark.parametrize("by", ["seek", "read"])
def test_it_is_sent_from_where_it_stands(path, position, by):
    """Which is not where its descriptor stands, when it is buffered and was read."""
    file = path.open("rb")
    if by == "seek":
        file.seek(position)
    else:
        file.read(position)
    request = sent(file)
    assert request.body == DATA[position:]
    assert request.parts == [len(DATA) - position]


@needs_parts
@pytest.mark.parametrize("size", [SENT, SENT + 1, MIB, MIB + 1])
@pytest.mark.parametrize("position", [0, 7])
def test_files_of_every_size(tmp_path, size, position):
    (tmp_path / "file").write_bytes(DATA[: size + position])
    file = (tmp_path / "file").open("rb")
    file.seek(position)
    request = sent(file)
    assert request.body == DATA[position : size + position]
    assert request.parts == [size]


@needs_parts
@pytest.mark.parametrize("length", [SENT, SENT + 1, MIB, MIB + 5000, len(DATA) - 1])
@pytest.mark.parametrize("position", [0, 1234])
def test_no_more_is_sent_than_content_length(path, length, position, caplog):
    length -= position
    file = path.open("rb")
    file.seek(position)
    request = sent(file, headers=length_of(length))
    assert request.body == DATA[position : position + length]
    assert sum(request.parts) == (length if length >= SENT else 0)
    assert not request.abandoned
    assert caplog.text.count("longer than its Content-Length") == 1


def test_the_whole_file_is_as_long_as_its_content_length(path, caplog):
    request = sent(path.open("rb"), headers=length_of(len(DATA)))
    assert request.body == DATA
    assert not request.abandoned and not caplog.records


@pytest.mark.parametrize("size", [0, 10, len(DATA)])
def test_a_file_that_is_shorter_than_content_length_does_not_look_complete(path, size):
    os.truncate(path, size)
    request = sent(path.open("rb"), headers=length_of(size + 1))
    assert request.body == DATA[:size]
    assert request.abandoned


@needs_parts
def test_it_stands_behind_what_was_sent(path):
    """As after reading it: who keeps it open may go on there."""
    file = path.open("rb")
    reader = types.SimpleNamespace(read=file.read)
    assert sum(sent(reader).parts) == len(DATA)
    assert file.tell() == len(DATA)
    file.close()


@needs_parts
def test_a_file_beyond_4_gib(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.seek(5 * 1024 * MIB)
        file.write(DATA)
    file = (tmp_path / "file").open("rb")
    file.seek(5 * 1024 * MIB - 10)
    request = sent(file)
    assert request.body == bytes(10) + DATA
    assert sum(request.parts) == len(request.body)


# ----------------------------------------------------------- files that change meanwhile


@needs_parts
def test_a_file_that_grows_is_sent_to_its_new_end(path):
    def grow(writes):
        if writes < 2:
            with path.open("ab") as file:
                file.write(b"more" * 1000 * (writes + 1))

    request = sent(path.open("rb"), SendingRequest(during=grow))
    assert request.body == DATA + b"more" * 3000
    assert request.parts == [len(DATA), 4000, 8000]


@needs_parts
def test_a_file_that_grows_is_not_sent_beyond_content_length(path):
    def grow(writes):
        with path.open("ab") as file:
            file.write(b"more" * 1000)

    request = sent(path.open("rb"), SendingRequest(during=grow), length_of(len(DATA)))
    assert request.body == DATA
    assert request.parts == [len(DATA)]


@needs_parts
def test_a_file_that_is_shortened_before_it_is_looked_at(path, caplog):
    os.truncate(path, MIB)
    request = sent(path.open("rb"), headers=length_of(len(DATA)))
    assert request.body == DATA[:MIB]
    assert request.abandoned
    assert "shorter than its Content-Length" in caplog.text


@needs_parts
@pytest.mark.parametrize("size", [0, 10, SENT, MIB + 1])
def test_a_part_that_is_gone_is_an_oserror_for_who_reads_it(path, size):
    with path.open("rb") as file:
        part = file_wrapper.FilePart(file.fileno(), 0, len(DATA))
    os.truncate(path, size)
    blocks = []
    with pytest.raises(OSError, match="shortened"):
        blocks.extend(part.blocks())
    assert b"".join(blocks) == DATA[:size]


# ---------------------------------------------------------------------- who holds what


@needs_parts
def test_a_part_outlives_its_file_while_somebody_holds_it(path):
    held = []

    class Holder(SendingRequest):
        def write(self, head, data, last=False):
            held.append(data)

    file = path.open("rb")
    sent(file, Holder())
    assert file.closed
    assert b"".join(block for part in held for block in part.blocks()) == DATA


@needs_parts
def test_nothing_is_left_behind(path):
    """No descriptors; also of responses that were given up."""
    if sys.platform != "linux":
        pytest.skip("reads /proc")

    def state():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    before = state()
    for after in (None, 0):
        request = sent(path.open("rb"), SendingRequest(aborted_after=after))
        assert request.abandoned == (after is not None)
    del request
    assert state() == before


@needs_parts
def test_a_part_that_was_sent_is_let_go_before_the_next(path):
    held = []

    class Sender(SendingRequest):
        def write(self, head, data, last=False):
            held.append(len(os.listdir("/proc/self/fd")))
            if len(held) < 4:
                with path.open("ab") as more:
                    more.write(b"more" * 100)

    if sys.platform != "linux":
        pytest.skip("reads /proc")
    sent(path.open("rb"), Sender())
    assert len(held) == 4 and len(set(held)) == 1


# -------------------------------------------------------------------------- no body


@pytest.mark.parametrize("size", [10, len(DATA)])
def test_to_head_nothing_of_the_file_is_sent(path, size):
    file = path.open("rb")
    request = sent(file, SendingRequest("HEAD"), length_of(size))
    assert (request.body, request.headers) == (b"", length_of(size))
    assert request.parts == []
    assert file.closed and not request.abandoned


def test_nothing_of_the_file_is_sent_with_304(path):
    request = SendingRequest()
    handled(answering(FileWrapper(path.open("rb")), "304 Not Modified", []), request)
    assert (request.body, request.parts) == (b"", [])


def test_a_file_without_start_response_is_a_500(path):
    file = path.open("rb")
    request = handled(lambda environ, start_response: FileWrapper(file), SendingRequest())
    assert request.status == 500
    assert file.closed


def test_a_file_after_write(path):
    def app(environ, start_response):
        start_response("200 OK", length_of(5 + len(DATA)))(b"first")
        return environ["wsgi.file_wrapper"](path.open("rb"))

    assert handled(app, SendingRequest()).body == b"first" + DATA
