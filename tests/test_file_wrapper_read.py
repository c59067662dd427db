"""wsgi.file_wrapper: what is read: small files, what is no file, where the system sends none."""

import bz2
import gzip
import io
import os
import sys
import tempfile
import types

import pytest
from fake_request import answering, handled
from file_sending import DATA, MIB, SENT, SendingRequest, needs_parts, sent
from helpers import TEXT

from fastfcgi import file_wrapper
from fastfcgi.wsgi import FileWrapper


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


# ------------------------------------------------------------------------ what is read


def test_a_small_file_is_read_at_once(path):
    os.truncate(path, SENT - 1)
    request = sent(path.open("rb"), block_size=100)
    assert request.body == DATA[: SENT - 1]
    assert (len(request.writes), request.parts) == (1, [])


def test_an_empty_file(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    request = sent((tmp_path / "file").open("rb"))
    assert (request.status, request.headers, request.body) == (200, TEXT, b"")
    assert not request.abandoned


def test_a_file_that_stands_at_its_end_or_behind(path):
    for position in (len(DATA), len(DATA) + 1, 2 * len(DATA)):
        file = path.open("rb")
        file.seek(position)
        assert sent(file).body == b""


class Shouting:
    """Reads a file, but gives something else; knows all else of the file."""

    def __init__(self, file):
        self.file = file

    def read(self, size):
        return self.file.read(size).upper()

    def __getattr__(self, name):
        return getattr(self.file, name)


class ShoutingFile(io.FileIO):
    def readinto(self, buffer):
        size = super().readinto(buffer)
        buffer[:size] = bytes(buffer[:size]).upper()
        return size

    def read(self, size=-1):
        return super().read(size).upper()


def patched(file):
    read = file.read
    file.read = lambda size: read(size).upper()
    return file


def only_read(method):
    """Has nothing but read(), which is this one."""
    return types.SimpleNamespace(read=method)


@pytest.mark.parametrize(
    ("wrapped", "body"),
    [
        (Shouting, DATA.upper()),
        (lambda file: ShoutingFile(file.name), DATA.upper()),
        (lambda file: io.BufferedReader(ShoutingFile(file.name)), DATA.upper()),
        (patched, DATA.upper()),
        (lambda file: io.BufferedReader(file), DATA),
        (lambda file: only_read(file.readline), DATA),
        (lambda file: only_read(io.BytesIO(DATA).read), DATA),
        (lambda file: io.BytesIO(DATA), DATA),
    ],
)
def test_its_read_counts_whatever_its_fileno_says(path, wrapped, body):
    with path.open("rb") as file:
        request = sent(wrapped(file))
    assert request.body == body
    assert request.parts == []


class Proxy:
    """As Django's File: its methods are those of the file it was made of."""

    def __init__(self, file):
        self.file = file
        self.closed = False

    read = property(lambda self: self.file.read)

    def close(self):
        self.closed = True
        self.file.close()


@needs_parts
@pytest.mark.parametrize("wrapped", [Proxy, lambda file: only_read(file.raw.read)])
def test_an_object_whose_read_is_that_of_a_file_is_as_good_as_it(path, wrapped):
    with path.open("rb") as file:
        request = sent(wrapped(file))
    assert request.body == DATA
    assert sum(request.parts) == len(DATA)


def test_the_close_of_the_object_is_called_not_that_of_the_file(path):
    proxy = Proxy(path.open("rb"))
    sent(proxy)
    assert proxy.closed


def test_what_was_just_written_is_sent_too(path):
    """It may still be in the buffer of a file that is both read and written."""
    with path.open("r+b") as file:
        file.read(10)
        file.seek(0)
        file.write(b"0123")
        file.seek(2)  # within the buffer: this alone writes nothing
        request = sent(file)
    assert request.body == b"23" + DATA[4:]


@needs_parts
def test_a_file_that_is_both_read_and_written_is_sent():
    with tempfile.TemporaryFile() as file:
        file.write(DATA)
        file.seek(5)
        request = sent(file)
    assert request.body == DATA[5:]
    assert sum(request.parts) == len(request.body)


@pytest.mark.parametrize("opened", [gzip.open, bz2.open])
def test_compressed_files(tmp_path, opened):
    with opened(tmp_path / "file", "wb", compresslevel=1) as file:
        file.write(DATA[:MIB])
    request = sent(opened(tmp_path / "file"))
    assert (request.body == DATA[:MIB], request.parts) == (True, [])


def test_temporary_files_that_are_wrapped():
    for kind in (tempfile.NamedTemporaryFile, tempfile.SpooledTemporaryFile):
        with kind() as file:
            file.write(DATA)
            file.seek(5)
            assert sent(file).body == DATA[5:]


def test_a_text_file_is_sent_as_latin_1(tmp_path):
    text = "caf\xe9\n" * SENT
    (tmp_path / "file").write_text(text, encoding="utf-8")
    request = sent((tmp_path / "file").open(encoding="utf-8"))
    assert (request.body, request.parts) == (text.encode("latin-1"), [])


def test_a_pipe():
    read_end, write_end = os.pipe()
    os.write(write_end, DATA[:5000])
    os.close(write_end)
    request = sent(os.fdopen(read_end, "rb"))
    assert (request.body, request.parts) == (DATA[:5000], [])


@pytest.mark.skipif(sys.platform != "linux", reason="has no /proc")
def test_a_file_that_has_no_size_and_yet_content():
    with open("/proc/self/cmdline", "rb") as file:
        expected = file.read()
    assert os.stat("/proc/self/cmdline").st_size == 0
    assert sent(open("/proc/self/cmdline", "rb")).body == expected


def test_everything_is_read_where_parts_are_not_sent(path, monkeypatch):
    monkeypatch.setattr(file_wrapper, "_CAN_SEND", False)
    request = sent(path.open("rb"))
    assert (request.body, request.parts) == (DATA, [])
    assert len(request.writes) == -(-len(DATA) // 65536)


@needs_parts
@pytest.mark.skipif(sys.platform == "win32", reason="has no limits")
def test_without_a_descriptor_for_it_the_application_fails(path):
    """It is for the application to say how many there may be, not for us to hide that."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    file = path.open("rb")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        request = sent(file)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert request.status == 500
    assert file.closed


@pytest.mark.parametrize("mode", ["closed", "ab"])
def test_a_file_that_cannot_be_read_fails_as_it_does(path, mode):
    file = path.open("rb" if mode == "closed" else mode)
    if mode == "closed":
        file.close()
    request = sent(file)
    assert request.status == 500
    assert b"ValueError" in request.errors or b"UnsupportedOperation" in request.errors


def test_a_detached_reader_fails_as_it_does(path):
    file = path.open("rb")
    wrapper = FileWrapper(file)
    with file.detach():
        assert handled(answering(wrapper)).status == 500


# ----------------------------------------------------------------------- as an iterable


def test_whoever_iterates_over_it_gets_what_read_gives(path):
    file = path.open("rb")
    sizes = []

    def middleware(environ, start_response):
        start_response("200 OK", TEXT)
        wrapper = FileWrapper(file, 100_000)
        for block in wrapper:
            sizes.append(len(block))
            yield block.upper()
        wrapper.close()

    request = handled(middleware, SendingRequest())
    assert request.body == DATA.upper()
    assert (request.parts, sizes[0], max(sizes)) == ([], 100_000, 100_000)
    assert file.closed


def test_a_subclass_iterates_as_it_likes(path):
    class Mine(FileWrapper):
        def __iter__(self):
            yield b"mine"

    file = path.open("rb")
    request = handled(answering(Mine(file)), SendingRequest())
    assert (request.body, request.parts) == (b"mine", [])
    assert file.closed
