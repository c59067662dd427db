"""Accepting connections, as many as there is room for."""

import contextlib
import math
import os
import select
import socket
from types import SimpleNamespace

import pytest
import wire
from helpers import wait_until
from wired import FakeServer, new_service, still_engine

from fastfcgi.acceptor import Acceptor, Taker
from fastfcgi.constants import HEADER_LEN
from fastfcgi.engine import READ
from fastfcgi.handoff import Others, open_pair
from fastfcgi.sockets import SocketOptions, open_listeners


class Server(FakeServer):
    """A server that asks who connects."""

    def __init__(self, allowed=True, checks_peers=True, others=None):
        super().__init__()
        self.others = others
        self.allowed = allowed
        self.checks_peers = checks_peers

    def _isClientAllowed(self, addr):
        self.calls.append(addr)
        return self.allowed


@pytest.fixture
def listening():
    """Makes an acceptor on 127.0.0.1 that has begun, what its channels share, and a function that
    connects."""
    with contextlib.ExitStack() as stack:

        def make(places=1000, threads=1000, **options):
            (listener,) = open_listeners([("127.0.0.1", 0)], SocketOptions())
            stack.callback(listener.close)
            engine = still_engine(threads)
            stack.callback(engine.close)
            service = new_service(engine, Server(**options), max_connections=places)
            stack.callback(lambda: [channel.on_failure() for channel in list(service.channels)])
            acceptor = Acceptor(listener, service.server, service)
            acceptor.resume()

            def connect(data=b""):
                sock = stack.enter_context(socket.create_connection(listener.address, 30))
                sock.sendall(data)
                return sock

            return acceptor, service, connect

        yield make


def started(service):
    """How many requests have been."""
    count = 0
    while service.engine.take():
        count += 1
    return count


def accept(acceptor, service, count):
    """Call the acceptor until there are so many connections."""

    def arrived():
        acceptor.on_ready(READ)
        return len(service.channels) == count

    wait_until(arrived)


def test_it_watches_the_listening_socket(listening):
    acceptor, _, _ = listening()
    assert acceptor.fd > 2 and acceptor.mask == READ
    acceptor.pause()
    assert acceptor.mask == -1
    acceptor.resume()
    assert acceptor.mask == READ


def test_a_connection_becomes_a_channel(listening):
    acceptor, service, connect = listening()
    sock = connect()
    accept(acceptor, service, 1)
    (channel,) = service.channels
    assert service.server.calls == [sock.getsockname()]
    assert channel.mask == READ
    assert not os.get_inheritable(channel.fd)
    assert not os.get_blocking(channel.fd)


def test_who_may_connect_is_not_asked_for_nothing(listening):
    acceptor, service, connect = listening(checks_peers=False)
    connect()
    accept(acceptor, service, 1)
    assert service.server.calls == []


def test_a_request_that_is_there_already_is_read_at_once(listening):
    acceptor, service, connect = listening()
    connect(wire.request())
    accept(acceptor, service, 1)
    (channel,) = service.channels
    wait_until(lambda: started(service) or channel.on_ready(READ))


def test_all_that_are_connected_can_be_taken_in(listening):
    """Before the socket is closed, which would reset them."""
    acceptor, service, connect = listening()
    for _ in range(50):
        connect(wire.request())
    acceptor.drain()
    assert len(service.channels) == 50


def test_it_drains_while_another_thread_hands_connections_on(listening):
    """As on free-threaded Python: the server stops meanwhile, and none is lost."""

    def give(fd, served):
        given.append(fd)
        acceptor.drain()
        connect()
        return False

    given = []
    others = SimpleNamespace(are_free=lambda: True, give=give)
    acceptor, service, connect = listening(threads=0, others=others)
    service.server._acceptors = [acceptor]
    connect()
    accept(acceptor, service, 2)
    assert len(given) == 1


class BusyOthers:
    """Other processes, all of them busy."""

    def __init__(self):
        self.given = []

    def are_free(self):
        return False

    def give(self, fd, served):
        self.given.append(fd)
        return True


