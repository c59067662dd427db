"""wsgi.file_wrapper (PEP 3333, "Optional Platform-Specific File Handling").

A file on the disk is sent from a map of it, a window after the other, so that no byte of it comes
into this process. Nobody may look into a window: what lies behind the end of a file that was
shortened meanwhile is a fault there, but only an OSError for the kernel that sends it.
"""

import io
import mmap
import os
import sys
from collections.abc import Iterator
from typing import IO, Any, Final

# What a window has at most. Half of it costs more per byte, and twice as much hardly less.
_WINDOW: Final = 1024 * 1024

# Below this, reading what is left of a file costs less than mapping it.
_MIN_MAPPED: Final = 256 * 1024

_BUFFERED: Final = (io.BufferedReader, io.BufferedRandom)

# Pages come in when they are sent, without the GIL; MAP_POPULATE would read them from the disk
# while no other thread can run. Nothing here where files are only read: on Windows, and on macOS,
# where Python has the disk write out its cache before it maps a file (F_FULLFSYNC).
_MAP_OPTIONS: Final[dict[str, Any]] = {}
if hasattr(mmap, "MAP_SHARED") and sys.platform != "darwin":
    _MAP_OPTIONS.update(flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    if sys.version_info >= (3, 13):
        _MAP_OPTIONS["trackfd"] = False


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


def windows(filelike: Any, limit: int | None) -> Iterator["memoryview | bytes"]:
    """What is left of a file, as far as it can be had without the read() of `filelike`.

    The file stands behind that then; more, if there is any, is to be read.

    Args:
        limit: The most bytes wanted, or None for all.
    """
    file = _plain_file(filelike)
    if file is None or not _MAP_OPTIONS:
        return
    try:
        file.flush()
        position = file.tell()
        left = _left(file, position, limit)
    except OSError:
        return  # a pipe; or reading will tell what is wrong
    if left < _MIN_MAPPED:
        if left > 0 and (data := file.read(left)):
            yield data
        return
    while left > 0:
        try:
            view = _window(file, position, left)
        except (OSError, ValueError):
            break  # of a file system that maps nothing, or shortened just now
        position += len(view)
        if limit is not None:
            limit -= len(view)
        yield view
        del view
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


def _window(file: Any, position: int, left: int) -> memoryview:
    """A view of the file that begins there; the map goes with its last view."""
    skip = position % mmap.ALLOCATIONGRANULARITY
    size = min(skip + left, _WINDOW)
    pages = mmap.mmap(file.fileno(), size, offset=position - skip, **_MAP_OPTIONS)
    return memoryview(pages)[skip:]
