"""One accepted connection: the socket around a sans-I/O Connection, its requests and timeouts.

The loop's thread receives; whoever has something to send sends. One lock guards it all, and is
the condition that application threads wait on.
"""

import logging
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from fastfcgi._codec import ReceiveBuffer
from fastfcgi.connection import Connection
from fastfcgi.engine import READ, WRITE, Engine
from fastfcgi.events import Event, InputEnded, InputReceived, RequestReceived
from fastfcgi.exceptions import RemoteProtocolError
from fastfcgi.limits import Limits
from fastfcgi.outbox import Outbox
from fastfcgi.request import Request

if TYPE_CHECKING:
    from typing_extensions import Buffer

logger: Final = logging.getLogger("fastfcgi")

# Seconds left, when the server stops, to PARAMS that are under way and to peers that have their
# last answer and do not close; web servers need a moment.
_STOP_GRACE: Final = 1.0


class Server(Protocol):
    """What a channel needs of its server."""

    limits: Limits
    receive_buffer: ReceiveBuffer

    @property
    def engine(self) -> Engine:
        """The loop that watches the channel."""

    def new_connection(self) -> Connection:
        """The protocol state of one more connection."""

    def start_request(self, request: Request) -> bool:
        """Have the application run; False when there is no room for it."""

    def channel_closed(self, channel: "Channel") -> None:
        """The channel's descriptor is closed."""


