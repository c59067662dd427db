"""Descriptors on their way from one process to another."""

import errno
import os
import socket
import sys

import pytest

from fastfcgi.exceptions import ConfigurationError
from fastfcgi.handoff import Giver, open_pair, take

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "send_fds"), reason="this system sends no descriptors"
)


@pytest.fixture
def pair():
    give, taken_from = open_pair(socket.socketpair())
    with give, taken_from:
        yield give, taken_from


@pytest.mark.parametrize(("family", "is_inet"), [("AF_UNIX", False), ("AF_INET", True)])
@pytest.mark.parametrize("served", [False, True])
def test_what_is_given_is_taken(pair, family, is_inet, served):
    with socket.socket(getattr(socket, family)) as sock:
        assert Giver(pair[0]).give(sock.fileno(), served)
        fd, was_inet, was_served = take(pair[1])
        with socket.socket(fileno=fd) as other:
            assert (was_inet, was_served) == (is_inet, served)
            assert os.fstat(fd).st_ino == os.fstat(sock.fileno()).st_ino and fd != sock.fileno()
            assert not os.get_inheritable(fd)
            assert not os.get_blocking(other.fileno())


def test_one_message_for_each(pair):
    """So that whoever takes one leaves the others to others."""
    with socket.socket() as first, socket.socket(socket.AF_UNIX) as second:
        giver = Giver(pair[0])
        assert giver.give(first.fileno(), True) and giver.give(second.fileno(), False)
        found = [take(pair[1]) for _ in range(2)]
        for fd, *_ in found:
            os.close(fd)
        assert [what for _, *what in found] == [[True, True], [False, False]]


def test_nothing_there(pair):
    with pytest.raises(BlockingIOError):
        take(pair[1])


def test_nobody_gives_any_more(pair):
    pair[0].close()
    with pytest.raises(EOFError):
        take(pair[1])


def test_a_message_without_a_descriptor(pair):
    pair[0].send(b"\1")
    with pytest.raises(OSError) as info:
        take(pair[1])
    assert info.value.errno == errno.EPROTO


def test_full(pair):
    """What is not taken at once is kept by whoever gives, and may be given later."""
    giver = Giver(pair[0])
    with socket.socket() as sock:
        count = 0
        while giver.give(sock.fileno(), True):
            count += 1
            assert count < 100_000
        assert count > 0 and not giver.failed
        for _ in range(count):
            os.close(take(pair[1])[0])
        assert giver.give(sock.fileno(), True)
        os.close(take(pair[1])[0])


def test_nobody_takes_any_more(pair, caplog):
    pair[1].close()
    giver = Giver(pair[0])
    with socket.socket() as sock:
        assert not giver.give(sock.fileno(), True)
        assert giver.failed
        assert not giver.give(sock.fileno(), True)
    assert caplog.text.count("cannot be handed over") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="sets a limit of the process")
def test_without_a_free_descriptor_it_waits(pair):
    """The system would take the message and throw the connection away."""
    import resource

    with socket.socket() as sock:
        assert Giver(pair[0]).give(sock.fileno(), True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 10, hard))
    try:
        with pytest.raises(OSError) as info:
            while True:
                held.append(os.dup(0))
        assert info.value.errno == errno.EMFILE
        with pytest.raises(OSError) as info:
            take(pair[1])
        assert info.value.errno == errno.EMFILE
        os.close(held.pop())
        os.close(take(pair[1])[0])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in held:
            os.close(fd)


def test_a_pair_is_made_ready():
    assert open_pair(None) is None
    with socket.socket() as inet, socket.socket(socket.AF_UNIX) as unix:
        for pair in [(inet, unix), (unix, inet), (unix, 3), (3, 4)]:
            with pytest.raises(ConfigurationError, match="unix sockets"):
                open_pair(pair)
        unix.setblocking(True)
        assert open_pair((unix, unix)) == (unix, unix)
        assert not unix.getblocking()
