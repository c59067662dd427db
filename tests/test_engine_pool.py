"""The bounded pool of threads."""

import threading

import pytest
from helpers import DEADLINE, wait_until

from fastfcgi.engine import Pool


class Job:
    """A job that runs until it is let go."""

    def __init__(self):
        self.begun = threading.Event()
        self.go = threading.Event()
        self.thread = None

    def __call__(self):
        self.thread = threading.current_thread()
        self.begun.set()
        assert self.go.wait(DEADLINE)


@pytest.fixture
def jobs():
    """Makes jobs; those still running at the end are let go."""
    made = []

    def make(count):
        made.extend(Job() for _ in range(count))
        return made[-count:]

    yield make
    for job in made:
        job.go.set()


@pytest.fixture
def pool_of():
    pools = []

    def make(threads, queue_size):
        pools.append(Pool(threads, queue_size))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def submitted(pool, jobs):
    for job in jobs:
        assert pool.submit(job)
        assert job.begun.wait(DEADLINE)


def test_threads_are_started_when_they_are_needed(pool_of, jobs):
    before = set(threading.enumerate())
    pool = pool_of(8, 8)
    assert not set(threading.enumerate()) - before
    submitted(pool, jobs(3))
    assert len(set(threading.enumerate()) - before) == 3
    assert (pool.busy, pool.idle, pool.pending) == (3, 0, 0)


def test_an_idle_thread_is_used_again(pool_of, jobs):
    pool = pool_of(8, 8)
    threads = set()
    for job in jobs(5):
        submitted(pool, [job])
        threads.add(job.thread)
        job.go.set()
        wait_until(lambda: pool.idle == 1)
    assert len(threads) == 1
    assert (pool.busy, pool.idle, pool.pending) == (0, 1, 0)


def test_no_more_threads_than_that(pool_of, jobs):
    pool = pool_of(2, 8)
    running, waiting = jobs(2), jobs(3)
    submitted(pool, running)
    for job in waiting:
        assert pool.submit(job)
    assert (pool.busy, pool.pending) == (2, 3)
    assert not any(job.begun.is_set() for job in waiting)
    for job in running + waiting:
        job.go.set()
    wait_until(lambda: not pool.pending and not pool.busy)
    assert {job.thread for job in waiting} <= {job.thread for job in running}


def test_jobs_that_wait_are_run_in_order(pool_of, jobs):
    pool = pool_of(1, 8)
    (first,) = jobs(1)
    submitted(pool, [first])
    order = []
    for i in range(5):
        assert pool.submit(lambda i=i: order.append(i))
    first.go.set()
    wait_until(lambda: len(order) == 5)
    assert order == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("queue_size", [0, 1, 3])
def test_no_more_jobs_wait_than_that(queue_size, pool_of, jobs):
    pool = pool_of(2, queue_size)
    running, waiting = jobs(2), jobs(queue_size + 1)
    submitted(pool, running)
    assert [pool.submit(job) for job in waiting] == [True] * queue_size + [False]
    running[0].go.set()
    for job in waiting[:-1]:
        job.go.set()
    wait_until(lambda: pool.idle == 1)
    assert pool.submit(waiting[-1])
    assert not waiting[-1].go.is_set() and waiting[-1].begun.wait(DEADLINE)


def test_a_job_that_fails_ends_nothing(pool_of, caplog):
    pool = pool_of(1, 8)
    done = threading.Event()

    def fail(kind):
        raise kind("failed as asked")

    for kind in (RuntimeError, SystemExit, KeyboardInterrupt):
        assert pool.submit(lambda kind=kind: fail(kind))
    assert pool.submit(done.set)
    assert done.wait(DEADLINE)
    assert caplog.text.count("a job of the thread pool failed") == 3
    wait_until(lambda: (pool.busy, pool.idle) == (0, 1))


def test_closed_idle_threads_end_and_busy_ones_after_their_job(pool_of, jobs):
    pool = pool_of(4, 4)
    running, done = jobs(2), jobs(1)
    submitted(pool, running + done)
    done[0].go.set()
    wait_until(lambda: pool.idle == 1)
    pool.close()
    done[0].thread.join(DEADLINE)
    assert not done[0].thread.is_alive()
    assert all(job.thread.is_alive() for job in running)
    assert pool.busy == 2
    for job in running:
        job.go.set()
        job.thread.join(DEADLINE)
        assert not job.thread.is_alive()
    assert pool.busy == 0


def test_closed_what_waits_is_still_run(pool_of, jobs):
    pool = pool_of(1, 4)
    (first,) = jobs(1)
    submitted(pool, [first])
    done = threading.Event()
    assert pool.submit(done.set)
    pool.close()
    first.go.set()
    assert done.wait(DEADLINE)


def test_a_system_that_starts_no_more_threads(pool_of, jobs, monkeypatch, caplog):
    """Shared hosting limits threads: the pool goes on with those that it has."""
    pool = pool_of(8, 2)
    submitted(pool, jobs(1))

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        waiting = jobs(3)
        assert [pool.submit(job) for job in waiting] == [True, True, False]
    assert "can't start new thread" in caplog.text


def test_a_system_that_starts_no_thread_at_all(pool_of, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    pool = pool_of(8, 8)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert not pool.submit(print)
    done = threading.Event()
    assert pool.submit(done.set) and done.wait(DEADLINE)


def test_no_job_is_lost_or_run_twice(pool_of):
    pool = pool_of(4, 100_000)
    lock, seen = threading.Lock(), []

    def job(i):
        with lock:
            seen.append(i)

    def submit(start):
        for i in range(start, start + 500):
            assert pool.submit(lambda i=i: job(i))

    threads = [threading.Thread(target=submit, args=(i * 500,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    wait_until(lambda: len(seen) == 2000)
    assert sorted(seen) == list(range(2000))
