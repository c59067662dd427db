"""What real web servers sent, spoiled at random, fed to a live server: it goes on answering, and
its log knows of no internal error.

    FASTFCGI_FUZZ_SECONDS=600 FASTFCGI_FUZZ_SEED=1234 pytest tests/test_fuzz.py
"""

import contextlib
import os
import random
import select
import socket
import sys
import time
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("what a process holds is read from /proc", allow_module_level=True)

import wire
from hostile import KIB, MIB, Target, vanish

pytestmark = pytest.mark.hostile

CAPTURES = Path(__file__).parent / "captures"
SECONDS = float(os.environ.get("FASTFCGI_FUZZ_SECONDS", "15"))
SEED = int(os.environ.get("FASTFCGI_FUZZ_SEED", "20"))

# Values that lengths, ids and types are set to: the borders of their fields and of the protocol.
EDGES = [0, 1, 2, 4, 5, 8, 9, 11, 12, 127, 128, 254, 255]

# Small limits, so that they are reached; short timeouts, so that what is cut does not stay.
LIMITS = {
    "threads": 8,
    "max_params_bytes": 16 * KIB,
    "max_requests_per_connection": 8,
    "max_unread_stdin": 16 * KIB,
    "max_unread_total": 64 * KIB,
    "body_start": 8 * KIB,
    "max_body_memory": 8 * KIB,
    "max_body_file": 64 * KIB,
    "max_unsent": 64 * KIB,
    "max_connections": 50,
    "queue_size": 32,
    "header_timeout": 0.5,
    "body_timeout": 0.5,
    "send_timeout": 0.5,
    "linger_timeout": 0.5,
    "linger_bytes": 64 * KIB,
}


def records_of(data):
    """The records of a capture, whole."""
    records = []
    while len(data) >= 8:
        size = 8 + (data[4] << 8) + data[5] + data[6]
        records.append(data[:size])
        data = data[size:]
    return records


@pytest.fixture(scope="module")
def captures():
    """Each capture as a list of records."""
    return [records_of(path.read_bytes()) for path in sorted(CAPTURES.glob("*/*.request.bin"))]


class Spoiler:
    """Spoils a list of records in one of many ways at a time."""

    def __init__(self, seed, captures):
        self.random = random.Random(seed)
        self.captures = captures

    def spoil(self):
        """What to send: the records of a capture, spoiled up to three times."""
        records = list(self.pick(self.captures))
        # Long bodies are all alike.
        del records[60:]
        for _ in range(self.random.randrange(4)):
            self.pick(self.ways)(self, records)
        return b"".join(records)

    def pick(self, things):
        return self.random.choice(things)

    def place(self, records):
        return self.random.randrange(len(records))

    def in_a_header(self, records):
        i = self.place(records)
        if records[i]:
            record = bytearray(records[i])
            record[self.random.randrange(min(8, len(record)))] = self.pick(EDGES)
            records[i] = bytes(record)

    def in_the_content(self, records):
        i = self.place(records)
        if len(records[i]) > 8:
            record = bytearray(records[i])
            for _ in range(self.pick([1, 1, 1, 10])):
                record[self.random.randrange(8, len(record))] = self.random.randrange(256)
            records[i] = bytes(record)

    def leave_out(self, records):
        records[self.place(records)] = b""

    def twice(self, records):
        i = self.place(records)
        records[i:i] = [records[i]] * self.pick([1, 1, 5, 50])

    def exchange(self, records):
        i, j = self.place(records), self.place(records)
        records[i], records[j] = records[j], records[i]

    def other_id(self, records):
        i = self.place(records)
        number = self.pick([0, 1, 2, 3, 65535])
        records[i] = records[i][:2] + number.to_bytes(2, "big") + records[i][4:]

    def insert(self, records):
        other = self.pick(
            [
                wire.abort(1),
                wire.get_values("FCGI_MAX_CONNS", "A" * 300),
                wire.record(77, 0, b"x"),
                wire.begin_request(
                    self.pick([1, 2, 9]), self.pick([1, 2, 3, 9]), self.pick([0, 1])
                ),
                wire.stdin(1, bytes(self.pick([1, 10_000, 60_000])), end=self.pick([0, 1])),
                wire.params(1, {"CONTENT_LENGTH": self.pick(["-1", "9" * 400, "5", ""])}),
                wire.params(1, {"PATH_INFO": self.pick(["/read", "/early", "/stream/9", "/x/y"])}),
                self.random.randbytes(self.random.randrange(100)),
            ]
        )
        records.insert(self.place(records), other)

    def splice(self, records):
        records[self.place(records) :] = self.pick(self.captures)[:60]

    def cut(self, records):
        i = self.place(records)
        records[i] = records[i][: self.random.randrange(len(records[i]) + 1)]

    ways = (
        in_a_header,
        in_the_content,
        leave_out,
        twice,
        exchange,
        other_id,
        insert,
        splice,
        cut,
    )


def feed(sock, data, spoiler):
    """Send data whole or cut, reading or not, and end in one of several ways."""
    sock.setblocking(False)
    piece = spoiler.pick([len(data) or 1, len(data) or 1, 4096, 100, 8])
    reads = spoiler.pick([True, True, False])
    deadline = time.monotonic() + 0.2
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLOUT)
    while data and time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            data = data[sock.send(data[:piece]) :]
        if reads:
            with contextlib.suppress(BlockingIOError):
                sock.recv(65536)
        poll.poll(5)
    if spoiler.pick([True, False]):
        sock.shutdown(socket.SHUT_WR)
        poll.register(sock, select.POLLIN)
        poll.poll(20)


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_spoiled_captures(folder, captures, tcp):
    spoiler = Spoiler(SEED + tcp, captures)
    memory = 50 * 4 * 64 * KIB + 16 * MIB  # max_connections times what each may hold, and threads
    rounds = 0
    with Target(folder, tcp=tcp, memory=memory, **LIMITS) as target:
        end = time.monotonic() + SECONDS / 2
        while time.monotonic() < end:
            sock = target.socket()
            with contextlib.suppress(OSError):
                for _ in range(spoiler.pick([1, 1, 3])):
                    feed(sock, spoiler.spoil(), spoiler)
            spoiler.pick([vanish, lambda sock: sock.close()])(sock)
            rounds += 1
            if rounds % 100 == 0:
                assert target.ask().body == b"hello"
        assert rounds >= 20
        print(f"{rounds} rounds of seed {SEED}")
