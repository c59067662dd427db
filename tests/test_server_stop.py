"""WSGIServer in a thread: how it ends."""

import logging
import os
import select
import signal
import socket
import sys
import tempfile
import threading
import time

import pytest
import wire
from helpers import DEADLINE, Gate, Serving, hello, serving, wait_until, waiting

from fastfcgi import WSGIServer

pytestmark = pytest.mark.skipif(not hasattr(select, "poll"), reason="only tried with poll()")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open.set()


# ------------------------------------------------------------------------------------- stop


def test_stop_from_another_thread():
    with serving() as web:
        web.server.stop()
        assert web.wait() is False


def test_stop_from_a_request():
    def app(environ, start_response):
        web.server.stop()
        return hello(environ, start_response)

    with serving(app) as web:
        assert web.get().status == 200
        assert web.wait() is False


def test_a_connection_that_is_being_accepted_is_told_of_the_stop():
    """By another thread than the one that tells those that are there."""

    class Server(WSGIServer):
        def _isClientAllowed(self, addr):
            self.stop()
            wait_until(lambda: self._stopping_until is not None)
            time.sleep(0.1)
            return True

    with Serving(Server(hello, bind="127.0.0.1:0")) as web, web.peer() as peer:
        start = time.monotonic()
        assert peer.request(keep_conn=True).status == 200
        assert peer.receive_close()
        assert web.wait() is False
        assert time.monotonic() - start < web.server.limits.graceful_timeout / 2


def test_stop_before_run_ends_it_at_once():
    web = serving()
    web.server.stop()
    web.server.stop()
    with web:
        assert web.wait() is False


def test_stop_closes_idle_connections_and_finishes_what_runs(gate):
    with serving(gate) as web, web.peer() as idle, waiting(web, 2) as peers:
        assert idle.request(keep_conn=True).status == 200
        gate.wait_for(2)
        web.server.stop()
        assert idle.receive_close()
        assert web.running
        gate.open.set()
        assert [peer.receive_end().body for peer in peers] == [b"hello /wait"] * 2
        for peer in peers:
            peer.close()
        assert web.wait() is False


def test_who_has_just_connected_is_served(gate):
    gate.open.set()
    with serving(gate) as web, web.peer() as peer:
        wait_until(lambda: web.server.channels, "the connection")
        web.server.stop()
        wait_until(lambda: web.server._stopping_until is not None, "the stop")
        assert peer.request(keep_conn=True).status == 200
        assert peer.receive_close()
        assert web.wait() is False


def test_who_has_just_connected_does_not_hold_it_up():
    with serving() as web, web.peer() as peer:
        wait_until(lambda: web.server.channels, "the connection")
        start = time.monotonic()
        web.server.stop()
        assert peer.receive_close()
        assert web.wait() is False
        assert time.monotonic() - start < web.server.limits.graceful_timeout / 2


def test_stopping_refuses_new_connections(gate):
    """They can go elsewhere at once; and their file does not wait for the last request."""
    with serving(gate) as web, waiting(web, 1) as (peer,):
        gate.wait_for(1)
        address = web.address
        web.server.stop()
        wait_until(lambda: not web.server.addresses, "the stop")
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            wire.Peer(address)
        gate.open.set()
        assert peer.receive_end().status == 200


def test_stopping_leaves_a_given_socket_to_others(gate):
    listening = socket.create_server(("127.0.0.1", 0))
    with listening, serving(gate, bind=listening) as web, waiting(web, 1) as (peer,):
        gate.wait_for(1)
        web.server.stop()
        wait_until(lambda: web.server._stopping_until is not None, "the stop")
        with wire.Peer(listening.getsockname()) as late:  # the kernel takes it; nobody accepts
            late.send(wire.request())
            gate.open.set()
            assert peer.receive_end().status == 200
            peer.close()
            assert web.wait() is False
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.recv(1) == b"\1"


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")
def test_the_next_server_on_its_path_is_left_alone(gate):
    """A service manager may start it while the former one still finishes requests."""
    with tempfile.TemporaryDirectory() as folder:
        path = folder + "/s"
        with serving(gate, bind=path) as web, waiting(web, 1) as (peer,):
            gate.wait_for(1)
            web.server.stop()
            wait_until(lambda: not os.path.exists(path), "its file to go")
            with serving(bind=path) as following:
                gate.open.set()
                assert peer.receive_end().status == 200
                peer.close()
                assert web.wait() is False
                assert following.get().status == 200


def test_a_second_stop_does_not_wait(gate):
    with serving(gate, graceful_timeout=1000) as web, waiting(web, 1):
        gate.wait_for(1)
        web.server.stop()
        wait_until(lambda: web.server._stopping_until is not None, "the stop")
        assert web.running
        web.server.stop()
        assert web.wait() is False


def test_stop_while_it_ends_to_begin_again_is_the_end(gate):
    """A script that runs it again after SIGHUP would else not see it."""
    with serving(gate, graceful_timeout=1000) as web, waiting(web, 1):
        gate.wait_for(1)
        web.server._exit(reload=True)
        wait_until(lambda: web.server._stopping_until is not None, "the stop")
        web.server.stop()
        assert web.wait() is False


def test_a_stuck_request_is_left_behind_after_graceful_timeout(gate, caplog):
    with serving(gate, graceful_timeout=0.1, threads=1) as web, waiting(web, 3) as peers:
        gate.wait_for(1)
        web.server.stop()
        assert web.wait() is False
        for peer in peers:
            assert not peer.receive_end().ended
    assert "graceful_timeout=0.1" in caplog.text
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("fastfcgi-")]
    caplog.clear()
    gate.open.set()
    for thread in threads:
        thread.join(DEADLINE)
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
    assert gate.most == 1  # what waited was not begun


def test_run_again():
    web = serving()
    for _ in range(3):
        with Serving(web.server) as again:
            assert again.get().status == 200
            again.server.stop()
            assert again.wait() is False


def test_off_the_main_thread_signals_are_left_alone():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with serving() as web:
        assert web.get().status == 200
        assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]


@linux
def test_nothing_is_left_open():
    web = serving()
    with Serving(web.server) as first:  # what Python itself opens once is open then
        first.get()
    before = sorted(os.listdir("/proc/self/fd"))
    with Serving(web.server) as again, again.peer() as peer:
        for _ in range(10):
            assert again.get().status == 200
        assert peer.request(keep_conn=True).status == 200
    assert sorted(os.listdir("/proc/self/fd")) == before
