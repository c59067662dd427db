"""Records on their way out of a socket (what they look like: test_connection_out)."""

import contextlib
import mmap
import select
import socket
import sys
import time

import pytest
import wire

from fastfcgi.constants import STDERR, STDOUT
from fastfcgi.outbox import Outbox

linux = pytest.mark.skipif(sys.platform != "linux", reason="knows Linux's socket buffers")

KIB = 1024
MIB = 1024 * KIB
END = wire.codec.encode_end_request(7, 0, 0)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


def received(sock, most=MIB):
    with contextlib.suppress(BlockingIOError):
        return sock.recv(most)
    return b""


def sent(box, pair, most=MIB):
    """All that the box has, received by so many bytes at a time."""
    data = b""
    while box.size:
        before = box.size
        box.blocked = False
        box.send_to(pair[0].fileno())
        part = received(pair[1], most)
        assert part or box.size < before, "nothing goes on"
        data += part
    while part := received(pair[1]):
        data += part
    assert not box.blocked
    return data


def parsed(data, request_id=7):
    return wire.parse_response(data)[request_id]


def sizes(data):
    """(content, padding) of each record."""
    found = []
    while data:
        content, padding = int.from_bytes(data[4:6], "big"), data[6]
        assert data[8 + content :][:padding] == bytes(padding)
        found.append((content, padding))
        data = data[8 + content + padding :]
    return found


