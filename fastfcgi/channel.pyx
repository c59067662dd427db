# cython: language_level=3, freethreading_compatible=True
"""One accepted connection: the socket around a sans-I/O Connection, its requests and timeouts.

Whoever leads receives; whoever has something to send sends; an application's thread that waits
for its body receives as well. One lock per channel guards it all. Nothing that may block is done
under it, so it is nearly always free: taking it costs no system call.
"""

import io
import logging
import os
import socket
import time

from cpython.pythread cimport (
    WAIT_LOCK,
    PyThread_acquire_lock,
    PyThread_allocate_lock,
    PyThread_free_lock,
    PyThread_release_lock,
    PyThread_type_lock,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_1BYTE_DATA
from libc.errno cimport EAGAIN, EIO
from libc.string cimport memcpy

from fastfcgi._codec cimport TYPE_DATA, TYPE_STDIN, RecordReader
from fastfcgi._sys cimport (
    ff_add,
    ff_close,
    ff_free_mutex,
    ff_hung_up,
    ff_lock,
    ff_now,
    ff_recv,
    ff_recv_into_two,
    ff_shutdown,
    ff_unlock,
    ff_wait_to_recv,
)
from fastfcgi.board cimport write_text
from fastfcgi.body cimport new_body
from fastfcgi.active_request cimport SENDING_ENDED
from fastfcgi.environ cimport content_length

from fastfcgi import constants
from fastfcgi.exceptions import LocalProtocolError, RemoteProtocolError, RequestAborted
from fastfcgi.reports import AccessRecord
from fastfcgi.wsgi import describe as describe_request

cdef extern from "Python.h":
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)

cdef extern from "pythread.h" nogil:
    int PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds, int intr)

logger = logging.getLogger("fastfcgi")

cdef int AUTHORIZER = constants.AUTHORIZER
cdef int FILTER = constants.FILTER
cdef int RESPONDER = constants.RESPONDER
cdef int KEEP_CONN = constants.KEEP_CONN
cdef int REQUEST_COMPLETE = constants.REQUEST_COMPLETE

cdef enum:
    READ = 1
    WRITE = 2
    BUFFER_SIZE = 65536
    # What a peer has a time for.
    NOTHING = 0
    LINGERING = 1
    SENDING = 2
    PARAMS = 3
    IDLE = 4
    BODY = 5
    # Parts of a body that its reader found there, before nobody else receives; half of them are
    # forgotten whenever it found nothing.
    MIN_PULLS = 2
    MAX_PULLS = 8
    # Milliseconds that such a reader waits by itself.
    AWAIT_MS = 10
    # Bytes of a body from which on they are received to where they are wanted; with them comes
    # what is likely to stand between two parts, padding and a header.
    MIN_DIRECT = 4096
    MARGIN = 512

cdef double NEVER = float("inf")

# Seconds without reading after which an application does not read as fast as it can: others look
# then for what else comes on the connection, and for its end.
cdef double PULL_PAUSE = 0.05

# Seconds left, when the server stops, to PARAMS that are under way, to connections on which nothing
# has come yet, and to peers that have their last answer and do not close: web servers need a
# moment.
cdef double STOP_GRACE = 1.0

include "request.pxi"


cdef class Service:
    """What the channels of one run share: whom to serve with, and the limits as C numbers.

    Args:
        server: Told of closed channels; its handler() runs requests if `overridden`.
        engine: Watches the channels, runs their requests.
        gateway: Runs the requests if not.
        limits: fastfcgi.limits.Limits.
        settings: Of each connection.
        max_connections: How many there may be.
    """

    def __init__(
        self, server, Engine engine, Gateway gateway, limits, settings, max_connections,
        overridden=False,
    ):
        self.server = server
        self.engine = engine
        self.gateway = gateway
        self.handler = server.handler if overridden else None
        self.limits = limits
        self.settings = settings
        self.channels = set()
        self.max_connections = max_connections
        self.max_body_memory = limits.max_body_memory
        self.max_body_file = limits.max_body_file
        self.body_start = limits.body_start
        self.max_unsent = limits.max_unsent
        self.linger_bytes = limits.linger_bytes
        self.header_timeout = limits.header_timeout
        self.body_timeout = limits.body_timeout
        self.send_timeout = limits.send_timeout
        self.keep_alive_timeout = limits.keep_alive_timeout
        self.linger_timeout = limits.linger_timeout

    cdef object page_of(self, dict params):
        """What answers a request with these params in the place of the application, or None."""
        cdef object script_name = params.get("SCRIPT_NAME"), path = params.get("PATH_INFO")
        if script_name:
            path = script_name + path if path else script_name
        return self.pages.get(path)

    def on_deadline(self, double now):
        """Some connection's time may have come; returns when the next one's will."""
        cdef double due = NEVER
        for channel in list(self.channels):
            try:
                due = min(due, <double>channel.on_tick(now))
            except Exception:
                logger.exception("internal error, the connection is closed")
                channel.on_failure()
        return due


