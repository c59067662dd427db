"""wsgi.file_wrapper (PEP 3333, "Optional Platform-Specific File Handling").

A file on the disk is sent by the system from its cache, so that no byte of it comes into this
process.
"""

import errno
import io
import os
from collections.abc import Iterator
from typing import IO, Any, Final

# Below this, reading what is left of a file costs no more than to have it sent.
_MIN_SENT: Final = 64 * 1024

# Bytes of a file read at a time, where it is read after all.
_BLOCK: Final = 64 * 1024

_BUFFERED: Final = (io.BufferedReader, io.BufferedRandom)

# Without it files are only read: on Windows.
_CAN_SEND: Final = hasattr(os, "pread")


class FilePart:
    """Part of a file on the disk that is to be sent, with a descriptor of its own: it does not
    matter when the file is closed.

    Args:
        fd: A descriptor of the file, which is duplicated.
        offset: Where the part begins.
        size: Its length in bytes, as the file was when this was made.

    Raises:
        OSError: There is no descriptor left.
    """

    __slots__ = ("fd", "offset", "size")

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self.fd = -1
        self.fd = os.dup(fd)
        self.offset = offset
        self.size = size

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def __len__(self) -> int:
        return self.size

    def blocks(self) -> Iterator[bytes]:
        """Its bytes, for who cannot have the system send them.

        Raises:
            OSError: The file is shorter by now.
        """
        position, end = self.offset, self.offset + self.size
        while position < end:
            block = os.pread(self.fd, min(end - position, _BLOCK), position)
            if not block:
                raise OSError(errno.EIO, "a file was shortened while it was sent")
            position += len(block)
            yield block


class FileWrapper:
    """What an application returns to have a file sent.

    Args:
        filelike: Has read(size); its close(), if any, is called after the response.
        block_size: Bytes read at a time.
    """

    def __init__(self, filelike: IO[bytes], block_size: int = 64 * 1024) -> None:
        self.filelike = filelike
        self.block_size = block_size
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self) -> Iterator[bytes]:
        while block := self.filelike.read(self.block_size):
            yield block


def parts(filelike: Any, limit: int | None) -> Iterator["FilePart | bytes"]:
    """What is left of a file, as far as it can be had without the read() of `filelike`.

    The file stands behind that then; more, if there is any, is to be read.

    Args:
        limit: The most bytes wanted, or None for all.
    """
    file = _plain_file(filelike)
    if file is None or not _CAN_SEND:
        return
    try:
        file.flush()
        position = file.tell()
        left = _left(file, position, limit)
    except OSError:
        return  # a pipe; or reading will tell what is wrong
    if left < _MIN_SENT:
        if left > 0 and (data := file.read(left)):
            yield data
        return
    while left > 0:  # once, and again if it has grown
        yield FilePart(file.fileno(), position, left)
        position += left
        if limit is not None:
            limit -= left
        left = _left(file, position, limit)
    file.seek(position)


def _plain_file(filelike: Any) -> Any:
    """The file that this object's read() reads, if what it gives is just what lies on the disk.

    fileno() alone tells too little: that of a GzipFile is the compressed file's.
    """
    read = filelike.read
    file: Any = getattr(read, "__self__", None)
    raw = file.raw if type(file) in _BUFFERED else file
    return file if type(raw) is io.FileIO and read == file.read else None


def _left(file: Any, position: int, limit: int | None) -> int:
    """Bytes from there to the end, as of now, or to the limit. Devices say that they have none."""
    left = os.fstat(file.fileno()).st_size - position
    return left if limit is None else min(left, limit)
