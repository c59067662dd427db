"""What is ready: epoll, and the fallback for systems without it."""

import contextlib
import os
import selectors
import socket
import sys
import threading
import time

import pytest
from helpers import DEADLINE, blocked

from fastfcgi.poller import EpollPoller, SelectorPoller, new_poller

READ, WRITE = 1, 2

linux = pytest.mark.skipif(sys.platform != "linux", reason="has no epoll")


@pytest.fixture(
    params=[
        pytest.param("epoll", marks=linux),
        "DefaultSelector",
        "SelectSelector",
        pytest.param(
            "PollSelector",
            marks=pytest.mark.skipif(not hasattr(selectors, "PollSelector"), reason="has no poll"),
        ),
    ]
)
def new(request, monkeypatch):
    """Makes pollers of each kind: new(once)."""
    with contextlib.ExitStack() as stack:

        def make(once=False):
            if request.param == "epoll":
                made = EpollPoller(once)
            else:
                monkeypatch.setattr(selectors, "DefaultSelector", getattr(selectors, request.param))
                made = SelectorPoller(once)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def pair():
    """Makes pairs of a descriptor and the socket at its other end."""
    with contextlib.ExitStack() as stack:

        def make():
            ours, theirs = socket.socketpair()
            for sock in (ours, theirs):
                stack.enter_context(sock)
                sock.setblocking(False)
            stack.callback(ours.close)
            make.ours[ours.fileno()] = ours
            return ours.fileno(), theirs

        make.ours = {}
        yield make


def told(poller, size=256):
    """What it tells next; it may wake up without telling anything."""

    def wait_on():
        while not (found := poller.wait_for(size)):
            pass
        return found

    with blocked(wait_on) as wait:
        return wait.result()


@contextlib.contextmanager
def waits(poller, fd_of_end):
    """Nothing is told inside; another descriptor ends the waiting."""
    end, peer = fd_of_end()
    with blocked(told, poller) as wait:
        assert wait.waiting()
        yield wait
        assert wait.waiting()
        poller.watch_for(end, -1, READ)
        peer.send(b"x")
        assert wait.result() == [(end, READ)]
    poller.watch_for(end, READ, 0)


def test_the_best_one_is_taken():
    made = new_poller(False)
    made.close()
    assert type(made) is (EpollPoller if sys.platform == "linux" else SelectorPoller)


def test_what_is_ready_is_told_as_long_as_it_is(new, pair):
    poller = new()
    (fd, peer), (other, _) = pair(), pair()
    poller.watch_for(fd, -1, READ)
    poller.watch_for(other, -1, READ)
    peer.send(b"abc")
    for _ in range(3):
        assert told(poller) == [(fd, READ)]
    pair.ours[fd].recv(100)
    with waits(poller, pair):
        pass


def test_reading_and_writing(new, pair):
    poller = new()
    fd, peer = pair()
    poller.watch_for(fd, -1, WRITE)
    peer.send(b"abc")
    assert told(poller) == [(fd, WRITE)]
    poller.watch_for(fd, WRITE, READ)
    assert told(poller) == [(fd, READ)]
    poller.watch_for(fd, READ, READ | WRITE)
    assert told(poller) == [(fd, READ | WRITE)]
    poller.watch_for(fd, READ | WRITE, 0)
    with waits(poller, pair):
        pass
    poller.watch_for(fd, -1, READ)
    assert told(poller) == [(fd, READ)]


def test_a_peer_that_is_gone_is_told_to_who_reads_and_to_who_writes(new, pair):
    for mask in (READ, WRITE):
        poller = new()
        fd, peer = pair()
        while mask == WRITE and pair.ours[fd].send(bytes(1 << 20)) == 1 << 20:
            pass
        poller.watch_for(fd, -1, mask)
        peer.close()
        ((found, ready),) = told(poller)
        assert found == fd and ready & mask


def test_watching_while_another_thread_waits(new, pair):
    poller = new()
    fd, peer = pair()
    with blocked(told, poller) as wait:
        assert wait.waiting()
        peer.send(b"x")
        poller.watch_for(fd, -1, READ)
        assert wait.result() == [(fd, READ)]


