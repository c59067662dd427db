"""Accepting connections, as many as there is room for."""

import contextlib
import errno
import socket

import pytest
import wire
from helpers import FakeEngine, FakeServer, wait_until

from fastfcgi.acceptor import Acceptor
from fastfcgi.engine import READ
from fastfcgi.sockets import SocketOptions, open_listeners


class Engine(FakeEngine):
    def __init__(self):
        super().__init__()
        self.tickers = set()

    def dispatch(self, handler, mask):
        handler.on_ready(mask)


class Server(FakeServer):
    """A server with room for so many connections."""

    def __init__(self, places=1000, allowed=True):
        super().__init__()
        self.engine = Engine()
        self.channels = set()
        self.places = places
        self.allowed = allowed
        self.calls = []

    def _isClientAllowed(self, addr):
        self.calls.append(addr)
        return self.allowed

    @property
    def max_connections(self):
        return self.places

    def close_longest_idle(self):
        self.calls.append("close_longest_idle")
        for channel in [channel for channel in self.channels if channel.idle][:1]:
            channel.on_failure()

    def channel_closed(self, channel):
        self.channels.discard(channel)

    def resume_accepting(self):
        self.calls.append("resume_accepting")


@pytest.fixture
def listening():
    """Makes an acceptor on 127.0.0.1 that has begun, its server, and a function that connects."""
    with contextlib.ExitStack() as stack:

        def make(**options):
            (listener,) = open_listeners([("127.0.0.1", 0)], SocketOptions())
            stack.callback(listener.close)
            server = Server(**options)
            stack.callback(lambda: [channel.on_failure() for channel in list(server.channels)])
            acceptor = Acceptor(listener, server)
            acceptor.resume()

            def connect(data=b""):
                sock = stack.enter_context(socket.create_connection(listener.address, 30))
                sock.sendall(data)
                return sock

            return acceptor, server, connect

        yield make


def accept(acceptor, server, count):
    """Call the acceptor until there are so many connections."""

    def arrived():
        acceptor.on_ready(READ)
        return len(server.channels) == count

    wait_until(arrived)


def test_it_watches_the_listening_socket(listening):
    acceptor, server, _ = listening()
    assert server.engine.masks == {acceptor: READ}
    acceptor.pause()
    assert server.engine.masks == {}
    acceptor.resume()
    assert server.engine.masks == {acceptor: READ}


def test_a_connection_becomes_a_channel(listening):
    acceptor, server, connect = listening()
    sock = connect()
    accept(acceptor, server, 1)
    (channel,) = server.channels
    assert channel.peer == sock.getsockname()
    assert server.calls == [sock.getsockname()]
    assert server.engine.masks[channel] == READ


def test_a_request_that_is_there_already_is_read_at_once(listening):
    acceptor, server, connect = listening()
    connect(wire.request())
    accept(acceptor, server, 1)
    (channel,) = server.channels
    wait_until(lambda: server.requests or channel.on_ready(READ))


def test_all_that_are_connected_can_be_taken_in(listening):
    """Before the socket is closed, which would reset them."""
    acceptor, server, connect = listening()
    for _ in range(50):
        connect(wire.request())
    acceptor.drain()
    assert len(server.channels) == 50


def test_nothing_there_is_no_error_and_does_not_block(listening):
    """Another process that shares the socket was first."""
    acceptor, server, _ = listening()
    acceptor.on_ready(READ)
    assert server.channels == set()
    assert acceptor in server.engine.masks


def test_a_few_at_a_time(listening):
    acceptor, server, connect = listening()
    for _ in range(40):
        connect()
    seen = []

    def arrived():
        before = len(server.channels)
        acceptor.on_ready(READ)
        seen.append(len(server.channels) - before)
        return len(server.channels) == 40

    wait_until(arrived)
    assert max(seen) <= 16


def test_without_room_an_idle_connection_makes_place_for_a_new_one(listening):
    acceptor, server, connect = listening(places=2)
    for _ in range(2):
        connect()
    accept(acceptor, server, 2)
    first = set(server.channels)
    acceptor.on_ready(READ)
    assert server.channels == first  # nobody came, so nobody had to go
    connect()
    wait_until(lambda: (acceptor.on_ready(READ), server.channels - first)[1])
    assert len(server.channels) == 2


def test_without_room_connections_wait_in_the_kernel(listening):
    acceptor, server, connect = listening(places=2)
    for _ in range(3):
        connect(wire.begin_request(1))
    accept(acceptor, server, 2)
    wait_until(lambda: [c.on_ready(READ) for c in server.channels if c.idle] == [])
    acceptor.on_ready(READ)
    assert len(server.channels) == 2
    assert acceptor not in server.engine.masks
    server.places = 3
    acceptor.resume()
    accept(acceptor, server, 3)


def test_who_may_not_connect_is_closed_and_logged(listening, caplog):
    acceptor, server, connect = listening(allowed=False)
    sock = connect()
    wait_until(lambda: (acceptor.on_ready(READ), server.calls)[1])
    assert server.channels == set()
    with contextlib.suppress(ConnectionError):
        assert sock.recv(1) == b""
    assert "FCGI_WEB_SERVER_ADDRS" in caplog.text and "127.0.0.1" in caplog.text


def test_small_answers_are_not_held_back(listening):
    acceptor, server, connect = listening()
    connect()
    accept(acceptor, server, 1)
    (channel,) = server.channels
    assert channel._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


class Failing:
    """A listener whose accept() fails."""

    def __init__(self, code):
        self.code = code
        self.sock = self

    def fileno(self):
        return -1

    def accept(self):
        raise OSError(self.code, "as asked")


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_without_descriptors_it_rests_until_the_next_tick(code, caplog):
    """Else the loop would spin."""
    server = Server()
    acceptor = Acceptor(Failing(code), server)
    acceptor.resume()
    acceptor.on_ready(READ)
    assert server.calls == ["close_longest_idle"]
    assert acceptor not in server.engine.masks
    assert "cannot accept a connection" in caplog.text
    for ticker in list(server.engine.tickers):
        ticker(0.0)
    assert server.calls[1:] == ["resume_accepting"]
    assert server.engine.tickers == set()


def test_without_descriptors_an_idle_connection_is_given_up(listening):
    acceptor, server, connect = listening()
    connect()
    accept(acceptor, server, 1)
    acceptor._listener = Failing(errno.EMFILE)
    acceptor.on_ready(READ)
    assert server.channels == set()
    assert acceptor in server.engine.masks  # there is room now


def test_without_descriptors_it_complains_once_a_while(caplog):
    server = Server()
    acceptor = Acceptor(Failing(errno.EMFILE), server)
    for _ in range(5):
        acceptor.on_ready(READ)
    assert caplog.text.count("cannot accept a connection") == 1


def test_a_connection_whose_next_request_has_arrived_is_not_given_up(listening):
    acceptor, server, connect = listening(places=1)
    first = connect()
    accept(acceptor, server, 1)
    (channel,) = server.channels
    first.sendall(wire.request())
    connect()
    wait_until(lambda: (acceptor.on_ready(READ), server.requests)[1])
    assert server.channels == {channel}


@pytest.mark.parametrize("code", [errno.ECONNABORTED, errno.EAGAIN, errno.EINTR, errno.EPROTO])
def test_other_failures_are_forgotten(code, caplog):
    server = Server()
    acceptor = Acceptor(Failing(code), server)
    acceptor.resume()
    acceptor.on_ready(READ)
    assert acceptor in server.engine.masks
    assert caplog.text == ""
