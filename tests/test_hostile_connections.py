"""Connections that mean ill, to a real server process: slow, idle, never reading, too many
(tests/hostile.py says what is looked at meanwhile and afterwards)."""

import contextlib
import socket
import sys
import time

import pytest

if sys.platform != "linux":
    pytest.skip("what a process holds is read from /proc", allow_module_level=True)

import wire
from hostile import KIB, MIB, PROMISE, QUICK, Target
from processes import DEADLINE, wait_until

from fastfcgi.constants import STDIN

pytestmark = pytest.mark.hostile

FLOOD = wire.stdin(1, bytes(65535), end=False)


@contextlib.contextmanager
def many(target, count):
    """So many connections, as sockets."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(target.socket()) for _ in range(count)]


def closed(sock):
    """Whether the server has closed; what it sent before is thrown away."""
    sock.setblocking(False)
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def wait_closed(sockets):
    wait_until(lambda: all(closed(sock) for sock in sockets), "all of them to be closed")


# --------------------------------------------------------------------------- slow and idle


def test_a_slow_drip_on_100_connections_ends_at_header_timeout(folder):
    """Each byte comes in time for some timeout, but the request does not."""
    data = wire.begin_request(1) + wire.params(1, {"HTTP_X": "x" * 10_000})
    with Target(folder, memory=2 * MIB, header_timeout=0.5) as target, many(target, 100) as drips:
        end = time.monotonic() + DEADLINE
        left = drips
        for byte in data:
            left = [sock for sock in left if not closed(sock)]
            if not left:
                break
            for sock in left:
                with contextlib.suppress(ConnectionError):
                    sock.send(bytes([byte]))
            assert time.monotonic() < end, f"{len(left)} are still open"
            time.sleep(0.02)
        assert not left
        assert target.log().count("no whole PARAMS in header_timeout=0.5 s") == 100


def test_a_slow_drip_of_100_bodies_holds_no_thread(folder):
    with Target(folder, memory=2 * MIB) as target, many(target, 100) as drips:
        for sock in drips:
            sock.sendall(target.post("/read", CONTENT_LENGTH="20"))
        for _ in range(20):
            for sock in drips:
                sock.sendall(wire.stdin(1, b"x", end=False))
            time.sleep(0.1)
        for sock in drips:
            sock.settimeout(DEADLINE)
            assert b"20" in sock.recv(65536)


def test_bodies_that_stop_end_at_body_timeout(folder):
    with Target(folder, memory=10 * MIB, body_timeout=0.5) as target, many(target, 20) as stuck:
        for sock in stuck[:14]:
            sock.sendall(target.post("/read") + FLOOD)
        for sock in stuck[14:]:
            # Enough of it for the application to begin: it is reading now.
            sock.sendall(target.post("/read") + wire.stdin(1, bytes(1100 * KIB), end=False))
        wait_closed(stuck)
        assert target.log().count("no more of a body in body_timeout=0.5 s") == 20


def test_300_connections_that_never_send_a_byte(folder):
    with Target(folder, memory=4 * MIB, header_timeout=2.0) as target, many(target, 300) as idle:
        wait_until(lambda: target.connections() >= 300, "300 connections")
        target.serve_others(20)
        wait_closed(idle)


def test_300_idle_kept_connections(folder):
    options = {"keep_alive_timeout": 0.5, "memory": 6 * MIB}
    with Target(folder, **options) as target, many(target, 300) as idle:
        for sock in idle:
            sock.sendall(target.get("/hello", keep_conn=True))
        target.serve_others(20)
        wait_closed(idle)


def test_management_records_do_not_keep_a_connection_for_ever(folder):
    with Target(folder, **QUICK) as target, target.peer() as peer:
        begin = time.monotonic()
        while not peer.closed:
            peer.send(wire.get_values("FCGI_MAX_CONNS") + wire.record(STDIN, 9, b"x"))
            assert time.monotonic() - begin < DEADLINE
            time.sleep(0.05)


# ------------------------------------------------------------------------ never reading


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_a_client_that_never_reads_its_response(folder, tcp):
    limits = {"tcp": tcp, "send_timeout": 0.5, "memory": 2 * MIB}
    with Target(folder, **limits) as target, target.socket() as sock:
        sock.sendall(target.get("/stream/2000"))
        target.expect_log("it took no response for send_timeout=0.5 s")
        target.expect_log("aborted by the web server: GET '/stream/2000'")


def test_twenty_clients_that_never_read_their_responses(folder):
    limits = {"threads": 24, "send_timeout": 0.5, "memory": 20 * 2 * MIB}
    with Target(folder, **limits) as target, many(target, 20) as deaf:
        for sock in deaf:
            sock.sendall(target.get("/stream/2000"))
        wait_until(lambda: target.log().count("no response for send_timeout") == 20, "20 lines")


def test_more_clients_that_never_read_than_threads(folder):
    """They take every thread, so others wait; but only until send_timeout, and nobody is lost."""
    limits = {"send_timeout": 0.5, "watched": False, "memory": 20 * 2 * MIB}
    with Target(folder, **limits) as target, many(target, 20) as deaf:
        for sock in deaf:
            sock.sendall(target.get("/stream/2000"))
        assert target.ask().body == b"hello"
        wait_until(lambda: target.log().count("no response for send_timeout") == 20, "20 lines")


def test_whole_responses_that_nobody_reads_hold_no_thread_but_their_connection(folder):
    """One block of a response goes beyond max_unsent; the next ones wait, as other blocks do."""
    limits = {"send_timeout": 0.5, "watched": False}
    memory = 8 * 4 * MIB + 5 * MIB  # what each thread's application has made, and what waits
    with Target(folder, memory=memory, **limits) as target, target.socket() as sock:
        requests = [target.get("/whole/64", i, keep_conn=True) for i in range(1, 101)]
        sock.sendall(b"".join(requests))
        target.expect_log("no response for send_timeout")
        assert target.ask().body == b"hello"


def test_error_output_that_nobody_reads(folder):
    limits = {"send_timeout": 0.5, "memory": 2 * MIB}
    with Target(folder, **limits) as target, target.socket() as sock:
        sock.sendall(target.get("/complain/800"))
        target.expect_log("no response for send_timeout")


def test_a_queue_that_is_full_answers_503(folder):
    limits = {"threads": 2, "queue_size": 2, "watched": False, "send_timeout": 0.5}
    with Target(folder, memory=4 * MIB, **limits) as target, target.socket() as deaf:
        deaf.sendall(b"".join(target.get("/stream/2000", i, keep_conn=True) for i in (1, 2)))
        assert deaf.recv(1)  # so both are running, or wait for each other
        with target.peer() as peer:
            peer.send(b"".join(target.get("/hello", i, keep_conn=True) for i in (1, 2, 3)))
            assert peer.receive_end(3).status == 503
            target.expect_log("queue_size=2 requests wait")
            for request_id in (1, 2):
                assert peer.receive_end(request_id).body == b"hello"


# --------------------------------------------------------------------------------- many


def test_more_idle_connections_than_max_connections(folder):
    """The longest idle one makes place for each new one."""
    with Target(folder, max_connections=10) as target, many(target, 200) as idle:
        target.serve_others(10)
        wait_closed(idle[:190])
        assert target.connections() <= 10 + 1


def test_more_busy_connections_than_max_connections(folder):
    """The others wait in the kernel until there is room, or one becomes idle."""
    limits = {"max_connections": 5, "watched": False}
    with Target(folder, **limits) as target, contextlib.ExitStack() as stack:
        busy = [stack.enter_context(target.peer()) for _ in range(5)]
        for peer in busy:
            peer.send(target.get("/hold", keep_conn=True))
        wait_until(lambda: target.connections() == 5, "five connections")
        waiting = [stack.enter_context(target.peer()) for _ in range(10)]
        for peer in waiting:
            peer.send(target.get("/hello", keep_conn=True))
        time.sleep(PROMISE)
        assert target.connections() == 5
        busy[0].send(target.get("/release", 2, keep_conn=True))
        for peer in busy + waiting:
            assert peer.receive_end().body in (b"released", b"hello")


def test_no_descriptors_are_left_but_connections_are_idle(folder):
    with Target(folder, descriptors=40) as target, many(target, 200) as idle:
        target.expect_log("cannot accept a connection: [Errno 24]")
        target.serve_others(10)
        # A line for each second, not for each attempt.
        assert target.log().count("cannot accept") <= 20
        assert sum(closed(sock) for sock in idle) > 150


def test_no_descriptors_are_left_and_no_connection_is_idle(folder):
    limits = {"descriptors": 40, "watched": False, "body_timeout": 0.5}
    with Target(folder, **limits) as target, many(target, 60) as busy:
        for sock in busy:
            with contextlib.suppress(ConnectionError):
                sock.sendall(target.post("/read"))
        target.expect_log("cannot accept a connection: [Errno 24]")
        assert target.ask().body == b"hello"
        assert target.log().count("cannot accept") <= 20


def test_no_descriptors_are_left_for_bodies(folder):
    """Each body that nobody reads gets a file. Without a descriptor for it one request fails, and
    only that one."""
    limits = {"descriptors": 40, "max_unread_stdin": 64 * KIB, "threads": 64, "watched": False}
    ids = range(1, 61)
    with Target(folder, memory=60 * 64 * KIB, **limits) as target, target.peer() as peer:
        for request_id in ids:
            peer.send(target.post("/late/1500", request_id, keep_conn=True))
        for request_id in ids:
            peer.send(wire.stdin(request_id, bytes(100 * KIB), end=False))
        for request_id in ids:
            peer.send(wire.stdin(request_id))
        peer.send(target.get("/hello", 100, keep_conn=True))
        statuses = {peer.receive_end(request_id).status for request_id in ids}
        assert statuses == {200, 500}
        assert peer.receive_end(100).body == b"hello"


def test_peers_that_are_not_in_fcgi_web_server_addrs(folder):
    env = {"FCGI_WEB_SERVER_ADDRS": "192.0.2.1,127.0.0.1"}
    with Target(folder, tcp=True, env=env) as target:
        for _ in range(300):
            with socket.socket() as sock:
                sock.bind(("127.0.0.2", 0))
                sock.settimeout(DEADLINE)
                sock.connect(target.address)
                with contextlib.suppress(ConnectionError):
                    sock.sendall(target.get("/hello"))
                    assert sock.recv(100) == b""
        assert target.log().count("not in FCGI_WEB_SERVER_ADDRS") == 300
