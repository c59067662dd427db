"""The loop that waits for sockets (the threads: test_engine_pool)."""

import contextlib
import socket
import threading
import time

import pytest
from helpers import DEADLINE

from fastfcgi.engine import READ, WRITE, Engine, Pool


class Handler:
    """One end of a pair of sockets, watched; notes what it is told."""

    def __init__(self, engine, fail=None):
        self.engine = engine
        self.sock, self.peer = socket.socketpair()
        self.sock.setblocking(False)
        self.calls = []
        self.received = b""
        self.fail = fail

    def fileno(self):
        return self.sock.fileno()

    def on_ready(self, mask):
        self.calls.append(mask)
        if self.fail == "on_ready":
            raise RuntimeError("failed as asked")
        if mask & READ:
            self.received += self.sock.recv(100)

    def on_tick(self, now):
        self.calls.append("tick")
        if self.fail == "on_tick":
            raise RuntimeError("failed as asked")

    def on_failure(self):
        self.calls.append("failure")
        self.engine.forget(self)
        self.sock.close()


@pytest.fixture
def engine():
    """An engine; the loop runs in the test's thread, by run_until."""
    made = Engine(Pool(1, 0))
    yield made
    made.close()


@pytest.fixture
def handler(engine):
    with contextlib.ExitStack() as stack:

        def make(fail=None):
            made = Handler(engine, fail)
            stack.callback(made.sock.close)
            stack.callback(made.peer.close)
            return made

        yield make


def run_until(engine, condition):
    """Run the loop until a condition holds after some tick; fails after a deadline."""
    engine._finished = False
    end = time.monotonic() + DEADLINE

    def look(now):
        if condition() or now > end:
            engine.finish()

    engine.tick = 0.01
    engine.tickers.add(look)
    engine.run()
    engine.tickers.discard(look)
    assert condition(), "waited in vain"


def test_a_handler_is_told_what_is_ready(engine, handler):
    watched = handler()
    engine.watch(watched, READ)
    watched.peer.send(b"abc")
    run_until(engine, lambda: watched.received)
    assert watched.received == b"abc"
    assert {READ, "tick"} >= set(watched.calls)


def test_the_mask_can_be_changed(engine, handler):
    watched = handler()
    watched.peer.send(b"abc")
    engine.watch(watched, WRITE, tick=False)
    run_until(engine, lambda: watched.calls)
    assert set(watched.calls) == {WRITE}
    engine.watch(watched, READ | WRITE, tick=False)
    run_until(engine, lambda: watched.received)
    assert READ | WRITE in watched.calls


def test_a_handler_watched_for_nothing_gets_ticks_only(engine, handler):
    watched = handler()
    watched.peer.send(b"abc")
    engine.watch(watched, 0)
    run_until(engine, lambda: len(watched.calls) >= 3)
    assert set(watched.calls) == {"tick"}
    engine.watch(watched, READ)
    run_until(engine, lambda: watched.received)
    engine.watch(watched, 0)
    watched.peer.send(b"def")
    seen = len(watched.calls)
    run_until(engine, lambda: len(watched.calls) > seen + 2)
    assert watched.received == b"abc"


def test_a_forgotten_handler_is_told_nothing(engine, handler):
    watched, other = handler(), handler()
    engine.watch(watched, READ)
    engine.watch(other, READ)
    engine.forget(watched)
    engine.forget(watched)
    watched.peer.send(b"abc")
    other.peer.send(b"abc")
    run_until(engine, lambda: other.received)
    assert watched.calls == []
    assert watched not in engine._handlers | engine._ticking


def test_a_handler_forgotten_by_another_in_the_same_round_is_told_nothing(engine, handler):
    first, second = handler(), handler()
    for watched, victim in ((first, second), (second, first)):
        read = watched.on_ready
        watched.on_ready = lambda mask, r=read, v=victim: (r(mask), v.on_failure())
        engine.watch(watched, READ, tick=False)
        watched.peer.send(b"abc")
    run_until(engine, lambda: first.calls and second.calls)
    assert sorted(map(str, first.calls + second.calls)) == [str(READ), "failure"]


@pytest.mark.parametrize("fail", ["on_ready", "on_tick"])
def test_a_handler_that_fails_is_told_so_and_ends_nothing(engine, handler, fail, caplog):
    watched, other = handler(fail), handler()
    for each in (watched, other):
        engine.watch(each, READ)
        each.peer.send(b"abc")
    run_until(engine, lambda: other.received and "failure" in watched.calls)
    assert watched.calls[-1] == "failure" and watched.calls.count("failure") == 1
    assert "internal error" in caplog.text and "failed as asked" in caplog.text


def test_call_soon_from_any_thread(engine):
    calls = []
    main = threading.current_thread()

    def note():
        calls.append(threading.current_thread())
        if len(calls) == 3:
            engine.finish()

    engine.call_soon(note)
    thread = threading.Thread(target=lambda: (engine.call_soon(note), engine.call_soon(note)))
    thread.start()
    engine.run()
    thread.join(DEADLINE)
    assert calls == [main] * 3


def test_a_call_wakes_a_loop_that_waits_without_end(engine):
    """Without handlers there are no ticks."""
    thread = threading.Thread(target=engine.run)
    thread.start()
    time.sleep(0.05)
    called = threading.Event()
    engine.call_soon(called.set)
    assert called.wait(DEADLINE)
    engine.finish()
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_many_wake_ups_do_not_block(engine):
    for _ in range(100_000):
        engine.wake()
    engine.call_soon(engine.finish)
    engine.run()


def test_wake_and_finish_after_the_end_are_no_errors(engine):
    other = Engine(Pool(1, 0))
    other.close()
    other.wake()
    other.finish()
    other.call_soon(print)


def test_ticks_come_while_there_is_traffic(engine, handler):
    watched = handler()
    engine.watch(watched, READ | WRITE)  # ready all the time
    run_until(engine, lambda: watched.calls.count("tick") >= 3)
    assert watched.calls.count(WRITE) >= 3


def test_ticks_come_no_more_often_than_asked_for(engine, handler):
    watched = handler()
    engine.tick = 1000
    engine.watch(watched, WRITE)
    on_ready = watched.on_ready
    watched.on_ready = lambda mask: (on_ready(mask), len(watched.calls) > 50 and engine.finish())
    engine.run()
    assert set(watched.calls) == {WRITE}


def test_tickers_are_given_the_time_and_may_take_themselves_out(engine):
    times = []

    def ticker(now):
        times.append(now)
        if len(times) == 2:
            engine.tickers.discard(ticker)

    engine.tickers.add(ticker)
    count = iter(range(5))
    start = time.monotonic()
    run_until(engine, lambda: next(count, None) is None)
    assert len(times) == 2
    assert start < times[0] < times[1] <= time.monotonic()


@pytest.mark.parametrize(("ticks", "tick"), [(False, 0), (True, 10)])
def test_a_quiet_loop_uses_no_processor(engine, handler, ticks, tick):
    engine.tick = tick  # 0 counts only when nobody wants ticks
    engine.watch(handler(), READ, tick=ticks)
    engine.wake()
    thread = threading.Thread(target=engine.run)
    thread.start()
    before = time.process_time()
    time.sleep(0.3)
    used = time.process_time() - before
    engine.finish()
    thread.join(DEADLINE)
    assert used < 0.15


def test_close_gives_descriptors_back(handler):
    engine = Engine(Pool(1, 0))
    ends = (engine._wake_out, engine.wake_in)
    engine.close()
    assert all(end.fileno() == -1 for end in ends)
    assert engine._selector.get_map() is None
