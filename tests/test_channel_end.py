"""How a connection ends: peers that go away, bad input, the end of the server."""

import contextlib
import logging
import socket
import time

import pytest
import wire
from helpers import blocked
from wired import ANSWER, Wired, answer, get, post

from fastfcgi.constants import STDIN
from fastfcgi.engine import READ
from fastfcgi.exceptions import RequestAborted

KIB = 1024


@pytest.fixture
def wired():
    """Makes channels with the web server's end (see helpers.Wired)."""
    with contextlib.ExitStack() as stack:

        def make(**options):
            made = Wired(**options)
            stack.callback(made.close)
            return made

        yield make


# ------------------------------------------------------------------------- peers that go away


def test_abort_before_the_start_ends_the_request(wired):
    web = wired()
    web.deliver(post(body=b"abc", end=False), wire.abort(1))
    assert web.read()[1].ended
    assert web.requests == []
    web.deliver(get(1))
    assert len(web.requests) == 1


def test_what_follows_an_abort_in_the_same_read_is_ignored(wired):
    web = wired()
    web.deliver(post(body=b"abc", end=False), wire.abort(1), wire.stdin(1, b"more"), get(2))
    assert web.read()[1].ended
    assert [request.request_id for request in web.requests] == [2]
    assert not web.saw_end


def test_abort_of_a_running_request_waits_for_its_application(wired):
    web = wired()
    web.deliver(get())
    (request,) = web.requests
    web.deliver(wire.abort(1))
    assert request.aborted
    assert not web.response()[1]
    with pytest.raises(RequestAborted):
        request.write(None, ANSWER)
    request.end()
    assert web.response() == (b"", True)
    assert web.mask == READ


def test_a_peer_that_vanishes_aborts_what_runs_and_frees_the_descriptor(wired):
    web = wired()
    web.deliver(get(1), post(2, b"x", end=False))
    web.hang_up()
    assert web.requests[0].aborted
    assert len(web.requests) == 1
    if hasattr(socket, "AF_UNIX"):
        assert web.closed and web.channel.fd == -1
    web.requests[0].end()
    assert web.closed


def test_a_reset_aborts_what_runs(wired):
    web = wired()
    web.deliver(get())
    web.requests[0].write(None, ANSWER)
    web.hang_up()  # with the answer unread
    assert web.requests[0].aborted or not hasattr(socket, "AF_UNIX")
    web.requests[0].end()
    assert web.closed


def test_half_closed_after_a_whole_request_is_still_answered(wired):
    web = wired()
    web.deliver(get())
    web.half_close()
    assert not web.requests[0].aborted
    answer(web.requests[0])
    assert web.response() == (ANSWER, True)
    assert web.closed


def test_half_closed_within_a_body_aborts(wired):
    web = wired(body_start=1)
    web.deliver(post(1, b"x", end=False), get(2))
    web.half_close()
    assert [request.aborted for request in web.requests] == [True, False]


@pytest.mark.parametrize(
    "part", [b"", b"\x01", wire.begin_request(1), get()[:60], post(body=b"x", end=False)]
)
def test_half_closed_before_a_whole_request_closes(part, wired):
    web = wired()
    web.deliver(part)
    web.half_close()
    assert web.closed and web.requests == []


# ---------------------------------------------------------------------------- bad input


def test_the_peer_broke_the_protocol(wired, caplog):
    web = wired()
    web.deliver(get(1), wire.record(STDIN, 1, version=2))
    web.read()
    assert web.saw_end and web.answers.outputs == {}
    assert "version" in caplog.text
    assert not web.closed
    web.hang_up()
    assert web.closed


