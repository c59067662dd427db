"""Files on their way out of a socket, which the system sends."""

import contextlib
import errno
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap

import pytest
import wire
from test_outbox import parsed, sent, sizes

from fastfcgi import file_wrapper
from fastfcgi.constants import STDOUT
from fastfcgi.file_wrapper import FilePart
from fastfcgi.outbox import Outbox

pytestmark = pytest.mark.skipif(not file_wrapper._CAN_SEND, reason="files are only read here")

RECORD = 48 * 1024
DATA = random.Random(36).randbytes(5 * RECORD + 4321)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


def part_of(path, offset=0, size=None):
    with path.open("rb") as file:
        return FilePart(file.fileno(), offset, len(DATA) - offset if size is None else size)


def box_with(part, head=None, **options):
    box = Outbox()
    box.put_stream(STDOUT, 7, head, part, **options)
    return box


@pytest.mark.parametrize("size", [1, 7, 8, RECORD - 1, RECORD, RECORD + 1, 2 * RECORD, len(DATA)])
@pytest.mark.parametrize("offset", [0, 1, 4096, 4321])
def test_any_part_of_a_file(pair, path, size, offset):
    size = min(size, len(DATA) - offset)
    box = box_with(part_of(path, offset, size))
    announced = box.size
    data = sent(box, pair)
    assert len(data) == announced
    assert parsed(data).stdout == DATA[offset : offset + size]
    for content, padding in sizes(data):
        assert content <= RECORD and (content + padding) % 8 == 0


@pytest.mark.parametrize("most", [1, 7, 8, 9, 1000, 65536])
def test_it_goes_on_where_it_stopped(pair, path, most):
    """However little the socket takes: in a header, in the file, in the padding."""
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    size = 3 * RECORD + 5 if most > 100 else 5000
    box = box_with(part_of(path, 3, size), max_content=RECORD if most > 100 else 1001)
    assert parsed(sent(box, pair, most)).stdout == DATA[3 : 3 + size]


def test_between_other_pieces_it_keeps_its_place(pair, path):
    box = box_with(part_of(path), b"head")
    box.put_stream(STDOUT, 7, None, b"between")
    box.put_stream(STDOUT, 7, b"head again", part_of(path, 100, 200))
    box.put(wire.codec.encode_end_request(7, 0, 0))
    output = parsed(sent(box, pair))
    assert output.stdout == b"head" + DATA + b"between" + b"head again" + DATA[100:300]
    assert output.ended


def test_the_length_of_records_and_their_padding_are_kept_to(pair, path):
    box = box_with(part_of(path, 0, 20_001), max_content=8000, min_padding=1)
    found = sizes(sent(box, pair))
    assert [content for content, _ in found] == [8000, 8000, 4001]
    assert all(padding >= 1 for _, padding in found)


def test_a_part_of_no_length_is_nothing(pair, path):
    """An empty record would end the stream."""
    assert box_with(part_of(path, 5, 0)).size == 0


def test_a_part_beyond_4_gib(pair, tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.seek(5 << 30)
        file.write(DATA)
    with (tmp_path / "file").open("rb") as file:
        box = box_with(FilePart(file.fileno(), (5 << 30) - 10, 1000))
    assert parsed(sent(box, pair)).stdout == bytes(10) + DATA[:990]


@pytest.mark.skipif(sys.platform != "linux", reason="has no /proc")
def test_a_file_that_the_system_cannot_send_is_read(pair):
    """As those of /proc; of the file systems that users mount some are like that."""
    with open("/proc/self/environ", "rb") as file:
        content = file.read()
        with pytest.raises(OSError):
            os.sendfile(pair[0].fileno(), file.fileno(), 0, 10)
        box = box_with(FilePart(file.fileno(), 1, len(content) - 1))
    assert parsed(sent(box, pair)).stdout == content[1:]


# ------------------------------------------------------------------------------- what fails


@pytest.mark.parametrize("left", [0, 10, RECORD, 2 * RECORD + 1])
def test_a_file_that_was_shortened_fails_and_sends_nothing_else(pair, path, left):
    box = box_with(part_of(path))
    os.truncate(path, left)
    data = b""
    with pytest.raises(OSError) as caught:
        data = sent(box, pair)
    assert caught.value.errno == errno.EIO
    with contextlib.suppress(BlockingIOError):
        while part := pair[1].recv(1 << 20):
            data += part
    answers = wire.Answers()  # of which the last record is cut
    answers.feed(data)
    output = answers.outputs.get(7, wire.Output())
    assert output.stdout == DATA[:left] and not output.ended


def test_a_peer_that_is_gone_fails(pair, path):
    box = box_with(part_of(path))
    box.send_to(pair[0].fileno())
    pair[1].close()
    box.blocked = False
    with pytest.raises(OSError) as caught:
        box.send_to(pair[0].fileno())
    assert caught.value.errno in (errno.EPIPE, errno.ECONNRESET)


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="has no SIGPIPE")
def test_a_peer_that_is_gone_kills_nobody_where_sigpipe_is_deadly(path):
    """sendfile() sends that signal, too."""
    script = """
        import signal, socket, sys
        from fastfcgi.file_wrapper import FilePart
        from fastfcgi.outbox import Outbox

        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        box = Outbox()
        with open(sys.argv[1], "rb") as file:
            box.put_stream(6, 7, None, FilePart(file.fileno(), 0, 200_000))
        # In the middle of a record, so that sendfile() is the next call.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        box.send_to(ours.fileno())
        assert box.size % (48 * 1024 + 8)
        theirs.close()
        box.blocked = False
        try:
            box.send_to(ours.fileno())
        except OSError as error:
            print(type(error).__name__)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        print(signal.SIGPIPE in before, signal.SIGPIPE in signal.sigpending())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    name, state = done.stdout.splitlines()
    assert name in ("BrokenPipeError", "ConnectionResetError")
    assert state == "False False"


# ---------------------------------------------------------------------------- who holds what


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_the_descriptor_is_closed_with_the_part(pair, path):
    for end in (lambda box: sent(box, pair), Outbox.clear):
        part = part_of(path)
        fd = part.fd
        box = box_with(part)
        del part
        assert is_open(fd)
        end(box)
        assert not is_open(fd)
