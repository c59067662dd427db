"""What the access log is told, what applications are told of their request, and its id."""

import contextlib
import os
import re
import threading
import time

import pytest
import wire
from fake_request import answering, handled
from helpers import TEXT, Gate, Serving, ask, serving, wait_until
from wired import Wired, answer, get, post

from fastfcgi import ConfigurationError, RequestAborted, WSGIServer
from fastfcgi.reports import AccessRecord


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open.set()


@contextlib.contextmanager
def logged(app, **options):
    """A server, and the records of its requests."""
    records: list[AccessRecord] = []
    with serving(app, access_log=records.append, **options) as web:
        yield web, records


def record_of(app, request=None, **options):
    """What is told of one request."""
    with logged(app, **options) as (web, records):
        with web.peer() as peer:
            peer.send(request or wire.request(1, wire.cgi_params("GET", "/a")))
            peer.receive_end()
        wait_until(lambda: records, "the record")
    (record,) = records
    return record


# ---- the record ----------------------------------------------------------------------------


def test_a_request():
    before = time.time()
    record = record_of(answering([b"abc", b"defg"], "201 Made it"))
    assert (record.status, record.sent) == ("201 Made it", 7)
    assert (record.aborted, record.failed) == (False, False)
    assert before - 1 <= record.started <= time.time()
    assert 0 <= record.seconds < 30
    assert re.fullmatch(rf"{os.getpid()}-\d+", record.request_id)
    assert record.environ["PATH_INFO"] == "/a" and record.environ["wsgi.version"] == (1, 0)


def test_the_status_of_a_response_with_a_location():
    def app(environ, start_response):
        headers = [("Location", "/?Status: 1"), ("X-Status", "2"), ("Content-Length", "0")]
        start_response("301 Moved", headers)
        return []

    assert record_of(app).status == "301 Moved"


def test_the_environ_is_the_applications():
    def app(environ, start_response):
        environ["REMOTE_USER"] = "me"
        environ["id"] = environ["fastfcgi.request_id"]
        start_response("200 OK", TEXT)
        return []

    record = record_of(app)
    assert record.environ["REMOTE_USER"] == "me"
    assert record.environ["id"] == record.request_id


@pytest.mark.parametrize(
    ("method", "status", "blocks", "sent"),
    [
        ("GET", "200 OK", [], 0),
        ("GET", "204 No Content", [b"dropped"], 0),
        ("HEAD", "200 OK", [b"dropped"], 0),
        ("GET", "200 OK", [b"x" * 100_000] * 3, 300_000),
    ],
)
def test_bytes_of_the_body(method, status, blocks, sent):
    request = wire.request(1, wire.cgi_params(method))
    record = record_of(answering(blocks, status), request)
    assert (record.status, record.sent) == (status, sent)


def test_the_time_has_its_wait_in_it(gate):
    """From its params to its end: a body that came slowly and a full server are in it."""
    with logged(gate, threads=1) as (web, records), web.peer() as first, web.peer() as second:
        first.send(wire.request(1, wire.cgi_params("GET", "/wait")))
        gate.wait_for(1)
        second.send(wire.request(1, wire.cgi_params("GET", "/second")))
        wait_until(lambda: web.server.engine.pending, "the second request")
        time.sleep(0.2)
        gate.open.set()
        second.receive_end()
        wait_until(lambda: len(records) == 2, "two records")
    assert [one.environ["PATH_INFO"] for one in records] == ["/wait", "/second"]
    assert records[1].seconds >= 0.2


def test_a_failure():
    record = record_of(lambda environ, start_response: 1 / 0)
    assert record.failed and not record.aborted
    assert record.status == "500 Internal Server Error" and record.sent > 0


def test_a_failure_after_the_begin():
    def app(environ, start_response):
        start_response("200 OK", TEXT)
        yield b"abc"
        raise OSError("broken")

    record = record_of(app)
    assert (record.status, record.sent, record.failed) == ("200 OK", 3, True)


def test_no_response_at_all():
    class Server(WSGIServer):
        def handler(self, req):
            return 0, 0

    records = []
    server = Server(answering([]), bind="127.0.0.1:0", access_log=records.append)
    with Serving(server) as web:
        web.get()
        wait_until(lambda: records, "the record")
    assert (records[0].status, records[0].sent, records[0].failed) == ("", 0, False)


def test_a_handler_that_fails(caplog):
    class Server(WSGIServer):
        def handler(self, req):
            raise ValueError("no")

    records = []
    server = Server(answering([]), bind="127.0.0.1:0", access_log=records.append, status_path="/s")
    with Serving(server) as web:
        web.get("/x")
        wait_until(lambda: records, "the record")
        assert server._hooks.board.errors == 1
    assert records[0].failed
    assert f"handler() failed: GET '/x' [{records[0].request_id}]" in caplog.text


def test_an_aborted_request():
    def app(environ, start_response):
        write = start_response("200 OK", TEXT)
        write(b"abc")
        wait_until(environ["fastfcgi.aborted"], "the abort")
        write(b"more")
        raise AssertionError("not reached")

    with logged(app) as (web, records), web.peer() as peer:
        peer.send(wire.request(1, wire.cgi_params(), keep_conn=True))
        peer.receive(lambda answers: answers.outputs and answers[1].stdout)
        peer.send(wire.abort(1))
        wait_until(lambda: records, "the record")
    assert (records[0].aborted, records[0].failed, records[0].sent) == (True, False, 3)