def pattern(size):
    return bytes(i * 7 % 251 for i in range(min(size, 251))) * (size // 251 + 1)


# ---------------------------------------------------------------------------- what is sent


def test_records_arrive_in_order_and_unchanged(pair):
    box = Outbox()
    small = [wire.record(STDOUT, 1, b"x" * size) for size in (0, 1, 31, 32)]
    large = [wire.record(STDOUT, 1, b"y" * size) for size in (33, 5000)]
    for record in small + large + small:
        box.put(record)
    assert box.size == sum(map(len, small + large + small))
    box.send_to(pair[0].fileno())
    assert (box.size, box.blocked) == (0, False)
    assert received(pair[1]) == b"".join(small + large + small)


@pytest.mark.parametrize("size", [1, 7, 8, 100, 65528, 65529, 65535, 65536, 200_000])
def test_a_stream_is_cut_into_records(pair, size):
    data = pattern(size)[:size]
    box = Outbox()
    box.put_stream(STDOUT, 7, None, data)
    wait = box.size
    wire_bytes = sent(box, pair)
    assert len(wire_bytes) == wait
    assert parsed(wire_bytes).stdout == data
    contents = [content for content, _ in sizes(wire_bytes)]
    assert contents == [65528] * (size // 65528) + [size % 65528] * (size % 65528 > 0)
    assert all((content + padding) % 8 == 0 for content, padding in sizes(wire_bytes))


@pytest.mark.parametrize(("head", "data"), [(b"h" * 100, b"d" * 300), (b"h", None), (b"h", b"")])
def test_head_and_data_share_a_record(pair, head, data):
    box = Outbox()
    box.put_stream(STDOUT, 7, head, data)
    wire_bytes = sent(box, pair)
    assert parsed(wire_bytes).stdout == head + (data or b"")
    assert len(sizes(wire_bytes)) == 1


@pytest.mark.parametrize("head", [1, 5, 65_528, 70_000])
@pytest.mark.parametrize("data", [1, 65_523, 65_528, 140_000])
def test_head_and_data_where_one_record_may_not_be_enough(pair, head, data):
    box = Outbox()
    box.put_stream(STDOUT, 7, b"h" * head, b"d" * data)
    wait = box.size
    wire_bytes = sent(box, pair)
    assert len(wire_bytes) == wait
    assert parsed(wire_bytes).stdout == b"h" * head + b"d" * data
    assert (len(sizes(wire_bytes)) == 1) == (head + data <= 65_528)


@pytest.mark.parametrize("head", [None, b""])
@pytest.mark.parametrize("data", [None, b"", bytearray()])
def test_nothing_makes_no_record(pair, head, data):
    """An empty record would end the stream."""
    box = Outbox()
    box.put_stream(STDOUT, 7, head, data)
    assert (box.size, sent(box, pair)) == (0, b"")


@pytest.mark.parametrize("size", [1, 7992, 7993, 8000, 8001, 30_000])
def test_records_that_are_always_padded(pair, size):
    """STDERR is: see Connection.send_stderr."""
    box = Outbox()
    box.put_stream(STDERR, 7, None, pattern(size)[:size], 8000, 1)
    wait = box.size
    wire_bytes = sent(box, pair)
    assert len(wire_bytes) == wait
    assert parsed(wire_bytes).stderr == pattern(size)[:size]
    for content, padding in sizes(wire_bytes):
        assert content <= 8000 and padding >= 1 and (content + padding) % 8 == 0


def mapped(data):
    made = mmap.mmap(-1, len(data))
    made.write(data)
    return made


class Slice(bytes):
    """bytes, but not exactly."""


@pytest.mark.parametrize("kind", [bytes, Slice, bytearray, memoryview, mapped])
def test_kinds_of_data(pair, kind):
    data = pattern(100_000)
    box = Outbox()
    given = kind(data)
    box.put_stream(STDOUT, 7, b"head", given)
    del given
    assert parsed(sent(box, pair)).stdout == b"head" + data


def test_part_of_a_buffer_of_larger_items(pair):
    data = memoryview(pattern(8000)[:8000]).cast("I")[10:20]
    box = Outbox()
    box.put_stream(STDOUT, 7, None, data)
    assert parsed(sent(box, pair)).stdout == data.tobytes()


def test_data_that_is_not_contiguous_is_refused(pair):
    box = Outbox()
    with pytest.raises(BufferError):
        box.put_stream(STDOUT, 7, b"head", memoryview(b"abcdef")[::2])
    with pytest.raises(TypeError):
        box.put_stream(STDOUT, 7, b"head", "text")
    assert (box.size, sent(box, pair)) == (0, b"")


def test_nothing_is_copied(pair):
    data = bytearray(b"before")
    box = Outbox()
    box.put_stream(STDOUT, 7, None, data)
    data[:] = b"after!"
    with pytest.raises(BufferError):
        data.append(0)  # held until it is sent
    assert parsed(sent(box, pair)).stdout == b"after!"
    data.append(0)


# ------------------------------------------------------------------- as much as there is room


def fill(box, count=8):
    """A bit of everything, so many times; returns the bytes of one time."""
    for request_id in range(1, 1 + count):
        before = box.size
        box.put_stream(STDOUT, request_id, b"head" * 30, pattern(150)[:150], 280)
        box.put_stream(STDOUT, request_id, None, pattern(603)[:603], 280)
        box.put_stream(STDERR, request_id, None, pattern(300)[:300], 240, 1)
        box.put(wire.codec.encode_end_request(request_id, 0, 0))
        box.put(wire.record(STDOUT, request_id, b"a large one" * 20))
    return box.size - before


@linux
def test_sending_goes_on_from_every_byte(pair):
    """What a small socket takes at once begins with more and more that is put before it, so
    that it stops at every byte of the rest."""
    box = Outbox()
    unit = fill(box)
    whole = sent(box, pair)
    stops = set()
    for size in range(3000):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            theirs.setblocking(False)
            if size:
                box.put(b"x" * size)
            fill(box)
            box.send_to(ours.fileno())
            assert box.blocked
            stops.add(-box.size % unit)
            assert sent(box, (ours, theirs)) == b"x" * size + whole
        if len(stops) == unit:
            return
    raise AssertionError(f"it stopped at {len(stops)} of {unit} places only")


def test_what_the_socket_does_not_take_waits(pair):
    box = Outbox()
    data = bytes(range(256)) * 64 * KIB
    box.put_stream(STDOUT, 7, data[:100], data[100:])
    whole = box.size
    box.send_to(pair[0].fileno())
    assert box.blocked and 0 < box.size < whole
    left = box.size
    box.send_to(pair[0].fileno())
    assert box.size == left  # not before it is known to be writable
    assert parsed(sent(box, pair)).stdout == data


@pytest.mark.parametrize("most", [1, 13, 1000])
def test_a_reader_of_little_at_a_time(pair, most):
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    data = pattern(10_000)
    box = Outbox()
    box.put_stream(STDOUT, 7, b"head", data)
    box.put(END)
    output = parsed(sent(box, pair, most))
    assert output.stdout == b"head" + data and output.ended


def test_others_get_their_turn(pair):
    """However much the socket would take."""
    box = Outbox()
    for number in range(4000):
        box.put(b"%04d" % number)
    data = b""
    rounds = 0
    while box.size:
        before = box.size
        box.blocked = False
        box.send_to(pair[0].fileno())
        rounds += 1
        assert select.select([], [pair[0]], [], 0)[1]  # it is not the socket that is full
        assert 16 * 64 * 4 >= before - box.size > 0
        assert box.blocked == bool(box.size)
        data += received(pair[1])
    assert rounds >= 4
    assert data == b"".join(b"%04d" % number for number in range(4000))


@pytest.mark.parametrize("count", [3, 4, 5, 500, 5000])
def test_pieces_come_and_go(pair, count):
    """Some are sent while others are added."""
    box = Outbox()
    expected, data = [], b""
    for number in range(count):
        text = b"%07d" % number
        expected.append(text)
        box.put_stream(STDOUT, 7, None, text)
        if number % 7 == 3:
            box.put(wire.record(STDERR, 7, b"between"))
        if number % 100 == 99:
            box.blocked = False
            box.send_to(pair[0].fileno())
            data += received(pair[1], 1000)
    data += sent(box, pair)
    assert parsed(data).stdout == b"".join(expected)
    assert parsed(data).stderr == b"between" * len(range(3, count, 7))


def test_what_was_sent_is_let_go_at_once(pair):
    box = Outbox()
    first, second = bytearray(b"x" * 100), bytearray(16 * MIB)
    head = bytes(bytearray(1000))
    count = sys.getrefcount(head)
    box.put_stream(STDOUT, 7, head, first)
    box.put_stream(STDOUT, 7, None, second)
    assert sys.getrefcount(head) == count + 1
    box.send_to(pair[0].fileno())
    assert box.size and sys.getrefcount(head) == count
    first.append(0)
    with pytest.raises(BufferError):
        second.append(0)
    sent(box, pair)
    second.append(0)


def test_what_is_never_sent_is_let_go(pair):
    for end in (Outbox.clear, lambda box: None):
        box = Outbox()
        data, head = bytearray(b"x" * 100), bytes(bytearray(1000))
        count = sys.getrefcount(head)
        for _ in range(10):
            box.put_stream(STDOUT, 7, head, data)
        assert sys.getrefcount(head) == count + 10
        end(box)
        size = box.size
        del box
        data.append(0)
        assert sys.getrefcount(head) == count
    assert size == 10 * (8 + 1100 + 4)


# -------------------------------------------------------------------------- time and failure


def test_time_begins_with_what_waits(pair):
    """Since it was tried to send it, or some of it was sent."""
    box = Outbox()
    box.put_stream(STDOUT, 7, None, bytes(16 * MIB))

    def send():
        box.blocked = False
        before = time.monotonic()
        box.send_to(pair[0].fileno())
        return before <= box.sent_at <= time.monotonic()

    assert send() and box.blocked
    assert not send()  # no progress
    received(pair[1])
    assert send() and box.size
    sent(box, pair)
    while pair[0].send(bytes(MIB)) == MIB:
        pass
    box.put(b"x")
    assert send() and box.size == 1  # none, but others were waiting before
    assert not send()


def test_a_peer_that_is_gone(pair):
    box = Outbox()
    pair[1].close()
    box.put(b"x")
    box.put_stream(STDOUT, 7, b"head", b"data")
    with pytest.raises(OSError) as caught:
        box.send_to(pair[0].fileno())
    assert isinstance(caught.value, ConnectionError)
    box.clear()
    assert box.size == 0
    box.send_to(pair[0].fileno())


def test_a_descriptor_that_is_none(pair):
    box = Outbox()
    box.send_to(-1)
    box.put(b"x")
    with pytest.raises(OSError):
        box.send_to(-1)
