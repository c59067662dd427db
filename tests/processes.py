"""Start front-end scripts and web servers as processes, end them, prove that nothing is left.

Linux only: what a process holds and what it left behind is read from /proc. Run as root, web
servers (and the scripts that ask for it) run as SERVER_USER, in folders that belong to that user.
"""

import contextlib
import ctypes
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, NoReturn, TypeVar

import pytest

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it since Python 3.11

TESTS = Path(__file__).resolve().parent

# Generous: a slow machine with two busy cores still starts everything in it.
DEADLINE = 30.0

AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0

# Every process started here, and whatever it starts, carries this in its environment.
TOKEN_NAME = "TEST_RUN_OF_FASTFCGI"
TOKEN = uuid.uuid4().hex

Address = str | tuple[str, int]
Result = TypeVar("Result")


def _server_user() -> str | None:
    if not AS_ROOT:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "www-data" if "www-data" in names else "nobody"


# Whom web servers run as; None: as ourselves, because only root can become somebody else.
SERVER_USER = _server_user()


def missing(what: str) -> NoReturn:
    """Skip the test, or fail it where everything has to be there: CI is set in the environment."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI must not skip what needs it")
    pytest.skip(f"{what} is missing")


def require(program: str) -> str:
    """The path of a program; the test is skipped (in CI: failed) without it."""
    folders = [os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"]
    return shutil.which(program, path=os.pathsep.join(folders)) or missing(program)


def wait_until(condition: Callable[[], Result], what: str, seconds: float = DEADLINE) -> Result:
    """Ask condition() again and again until it gives something true, and return that.

    Raises:
        AssertionError: it did not within so many seconds; the message names what was waited for.
    """
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:.0f} seconds in vain for {what}")
        time.sleep(0.02)


def give_to_server(path: Path) -> None:
    """Let the user of the web servers own a file or folder."""
    if SERVER_USER:
        entry = pwd.getpwnam(SERVER_USER)
        os.chown(path, entry.pw_uid, entry.pw_gid)


@contextlib.contextmanager
def server_folder() -> Iterator[Path]:
    """A temporary folder of the web servers' user, removed at the end.

    Pytest's own tmp_path is closed to other users, and too long for the address of a socket.
    """
    folder = Path(tempfile.mkdtemp(prefix="fastfcgi-"))
    try:
        folder.chmod(0o755)
        give_to_server(folder)
        yield folder
    finally:
        shutil.rmtree(folder)


def connect(address: Address, seconds: float = DEADLINE) -> socket.socket:
    """A client's connection to a unix path or (host, port); OSError when nobody listens."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(seconds)
    try:
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def accepts(address: Address) -> bool:
    """Whether somebody listens there."""
    try:
        connect(address).close()
    except OSError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    """So many different TCP ports of 127.0.0.1 that were free just now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of started processes: ours, without what would change how a server starts."""
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith(("LISTEN_", "FCGI_", "FASTFCGI_"))
    }
    return {
        **inherited,
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",  # a folder of the tests is not to fill up behind our back
        "PYTHONUNBUFFERED": "1",
        TOKEN_NAME: TOKEN,
        **(extra or {}),
    }


@functools.cache
def ends_with_us() -> list[str]:
    """What to put before a command so that it gets a TERM when the run of the tests is killed."""
    setpriv = shutil.which("setpriv")
    command = [setpriv or "", "--pdeathsig", "TERM", "--"]
    works = (
        setpriv and subprocess.run([*command, "true"], stderr=subprocess.DEVNULL).returncode == 0
    )
    return command if works else []


