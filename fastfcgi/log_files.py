"""Log files: whole lines appended by many processes, opened anew when they have been renamed.

A line is one write to a descriptor that appends, so lines of several processes and threads do not
mix. reopen() exchanges the file behind the descriptor, which keeps its number: whoever is writing
in another thread writes to the old file or to the new one, and needs no lock.
"""

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Iterator
from typing import Final

# Others than the group have no business in logs: they show who visits what.
MODE: Final = 0o640
# Names of what the process was started with. They are not opened: whom a worker runs as may not
# do that, and where they are sockets, as under systemd, nobody may.
STANDARD: Final = {"/dev/stdout": 1, "/dev/stderr": 2}
_FORMAT: Final = "%(asctime)s [%(process)d] %(levelname)s: %(message)s"

logger: Final = logging.getLogger("fastfcgi")


class LogFile:
    """A file that records are appended to.

    What cannot be written is lost, and that is told once in the log of errors: a full disk must
    not fail requests.

    Args:
        path: Relative to the working directory of now. "-" is `standard`.
        standard: The descriptor that "-" means.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: str, standard: int = 2) -> None:
        found = standard if path == "-" else STANDARD.get(path)
        self.path = None if found is not None else os.path.abspath(path)
        self._fd = _open(self.path) if self.path is not None else found or 0
        self._lost = False

    def write(self, record: str) -> None:
        """Append a record and the end of its last line."""
        try:
            self.append(record)
        except OSError as error:
            if not self._lost:
                self._lost = True  # before it is told, which may come here again
                logger.error("cannot write to %s: %s", self.path or "stdout", error.strerror)
        else:
            self._lost = False

    def append(self, record: str) -> None:
        """The same, without patience.

        Raises:
            OSError: There is no room, or the reader of a pipe is gone.
        """
        rest = memoryview((record + "\n").encode("utf-8", "backslashreplace"))
        while rest:  # once, but on a disk that is just full, or into a pipe
            rest = rest[os.write(self._fd, rest) :]

    def reopen(self) -> None:
        """Go on in the file that is at the path now.

        Raises:
            OSError: It cannot be opened; the old one goes on being written to.
        """
        if self.path is None:
            return
        fd = _open(self.path)
        try:
            os.dup2(fd, self._fd, inheritable=False)
        finally:
            os.close(fd)

    def give_to(self, user: int) -> None:
        """Let a user own it who has to open it anew later; its group stays.

        Only a plain file that is nowhere else: never /dev/null, nor what somebody linked to.
        """
        if self.path is not None:
            status = os.fstat(self._fd)
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_uid != user:
                os.fchown(self._fd, user, -1)

    def close(self) -> None:
        """Write no more; what is standard stays open."""
        fd, self._fd = self._fd, -1
        if self.path is not None and fd >= 0:
            os.close(fd)


def _open(path: str) -> int:
    """Open or create it. Root follows a symbolic link only if it is root's: in a folder of the
    application's user, root would else write wherever that user likes."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    try:
        return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), MODE)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    if os.geteuid() == 0 and os.lstat(path).st_uid != 0:
        raise OSError(errno.ELOOP, "it is a symbolic link, and not root's", path)
    return os.open(path, flags, MODE)


class LogFiles:
    """All log files of a process; the same path is opened once.

    Args:
        opens: False: it opens none, and gives stderr for each.
    """

    def __init__(self, opens: bool = True) -> None:
        self._opens = opens
        self._files: dict[tuple[str, int], LogFile] = {}
        self._wanted: set[tuple[str, int]] = set()

    def open(self, path: str, standard: int = 2) -> LogFile:
        """The file at a path; see LogFile."""
        key = (path, standard)
        self._wanted.add(key)
        if key not in self._files:
            self._files[key] = LogFile(path if self._opens else "-", standard)
        return self._files[key]

    def reopen(self) -> None:
        """Open all anew; those that cannot be are named in the log, and kept."""
        for file in self._files.values():
            try:
                file.reopen()
            except OSError as error:
                logger.error("%s stays as it is: %s", file.path, error.strerror or error)

    @contextlib.contextmanager
    def renewed(self) -> Iterator[None]:
        """Inside, all are opened that are wanted from now on; others are closed then."""
        before, self._wanted = self._files, set()
        yield
        for key in set(before) - self._wanted:
            before.pop(key).close()

    def give_to(self, user: int) -> None:
        """Let a user own all that are files."""
        for file in self._files.values():
            file.give_to(user)

    def close(self) -> None:
        """Close all of them."""
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()
        self._files = {}

    @property
    def are_files(self) -> bool:
        """Whether any of them is more than stdout and stderr."""
        return any(file.path is not None for file in self._files.values())


class LogFileHandler(logging.Handler):
    """Gives what is logged to a LogFile. Its close() leaves that open: logging.config closes all
    handlers of a process, those that it does not replace among them."""

    def __init__(self, file: LogFile) -> None:
        super().__init__()
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        """Append the record."""
        try:
            self._file.append(self.format(record))
        except Exception:
            self.handleError(record)


def set_up_logging(file: LogFile, level: str) -> None:
    """Let fastfcgi's messages of that level and above go to a file, and nowhere else.

    Only our own loggers: the root logger is the application's.
    """
    handler = LogFileHandler(file)
    handler.setFormatter(logging.Formatter(_FORMAT))
    for old in [one for one in logger.handlers if isinstance(one, LogFileHandler)]:
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    logger.propagate = False


def keep_logging() -> None:
    """To be called when the application has been loaded: what it configures logging with disables
    every logger that it does not name, unless told otherwise."""
    for name, one in logging.Logger.manager.loggerDict.items():
        if name.split(".")[0] == "fastfcgi" and isinstance(one, logging.Logger):
            one.disabled = False
