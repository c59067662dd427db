"""What systemd is told (sd_notify(3)): datagrams to the socket that NOTIFY_SOCKET names."""

import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

logger: Final = logging.getLogger("fastfcgi")

# The variables are for this process alone; workers and what they start are not to send in its name.
VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

# Seconds that a full queue of systemd may hold us up.
SEND_TIMEOUT: Final = 0.5


class Notifier:
    """Tells systemd, or nobody where there is none.

    Args:
        environ: Where NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are looked for.

    Attributes:
        watchdog_interval: Seconds between two watchdog() that are half of what systemd asks for;
            None when it does not ask.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # Other kinds, such as vsock, come with virtual machines whose init is another one.
        self._path = path if path.startswith(("/", "@")) else ""
        self._status = ""
        self._complained = False
        self.watchdog_interval = _watchdog_interval(environ) if self._path else None

    def ready(self) -> None:
        """Started, or reloaded. The process is the one that was started, also after an exec."""
        self._send("READY=1", f"MAINPID={os.getpid()}", *self._status_line())

    def reloading(self) -> None:
        """A reload begins; ready() ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end begins."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """We are alive."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """A line for `systemctl status`; sent when it changed."""
        if text != self._status:
            self._status = text
            self._send(*self._status_line())

    def _status_line(self) -> list[str]:
        return [f"STATUS={self._status}"] if self._status else []

    def _send(self, *lines: str) -> None:
        if not self._path:
            return
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(SEND_TIMEOUT)
                sock.connect(address)
                sock.sendall("\n".join(lines).encode())
        except OSError as error:
            if not self._complained:
                logger.warning("cannot tell systemd at %s: %s", self._path, error)
            self._complained = True
        else:
            self._complained = False


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    microseconds = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    if not microseconds.isascii() or not microseconds.isdigit() or int(microseconds) == 0:
        return None
    return int(microseconds) / 2e6