def test_http_gets_a_hint_in_the_log(wired, caplog):
    web = wired()
    web.deliver(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    web.read()
    assert web.saw_end
    assert "looks like HTTP" in caplog.text


def test_a_broken_protocol_aborts_what_runs_and_wakes_it(wired):
    web = wired(body_start=1)
    web.deliver(post(body=b"x", end=False))
    (request,) = web.requests
    stream = request.input_stream()
    assert stream.read1(1) == b"x"
    with blocked(stream.read1, 1) as read:
        assert read.waiting()
        web.deliver(b"\xff" * 8)
        with pytest.raises(RequestAborted):
            read.result()
    request.end()


def test_too_many_params_refuse_the_connection(wired, caplog):
    web = wired(max_params_bytes=KIB)
    web.deliver(wire.begin_request(1), wire.params(1, {"A": "x" * 2 * KIB}))
    web.read()
    assert web.saw_end and web.requests == []
    assert "max_params_bytes" in caplog.text


# -------------------------------------------------------------------------------- stopping


def test_stopping_closes_an_idle_connection(wired):
    web = wired()
    web.deliver(get())
    answer(web.requests[0])
    web.channel.on_stop()
    assert web.closed


def test_stopping_leaves_a_moment_to_one_on_which_nothing_has_come(wired):
    """Its web server connected before the stop, and may be about to send."""
    web = wired()
    web.channel.on_stop()
    assert web.mask == READ
    web.deliver(get(1))
    assert len(web.requests) == 1
    answer(web.requests[0])
    assert web.response()[1]
    web.read()
    assert web.saw_end and web.closed  # although it was to be kept


def test_that_moment_is_short(wired):
    web = wired()
    web.channel.on_stop()
    now = time.monotonic()
    due = web.channel.on_tick(now)
    assert now < due <= now + 1.0
    web.channel.on_tick(due + 0.1)
    assert web.closed


def test_it_has_all_that_comes_in_one_go(wired):
    web = wired()
    web.channel.on_stop()
    web.deliver(get(1), get(2))
    for request in web.requests:
        answer(request)
    web.read()
    assert web.answers[1].ended and web.answers[2].ended and web.saw_end


def test_stopping_waits_for_the_rest_of_a_request_that_has_begun(wired):
    """Whether a web server keeps the connection says nothing about that."""
    for cut in (1, 8, 16, 100):
        web = wired()
        web.deliver(get(1))
        answer(web.requests[0])
        web.sock.sendall(get(2)[:cut])
        web.channel.on_stop()
        assert not web.closed
        web.deliver(get(2)[cut:])
        answer(web.requests[1])
        assert web.response(2)[1] and web.closed


def test_stopping_does_not_wait_for_that_for_ever(wired):
    web = wired()
    web.deliver(get(1))
    answer(web.requests[0])
    web.sock.sendall(get(2)[:3])
    web.channel.on_stop()
    web.channel.on_tick(time.monotonic() + 1.1)
    assert web.closed


def test_stopping_serves_what_has_arrived_and_closes_after_it(wired):
    web = wired()
    web.sock.send(get())
    web.channel.on_stop()
    answer(web.requests[0])
    assert web.response() == (ANSWER, True)
    assert web.saw_end
    assert web.closed


def test_stopping_ends_a_kept_connection_after_its_running_request(wired):
    web = wired()
    web.deliver(get())
    web.channel.on_stop()
    assert not web.closed
    answer(web.requests[0])
    assert web.response() == (ANSWER, True) and web.saw_end


def test_a_failure_closes_and_aborts(wired):
    web = wired()
    web.deliver(get())
    web.channel.on_failure()
    assert web.closed and web.requests[0].aborted
    web.requests[0].end()
    web.channel.on_tick(time.monotonic() + 1000)
    web.channel.on_stop()
    assert web.closed and web.service.channels == set()


def test_idle_is_a_connection_with_nothing_under_way(wired):
    web = wired()
    assert web.channel.idle
    web.deliver(get()[:3])
    assert not web.channel.idle
    web.deliver(get()[3:])
    assert not web.channel.idle
    answer(web.requests[0])
    assert web.channel.idle


def test_what_goes_wrong_is_no_noise_in_the_log(wired, caplog):
    """A client that goes away is everyday life."""
    caplog.set_level(logging.WARNING)
    web = wired()
    web.deliver(get())
    web.hang_up()
    web.requests[0].end()
    assert caplog.text == ""