class Channel:
    """A connection of a web server.

    Args:
        sock: The accepted socket; non-blocking from now on.
        peer: What accept() said of the other end, for the log.
        server: Gives limits, engine and what runs the requests.
    """

    def __init__(self, sock: socket.socket, peer: Any, server: Server) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.peer = peer
        self.server = server
        self._engine = server.engine
        self.limits = server.limits
        self.connection = server.new_connection()
        self.lock = threading.Condition(threading.Lock())
        self._outbox = Outbox(sock)
        self.served = 0
        self._requests: dict[int, Request] = {}
        self._mask = READ  # what the loop watches for
        self._update_due = False  # the loop was asked to call update()
        self._multiplexed = False  # requests were active side by side
        self._listening_since = 0.0
        self._eof = False
        self._lost = self._closed = self._lingering = False
        self._lingered = 0
        now = time.monotonic()
        self._received_at = self.idle_since = now
        self._params_since: float | None = None
        self._header_timeout = self.limits.header_timeout
        self._linger_timeout = self.limits.linger_timeout

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def unsent(self) -> int:
        """Bytes that the web server has not taken yet."""
        return self._outbox.size

    @property
    def idle(self) -> bool:
        """No request is active and nothing of one has arrived."""
        return self.connection.idle and not self.unsent

    # ---- called by the loop ---------------------------------------------------------------

    def on_ready(self, mask: int) -> None:
        if mask & WRITE:
            with self.lock:
                self._outbox.blocked = False
                self._flush()
                self.lock.notify_all()
        if mask & READ:
            self._receive()
        self.update()

    def on_tick(self, now: float) -> None:
        with self.lock:
            reason = self._overdue(now)
            if reason is None:
                self._end_stalled(now)
            elif not self._lost:
                self._lose(reason)
        self.update()

    def on_failure(self) -> None:
        with self.lock:
            self._lose()
        self.update()

    def on_stop(self) -> None:
        """The server stops: serve what has arrived, begin nothing else."""
        if not (self._closed or self._eof or self._is_full()):
            self._receive()
        with self.lock:
            self.connection.close_when_idle()
            self._header_timeout = min(self._header_timeout, _STOP_GRACE)
            self._linger_timeout = min(self._linger_timeout, _STOP_GRACE)
            self._listening_since = time.monotonic()
            if self.connection.active == 0 and not self.unsent and not self._lingering:
                self._lose()
        self.update()

    def update(self) -> None:
        """Watch for what is of interest now, or close; by the loop's thread only."""
        with self.lock:
            self._update_due = False
            if self._closed:
                return
            if self._lost or self._finished:
                self._close()
                return
            mask = self._wanted()
            if mask & READ and not self._mask & READ:
                # While we did not read, nothing of it was late.
                self._listening_since = time.monotonic()
            self._mask = mask
            self._engine.watch(self, self._mask)

    def _wanted(self) -> int:
        """What the loop should watch for."""
        mask = WRITE if self._outbox.blocked else 0
        if not self._eof and (self._lingering or not self._is_full()):
            mask |= READ
        return mask

    @property
    def _finished(self) -> bool:
        """The peer sends no more and has every answer that it will get."""
        return self._eof and not self._requests and not self.unsent

    def _is_full(self) -> bool:
        return self.connection.paused or self.unsent > self.limits.max_unsent

    def _close(self) -> None:
        """Free the descriptor; the loop's thread only, because it may come back as another."""
        self._closed = True
        self._engine.forget(self)
        self._sock.close()
        self.server.channel_closed(self)

    # ---- in, with the loop's thread -------------------------------------------------------

    def _receive(self) -> None:
        block = self.server.receive_buffer.writable()
        try:
            size = self._sock.recv_into(block)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            logger.info("connection of %s lost: %s", self._peer_name(), error)
            with self.lock:
                self._lose()
            return
        with self.lock:
            if self._lost:
                return  # what would begin now, nobody would ever abort
            if size == 0:
                self._on_eof()
            elif self._lingering:
                self._lingered += size
                if self._lingered > self.limits.linger_bytes:
                    self._lose()
            else:
                self._take(block, size)

    def _take(self, block: "Buffer", size: int) -> None:
        """Bytes arrived; with the lock held."""
        now = self._received_at = time.monotonic()
        try:
            for event in self.connection.receive_data(block, size):
                self._dispatch(event)
        except RemoteProtocolError as error:
            self._refuse_peer(error, bytes(memoryview(block)[: min(size, 16)]))
            return
        self._time_params(now)
        self._multiplexed = self._multiplexed or self.connection.active > 1
        if self.connection.paused and self._multiplexed:
            # One body that nobody reads must not stop the other requests of the connection.
            for request in self._requests.values():
                request.spool()
        self._start_requests()
        self._flush()
        self.lock.notify_all()

    def _time_params(self, now: float) -> None:
        """Their time begins with the first byte of a request, however slowly others follow."""
        if not self.connection.awaiting_params:
            self._params_since = None
        elif self._params_since is None:
            self._params_since = now

    def _dispatch(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._requests[event.request_id] = Request(self, event, self._received_at)
            self._params_since = None  # others came later, and on a busy connection always do
            return
        request = self._requests.get(event.request_id)
        if request is None:
            return  # ended by an earlier event of the same read
        if isinstance(event, InputReceived):
            request.input_at = self._received_at
            request.receive_input(event.stream, event.data)
        elif isinstance(event, InputEnded):
            request.end_input(event.stream)
        else:
            self._abort(request, end=True)

    def _start_requests(self) -> None:
        paused = self.connection.paused
        for request in list(self._requests.values()):
            if request.started or not (request.refused or request.ready(paused)):
                continue
            if not request.refused:
                request.started = True
                if self.server.start_request(request):
                    continue
                request.started = False
                self._refuse(request)
            if request.input_complete:
                self._drop(request)
                self.connection.send_stdout(request.request_id, request.busy_answer())
                self.connection.end_request(request.request_id)

    def _refuse(self, request: Request) -> None:
        """No room in the queue. It is told when its body is here, for web servers' sake."""
        text = "request refused: every thread is busy and queue_size=%d requests wait"
        logger.error(text, self.limits.queue_size)
        self.acknowledge(request.request_id, request.refuse())

    def _refuse_peer(self, error: RemoteProtocolError, begin: bytes) -> None:
        """The peer broke the protocol: nothing it sends can be understood any more."""
        hint = ""
        if self.served == 0 and begin[:1].isalpha():
            hint = "; that looks like HTTP, but FastCGI is spoken here"
        logger.error("connection of %s refused: %s%s", self._peer_name(), error, hint)
        self._abort_requests()
        self._flush()
        self._outbox.clear()
        self._finish_sending()

    def _on_eof(self) -> None:
        """The peer sends no more. It may still take answers to what it sent whole."""
        self._eof = True
        if self._lingering or self._peer_is_gone():
            self._lose()
            return
        for request in list(self._requests.values()):
            if not request.input_complete:
                self._abort(request)
        self.lock.notify_all()

    def _peer_is_gone(self) -> bool:
        """Whether both directions are closed, as far as the system tells (unix sockets do)."""
        if not hasattr(select, "poll"):
            return False
        poll = select.poll()
        poll.register(self._sock, 0)
        return any(mask & (select.POLLHUP | select.POLLERR) for _, mask in poll.poll(0))

    def _abort(self, request: Request, end: bool = False) -> None:
        """Give a request up; with `end` by END_REQUEST if its application never saw it, so that
        nobody else ends it (spec 5.4)."""
        request.abort()
        if not request.started:
            self._drop(request)
            if end:
                self.connection.end_request(request.request_id)

    def _drop(self, request: Request) -> None:
        """Forget a request that the application never saw."""
        del self._requests[request.request_id]
        request.close()

    def _abort_requests(self) -> None:
        for request in list(self._requests.values()):
            self._abort(request)
        self.lock.notify_all()

    def _lose(self, reason: str = "") -> None:
        """The connection is of no use any more; with the lock held. The loop closes it."""
        if reason:
            logger.warning("connection of %s closed: %s", self._peer_name(), reason)
        self._lost = True
        self._outbox.clear()
        self._abort_requests()

    def _overdue(self, now: float) -> str | None:
        """Why the peer has had its time, if it has ("" where that is nothing to tell); with the
        lock held."""
        limits = self.limits
        if self._lingering:
            since, allowed, reason = self._outbox.sent_at, self._linger_timeout, ""
        elif self.unsent:
            since, allowed = self._outbox.sent_at, limits.send_timeout
            reason = f"it took no response for send_timeout={allowed} s"
        elif self._params_since is not None and self._mask & READ:
            since = max(self._params_since, self._listening_since)
            allowed = self._header_timeout
            reason = f"no whole PARAMS in header_timeout={allowed} s"
        elif self.connection.active == 0:
            since = self.idle_since
            allowed = limits.keep_alive_timeout if self.served else limits.header_timeout
            reason = ""
        else:
            return None
        return reason if now - since > allowed else None

    def _end_stalled(self, now: float) -> None:
        """Abort requests whose body does not go on; others of the same connection may."""
        due = now - self.limits.body_timeout
        if not self._mask & READ or self._listening_since >= due:
            return  # it may well be here
        stalled = [r for r in self._requests.values() if r.input_at < due and not r.input_complete]
        reason = f"no more of a body in body_timeout={self.limits.body_timeout} s"
        if stalled and len(stalled) == self.connection.active and self._received_at < due:
            self._lose(reason)
        elif stalled:
            logger.warning("a request of %s aborted: %s", self._peer_name(), reason)
            for request in stalled:
                self._abort(request, end=True)
            self._flush()
            self.lock.notify_all()

    def _peer_name(self) -> str:
        return repr(self.peer) if self.peer else "a unix socket"

    # ---- out, with the lock held, by any thread -------------------------------------------

    def acknowledge(self, request_id: int, size: int) -> None:
        """Bytes of a body are read; receive on if that was what it waited for."""
        if size:
            self.connection.acknowledge(request_id, size)
            self._tell_loop()

    def request_ended(self, request: Request) -> None:
        """The application's thread is through with a request."""
        self._requests.pop(request.request_id, None)
        self.served += 1
        self.idle_since = time.monotonic()
        self._time_params(self.idle_since)
        self.flush()

    def flush(self) -> None:
        """Send what is there to be sent; the loop goes on with what the socket does not take."""
        self._flush()
        self._tell_loop()

    def _tell_loop(self) -> None:
        """Have the loop act on what has changed for it, if anything has."""
        changed = self._lost or self._finished or self._wanted() != self._mask
        if changed and not self._update_due:
            self._update_due = True
            self._engine.call_soon(self.update)

    def _flush(self) -> None:
        buffers = self.connection.data_to_send()
        if not (self._lost or self._lingering):
            self._outbox.add(buffers)
        try:
            self._outbox.send()
        except OSError as error:
            logger.info("connection of %s lost: %s", self._peer_name(), error)
            self._lose()
        if self.connection.should_close and not self.unsent and not self._lost:
            self._finish_sending()

    def _finish_sending(self) -> None:
        """Say that nothing more comes, and take in what the peer is still sending: closing with
        unread bytes resets the connection and may lose the response (spec 3.5)."""
        if self._lingering:
            return
        self._lingering = True
        self._outbox.sent_at = time.monotonic()
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._lose()