def test_changing_while_another_thread_waits(new, pair):
    poller = new()
    fd, _ = pair()
    poller.watch_for(fd, -1, READ)
    with blocked(told, poller) as wait:
        assert wait.waiting()
        poller.watch_for(fd, READ, READ | WRITE)
        assert wait.result() == [(fd, WRITE)]


def test_ending_while_another_thread_waits(new, pair):
    poller = new()
    fd, peer = pair()
    poller.watch_for(fd, -1, READ)
    with waits(poller, pair):
        poller.watch_for(fd, READ, 0)
        peer.send(b"x")


def test_a_descriptor_that_comes_back_as_another(new, pair):
    poller = new()
    fd, _ = pair()
    poller.watch_for(fd, -1, READ)
    poller.watch_for(fd, READ, 0)
    pair.ours[fd].close()
    again, peer = pair()
    assert again == fd
    poller.watch_for(again, -1, READ)
    peer.send(b"x")
    assert told(poller) == [(again, READ)]


def test_no_more_at_once_than_there_is_room_for(new, pair):
    poller = new()
    made = [pair() for _ in range(10)]
    for fd, peer in made:
        poller.watch_for(fd, -1, READ)
        peer.send(b"x")
    assert len(told(poller, 3)) == 3
    found = set()
    while len(found) < 10:  # nobody is left out
        for fd, _ in told(poller, 3):
            found.add(fd)
            pair.ours[fd].recv(1)
    assert found == {fd for fd, _ in made}


def test_once_is_once(new, pair):
    poller = new(once=True)
    assert poller.once
    fd, peer = pair()
    poller.watch_for(fd, -1, READ)
    peer.send(b"x")
    assert told(poller) == [(fd, READ)]
    with waits(poller, pair):
        peer.send(b"y")
    poller.watch_for(fd, READ, READ)
    assert told(poller) == [(fd, READ)]
    poller.watch_for(fd, READ, 0)
    with waits(poller, pair):
        pass


def test_once_several_threads_share_what_is_ready(new, pair):
    """Each descriptor is told to one of them."""
    poller = new(once=True)
    found = []

    def serve():
        while (got := told(poller, 1)) != [(end, READ)]:
            found.extend(got)
        poller.watch_for(end, READ, READ)  # for the next thread

    end, end_peer = pair()
    poller.watch_for(end, -1, READ)
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(blocked(serve))
        time.sleep(0.05)
        made = [pair() for _ in range(30)]
        for fd, peer in made:
            peer.send(b"x")
            poller.watch_for(fd, -1, READ)
        deadline = time.monotonic() + DEADLINE
        while len(found) < 30 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.05)
        end_peer.send(b"x")
    assert sorted(found) == sorted((fd, READ) for fd, _ in made)


@linux
def test_processes_that_share_a_socket_are_not_woken_all():
    """One connection, one process: the others would find nobody there."""
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as stack:
        pollers = [EpollPoller(False) for _ in range(4)]
        for poller in pollers:
            stack.callback(poller.close)
            poller.watch_for(server.fileno(), -1, READ, True)
        woken = []
        threads = [
            threading.Thread(target=lambda one=one: woken.append(one.wait_for())) for one in pollers
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        with socket.create_connection(server.getsockname()):
            time.sleep(0.1)
            count = len(woken)
            server.accept()[0].close()
            for _ in pollers:
                stack.enter_context(socket.create_connection(server.getsockname()))
                time.sleep(0.02)
        for thread in threads:
            thread.join(DEADLINE)
        assert count < 4


@linux
def test_epoll_is_not_inherited_and_is_closed():
    def found():
        return {fd for fd in range(3, 1000) if os.path.exists(f"/proc/self/fd/{fd}")}

    before = found()
    poller = EpollPoller(True)
    (fd,) = found() - before
    assert not os.get_inheritable(fd)
    for _ in range(2):
        poller.close()
        assert found() == before


@linux
def test_epoll_refuses_what_it_cannot_watch():
    with contextlib.closing(EpollPoller(False)) as poller:
        with open(__file__, "rb") as file, pytest.raises(PermissionError):
            poller.watch_for(file.fileno(), -1, READ)
        with pytest.raises(OSError):
            poller.watch_for(999_999, -1, READ)
