# cython: language_level=3, freethreading_compatible=True
"""Makes requests to a FastCGI server as fast as it answers, and checks every answer.

Closed loop: a connection makes its next request when it has its answer. One thread, without the
GIL; nothing is allocated while it runs. No policy lives here: what is asked comes in as bytes.

The rules of this file:

* An event means "read or write until the socket has no more": epoll reports edges. poll(), where
  there is no epoll, reports levels, for which the same is right.
* A request that cannot go on ends with a reason (REASONS), once, in finish(); nothing raises.
* Every request ends within the timeout of its start, so the run ends too.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.errno cimport EAGAIN, EADDRNOTAVAIL, EINPROGRESS, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset

import math
import os
import socket

from fastfcgi.exceptions import ConfigurationError
from fastfcgi.sockets import parse_address

cdef extern from "_load.h":
    const int AF_UNIX
    const int MSG_NOSIGNAL
    const int LOAD_READ
    const int LOAD_WRITE
    const int LOAD_HANGUP
    ctypedef struct LoadAddress:
        pass
    ctypedef struct LoadPoller:
        pass
    uint64_t load_clock() noexcept nogil
    int load_highest_bit(uint64_t value) noexcept nogil
    int load_socket(int family) noexcept nogil
    int load_socket_error(int fd) noexcept nogil
    int load_unix_address(LoadAddress* out, const char* path, size_t length) noexcept nogil
    void load_inet_address(
        LoadAddress* out, bint six, const char* host, int port, int scope
    ) noexcept nogil
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
    int strncasecmp(const char* a, const char* b, size_t size) noexcept nogil

cdef enum:
    HEADER_LEN = 8
    END_REQUEST_LEN = 8
    TYPE_END_REQUEST = 3
    TYPE_STDOUT = 6
    TYPE_STDERR = 7

cdef enum Reason:
    RIGHT
    CONNECT
    TIMEOUT
    CLOSED
    PROTOCOL
    REFUSED
    APP_STATUS
    STATUS
    NO_HEADER
    DIFFERENT
    REASONS_END

REASONS = (
    "",
    "connect failed",
    "timeout",
    "closed early",
    "protocol error",
    "request refused",
    "wrong app_status",
    "wrong status",
    "no response header",
    "different answer",
)

# Further: how the first one is told, {} being its code.
_DETAILS = ("", "", "", "", "", "protocol_status {}", "app_status {}", "status {}", "",
            "from byte {} of STDOUT on")

cdef enum Broken:
    OTHER_VERSION
    OTHER_REQUEST
    OTHER_TYPE
    AFTER_STREAM
    AFTER_END
    END_LENGTH

_BROKEN = (
    "a record that is not of version 1",
    "a record of another request_id",
    "a record of a type that no web server is sent",
    "a record of a stream after its end",
    "a record after END_REQUEST",
    "END_REQUEST has not 8 bytes",
)

cdef enum State:
    IDLE            # waits for wake_at, with a connection or without
    BLOCKED         # the server's queue of connections is full
    CONNECTING
    ACTIVE          # a request is under way
    DONE

cdef enum Outcome:
    MORE
    COMPLETE
    BROKEN

cdef enum:
    SECOND = 1000000000
    MILLISECOND = 1000000
    BUFFER_SIZE = 262144
    MANY_CALLS = 16             # to one socket before others have their turn
    TICK = 100 * MILLISECOND    # between two looks at signals
    SCAN_MS = 50
    SCAN = SCAN_MS * MILLISECOND  # between two looks at timeouts
    # A latency of 2**k to 2**(k+1) ns is counted in one of 128 buckets: they are 0.8 % wide.
    FINE_BITS = 7
    FINE = 1 << FINE_BITS
    BUCKETS = (64 - FINE_BITS + 1) << FINE_BITS
    RETRY = 10 * MILLISECOND    # after a connect that failed
    LINE_SIZE = 16              # what is kept of a header line: enough for a status

# For each address of a host that has several, to find one that answers.
PROBE_SECONDS = 5.0


cdef struct Counts:
    # What is asked and how often
    const uint8_t* request
    Py_ssize_t request_size
    const uint8_t* expected     # NULL: only the response's status is looked at
    Py_ssize_t expected_size
    int request_id
    int status                  # 0: any below 400
    bint keep_conn
    uint64_t pause
    uint64_t left               # requests that may still be started
    # What came of it
    uint64_t right
    uint64_t connects
    uint64_t bytes_received
    uint64_t total              # of all latencies, in ns
    uint64_t longest
    uint64_t last_right         # when
    uint64_t last_end           # when
    uint64_t errors[<int>REASONS_END]
    int64_t first[<int>REASONS_END]
    uint64_t* buckets


cdef struct Connection:
    Counts* lane
    int slot
    int fd
    State state
    bint reused                 # it has brought an answer before
    bint unsendable             # the peer takes no more, but may have answered
    uint64_t started            # when
    uint64_t wake_at            # when
    Py_ssize_t sent
    bint pushing                # waits until the socket takes more
    # The answer
    bint begun                  # a byte of it is there
    bint ended                  # END_REQUEST is
    bint stdout_ended
    bint stderr_ended
    bint header_ended
    Reason reason               # what is wrong with it, but the connection goes on
    int64_t code
    Py_ssize_t matched          # bytes of STDOUT that are as expected
    int status
    int line_length
    uint8_t line[<int>LINE_SIZE]
    # The record that is under way
    int type
    int content_left
    int padding_left
    int head_length
    uint8_t head[<int>HEADER_LEN]


cdef struct Run:
    LoadAddress address
    int family
    LoadPoller* poller
    Connection* connections
    int count
    int active                  # connections that are not DONE
    int idle                    # that wait for wake_at
    int* blocked                # a ring of slots
    int blocked_at
    int blocked_count
    uint8_t* memory
    uint64_t timeout
    uint64_t end                # no request is started after it
    bint limited                # by time
    uint64_t now
    uint64_t next_scan


# ---------------------------------------------------------------------------------------------
# What comes back
# ---------------------------------------------------------------------------------------------

cdef inline void blame(Connection* c, Reason reason, int64_t code) noexcept nogil:
    """The first thing that is wrong is the reason."""
    if c.reason == RIGHT:
        c.reason = reason
        c.code = code


cdef void take_line(Connection* c) noexcept nogil:
    """One line of the response header is there, its first bytes in c.line."""
    cdef int pos = 7, number = 0, digits = 0
    if c.line_length == 0 or (c.line_length == 1 and c.line[0] == c"\r"):
        c.header_ended = True
    elif c.line_length >= 7 and strncasecmp(<const char*>c.line, b"status:", 7) == 0:
        while pos < LINE_SIZE and c.line[pos] == c" ":
            pos += 1
        while pos < min(LINE_SIZE, c.line_length) and c"0" <= c.line[pos] <= c"9":
            number = 10 * number + c.line[pos] - c"0"
            digits += 1
            pos += 1
        c.status = number if digits == 3 else 0
    c.line_length = 0


cdef void read_header(Connection* c, const uint8_t* p, Py_ssize_t size) noexcept nogil:
    """The next part of the response header; without a line for it the status is 200."""
    cdef const uint8_t* end
    cdef Py_ssize_t length
    while size and not c.header_ended:
        end = <const uint8_t*>memchr(p, c"\n", size)
        length = size if end == NULL else end - p
        if c.line_length < LINE_SIZE:
            memcpy(c.line + c.line_length, p, min(length, LINE_SIZE - c.line_length))
            c.line_length = <int>min(c.line_length + length, LINE_SIZE)
        if end == NULL:
            return
        take_line(c)
        p += length + 1
        size -= length + 1


cdef void compare(Connection* c, const uint8_t* p, Py_ssize_t size) noexcept nogil:
    cdef const uint8_t* expected = c.lane.expected + c.matched
    cdef Py_ssize_t common = min(size, c.lane.expected_size - c.matched), pos = 0
    if c.reason != RIGHT:
        return
    if memcmp(expected, p, common) == 0:
        c.matched += common
        if common < size:
            blame(c, DIFFERENT, c.matched)
        return
    while expected[pos] == p[pos]:
        pos += 1
    blame(c, DIFFERENT, c.matched + pos)


cdef void take_end(Connection* c) noexcept nogil:
    """END_REQUEST is there, in c.head; the answer is judged."""
    cdef int64_t app_status = (
        (<uint32_t>c.head[0] << 24) | (c.head[1] << 16) | (c.head[2] << 8) | c.head[3]
    )
    c.ended = True
    if c.head[4] != 0:
        # More to the point than what is missing in the answer.
        c.reason = RIGHT
        blame(c, REFUSED, c.head[4])
    if app_status != 0:
        blame(c, APP_STATUS, app_status)
    if c.lane.expected != NULL:
        if c.matched < c.lane.expected_size:
            blame(c, DIFFERENT, c.matched)
    elif not c.header_ended:
        blame(c, NO_HEADER, 0)
    elif c.lane.status:
        if c.status != c.lane.status:
            blame(c, STATUS, c.status)
    elif not 100 <= c.status < 400:
        blame(c, STATUS, c.status)


cdef Outcome take_header(Connection* c, const uint8_t* p) noexcept nogil:
    cdef int request_id = (p[2] << 8) | p[3], broken = -1
    c.type = p[1]
    c.content_left = (p[4] << 8) | p[5]
    c.padding_left = p[6]
    if p[0] != 1:
        broken = OTHER_VERSION
    elif request_id == 0:
        c.type = 0      # a management record that nobody asked for
    elif request_id != c.lane.request_id:
        broken = OTHER_REQUEST
    elif c.ended:
        broken = AFTER_END
    elif c.type == TYPE_STDOUT:
        if c.stdout_ended:
            broken = AFTER_STREAM
        c.stdout_ended = c.content_left == 0
    elif c.type == TYPE_STDERR:
        if c.stderr_ended:
            broken = AFTER_STREAM
        c.stderr_ended = c.content_left == 0
    elif c.type != TYPE_END_REQUEST:
        broken = OTHER_TYPE
    elif c.content_left != END_REQUEST_LEN:
        broken = END_LENGTH
    if broken < 0:
        return MORE
    c.code = broken
    return BROKEN


cdef Outcome take_in(Connection* c, const uint8_t* p, Py_ssize_t size) noexcept nogil:
    """The next bytes of the answer, cut anywhere."""
    cdef const uint8_t* end = p + size
    cdef int length
    while p < end:
        if c.content_left:
            length = <int>min(c.content_left, end - p)
            if c.type == TYPE_STDOUT:
                if c.lane.expected != NULL:
                    compare(c, p, length)
                elif not c.header_ended:
                    read_header(c, p, length)
            elif c.type == TYPE_END_REQUEST:
                memcpy(c.head + END_REQUEST_LEN - c.content_left, p, length)
                if length == c.content_left:
                    take_end(c)
            c.content_left -= length
        elif c.padding_left:
            length = <int>min(c.padding_left, end - p)
            c.padding_left -= length
        else:
            length = <int>min(HEADER_LEN - c.head_length, end - p)
            memcpy(c.head + c.head_length, p, length)
            c.head_length += length
            if c.head_length == HEADER_LEN:
                c.head_length = 0
                if take_header(c, c.head) == BROKEN:
                    return BROKEN
        p += length
    if c.ended and c.content_left == 0 and c.padding_left == 0 and c.head_length == 0:
        return COMPLETE
    return MORE


# ---------------------------------------------------------------------------------------------
# From one request to the next
# ---------------------------------------------------------------------------------------------

cdef void drop(Run* run, Connection* c) noexcept nogil:
    """Close the connection, if there is one."""
    if c.fd >= 0:
        load_poller_forget(run.poller, c.slot)
        close(c.fd)
        c.fd = -1


cdef inline Py_ssize_t bucket_of(uint64_t latency) noexcept nogil:
    cdef int shift
    if latency < FINE:
        return <Py_ssize_t>latency
    shift = load_highest_bit(latency) - FINE_BITS
    return (<Py_ssize_t>(shift + 1) << FINE_BITS) + <Py_ssize_t>(latency >> shift) - FINE


cdef void finish(Run* run, Connection* c, Reason reason, int64_t code) noexcept nogil:
    """Count the request and go on to the next one."""
    cdef Counts* lane = c.lane
    cdef uint64_t latency, delay = lane.pause
    run.now = load_clock()
    lane.last_end = run.now
    if reason == RIGHT:
        latency = run.now - c.started
        lane.right += 1
        lane.total += latency
        lane.longest = max(lane.longest, latency)
        lane.buckets[bucket_of(latency)] += 1
        lane.last_right = run.now
    else:
        if lane.errors[<int>reason] == 0:
            lane.first[<int>reason] = code
        lane.errors[<int>reason] += 1
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
    c.begun = c.ended = c.stdout_ended = c.stderr_ended = c.header_ended = False
    c.unsendable = c.pushing = False
    c.reason = RIGHT
    c.code = EAGAIN             # why it waits, should it have to wait for others to connect
    c.matched = 0
    c.status = 200
    c.line_length = c.head_length = c.content_left = c.padding_left = 0
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
            c.code = errno
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
            fail(run, c, CONNECT, c.code)
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
        outcome = take_in(c, run.memory, size)
        if outcome == BROKEN:
            fail(run, c, PROTOCOL, c.code)
            return
        if outcome == COMPLETE:
            if hung_up or not c.lane.keep_conn or c.sent < c.lane.request_size:
                drop(run, c)
            finish(run, c, c.reason, c.code)
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
# For Python
# ---------------------------------------------------------------------------------------------

@cython.final
cdef class Lane:
    """One kind of client; several lanes may run side by side. Can be used for any number of runs.

    Args:
        request: All records of one request; the first is its BEGIN_REQUEST.
        connections: How many requests are under way at once, each on a connection of its own.
        keep_conn: Whether a connection is used for the next request too. The flag in
            BEGIN_REQUEST is the caller's; a server that closes all the same is connected to anew.
        expected: The content of STDOUT, exactly. None: any that has a response header.
        status: The HTTP status of the response, without `expected`; 0 is any below 400.
        pause: Seconds between an answer and the next request of the connection; at least one
            millisecond where it is not 0.
    """

    cdef readonly bytes request
    cdef readonly int connections
    cdef readonly bint keep_conn
    cdef readonly bytes expected
    cdef readonly int status
    cdef readonly double pause

    def __init__(
        self,
        bytes request not None,
        int connections,
        bint keep_conn=True,
        *,
        bytes expected=None,
        int status=0,
        double pause=0.0,
    ):
        if len(request) < 16 or request[0] != 1 or request[1] != 1:
            raise ValueError("a request begins with BEGIN_REQUEST")
        if connections < 1:
            raise ValueError("connections is at least 1")
        nanoseconds("pause", pause)
        self.request = request
        self.connections = connections
        self.keep_conn = keep_conn
        self.expected = expected
        self.status = status
        self.pause = pause


@cython.final
cdef class LaneResult:
    """What came of a lane in one run.

    Attributes:
        requests: Those that were answered, and rightly.
        errors: Reason -> how many requests ended for it; every reason is one of REASONS.
        examples: Reason -> what it was the first time, for a person to read.
        seconds: From the start of the run to the end of the lane's last request.
        connects: Connections that were made.
        bytes_received: Bytes of records, wrong answers included.
        mean, max: Of the latencies of right answers, in seconds.

    A latency is the time from the first byte sent, or from connecting where the request needed
    that, to the last byte of END_REQUEST.
    """

    cdef Counts counts
    cdef readonly double seconds
    cdef Lane lane              # whose bytes counts points into

    def __cinit__(self):
        self.counts.buckets = <uint64_t*>PyMem_Calloc(BUCKETS, sizeof(uint64_t))
        if self.counts.buckets == NULL:
            raise MemoryError()

    def __dealloc__(self):
        PyMem_Free(self.counts.buckets)

    cdef int begin(self, Lane lane, int64_t requests) except -1:
        if lane is None:
            raise TypeError("a lane is a Lane")
        self.lane = lane
        self.counts.request = <const uint8_t*>PyBytes_AS_STRING(lane.request)
        self.counts.request_size = len(lane.request)
        self.counts.request_id = (lane.request[2] << 8) | lane.request[3]
        if lane.expected is not None:
            self.counts.expected = <const uint8_t*>PyBytes_AS_STRING(lane.expected)
            self.counts.expected_size = len(lane.expected)
        self.counts.status = lane.status
        self.counts.keep_conn = lane.keep_conn
        self.counts.pause = nanoseconds("pause", lane.pause)
        self.counts.left = <uint64_t>requests  # -1, no limit, is the largest number
        self.counts.last_right = load_clock()
        return 0

    cdef void end(self, uint64_t began, uint64_t now) noexcept:
        self.seconds = ((self.counts.last_end or now) - began) / <double>SECOND

    @property
    def requests(self):
        return self.counts.right

    @property
    def errors(self):
        numbers = {REASONS[i]: self.counts.errors[i] for i in range(<int>REASONS_END)}
        return {reason: number for reason, number in numbers.items() if number}

    @property
    def examples(self):
        found = {}
        for reason in range(1, <int>REASONS_END):
            if self.counts.errors[reason]:
                found[REASONS[reason]] = detail(reason, self.counts.first[reason])
        return found

    @property
    def connects(self):
        return self.counts.connects

    @property
    def bytes_received(self):
        return self.counts.bytes_received

    @property
    def mean(self):
        return self.counts.total / <double>SECOND / max(self.counts.right, <uint64_t>1)

    @property
    def max(self):
        return self.counts.longest / <double>SECOND

    def percentile(self, double q):
        """The latency in seconds that q percent of the right answers kept, 0 without any.

        It is at most 0.8 % too long: latencies are counted in buckets of that width.

        Raises:
            ValueError: q is not between 0 and 100.
        """
        cdef uint64_t wanted, seen = 0
        cdef Py_ssize_t bucket = 0
        if not 0 <= q <= 100:
            raise ValueError("q is 0 to 100 percent")
        if self.counts.right == 0:
            return 0.0
        # Not above q percent by a rounding error of the product.
        wanted = max(<uint64_t>1, <uint64_t>math.ceil(self.counts.right * q / 100 - 1e-6))
        # They may be counted meanwhile: another thread can have this from `progress`.
        while bucket < BUCKETS - 1:
            seen += self.counts.buckets[bucket]
            if seen >= wanted:
                break
            bucket += 1
        return min(longest_of(bucket), self.counts.longest) / <double>SECOND


cdef uint64_t longest_of(Py_ssize_t bucket) noexcept nogil:
    """The longest latency that is counted in a bucket."""
    cdef int shift
    if bucket < FINE:
        return <uint64_t>bucket
    shift = <int>(bucket >> FINE_BITS) - 1
    return ((<uint64_t>((bucket & (FINE - 1)) + FINE + 1)) << shift) - 1


cdef str detail(int reason, int64_t code):
    if reason == PROTOCOL:
        return _BROKEN[code]
    if reason == CONNECT or reason == CLOSED:
        return os.strerror(code) if code else ""
    return _DETAILS[reason].format(code)


cdef uint64_t nanoseconds(str name, double seconds) except? 0:
    if not 0 <= seconds <= 1e9:
        raise ValueError(f"{name} is 0 to 1e9 seconds")
    return <uint64_t>(seconds * SECOND)


cdef resolve(Run* run, address):
    """Fill in where to connect to.

    Raises:
        ConfigurationError: It is not in the notation, or nothing to connect to.
        OSError: The name of the host is not known.
    """
    parsed = parse_address(address)
    kind, target = parsed[0], parsed[-1]
    if kind == "unix":
        path = os.fsencode(target)
        run.family = AF_UNIX
        if load_unix_address(&run.address, PyBytes_AS_STRING(path), len(path)) < 0:
            raise ConfigurationError(f"the path of {address!r} is too long for a socket")
    elif kind == "tcp":
        family, where = working(target)
        run.family = family
        load_inet_address(
            &run.address,
            family == socket.AF_INET6,
            PyBytes_AS_STRING(socket.inet_pton(family, where[0].partition("%")[0])),
            where[1],
            where[3] if family == socket.AF_INET6 else 0,
        )
    else:
        raise ConfigurationError(f"{address} is not an address to connect to")


def working(target):
    """(family, address) of the first of a host's addresses that can be connected to; of the
    first at all, if none can."""
    found = socket.getaddrinfo(target[0] or None, target[1], type=socket.SOCK_STREAM)
    found = [(entry[0], entry[4]) for entry in found]
    for family, where in found if len(found) > 1 else ():
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(PROBE_SECONDS)
            if sock.connect_ex(where) == 0:
                return family, where
    return found[0]


def run(address, lanes, *, seconds=None, requests=None, double timeout=10.0, progress=None):
    """Make requests until the time is up, or until their number is reached.

    Args:
        address: As in WSGIServer's bind: "unix:/path", "/path", "unix:@abstract", "host:port",
            "[::1]:port" or (host, port).
        lanes: Lane objects; all of them run at once.
        seconds: No request is started later than that; those under way are waited for.
        requests: The most requests of each lane. At least one of the two has to be given.
        timeout: Seconds that one request may take, from its start to the end of its answer.
            Without `seconds`, a lane makes no more requests when one fails and none has been
            answered rightly for twice that time.
        progress: Called about ten times a second with the list of results so far; when it
            returns something true, the run ends at once.

    Returns:
        A LaneResult for each lane. What goes wrong with requests stands there, and is not raised.

    Raises:
        ConfigurationError: The address is not in the notation, or nothing to connect to.
        OSError: The name of the host is not known.
        ValueError: A number makes no sense.
    """
    cdef Run state
    cdef uint64_t began
    cdef bint done = False
    if seconds is None and requests is None:
        raise ValueError("a run needs seconds or requests")
    if requests is not None and requests < 1:
        raise ValueError("requests is at least 1")
    memset(&state, 0, sizeof(state))
    state.timeout = nanoseconds("timeout", timeout)
    if state.timeout == 0:
        raise ValueError("a request takes some time: timeout is more than 0")
    resolve(&state, address)
    lanes = list(lanes)
    results = [LaneResult() for _ in lanes]
    for result, lane in zip(results, lanes):
        (<LaneResult>result).begin(lane, -1 if requests is None else requests)
    try:
        prepare(&state, results)
        began = state.now = load_clock()
        state.limited = seconds is not None
        state.end = began + nanoseconds("seconds", 1e9 if seconds is None else seconds)
        with nogil:
            start_all(&state)
        while not done:
            with nogil:
                done = turn(&state)
            PyErr_CheckSignals()
            if progress is not None and progress(results):
                break
        for result in results:
            (<LaneResult>result).end(began, state.now)
        return results
    finally:
        release(&state)


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
