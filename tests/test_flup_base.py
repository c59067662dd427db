"""Classes made of flup's parts: BaseFCGIServer with a loop, Connection, Record, ThreadPool."""

import importlib
import select
import socket
import threading

import pytest

if not hasattr(socket, "AF_UNIX") or not hasattr(select, "poll"):
    pytest.skip("flup runs on POSIX alone", allow_module_level=True)


import wire
from flup_loops import Composed, OwnLoop, OwnThreadedServer
from helpers import Gate, hello, wait_until

from fastfcgi.flup.server import fcgi_base, threadpool
from fastfcgi.flup.server.fcgi_base import (
    FCGI_BEGIN_REQUEST,
    FCGI_END_REQUEST,
    FCGI_GET_VALUES,
    FCGI_GET_VALUES_RESULT,
    FCGI_PARAMS,
    FCGI_STDIN,
    FCGI_STDOUT,
    BaseFCGIServer,
    Connection,
    FCGI_EndRequestBody,
    Record,
)

TCP = ("127.0.0.1", 0)


# ----------------------------------------------------------------- 16: a loop of one's own

LOOPS = [OwnLoop, OwnThreadedServer]


def echo(environ, start_response):
    body = environ["wsgi.input"].read()
    environ["wsgi.errors"].write("noted\n")
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Query", environ["QUERY_STRING"])])
    return [body[:5], body[5:]]


@pytest.mark.parametrize("loop", LOOPS)
def test_own_loop(loop):
    """16: requests with bodies, on a kept connection and on several at once."""
    with Composed(loop, application=echo, maxThreads=3) as web:
        with web.peer() as kept, web.peer() as other:
            for size in (0, 10, 100_000, 3_000_000):
                body = bytes(size)
                params = wire.cgi_params("POST", "/", "a=b", CONTENT_LENGTH=str(size))
                response = kept.request(params, body, keep_conn=True)
                assert (response.status, response.ended, response.closed) == (200, True, False)
                assert response.body == body
                assert response.header("X-Query") == "a=b"
                assert response.stderr == b"noted\n"
            response = other.request(wire.cgi_params("POST"), b"short")
            assert (response.body, response.closed) == (b"short", True)


@pytest.mark.parametrize("loop", LOOPS)
def test_own_loop_with_all_threads_taken(loop):
    """The connection is closed at once, as by flup."""
    with Composed(loop, maxThreads=1) as web, web.peer() as kept:
        assert kept.request(keep_conn=True).status == 200
        with web.peer() as refused:
            refused.receive_close()
        kept.close()
        wait_until(lambda: web.server._threadPool._idleCount == 1, "the thread")
        with web.peer() as peer:
            assert peer.request().status == 200


def test_methods_of_the_loop_are_called():
    with Composed(OwnThreadedServer) as web:
        wait_until(lambda: web.server.periodic > 1, "_mainloopPeriodic()")


def test_own_loop_and_who_may_connect(monkeypatch):
    class Strict(OwnThreadedServer):
        def _isClientAllowed(self, addr):
            return addr[0] != "127.0.0.1"

    with Composed(Strict) as web, web.peer() as peer:
        peer.receive_close()


def test_own_loop_and_applications_that_fail():
    def app(environ, start_response):
        if environ["PATH_INFO"] == "/late":
            start_response("200 OK", [("Content-Type", "text/plain")])(b"begun")
        raise RuntimeError("secret")

    with Composed(OwnLoop, application=app) as web:
        with web.peer() as peer:
            response = peer.request(wire.cgi_params("GET", "/"))
            assert (response.status, response.ended) == (500, True)
            assert b"secret" in response.stderr and b"secret" not in response.body
        with web.peer() as peer:
            response = peer.request(wire.cgi_params("GET", "/late"))
            assert (response.body, response.ended, response.closed) == (b"begun", False, True)


def test_own_loop_and_a_handler_that_fails():
    with Composed(OwnLoop) as web:
        web.server.handler = lambda req: 1 / 0
        with web.peer() as peer:
            response = peer.request()
            assert (response.ended, response.closed) == (False, True)


def test_own_loop_one_request_at_a_time():
    gate = Gate()
    with Composed(OwnLoop, application=gate, multithreaded=False) as web:
        peers = [web.peer() for _ in range(4)]
        for peer in peers:
            peer.send(wire.request(1, wire.cgi_params("GET", "/wait")))
        wait_until(lambda: len(web.server._threadPool._threads) == 4, "all to be accepted")
        gate.wait_for(1)
        gate.open.set()
        assert [peer.receive_end().status for peer in peers] == [200] * 4
        assert gate.most == 1
        for peer in peers:
            peer.close()


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", wire.begin_request(1) + wire.params(1, {"x": "y" * 2000})]
)
def test_own_loop_and_what_is_not_fastcgi(data):
    with Composed(OwnLoop, max_params_bytes=1000) as web:
        with web.peer() as peer:
            peer.send(data)
            peer.receive_close()
        with web.peer() as peer:
            assert peer.request().status == 200


