"""Bytes that mean ill, sent to a real server process: each ends or is answered, costs no more than
the named limits say, and keeps nobody else waiting (tests/hostile.py says what is looked at)."""

import contextlib
import random
import struct
import sys
import time

import pytest

if sys.platform != "linux":
    pytest.skip("what a process holds is read from /proc", allow_module_level=True)

import wire
from hostile import KIB, MIB, QUICK, Target, push

from fastfcgi.constants import (
    DATA,
    OVERLOADED,
    PARAMS,
    STDIN,
    STDOUT,
    UNKNOWN_TYPE,
)

pytestmark = pytest.mark.hostile

NOISE = random.Random(20).randbytes(100_000)

# The records of a pair that announces 2 GiB, all of which never come.
HUGE_PAIR = struct.pack(">II", 0x80000004, 0xFFFFFFFF) + b"NAME"

OPEN = wire.begin_request(1, keep_conn=True)
GET = Target.get("/hello", keep_conn=True)

# What is sent, and what the log has to say of it. None of it can be made sense of any further.
BROKEN = {
    "version-0": (b"\0" + OPEN[1:], "version 0"),
    "version-2-after-a-request": (GET + b"\2" + OPEN[1:], "version 2"),
    "garbage": (b"\xff" + NOISE, "version 255"),
    "garbage-after-a-header": (wire.record(STDIN, 7, NOISE[:1000]) + NOISE, "version"),
    "http": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "looks like HTTP"),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + NOISE[:500], "version 22"),
    "begin-of-0-bytes": (wire.record(1, 1), "BEGIN_REQUEST of 0 bytes"),
    "begin-of-7-bytes": (wire.record(1, 1, bytes(7)), "BEGIN_REQUEST of 7 bytes"),
    "begin-of-65535-bytes": (wire.record(1, 1, bytes(65535)), "BEGIN_REQUEST of 65535 bytes"),
    "begin-of-an-active-id": (OPEN + OPEN, "request_id 1, which is active"),
    "pair-of-2-gib": (OPEN + wire.record(PARAMS, 1, HUGE_PAIR), "max_params_bytes=1048576"),
    "pair-of-2-gib-in-pieces": (
        OPEN + b"".join(wire.record(PARAMS, 1, bytes([byte])) for byte in HUGE_PAIR),
        "max_params_bytes=1048576",
    ),
    "pair-of-2-gib-asked-for": (wire.record(9, 0, HUGE_PAIR), "pair is cut"),
    "pair-longer-than-params": (
        OPEN + wire.record(PARAMS, 1, b"\4\5NAME") + wire.record(PARAMS, 1),
        "ended inside a name-value pair",
    ),
    "too-many-pairs": (OPEN + wire.params(1, dict.fromkeys(map(str, range(1025)), "")), "_pairs="),
    "stdin-before-params": (OPEN + wire.stdin(1, b"body"), "PARAMS is next"),
    "params-after-their-end": (Target.post("/hello") + wire.params(1, {}), "STDIN is next"),
    "data-to-a-responder": (Target.post("/hello") + wire.record(DATA, 1, b"x"), "STDIN is next"),
    "stdout-from-a-client": (Target.post("/hello") + wire.record(STDOUT, 1, b"x"), "STDIN is next"),
}


@pytest.fixture(scope="module")
def patient(module_folder):
    """One server for attacks that it refuses at once; what it holds is compared at the end."""
    with Target(module_folder) as target:
        yield target


@pytest.mark.parametrize("case", BROKEN)
def test_broken_bytes_close_the_connection_with_a_log_line(patient, case):
    data, line = BROKEN[case]
    before = len(patient.log())
    with patient.peer() as peer:
        peer.send(data)
        peer.receive_close()
        assert peer.answers.outputs.keys() <= {1}
    patient.expect_log(line, before)
    assert "connection of a unix socket refused" in patient.log()[before:]
    patient.serve_others(1)


