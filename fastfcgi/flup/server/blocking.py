"""A connection that whoever calls run() serves: flup's Connection, for loops of one's own.

fastfcgi.WSGIServer does not use it. It is for classes made of BaseFCGIServer and an accepting
loop, such as one of gevent's, and uses nothing but the methods of the socket that it is given.
"""

import contextlib
import errno
import io
import logging
import socket
import tempfile
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final, cast

from fastfcgi import constants, events
from fastfcgi.connection import Connection as Core
from fastfcgi.connection import ConnectionSettings
from fastfcgi.exceptions import RemoteProtocolError, RequestAborted
from fastfcgi.exchange import Exchange
from fastfcgi.file_wrapper import FilePart
from fastfcgi.limits import Limits
from fastfcgi.request import _Output

if TYPE_CHECKING:
    from fastfcgi.flup.server.fcgi_base import BaseFCGIServer

logger: Final = logging.getLogger("fastfcgi")

_READ_SIZE: Final = 65536


class _Body(io.RawIOBase):
    """A body, taken in before it is read: max_body_memory of it in memory, else in a file.

    What is beyond max_body_file is thrown away, and reading that far fails. A class of its own,
    because a SpooledTemporaryFile has no readable() and seekable() before Python 3.11, which
    io.BufferedReader and io.TextIOWrapper ask for.
    """

    def __init__(self, limits: Limits) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(limits.max_body_memory)
        # What fits into memory is in no file.
        self._most = max(limits.max_body_file, limits.max_body_memory)
        self._limit = limits.max_body_file
        self._failure: OSError | None = None

    def take_in(self, data: "bytes | memoryview") -> None:
        """Keep what has arrived."""
        if self._failure is not None:
            return
        try:
            room = self._most - self._file.tell()
            self._file.write(data[:room])
            if len(data) > room:
                raise OSError(errno.EFBIG, f"more than max_body_file={self._limit} bytes")
        except OSError as error:  # a full disk, too
            self._failure = error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        if not data and len(buffer) and self._failure is not None:
            raise OSError(self._failure.errno, self._failure.strerror)
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._file.seek(offset, whence)
        return self._file.tell()  # before Python 3.11 a SpooledTemporaryFile gives None

    def close(self) -> None:
        """The temporary file is gone then."""
        self._file.close()
        super().close()


class Request(Exchange):
    """A request whose body has arrived; what it writes is sent at once.

    Attributes:
        server: The server that runs it.
        requestId, flags, role, params: As the web server sent them; params is the environ, too.
        stdin, stdout, stderr: Its streams.
    """

    def __init__(self, connection: "Connection", begin: events.RequestReceived) -> None:
        super().__init__(cast("dict[str, Any]", begin.params), begin.role)
        self.server = connection.server
        self.requestId = begin.request_id
        self.flags = constants.KEEP_CONN if begin.keep_conn else 0
        self._bodies = _Body(connection.server.limits), _Body(connection.server.limits)
        self.stdin, self.data = map(io.BufferedReader, self._bodies)
        self.stdout = _Output(lambda data: self.write(None, data))
        self.stderr = _Output(self.write_error)
        self.abandoned = False
        self._connection = connection

    def take_in(self, event: events.InputReceived) -> None:
        """Keep part of the body, or of a filter's DATA."""
        self._bodies[event.stream != constants.STDIN].take_in(event.data)

    def rewind(self) -> None:
        """All of it is here; it is read from its beginning."""
        for body in self._bodies:
            body.seek(0)

    def input_stream(self) -> BinaryIO:
        """The body."""
        return cast(BinaryIO, self.stdin)

    def data_stream(self) -> BinaryIO:
        """A filter's DATA."""
        return cast(BinaryIO, self.data)

    def write(self, head: bytes | None, data: bytes | FilePart | None, last: bool = False) -> None:
        """Send part of the response; raises RequestAborted when the web server went away."""
        for block in data.blocks() if isinstance(data, FilePart) else (data or b"",):
            self._connection.core.send_stdout(self.requestId, block, head)
            self._send()
            head = None
        if head:
            self._connection.core.send_stdout(self.requestId, b"", head)
            self._send()

    def write_error(self, data: bytes) -> None:
        """Send to the web server's error log."""
        self._connection.core.send_stderr(self.requestId, data)
        self._send()

    def _send(self) -> None:
        try:
            self._connection.send()
        except OSError as error:
            self.aborted = True
            raise RequestAborted(f"the web server went away: {error}") from None

    def abandon(self) -> None:
        """The response must not look complete: the connection ends without END_REQUEST."""
        self.abandoned = True

    def close(self) -> None:
        """Let go of the body, whatever the application has done with its streams."""
        for body in self._bodies:
            body.close()


class Connection:
    """A connection of a web server. Its requests are run one after the other, when they are
    complete.

    Args:
        sock: The accepted socket, which is closed at the end.
        addr: Its peer.
        server: What runs the requests.
        timeout: Taken for flup's sake.
    """

    def __init__(
        self,
        sock: socket.socket,
        addr: Any,
        server: "BaseFCGIServer",
        timeout: float | None = None,
    ) -> None:
        self._sock = sock
        self._addr = addr
        self.server = server
        limits = server.limits
        settings = ConnectionSettings(
            roles=server.roles,
            max_params_bytes=limits.max_params_bytes,
            max_params_pairs=limits.max_params_pairs,
            max_requests=limits.max_requests_per_connection,
            reserved=b"wsgi.",
            values=server.capability,
        )
        self.core = Core(settings=settings)
        self._requests: dict[int, Request] = {}

    def run(self) -> None:
        """Serve until the web server closes it, or wants it closed."""
        try:
            while not self.core.should_close:
                data = self._sock.recv(_READ_SIZE)
                if not data:
                    break
                for event in self.core.receive_data(data):
                    self._take(event)
                self.send()
        except RemoteProtocolError as error:
            logger.warning("closed a connection: %s", error)
            with contextlib.suppress(OSError):
                self.send()
        except OSError as error:
            logger.info("a connection broke: %s", error)
        finally:
            for request in self._requests.values():
                request.close()
            self._sock.close()

    def send(self) -> None:
        """Send what is to be sent; raises OSError."""
        if data := b"".join(self.core.data_to_send()):
            self._sock.sendall(data)

    def _take(self, event: events.Event) -> None:
        if isinstance(event, events.RequestReceived):
            self._requests[event.request_id] = Request(self, event)
            return
        request = self._requests.get(event.request_id)
        if request is None:
            return
        if isinstance(event, events.InputReceived):
            request.take_in(event)
            self.core.acknowledge(event.request_id, len(event.data))
        elif isinstance(event, events.RequestAborted):
            self._end(request, constants.REQUEST_COMPLETE, 0)
        elif event.stream == constants.DATA or request.role != constants.FILTER:
            self._run(request)

    def _run(self, request: Request) -> None:
        request.rewind()
        lock = contextlib.nullcontext() if self.server.multithreaded else self.server._appLock
        try:
            with lock:
                answer = self.server._answer(self.server.handler, request)
                protocol_status, app_status = answer or (0, 0)
        except Exception:
            logger.exception("a handler failed")
            request.abandon()
            protocol_status, app_status = constants.REQUEST_COMPLETE, 0
        self._end(request, protocol_status, app_status)

    def _end(self, request: Request, protocol_status: int, app_status: int) -> None:
        del self._requests[request.requestId]
        request.close()
        if request.abandoned:
            self.core.abandon(request.requestId)
        else:
            self.core.end_request(request.requestId, app_status, protocol_status)
