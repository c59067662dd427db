# cython: language_level=3, freethreading_compatible=True
"""The connections of the load generator: each makes its next request when it has its answer.

One thread, without the GIL; nothing is allocated while it runs. The rules of this file:

* An event means "read or write until the socket has no more": epoll reports edges. poll(), where
  there is no epoll, reports levels, for which the same is right.
* A request that cannot go on ends with a reason (REASONS), once, in finish(); nothing raises.
* Every request ends within the timeout of its start, so the run ends too.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.errno cimport EAGAIN, EADDRNOTAVAIL, EINPROGRESS, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint64_t

from fastfcgi._load_answer cimport (
    BROKEN,
    CLOSED,
    COMPLETE,
    CONNECT,
    Outcome,
    PROTOCOL,
    RIGHT,
    Reason,
    TIMEOUT,
    new_answer,
    take_in,
)
from fastfcgi._load_lane cimport LaneResult, count_error, count_right

import os

cdef extern from "_load.h":
    const int MSG_NOSIGNAL
    const int LOAD_READ
    const int LOAD_WRITE
    const int LOAD_HANGUP
    int load_socket(int family) noexcept nogil
    int load_socket_error(int fd) noexcept nogil
    int load_connect(int fd, const LoadAddress* to) noexcept nogil
    LoadPoller* load_poller_new(int slots) noexcept nogil
    void load_poller_free(LoadPoller* poller) noexcept nogil
    int load_poller_watch(
        LoadPoller* poller, int slot, int fd, int what, bint is_new
    ) noexcept nogil
    void load_poller_forget(LoadPoller* poller, int slot) noexcept nogil
    int load_poller_wait(LoadPoller* poller, int milliseconds) noexcept nogil
    int load_poller_next(LoadPoller* poller, int* slot) noexcept nogil
    int close(int fd) noexcept nogil
    ssize_t recv(int fd, void* buffer, size_t size, int flags) noexcept nogil
    ssize_t send(int fd, const void* data, size_t size, int flags) noexcept nogil

cdef enum:
    MILLISECOND = 1000000
    BUFFER_SIZE = 262144
    MANY_CALLS = 16             # to one socket before others have their turn
    TICK = 100 * MILLISECOND    # between two looks at signals
    SCAN_MS = 50
    SCAN = SCAN_MS * MILLISECOND  # between two looks at timeouts
    RETRY = 10 * MILLISECOND    # after a connect that failed


# ---------------------------------------------------------------------------------------------
# From one request to the next
# ---------------------------------------------------------------------------------------------

cdef void drop(Run* run, Connection* c) noexcept nogil:
    """Close the connection, if there is one."""
    if c.fd >= 0:
        load_poller_forget(run.poller, c.slot)
        close(c.fd)
        c.fd = -1


cdef void finish(Run* run, Connection* c, Reason reason, int64_t code) noexcept nogil:
    """Count the request and go on to the next one."""
    cdef Counts* lane = c.lane
    cdef uint64_t delay = lane.pause
    run.now = load_clock()
    if reason == RIGHT:
        count_right(lane, c.started, run.now)
    else:
        count_error(lane, reason, code, run.now)
        if reason == CONNECT:
            delay = max(delay, <uint64_t>RETRY)
        # Nothing goes right any more: that ends, however many requests are left.
        if not run.limited and run.now - lane.last_right > 2 * run.timeout:
            lane.left = 0
    if delay == 0:
        start(run, c)
        return
    c.state = IDLE
    c.wake_at = run.now + delay
    run.idle += 1
    run.next_scan = min(run.next_scan, run.now + MILLISECOND)
    if c.fd >= 0:
        load_poller_watch(run.poller, c.slot, c.fd, 0, False)


cdef void fail(Run* run, Connection* c, Reason reason, int64_t code) noexcept nogil:
    drop(run, c)
    finish(run, c, reason, code)


cdef void start(Run* run, Connection* c) noexcept nogil:
    """Make the next request, if there is to be one."""
    if c.lane.left == 0 or run.now >= run.end:
        drop(run, c)
        c.state = DONE
        run.active -= 1
        return
    c.lane.left -= 1
    c.started = run.now
    begin(run, c)


cdef void begin(Run* run, Connection* c) noexcept nogil:
    """Send the request from its beginning, over a new connection where there is none."""
    c.sent = 0
    c.begun = c.unsendable = c.pushing = False
    c.waits_for = EAGAIN
    new_answer(&c.answer, &c.lane.wanted)
    if c.fd >= 0:
        c.reused = True
        c.state = ACTIVE
        push(run, c)
        return
    c.reused = False
    c.fd = load_socket(run.family)
    if c.fd < 0:
        fail(run, c, CONNECT, errno)
    elif run.blocked_count:
        block(run, c)  # behind those that wait
    else:
        connect(run, c)


cdef void block(Run* run, Connection* c) noexcept nogil:
    c.state = BLOCKED
    run.blocked[(run.blocked_at + run.blocked_count) % run.count] = c.slot
    run.blocked_count += 1


cdef void connect(Run* run, Connection* c) noexcept nogil:
    cdef int what = LOAD_READ
    c.state = ACTIVE
    if load_connect(c.fd, &run.address) < 0:
        if errno == EAGAIN or errno == EADDRNOTAVAIL:
            # A unix socket's queue is full, or all local ports are in use.
            c.waits_for = errno
            block(run, c)
            return
        if errno != EINPROGRESS and errno != EINTR:
            fail(run, c, CONNECT, errno)
            return
        c.state = CONNECTING
        what = LOAD_READ | LOAD_WRITE
    if load_poller_watch(run.poller, c.slot, c.fd, what, True) < 0:
        fail(run, c, CONNECT, errno)
    elif c.state == ACTIVE:
        c.lane.connects += 1
        push(run, c)


cdef void connected(Run* run, Connection* c) noexcept nogil:
    """What became of connecting that took some time."""
    cdef int error = load_socket_error(c.fd)
    if error:
        fail(run, c, CONNECT, error)
        return
    c.state = ACTIVE
    c.lane.connects += 1
    load_poller_watch(run.poller, c.slot, c.fd, LOAD_READ, False)
    push(run, c)


cdef void unblock(Run* run) noexcept nogil:
    """Let those connect that wait for it, in their order, as far as the server takes them."""
    cdef int tries = run.blocked_count
    cdef Connection* c
    while tries and run.blocked_count:
        tries -= 1
        c = &run.connections[run.blocked[run.blocked_at]]
        run.blocked_at = (run.blocked_at + 1) % run.count
        run.blocked_count -= 1
        if run.now - c.started > run.timeout:
            fail(run, c, CONNECT, c.waits_for)
            continue
        connect(run, c)
        if c.state == BLOCKED:
            # It is the last one now; the others came later, so it becomes the first again.
            run.blocked_at = (run.blocked_at + run.count - 1) % run.count
            run.blocked[run.blocked_at] = c.slot
            return


# ---------------------------------------------------------------------------------------------
# Sockets
# ---------------------------------------------------------------------------------------------

cdef void push(Run* run, Connection* c) noexcept nogil:
    """Send what the socket takes of the request."""
    cdef Counts* lane = c.lane
    cdef Py_ssize_t sent
    cdef int calls = 0
    while c.sent < lane.request_size and not c.unsendable:
        if calls == MANY_CALLS:
            break
        calls += 1
        sent = send(c.fd, lane.request + c.sent, lane.request_size - c.sent, MSG_NOSIGNAL)
        if sent >= 0:
            c.sent += sent
        elif errno == EAGAIN:
            break
        elif errno != EINTR:
            # What the peer wrote before may still be there; reading tells.
            c.unsendable = True
    if c.sent < lane.request_size and not c.unsendable:
        c.pushing = True
        watch(run, c)
    elif c.pushing:
        c.pushing = False
        watch(run, c)


cdef void watch(Run* run, Connection* c) noexcept nogil:
    """Have epoll report what there is, again if it has reported it before."""
    cdef int what = LOAD_READ | LOAD_WRITE if c.pushing else LOAD_READ
    load_poller_watch(run.poller, c.slot, c.fd, what, False)


cdef void pull(Run* run, Connection* c, bint hung_up) noexcept nogil:
    """Receive what is there of the answer."""
    cdef ssize_t size
    cdef Outcome outcome
    for _ in range(MANY_CALLS):
        size = recv(c.fd, run.memory, BUFFER_SIZE, 0)
        if size < 0 and errno == EINTR:
            continue
        if size < 0 and errno == EAGAIN:
            return
        if size <= 0:
            lost(run, c, errno if size < 0 else 0)
            return
        c.begun = True
        c.lane.bytes_received += size
        outcome = take_in(&c.answer, run.memory, size)
        if outcome == BROKEN:
            fail(run, c, PROTOCOL, c.answer.code)
            return
        if outcome == COMPLETE:
            if hung_up or not c.lane.keep_conn or c.sent < c.lane.request_size:
                drop(run, c)
            finish(run, c, c.answer.reason, c.answer.code)
            return
        if size < BUFFER_SIZE and not hung_up:
            return
    watch(run, c)  # others have their turn


cdef void lost(Run* run, Connection* c, int error) noexcept nogil:
    """The peer has closed the connection. A kept one that it closed between two answers is what
    every client has to reckon with: the request is made again, once."""
    if c.reused and not c.begun:
        drop(run, c)
        begin(run, c)
    else:
        fail(run, c, CLOSED, error)


cdef void take_event(Run* run, Connection* c, int events) noexcept nogil:
    if c.state == CONNECTING:
        connected(run, c)
    elif c.state == IDLE:
        if events & LOAD_HANGUP:
            drop(run, c)
    elif c.state == ACTIVE:
        if events & LOAD_WRITE:
            push(run, c)
        if events & (LOAD_READ | LOAD_HANGUP):
            pull(run, c, events & LOAD_HANGUP)


cdef void scan(Run* run) noexcept nogil:
    """End what takes too long, wake what has waited long enough."""
    cdef Connection* c
    for slot in range(run.count):
        c = &run.connections[slot]
        if c.state == IDLE:
            if run.now >= c.wake_at or run.now >= run.end or c.lane.left == 0:
                run.idle -= 1
                if c.fd >= 0:
                    load_poller_watch(run.poller, c.slot, c.fd, LOAD_READ, False)
                start(run, c)
        elif c.state == ACTIVE or c.state == CONNECTING:
            if run.now - c.started > run.timeout:
                fail(run, c, TIMEOUT, 0)
    run.next_scan = run.now + (MILLISECOND if run.idle else SCAN)


cdef bint turn(Run* run) noexcept nogil:
    """Go on for a while, or until a signal comes; whether all is done."""
    cdef uint64_t until = run.now + TICK
    cdef int slot = 0, events, found
    while run.active:
        if run.now >= until:
            return False
        found = load_poller_wait(run.poller, 1 if run.idle or run.blocked_count else SCAN_MS)
        run.now = load_clock()
        while True:
            events = load_poller_next(run.poller, &slot)
            if events == 0:
                break
            take_event(run, &run.connections[slot], events)
        if run.blocked_count:
            unblock(run)
        if run.now >= run.next_scan:
            scan(run)
        if found < 0:
            return False
    return True


# ---------------------------------------------------------------------------------------------
# The run
# ---------------------------------------------------------------------------------------------

cdef int prepare(Run* run, list results) except -1:
    """Get everything that the run needs, all of its memory too."""
    cdef LaneResult result
    cdef Connection* c
    cdef int slot = 0
    run.count = sum((<LaneResult>result).lane.connections for result in results)
    run.connections = <Connection*>PyMem_Calloc(run.count, sizeof(Connection))
    run.blocked = <int*>PyMem_Calloc(run.count, sizeof(int))
    run.memory = <uint8_t*>PyMem_Malloc(BUFFER_SIZE)
    if run.connections == NULL or run.blocked == NULL or run.memory == NULL:
        raise MemoryError()
    run.poller = load_poller_new(run.count)
    if run.poller == NULL:
        raise OSError(errno, os.strerror(errno))
    for result in results:
        for _ in range(result.lane.connections):
            c = &run.connections[slot]
            c.lane = &result.counts
            c.slot = slot
            c.fd = -1
            slot += 1
    return 0


cdef void start_all(Run* run) noexcept nogil:
    run.active = run.count
    run.next_scan = run.now + SCAN
    for slot in range(run.count):
        start(run, &run.connections[slot])


cdef void release(Run* run) noexcept:
    if run.poller != NULL:
        for slot in range(run.count):
            drop(run, &run.connections[slot])
        load_poller_free(run.poller)
    PyMem_Free(run.connections)
    PyMem_Free(run.blocked)
    PyMem_Free(run.memory)
