"""The engine's polling, its clock and its end (requests and threads: test_engine_threads)."""

import contextlib
import gc
import os
import socket
import sys
import threading
import time
import weakref

import pytest
from helpers import DEADLINE, ENGINES, engine_threads, switches, wait_until
from wired import Wired, get

from fastfcgi.engine import READ, WRITE, Engine
from fastfcgi.handler import Handler

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


class Watched(Handler):
    """One end of a pair of sockets; notes what it is told."""

    def __init__(self, engine, fail=False):
        self.sock, self.peer = socket.socketpair()
        self.sock.setblocking(False)
        super().__init__(self.sock.fileno())
        self.engine = engine
        self.fail = fail
        self.lock = threading.RLock()
        self.calls = []
        self.threads = set()
        self.received = b""

    def on_ready(self, mask):
        self.calls.append(mask)
        self.threads.add(threading.current_thread())
        if self.fail:
            raise RuntimeError("failed as asked")
        if mask & READ:
            self.received += self.sock.recv(100)
        with self.lock:
            if self.engine.parallel and self.mask > 0:  # it is told once
                self.watch(self.mask)

    def watch(self, mask):
        """Be watched for this, and if for the same as before."""
        with self.lock:
            self.engine.unwatch(self)
            self.engine.watch(self, mask)

    def on_failure(self):
        self.calls.append("failure")
        self.engine.unwatch(self)
        self.sock.close()


@pytest.fixture(params=ENGINES)
def new_engine(request):
    """Makes an engine of each kind that there is; its run() is called by running()."""
    return ENGINES[request.param]


@pytest.fixture
def engine(new_engine):
    made = new_engine(1, 0)
    yield made
    made.close()


@pytest.fixture
def watched(engine):
    with contextlib.ExitStack() as stack:

        def make(**options):
            made = Watched(engine, **options)
            stack.callback(made.sock.close)
            stack.callback(made.peer.close)
            stack.callback(engine.unwatch, made)
            return made

        yield make


@contextlib.contextmanager
def running(engine):
    thread = threading.Thread(target=engine.run)
    thread.start()
    yield thread
    engine.finish()
    thread.join(DEADLINE)
    assert not thread.is_alive()


# -------------------------------------------------------------------------------- handlers


def test_a_handler_is_told_what_is_ready(engine, watched):
    one, other = watched(), watched()
    engine.watch(one, READ)
    engine.watch(other, READ)
    one.peer.send(b"abc")
    with running(engine) as runs:
        wait_until(lambda: one.received == b"abc")
        one.peer.send(b"def")
        wait_until(lambda: one.received == b"abcdef")
        assert set(one.calls) == {READ} and one.threads <= set(engine_threads())
        assert runs not in one.threads and other.calls == []


def test_a_handler_may_be_watched_while_others_wait(engine, watched):
    one = watched()
    with running(engine):
        time.sleep(0.05)
        one.peer.send(b"abc")
        engine.watch(one, READ)
        wait_until(lambda: one.received == b"abc")


def test_the_mask_can_be_changed(engine, watched):
    one = watched()
    one.peer.send(b"abc")
    assert one.mask == -1
    engine.watch(one, WRITE)
    assert one.mask == WRITE
    with running(engine):
        wait_until(lambda: one.calls)
        assert set(one.calls) == {WRITE}
        one.watch(READ | WRITE)
        wait_until(lambda: one.received == b"abc")
        assert READ | WRITE in one.calls
        one.watch(0)


def test_a_handler_watched_for_nothing_is_told_nothing(engine, watched):
    one, other = watched(), watched()
    engine.watch(one, READ)
    engine.watch(other, READ)
    engine.watch(one, 0)
    one.peer.send(b"abc")
    other.peer.send(b"abc")
    with running(engine):
        wait_until(lambda: other.received)
        assert one.calls == []
        engine.watch(one, READ)
        wait_until(lambda: one.received)


