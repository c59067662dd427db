"""The HTTP front for development before a server: with it in one process, or beside a master."""

import contextlib
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from fastfcgi import listen_errors, streams
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.signals import blocked

if TYPE_CHECKING:
    from fastfcgi.http_front import HTTPFront

# How long the front may need to bring the last responses to slow browsers.
FRONT_SECONDS: Final = 5.0
# How often it is looked whether the server listens.
LOOK_SECONDS: Final = 0.05


def open_front(address: tuple[str, int]) -> "HTTPFront":
    """The HTTP front, listening but not yet serving.

    Raises:
        ConfigurationError: It cannot listen there.
    """
    from fastfcgi.http_front import HTTPFront  # much is imported for it

    try:
        return HTTPFront(address, "", fastcgi_timeout=None, log_stderr=False)
    except (OSError, UnicodeError) as error:
        said = listen_errors.refused_tcp(error, *address)
        raise ConfigurationError(said.strerror or str(said)) from error


@contextlib.contextmanager
def private_folder() -> Iterator[str]:
    """A directory that lets nobody else in, for the socket at address_in()."""
    folder = ""
    try:
        with _undisturbed():
            # Not TemporaryDirectory: at the end of any worker that would take it away.
            folder = tempfile.mkdtemp(prefix="fastfcgi-")
        yield folder
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def address_in(folder: str) -> str:
    """Of the socket in a private_folder()."""
    return f"unix:{folder}/fcgi.sock"


def _undisturbed() -> contextlib.AbstractContextManager[object]:
    """A signal that ends the command comes after the block; not every system has such blocks."""
    if not hasattr(signal, "pthread_sigmask"):
        return contextlib.nullcontext()
    return blocked((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))


@contextlib.contextmanager
def front_thread(address: tuple[str, int]) -> Iterator["HTTPFront"]:
    """The front, stopped at the end."""
    front = open_front(address)
    try:
        yield front
    finally:
        front.stop(FRONT_SECONDS)


def tell_opened(front: "HTTPFront") -> None:
    """Say where it is to whoever has started it, if they still listen."""
    try:
        print(f"Open {front.url} (for development only; Ctrl-C ends it)", flush=True)
    except OSError:
        streams.give_up()


def as_bind(address: Any) -> str:
    """An address of a socket in the notation of --bind."""
    if isinstance(address, str):
        return "unix:" + address.replace("\0", "@", 1)
    return listen_errors.tcp_text(*address[:2])


# ---- beside a master --------------------------------------------------------------------------


@contextlib.contextmanager
def front_process(address: tuple[str, int], folder: str) -> Iterator[None]:
    """The front in a process of its own, because a master that forks can have no threads.

    It ends with the block, and when this process does. It removes the folder, because a master
    that loads the application itself may have become a user who cannot.

    Args:
        folder: Of private_folder(); the server has to listen at address_in(folder).
    """
    front = open_front(address)  # here, so that an error is told here
    held, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(end)
        try:
            _run_front(front, address_in(folder), held)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(0)
    os.close(held)
    front.socket.close()  # not server_close(), which would wait for its threads
    try:
        yield
    finally:
        # Not only closed: whatever the application has forked may hold this end, too.
        with contextlib.suppress(OSError):  # the front has gone already
            os.write(end, b"x")
        os.close(end)
        _wait_for(pid, FRONT_SECONDS + 1)


def _run_front(front: "HTTPFront", fastcgi_address: str, held: int) -> None:
    """In the child: serve until the pipe says that the master has gone."""
    from fastfcgi.client import connect

    for name in ("SIGINT", "SIGHUP", "SIGTERM", "SIGUSR1"):  # the terminal's are the master's
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    front.fastcgi_address = fastcgi_address
    while True:
        if select.select([held], [], [], LOOK_SECONDS)[0]:
            return
        try:
            connect(fastcgi_address, 1.0).close()
            break
        except OSError:
            pass  # not yet
    front.start()
    tell_opened(front)
    os.read(held, 1)
    front.stop(FRONT_SECONDS)


def _wait_for(pid: int, seconds: float) -> None:
    """Wait for the end of a child; one that takes longer is killed."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(ChildProcessError):  # the master has done it
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return
            time.sleep(LOOK_SECONDS)
