"""Buffers on their way out of a socket."""

import contextlib
import socket

import pytest

from fastfcgi import outbox
from fastfcgi.outbox import Outbox

MIB = 1024 * 1024


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


def received(sock):
    data = b""
    with contextlib.suppress(BlockingIOError):
        while part := sock.recv(MIB):
            data += part
    return data


@pytest.mark.parametrize("gathered", [True, False])
def test_buffers_arrive_in_order(pair, monkeypatch, gathered):
    monkeypatch.setattr(outbox, "_HAS_SENDMSG", gathered and outbox._HAS_SENDMSG)
    box = Outbox(pair[0])
    box.add([b"one", memoryview(b"-two-"), bytearray(b"three")])
    assert box.size == 13
    box.send()
    assert (received(pair[1]), box.size, box.blocked) == (b"one-two-three", 0, False)


def test_what_the_socket_does_not_take_waits(pair):
    box = Outbox(pair[0])
    data = bytes(range(256)) * 64 * 1024
    box.add([data[:100], data[100:]])
    box.send()
    assert box.blocked and 0 < box.size < len(data)
    arrived = b""
    while box.size:
        arrived += received(pair[1])
        box.blocked = False
        box.send()
    assert arrived + received(pair[1]) == data


def test_others_get_their_turn(pair, monkeypatch):
    calls = []
    monkeypatch.setattr(outbox, "_send", lambda sock, buffers: calls.append(1) or 1)
    box = Outbox(pair[0])
    box.add([bytes(1000)])
    box.send()
    assert box.blocked and len(calls) == outbox._MAX_WRITES
    assert box.size == 1000 - len(calls)


def test_many_small_buffers(pair):
    box = Outbox(pair[0])
    box.add([b"%03d" % number for number in range(500)])
    box.send()
    assert received(pair[1]) == b"".join(b"%03d" % number for number in range(500))


def test_time_begins_with_what_waits(pair, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(outbox.time, "monotonic", lambda: now[0])
    box = Outbox(pair[0])
    now[0] = 200.0
    box.add([b"x"])
    assert box.sent_at == 200.0
    now[0] = 300.0
    box.add([b"y"])
    assert box.sent_at == 200.0  # it waits since then
    box.send()
    assert box.sent_at == 300.0


def test_a_peer_that_is_gone(pair):
    box = Outbox(pair[0])
    pair[1].close()
    box.add([b"x"])
    with pytest.raises(OSError):
        box.send()
    box.clear()
    assert box.size == 0
    box.send()
