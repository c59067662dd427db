"""The probe in the place of the application: served in a thread while `fastfcgi doctor` asks."""

import contextlib
import logging
import re
import threading
from collections.abc import Iterator
from typing import Any, Final

from fastfcgi import WSGIServer
from fastfcgi.constants import KEEP_CONN
from fastfcgi.exceptions import FastCGIError
from fastfcgi.probe import Probe
from fastfcgi.sockets import Listener, SocketOptions, open_listeners

# Anybody may connect while the doctor is there: the probe tells nobody anything without its
# token, and what is to be found out is not whether the doctor set the right mode.
_SOCKET_MODE: Final = 0o666
_THREADS: Final = 16
_START_SECONDS: Final = 30.0
_MAX_LINES: Final = 200

_VERSION: Final = re.compile(r"\bversion (\d+) ")


class ProbeServer(WSGIServer):
    """Serves the probe, and keeps in mind how it was asked.

    Attributes:
        requests: How many came.
        kept: The web server wanted to keep a connection (spec 3.5).
        shared: Two requests ran on one connection at once.
        lines: What the server has logged.
    """

    def __init__(self, probe: Probe, address: str) -> None:
        super().__init__(probe, threads=_THREADS)
        self._address = address
        self.requests = 0
        self.kept = self.shared = False
        self.lines: list[str] = []
        self._running = 0
        self._count_lock = threading.Lock()

    def _setupSocket(self) -> list[Listener]:
        # Not by the argument bind, with which wsgi.errors would be written to our stderr, too.
        return open_listeners([self._address], SocketOptions(mode=_SOCKET_MODE))

    def handler(self, req: Any) -> tuple[int, int]:
        """Count it, then have it answered."""
        with self._count_lock:
            self.requests += 1
            self._running += 1
            self.kept = self.kept or bool(req.flags & KEEP_CONN)
            self.shared = self.shared or self._running > len(self.channels)
        try:
            return super().handler(req)
        finally:
            with self._count_lock:
                self._running -= 1

    @property
    def first_byte(self) -> int | None:
        """The first byte of a connection on which no FastCGI was spoken, if there was one."""
        found = (_VERSION.search(line) for line in self.lines)
        return next((int(match[1]) for match in found if match), None)

    @contextlib.contextmanager
    def running(self) -> Iterator["ProbeServer"]:
        """Serve inside the block.

        Raises:
            OSError: The system refused the address, another server has it for example.
        """
        log = _Collector(self.lines)
        logger = logging.getLogger("fastfcgi")
        logger.addHandler(log)
        failures: list[BaseException] = []
        thread = threading.Thread(target=self._run, args=(failures,), daemon=True)
        thread.start()
        try:
            while not self.wait_ready(0.05) and thread.is_alive():
                pass
            if failures:
                raise failures[0]
            yield self
        finally:
            if thread.is_alive():
                self.stop()
                self.stop()  # whoever still asks is the web server's own affair
            thread.join(_START_SECONDS)
            logger.removeHandler(log)
            if thread.is_alive():
                raise FastCGIError("the probe does not end")

    def _run(self, failures: list[BaseException]) -> None:
        try:
            self.run()
        except BaseException as error:
            failures.append(error)


class _Collector(logging.Handler):
    """Keeps lines of the log."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.INFO)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._lines) < _MAX_LINES:
            self._lines.append(record.getMessage())