def test_a_broken_peer_takes_no_running_request_of_others_with_it(patient):
    with patient.peer() as peer, patient.peer() as broken:
        peer.send(patient.post("/read", CONTENT_LENGTH="5") + wire.stdin(1, b"he", end=False))
        broken.send(NOISE)
        broken.receive_close()
        peer.send(wire.stdin(1, b"llo"))
        assert peer.receive_end().body == b"5"


def test_100_mb_of_params_are_refused_after_1_mib(folder):
    with Target(folder, memory=2 * MIB) as target, target.socket() as sock:
        # As one value that would have room, were it not for the limit.
        sock.sendall(wire.begin_request(1))
        pairs = struct.pack(">BI", 1, 0x80000000 | 100_000_000) + b"A"
        sock.sendall(wire.record(PARAMS, 1, pairs))
        target.expect_log("max_params_bytes")
    with Target(folder, memory=2 * MIB) as target, target.socket() as sock:
        # As ever more small ones.
        sock.sendall(wire.begin_request(1))
        value = wire.record(PARAMS, 1, b"\1\x80\0\xfe\0A" + bytes(0xFE00))
        assert push(sock, value, 100_000_000) < 20 * MIB
        target.expect_log("max_params_bytes")


def test_params_of_many_requests_of_one_connection_are_bounded_together(folder):
    # 100 requests with almost 1 MiB each, none of which ends its PARAMS.
    pairs = b"\1\x80\x0f\0\0A" + bytes(900_000)
    limit = 16 * MIB
    with Target(folder, memory=2 * limit) as target, target.socket() as sock:
        with contextlib.suppress(OSError):
            for request_id in range(1, 101):
                sock.sendall(wire.begin_request(request_id, keep_conn=True))
                sock.sendall(wire.stream(PARAMS, request_id, pairs, end=False))
        target.expect_log(f"max_unread_total={limit}")


@pytest.mark.parametrize("keep_conn", [True, False])
def test_10_000_begun_requests(folder, keep_conn):
    with Target(folder, memory=4 * MIB, header_timeout=1.5) as target, target.peer() as peer:
        begins = [wire.begin_request(i, keep_conn=keep_conn) for i in range(1, 10_001)]
        peer.send(b"".join(begins))
        # All but 128 were refused; those are waited for until their time is over.
        peer.receive_close()
        refused = peer.answers.outputs.values()
        assert len(refused) == 10_000 - 128
        assert {output.protocol_status for output in refused} == {OVERLOADED}
        target.expect_log("no whole PARAMS in header_timeout")


def test_begin_for_id_0_is_an_unknown_management_record(patient):
    with patient.peer() as peer:
        peer.send(wire.begin_request(0) + wire.record(PARAMS, 0, bytes(100)) + GET)
        assert peer.receive_end().body == b"hello"
        types = [content[0] for type, content in peer.answers.management if type == UNKNOWN_TYPE]
        assert types == [1, PARAMS]


def test_padding_of_255_bytes_everywhere(patient):
    padding = NOISE[:255]
    begin = wire.record(1, 1, bytes([0, 1, 1, 0, 0, 0, 0, 0]), padding)
    pairs = wire.codec.encode_pairs(wire.as_pairs(wire.cgi_params("POST", "/read")))
    with patient.peer() as peer:
        peer.send(begin)
        for byte in pairs:
            peer.send(wire.record(PARAMS, 1, bytes([byte]), padding))
        peer.send(wire.record(PARAMS, 1, b"", padding))
        for _ in range(1000):
            peer.send(wire.record(STDIN, 1, b"x", padding))
        peer.send(wire.record(STDIN, 1, b"", padding))
        assert peer.receive_end().body == b"1000"
        assert peer.request(wire.cgi_params(path="/hello")).body == b"hello"