cdef class Waiter:
    """A thread that waits for something to change on a channel."""

    cdef PyThread_type_lock lock

    def __cinit__(self):
        self.lock = PyThread_allocate_lock()
        if self.lock == NULL:
            raise MemoryError()
        PyThread_acquire_lock(self.lock, WAIT_LOCK)

    def __dealloc__(self):
        if self.lock != NULL:
            PyThread_release_lock(self.lock)
            PyThread_free_lock(self.lock)


cdef class Link(Connection):
    """The protocol's state of a channel; what it finds, the channel is told at once."""

    cdef ActiveRequest new_request(self):
        cdef Request request = Request.__new__(Request)
        request.channel = self.channel
        self.channel.unstarted += 1
        return request

    cdef int request_received(self, ActiveRequest request, dict params) except -1:
        (<Request>request).begin(params)
        self.channel.newest = <Request>request
        self.channel.params_since = -1.0  # others came later, and on a busy connection always do
        return 0

    cdef int input_received(
        self, ActiveRequest request, int stream, const uint8_t* data, Py_ssize_t size
    ) except -1:
        cdef Request taker = <Request>request
        cdef Body body = taker.body_of(stream)
        taker.input_at = self.channel.received_at
        cdef Py_ssize_t kept = body.append_bytes(data, size)
        cdef Py_ssize_t freed = size - kept
        if taker.spooling:
            freed += taker.spill(body)
        if freed:
            self.input_read(taker, freed)
        return 0

    cdef int input_ended(self, ActiveRequest request, int stream) except -1:
        (<Request>request).body_of(stream).end()
        return 0

    cdef int request_aborted(self, ActiveRequest request) except -1:
        return self.channel.abort(<Request>request, True)

    cdef int emit(self, const uint8_t* p, Py_ssize_t size) except -1:
        if not (self.channel.lost or self.channel.lingering):
            self.channel.outbox.add(p, size)
        return 0

    cdef int emit_stream(
        self, int type, int request_id, bytes head, object data, Py_ssize_t max_content,
        int min_padding,
    ) except -1:
        if not (self.channel.lost or self.channel.lingering):
            self.channel.outbox.add_stream(
                type, request_id, head, data, <int>max_content, min_padding
            )
        return 0


