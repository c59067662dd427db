"""The file that holds the master's process id."""

import contextlib
import errno
import logging
import os
from typing import Final

from fastfcgi.exceptions import ConfigurationError

logger: Final = logging.getLogger("fastfcgi")

# More than a number and a line end; a longer file is none of ours.
_MOST_BYTES: Final = 32


class PidFile:
    """A pid file: written whole or not at all, removed only while it is ours.

    Args:
        path: Made absolute at once, because the directory may be changed later.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)

    def write(self) -> None:
        """Write our process id. One that is there already with it stays (after an exec).

        Raises:
            ConfigurationError: It names a process that lives, or is no pid file.
            OSError: It cannot be written.
        """
        other = self._read()
        if other == os.getpid():
            return
        if other is not None and _lives(other):
            raise ConfigurationError(f"{self.path}: process {other} is running; is it this server?")
        temporary = f"{self.path}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        try:
            _fill(os.open(temporary, flags, 0o644), b"%d\n" % os.getpid())
            self._put_in_place(temporary, stale=other is not None)
        except OSError as error:
            # The error may name no file, or one that nobody knows.
            raise type(error)(error.errno, error.strerror, self.path) from None
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)

    def _put_in_place(self, temporary: str, stale: bool) -> None:
        if stale:
            os.replace(temporary, self.path)
            return
        try:
            os.link(temporary, self.path)  # unlike rename, refuses where one is by now
        except FileExistsError:
            raise ConfigurationError(f"{self.path}: another server has just started") from None
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            os.replace(temporary, self.path)  # a file system without hard links

    def _read(self) -> int | None:
        """The process id in the file; None without a file, 0 when it is empty."""
        try:
            with open(self.path, "rb") as file:
                data = file.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            return None
        text = data.strip()
        if not text:
            return 0
        if not text.isdigit() or len(data) > _MOST_BYTES:
            raise ConfigurationError(f"{self.path} is no pid file: there is something else in it")
        return int(text)

    def remove(self) -> None:
        """Take it away, if it still holds our process id."""
        try:
            if self._read() == os.getpid():
                os.unlink(self.path)
        except (OSError, ConfigurationError) as error:
            logger.warning("the pid file stays: %s", error)


def _fill(fd: int, data: bytes) -> None:
    """Write a file that was just made, whole, and close it."""
    try:
        os.fchmod(fd, 0o644)  # whatever the umask: others are to read it
        if os.write(fd, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)


def _lives(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return isinstance(pid, int) and pid < 1 << 31
    return True
