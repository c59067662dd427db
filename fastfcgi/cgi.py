"""One request as plain CGI (RFC 3875): environment, stdin and stdout.

What a FastCGI program does when its descriptor 0 is no listening socket (spec 2.2).
"""

import errno
import io
import os
import sys
from typing import Any, BinaryIO, cast

from fastfcgi.environ import content_length_of
from fastfcgi.exceptions import RequestAborted
from fastfcgi.exchange import Exchange
from fastfcgi.file_wrapper import FilePart

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

    def input_stream(self) -> BinaryIO:
        """The body: no more than CONTENT_LENGTH bytes, and none where that is absent."""
        raw = _LimitedReader(self.stdin, content_length_of(self.params) or 0)
        return cast(BinaryIO, io.BufferedReader(raw))

    def data_stream(self) -> BinaryIO:
        """CGI knows no filters."""
        return io.BytesIO()

    def write(
        self, head: bytes | None, data: bytes | FilePart | None, last: bool = False
    ) -> None:
        """Send part of the response.

        Raises:
            RequestAborted: The web server reads no more of it.
        """
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


class _LimitedReader(io.RawIOBase):
    """The next `length` bytes of a stream; never waits for one more."""

    def __init__(self, stream: BinaryIO, length: int) -> None:
        self._stream = stream
        self._left = length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(min(len(buffer), self._left))
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)


def standard_request() -> CGIRequest:
    """The request at this process's standard streams.

    From then on, what the application prints goes to stderr: stdout carries the response.
    """
    stdout = cast(BinaryIO, os.fdopen(os.dup(1), "wb", buffering=0))
    os.dup2(2, 1)
    stderr = sys.stderr.buffer if sys.stderr is not None else None
    return CGIRequest(sys.stdin.buffer, stdout, cast("BinaryIO | None", stderr))