def test_records_of_one_byte(folder):
    # 16 bytes for each byte of a body of 1 MB.
    with Target(folder, memory=2 * MIB) as target, target.peer() as peer:
        peer.send(target.post("/read"))
        block = wire.stdin(1, bytes(10_000), record_sizes=1, end=False)
        for _ in range(100):
            peer.send(block)
        peer.send(wire.stdin(1))
        assert peer.receive_end().body == b"1000000"


@pytest.mark.parametrize(
    "record",
    [
        wire.get_values("FCGI_MAX_CONNS", "FCGI_MAX_REQS", "FCGI_MPXS_CONNS"),
        wire.get_values(),
        wire.record(77, 0),
        wire.begin_request(9, role=9, keep_conn=True),
    ],
    ids=["get-values", "get-no-values", "unknown-type", "unknown-role"],
)
def test_answers_that_nobody_reads_stop_the_questions(folder, record):
    # max_unsent in buffers of as little as 16 bytes, each an object of its own.
    options = {"send_timeout": QUICK["send_timeout"], "max_unsent": 256 * KIB}
    with Target(folder, memory=3 * MIB, **options) as target, target.socket() as sock:
        assert push(sock, record * 1000, 200 * MIB) < 10 * MIB
        target.expect_log("took no response for send_timeout")


def test_unknown_types_are_answered_one_by_one(folder):
    with Target(folder, memory=2 * MIB) as target, target.peer() as peer:
        for _ in range(100):
            peer.send(wire.record(77, 0, b"x" * 100) * 1000)
        peer.send(GET)
        peer.receive_end()
        assert peer.answers.management == [(UNKNOWN_TYPE, b"\x4d" + bytes(7))] * 100_000