class Busy:
    """An acceptor when every thread of every process is busy.

    Attributes:
        given: What was given on.
    """

    def __init__(self, listening):
        self.others = BusyOthers()
        self.given = self.others.given
        options = {"threads": 0, "others": self.others, "checks_peers": False}
        self.acceptor, self.service, self._connect = listening(**options)
        self.service.server._acceptors = [self.acceptor]
        self.service.pages = {"/server/status": None}

    def connect(self, data=b""):
        """Somebody connects and has to wait; he is not even accepted."""
        before = list(self.given), set(self.service.channels)
        self._connect(data)
        assert select.select([self.acceptor.fd], [], [], 30)[0]
        self.acceptor.on_ready(READ)
        assert (self.given, self.service.channels) == before
        assert self.acceptor.mask == -1

    def pass_time(self):
        for ticker in list(self.service.engine.tickers):
            ticker(math.inf)
        assert self.service.server.calls == ["resume_accepting"]
        self.service.server.calls.clear()
        self.acceptor.resume()


@pytest.fixture
def busy(listening):
    return Busy(listening)


STATUS = wire.request(1, wire.cgi_params("GET", "/server/status"))


def test_busy_processes_answer_pages(busy):
    busy.connect(STATUS)
    busy.pass_time()
    busy.acceptor.on_ready(READ)
    assert len(busy.service.channels) == 1 and not busy.given


@pytest.mark.parametrize("sent", [b"", wire.request(1, wire.cgi_params("GET", "/my_status"))])
def test_busy_processes_leave_all_else_to_whoever_is_free_first(busy, sent):
    """Nothing that has been sent yet is no page either: taken in, it would wait for this one."""
    busy.connect(sent)
    busy.pass_time()
    busy.acceptor.on_ready(READ)
    assert not busy.service.channels and len(busy.given) == 1


def test_who_comes_when_somebody_else_has_waited_is_not_late(busy):
    """He may not have sent anything yet."""
    busy.connect()
    busy.acceptor.listener.sock.accept()[0].close()  # another process was first
    busy.pass_time()
    busy.connect(STATUS)


@pytest.mark.skipif(not hasattr(socket, "send_fds"), reason="nothing can be handed over")
@pytest.mark.parametrize(("path", "taken"), [("/server/status", 1), ("/my_status", 0)])
def test_busy_processes_answer_pages_on_connections_that_were_handed_over(path, taken):
    """All else goes on being handed over until somebody is free."""
    engine = still_engine(0)
    with contextlib.ExitStack() as stack:
        stack.callback(engine.close)
        pair, client = socket.socketpair(), socket.socketpair()
        for sock in (*pair, *client):
            stack.callback(sock.close)
        server = Server(others=Others(open_pair(pair), lambda: False))
        service = new_service(engine, server)
        service.pages = {"/server/status": None}
        taker = Taker(SimpleNamespace(sock=pair[1]), server, service)
        server._acceptors = [taker]
        params = wire.params(1, wire.cgi_params("GET", path))
        client[0].sendall(wire.begin_request(1) + params[:-HEADER_LEN])  # not all of it
        server.others.give(client[1].fileno(), False)
        taker.on_ready(READ)
        assert not service.channels
        for ticker in list(engine.tickers):
            ticker(math.inf)
        taker.on_ready(READ)
        left = select.select([pair[1]], [], [], 0)[0]
        assert (len(service.channels), len(left)) == (taken, 1 - taken)
        for channel in list(service.channels):
            channel.on_failure()


def test_nothing_there_is_no_error_and_does_not_block(listening):
    """Another process that shares the socket was first."""
    acceptor, service, _ = listening()
    acceptor.on_ready(READ)
    assert service.channels == set()
    assert acceptor.mask == READ


def test_a_few_at_a_time(listening):
    acceptor, service, connect = listening()
    for _ in range(40):
        connect()
    seen = []

    def arrived():
        before = len(service.channels)
        acceptor.on_ready(READ)
        seen.append(len(service.channels) - before)
        return len(service.channels) == 40

    wait_until(arrived)
    assert max(seen) <= 16


def test_without_room_an_idle_connection_makes_place_for_a_new_one(listening):
    acceptor, service, connect = listening(places=2)
    for _ in range(2):
        connect()
    accept(acceptor, service, 2)
    first = set(service.channels)
    acceptor.on_ready(READ)
    assert service.channels == first  # nobody came, so nobody had to go
    connect()
    wait_until(lambda: (acceptor.on_ready(READ), service.channels - first)[1])
    assert len(service.channels) == 2


def test_without_room_connections_wait_in_the_kernel(listening):
    acceptor, service, connect = listening(places=2)
    for _ in range(3):
        connect(wire.begin_request(1))
    accept(acceptor, service, 2)
    wait_until(lambda: [c.on_ready(READ) for c in service.channels if c.idle] == [])
    acceptor.on_ready(READ)
    assert len(service.channels) == 2
    assert acceptor.mask == -1
    assert "resume_accepting" not in service.server.calls
    next(iter(service.channels)).on_failure()  # which is room for another
    assert service.server.calls[-1] == "resume_accepting"
    acceptor.resume()
    accept(acceptor, service, 2)


