"""How long a connection may take for what; time is given to on_tick, nothing waits for long."""

import contextlib
import time

import pytest
import wire
from helpers import blocked
from wired import ANSWER, Wired, answer, get, post

from fastfcgi.exceptions import RequestAborted

NEVER = float("inf")

TIMES = {
    "header_timeout": 10.0,
    "body_timeout": 20.0,
    "send_timeout": 30.0,
    "keep_alive_timeout": 40.0,
    "linger_timeout": 5.0,
}


@pytest.fixture
def web():
    options = {"max_unsent": 1024, "body_start": 100, "is_inet": True, **TIMES}
    with contextlib.closing(Wired(**options)) as made:
        yield made


class Clock:
    """Remembers when a channel wants to be looked at."""

    def __init__(self, web):
        self.web = web
        self.due = web.channel.on_tick(time.monotonic())

    def moved(self):
        """Whether there was more time from here on."""
        time.sleep(0.001)
        before, self.due = self.due, self.web.channel.on_tick(time.monotonic())
        assert self.due >= before
        return self.due > before


def left(web):
    """Seconds until the channel is to be looked at again."""
    now = time.monotonic()
    return web.channel.on_tick(now) - now


def overdue(web, seconds):
    """Whether the channel is closed so many seconds from now, and not before."""
    due = web.channel.on_tick(time.monotonic())
    assert seconds - 2 < due - time.monotonic() <= seconds
    assert web.channel.on_tick(due - 0.001) == due
    assert not web.closed
    assert web.channel.on_tick(due + 0.001) == NEVER
    return web.closed


def never_overdue(web):
    assert web.channel.on_tick(time.monotonic()) == NEVER
    assert web.channel.on_tick(time.monotonic() + 1e9) == NEVER
    return not web.closed


def test_nothing_comes_after_accept(web, caplog):
    assert overdue(web, TIMES["header_timeout"])
    assert caplog.text == ""


@pytest.mark.parametrize("size", [1, 8, 20, 100])
def test_a_header_that_does_not_come(web, size, caplog):
    web.deliver(get()[:size])
    assert overdue(web, TIMES["header_timeout"])
    assert "header_timeout" in caplog.text


def test_a_header_has_but_a_moment_when_the_server_stops(web):
    web.deliver(get()[:20])
    web.channel.on_stop()
    assert not web.closed
    assert overdue(web, 1)


def test_params_in_a_slow_drip_do_not_gain_time(web):
    data = get()
    web.deliver(data[:1])
    clock = Clock(web)
    for i in range(1, 20):
        web.deliver(data[i : i + 1])
        assert not clock.moved()
    assert overdue(web, TIMES["header_timeout"])


def test_a_header_has_its_whole_time_after_idling(web):
    web.deliver(get())
    answer(web.requests[0])
    time.sleep(0.2)
    web.deliver(get()[:20])
    assert left(web) > TIMES["header_timeout"] - 0.2
    assert overdue(web, TIMES["header_timeout"])


def test_an_idle_kept_connection(web, caplog):
    web.deliver(get())
    answer(web.requests[0])
    web.read()
    assert overdue(web, TIMES["keep_alive_timeout"])
    assert caplog.text == ""


def test_a_connection_is_idle_after_a_request_that_never_started(web):
    """Not since it was opened."""
    web.deliver(post(body=b"x", end=False))
    before = time.monotonic()
    web.deliver(wire.abort(1))
    assert web.response(1) == (b"", True)
    assert web.channel.on_tick(time.monotonic()) >= before + TIMES["keep_alive_timeout"]
    assert overdue(web, TIMES["keep_alive_timeout"])


def test_a_body_that_does_not_come(web, caplog):
    web.deliver(post(body=b"x", end=False))
    assert overdue(web, TIMES["body_timeout"])
    assert "body_timeout" in caplog.text
    assert web.requests == []


def test_a_body_that_does_not_come_aborts_its_application(web):
    web.deliver(post(body=b"x" * 100, end=False))
    stream = web.requests[0].input_stream()
    assert len(stream.read1(200)) == 100
    with blocked(stream.read1, 1) as read:
        assert read.waiting()
        assert overdue(web, TIMES["body_timeout"])
        with pytest.raises(RequestAborted):
            read.result()


def test_each_part_of_a_body_gains_time(web):
    web.deliver(post(body=b"x", end=False))
    clock = Clock(web)
    assert not clock.moved()
    web.deliver(wire.stdin(1, b"x", end=False))
    assert clock.moved()
    assert overdue(web, TIMES["body_timeout"])


