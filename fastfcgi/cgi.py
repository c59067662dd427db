"""One request as plain CGI (RFC 3875): environment, stdin and stdout.

What a FastCGI program does when its descriptor 0 is no listening socket (spec 2.2).
"""

import errno
import io
import os
import sys
from tempfile import SpooledTemporaryFile
from typing import IO, Any, BinaryIO, cast

from fastfcgi.environ import content_length_of
from fastfcgi.exceptions import RequestAborted
from fastfcgi.exchange import Exchange
from fastfcgi.file_wrapper import FilePart
from fastfcgi.limits import Limits

# The environment variables of which at least one says that this was started as CGI.
_SIGNS = ("GATEWAY_INTERFACE", "REQUEST_METHOD")


def is_cgi(environ: "os._Environ[str] | dict[str, str]") -> bool:
    """Whether a process with this environment was started as a CGI program."""
    return any(name in environ for name in _SIGNS)


def environment() -> dict[str, Any]:
    """The process's environment as environ entries, latin-1 str (PEP 3333)."""
    if hasattr(os, "environb"):
        return {
            name.decode("latin-1"): value.decode("latin-1") for name, value in os.environb.items()
        }
    return {
        name: value.encode("utf-8", "surrogateescape").decode("latin-1")
        for name, value in os.environ.items()
    }


class CGIRequest(Exchange):
    """The request that the process was started for."""

    def __init__(self, stdin: BinaryIO, stdout: BinaryIO, stderr: BinaryIO | None) -> None:
        super().__init__(environment())
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.abandoned = False
        self._body = _Body(stdin, content_length_of(self.params) or 0)

    def input_stream(self) -> BinaryIO:
        """The body: no more than CONTENT_LENGTH bytes, and none where that is absent."""
        return cast(BinaryIO, io.BufferedReader(self._body))

    def data_stream(self) -> BinaryIO:
        """CGI knows no filters."""
        return io.BytesIO()

    def write(
        self, head: bytes | None, data: bytes | FilePart | None, last: bool = False
    ) -> None:
        """Send part of the response, once the whole body has been taken in.

        Apache reads nothing before it has sent all of the body, and loses the response where the
        process ends without having read it.

        Raises:
            RequestAborted: The web server reads no more of it.
        """
        self._body.take_in(discard=last)
        try:
            if head:
                self._write_all(head)
            for block in data.blocks() if isinstance(data, FilePart) else (data or b"",):
                self._write_all(block)
            self.stdout.flush()
        except ConnectionError:
            self.aborted = True
            raise RequestAborted("the web server went away") from None

    def _write_all(self, block: bytes) -> None:
        rest = memoryview(block)
        while rest:
            written: int | None = self.stdout.write(rest)
            if written is None:
                raise BlockingIOError(errno.EAGAIN, "the web server's pipe does not block")
            rest = rest[written:]

    def write_error(self, data: bytes) -> None:
        """Send to stderr, where web servers take their log from."""
        if self.stderr is not None:
            self.stderr.write(data)
            self.stderr.flush()

    def abandon(self) -> None:
        """The exit status is all that is left to tell of it."""
        self.abandoned = True


class _Body(io.RawIOBase):
    """The next `length` bytes of a stream; never waits for one more."""

    def __init__(self, stream: BinaryIO, length: int) -> None:
        self._stream = stream
        self._left = length
        self._kept: IO[bytes] | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        source = self._stream if self._kept is None else self._kept
        data = source.read(min(len(buffer), self._left))
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)

    def take_in(self, discard: bool) -> None:
        """Read all that is left, into memory or a temporary file; discard: for nobody."""
        if self._kept is not None:
            return
        left, self._left = self._left, 0
        while left and (data := self._stream.read(min(65536, left))):
            left -= len(data)
            if not discard:
                if self._kept is None:
                    self._kept = SpooledTemporaryFile(Limits().max_body_memory)
                self._kept.write(data)
                self._left += len(data)
        if self._kept is not None:
            self._kept.seek(0)

    def close(self) -> None:
        """The temporary file is gone then."""
        if self._kept is not None:
            self._kept.close()
        super().close()


def standard_request() -> CGIRequest:
    """The request at this process's standard streams.

    From then on, what the application prints goes to stderr: stdout carries the response.
    """
    stdout = cast(BinaryIO, os.fdopen(os.dup(1), "wb", buffering=0))
    os.dup2(2, 1)
    # Scripts have put other objects there: the buffer itself, or what only writes text.
    stderr = getattr(sys.stderr, "buffer", None) or getattr(sys.__stderr__, "buffer", None)
    stdin = io.BytesIO() if sys.stdin is None else getattr(sys.stdin, "buffer", sys.stdin)
    return CGIRequest(cast(BinaryIO, stdin), stdout, cast("BinaryIO | None", stderr))
