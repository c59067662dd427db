# cython: language_level=3, freethreading_compatible=True
"""A request between whoever receives it and the thread that runs its application."""

import io
import logging
import sys
import time

from fastfcgi._codec cimport TYPE_DATA, TYPE_STDIN
from fastfcgi._sys cimport ff_add, ff_lock, ff_now, ff_unlock
from fastfcgi.board cimport Board
from fastfcgi.body cimport new_body
from fastfcgi.environ cimport content_length
from fastfcgi.log_ids cimport name_of, next_number
from fastfcgi.service cimport Service

from fastfcgi import constants
from fastfcgi.exceptions import LocalProtocolError, RequestAborted
from fastfcgi.exchange import describe
from fastfcgi.reports import AccessRecord

logger = logging.getLogger("fastfcgi")

cdef int AUTHORIZER = constants.AUTHORIZER
cdef int FILTER = constants.FILTER
cdef int RESPONDER = constants.RESPONDER
cdef int KEEP_CONN = constants.KEEP_CONN

# Bytes a streamed body is read by, and the size of its buffer for readline().
_READ_SIZE = 64 * 1024

cdef enum:
    # Bytes of STDERR held back while the body is still arriving.
    MAX_HELD_ERRORS = 64 * 1024

cdef object new_tuple = tuple.__new__

# Seconds that the end of a body is waited for after CONTENT_LENGTH bytes of it have come: it is
# on its way from most web servers, and never comes from some.
END_GRACE = 0.2