@pytest.mark.parametrize("started", [False, True])
def test_a_body_that_does_not_come_beside_another_request(web, started, caplog):
    """The others of the connection go on."""
    web.deliver(get(2), post(1, b"x" * (100 if started else 1), end=False))
    now = time.monotonic()
    web.channel.on_tick(now + TIMES["body_timeout"] + 1)
    assert not web.closed
    assert "body_timeout" in caplog.text
    if started:
        assert web.requests[1].aborted
        web.requests[1].end()
    assert web.response(1) == (b"", True)
    answer(web.requests[0])
    assert web.response(2) == (ANSWER, True)
    web.deliver(wire.stdin(1, b"late"), get(3))
    assert len(web.requests) == (3 if started else 2)


def test_traffic_of_other_requests_does_not_gain_a_body_time(web):
    web.deliver(get(2), post(1, b"x", end=False))
    clock = Clock(web)
    time.sleep(0.001)
    web.deliver(get(3))
    assert not clock.moved()
    web.channel.on_tick(clock.due + 0.0001)
    assert web.response(1) == (b"", True)
    assert not web.requests[0].aborted and not web.closed


def test_a_body_that_nobody_reads_is_not_the_web_servers_fault():
    with contextlib.closing(Wired(max_unread_stdin=1024, **TIMES)) as web:
        web.deliver(post(body=b"x" * 2048, end=False))
        assert web.mask == 0 and len(web.requests) == 1
        assert never_overdue(web)


def test_after_a_pause_a_body_has_its_whole_time_again():
    with contextlib.closing(Wired(max_unread_stdin=1024, **TIMES)) as web:
        web.deliver(post(body=b"x" * 2048, end=False))
        stream = web.requests[0].input_stream()
        time.sleep(0.2)  # the application was busy with something else
        assert len(stream.read1(4096)) == 2048
        assert left(web) > TIMES["body_timeout"] - 0.2
        assert overdue(web, TIMES["body_timeout"])


def test_a_running_application_has_all_the_time_in_the_world(web):
    web.deliver(get())
    assert never_overdue(web)


def test_a_header_that_does_not_come_beside_a_running_request(web):
    """Else one byte after each request would hold connections for keep_alive_timeout."""
    web.deliver(get(), get(2)[:3])
    answer(web.requests[0])
    assert overdue(web, TIMES["header_timeout"])


def test_a_response_that_nobody_takes(web, caplog):
    web.deliver(get())
    with blocked(web.requests[0].write, None, b"x" * 4_000_000) as write:
        assert write.waiting()
        assert overdue(web, TIMES["send_timeout"])
        with contextlib.suppress(RequestAborted):
            write.result()
    assert "send_timeout" in caplog.text
    with pytest.raises(RequestAborted):
        web.requests[0].write(None, b"x")
    web.requests[0].end()


def test_a_response_that_is_taken_slowly_gains_time(web):
    web.deliver(get())
    with blocked(web.requests[0].write, None, b"x" * 4_000_000) as write:
        assert write.waiting()
        clock = Clock(web)
        assert not clock.moved()
        web.read()
        web.channel.on_ready(web.mask)
        assert clock.moved()
        assert overdue(web, TIMES["send_timeout"])
        with contextlib.suppress(RequestAborted):
            write.result()


def test_a_peer_that_does_not_close_after_the_last_response(web, caplog):
    web.deliver(get(keep_conn=False))
    answer(web.requests[0])
    assert overdue(web, TIMES["linger_timeout"])
    assert caplog.text == ""


def test_a_drip_does_not_gain_time_after_the_last_response(web):
    web.deliver(get(keep_conn=False))
    answer(web.requests[0])
    clock = Clock(web)
    web.deliver(b"x")
    assert not clock.moved()
    assert overdue(web, TIMES["linger_timeout"])


def test_a_peer_that_does_not_close_has_but_a_moment_when_the_server_stops(web):
    web.deliver(get(keep_conn=False))
    answer(web.requests[0])
    web.channel.on_stop()
    assert overdue(web, 1)


def test_an_answer_that_waits_for_its_end_is_not_late(web):
    """The last output goes out with END_REQUEST; close() of the application may take long."""
    web.deliver(get())
    web.requests[0].write(ANSWER, None, True)
    assert web.channel.unsent
    assert never_overdue(web)
    web.requests[0].end()
    assert web.response() == (ANSWER, True)


@pytest.mark.parametrize("data", [b"", get()[:20], post(body=b"x", end=False)])
def test_the_engine_is_told_when_to_look(web, data):
    web.deliver(get(7))
    answer(web.requests[0])
    web.deliver(data)
    assert web.engine.wakes_at <= web.channel.on_tick(time.monotonic())