def test_who_may_not_connect_is_closed_and_logged(listening, caplog):
    acceptor, service, connect = listening(allowed=False)
    sock = connect()
    wait_until(lambda: (acceptor.on_ready(READ), service.server.calls)[1])
    assert service.channels == set()
    with contextlib.suppress(ConnectionError):
        assert sock.recv(1) == b""
    assert "FCGI_WEB_SERVER_ADDRS" in caplog.text and "127.0.0.1" in caplog.text


def test_who_cannot_be_asked_about_is_closed(listening):
    """An overridden method that fails leaves no descriptor behind."""
    acceptor, service, connect = listening()
    service.server._isClientAllowed = lambda addr: 1 // 0
    sock = connect()

    def failed():
        with contextlib.suppress(ZeroDivisionError):
            acceptor.on_ready(READ)
            return False
        return True

    wait_until(failed)
    assert service.channels == set()
    with contextlib.suppress(ConnectionError):
        assert sock.recv(1) == b""


def test_small_answers_are_not_held_back(listening):
    acceptor, service, connect = listening()
    connect()
    accept(acceptor, service, 1)
    (channel,) = service.channels
    with socket.socket(fileno=os.dup(channel.fd)) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@contextlib.contextmanager
def no_descriptors():
    """None can be opened."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        null = os.open(os.devnull, os.O_RDONLY)
        stack.callback(os.close, null)
        resource.setrlimit(resource.RLIMIT_NOFILE, (null + 1, limits[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        with contextlib.suppress(OSError):
            while True:
                stack.callback(os.close, os.dup(null))
        yield


def test_without_descriptors_it_rests_until_the_next_tick(listening, caplog):
    """Else whoever leads would spin."""
    acceptor, service, connect = listening()
    connect()
    with no_descriptors():
        acceptor.on_ready(READ)
    assert service.channels == set()
    assert acceptor.mask == -1 and service.is_full
    assert caplog.text.count("cannot accept a connection: ") == 1
    for ticker in list(service.engine.tickers):
        ticker(0.0)
    assert service.server.calls == ["resume_accepting"]
    assert service.engine.tickers == set() and not service.is_full
    acceptor.resume()
    accept(acceptor, service, 1)


def test_without_descriptors_an_idle_connection_is_given_up(listening):
    acceptor, service, connect = listening()
    sock = connect()
    accept(acceptor, service, 1)
    connect()
    with no_descriptors():
        acceptor.on_ready(READ)
        assert service.channels == set()
        assert acceptor.mask == READ  # there is room now
        assert sock.recv(1) == b""
    accept(acceptor, service, 1)


def test_without_descriptors_no_connection_is_given_up_for_nobody(listening, caplog):
    """Linux says that there is none before it looks whether anybody is there."""
    acceptor, service, connect = listening()
    connect()
    accept(acceptor, service, 1)
    with no_descriptors():
        acceptor.on_ready(READ)
    assert len(service.channels) == 1
    assert not caplog.records
    assert acceptor.mask == READ


def test_without_descriptors_it_complains_once_a_while(listening, caplog):
    acceptor, _, connect = listening()
    connect()
    with no_descriptors():
        for _ in range(5):
            acceptor.on_ready(READ)
    assert caplog.text.count("cannot accept a connection") == 1


def test_a_connection_whose_next_request_has_arrived_is_not_given_up(listening):
    acceptor, service, connect = listening(places=1)
    first = connect()
    accept(acceptor, service, 1)
    (channel,) = service.channels
    first.sendall(wire.request())
    connect()
    wait_until(lambda: (acceptor.on_ready(READ), started(service))[1])
    assert service.channels == {channel}


def test_other_failures_are_forgotten(caplog):
    """Of accept(), as of one that was gone before; here it is no listening socket."""
    engine = still_engine()
    with contextlib.closing(engine), socket.socket() as sock:
        service = new_service(engine, Server())
        acceptor = Acceptor(SimpleNamespace(sock=sock), service.server, service)
        acceptor.resume()
        acceptor.on_ready(READ)
        assert acceptor.mask == READ
        assert service.channels == set() and service.server.calls == []
        acceptor.pause()
    assert caplog.text == ""
