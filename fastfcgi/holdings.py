"""What a master holds: listening sockets, pipes to its workers, the way between them."""

import contextlib
import logging
import os
import socket
from dataclasses import dataclass, field
from typing import Any, Final

from fastfcgi.exceptions import ConfigurationError
from fastfcgi.reexec import Estate, HeldListener
from fastfcgi.sockets import Listener, SocketOptions, default_addresses, open_listeners

logger: Final = logging.getLogger("fastfcgi")

# What listeners are known by when no address was given.
_DEFAULT_KEY = ""


@dataclass
class Holdings:
    """Descriptors of a master, all closed on exec but for the moment of its own.

    Attributes:
        listeners: What is served, with the address that each was opened for, as it was written.
        handoff: Two ends of a connection between workers: retiring ones give at the first,
            others take at the second.
        wake: Workers write to the second end; the master reads the first.
        lifeline: The first end ends when nobody holds the second: the master alone does.
    """

    listeners: list[tuple[str, Listener]] = field(default_factory=list)
    handoff: tuple[socket.socket, socket.socket] | None = None
    wake: tuple[int, int] = (-1, -1)
    lifeline: tuple[int, int] = (-1, -1)
    # (old, new) of those that were renewed and not settled yet.
    _renewed: list[tuple[Listener, Listener]] = field(default_factory=list)

    def open_pipes(self) -> None:
        """Make what goes between processes; OSError when the system is out of it."""
        self.handoff = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.wake = os.pipe()
        self.lifeline = os.pipe()
        for end in self.wake:
            os.set_blocking(end, False)

    def take_over(self, estate: Estate) -> None:
        """The same from a former master."""
        give, take = (socket.socket(fileno=fd) for fd in estate.handoff)
        self.handoff = give, take
        self.wake = estate.wake[0], estate.wake[1]
        self.lifeline = estate.lifeline[0], estate.lifeline[1]
        for held in estate.listeners:
            inode = None if held.inode is None else (held.inode[0], held.inode[1])
            sock = socket.socket(fileno=held.fd)
            self.listeners.append((held.key, Listener(sock, held.owned, held.path, inode)))

    def listen(self, bind: "list[Any] | None", options: SocketOptions) -> None:
        """Listen at these addresses: what is there stays, what is not wanted is closed.

        Raises:
            ConfigurationError: There is nothing to serve, or not as the options say.
            OSError: The system refused an address.
        """
        if bind is None:
            wanted: list[tuple[str, Any]] = [(_DEFAULT_KEY, None)]
        else:
            wanted = [(_key(address), address) for address in bind]
        keys = {key for key, _ in wanted}
        there = {key for key, _ in self.listeners}
        for key, listener in [one for one in self.listeners if one[0] not in keys]:
            self.listeners.remove((key, listener))
            listener.close()
        for key, address in wanted:
            if key not in there:
                given = _default() if address is None else [address]
                self.listeners += [(key, one) for one in open_listeners(given, options)]

    def renew(self, options: SocketOptions) -> None:
        """Open unix sockets anew whose files are gone, or somebody else's: nobody can connect to
        them any more. Both are there until settle(), since somebody may wait at the old one.

        What was passed to us has no path here; its file is the business of who made it.
        """
        for key, old in list(self.listeners):
            if old.path is None or _has_file(old):
                continue
            try:
                (new,) = open_listeners([f"unix:{old.path}"], options)
            except (OSError, ConfigurationError) as error:
                logger.error("the file of a socket is gone: %s", error)
                continue
            logger.warning("the file of a socket was gone, there is a new one: %s", old.path)
            self.listeners.append((key, new))
            self._renewed.append((old, new))

    def settle(self, serves: bool) -> None:
        """Go on with the new ones of renew().

        Args:
            serves: There are workers that have them; if not, whoever connects would wait for
                nobody, so we go back to the old ones.
        """
        for old, new in self._renewed:
            dropped = old if serves else new
            self.listeners = [one for one in self.listeners if one[1] is not dropped]
            dropped.close()
        self._renewed.clear()

    @property
    def sockets(self) -> list[Listener]:
        """The listeners without their addresses."""
        return [listener for _, listener in self.listeners]

    def stop_listening(self) -> None:
        """Close the listening sockets and remove the files that are ours; workers have theirs."""
        while self.listeners:
            self.listeners.pop()[1].close()

    def close(self) -> None:
        """Give everything back."""
        self.stop_listening()
        if self.handoff is not None:
            for sock in self.handoff:
                sock.close()
        for end in (*self.wake, *self.lifeline):
            with contextlib.suppress(OSError):
                os.close(end)

    def close_in_worker(self) -> None:
        """In a child of fork(): close what is the master's alone."""
        os.close(self.wake[0])
        os.close(self.lifeline[1])

    def held(self) -> list[HeldListener]:
        """The listeners for the next master."""
        return [
            HeldListener(
                *(key, one.sock.fileno(), one.owned, one.path),
                None if one.inode is None else list(one.inode),
            )
            for key, one in self.listeners
        ]

    def files(self) -> list[str]:
        """Of the unix sockets."""
        return [os.path.abspath(one.path) for one in self.sockets if one.path is not None]

    def addresses(self) -> list[str]:
        """Where it listens, in the notation of --bind; each once, though it is being renewed."""
        return list(dict.fromkeys(_text(listener.address) for listener in self.sockets))


def _has_file(listener: Listener) -> bool:
    """Whether whoever connects to its path comes to this socket."""
    assert listener.path is not None
    try:
        status = os.lstat(listener.path)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == listener.inode


def _key(address: Any) -> str:
    if isinstance(address, socket.socket):
        return f"socket {address.fileno()}"
    return str(address)


def _default() -> list[int]:
    fds = default_addresses()
    if fds is None:
        raise ConfigurationError(
            "there is nothing to serve: file descriptor 0 is not a listening socket, and systemd"
            " passed none; name an address: --bind unix:/run/app.sock or --bind 127.0.0.1:9000"
        )
    return fds


def _text(address: Any) -> str:
    if isinstance(address, str):
        return "unix:" + address.replace("\0", "@", 1)
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