cdef class Request(Exchange):
    """A request that runs or is about to (the gateway's, and flup's).

    Attributes:
        params: The environ entries; the application's environ once it runs.
        role: RESPONDER, AUTHORIZER or FILTER.
        aborted: The web server gave the request up or went away.
    """

    # ---- whoever receives, with the lock held ----------------------------------------------

    cdef int begin(self, dict params) except -1:
        """Its PARAMS are complete."""
        cdef Service service = self.line.service
        cdef int64_t length = 0 if self.role == AUTHORIZER else content_length(params)
        self.params = params
        self.stdin_body = new_body(length, service.max_body_file)
        if self.role == FILTER:
            self.data_body = new_body(-1, service.max_body_file)
        self.input_at = self.begun_at = self.line.received_at
        if service.pages is not None and self.role == RESPONDER:
            # For an authorizer, any such page would be an access that is granted.
            self.page = service.page_of(params)
            if self.page is not None:
                self.refuse()
        return 0

    cdef Body body_of(self, int stream):
        return self.stdin_body if stream == TYPE_STDIN else self.data_body

    cdef bint has_all_input(self) noexcept:
        """All of the body that will be read is here."""
        if self.stdin_body is not None and not self.stdin_body.complete:
            return False
        return self.data_body is None or self.data_body.complete

    cdef bint is_ready(self, bint paused) noexcept:
        """Whether the application can start: its body is here, or enough of it to begin with.

        Args:
            paused: Nothing more is received before somebody reads.
        """
        cdef Body body = self.stdin_body
        if body.complete or paused:
            return True
        return body.in_memory + body.in_file >= self.line.service.body_start

    cdef int refuse(self) except -1:
        """There is no room for it: nobody will read its body."""
        self.refused = True
        for body in (self.stdin_body, self.data_body):
            if body is not None:
                self.line.acknowledge(self, (<Body>body).discard())
        return 0

    cdef int spool(self) except -1:
        """Take in the body to memory and file from now on, whoever reads it and when."""
        self.spooling = True
        for body in (self.stdin_body, self.data_body):
            # One that has ended may stay in memory, unless nothing else comes because of it.
            if body is not None and (not (<Body>body).ended or self.line.connection.is_paused()):
                self.line.acknowledge(self, self.spill(body))
        return 0

    cdef Py_ssize_t spill(self, Body body) except -1:
        """Move a body to its file when memory must hold no more; returns the bytes freed."""
        cdef Line line = self.line
        if body.in_memory > line.service.max_body_memory or line.connection.is_paused():
            return body.spill()
        return 0

    cdef int give_up(self) except -1:
        """ABORT_REQUEST, or the connection is lost."""
        cdef Board board = self.line.service.engine.board
        if board is not None and not self.aborted:
            ff_add(&board.head.aborted, 1)
        self.aborted = True
        for body in (self.stdin_body, self.data_body):
            if body is not None:
                (<Body>body).abort()
        return self.line.notify()

    cdef int close(self) except -1:
        """Nobody reads the body any more: give back its memory and its file."""
        for body in (self.stdin_body, self.data_body):
            if body is not None:
                (<Body>body).abort()
                (<Body>body).discard()
        return 0

    # ---- the application's thread ----------------------------------------------------------

    cdef double run(self) except -1:
        """Have the application answer it, and end it."""
        cdef Service service = self.line.service
        cdef int protocol_status = 0
        cdef uint32_t app_status = 0
        cdef double now
        cdef dict environ = self.params
        try:
            if self.aborted:
                pass
            elif service.handler is None:
                service.gateway.handle(self)
            else:
                result = service.handler(self)
                if result is not None:
                    # As the system treats an exit code: -1 is as good as another.
                    protocol_status, app_status = result[0] & 0xFF, result[1] & 0xFFFFFFFF
        except BaseException:  # of an overridden handler: the gateway lets none through
            logger.exception("handler() failed: %s", describe(self))
            self.abandoned = self.failed = True
        if self.failed and service.engine.board is not None:
            ff_add(&service.engine.board.head.errors, 1)
        now = ff_now()
        self.finish(protocol_status, app_status, now)
        if service.access_log is not None:
            self.report(environ)
        return now

    cdef int report(self, dict environ) except -1:
        """Tell the access log; its failures are not the request's."""
        cdef double seconds = ff_now() - self.begun_at
        # The first line, or the last one of a head with a Location.
        status = b"" if self.head is None else b"\r\n" + self.head
        status = status.partition(b"\r\nStatus: ")[2].partition(b"\r\n")[0].decode("latin-1")
        # Its own __new__ is Python, and costs more than all the rest of this.
        record = new_tuple(AccessRecord, (
            self.name_in_log(), time.time() - seconds, seconds, environ, status, self.sent,
            self.aborted, self.failed,
        ))
        try:
            self.line.service.access_log(record)
        except BaseException:
            logger.exception("the access log failed")
        return 0

    cdef str name_in_log(self):
        return name_of(self.number_in_log())

    cdef long number_in_log(self) except -1:
        if self.number == 0:
            self.number = next_number()
        return self.number

    cpdef object input_stream(self):
        """wsgi.input: the body up to its end, whatever CONTENT_LENGTH says of it."""
        if self.input is None:
            # The same each time: what one stream has taken out, another would miss.
            self.input = self.stream(TYPE_STDIN)
        return self.input

    cpdef object data_stream(self):
        """A filter's DATA (spec 6.4)."""
        return self.stream(TYPE_DATA)

    cdef object stream(self, int stream):
        cdef Body body = self.body_of(stream)
        cdef Py_ssize_t freed = 0
        cdef bytes data
        ff_lock(&self.line.lock)
        try:
            if body.complete and body.failure is None and not body.in_file and not self.aborted:
                if body.in_memory == 0:
                    return io.BytesIO()
                data = body.take_bytes(body.in_memory, &freed)
                self.line.acknowledge(self, freed)
                return io.BytesIO(data)
        finally:
            ff_unlock(&self.line.lock)
        return io.BufferedReader(_BodyReader(self, stream), _READ_SIZE)

    cdef Py_ssize_t read_into(self, int stream, uint8_t* p, Py_ssize_t size) except -1:
        """Up to `size` bytes of a body: all that is there; waits for at least one; 0 at its end.

        Raises:
            RequestAborted: The web server went away before the body was complete.
            OSError: The body was too long for its temporary file, or that file failed.
        """
        cdef Body body = self.body_of(stream)
        cdef Py_ssize_t freed = 0, taken
        ff_lock(&self.line.lock)
        try:
            self.line.begin_pulling()
            taken = body.take_into(p, size, &freed)
            self.line.acknowledge(self, freed)
            if taken < size and not body.in_file:
                body.aim(p + taken, size - taken)
                # As much as is there: readers that ask again for the rest copy what they have.
                while body.wanted and not body.complete:
                    if self.line.connection.is_paused():
                        # By a filter's STDIN: nobody would ever read that while DATA is waited for.
                        self.spool()
                    if not self.line.receive_or_wait(body.wanted == size):
                        break
                taken = size - body.wanted
            if taken == 0:
                body.check_failure()
            return taken
        finally:
            body.aim(NULL, 0)
            ff_unlock(&self.line.lock)

    cpdef object write(self, bytes head, object data, bint last=False):
        """Send part of the response; with `last` it may wait for the end of the request.

        The first output waits until the whole body has been taken in: web servers stall or
        fail when an answer comes while they are still sending. All output waits while there is
        too much to send on the connection, of whichever request.

        Raises:
            RequestAborted: Nobody takes the response any more.
        """
        cdef Line line = self.line
        ff_lock(&line.lock)
        try:
            self.take_in(last)
            self.wait_for_room()
            self.check_alive()
            if self.held_errors:
                self.send_held_errors()
            line.connection.write_stdout(self, head, data)
            if line.service.access_log is not None:
                self.tally(head, data)
            if not last:
                line.flush()
                self.wait_for_room()
                line.update()
        finally:
            ff_unlock(&line.lock)

    cpdef object write_error(self, bytes data):
        """Send to FCGI_STDERR, as far as there is one and somebody takes it."""
        cdef Line line = self.line
        if line.service.scgi:
            return
        ff_lock(&line.lock)
        try:
            if self.ended or self.aborted:
                return  # nobody takes it, or the request_id is another's by now
            if self.held_errors is None:
                self.held_errors = []
            self.held_errors.append(data)
            if sum([len(held) for held in self.held_errors]) > MAX_HELD_ERRORS:
                self.take_in(False)
            if self.stdin_body.complete and not self.aborted:  # it may be by now
                self.send_held_errors()
                line.flush()
                self.wait_for_room()
                line.update()
        finally:
            ff_unlock(&line.lock)

    cpdef object abandon(self):
        """End without END_REQUEST: the response must not look complete."""
        self.abandoned = True

    def end(self, protocol_status=0, app_status=0):
        """The application is through: send what is left and END_REQUEST."""
        self.finish(protocol_status, app_status, ff_now())

    cdef int finish(self, int protocol_status, uint32_t app_status, double now) except -1:
        cdef Line line = self.line
        ff_lock(&line.lock)
        try:
            if not (self.aborted or self.abandoned):
                self.take_in(True)
            try:
                if self.abandoned and not self.aborted:
                    line.connection.abandon_request(self)
                else:
                    if self.held_errors and not self.aborted:
                        self.send_held_errors()
                    line.connection.close_request(self, app_status, protocol_status)
            except LocalProtocolError:
                pass  # it had ended before
            self.ended = True
            self.close()
            line.request_ended(self, now)
        finally:
            ff_unlock(&line.lock)
        # The environ knows us by its wsgi.errors, and the input does: without this, each request
        # would be a circle that only the garbage collector frees.
        self.params = self.input = None
        return 0

    cdef int tally(self, bytes head, object data) except -1:
        """Note for the access log what was sent."""
        if head is not None:
            self.head = head
        if data is not None:
            self.sent += len(data)
        return 0

    cdef int check_alive(self) except -1:
        if self.aborted:
            raise RequestAborted("the web server aborted the request or went away")
        if self.ended:
            # Its request_id may be another request's by now.
            raise RequestAborted("the request has ended")
        return 0

    cdef int wait_for_room(self) except -1:
        """Wait while the web server takes too little; with the lock held."""
        cdef Line line = self.line
        if line.outbox.size <= line.service.max_unsent:
            return 0
        # Until half is free again, so that threads do not take turns over every block.
        while line.outbox.size > line.service.max_unsent // 2 and not self.aborted:
            line.wait(-1.0)
        return 0

    cdef int send_held_errors(self) except -1:
        data = b"".join(self.held_errors)
        self.held_errors.clear()
        return self.line.connection.write_stderr(self, data)

    cdef int take_in(self, bint discard) except -1:
        """Wait until all of STDIN has arrived; with the lock held. A filter may answer before
        it has its DATA (spec 6.4).

        Args:
            discard: Nobody will read it any more.
        """
        cdef Body body = self.stdin_body
        cdef Line line = self.line
        if body.ended or self.role == AUTHORIZER:
            return 0
        if discard:
            line.acknowledge(self, body.discard())
        self.spool()
        while not body.complete:
            line.receive_or_wait()
        if self.keep_conn and not body.ended:
            end = ff_now() + END_GRACE
            while not body.ended and ff_now() < end:
                line.wait(end - ff_now())
        return 0

    # ---- flup's names ----------------------------------------------------------------------

    @property
    def requestId(self):
        return self.request_id

    @property
    def flags(self):
        return KEEP_CONN if self.keep_conn else 0

    @property
    def server(self):
        return self.line.service.server

    @property
    def stdin(self):
        return self.params.get("wsgi.input") or self.input_stream()

    @property
    def stdout(self):
        return _Output(lambda data: self.write(None, data))

    @property
    def stderr(self):
        return _Output(_write_stderr if self.line.service.scgi else self.write_error)


cdef Request request_on(Line line):
    cdef Request request = Request.__new__(Request)
    request.line = line
    return request


def _write_stderr(data):
    """To this process's own, for web servers that take none."""
    if sys.stderr is not None:
        sys.stderr.write(data.decode("utf-8", "backslashreplace"))


class _Output:
    """A write-only stream, as flup's error() pages are written to."""

    def __init__(self, write):
        self._write = write

    def write(self, data):
        """Send data; str as latin-1."""
        if data:
            self._write(data.encode("latin-1") if isinstance(data, str) else bytes(data))

    def writelines(self, lines):
        """Send each of the lines."""
        for line in lines:
            self.write(line)

    def flush(self):
        """Nothing is held back."""


class _BodyReader(io.RawIOBase):
    """A body that is still arriving, under io.BufferedReader."""

    def __init__(self, request, stream):
        self._request = request
        self._stream = stream

    def readable(self):
        return True

    def readinto(self, uint8_t[::1] buffer):
        cdef Request request = self._request
        if buffer.shape[0] == 0:
            return 0
        return request.read_into(self._stream, &buffer[0], buffer.shape[0])

    def readall(self):
        parts = iter(lambda: self.read(1 << 20), b"")
        return b"".join(parts)
