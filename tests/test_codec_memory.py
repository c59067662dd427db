"""The C codec and memory: blocks to receive into, the ends of buffers, leaks."""

import ctypes
import mmap
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import reference_codec
from gil import HAS_GIL

from fastfcgi import _codec, constants
from fastfcgi.exceptions import LimitExceeded, RemoteProtocolError

# --------------------------------------------------------------- blocks to receive into


def test_block_is_writable_memory_that_counts_its_views():
    block = _codec.ReceiveBuffer(100).writable()
    assert len(block) == 100 and block.exports == 0
    view = memoryview(block)
    assert (view.readonly, view.nbytes, view.format, view.ndim) == (False, 100, "B", 1)
    assert block.exports == 1
    other = memoryview(block)
    assert block.exports == 2
    part = view[10:20]
    view.release()
    other.release()
    assert block.exports == 1  # a slice keeps the memory
    part.release()
    assert block.exports == 0


def test_block_refuses_an_export_it_cannot_make_without_counting_it():
    block = _codec.ReceiveBuffer(64).writable()
    function = ctypes.pythonapi.PyObject_GetBuffer
    function.argtypes = [ctypes.py_object, ctypes.c_void_p, ctypes.c_int]
    for _ in range(3):
        with pytest.raises(BufferError):
            function(block, None, 0)
    assert block.exports == 0


def test_the_same_block_comes_again_while_nobody_looks_at_it():
    buffer = _codec.ReceiveBuffer(4096)
    block = buffer.writable()
    assert buffer.writable() is block
    with memoryview(block):
        fresh = buffer.writable()
        assert fresh is not block and len(fresh) == 4096
    assert buffer.writable() is fresh


def test_default_size_and_sizes_that_are_refused():
    assert len(_codec.ReceiveBuffer().writable()) == 65536
    assert len(_codec.ReceiveBuffer(1).writable()) == 1
    for size in (0, -1):
        with pytest.raises(ValueError):
            _codec.ReceiveBuffer(size)
    with pytest.raises((MemoryError, OverflowError)):
        _codec.ReceiveBuffer(sys.maxsize)


def test_records_received_from_a_socket_stay_what_they_were():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        buffer, reader = _codec.ReceiveBuffer(64), _codec.RecordReader()
        kept, blocks = [], []
        for i in range(10):
            content = bytes([i]) * 40
            theirs.sendall(reference_codec.encode_record(constants.STDIN, 1, content))
            block = buffer.writable()
            size = ours.recv_into(block)
            [(_, _, piece)] = reader.feed(block, size)
            assert piece.obj is block and block.exports
            kept.append((piece, content))
            blocks.append(block)
        assert all(piece == content for piece, content in kept)
        assert len({id(block) for block in blocks}) == 10


def test_block_is_used_again_when_the_records_are_gone():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        buffer, reader = _codec.ReceiveBuffer(64), _codec.RecordReader()
        blocks = set()
        for i in range(10):
            theirs.sendall(reference_codec.encode_record(constants.STDIN, 1, bytes([i]) * 40))
            block = buffer.writable()
            [(_, _, piece)] = reader.feed(block, ours.recv_into(block))
            assert piece == bytes([i]) * 40
            del piece
            assert block.exports == 0
            blocks.add(id(block))
        assert len(blocks) == 1


def test_discrete_records_and_params_hold_no_block():
    buffer, reader, decoder = _codec.ReceiveBuffer(64), _codec.RecordReader(), None
    block = buffer.writable()
    wire = reference_codec.encode_begin_request(1, 1, 0)
    memoryview(block)[: len(wire)] = wire
    [record] = reader.feed(block, len(wire))
    assert block.exports == 0 and record[2] == wire[8:]
    decoder = _codec.ParamsDecoder()
    memoryview(block)[:4] = b"\1\1ab"
    decoder.feed(memoryview(block)[:4])
    decoder.feed(memoryview(block)[:3])  # a pair without its value
    assert block.exports == 0
    memoryview(block)[:4] = b"cccc"
    decoder.feed(memoryview(block)[:1])
    assert decoder.finish() == {"a": "c"}