def test_a_forgotten_handler_is_told_nothing(engine, watched):
    one, other = watched(), watched()
    engine.watch(one, READ)
    engine.watch(other, READ)
    for _ in range(2):
        engine.unwatch(one)
        assert one.mask == -1
    one.peer.send(b"abc")
    other.peer.send(b"abc")
    with running(engine):
        wait_until(lambda: other.received)
        time.sleep(0.02)
        assert one.calls == []


@pytest.mark.skipif("turns" not in ENGINES, reason="one at a time is found, then")
def test_a_handler_forgotten_by_another_in_the_same_round_is_told_nothing():
    """Its descriptor may be another's by now."""
    engine = Engine(1, 0, parallel=False)
    first, second = Watched(engine), Watched(engine)
    with contextlib.closing(engine):
        for one, victim in ((first, second), (second, first)):
            told = one.on_ready
            one.on_ready = lambda mask, told=told, victim=victim: (told(mask), victim.on_failure())
            engine.watch(one, READ)
            one.peer.send(b"abc")
        with running(engine):
            wait_until(lambda: first.calls and second.calls)
            time.sleep(0.02)
        assert sorted(map(str, first.calls + second.calls)) == [str(READ), "failure"]
        for one in (first, second):
            one.sock.close()
            one.peer.close()


def test_a_handler_that_fails_is_told_so_and_ends_nothing(engine, watched, caplog):
    bad, good = watched(fail=True), watched()
    for one in (bad, good):
        engine.watch(one, READ)
        one.peer.send(b"abc")
    with running(engine):
        wait_until(lambda: good.received and "failure" in bad.calls)
    assert bad.calls == [READ, "failure"]
    assert "internal error" in caplog.text and "failed as asked" in caplog.text


def test_a_descriptor_that_cannot_be_watched(engine, watched):
    one = watched()
    one.sock.close()
    with pytest.raises((OSError, ValueError)):
        engine.watch(one, READ)
    assert one.mask == -1


# ----------------------------------------------------------------------- the thread of run()


def test_call_soon_from_any_thread(engine):
    calls = []

    def note():
        calls.append(threading.current_thread())
        if len(calls) == 3:
            engine.finish()

    engine.call_soon(note)
    thread = threading.Thread(target=lambda: (engine.call_soon(note), engine.call_soon(note)))
    thread.start()
    engine.run()
    thread.join(DEADLINE)
    assert calls == [threading.current_thread()] * 3


def test_a_call_that_fails_ends_nothing(engine, caplog):
    def fail(*args):
        raise RuntimeError("failed as asked")

    engine.tick = 0.01
    engine.tickers.add(fail)
    engine.call_soon(fail)
    engine.call_soon(lambda: engine.tickers.add(lambda now: engine.finish()))
    engine.run()
    assert caplog.text.count("internal error, the server goes on") >= 2


def test_a_call_wakes_what_waits_without_end(engine):
    with running(engine):
        time.sleep(0.05)
        called = threading.Event()
        engine.call_soon(called.set)
        assert called.wait(DEADLINE)


def test_many_wake_ups_do_not_block(engine):
    for _ in range(100_000):
        engine.wake()
    engine.call_soon(engine.finish)
    engine.run()


def test_wake_and_finish_after_the_end_are_no_errors(new_engine):
    engine = new_engine(1, 0)
    engine.close()
    engine.wake()
    engine.finish()
    engine.call_soon(print)
    engine.run()


def test_ticks_come_as_often_as_asked_for(engine):
    times = []
    engine.tick = 0.05
    engine.tickers.add(times.append)
    start = time.monotonic()
    with running(engine):
        for _ in range(50):  # wake-ups between them
            engine.wake()
            time.sleep(0.005)
        wait_until(lambda: len(times) >= 3)
        now = time.monotonic()
    assert all(b - a > 0.0499 for a, b in zip([start, *times], times, strict=False))
    assert times[2] <= now


def test_there_are_no_ticks_that_nobody_asked_for(engine, monkeypatch):
    engine.tick = 1e-6
    with running(engine):
        before = time.process_time()
        time.sleep(0.2)
        assert time.process_time() - before < 0.1


