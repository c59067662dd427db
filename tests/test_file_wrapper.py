"""wsgi.file_wrapper: files that are sent from a map of them."""

import gc
import mmap
import os
import sys
import types

import pytest
from file_sending import DATA, MAPPED, MIB, WINDOW, SendingRequest, length_of, needs_maps, sent
from helpers import TEXT, FakeRequest, answering, handled

from fastfcgi import file_wrapper
from fastfcgi.wsgi import FileWrapper


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def maps(monkeypatch):
    """The maps that are made: their lengths, and how many others there were each time."""
    made = types.SimpleNamespace(lengths=[], others=[], alive=0)

    class Map(mmap.mmap):
        def __init__(self, descriptor, length, **options):
            made.lengths.append(length)
            made.others.append(made.alive)
            made.alive += 1

        def __del__(self):
            made.alive -= 1

    monkeypatch.setattr(file_wrapper.mmap, "mmap", Map)
    return made


# ------------------------------------------------------------------------------- in windows


@needs_maps
@pytest.mark.parametrize("buffering", [0, 4096, 10 * MIB])
def test_a_file_is_sent_from_maps_of_it(path, buffering):
    file = path.open("rb", buffering)
    request = sent(file)
    assert request.body == DATA
    assert request.windows == [WINDOW, WINDOW, WINDOW, len(DATA) - 3 * WINDOW]
    assert request.headers == TEXT
    assert file.closed and not request.abandoned


@needs_maps
def test_the_first_window_goes_out_with_the_header(path):
    request = sent(path.open("rb"))
    assert request.blocks[0].startswith(b"Status: 200 OK\r\n")
    assert len(request.writes) == 4
    assert not any(request.lasts)


@needs_maps
@pytest.mark.parametrize("position", [1, 4095, 4096, 5000, WINDOW, WINDOW + 1, len(DATA) - MAPPED])
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
    assert sum(request.windows) == len(DATA) - position
    assert max(request.windows) <= WINDOW


@needs_maps
@pytest.mark.parametrize("size", [MAPPED, MAPPED + 1, WINDOW, WINDOW + 1, 2 * WINDOW])
@pytest.mark.parametrize("position", [0, 7])
def test_files_of_every_size(tmp_path, size, position):
    (tmp_path / "file").write_bytes(DATA[: size + position])
    file = (tmp_path / "file").open("rb")
    file.seek(position)
    request = sent(file)
    assert request.body == DATA[position : size + position]
    assert sum(request.windows) == size


@needs_maps
@pytest.mark.parametrize("length", [MAPPED, MAPPED + 1, WINDOW, WINDOW + 5000, len(DATA) - 1])
@pytest.mark.parametrize("position", [0, 1234])
def test_no_more_is_mapped_than_content_length(path, length, position, caplog, maps):
    length -= position
    file = path.open("rb")
    file.seek(position)
    request = sent(file, headers=length_of(length))
    assert request.body == DATA[position : position + length]
    assert sum(request.windows) == (length if length >= MAPPED else 0)
    assert sum(maps.lengths) <= sum(request.windows) + position
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


@needs_maps
def test_it_stands_behind_what_was_sent(path):
    """As after reading it: who keeps it open may go on there."""
    file = path.open("rb")
    reader = types.SimpleNamespace(read=file.read)
    assert sum(sent(reader).windows) == len(DATA)
    assert file.tell() == len(DATA)
    file.close()


