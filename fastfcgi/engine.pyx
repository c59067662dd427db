# cython: language_level=3, freethreading_compatible=True
"""The threads that poll and run requests, and who of them does which when.

Handing a request from one thread to another costs more than most requests do, so the thread that
polls, the leader, serves what is ready itself, one request after another. Only when an
application turns out to block does another thread take the poller over:

* A path that is known to block (scores.pyx), or not known at all, is handed over beforehand: the
  leader frees the poller, calls one sleeping thread and goes on into the application. If that
  returns before the other thread comes, the poller is taken back.
* A deputy, one of the sleeping threads, looks at the leader every few milliseconds. If it finds it
  in the same call of the application again, it takes the poller.
* Where we wait ourselves, for a body or for room to send, the poller is freed first (hand_over).
* A thread that comes back from an application and finds the leader inside another one takes the
  poller: holding the GIL, it knows that the leader does not.

All of this changes with the GIL held; without the GIL it is only looked at. There is one thread
more than requests may run at once: somebody always polls.

Without a GIL threads need not take turns: each polls and serves for itself (work_in_parallel).
"""

import logging
import os
import socket
import sys
import threading
import weakref

from cpython.pythread cimport (
    WAIT_LOCK,
    PyThread_acquire_lock,
    PyThread_get_thread_ident,
    PyThread_release_lock,
    PyThread_type_lock,
)

from fastfcgi._sys cimport ff_add, ff_now, ff_thread_cpu
from fastfcgi.board cimport Board
from fastfcgi.poller cimport READ as POLL_READ
from fastfcgi.poller cimport WRITE as POLL_WRITE
from fastfcgi.poller cimport Poller, new_poller
from fastfcgi.scores cimport BLOCKED, EAGER, Scores

cdef extern from "pythread.h" nogil:
    int PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds, int intr)

logger = logging.getLogger("fastfcgi")

READ = POLL_READ
WRITE = POLL_WRITE

# Seconds between ticks, while something asks for them.
TICK = 1.0
# The same while the server stops, so that it ends soon after its last request.
STOPPING_TICK = 0.05

cdef enum:
    # The phase of the leader.
    FREE = 0                    # there is none
    POLLING = 1                 # it waits, or works in here
    INSIDE = 2                  # it is inside an application
    # The role of a thread that sleeps.
    FOLLOWER = 0
    DEPUTY = 1
    CALLED = 2
    # Why a deputy woke by itself.
    LATE = 1
    QUIET = 2

# Seconds. How often the deputy looks: seldom while nothing blocks, since each look shoves somebody
# off a core; often for a while after something did. After a time of quiet it sleeps on.
cdef double LAZY_LOOK = 0.008
cdef double KEEN_LOOK = 0.001
cdef double KEEN_TIME = 0.25
cdef double QUIET_TIME = 0.05

# Seconds after which a call is slow: not long, but many requests could have been served.
cdef double SLOW_CALL = 200e-6
# The part of a slow call that is computing; such a call does not block.
cdef double COMPUTING = 0.7

# Seconds that threads are waited for at the end; those in an application are not.
_JOIN_TIMEOUT = 5.0

cdef double NEVER = float("inf")

_engines = weakref.WeakSet()


def _after_fork():
    """A child of fork() has none of the threads: what it holds of them must serve nothing."""
    for engine in list(_engines):
        engine.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


