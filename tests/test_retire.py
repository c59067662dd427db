"""A server that retires gives its connections to its successors; none is lost."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import wire
from helpers import (
    DEADLINE,
    ENGINES,
    Gate,
    Serving,
    ask,
    serving,
    wait_until,
)

from fastfcgi import WSGIServer, acceptor, server
from fastfcgi.board import SERVING, STOPPING, Board
from fastfcgi.handoff import take

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "send_fds"), reason="this system sends no descriptors"
)


@pytest.fixture(params=sorted(ENGINES))
def kind(request, monkeypatch):
    monkeypatch.setattr(server, "Engine", ENGINES[request.param])


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open.set()


@pytest.fixture
def pair():
    give, take = socket.socketpair()
    with give, take:
        yield give, take


@pytest.fixture(params=["TCP", "unix"])
def listening(request, tmp_path):
    if request.param == "TCP":
        sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    else:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(tmp_path / "s"))
        sock.listen(1024)
    with sock:
        yield sock


def named(name, app=None):
    """An application that says who answers."""

    def answering(environ, start_response):
        if app is not None:
            app(environ, lambda *args: None)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [name.encode()]

    return answering


class Generations:
    """Servers of one listening socket, one after another."""

    def __init__(self, listening, pair, stack):
        self._options = {"bind": listening, "handoff": pair}
        self._address = listening.getsockname()
        self._stack = stack

    def start(self, name, app=None, **options):
        web = serving(named(name, app), **{**self._options, **options})
        return self._stack.enter_context(web)

    def peer(self):
        return self._stack.enter_context(wire.Peer(self._address))


@pytest.fixture
def generations(listening, pair):
    with contextlib.ExitStack() as stack:
        yield Generations(listening, pair, stack)


def retired(web):
    web.server.retire()
    assert web.wait() is False


# ---- servers -------------------------------------------------------------------------------


def test_a_kept_connection_goes_to_the_successor(generations, kind):
    old = generations.start("old")
    peer = generations.peer()
    assert ask(peer) == b"old"
    new = generations.start("new")
    retired(old)
    assert [ask(peer) for _ in range(3)] == [b"new"] * 3
    assert len(new.server.channels) == 1


def test_one_on_which_nothing_has_come_goes_too(generations, kind):
    old = generations.start("old")
    peer = generations.peer()
    wait_until(lambda: old.server.channels, "the connection")
    retired(old)
    generations.start("new")
    assert ask(peer) == b"new"


def test_it_waits_in_the_pair_until_there_is_a_successor(generations):
    """With the request that came meanwhile."""
    old = generations.start("old")
    peer = generations.peer()
    assert ask(peer) == b"old"
    retired(old)
    peer.send(wire.request(2, wire.cgi_params(), keep_conn=True))
    generations.start("new")
    assert peer.receive_end(2).body == b"new"


def test_its_patience_goes_with_it(generations):
    """A kept connection stays one; one on which nothing came has the time of a new one."""
    old = generations.start("old")
    kept, fresh = generations.peer(), generations.peer()
    assert ask(kept) == b"old"
    wait_until(lambda: len(old.server.channels) == 2, "both connections")
    new = generations.start("new", header_timeout=0.2, keep_alive_timeout=1000)
    retired(old)
    assert fresh.receive_close()
    assert ask(kept) == b"new"
    assert len(new.server.channels) == 1


@pytest.mark.parametrize("kind", sorted(ENGINES))
def test_when_nobody_can_give_any_more(generations, pair, kind, monkeypatch):
    """What is taken from is always readable then, and is left alone."""
    monkeypatch.setattr(server, "Engine", ENGINES[kind])
    takes = []
    monkeypatch.setattr(acceptor, "take", lambda sock: takes.append(sock) or take(sock))
    web = generations.start("web")
    pair[0].close()
    wait_until(lambda: takes, "the end")
    web.server.resume_accepting()
    assert ask(generations.peer()) == b"web"
    time.sleep(0.1)
    assert len(takes) == 1


def test_many_at_once(generations, kind):
    """More than the pair holds: the rest goes when some have been taken."""
    old = generations.start("old")
    peers = [generations.peer() for _ in range(400)]
    for peer in peers:
        assert ask(peer) == b"old"
    old.server.retire()
    wait_until(lambda: len(old.server.channels) < 400, "the first to go")
    generations.start("new")
    assert old.wait() is False
    for peer in peers:
        assert ask(peer) == b"new"


def test_a_running_request_is_finished_first(generations, gate, kind):
    old = generations.start("old", gate)
    peer = generations.peer()
    peer.send(wire.request(1, wire.cgi_params("GET", "/wait"), keep_conn=True))
    gate.wait_for(1)
    generations.start("new")
    old.server.retire()
    wait_until(lambda: old.server._stopping_until is not None, "it to retire")
    assert old.running
    gate.open.set()
    assert peer.receive_end().body == b"old"
    # The next one may be so quick that it is there before the connection is given away.
    wait_until(lambda: ask(peer) == b"new", "the connection to go")
    assert old.wait() is False


def test_a_connection_that_is_not_kept_is_closed_after_its_request(generations, gate):
    old = generations.start("old", gate)
    peer = generations.peer()
    peer.send(wire.request(1, wire.cgi_params("GET", "/wait")))
    gate.wait_for(1)
    new = generations.start("new")
    old.server.retire()
    gate.open.set()
    assert peer.receive_end().body == b"old"
    assert peer.receive_close()
    peer.close()
    assert old.wait() is False
    assert not new.server.channels


def test_nothing_is_lost_under_load(generations, kind):
    stop, failures, counts = threading.Event(), [], []

    def ask_on(peer):
        count = 0
        try:
            while not stop.is_set():
                ask(peer)
                count += 1
        except BaseException as error:
            failures.append(error)
        counts.append(count)

    present = generations.start("0")
    peers = [generations.peer() for _ in range(6)]
    threads = [threading.Thread(target=ask_on, args=(peer,)) for peer in peers]
    for thread in threads:
        thread.start()
    try:
        for number in range(8):
            time.sleep(0.05)
            following = generations.start(str(number + 1))
            retired(present)
            present = following
    finally:
        stop.set()
        for thread in threads:
            thread.join(DEADLINE)
    assert failures == []
    assert len(counts) == 6 and min(counts) > 0
    assert len(present.server.channels) == 6


def test_the_successor_is_full(generations):
    """As with new connections: the one that has been idle for longest is closed."""
    old = generations.start("old")
    new = generations.start("new", max_connections=2)
    old_acceptors, new_acceptors = old.server._acceptors, new.server._acceptors
    new_acceptors[0].pause()
    peers = [generations.peer() for _ in range(2)]
    for peer in peers:
        assert ask(peer) == b"old"
    old_acceptors[0].pause()
    new_acceptors[0].resume()
    others = [generations.peer() for _ in range(2)]
    for peer in others:
        assert ask(peer) == b"new"
    wait_until(lambda: all(one.idle for one in new.server.channels), "the end of the requests")
    retired(old)
    for peer in others:
        assert peer.receive_close()
    for peer in peers:
        assert ask(peer) == b"new"


def test_a_stop_after_it_is_graceful(generations, gate):
    old = generations.start("old", gate)
    idle, peer = generations.peer(), generations.peer()
    peer.send(wire.request(1, wire.cgi_params("GET", "/wait"), keep_conn=True))
    gate.wait_for(1)
    old.server.retire()
    wait_until(lambda: len(old.server.channels) == 1, "the other one to go")
    old.server.retire()  # changes nothing
    old.server.stop()
    time.sleep(0.2)
    assert old.running
    gate.open.set()
    assert peer.receive_end().body == b"old"
    assert peer.receive_close()
    peer.close()
    assert old.wait() is False
    generations.start("new")
    assert ask(idle) == b"new"


def test_two_stops_after_it_do_not_wait(generations, gate):
    old = generations.start("old", gate, graceful_timeout=1000)
    peer = generations.peer()
    peer.send(wire.request(1, wire.cgi_params("GET", "/wait"), keep_conn=True))
    gate.wait_for(1)
    for end in (old.server.retire, old.server.stop, old.server.stop):
        end()
    assert old.wait() is False


def test_it_does_not_wait_for_ever(generations, gate, caplog):
    old = generations.start("old", gate, graceful_timeout=0.2)
    peer = generations.peer()
    peer.send(wire.request(1, wire.cgi_params("GET", "/wait"), keep_conn=True))
    gate.wait_for(1)
    retired(old)
    assert "graceful_timeout" in caplog.text


def test_without_anybody_who_could_take_them_they_are_closed(generations, pair, caplog):
    old = generations.start("old")
    peer = generations.peer()
    assert ask(peer) == b"old"
    taker = pair[1].detach()
    old.server._acceptors[-1].pause()
    os.close(taker)
    retired(old)
    assert peer.receive_close()
    assert "cannot be handed over" in caplog.text


def test_without_a_pair_it_is_a_stop(gate):
    with serving(gate) as web, web.peer() as idle:
        ask(idle)
        web.server.retire()
        assert idle.receive_close()
        assert web.wait() is False


def test_one_that_is_being_accepted(generations, listening, pair):
    """By another thread than the one that tells those that are there."""

    class Server(WSGIServer):
        def _isClientAllowed(self, addr):
            self.retire()
            wait_until(lambda: self._stopping_until is not None)
            time.sleep(0.1)
            return True

    with Serving(Server(named("old"), bind=listening, handoff=pair)) as old:
        peer = generations.peer()
        assert ask(peer) == b"old"
        assert old.wait() is False
        generations.start("new")
        assert ask(peer) == b"new"


def test_before_run(generations, listening, pair):
    web = Serving(WSGIServer(named("old"), bind=listening, handoff=pair))
    web.server.retire()
    with web:
        assert web.wait() is False


def test_run_again_after_it(generations):
    old = generations.start("old")
    retired(old)
    with Serving(old.server) as again:
        assert ask(generations.peer()) == b"old"
        again.server.retire()
        again.wait()


def test_the_board_says_so(generations, gate):
    board = Board(64)
    old = generations.start("old", gate, board=board)
    peer = generations.peer()
    peer.send(wire.request(1, wire.cgi_params("GET", "/wait"), keep_conn=True))
    gate.wait_for(1)
    assert (board.state, board.connections, board.busy) == (SERVING, 1, 1)
    old.server.retire()
    wait_until(lambda: board.state == STOPPING, "the state")
    gate.open.set()
    assert peer.receive_end().body == b"old"
    assert old.wait() is False
    assert (board.state, board.connections, board.busy) == (STOPPING, 0, 0)


# ---- processes -----------------------------------------------------------------------------

_SCRIPT = """
import os, signal, socket, sys
from fastfcgi import WSGIServer

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]

listening, give, take = (socket.socket(fileno=int(one)) for one in sys.argv[1:])
server = WSGIServer(app, bind=listening, handoff=(give, take))
server._hupHandler = lambda number, frame: server.retire()
server.run()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only tried with Linux")
def test_processes(listening, pair):
    fds = [sock.fileno() for sock in (listening, *pair)]
    command = [sys.executable, "-c", _SCRIPT, *map(str, fds)]
    running = []

    def start():
        running.append(subprocess.Popen(command, pass_fds=fds))
        return running[-1]

    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [(one.kill(), one.wait()) for one in running])
        peers = [stack.enter_context(wire.Peer(listening.getsockname())) for _ in range(20)]
        old = start()
        assert {ask(peer) for peer in peers[:10]} == {b"%d" % old.pid}
        for _ in range(4):
            new = start()
            with wire.Peer(listening.getsockname()) as probe:
                ask(probe)
            old.send_signal(signal.SIGHUP)
            assert old.wait(DEADLINE) == 0
            assert {ask(peer) for peer in peers[:10]} == {b"%d" % new.pid}
            old = new
        assert {ask(peer) for peer in peers} == {b"%d" % old.pid}
