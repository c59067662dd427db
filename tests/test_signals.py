"""Signals as a queue, with real ones."""

import os
import select
import signal
import threading

import pytest

if os.name != "posix":
    pytest.skip("the master is POSIX only", allow_module_level=True)

from fastfcgi.signals import SignalQueue, blocked, ending_of, name_of


@pytest.fixture
def queue():
    before = signal.getsignal(signal.SIGUSR1)
    made = SignalQueue([signal.SIGUSR1, signal.SIGUSR2])
    yield made
    made.close()
    assert signal.getsignal(signal.SIGUSR1) == before


def readable(queue: SignalQueue) -> bool:
    return bool(select.select([queue.fd], [], [], 0)[0])


def send(*numbers: int) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


def test_signals_come_in_their_order(queue) -> None:
    assert queue.take() == []
    send(signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1)
    assert readable(queue)
    assert queue.take() == [signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1]
    assert not readable(queue)
    assert queue.take() == []


def test_a_storm_loses_no_wake_up(queue) -> None:
    for _ in range(100_000 // 64):  # more than the pipe takes
        send(*[signal.SIGUSR1] * 64)
    assert readable(queue)
    assert len(queue.take()) > 0
    assert not readable(queue)
    send(signal.SIGUSR2)
    assert readable(queue)
    assert queue.take() == [signal.SIGUSR2]


def test_who_polls_is_woken_up(queue) -> None:
    timer = threading.Timer(0.05, send, [signal.SIGUSR1])
    timer.start()
    poll = select.poll()
    poll.register(queue.fd, select.POLLIN)
    assert poll.poll(30_000)
    timer.join()
    assert queue.take() == [signal.SIGUSR1]


def test_blocked_signals_come_afterwards(queue) -> None:
    with blocked(queue.numbers):
        send(signal.SIGUSR1)
        assert queue.take() == []
    assert queue.take() == [signal.SIGUSR1]


def test_those_that_were_blocked_by_the_program_before_come_now() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    # To this thread: another one, of whatever ran before, has not blocked it.
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
    queue = SignalQueue([signal.SIGUSR1])
    try:
        assert queue.take() == [signal.SIGUSR1]
        assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        queue.close()


def test_term_interrupts_what_it_shall() -> None:
    class Interrupted(BaseException):
        pass

    queue = SignalQueue([signal.SIGTERM, signal.SIGHUP])
    try:
        queue.interrupt(Interrupted)
        send(signal.SIGHUP)
        with pytest.raises(Interrupted):
            send(signal.SIGTERM)
            signal.sigtimedwait([], 10)
        queue.interrupt(None)
        send(signal.SIGTERM)
        assert queue.take() == [signal.SIGHUP, signal.SIGTERM, signal.SIGTERM]
    finally:
        queue.close()


def test_a_child_leaves_the_pipe_alone(queue) -> None:
    with blocked(queue.numbers):
        pid = os.fork()
        if pid == 0:
            queue.abandon()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, queue.numbers)
            send(signal.SIGUSR1)
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGUSR1
    assert queue.take() == []
    assert not readable(queue)


def test_names() -> None:
    assert name_of(signal.SIGHUP) == "HUP"
    assert name_of(4711) == "4711"
    assert ending_of(9) == "killed by KILL"
    assert ending_of(3 << 8) == "exit status 3"