def test_own_loop_and_who_hangs_up():
    """In the middle of a request, of a response; a request that is aborted is answered."""

    def big(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [bytes(1_000_000) for _ in range(30)]

    with Composed(OwnLoop, application=big) as web:
        for data in (wire.begin_request(1), wire.request(1, wire.cgi_params())):
            with web.peer() as peer:
                peer.send(data)
        with web.peer() as peer:
            peer.send(wire.begin_request(1, keep_conn=True) + wire.params(1, wire.cgi_params()))
            peer.send(wire.abort(1))
            assert peer.receive_end().ended
        wait_until(
            lambda: web.server._threadPool._idleCount == len(web.server._threadPool._threads)
        )


# ------------------------------------------------------------------------------ 20: records


def test_records_of_ones_own():
    """20: a program that speaks by Record alone, to a Connection on a socket pair."""
    ours, theirs = socket.socketpair()
    server = BaseFCGIServer(hello, bindAddress=TCP)
    server._gateway = server._new_gateway(run_once=False)
    thread = threading.Thread(target=Connection(theirs, "", server, None).run)
    thread.start()
    with ours:
        ours.settimeout(wire.DEADLINE)
        pairs = b"".join(
            bytes([len(name), len(value)]) + name.encode() + value.encode()
            for name, value in wire.cgi_params("GET", "/r").items()
        )
        contents = [(FCGI_BEGIN_REQUEST, bytes([0, 1, 0, 0, 0, 0, 0, 0]))]
        contents += [(FCGI_PARAMS, pairs), (FCGI_PARAMS, b""), (FCGI_STDIN, b"")]
        for kind, content in contents:
            record = Record(kind, 1)
            record.contentData = content
            record.contentLength = len(content)
            record.write(ours)
        output = b""
        record = Record()
        while record.type != FCGI_END_REQUEST:
            record = Record()
            record.read(ours)
            assert (record.version, record.requestId) == (1, 1)
            assert len(record.contentData) == record.contentLength
            output += record.contentData if record.type == FCGI_STDOUT else b""
        assert wire.parse_cgi(output)[2] == b"hello /r"
        assert len(record.contentData) == fcgi_base.FCGI_EndRequestBody_LEN
        assert fcgi_base.struct.unpack(FCGI_EndRequestBody, record.contentData) == (0, 0)
        with pytest.raises(EOFError):
            Record().read(ours)
    thread.join()


def test_a_record_as_flup_writes_it():
    """Byte for byte, and each reads the other's."""
    flups = pytest.importorskip("flup.server.fcgi_base")
    for size in (0, 1, 8, 1000):
        written = []
        for module in (fcgi_base, flups):
            record = module.Record(FCGI_GET_VALUES, 0)
            record.contentData, record.contentLength = b"x" * size, size
            one, other = socket.socketpair()
            with one, other:
                record.write(one)
                one.shutdown(socket.SHUT_WR)
                written.append(b"".join(iter(lambda sock=other: sock.recv(9999), b"")))
        assert written[0] == written[1]
    assert vars(Record()) == vars(flups.Record())
    assert FCGI_GET_VALUES_RESULT == flups.FCGI_GET_VALUES_RESULT


@pytest.mark.parametrize("cut", [0, 3, 8, 10, 13])
def test_a_record_that_is_cut(cut):
    data = wire.record(FCGI_STDIN, 1, b"body", b"pad")
    one, other = socket.socketpair()
    with one, other:
        one.sendall(data[:cut])
        one.close()
        with pytest.raises(EOFError):
            Record().read(other)


# ------------------------------------------------------------------------------ ThreadPool


class Job:
    def __init__(self, gate=None):
        self.gate = gate
        self.done = threading.Event()

    def run(self):
        if self.gate is not None:
            assert self.gate.wait(wire.DEADLINE)
        self.done.set()


def test_thread_pool():
    gate = threading.Event()
    pool = threadpool.ThreadPool(minSpare=1, maxSpare=1, maxThreads=2)
    held = [Job(gate), Job(gate)]
    assert all(pool.addJob(job, allowQueuing=False) for job in held)
    queued = Job()
    assert not pool.addJob(Job(), allowQueuing=False)
    assert pool.addJob(queued)
    assert not queued.done.is_set()
    gate.set()
    assert queued.done.wait(wire.DEADLINE)
    wait_until(lambda: len(pool._threads) == pool._idleCount == 1, "one to spare")
    assert pool.addJob(Job(), allowQueuing=False)
    pool.shutdown()
    assert not pool.addJob(Job())


def test_a_job_that_fails(caplog):
    pool = threadpool.ThreadPool(maxThreads=1)
    failing = Job()
    failing.done = None
    assert pool.addJob(failing)
    job = Job()
    assert pool.addJob(job)
    assert job.done.wait(wire.DEADLINE)
    pool.shutdown()
    assert "a job failed" in caplog.text


def test_modules_that_programs_import():
    for name in ("fcgi_base", "threadedserver", "threadpool", "singleserver", "cgi"):
        ours = importlib.import_module(f"fastfcgi.flup.server.{name}")
        assert all(hasattr(ours, one) for one in ours.__all__)
