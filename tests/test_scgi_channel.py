"""A channel that speaks SCGI: one request, the end of the connection, bad input, lost peers."""

import contextlib
import gc
import socket
import sys
import time

import pytest
import scgi_wire
import wire
from helpers import blocked
from wired import ANSWER, Wired, answer

from fastfcgi.engine import READ
from fastfcgi.exceptions import RequestAborted
from fastfcgi.scgi_channel import ScgiChannel

KIB = 1024


class ScgiWired(Wired):
    """A Wired whose web server gets plain bytes.

    Attributes:
        got: All of them so far.
        reset: The connection was reset behind them.
    """

    def __init__(self, **options):
        self.got = b""
        self.reset = False
        super().__init__(scgi=True, **options)

    def read(self):
        self.sock.settimeout(0 if hasattr(socket, "AF_UNIX") else 0.2)
        try:
            with contextlib.suppress(TimeoutError, BlockingIOError):
                while data := self.sock.recv(1 << 18):
                    self.got += data
                self.saw_end = True
        except ConnectionResetError:
            self.reset = True
        return self.got


@pytest.fixture
def wired():
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(contextlib.closing(ScgiWired(**options)))


def get(**more):
    return scgi_wire.request(scgi_wire.cgi_params(**more))


def post(body=b"body", length=None):
    return scgi_wire.request(scgi_wire.cgi_params("POST"), body, length)


# ------------------------------------------------------------------------------- one request


def test_a_request_and_its_response(wired):
    web = wired()
    assert web.channel.idle
    web.deliver(get())
    (request,) = web.requests
    assert request.params["SCGI"] == "1"
    assert not web.channel.idle
    answer(request)
    assert web.read() == ANSWER
    assert web.saw_end and web.closed and not web.reset


@pytest.mark.parametrize("size", [0, 1, 100, 70 * KIB])
def test_a_body(wired, size):
    web = wired()
    body = bytes(i % 251 for i in range(size))
    web.deliver(post(body))
    (request,) = web.requests
    assert request.input_stream().read() == body
    answer(request)
    assert web.read() == ANSWER


def test_byte_by_byte(wired):
    web = wired()
    for octet in post(b"some body"):
        assert web.requests == []
        web.deliver(bytes([octet]))
    (request,) = web.requests
    assert request.input_stream().read() == b"some body"


def test_a_body_that_is_read_while_it_comes(wired):
    """By the thread that reads it, to where that wants it."""
    web = wired(body_start=1)
    body = bytes(i % 251 for i in range(600 * KIB))
    web.deliver(post(body[:10], len(body)))
    (request,) = web.requests
    with blocked(request.input_stream().read) as reading:
        for start in range(10, len(body), 50_000):
            web.deliver(body[start : start + 50_000])
        assert reading.result() == body
    answer(request)
    assert web.read() == ANSWER and web.saw_end


@pytest.mark.skipif(sys.platform != "linux", reason="a pair of SOCK_SEQPACKET is Linux's")
def test_a_response_leaves_in_one_write(wired):
    web = wired(kind=socket.SOCK_SEQPACKET)
    web.deliver(get())
    web.requests[0].write(ANSWER, b"more", last=True)
    assert web.read() == b""
    web.requests[0].end()
    assert web.sock.recv(1 << 16) == ANSWER + b"more"


def test_a_tcp_connection_is_closed_by_the_peer_first(wired):
    web = wired(is_inet=True)
    web.deliver(get())
    answer(web.requests[0])
    assert web.read() == ANSWER
    assert web.saw_end and not web.closed
    web.hang_up()
    assert web.closed


def test_the_body_is_taken_in_before_the_first_output(wired):
    web = wired(body_start=1)
    web.deliver(post(b"b", 4))
    (request,) = web.requests
    with blocked(request.write, None, ANSWER) as writing:
        assert writing.waiting()
        assert web.read() == b""
        web.deliver(b"ody")
        writing.result()
    assert request.input_stream().read() == b"body"
    request.end()
    assert web.read() == ANSWER


def test_there_is_no_stream_for_errors(wired, capsys):
    web = wired()
    web.deliver(get())
    (request,) = web.requests
    request.write_error(b"for nobody")
    request.stderr.write(b"for stderr\xff")
    answer(request)
    assert web.read() == ANSWER
    assert capsys.readouterr().err == "for stderr\\xff"


def test_errors_wait_for_nothing(wired):
    """With FastCGI many of them do, for the body that web servers send first."""
    web = wired(body_start=1)
    web.deliver(post(b"b", 4))
    (request,) = web.requests
    with blocked(request.write_error, b"x" * 200_000) as writing:
        writing.result()
    web.hang_up()
    request.end()


def test_beyond_the_queue_the_answer_is_503(wired, caplog):
    web = wired(threads=0)
    web.deliver(post())
    assert web.read().startswith(b"Status: 503 ")
    assert web.saw_end and web.closed
    assert "request refused" in caplog.text


# ------------------------------------------------------------------------------- cut responses


def test_an_abandoned_response_on_a_unix_socket_ends(wired):
    web = wired()
    web.deliver(get())
    web.requests[0].write(None, ANSWER)
    web.requests[0].abandon()
    web.requests[0].end()
    assert web.read() == ANSWER
    assert web.closed


# ------------------------------------------------------------------------------- lost peers


