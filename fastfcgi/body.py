"""The body of a request between its arrival and its being read: memory first, then a file."""

import errno
import tempfile
from typing import IO, Final

from fastfcgi.exceptions import RequestAborted

MIB: Final = 1024 * 1024

# Above what nearly all forms need; the rest of a body goes to a file, as in web servers.
DEFAULT_MAX_BODY_MEMORY: Final = 1 * MIB
# Of the rest, what one request may put on the disk before its application has read it.
DEFAULT_MAX_BODY_FILE: Final = 1024 * MIB


class Body:
    """STDIN or DATA of one request. Knows no lock and never waits: its owner does both.

    Args:
        content_length: Bytes announced, or None. More than that is cut (spec.md: longer is cut);
            that many are the whole body even if its end never comes.
        max_file: The most bytes kept in the temporary file; reading what goes beyond fails.
    """

    __slots__ = (
        "_discarding",
        "_failure",
        "_file",
        "_file_end",
        "_file_start",
        "_max_file",
        "_memory",
        "_room",
        "complete",
        "ended",
    )

    def __init__(
        self, content_length: int | None = None, max_file: int = DEFAULT_MAX_BODY_FILE
    ) -> None:
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self._file_start = 0
        self._file_end = 0
        self._max_file = max_file
        self._room = content_length
        self._failure: OSError | None = None
        self._discarding = False
        # complete: nothing more will come to be read. ended: nothing more will arrive at all.
        self.complete = content_length == 0
        self.ended = False

    @property
    def in_memory(self) -> int:
        """Bytes held in memory."""
        return len(self._memory)

    @property
    def available(self) -> int:
        """Bytes that can be read now."""
        return len(self._memory) + self._file_end - self._file_start

    def append(self, data: bytes | memoryview) -> int:
        """Take in what arrived; returns how many bytes of it are now held in memory."""
        if self._room is not None:
            data = data[: self._room]
            self._room -= len(data)
            self.complete = self._room == 0
        if self._discarding or self._failure is not None:
            return 0
        if self._file_end > self._file_start:
            # Order: what follows bytes in the file goes to the file, so memory is empty now.
            self._write_file(data)
            return 0
        self._memory += data
        return len(data)

    def end(self) -> None:
        """The end of the stream arrived."""
        self.complete = self.ended = True

    def abort(self) -> None:
        """Nothing more will come, and what came is not the whole: reading it fails."""
        if not self.complete:
            self._failure = RequestAborted("the web server went away before the body was complete")
        self.complete = self.ended = True

    def spill(self) -> int:
        """Move what is in memory to the file; returns how many bytes of memory that freed."""
        size = len(self._memory)
        if size:
            memory, self._memory = self._memory, bytearray()
            self._write_file(memory)
        return size

    def discard(self) -> int:
        """Nobody will read any more: forget all, now and to come; returns the memory freed."""
        size = len(self._memory)
        self._discarding = True
        self._memory = bytearray()
        self._close_file()
        return size

    def take(self, size: int) -> tuple[bytes, int]:
        """Up to `size` bytes, in order, and how many of them were in memory.

        Raises:
            RequestAborted: All that came was read, but it was not the whole body.
            OSError: The temporary file failed or max_file was exceeded.
        """
        if self._memory:
            if size >= len(self._memory):
                data = bytes(self._memory)
                self._memory = bytearray()
            else:
                data = bytes(memoryview(self._memory)[:size])
                del self._memory[:size]
            return data, len(data)
        if self._file is not None and self._file_end > self._file_start:
            return self._read_file(self._file, size), 0
        if self._failure is not None:
            raise self._failure
        return b"", 0

    def _write_file(self, data: bytes | bytearray | memoryview) -> None:
        try:
            if self._file_start == self._file_end:
                self._file_start = self._file_end = 0
            if self._file_end + len(data) > self._max_file:
                raise OSError(errno.EFBIG, f"more than max_body_file={self._max_file} bytes")
            if self._file is None:
                # Unlinked as soon as it is made: nothing is left behind whatever happens.
                self._file = tempfile.TemporaryFile(buffering=0, prefix="fastfcgi-")
            self._file.seek(self._file_end)
            view = memoryview(data)
            while view:
                written = self._file.write(view)
                view = view[written:]
                self._file_end += written
        except OSError as error:
            # The application gets it when it reads this far; the peer may go on sending.
            self._failure = error

    def _read_file(self, file: IO[bytes], size: int) -> bytes:
        file.seek(self._file_start)
        data = file.read(min(size, self._file_end - self._file_start))
        self._file_start += len(data)
        return data

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._file_start = self._file_end = 0