def test_one_record_for_each(gate):
    gate.open.set()
    with logged(gate, threads=4) as (web, records):

        def ask_on():
            with web.peer() as peer:
                for _ in range(50):
                    ask(peer)

        threads = [threading.Thread(target=ask_on) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: len(records) == 200, "all records")
    assert len({record.request_id for record in records}) == 200


def test_pages_and_refusals_are_not_logged(gate):
    options = {"ping_path": "/ping", "threads": 1, "queue_size": 0}
    with logged(gate, **options) as (web, records), web.peer() as peer:
        peer.send(wire.request(1, wire.cgi_params("GET", "/wait")))
        gate.wait_for(1)
        assert web.get("/ping").status == 200
        assert web.get("/refused").status == 503
        gate.open.set()
        peer.receive_end()
        wait_until(lambda: records, "the record")
    assert [record.environ["PATH_INFO"] for record in records] == ["/wait"]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_log_that_fails(error, caplog):
    def log(record):
        raise error("full")

    with serving(access_log=log) as web, web.peer() as peer:
        for _ in range(3):
            assert ask(peer) == b"hello /"
        wait_until(lambda: caplog.text.count("the access log failed") == 3, "three lines")


def test_it_is_told_after_the_response():
    told, going = threading.Event(), threading.Event()

    def log(record):
        told.set()
        assert going.wait(30)

    with serving(access_log=log, threads=1) as web, web.peer() as peer:
        assert ask(peer) == b"hello /"  # although the log waits
        assert told.wait(30)
        going.set()
        assert ask(peer) == b"hello /"


def test_a_log_that_cannot_be_called():
    with pytest.raises(ConfigurationError, match="access_log"):
        WSGIServer(answering([]), access_log="access.log")


# ---- the id --------------------------------------------------------------------------------


def test_the_id_is_in_the_line_of_a_failure(caplog):
    record = record_of(lambda environ, start_response: 1 / 0)
    assert f"the application failed: GET '/a' [{record.request_id}]" in caplog.text


def test_ids_differ_and_do_not_change():
    ids = []

    def app(environ, start_response):
        ids.append(environ["fastfcgi.request_id"])
        start_response("200 OK", TEXT)
        return []

    with logged(app) as (web, records):
        with web.peer() as peer:
            for _ in range(12):
                ask(peer)
        wait_until(lambda: len(records) == 12, "all records")
    assert len(set(ids)) == 12
    assert [record.request_id for record in records] == ids


def test_side_by_side_on_one_connection():
    with contextlib.closing(Wired()) as web:
        web.deliver(get(1), get(2))
        first, second = web.requests
        assert first.log_id != second.log_id
        assert first.log_id == first.log_id
        for request in (first, second):
            answer(request)


def test_no_id_without_a_log():
    """It would cost each request some."""
    seen = []

    def app(environ, start_response):
        seen.append("fastfcgi.request_id" in environ)
        start_response("200 OK", TEXT)
        return []

    with serving(app, status_path="/status") as web:
        web.get()
    with serving(app, slow_timeout=10) as web:
        web.get()
    assert seen == [False, True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_a_child_has_ids_of_its_own():
    with contextlib.closing(Wired()) as web:
        web.deliver(get(1), get(2))
        first, second = web.requests
        mine = first.log_id
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(into, second.log_id.encode())
            os._exit(0)
        os.close(into)
        with open(out) as file:
            theirs = file.read()
        os.waitpid(child, 0)
        assert mine.startswith(f"{os.getpid()}-") and theirs.startswith(f"{child}-")
        for request in (first, second):
            answer(request)


def test_plain_cgi():
    request = handled(lambda environ, start_response: 1 / 0)
    assert request.log_id == f"{os.getpid()}-1" and request.failed


# ---- fastfcgi.aborted ----------------------------------------------------------------------


def test_an_application_sees_the_abort():
    seen = []

    def app(environ, start_response):
        seen.append(environ["fastfcgi.aborted"]())
        wait_until(environ["fastfcgi.aborted"], "the abort")
        seen.append(environ["fastfcgi.aborted"]())
        with pytest.raises(RequestAborted):
            start_response("200 OK", TEXT)(b"x")
        seen.append("raised")
        raise RequestAborted

    with serving(app, threads=1, status_path="/status") as web, web.peer() as peer:
        peer.send(wire.request(1, wire.cgi_params(), keep_conn=True))
        wait_until(lambda: seen == [False], "the application")
        peer.send(wire.abort(1))
        wait_until(lambda: seen == [False, True, "raised"], "the end")
        assert peer.receive_end().ended
        wait_until(lambda: web.server._hooks.board.requests == 1, "its end on the board")
        assert (web.server._hooks.board.aborted, web.server._hooks.board.errors) == (1, 0)


def test_an_application_sees_that_the_web_server_has_gone():
    with contextlib.closing(Wired()) as web:
        web.deliver(get(1), post(2, b"x", end=False))
        first = web.requests[0]
        assert first() is False
        web.hang_up()
        assert first() is True
        first.end()