@needs_maps
def test_a_file_beyond_4_gib(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.seek(5 * 1024 * MIB)
        file.write(DATA)
    file = (tmp_path / "file").open("rb")
    file.seek(5 * 1024 * MIB - 10)
    request = sent(file)
    assert request.body == bytes(10) + DATA
    assert sum(request.windows) == len(request.body)


# ----------------------------------------------------------- files that change meanwhile


@needs_maps
def test_a_file_that_grows_is_sent_to_its_new_end(path):
    def grow(writes):
        if writes in (1, 3):
            with path.open("ab") as file:
                file.write(b"more" * 1000 * writes)

    request = sent(path.open("rb"), SendingRequest(during=grow))
    assert request.body == DATA + b"more" * 4000


@needs_maps
def test_a_file_that_grows_is_not_sent_beyond_content_length(path):
    def grow(writes):
        with path.open("ab") as file:
            file.write(b"more" * 1000)

    request = sent(path.open("rb"), SendingRequest(during=grow), length_of(len(DATA)))
    assert request.body == DATA
    assert sum(request.windows) == len(DATA)


@needs_maps
def test_a_file_that_is_shortened_between_windows_ends_there(path, caplog):
    def shorten(writes):
        if writes == 1:
            os.truncate(path, 2 * WINDOW + 5)

    request = sent(path.open("rb"), SendingRequest(during=shorten), length_of(len(DATA)))
    assert request.body == DATA[: 2 * WINDOW + 5]
    assert request.abandoned
    assert "shorter than its Content-Length" in caplog.text


@needs_maps
def test_a_file_that_is_shortened_just_before_it_is_mapped(path, monkeypatch):
    left = file_wrapper._left

    def shorten(*args):
        found = left(*args)
        os.truncate(path, 10)
        return found

    monkeypatch.setattr(file_wrapper, "_left", shorten)
    request = sent(path.open("rb"))
    assert (request.body, request.windows) == (DATA[:10], [])


@needs_maps
@pytest.mark.skipif(sys.platform != "linux", reason="what the kernel answers elsewhere")
def test_a_window_that_is_gone_is_an_oserror_for_who_sends_it_and_harmless_here(path):
    """The pages behind the end of a shortened file: nobody here looks into them."""
    read_end, write_end = os.pipe()

    class Sender(FakeRequest):
        error = None

        def write(self, head, data, last=False):
            os.truncate(path, 0)
            if self.error is None:
                try:
                    os.write(write_end, data)
                except OSError as error:
                    self.error = error
                    raise
            super().write(head, None, last)

    request = Sender()
    sent(path.open("rb"), request)
    assert isinstance(request.error, OSError)
    os.close(read_end)
    os.close(write_end)


# ---------------------------------------------------------------------- who holds what


@needs_maps
def test_a_window_is_let_go_when_it_is_sent(path, maps):
    """One is held for as long as it is sent, and another is made only then."""
    alive = []

    class Sender(SendingRequest):
        def write(self, head, data, last=False):
            alive.append(maps.alive)
            self.windows.append(len(data))

    request = sent(path.open("rb"), Sender())
    assert sum(request.windows) == len(DATA)
    assert alive == [1, 1, 1, 1]
    assert maps.others == [0, 0, 0, 0]
    assert maps.alive == 0


@needs_maps
def test_a_window_outlives_its_file_while_somebody_holds_it(path):
    held = []

    class Holder(SendingRequest):
        def write(self, head, data, last=False):
            held.append(data)

    file = path.open("rb")
    sent(file, Holder())
    assert file.closed
    assert b"".join(held) == DATA


@needs_maps
def test_nothing_is_left_behind(path):
    """Neither descriptors nor maps; also of responses that were given up."""
    if sys.platform != "linux":
        pytest.skip("reads /proc")

    def state():
        gc.collect()
        with open("/proc/self/maps") as maps:
            return len(os.listdir("/proc/self/fd")), sum(str(path) in line for line in maps)

    before = state()
    for after in (None, 0, 1, 2):
        request = sent(path.open("rb"), SendingRequest(aborted_after=after))
        assert request.abandoned == (after is not None)
    del request
    assert state() == before


# -------------------------------------------------------------------------- no body


@pytest.mark.parametrize("size", [10, len(DATA)])
def test_to_head_nothing_of_the_file_is_sent(path, size, maps):
    file = path.open("rb")
    request = sent(file, SendingRequest("HEAD"), length_of(size))
    assert (request.body, request.headers) == (b"", length_of(size))
    assert maps.lengths == []
    assert file.closed and not request.abandoned


def test_nothing_of_the_file_is_sent_with_304(path, maps):
    request = SendingRequest()
    handled(answering(FileWrapper(path.open("rb")), "304 Not Modified", []), request)
    assert (request.body, maps.lengths) == (b"", [])


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
