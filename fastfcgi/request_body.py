"""The body of a request, in whichever of its shapes a client is given it."""

import os
import select
import stat
from collections.abc import Iterable, Iterator
from typing import IO, Final, Protocol, TypeAlias, runtime_checkable

# Content of a full record that needs no padding (spec 3.3 suggests multiples of 8).
PIECE_SIZE: Final = 65528


@runtime_checkable
class WaitableBody(Protocol):
    """A body that comes from a descriptor, so that waiting for it does not delay the response.

    ready() says whether the next block is there without waiting; fileno() is polled when not.
    """

    def fileno(self) -> int: ...
    def ready(self) -> bool: ...
    def __iter__(self) -> Iterator[bytes]: ...


Body: TypeAlias = bytes | bytearray | memoryview | IO[bytes] | Iterable[bytes] | WaitableBody


def blocks(body: Body) -> Iterator[bytes | memoryview]:
    """The blocks of a body, none larger than PIECE_SIZE where we may choose."""
    if isinstance(body, str):
        raise TypeError("the body of a request is bytes, not str")
    if isinstance(body, (bytes, bytearray, memoryview)):
        view = memoryview(body).cast("B")
        return (view[at : at + PIECE_SIZE] for at in range(0, len(view), PIECE_SIZE))
    if not isinstance(body, WaitableBody) and hasattr(body, "read"):
        read = body.read
        return iter(lambda: read(PIECE_SIZE), b"")
    return iter(body)


class PipeBody:
    """A body from a descriptor that may be slow, such as a pipe or a terminal; POSIX only."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def ready(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(0))

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        block = os.read(self._fd, PIECE_SIZE)
        if not block:
            raise StopIteration
        return block


def of_file(file: IO[bytes]) -> tuple[Body, int | None]:
    """A file from where it stands, never as a whole in memory.

    Args:
        file: Unbuffered, or nothing of it read yet.

    Returns:
        The body and its length; None for that where only its end will tell.
    """
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode):
        length = max(0, status.st_size - os.lseek(file.fileno(), 0, os.SEEK_CUR))
        return _first(file, length), length
    return (PipeBody(file.fileno()) if hasattr(select, "poll") else file), None


def _first(file: IO[bytes], length: int) -> Iterator[bytes]:
    """So many bytes of a file: it may grow, but the length has been announced.

    Raises:
        OSError: It has become shorter.
    """
    while length:
        block = file.read(min(length, PIECE_SIZE))
        if not block:
            raise OSError("the file has become shorter while it was sent")
        length -= len(block)
        yield block