def test_error_lets_the_data_go():
    for data in (bytearray(b"\2garbage"), bytearray(b"\1\5\0\1\0\1\0\0x\2")):
        with pytest.raises(RemoteProtocolError):
            _codec.RecordReader().feed(data)
        data.clear()  # BufferError if a view were still alive
    data = bytearray(b"\xff\xff\xff\xff\0")
    for take in (_codec.ParamsDecoder().feed, _codec.decode_pairs, _codec.decode_begin_request):
        with pytest.raises(RemoteProtocolError):
            take(data)
    with pytest.raises(ValueError):
        _codec.RecordReader().feed(data, 100)
    data.clear()


def test_views_counted_from_several_threads():
    buffer = _codec.ReceiveBuffer(64)
    block = buffer.writable()
    barrier = threading.Barrier(4)

    def look():
        barrier.wait()
        for _ in range(100000):
            memoryview(block).release()

    # Where threads really run at once a lost count shows in some of the rounds.
    for _ in range(1 if HAS_GIL else 10):
        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert block.exports == 0
    assert buffer.writable() is block


# -------------------------------------------------------------- the end of the input
#
# The input lies between two pages that cannot be read: a codec that reads one byte too many, or
# one before the first, ends the process.

PAGE = mmap.PAGESIZE
PROT_NONE = 0


class Guarded:
    """One page of memory between two that fault."""

    def __init__(self):
        self.memory = mmap.mmap(-1, 3 * PAGE)
        anchor = ctypes.c_char.from_buffer(self.memory)
        self.address = ctypes.addressof(anchor)
        del anchor
        self.protect(PROT_NONE)

    def protect(self, protection):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for page in (0, 2):
            if libc.mprotect(self.address + page * PAGE, PAGE, protection):
                raise OSError(ctypes.get_errno(), "mprotect")

    def at_end(self, data):
        self.memory[2 * PAGE - len(data) : 2 * PAGE] = data
        return memoryview(self.memory)[2 * PAGE - len(data) : 2 * PAGE]

    def at_start(self, data):
        self.memory[PAGE : PAGE + len(data)] = data
        return memoryview(self.memory)[PAGE : PAGE + len(data)]


@pytest.fixture
def guarded():
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        pytest.skip("needs mprotect")
    area = Guarded()
    yield area
    area.protect(mmap.PROT_READ | mmap.PROT_WRITE)


def test_the_guard_pages_fault():
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        pytest.skip("needs mprotect")
    for where in ("2 * PAGE", "PAGE - 1"):
        script = (
            "from test_codec_memory import *\n"
            "area = Guarded()\n"
            f"ctypes.string_at(area.address + {where}, 1)\n"
        )
        result = run_script(script)
        assert result.returncode < 0, "the page could be read"


PAIRS = [(b"n" * n, b"v" * v) for n in (0, 1, 127, 128) for v in (0, 1, 127, 128, 300)]
PAIRS_WIRE = reference_codec.encode_pairs(PAIRS)
RECORDS_WIRE = b"".join(
    [
        reference_codec.encode_begin_request(1, 1, 1),
        reference_codec.encode_record(constants.PARAMS, 1, b"params"),
        reference_codec.encode_record(constants.GET_VALUES, 0, bytes(300)),
        reference_codec.encode_header(constants.STDIN, 1, 20, 255) + bytes(20) + b"\1" * 255,
        reference_codec.encode_record(constants.STDIN, 1),
    ]
)


def places(guarded, data):
    for place in (guarded.at_end, guarded.at_start):
        with place(data) as view:
            yield view


def outcome(call, *args):
    """What a call gives, or the error it raises."""
    try:
        return call(*args)
    except RemoteProtocolError as error:
        return type(error)


def test_reader_stays_within_its_input(guarded):
    for cut in range(len(RECORDS_WIRE) + 1):
        expected = reference_codec.RecordReader().feed(RECORDS_WIRE[:cut])
        for view in places(guarded, RECORDS_WIRE[:cut]):
            records = _codec.RecordReader().feed(view)
            assert [(t, i, bytes(content)) for t, i, content in records] == expected
            del records
    reader = _codec.RecordReader()
    for octet in RECORDS_WIRE:
        for view in places(guarded, bytes([octet])):
            reader.feed(view)
            break


