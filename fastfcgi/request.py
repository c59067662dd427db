"""One request between the loop, which feeds it, and the thread that runs its application.

Everything here is guarded by the lock of the request's channel. Methods in the first half are
called by the loop with that lock held; those in the second half by the application's thread
without it, and they may wait.
"""

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from fastfcgi.body import Body
from fastfcgi.constants import (
    AUTHORIZER,
    DATA,
    FILTER,
    KEEP_CONN,
    REQUEST_COMPLETE,
    STDIN,
)
from fastfcgi.environ import content_length_of
from fastfcgi.events import RequestReceived
from fastfcgi.exceptions import LocalProtocolError, RequestAborted

if TYPE_CHECKING:
    from fastfcgi.channel import Channel

# Bytes a streamed body is read by, and the size of its buffer for readline().
_READ_SIZE: Final = 64 * 1024

# Bytes of STDERR held back while the body is still arriving.
_MAX_HELD_ERRORS: Final = 64 * 1024

# Seconds that the end of a body is waited for after CONTENT_LENGTH bytes of it have come: it is
# on its way from most web servers, and never comes from some.
_END_GRACE: Final = 0.2


class Request:
    """A request that runs or is about to (the gateway's Request, and flup's).

    Attributes:
        params: The environ entries; the application's environ once it runs.
        role: RESPONDER, AUTHORIZER or FILTER.
        aborted: The web server gave the request up or went away.
    """

    def __init__(self, channel: "Channel", event: RequestReceived, now: float = 0.0) -> None:
        self._channel = channel
        self.request_id = event.request_id
        self.role = event.role
        self.keep_conn = event.keep_conn
        self.params: dict[str, Any] = cast("dict[str, Any]", event.params)
        limits = channel.limits
        length = 0 if event.role == AUTHORIZER else content_length_of(event.params)
        self._stdin = Body(length, limits.max_body_file)
        self._data = Body(None, limits.max_body_file) if event.role == FILTER else None
        self._bodies = {STDIN: self._stdin}
        if self._data is not None:
            self._bodies[DATA] = self._data
        self._spooling = False
        self._held_errors: list[bytes] = []
        self._ended = False
        self.input_at = now  # when the last part of the body came
        self.started = False
        self.refused = False
        self.aborted = False
        self.abandoned = False

    # ---- the loop's side, with the lock held ----------------------------------------------

    @property
    def input_complete(self) -> bool:
        """All of the body that will be read is here."""
        return all(body.complete for body in self._bodies.values())

    def refuse(self) -> int:
        """There is no room for it: nobody will read its body; returns the memory freed."""
        self.refused = True
        return sum(body.discard() for body in self._bodies.values())

    def busy_answer(self) -> bytes:
        """What it is told then, in the words that every web server knows."""
        body = b"" if self.params.get("REQUEST_METHOD") == "HEAD" else b"The server is busy.\n"
        return (
            b"Status: 503 Service Unavailable\r\nContent-Type: text/plain\r\n"
            b"Retry-After: 1\r\n\r\n" + body
        )

    def ready(self, paused: bool) -> bool:
        """Whether the application can start: its body is here, or enough of it to begin with.

        Args:
            paused: Nothing more is received before somebody reads.
        """
        body = self._stdin
        return body.complete or paused or body.available >= self._channel.limits.body_start

    def receive_input(self, stream: int, data: "bytes | memoryview") -> None:
        """Part of a body arrived."""
        body = self._bodies[stream]
        kept = body.append(data)
        freed = len(data) - kept
        if self._spooling:
            freed += self._spill(body)
        if freed:
            self._channel.connection.acknowledge(self.request_id, freed)

    def end_input(self, stream: int) -> None:
        """The end of a body arrived."""
        self._bodies[stream].end()

    def spool(self) -> None:
        """Take in the body to memory and file from now on, whoever reads it and when."""
        self._spooling = True
        for body in self._bodies.values():
            if not body.ended:
                self._channel.acknowledge(self.request_id, self._spill(body))

    def _spill(self, body: Body) -> int:
        """Move a body to its file when memory must hold no more; returns the bytes freed."""
        if body.in_memory > self._channel.limits.max_body_memory or self._channel.connection.paused:
            return body.spill()
        return 0

    def abort(self) -> None:
        """ABORT_REQUEST, or the connection is lost."""
        self.aborted = True
        for body in self._bodies.values():
            body.abort()

    def close(self) -> None:
        """Nobody reads the body any more: give back its memory and its file."""
        for body in self._bodies.values():
            body.abort()
            body.discard()

    # ---- the application's side -----------------------------------------------------------

    def input_stream(self) -> BinaryIO:
        """wsgi.input: the body up to its end, whatever CONTENT_LENGTH says of it."""
        return self._stream(STDIN)

    def data_stream(self) -> BinaryIO:
        """A filter's DATA (spec 6.4)."""
        return self._stream(DATA)

    def _stream(self, stream: int) -> BinaryIO:
        body = self._bodies[stream]
        with self._channel.lock:
            if body.complete and body.available == body.in_memory and not self.aborted:
                data, freed = body.take(body.in_memory)
                self._channel.acknowledge(self.request_id, freed)
                return io.BytesIO(data)
        return cast(BinaryIO, io.BufferedReader(_BodyReader(self, stream), _READ_SIZE))

    def read_input(self, stream: int, size: int) -> bytes:
        """Up to `size` bytes of a body; waits for at least one; b"" at its end.

        Raises:
            RequestAborted: The web server went away before the body was complete.
            OSError: The body was too long for its temporary file, or that file failed.
        """
        body = self._bodies[stream]
        channel = self._channel
        with channel.lock:
            while True:
                data, freed = body.take(size)
                if freed:
                    channel.acknowledge(self.request_id, freed)
                if data or body.complete:
                    return data
                channel.lock.wait()

    def write(self, *blocks: bytes, last: bool = False) -> None:
        """Send part of the response; with `last` it may wait for end().

        The first output waits until the whole body has been taken in: web servers stall or
        fail when an answer comes while they are still sending. All output waits while there is
        too much to send on the connection, of whichever request.

        Raises:
            RequestAborted: Nobody takes the response any more.
        """
        channel = self._channel
        with channel.lock:
            self._take_in(discard=last)
            self._wait_for_room()
            self._check_alive()
            self._send_held_errors()
            for block in blocks:
                channel.connection.send_stdout(self.request_id, block)
            if last:
                return
            channel.flush()
            self._wait_for_room()

    def write_error(self, data: bytes) -> None:
        """Send to FCGI_STDERR, as far as somebody is there to take it."""
        with self._channel.lock:
            if self._ended or self.aborted:
                return  # nobody takes it, or the request_id is another's by now
            self._held_errors.append(data)
            if sum(map(len, self._held_errors)) > _MAX_HELD_ERRORS:
                self._take_in(discard=False)
            if self._stdin.complete and not self.aborted:  # it may be by now
                self._send_held_errors()
                self._channel.flush()
                self._wait_for_room()

    def abandon(self) -> None:
        """End without END_REQUEST: the response must not look complete."""
        self.abandoned = True

    def end(self, protocol_status: int = REQUEST_COMPLETE, app_status: int = 0) -> None:
        """The application is through: send what is left and END_REQUEST."""
        channel = self._channel
        with channel.lock:
            if not (self.aborted or self.abandoned):
                self._take_in(discard=True)
            try:
                if self.abandoned and not self.aborted:
                    channel.connection.abandon(self.request_id)
                else:
                    if not self.aborted:
                        self._send_held_errors()
                    channel.connection.end_request(self.request_id, app_status, protocol_status)
            except LocalProtocolError:
                pass  # the connection was lost, and the request with it
            self._ended = True
            self.close()
            channel.request_ended(self)

    def _check_alive(self) -> None:
        if self.aborted:
            raise RequestAborted("the web server aborted the request or went away")
        if self._ended:
            # Its request_id may be another request's by now.
            raise RequestAborted("the request has ended")

    def _wait_for_room(self) -> None:
        """Wait while the web server takes too little; with the lock held."""
        channel = self._channel
        while channel.unsent > channel.limits.max_unsent and not self.aborted:
            channel.lock.wait()

    def _send_held_errors(self) -> None:
        if self._held_errors:
            data = b"".join(self._held_errors)
            self._held_errors.clear()
            self._channel.connection.send_stderr(self.request_id, data)

    def _take_in(self, discard: bool) -> None:
        """Wait until all of STDIN has arrived; with the lock held. A filter may answer before
        it has its DATA (spec 6.4).

        Args:
            discard: Nobody will read it any more.
        """
        body = self._stdin
        if body.ended or self.role == AUTHORIZER:
            return
        channel = self._channel
        if discard:
            channel.acknowledge(self.request_id, body.discard())
        self.spool()
        while not body.complete:
            channel.lock.wait()
        if self.keep_conn:
            channel.lock.wait_for(lambda: body.ended, _END_GRACE)

    # ---- flup's names ---------------------------------------------------------------------

    @property
    def requestId(self) -> int:
        return self.request_id

    @property
    def flags(self) -> int:
        return KEEP_CONN if self.keep_conn else 0

    @property
    def server(self) -> Any:
        return self._channel.server

    @property
    def stdin(self) -> BinaryIO:
        return self.params.get("wsgi.input") or self.input_stream()

    @property
    def stdout(self) -> "_Output":
        return _Output(self.write)

    @property
    def stderr(self) -> "_Output":
        return _Output(self.write_error)


class _Output:
    """A write-only stream, as flup's error() pages are written to."""

    def __init__(self, write: Any) -> None:
        self._write = write

    def write(self, data: "bytes | str") -> None:
        """Send data; str as latin-1."""
        if data:
            self._write(data.encode("latin-1") if isinstance(data, str) else bytes(data))

    def writelines(self, lines: "Iterable[bytes | str]") -> None:
        """Send each of the lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Nothing is held back."""


class _BodyReader(io.RawIOBase):
    """A body that is still arriving, under io.BufferedReader."""

    def __init__(self, request: Request, stream: int) -> None:
        self._request = request
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._request.read_input(self._stream, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        parts = iter(lambda: self._request.read_input(self._stream, 1 << 20), b"")
        return b"".join(parts)