def test_records_for_ids_that_are_not_active_are_ignored(folder):
    # Of all types, 100 MB of them.
    types = [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 77, 255]
    records = b"".join(wire.record(type, 4711, bytes(5000)) for type in types)
    with Target(folder) as target, target.peer() as peer:
        for _ in range(100 * MIB // len(records)):
            peer.send(records)
        peer.send(GET)
        assert peer.receive_end().body == b"hello"
        assert peer.answers.outputs.keys() == {1}


# ---------------------------------------------------------------------------- bodies


FLOOD = wire.stdin(1, bytes(65535), end=False)


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_a_flood_to_an_application_that_sleeps_is_not_received(folder, tcp):
    with Target(folder, tcp=tcp, memory=2 * MIB) as target, target.socket() as sock:
        sock.sendall(target.post("/hold"))
        # max_unread_stdin, and what the kernel holds.
        assert push(sock, FLOOD, 500 * MIB) < (12 if tcp else 4) * MIB
        target.serve_others()
        target.ask("/release")
        # It returned without a look at the body: what comes now is thrown away.
        sock.settimeout(30)
        for _ in range(1000):
            sock.sendall(FLOOD)


def test_a_flood_to_an_application_that_returned_is_thrown_away(folder):
    with Target(folder, memory=2 * MIB) as target, target.peer() as peer:
        peer.send(target.post("/hello"))
        for _ in range(5000):
            peer.send(FLOOD)
        peer.send(wire.stdin(1))
        assert peer.receive_end().body == b"hello"


def test_a_flood_to_an_application_that_writes_first_goes_to_a_file(folder):
    with Target(folder, memory=3 * MIB) as target, target.peer() as peer:
        peer.send(target.post("/early"))
        for _ in range(3000):
            peer.send(FLOOD)
        peer.send(wire.stdin(1))
        assert peer.receive_end().body == b"early %d" % (3000 * 65535)


def test_a_flood_beyond_the_file_fails_in_the_application(folder):
    with Target(folder, memory=3 * MIB, max_body_file=4 * MIB) as target, target.peer() as peer:
        peer.send(target.post("/early"))
        for _ in range(1000):
            peer.send(FLOOD)
        peer.send(wire.stdin(1))
        assert peer.receive_end().body == b"early too long"


# --------------------------------------------------------------- many requests at once


def test_100_requests_of_one_connection_with_interleaved_bodies(folder):
    """60 MB in all, of which max_unread_total and not more is ever held in memory: twice that of
    the heap, because 100 bodies that grow in turn leave holes behind."""
    ids = range(1, 101)
    with Target(folder, memory=2 * 16 * MIB) as target, target.peer() as peer:
        for request_id in ids:
            peer.send(target.post("/read", request_id, keep_conn=True))
        parts = b"".join(wire.stdin(request_id, bytes(3000), end=False) for request_id in ids)
        for _ in range(200):
            peer.send(parts)
        for request_id in reversed(ids):
            peer.send(wire.stdin(request_id))
        for request_id in ids:
            assert peer.receive_end(request_id).body == b"600000"


@pytest.mark.parametrize("part", [b"half", bytes(1100 * KIB)], ids=["waiting", "running"])
def test_a_body_that_stops_while_others_go_on(folder, part):
    """body_timeout is that of the request, and ends only this one."""
    with Target(folder, memory=3 * MIB, body_timeout=0.5) as target, target.peer() as peer:
        peer.send(target.post("/read", 1, keep_conn=True) + wire.stdin(1, part, end=False))
        while 1 not in peer.answers.outputs:
            peer.send(target.get("/hello", 2, keep_conn=True))
            assert peer.receive_end(2, 10).body == b"hello"
            peer.answers.outputs.pop(2)
            time.sleep(0.05)
        assert peer.receive_end(1).body == b""
        target.expect_log("no more of a body in body_timeout=0.5 s")
        # Its id is free again, and what still comes for it does no harm.
        peer.send(wire.stdin(1, b"late") + target.get("/hello", 3, keep_conn=True))
        assert peer.receive_end(3).body == b"hello"


def test_a_connection_that_is_always_within_some_params_is_not_late(folder):
    """A busy connection is: header_timeout is that of a request, not of the connection."""
    with Target(folder, header_timeout=1.0) as target, target.peer() as peer:
        end = time.monotonic() + 3.2
        request_id, rest = 1, target.get("/hello", 1, keep_conn=True)
        while time.monotonic() < end:
            data = target.get("/hello", 3 - request_id, keep_conn=True)
            # The end of one with the beginning of the next: nothing ever ends a read but PARAMS.
            peer.send(rest + data[:60])
            assert peer.receive_end(request_id).body == b"hello"
            peer.answers.outputs.clear()
            request_id, rest = 3 - request_id, data[60:]
            time.sleep(0.01)


def test_a_body_that_nobody_reads_does_not_stop_the_others(folder):
    """Neither those that have begun nor one whose PARAMS are on their way."""
    limits = {"header_timeout": 5.0, "memory": 3 * MIB}
    with Target(folder, **limits) as target, target.peer() as peer:
        peer.send(target.post("/late", 1, keep_conn=True))
        peer.send(wire.begin_request(2, keep_conn=True))
        peer.send(target.post("/read", 3, keep_conn=True))
        for _ in range(200):
            peer.send(FLOOD)
        peer.send(wire.params(2, wire.cgi_params(path="/hello")) + wire.stdin(2))
        peer.send(wire.stdin(3, b"body"))
        assert peer.receive_end(2).body == b"hello"
        assert peer.receive_end(3).body == b"4"
        target.ask("/release")
        peer.send(wire.stdin(1))
        assert peer.receive_end(1).body == b"%d" % (200 * 65535)


def test_what_is_not_received_is_not_late(folder):
    """An application that is slow to read must not have its own request timed out."""
    limits = {"header_timeout": 1.0, "body_timeout": 1.0, "memory": 3 * MIB}
    with Target(folder, **limits) as target, target.peer() as peer:
        peer.send(target.post("/late/3200"))
        for _ in range(200):
            peer.send(FLOOD)
        peer.send(wire.stdin(1))
        assert peer.receive_end().body == b"%d" % (200 * 65535)