def test_tickers_may_take_themselves_out(engine):
    times = []

    def ticker(now):
        times.append(now)
        if len(times) == 2:
            engine.tickers.discard(ticker)

    engine.tick = 0.001
    engine.tickers.add(ticker)
    start = time.monotonic()
    with running(engine):
        wait_until(lambda: len(times) == 2)
        time.sleep(0.02)
    assert len(times) == 2
    assert start < times[0] < times[1] <= time.monotonic()


# --------------------------------------------------------------------------------- deadlines


class Deadline:
    """A connection that is closed when its header_timeout has passed, on an engine that runs.

    Attributes:
        looks: When the engine looked at its connections.
    """

    def __init__(self, engine, seconds):
        self.looks = []
        self.began = time.monotonic()
        self.web = Wired(engine=engine, header_timeout=seconds)
        engine.deadlines = self.look

    def look(self, now):
        self.looks.append(now)
        return self.web.service.on_deadline(now)


def test_a_deadline_comes_in_time_and_not_before(engine):
    with running(engine):
        time.sleep(0.05)
        case = Deadline(engine, 0.3)
        with contextlib.closing(case.web):
            time.sleep(0.2)
            assert not case.web.closed and case.looks == []
            wait_until(lambda: case.web.closed)
            ended = time.monotonic()
    # How long a loaded machine takes to run a thread is not in our hands.
    assert 0.3 <= ended - case.began < 0.3 + 2
    assert len(case.looks) <= 3  # not just often enough to hit it
    assert all(look - case.began >= 0.3 - 0.001 for look in case.looks)


def test_a_later_deadline_wakes_nobody_and_an_earlier_one_does(engine):
    with running(engine):
        case = Deadline(engine, 100)
        with contextlib.closing(case.web):
            first = engine.wakes_at
            assert 99 < first - time.monotonic() <= 100
            case.web.sock.send(get())
            wait_until(lambda: case.web.channel.served)
            case.web.response()
            assert case.web.channel.on_tick(time.monotonic()) > first
            assert engine.wakes_at == first
            with contextlib.closing(Deadline(engine, 0.1).web) as other:
                assert engine.wakes_at < first
                wait_until(lambda: other.closed)


def test_deadlines_that_fail_do_not_end_the_others(engine, caplog):
    def fail(now):
        looks.append(now)
        if len(looks) == 1:
            raise RuntimeError("failed as asked")

    looks = []
    with running(engine):
        case = Deadline(engine, 0.05)
        with contextlib.closing(case.web):
            engine.deadlines = fail
            wait_until(lambda: looks)
            engine.call_soon(looks.clear)
            wait_until(lambda: not looks)
    assert "failed as asked" in caplog.text


# ------------------------------------------------------------------------------------ its end


def test_all_threads_end(new_engine):
    before = set(engine_threads())
    engine = new_engine(4, 0)
    with running(engine):
        wait_until(lambda: len(engine_threads()) > len(before))
    engine.close()
    assert set(engine_threads()) == before
    assert (engine.busy, engine.idle, engine.pending) == (0, 0, 0)


def test_it_may_end_before_it_runs(new_engine):
    engine = new_engine(1, 0)
    engine.finish()
    engine.run()
    engine.close()
    assert engine.idle == 0


@linux
def test_close_gives_descriptors_back(new_engine):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        engine = new_engine(1, 0)
        with running(engine):
            pass
        assert len(os.listdir("/proc/self/fd")) > before
        engine.close()
        assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_keeps_an_engine_that_has_ended(new_engine):
    engine = new_engine(1, 0)
    with running(engine):
        pass
    engine.close()
    there = weakref.ref(engine)
    del engine
    gc.collect()
    assert there() is None


@linux
def test_nothing_wakes_up_while_nothing_happens(engine, watched):
    """Idle connections and a deadline that is far away included."""
    case = Deadline(engine, 100)
    engine.watch(watched(), READ)
    with contextlib.closing(case.web), running(engine) as runs:
        wait_until(engine_threads)
        time.sleep(0.2)
        before = {one: switches(one) for one in [runs, *engine_threads()]}
        time.sleep(1)
        assert {one: switches(one) for one in [runs, *engine_threads()]} == before