def test_reader_stays_within_the_size_given(guarded):
    records = _codec.RecordReader().feed(guarded.at_end(RECORDS_WIRE), len(RECORDS_WIRE))
    assert len(records) == 5
    with pytest.raises(ValueError):
        _codec.RecordReader().feed(guarded.at_end(RECORDS_WIRE), len(RECORDS_WIRE) + 1)
    del records


def test_pairs_stay_within_their_input(guarded):
    for cut in range(len(PAIRS_WIRE) + 1):
        data = PAIRS_WIRE[:cut]
        expected = outcome(reference_codec.decode_pairs, data)
        for view in places(guarded, data):
            assert outcome(_codec.decode_pairs, view) == expected
            decoder = _codec.ParamsDecoder()
            decoder.feed(view)
            assert (outcome(decoder.finish) is RemoteProtocolError) == (
                expected is RemoteProtocolError
            )


def test_every_form_of_cut_lengths_stays_within_its_input(guarded):
    for head in (b"\x80", b"\xff", b"\x01\xff", b"\x81\0\0\0\xff"):
        for more in range(8):
            data = head + b"\xff" * more
            for view in places(guarded, data):
                outcome(_codec.decode_pairs, view)
                outcome(_codec.ParamsDecoder().feed, view)


def test_bodies_stay_within_their_input(guarded):
    for length in range(12):
        for view in places(guarded, bytes(length)):
            for decode in (_codec.decode_begin_request, _codec.decode_end_request):
                result = outcome(decode, view)
                assert result == ((0, 0) if length == 8 else RemoteProtocolError)


def test_encoders_stay_within_their_input(guarded):
    for length in (0, 1, 7, 8, 9, 4096):
        data = b"\xaa" * length
        for view in places(guarded, data):
            record = _codec.encode_record(constants.STDOUT, 1, view)
            assert record == reference_codec.encode_record(constants.STDOUT, 1, data)
            wire = b"".join(_codec.encode_stream(constants.STDOUT, 1, view))
            assert wire == (record if length else b"")


def test_known_names_are_not_compared_beyond_the_input(guarded):
    name = b"HTTP_SEC_CH_UA_PLATFORM"
    for cut in range(len(name) + 1):
        for view in places(guarded, bytes([cut, 0]) + name[:cut]):
            decoder = _codec.ParamsDecoder(reserved=b"HTTP_SEC_FETCH_")
            decoder.feed(view)
            assert decoder.finish() == {name[:cut].decode(): ""}


def test_params_like_earlier_ones_stay_within_their_input(guarded):
    cache = _codec.ValueCache()
    pairs = [(b"PATH_INFO", b"/page"), (b"n" * 127, b"v" * 200), (b"HTTP_HOST", b"a" * 99)]
    known = reference_codec.encode_pairs(pairs)
    shorter = [reference_codec.encode_pairs([*pairs[:2], (b"HTTP_HOST", b"a" * i)]) for i in (0, 9)]
    for wire in (known, known.replace(b"a", b"b"), known.replace(b"/", b"_"), *shorter):
        for cut in range(len(wire) + 1):
            expected = outcome(params, wire[:cut])
            for _ in range(3):
                params(known, cache=cache)
            for view in places(guarded, wire[:cut]):
                assert outcome(lambda view: params(view, cache=cache), view) == expected


# ---------------------------------------------------------------------------------- leaks


def run_script(script):
    """Run Python in a process of its own, where nothing else allocates."""
    here = Path(__file__).parent
    paths = [str(here), *(path for path in sys.path if path)]
    prologue = f"import sys; sys.path[:0] = {paths!r}\n"
    return subprocess.run(
        [sys.executable, "-c", prologue + script], capture_output=True, text=True, timeout=300
    )


# Each round works on 64 KiB, so that one leak in ten rounds shows as tens of megabytes.
LEAK_SCRIPT = """
import gc, pathlib, tracemalloc
from {module} import LEAK_ROUNDS
ROUND = LEAK_ROUNDS[{name!r}]
STATM = pathlib.Path("/proc/self/statm")
def size():
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
def pages():  # also of memory that Python does not know of
    return int(STATM.read_text().split()[1]) if STATM.exists() else 0
tracemalloc.start()
for _ in range(50):
    ROUND()
before = size()
blocks, resident = sys.getallocatedblocks(), pages()
for _ in range(1000):
    ROUND()
grown, more_blocks = size() - before, sys.getallocatedblocks() - blocks
assert grown < 20000, f"{{grown}} bytes leaked in 1000 rounds"
assert more_blocks < 200, f"{{more_blocks}} objects leaked in 1000 rounds"
assert pages() - resident < 4000, f"{{pages() - resident}} pages leaked in 1000 rounds"
"""