class Process:
    """A started process in a session of its own, its output in a file; ends with the with block.

    Args:
        command: program and arguments.
        folder: where its log (NAME.log) is put and where it runs.
        name: what to call it.
        env: added to its environment.
        user: whom it runs as; None: us. Only root can name another.
        options: for subprocess.Popen.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        name: str,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        **options: Any,
    ) -> None:
        self.name = name
        self.log_path = folder / f"{name}.log"
        identity: dict[str, Any] = {}
        if user and AS_ROOT:
            group = pwd.getpwnam(user).pw_gid
            identity = {"user": user, "group": group, "extra_groups": []}
        with self._open_log() as log:
            self.popen = subprocess.Popen(
                [*ends_with_us(), *command],
                stdout=options.pop("stdout", log),
                stderr=log,
                stdin=options.pop("stdin", subprocess.DEVNULL),
                cwd=folder,
                env=environment({"HOME": str(folder), **(env or {})}),
                start_new_session=True,
                **identity,
                **options,
            )

    def _open_log(self) -> IO[bytes]:
        log = self.log_path.open("ab")
        give_to_server(self.log_path)  # servers that are told /dev/stderr open it anew
        return log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.popen.pid

    def log(self) -> str:
        """What it has written to stdout and stderr so far."""
        return self.log_path.read_text(errors="replace")

    def wait_for_log(self, text: str) -> None:
        """Wait until its log holds the text."""
        wait_until(lambda: text in self.log(), f"{text!r} in {self.name}'s log")

    def wait_for(self, address: Address) -> None:
        """Wait until it listens there; AssertionError with its log when it ended instead."""

        def ready() -> bool:
            code = self.popen.poll()
            assert code is None, f"{self.name} ended with {code}:\n{self.log()}"
            return accepts(address)

        wait_until(ready, f"{self.name} to listen at {address}")

    def wait(self) -> int:
        """Wait for its end and return the exit status (negative: killed by that signal)."""
        try:
            return self.popen.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end:\n{self.log()}") from None

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit status."""
        if self.popen.poll() is None:
            self.popen.send_signal(signum)
        return self.wait()

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ended = self.popen.poll() if self.popen.returncode is None else None
        try:
            self.stop()
        finally:
            if self.popen.poll() is None:
                self.popen.kill()
                self.popen.wait(DEADLINE)
            left = kill_session(self.pid)
        if kind is None:
            assert ended is None, f"{self.name} had ended with {ended}:\n{self.log()}"
            assert not left, f"{self.name} left processes behind: {left}\n{self.log()}"


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the command: state, parent, group, session, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # gone in the meantime
        return []


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    stat = _stat(pid)
    return bool(stat) and stat[0] != "Z"


def children(pid: int) -> list[int]:
    """The running processes whose parent it is."""
    return [p for p in _pids() if _stat(p)[1:2] == [str(pid)] and alive(p)]


def kill_session(session: int) -> list[int]:
    """Give the processes of a session a moment to end, kill those that did not; returns these."""

    def members() -> list[int]:
        return [p for p in _pids() if _stat(p)[3:4] == [str(session)] and alive(p)]

    end = time.monotonic() + 5
    while members() and time.monotonic() < end:
        time.sleep(0.02)
    left = members()
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return left


def left_running() -> list[str]:
    """Command lines of running processes that this run of the tests started, directly or not."""
    found = []
    token = f"{TOKEN_NAME}={TOKEN}".encode()
    for pid in _pids():
        with contextlib.suppress(OSError):
            if pid != os.getpid() and token in Path(f"/proc/{pid}/environ").read_bytes():
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                found.append(f"{pid}: {command.decode(errors='replace')}")
    return found


def descriptors(pid: int) -> list[str]:
    """What the open descriptors of a process point at."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(entry))
    return found


PR_SET_CHILD_SUBREAPER = 36


@contextlib.contextmanager
def orphans_adopted() -> Iterator[Callable[[int], int]]:
    """Daemons started inside become our children, so that their exit status can be seen.

    Yields a function that waits for the end of a process and returns its exit status, as
    subprocess does.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0, os.strerror(ctypes.get_errno())

    def wait_for_exit(pid: int) -> int:
        return wait_until(lambda: _exit_code(pid), f"process {pid} to end")[0]

    try:
        yield wait_for_exit
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _exit_code(pid: int) -> list[int]:
    """The exit status of a child; nothing while it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return [os.waitstatus_to_exitcode(status)] if ended else []