def test_a_peer_that_vanishes_aborts_what_runs(wired):
    web = wired()
    web.deliver(get())
    web.hang_up()
    (request,) = web.requests
    if hasattr(socket, "AF_UNIX"):
        assert request.aborted and web.closed
        with pytest.raises(RequestAborted):
            request.write(None, ANSWER)
    request.end()
    assert web.closed


def test_half_closed_after_a_whole_request_is_still_answered(wired):
    web = wired()
    web.deliver(post())
    web.half_close()
    assert not web.requests[0].aborted
    answer(web.requests[0])
    assert web.read() == ANSWER
    assert web.closed


@pytest.mark.parametrize("part", [b"", b"9", get()[:30], get()[:-1]])
def test_half_closed_before_a_whole_header_closes(part, wired, caplog):
    web = wired()
    web.deliver(part)
    web.half_close()
    assert web.closed and web.requests == []
    assert ("ended within the header" in caplog.text) == bool(part)


@pytest.mark.parametrize("body_start", [1, 100])
def test_half_closed_within_a_body_aborts(wired, body_start, caplog):
    caplog.set_level("INFO")
    web = wired(body_start=body_start)
    web.deliver(post(b"bo", 4))
    web.half_close()
    assert "ended 2 bytes before its CONTENT_LENGTH" in caplog.text
    for request in web.requests:
        assert request.aborted
        with pytest.raises(RequestAborted):
            request.input_stream().read()
        request.end()
    assert len(web.requests) == (body_start == 1)
    assert web.closed


# ------------------------------------------------------------------------------- bad input


def test_more_than_the_body(wired, caplog):
    web = wired()
    web.deliver(post(), b"GET")
    assert "3 bytes after the body" in caplog.text
    assert all(request.aborted for request in web.requests)
    web.read()
    assert web.got == b""
    assert web.closed


def test_more_than_the_body_of_a_request_that_runs(wired, caplog):
    web = wired()
    web.deliver(post())
    (request,) = web.requests
    web.deliver(b"x")
    assert request.aborted
    assert "1 bytes after the body" in caplog.text
    assert "looks like" not in caplog.text
    request.end()
    web.hang_up()
    assert web.closed


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "looks like HTTP, but SCGI"),
        (wire.begin_request(1), "looks like FastCGI, but SCGI"),
        (b"\x16\x03\x01", "begins with the length of its header"),
    ],
)
def test_other_protocols_get_a_hint_in_the_log(wired, caplog, data, hint):
    web = wired()
    web.deliver(data)
    web.read()
    assert web.saw_end or web.reset
    assert hint in caplog.text
    assert ("looks like" in caplog.text) == ("looks like" in hint)


def test_scgi_gets_a_hint_where_fastcgi_is_spoken(caplog):
    with contextlib.closing(Wired()) as web:
        web.deliver(get())
        web.read()
        assert web.saw_end
    assert "looks like SCGI, but FastCGI is spoken here" in caplog.text


def test_too_long_a_header(wired, caplog):
    web = wired(max_params_bytes=50)
    web.deliver(get()[:4])
    assert "max_params_bytes=50" in caplog.text
    web.read()
    assert web.saw_end or web.reset


# ------------------------------------------------------------------------------- time, the end


def test_a_header_that_does_not_come(wired, caplog):
    web = wired(header_timeout=10.0)
    web.deliver(get()[:20])
    now = time.monotonic()
    web.channel.on_tick(now + 9)
    assert not web.closed
    web.channel.on_tick(now + 11)
    assert web.closed
    assert "no whole header in header_timeout=10.0 s" in caplog.text


def test_a_body_that_does_not_come(wired, caplog):
    web = wired(body_timeout=20.0)
    web.deliver(post(b"b", 4))
    web.channel.on_tick(time.monotonic() + 21)
    assert web.closed and web.requests == []
    assert "body_timeout=20.0" in caplog.text


def test_stopping_serves_what_has_arrived(wired):
    web = wired()
    web.deliver(get())
    web.channel.on_stop()
    assert not web.closed
    answer(web.requests[0])
    assert web.read() == ANSWER and web.closed


def test_stopping_waits_for_the_rest_of_a_request(wired):
    web = wired()
    web.deliver(post()[:20])
    web.channel.on_stop()
    assert not web.closed and web.mask == READ
    web.deliver(post()[20:])
    answer(web.requests[0])
    assert web.read() == ANSWER and web.closed


@pytest.mark.parametrize(
    ("sent", "given"), [(b"", True), (b"12", False), (get(), False), (post(b"b", 4), False)]
)
def test_only_what_is_idle_moves_to_another_process(wired, sent, given):
    web = wired()
    moved = []

    def giver(fd, served):
        moved.append((fd, served))
        return True

    web.service.giver = giver
    web.service.retiring = True
    web.deliver(sent)
    fd = web.channel.fd
    web.channel.on_retire()
    assert moved == ([(fd, False)] if given else [])
    assert web.closed == given
    for request in web.requests:
        answer(request)
        assert len(moved) == given


def test_a_connection_that_has_ended_is_no_circle():
    """Its memory comes back without the garbage collector."""

    def channels():
        return sum(type(one) is ScgiChannel for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = channels()
        for end in (b"", b"more than the body"):
            with contextlib.closing(ScgiWired()) as web:
                web.deliver(get(), end)
                while web.requests:
                    answer(web.requests.pop())
                web.hang_up()
                assert web.closed and channels() == before + 1
            del web
        assert channels() == before
    finally:
        gc.enable()