CONTENT = bytes(60000)
STDIN_WIRE = reference_codec.encode_record(constants.STDIN, 1, CONTENT)
DISCRETE_WIRE = reference_codec.encode_record(constants.GET_VALUES, 0, CONTENT)
MANY_PAIRS = [(b"HTTP_X_%d" % (i % 50), b"v" * 600) for i in range(100)]
MANY_WIRE = reference_codec.encode_pairs(MANY_PAIRS)


def read(*parts):
    reader = _codec.RecordReader()
    return [reader.feed(part) for part in parts]


def read_broken():
    for parts in ((b"\2", STDIN_WIRE), (STDIN_WIRE[:40000], STDIN_WIRE), (STDIN_WIRE + b"GET /",)):
        assert outcome(read, *parts, b"GET / HTTP/1.1") is RemoteProtocolError


def params(*parts, finish=True, **limits):
    decoder = _codec.ParamsDecoder(**limits)
    for part in parts:
        decoder.feed(part)
    return finish and decoder.finish()


def params_again():
    """One decoder for several streams, with values that are kept and replaced."""
    decoder = _codec.ParamsDecoder(cache=_codec.ValueCache())
    for octet in (b"a", b"a", b"b"):
        for part in (MANY_WIRE, _codec.encode_pairs([(b"HTTP_HOST", octet * 200)])):
            decoder.feed(part[:7])
            decoder.feed(part[7:])
        decoder.finish()


def params_alike():
    """Streams that differ in some values from those before."""
    cache = _codec.ValueCache()
    decoder = _codec.ParamsDecoder(cache=cache, reserved=b"wsgi.", base={"wsgi.x": CONTENT})
    for number in range(8):
        host = b"%d" % (number // 2) * 200
        decoder.feed(_codec.encode_pairs([*MANY_PAIRS[:40], (b"HTTP_HOST", host)]))
        assert len(decoder.finish()) == 42


def params_refused():
    for limits in ({"max_bytes": 50000}, {"max_pairs": 80}):
        try:
            params(MANY_WIRE[:45000], MANY_WIRE[45000:], **limits)
        except LimitExceeded:
            continue
        raise AssertionError("no error")
    assert outcome(params, MANY_WIRE[:-1]) is RemoteProtocolError


def receive():
    buffer = _codec.ReceiveBuffer()
    block = buffer.writable()
    memoryview(block)[: len(STDIN_WIRE)] = STDIN_WIRE
    [(_, _, piece)] = _codec.RecordReader().feed(block, len(STDIN_WIRE))
    return piece, buffer.writable()


def encode():
    _codec.encode_record(constants.STDOUT, 1, CONTENT)
    _codec.encode_stream(constants.STDOUT, 1, CONTENT * 2)
    _codec.encode_pairs(MANY_PAIRS)


# Ways through the codec; each must leave nothing behind.
LEAK_ROUNDS = {
    "stream": lambda: read(STDIN_WIRE, STDIN_WIRE[:30000], STDIN_WIRE[30000:]),
    "discrete": lambda: read(DISCRETE_WIRE, DISCRETE_WIRE[:30000], DISCRETE_WIRE[30000:50000]),
    "broken": read_broken,
    "params": lambda: params(MANY_WIRE, MANY_WIRE[:30001], MANY_WIRE[30001:], reserved=b"HTTP_X_7"),
    "params again": params_again,
    "params alike": params_alike,
    "params unfinished": lambda: params(MANY_WIRE[:30001], MANY_WIRE[30001:50001], finish=False),
    "params refused": params_refused,
    "pairs": lambda: [outcome(_codec.decode_pairs, data) for data in (MANY_WIRE, MANY_WIRE[:-1])],
    "receive": receive,
    "encode": encode,
}


@pytest.mark.parametrize("name", LEAK_ROUNDS)
def test_nothing_leaks(name):
    result = run_script(LEAK_SCRIPT.format(module="test_codec_memory", name=name))
    assert result.returncode == 0, result.stderr
