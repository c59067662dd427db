"""flup.server.threadedserver: accepts connections and has a thread run each."""

import os
import socket
import threading
from typing import Any, Protocol

from fastfcgi.drop_in import FlupNames
from fastfcgi.flup._version import attribute
from fastfcgi.flup.server.threadpool import ThreadPool

__all__ = ["ThreadedServer"]

__getattr__ = attribute


class _HasDescriptor(Protocol):
    def fileno(self) -> int: ...


def setCloseOnExec(sock: _HasDescriptor) -> None:
    """Keep a socket out of the programs that this process starts."""
    os.set_inheritable(sock.fileno(), False)


class ThreadedServer(FlupNames):
    """The loop of flup's own servers, for classes that are made of it and of BaseFCGIServer.

    fcgi.WSGIServer has fastfcgi's loop; it is one of these for the methods, which programs
    replace here: _installSignalHandlers, _mainloopPeriodic and their like.

    Args:
        jobClass: Called with a connection's socket, its address and jobArgs; what it returns
            has a run(), which serves the connection.
        jobArgs: More arguments for it.
        **kw: Those of ThreadPool.
    """

    _threadPool: Any  # of fcgi.WSGIServer it is another one

    def __init__(self, jobClass: Any = None, jobArgs: tuple[Any, ...] = (), **kw: Any) -> None:
        super().__init__()
        self._jobClass = jobClass
        self._jobArgs = jobArgs
        self._threadPool = ThreadPool(**kw)

    def run(self, sock: socket.socket, timeout: float = 1.0) -> bool:
        """Serve until _exit(), _keepGoing = False or a signal.

        Args:
            sock: Listens.
            timeout: Seconds between calls of _mainloopPeriodic() while nothing comes.

        Returns:
            True after HUP or _exit(reload=True), else False.
        """
        handles_signals = threading.current_thread() is threading.main_thread()
        self._going, self._hupReceived = True, False
        if handles_signals:
            self._installSignalHandlers()
        try:
            setCloseOnExec(sock)
            sock.settimeout(timeout)
            while self._keepGoing:
                self._accept(sock)
                self._mainloopPeriodic()
        finally:
            if handles_signals:
                self._restoreSignalHandlers()
        return self._hupReceived

    def _accept(self, sock: socket.socket) -> None:
        try:
            client, address = sock.accept()
        except (TimeoutError, BlockingIOError, ConnectionError):
            return  # nobody came, or another process was faster, or who came is gone
        client.settimeout(None)
        if not self._isClientAllowed(address):
            client.close()
            return
        job = self._jobClass(client, address, *self._jobArgs)
        if not self._threadPool.addJob(job, allowQueuing=False):
            client.close()

    def shutdown(self) -> None:
        """Wait for the connections that are being served."""
        self._threadPool.shutdown()

    def stop(self) -> None:
        """End run()."""
        self._going = False