cdef class Channel(Handler):
    """A connection of a web server.

    Args:
        service: What it shares with the others.
        fd: The accepted socket, which does not wait; the channel closes it.
        is_inet: It is a TCP connection.
    """

    def __init__(self, Service service, Py_ssize_t fd, bint is_inet=False):
        self.open(service, fd, is_inet)

    cdef int open(self, Service service, Py_ssize_t fd, bint is_inet) except -1:
        """What __init__ says, without its cost where a connection is made for each request."""
        self.service = service
        self.fd = fd
        self.is_inet = is_inet
        self.outbox = Outbox.__new__(Outbox)
        self.connection = Link.__new__(Link)
        self.connection.settings = service.settings
        self.connection.channel = self
        self.received_at = self.idle_since = ff_now()
        self.params_since = -1.0
        self.reading = True
        service.channels.add(self)
        if service.engine.board is not None:
            ff_add(&service.engine.board.head.connections, 1)
        return 0

    def __dealloc__(self):
        ff_free_mutex(&self.lock)

    @property
    def unsent(self):
        """Bytes that the web server has not taken yet."""
        return self.outbox.size

    @property
    def idle(self):
        """No request is active and nothing of one has arrived."""
        return self.connection.is_idle() and not self.outbox.size

    # ---- called by whoever leads -----------------------------------------------------------

    def on_ready(self, int mask):
        """READ or WRITE or both would not block."""
        self.ready(mask, None)

    cdef int ready(self, int mask, Worker worker) except -1:
        cdef Buffer buffer = worker.buffer if worker is not None else self.service.engine.borrow()
        ff_lock(&self.lock)
        try:
            if self.closed:
                return 0
            if self.service.engine.parallel and self.mask > 0:
                self.mask = 0  # the poller has told of it once
            if mask & WRITE:
                self.outbox.blocked = False
                self.flush()
                if self.outbox.size <= self.service.max_unsent // 2:
                    self.notify()
            if mask & READ and not self.lost:
                self.receive(buffer, worker)
            self.update()
        finally:
            ff_unlock(&self.lock)
        if worker is None:
            self.service.engine.buffers.append(buffer)
        return 0

    cdef int left_alone(self) except -1:
        ff_lock(&self.lock)
        try:
            self.attended = False
            self.update()
        finally:
            ff_unlock(&self.lock)
        return 0

    cdef double serve(self, object request) except -1:
        return (<Request>request).run()

    cdef str path_of(self, object request):
        cdef dict params = (<Request>request).params
        cdef str path
        path = params.get("PATH_INFO")
        if not path:
            path = params.get("REQUEST_URI")
            if path is not None and "?" in path:
                path = path.partition("?")[0]
        return path

    cdef int describe(self, object request, Slot* slot) except -1:
        cdef dict params = (<Request>request).params
        cdef object method = params.get("REQUEST_METHOD"), uri = params.get("REQUEST_URI")
        if uri:
            write_text(slot, method, uri, None, None)
        else:
            write_text(
                slot, method, params.get("SCRIPT_NAME"), params.get("PATH_INFO"),
                params.get("QUERY_STRING"),
            )
        slot.number = (<Request>request).number_in_log()
        return 0

    # ---- called by run()'s thread ----------------------------------------------------------

    def on_tick(self, double now):
        """End what has had its time; returns when to look again, on time.monotonic()'s clock."""
        cdef double due
        cdef int what
        ff_lock(&self.lock)
        try:
            if self.closed:
                return NEVER
            if now >= self.received_at + PULL_PAUSE:
                self.pulls = 0
            what = self.timing(&due)
            if what == BODY:
                self.end_stalled(now)
            if due < now and not self.lost:
                if what == SENDING:
                    self.lose(f"it took no response for send_timeout={self.service.send_timeout} s")
                elif what == PARAMS:
                    seconds = self.timeout(self.service.header_timeout)
                    self.lose(f"no whole PARAMS in header_timeout={seconds} s")
                elif what != BODY:
                    self.lose(None)
            self.update()
            self.timing(&due)
            return due
        finally:
            ff_unlock(&self.lock)

    def on_failure(self):
        """Close, whatever is under way."""
        ff_lock(&self.lock)
        try:
            if not self.closed:
                self.lose(None)
                self.update()
        finally:
            ff_unlock(&self.lock)

    def on_stop(self):
        """The server stops: serve what has arrived, begin nothing else."""
        cdef Buffer buffer = self.service.engine.borrow()
        ff_lock(&self.lock)
        try:
            if not (self.closed or self.lost or self.eof or self.is_full()):
                self.receive(buffer, None)
            self.stopping = True
            self.listening_since = ff_now()
            if self.connection.active or self.served and self.connection.is_idle():
                self.connection.close_when_idle()
            if self.lingering:
                self.outbox.sent_at = self.listening_since
            elif self.connection.is_to_close() and not self.outbox.size:
                self.lose(None)
            self.update()
        finally:
            ff_unlock(&self.lock)
        self.service.engine.buffers.append(buffer)

    def on_retire(self):
        """The server retires: another process gets the connection, as soon as no request is under
        way. To be called until that is so."""
        ff_lock(&self.lock)
        try:
            self.give_away()
            self.update()
        finally:
            ff_unlock(&self.lock)

    cdef int give_away(self) except -1:
        """Give the connection to another process if it can be; update() watches it on if not."""
        cdef Buffer buffer
        cdef bint came
        if self.closed or self.lost or self.eof or self.lingering or self.outbox.size:
            return 0
        if not self.service.retiring or self.connection.closing or not self.connection.is_idle():
            return 0
        # What is here already is ours. What comes after this look waits in the socket, and goes
        # with it.
        buffer = self.service.engine.borrow()
        try:
            came = self.receive(buffer, None)
        finally:
            self.service.engine.buffers.append(buffer)
        if came:
            return 0
        # Before it is another's: a socket that is open elsewhere would be watched on after close().
        self.service.engine.forget(self)
        if self.service.giver(self.fd, self.served > 0):
            self.close()
        return 0

    cdef double timeout(self, double seconds) noexcept:
        """A timeout, shortened while the server stops."""
        return min(seconds, STOP_GRACE) if self.stopping else seconds

    cdef int timing(self, double* due) noexcept:
        """What the peer has a time for, and when that ends."""
        cdef Service service = self.service
        due[0] = NEVER
        if self.closed or self.lost:
            return NOTHING
        if self.lingering:
            due[0] = self.outbox.sent_at + self.timeout(service.linger_timeout)
            return LINGERING
        if self.outbox.waiting:
            due[0] = self.outbox.sent_at + service.send_timeout
            return SENDING
        if self.params_since >= 0 and self.reading:
            due[0] = max(self.params_since, self.listening_since) + self.timeout(
                service.header_timeout
            )
            return PARAMS
        if self.connection.active == 0:
            due[0] = self.idle_since
            due[0] += service.keep_alive_timeout if self.served else service.header_timeout
            if self.stopping:
                due[0] = min(due[0], self.listening_since + STOP_GRACE)
            return IDLE
        if self.reading:
            due[0] = max(self.oldest_input(), self.listening_since) + service.body_timeout
            return BODY
        if self.is_pulled():
            due[0] = self.received_at + PULL_PAUSE
        return NOTHING

    cdef double oldest_input(self) noexcept:
        """When the request that has waited longest for its body got some of it."""
        cdef double oldest = NEVER
        cdef Request request
        if self.is_alone():
            return NEVER if self.newest.has_all_input() else self.newest.input_at
        for request in self.connection.active_requests():
            if not request.has_all_input():
                oldest = min(oldest, request.input_at)
        return oldest

    cdef int end_stalled(self, double now) except -1:
        """Abort requests whose body does not go on; others of the same connection may."""
        cdef double due = now - self.service.body_timeout
        cdef Request request
        if not self.reading or self.listening_since >= due:
            return 0  # it may well be here
        stalled = [
            request for request in self.connection.active_requests()
            if request.input_at < due and not request.has_all_input()
        ]
        if not stalled:
            return 0
        reason = f"no more of a body in body_timeout={self.service.body_timeout} s"
        if len(stalled) == self.connection.active and self.received_at < due:
            return self.lose(reason)
        logger.warning("a request of %s aborted: %s", self.peer_name(), reason)
        for request in stalled:
            self.abort(request, True)
        self.flush()
        return self.notify()

    # ---- in, with the lock held ------------------------------------------------------------

    cdef int receive(self, Buffer buffer, Worker worker) except -1:
        """Take in what is there; returns whether anything was."""
        cdef uint8_t* target
        cdef Py_ssize_t size, direct = self.room_for_next(&target)
        if direct:
            size = ff_recv_into_two(self.fd, target, direct, buffer.memory, MARGIN)
        else:
            size = ff_recv(self.fd, buffer.memory, BUFFER_SIZE)
        if size == -EAGAIN:
            return False
        if size < 0:
            logger.info("connection of %s lost: %s", self.peer_name(), os.strerror(-size))
            self.lose(None)
        elif size == 0:
            self.at_eof()
        elif self.lingering:
            self.lingered += size
            if self.lingered > self.service.linger_bytes:
                self.lose(None)
        elif size <= direct:
            self.take_in(target, size, worker)
        else:
            if direct:
                self.take_in(target, direct, worker)
            self.take_in(buffer.memory, size - direct, worker)
        return True

    cdef Py_ssize_t room_for_next(self, uint8_t** p) noexcept:
        """How many of the next bytes belong to a body that somebody waits to read, and where he
        wants them; 0 if that is not worth while."""
        cdef RecordReader reader = self.connection.reader
        cdef Request request
        cdef Body body
        cdef Py_ssize_t size
        if reader.content_left < MIN_DIRECT or reader.type not in (TYPE_STDIN, TYPE_DATA):
            return 0
        request = self.connection.find(reader.request_id)
        if request is None or request.stdin_body is None:
            return 0
        body = request.body_of(reader.type)
        if body is None:
            return 0
        p[0] = body.target
        size = min(body.wanted, reader.content_left)
        return size if size >= MIN_DIRECT else 0

    cdef int take_in(self, const uint8_t* p, Py_ssize_t size, Worker worker) except -1:
        cdef Request request
        self.received_at = ff_now()
        try:
            self.connection.receive(p, size)
        except RemoteProtocolError as error:
            self.refuse_peer(error, p[:min(size, <Py_ssize_t>16)])
            return 0
        self.time_params(self.received_at)
        if self.stopping and self.connection.active:
            self.connection.close_when_idle()  # these are the last
        if self.connection.active > 1:
            self.multiplexed = True
        if self.multiplexed and self.connection.is_paused():
            # One body that nobody reads must not stop the other requests of the connection.
            for request in self.connection.active_requests():
                request.spool()
        if self.unstarted:
            self.start_requests(worker)
        if self.outbox.count:
            self.flush()
        return self.notify()

    cdef int time_params(self, double now) except -1:
        """Their time begins with the first byte of a request, however slowly others follow."""
        if not self.connection.is_awaiting_params():
            self.params_since = -1.0
        elif self.params_since < 0:
            self.params_since = now
        return 0

    cdef bint is_alone(self) noexcept:
        """The newest request is the only active one, as is usual."""
        cdef Request newest = self.newest
        return (
            newest is not None and self.connection.active == 1
            and newest.sending != SENDING_ENDED
        )

    cdef int start_requests(self, Worker worker) except -1:
        cdef bint paused = self.connection.is_paused()
        cdef Request request
        if self.is_alone():
            return self.start(self.newest, paused, worker)
        for request in self.connection.active_requests():
            if request.params is not None:
                self.start(request, paused, worker)
        self.unstarted = sum([not request.started for request in self.connection.active_requests()])
        return 0

    cdef int start(self, Request request, bint paused, Worker worker) except -1:
        """Have the application run, if it can; or tell the web server that it never will."""
        cdef Engine engine = self.service.engine
        if request.started or not (request.refused or request.is_ready(paused)):
            return 0
        if not request.refused:
            if engine.submit(worker, self, request):
                request.started = True
                self.unstarted -= 1
                # Whoever leads will run it next; it need not be watched before that blocks.
                self.attended = (
                    worker is not None and not engine.parallel and engine.running < engine.threads
                )
                return 0
            self.refuse(request)
        if request.has_all_input():
            if request.page is None:
                self.connection.write_stdout(request, request.busy_answer(), None)
            else:
                self.connection.write_stdout(request, request.page_answer(), None)
                self.served += 1
                self.idle_since = self.received_at
            self.drop(request)
            self.connection.close_request(request, 0, REQUEST_COMPLETE)
        return 0

    cdef int refuse(self, Request request) except -1:
        """No room in the queue. It is told when its body is here, for web servers' sake."""
        text = "request refused: every thread is busy and queue_size=%d requests wait"
        logger.error(text, self.service.engine.queue_size)
        return request.refuse()

    cdef int refuse_peer(self, error, bytes begin) except -1:
        """The peer broke the protocol: nothing it sends can be understood any more."""
        hint = ""
        if self.served == 0 and begin[:1].isalpha():
            hint = "; that looks like HTTP, but FastCGI is spoken here"
        logger.error("connection of %s refused: %s%s", self.peer_name(), error, hint)
        self.connection.input_expected = True
        self.abort_requests()
        self.flush()
        self.outbox.clear()
        return self.finish_sending()

    cdef int at_eof(self) except -1:
        """The peer sends no more. It may still take answers to what it sent whole."""
        cdef Request request
        self.eof = True
        if self.lingering or ff_hung_up(self.fd):
            return self.lose(None)
        for request in self.connection.active_requests():
            if request.params is None or not request.has_all_input():
                self.abort(request, False)
        return self.notify()

    cdef int abort(self, Request request, bint end) except -1:
        """Give a request up; with `end` by END_REQUEST if its application never saw it, so that
        nobody else ends it (spec 5.4)."""
        request.give_up()
        if not request.started:
            self.drop(request)
            if end:
                self.connection.close_request(request, 0, REQUEST_COMPLETE)
            else:
                self.connection.abandon_request(request)
        return 0

    cdef int drop(self, Request request) except -1:
        """Forget a request that the application never saw."""
        self.unstarted -= 1
        request.started = True
        return request.close()

    cdef int abort_requests(self) except -1:
        for request in self.connection.active_requests():
            self.abort(request, False)
        return self.notify()

    cdef int lose(self, str reason) except -1:
        """The connection is of no use any more; update() closes it."""
        if reason is not None:
            logger.warning("connection of %s closed: %s", self.peer_name(), reason)
        self.lost = True
        self.outbox.clear()
        return self.abort_requests()

    cdef object peer_name(self):
        """For the log."""
        if not self.is_inet:
            return "a unix socket"
        try:
            sock = socket.socket(fileno=os.dup(self.fd))
            with sock:
                return repr(sock.getpeername())
        except OSError:
            return "a TCP socket"

    # ---- what it is watched for, with the lock held ----------------------------------------

    cdef int update(self) except -1:
        """Watch for what is of interest now, or close. Any thread may do this."""
        cdef Engine engine = self.service.engine
        cdef int mask
        cdef double due
        if self.closed:
            return 0
        if self.lost or self.is_finished():
            return self.close()
        mask = WRITE if self.outbox.blocked else 0
        if not (self.eof or self.is_pulled()) and (self.lingering or not self.is_full()):
            mask |= READ
            if not self.reading:
                # While we did not read, nothing of it was late.
                self.listening_since = ff_now()
        self.reading = mask & READ
        self.timing(&due)
        engine.attend(due)
        if self.attended and self.mask < 0:
            return 0
        try:
            engine.set_mask(self, mask)
        except OSError as error:
            logger.error("a connection cannot be watched: %s", error)
            self.lose(None)
            self.close()
        return 0

    cdef bint is_finished(self) noexcept:
        """The peer sends no more and has every answer that it will get."""
        return self.eof and self.connection.active == 0 and not self.outbox.size

    cdef bint is_full(self) noexcept:
        return self.connection.is_paused() or self.outbox.size > self.service.max_unsent

    cdef bint is_pulled(self) noexcept:
        """An application's thread takes in the body as fast as it can: a second one that receives
        beside it would only be in its way."""
        return self.pulls >= MIN_PULLS and not self.waiters and not self.multiplexed

    cdef int close(self) except -1:
        """Free the descriptor. All that is done with it is done with the lock held."""
        self.closed = True
        self.service.engine.forget(self)
        ff_close(self.fd)
        self.fd = -1
        self.newest = None
        self.let_go()
        self.service.channels.discard(self)
        if self.service.engine.board is not None:
            ff_add(&self.service.engine.board.head.connections, -1)
        if self.service.is_full:
            self.service.is_full = False
            self.service.server.resume_accepting()
        return 0

    cdef int let_go(self) except -1:
        """Closed, and no request left: undo the circle that we make with our connection."""
        if self.closed and self.connection.active == 0:
            self.connection.channel = None
        return 0

    # ---- out, with the lock held, by any thread --------------------------------------------

    cdef int acknowledge(self, Request request, Py_ssize_t size) except -1:
        """Bytes of a body are read; receive on if that was what it waited for."""
        if size:
            self.connection.input_read(request, size)
            if not (self.reading or self.is_pulled()):
                self.update()
        return 0

    cdef int flush(self) except -1:
        """Send what the socket takes; whoever leads goes on with the rest."""
        try:
            self.outbox.send(self.fd)
        except OSError as error:
            if error.errno == EIO:
                return self.lose("a file that was being sent is shorter now, or cannot be read")
            logger.info("connection of %s lost: %s", self.peer_name(), error)
            return self.lose(None)
        if self.connection.is_to_close() and not self.outbox.size and not self.lost:
            self.finish_sending()
        return 0

    cdef int request_ended(self, Request request, double now) except -1:
        """The application's thread is through with a request."""
        self.served += 1
        self.idle_since = max(now, self.received_at)
        self.attended = False
        self.pulls = 0
        self.newest = None
        if self.closed:
            return self.let_go()
        self.time_params(self.idle_since)
        self.flush()
        if self.service.retiring:
            self.give_away()
        return self.update()

    cdef int finish_sending(self) except -1:
        """Say that nothing more comes, and take in what the peer is still sending: closing with
        unread bytes resets a TCP connection and may lose the response (spec 3.5)."""
        if self.lingering:
            return 0
        if not (self.is_inet or self.connection.input_expected):
            # Through a unix socket nothing is lost, and nothing more is expected.
            self.lost = True
            return 0
        self.lingering = True
        self.outbox.sent_at = ff_now()
        if ff_shutdown(self.fd) < 0:
            self.lose(None)
        return 0

    # ---- waiting, with the lock held -------------------------------------------------------

    cdef int wait(self, double seconds) except -1:
        """Until something has changed, or for so many seconds; negative: for ever."""
        cdef Waiter waiter = Waiter()
        cdef PyThread_type_lock lock = waiter.lock
        if self.waiters is None:
            self.waiters = []
        self.waiters.append(waiter)
        self.attended = False
        self.pulls //= 2
        self.update()
        self.service.engine.hand_over()
        ff_unlock(&self.lock)
        with nogil:
            if seconds < 0:
                PyThread_acquire_lock(lock, WAIT_LOCK)
            else:
                PyThread_acquire_lock_timed(lock, <long long>(1e6 * seconds), 0)
        ff_lock(&self.lock)
        if waiter in self.waiters:
            self.waiters.remove(waiter)
        return 0

    cdef int notify(self) except -1:
        """Something has changed."""
        cdef Waiter waiter
        if self.waiters:
            for waiter in self.waiters:
                PyThread_release_lock(waiter.lock)
            self.waiters.clear()
        return 0

    cdef int receive_or_wait(self, bint wait=True) except -1:
        """More of a body is wanted: what is there already, or else what comes. Returns whether
        anything was there or may have come: look again."""
        if self.receive_here():
            return True
        if not wait:
            return False
        if self.is_pulled():
            self.await_here()
        else:
            self.wait(-1.0)
        return True

    cdef bint receive_here(self) except -1:
        """Receive in this thread, whoever polls; returns whether anything was there."""
        cdef Buffer buffer
        if not (self.reading or self.is_pulled()) or self.is_full():
            return False
        if self.eof or self.lost or self.closed:
            return False
        buffer = self.service.engine.borrow()
        try:
            if not self.receive(buffer, None):
                return False
        finally:
            self.service.engine.buffers.append(buffer)
        self.pulls = min(self.pulls + 1, MAX_PULLS)
        self.update()
        return True

    cdef int await_here(self) except -1:
        """Wait in this thread for more: it comes before another one could be told to look for it.
        Not for long, since nobody can wake this one; and others may receive meanwhile."""
        cdef Py_ssize_t fd = self.fd
        cdef bint ready
        self.attended = False
        self.service.engine.hand_over()
        ff_unlock(&self.lock)
        with nogil:
            ready = ff_wait_to_recv(fd, AWAIT_MS)
        ff_lock(&self.lock)
        if not ready:
            self.pulls //= 2
        return 0