cdef class Engine(Desk):
    """Watches handlers and runs requests.

    Args:
        threads: The most requests that run at once; threads are started when needed.
        queue_size: The most that wait for one.
        parallel: Whether threads poll side by side; by default where there is no GIL.
        poller: A Poller; by default the best one.
        board: Shows what runs; for as many threads.

    Attributes:
        slow_timeout: Seconds after which deadlines are looked at on account of a request that
            runs; 0 for never.
        on_room: Called by run() when a thread is free again that was missed before.
    """

    def __init__(
        self, int threads, int queue_size, parallel=None, Poller poller=None, Board board=None
    ):
        if parallel is None:
            parallel = not getattr(sys, "_is_gil_enabled", lambda: True)()
        if poller is None:
            poller = new_poller(parallel)
        super().__init__(threads, queue_size, poller, board, TICK)
        self.most = threads + 1
        self.parallel = parallel
        self.scores = Scores()
        self.parked = []
        self.workers = set()
        self.blocked_at = -NEVER
        self.halt_out, self.halt_in = socket.socketpair()
        self.halt_in.setblocking(False)
        self.halt_fd = self.halt_out.fileno()
        self.poller.watch(self.halt_fd, -1, READ, False)
        _engines.add(self)

    # ---- requests --------------------------------------------------------------------------

    cdef bint submit(self, Worker worker, Handler handler, object request) except -1:
        """Have a request run; False when every thread is busy and the queue full.

        Args:
            worker: The thread of ours that says so, None for another one.
        """
        if self.parallel and worker is not None and worker.own_handler is None:
            if ff_add(&self.running, 1) <= self.threads:
                worker.own_handler = handler
                worker.own_request = request
                return True
            ff_add(&self.running, -1)
        if not self.enqueue(handler, request):
            return False
        if worker is None or self.parallel:
            self.call_one()
        return True

    cdef int run_job(self, Worker worker) except -1:
        """Run the request that the worker has taken, which may take long."""
        cdef Handler handler = worker.own_handler
        request, worker.own_request = worker.own_request, None
        worker.own_handler = None
        cdef str path = None if self.parallel else handler.path_of(request)
        cdef int score = 0 if path is None else self.scores.score_of(path)
        cdef double cpu = -1.0 if score == 0 else ff_thread_cpu()
        cdef double began = ff_now(), ended = began
        worker.handler = handler
        if worker.slot != NULL:
            handler.describe(request, worker.slot)
            worker.slot.thread = worker.ident
            worker.slot.since = began
        if self.slow_timeout > 0:
            self.attend(began + self.slow_timeout)
        self.enter(worker, score >= EAGER)
        try:
            ended = handler.serve(request)
        except BaseException:
            logger.exception("internal error, a request was lost")
        self.leave(worker)
        worker.handler = None
        if worker.slot != NULL:  # as it is in a child of fork() by now
            worker.slot.since = 0
            worker.slot.requests += 1
        if path is not None:
            self.remember(path, ended - began, cpu)
        return 0

    cdef int remember(self, str path, double wall, double cpu) except -1:
        """Whether a call, which took `wall` seconds and began at `cpu` seconds of CPU (-1 where it
        was not asked), was quick, blocked, or computed, which is neither."""
        if wall < SLOW_CALL:
            self.scores.learn(path, -1)
        elif cpu < 0 or ff_thread_cpu() - cpu < COMPUTING * wall:
            self.scores.learn(path, BLOCKED)
            self.blocked_at = ff_now()
        return 0

    cdef int hand_over(self) except -1:
        """This thread is about to wait: if it leads, somebody else shall."""
        if self.leader is not None and self.leader.ident == PyThread_get_thread_ident():
            self.leader.left = True
            self.free()
        return 0

    # ---- who polls: with the GIL held ------------------------------------------------------

    cdef int free(self) except -1:
        self.leader = None
        self.phase = FREE
        return self.call_one()

    cdef int enter(self, Worker worker, bint eager) except -1:
        """The worker goes into an application."""
        self.seq += 1
        worker.left = self.leader is not worker
        if worker.left:
            return worker.handler.left_alone()
        if eager:
            worker.left = True
            self.free()
            worker.handler.left_alone()
            return 0
        self.phase = INSIDE
        if self.deputy is None:
            self.appoint()
        elif self.dozing:
            self.dozing = False
            PyThread_release_lock(self.deputy.lock)
        return 0

    cdef int leave(self, Worker worker) except -1:
        """The worker is back from an application."""
        ff_add(&self.running, -1)
        if self.room_wanted and not self.finished:
            self.room_wanted = False
            self.call_soon(self.on_room)
        if self.parallel or self.finished:
            return 0
        if self.leader is worker or self.phase == FREE:
            self.leader = worker
            self.phase = POLLING
        elif self.phase == INSIDE:
            # We hold the GIL, so the leader waits for something, or at least for us.
            self.take_over(worker)
        return 0

    cdef int take_over(self, Worker worker) except -1:
        cdef Worker other = self.leader
        cdef Handler handler = other.handler  # it may let go of it as soon as others run
        self.leader = worker
        self.phase = POLLING
        other.left = True
        handler.left_alone()
        return 0

    cdef int depose(self, Worker worker) except -1:
        """The deputy suspects that the leader's application blocks."""
        if self.phase != INSIDE or self.seq != worker.seen or worker.role != DEPUTY:
            return 0
        self.deputy = None
        worker.role = CALLED
        self.blocked_at = ff_now()
        return self.take_over(worker)

    cdef int appoint(self) except -1:
        """Have a sleeping thread look at the leader from time to time."""
        cdef Worker worker
        if self.parked:
            worker = self.parked.pop()
            worker.role = DEPUTY
            self.deputy = worker
            self.dozing = False
            PyThread_release_lock(worker.lock)
        elif not self.called:
            self.start_thread()  # it will be one of the sleeping soon
        return 0

    cdef int call_one(self) except -1:
        """Have a sleeping thread look for work, unless one is on its way."""
        cdef Worker worker
        if self.parallel:
            self.nudge()
        elif self.called:
            return 0
        elif self.parked or self.deputy is not None:
            if self.parked:
                worker = self.parked.pop()
            else:
                worker, self.deputy = self.deputy, None
            worker.role = CALLED
            self.called = True
            PyThread_release_lock(worker.lock)
        else:
            self.start_thread()
        return 0

    cdef int start_thread(self) except -1:
        """One more thread, if there may be one and the system lets us."""
        cdef Worker worker
        cdef long number = ff_add(&self.total, 1)
        if number > self.most or self.finished:
            ff_add(&self.total, -1)
            return 0
        worker = Worker()
        if self.board is not None:
            worker.slot = self.board.slot(number - 1)
        name = f"fastfcgi-{number}"
        worker.thread = threading.Thread(target=self._work, args=(worker,), name=name, daemon=True)
        self.called = True
        self.workers.add(worker)
        try:
            worker.thread.start()
        except RuntimeError as error:
            # Shared hosting limits threads: go on with those that there are.
            self.called = False
            self.workers.discard(worker)
            if ff_add(&self.total, -1) == 0:
                raise
            logger.warning("cannot start another thread: %s", error)
            self.most = self.total
            self.threads = max(self.most - 1, 1)
        return 0

    def _work(self, Worker worker):
        worker.ident = PyThread_get_thread_ident()
        self.called = False
        try:
            if self.parallel:
                self.work_in_parallel(worker)
            else:
                self.work_in_turns(worker)
        except BaseException:
            logger.exception("internal error, the server stops")
            self.finish()
        finally:
            ff_add(&self.total, -1)
            self.workers.discard(worker)

    cdef int work_in_turns(self, Worker worker) except -1:
        while not self.finished:
            if self.leader is worker:
                self.lead(worker)
            elif self.leader is None:
                self.leader = worker
                self.phase = POLLING
            elif (self.phase != INSIDE or self.deputy is not None) and self.dequeue(worker):
                self.run_job(worker)
            else:
                self.park(worker)  # as the deputy, if there is none
        if self.leader is worker:
            self.leader = None
        return 0

    cdef int lead(self, Worker worker) except -1:
        """Serve what is ready until another thread leads."""
        cdef Py_ssize_t fd
        while self.leader is worker and not self.finished:
            if self.dequeue(worker):
                self.run_job(worker)
            elif self.next_event < self.event_count:
                self.next_event += 1
                fd = self.fds[self.next_event - 1]
                self.dispatch(fd, self.masks[self.next_event - 1], worker)
            else:
                self.event_count = self.next_event = 0
                self.event_count = self.poller.wait(self.fds, self.masks, MAX_EVENTS)
        return 0

    cdef int park(self, Worker worker) except -1:
        """Sleep until there may be something to do."""
        cdef int why
        if self.deputy is None and self.phase == INSIDE:
            # The leader went in when there was nobody who could look at it.
            worker.role = DEPUTY
            worker.seen = self.seq
            self.deputy = worker
            self.dozing = False
        else:
            worker.role = FOLLOWER
            self.parked.append(worker)
        while worker.role != CALLED:
            with nogil:
                why = self.sleep(worker)
            if self.finished:
                return 0
            if why == LATE:
                self.depose(worker)
            elif why == QUIET and self.phase != INSIDE:
                self.dozing = True
        self.called = False
        return 0

    cdef int sleep(self, Worker worker) noexcept nogil:
        """Sleep until called (0), or as the deputy until the leader seems to block (LATE) or all
        is quiet (QUIET)."""
        cdef double look, quiet = 0.0
        while worker.role != CALLED and not self.finished:
            if worker.role == FOLLOWER or self.dozing:
                PyThread_acquire_lock(worker.lock, WAIT_LOCK)
                worker.seen = self.seq
                quiet = 0.0
                continue
            look = KEEN_LOOK if ff_now() - self.blocked_at < KEEN_TIME else LAZY_LOOK
            if PyThread_acquire_lock_timed(worker.lock, <long long>(1e6 * look), 0) == 1:
                worker.seen = self.seq
            elif worker.seen != self.seq:
                worker.seen = self.seq
                quiet = 0.0
            elif self.phase == INSIDE:
                return LATE
            else:
                quiet += look
                if quiet >= QUIET_TIME:
                    return QUIET
        return 0

    cdef int dispatch(self, Py_ssize_t fd, int mask, Worker worker) except -1:
        """Tell a handler what is ready. A handler's bug ends that handler, not the server."""
        cdef Handler handler = None
        if fd < len(self.table):
            handler = self.table[fd]
        if handler is None:
            return 0  # forgotten since it was found ready
        try:
            handler.ready(mask, worker)
        except Exception:
            logger.exception("internal error, the connection is closed")
            handler.on_failure()
        return 0

    # ---- without a GIL ---------------------------------------------------------------------

    cdef int work_in_parallel(self, Worker worker) except -1:
        cdef Py_ssize_t fd
        cdef int mask
        while not self.finished:
            if worker.own_handler is not None or self.dequeue(worker):
                if self.polling == 0:
                    self.start_thread()
                self.run_job(worker)
                continue
            ff_add(&self.polling, 1)
            try:
                n = self.poller.wait(&fd, &mask, 1)
            finally:
                ff_add(&self.polling, -1)
            if n == 0:
                continue
            if fd == self.halt_fd:
                self.answer_nudge()
            else:
                self.dispatch(fd, mask, worker)
        return 0

    cdef int nudge(self) except -1:
        """Have one polling thread look at the queue."""
        try:
            self.halt_in.send(b"\0")
        except OSError:
            pass  # full: somebody will; closed: it has ended
        return 0

    cdef int answer_nudge(self) except -1:
        if not self.finished:
            self.halt_out.recv(4096)
        self.poller.watch(self.halt_fd, READ, READ, False)
        return 0

    # ---- the end ---------------------------------------------------------------------------

    def close(self):
        """Give back what the engine holds; running requests go on."""
        self.finish()
        end = ff_now() + _JOIN_TIMEOUT
        for worker in list(self.workers):
            if (<Worker>worker).handler is None:
                worker.thread.join(max(end - ff_now(), 0.0))
        poller, self.poller = self.poller, None
        poller.close()
        for sock in (self.wake_out, self.wake_in, self.halt_out, self.halt_in):
            sock.close()

    def disown(self):
        """In a child of fork(): nothing of this is ours."""
        self.finished = True
        self.poller = None
        self.board = None
        for worker in list(self.workers):
            (<Worker>worker).slot = NULL

    def finish(self):
        """Let run() return, and the threads end."""
        cdef Worker worker
        if self.finished:
            return
        self.finished = True
        self.wake()
        self.nudge()
        for worker in list(self.workers):
            if worker.role != CALLED:
                worker.role = CALLED
                PyThread_release_lock(worker.lock)
