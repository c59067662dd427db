"""Listening sockets: where they come from, how they are opened and what is left of them."""

import contextlib
import errno
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from fastfcgi import listen_errors
from fastfcgi.constants import LISTENSOCK_FILENO
from fastfcgi.exceptions import ConfigurationError

# ("unix", path) | ("tcp", (host, port)) | ("fd", number) | ("systemd",)
Address: TypeAlias = tuple[str, str] | tuple[str, tuple[str, int]] | tuple[str, int] | tuple[str]

SYSTEMD_FIRST_FD: Final = 3
DEFAULT_BACKLOG: Final = 1024  # cut by the kernel to its somaxconn

# uid_t and gid_t have 32 bits, and the last number means "leave it as it is" (chown(2)).
_MAX_ID: Final = (1 << 32) - 2

# What begins like this is a URL. As a path it is written with ./ or unix: before it.
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def parse_address(text: "str | int | tuple[Any, ...]") -> Address:
    """What a `bind` argument names.

    Args:
        text: "unix:/path", "/path" or "./path"; "unix:@name" or "@name" for an abstract socket;
            "host:port", ":port" (all addresses), "[::1]:port"; "fd:3" or 3; "systemd"; or a
            tuple (host, port).

    Raises:
        ConfigurationError: It is none of these.
    """
    if isinstance(text, tuple):
        return ("tcp", _host_and_port(text))
    if isinstance(text, int):
        return ("fd", text)
    if not isinstance(text, str):
        raise ConfigurationError(f"not an address: {text!r}")
    if text == "systemd":
        return ("systemd",)
    if text.startswith("unix:"):
        return ("unix", _unix_path(text[5:], text))
    if text.startswith(("@", "\0")) or ("/" in text and not _URL.match(text)):
        return ("unix", _unix_path(text, text))
    if text.startswith("fd:") and text[3:].isascii() and text[3:].isdigit():
        return ("fd", int(text[3:]))
    host, colon, port = text.rpartition(":")
    if colon and port.isascii() and port.isdigit() and int(port) <= 65535:
        in_brackets = host.startswith("[") and host.endswith("]")
        name = host[1:-1] if in_brackets else host
        if (in_brackets or ":" not in host) and may_be_host(name):
            return ("tcp", (name, int(port)))
    raise ConfigurationError(
        f"not an address: {text!r}; known are unix:/path, unix:@name, host:port, [::1]:port,"
        " fd:N and systemd"
    )


def may_be_host(name: str) -> bool:
    """Whether a resolver can be asked for it: labels of at most 63 bytes, none of them empty."""
    try:
        return b"\0" not in name.encode("idna")
    except UnicodeError:
        return False


def _host_and_port(address: tuple[Any, ...]) -> tuple[str, int]:
    """A tuple as bind() takes it; as in flup, more than two parts mean IPv6."""
    host, port = (*address, None, None)[:2]
    is_port = isinstance(port, int) and 0 <= port <= 65535
    if not isinstance(host, str) or not is_port or not may_be_host(host):
        raise ConfigurationError(f"not an address: {address!r}; a tuple is (host, port)")
    return (host or "::" if len(address) > 2 else host, port)


def _unix_path(path: str, text: str) -> str:
    if path.startswith("@"):
        path = "\0" + path[1:]
    if path in ("", "\0"):
        raise ConfigurationError(f"no path in the address {text!r}")
    if "\0" in path and not path.startswith("\0"):
        raise ConfigurationError(f"not an address, there is a NUL in it: {text!r}")
    return path


@dataclass
class SocketOptions:
    """How listening sockets are opened.

    umask is set while a unix socket is bound (not thread-safe, as umask is the process's);
    mode, owner and group (name or number) are set on its path before it listens.
    """

    backlog: int = DEFAULT_BACKLOG
    umask: int | None = None
    mode: int | None = None
    owner: str | int | None = None
    group: str | int | None = None


@dataclass
class Listener:
    """A listening socket and what has to be done at its end.

    Attributes:
        owned: It was opened here; not so what the process was started with, which others share.
    """

    sock: socket.socket
    owned: bool = True
    path: str | None = None
    inode: tuple[int, int] | None = field(default=None, repr=False)

    @property
    def address(self) -> Any:
        """Path of a unix socket ("\\0name" if abstract), or the tuple of a TCP one."""
        name = self.sock.getsockname()
        return name.decode("latin-1") if isinstance(name, bytes) else name

    def close(self) -> None:
        """Close the socket; the file of one that we bound goes too, unless another took it.

        It goes first and but once: when the socket is closed, its inode number may be that of
        the next server's file.
        """
        path, self.path = self.path, None
        if path is not None:
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                if (status.st_dev, status.st_ino) == self.inode:
                    os.unlink(path)
        self.sock.close()


def is_listening(fd: int) -> bool:
    """Whether fd is a listening socket, asked of the descriptor itself (spec 2.2)."""
    try:
        copy = os.dup(fd)
    except (OSError, OverflowError):  # no system has a descriptor beyond C's int
        return False
    try:
        sock = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return False
    with sock:
        return _listens(sock)


def _listens(sock: socket.socket) -> bool:
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        pass  # not every system answers; the specification's own test is getpeername
    try:
        sock.getpeername()
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


# What systemd passed to this process: its id and the descriptors. Remembered because the
# variables are taken away, and a server may run again in the same process.
_passed: tuple[int, list[int]] = (0, [])


def inherited_fds() -> list[int]:
    """The descriptors that systemd passed (sd_listen_fds(3)); takes the variables out of the
    environment, so that no child takes them for its own."""
    global _passed
    pid = os.environ.get("LISTEN_PID", "")
    count = os.environ.get("LISTEN_FDS", "")
    if pid.isdigit() and int(pid) == os.getpid() and count.isdigit():
        for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
            os.environ.pop(name, None)
        first = SYSTEMD_FIRST_FD
        _passed = (os.getpid(), list(range(first, first + int(count))))
    return list(_passed[1]) if _passed[0] == os.getpid() else []


def open_listeners(addresses: Iterable[Any], options: SocketOptions) -> list[Listener]:
    """Open one listener per address; all or none.

    Args:
        addresses: As parse_address takes them, or ready sockets.

    Raises:
        ConfigurationError: An address that is none, or a descriptor that does not listen.
        OSError: The system refused; its text names the address.
    """
    listeners: list[Listener] = []
    try:
        for address in addresses:
            listeners += _open(address, options)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _open(address: Any, options: SocketOptions) -> list[Listener]:
    if isinstance(address, socket.socket):
        if not _listens(address):
            raise ConfigurationError(f"not a listening socket: {address!r}")
        # A duplicate: the socket itself stays its owner's. (os.dup knows no sockets on Windows.)
        return [_prepared(Listener(address.dup(), owned=False))]
    parsed = parse_address(address)
    if parsed[0] == "systemd":
        fds = inherited_fds()
        if not fds:
            raise ConfigurationError("no socket was passed by systemd (LISTEN_FDS, LISTEN_PID)")
        return [adopt(fd) for fd in fds]
    if parsed[0] == "fd":
        return [adopt(int(parsed[1]))]  # type: ignore[misc,arg-type]
    if parsed[0] == "unix":
        return [_open_unix(str(parsed[1]), options)]  # type: ignore[misc]
    return [_open_tcp(parsed[1], options)]  # type: ignore[misc,arg-type]


def adopt(fd: int) -> Listener:
    """The listener at a descriptor that somebody else opened; its path stays theirs.

    Raises:
        ConfigurationError: fd is no listening socket.
    """
    if not is_listening(fd):
        raise ConfigurationError(f"file descriptor {fd} is not a listening socket")
    # A duplicate: the descriptor itself stays open, as fd 0 must.
    return _prepared(Listener(socket.socket(fileno=os.dup(fd)), owned=False))


def _prepared(listener: Listener) -> Listener:
    # Another process may share the socket and be first: accept must never block.
    listener.sock.setblocking(False)
    return listener


def tcp_places(host: str, port: int, family: int | None = None) -> list[Any]:
    """What socket.getaddrinfo() says of where to listen; the first one is taken.

    Args:
        family: Of socket; None: IPv6 for an address of that, else IPv4.

    Raises:
        OSError: There is no such host; the text names it.
    """
    if family is None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.getaddrinfo(
            host or None, port, family, socket.SOCK_STREAM, 0, socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise listen_errors.refused_tcp(error, host, port) from error


def _open_tcp(address: tuple[str, int], options: SocketOptions) -> Listener:
    found = tcp_places(*address)
    try:
        sock = socket.socket(*found[0][:3])
    except OSError as error:
        raise listen_errors.refused_tcp(error, *address) from error
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(found[0][4])
        sock.listen(options.backlog)
    except OSError as error:
        sock.close()
        raise listen_errors.refused_tcp(error, *address) from error
    return _prepared(Listener(sock))


def _open_unix(path: str, options: SocketOptions) -> Listener:
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigurationError("this system has no unix sockets; use host:port")
    abstract = path.startswith("\0")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    inode = None
    try:
        if not abstract:
            _remove_stale(path)
        _bind_unix(sock, path, options.umask)
        if not abstract:
            status = os.lstat(path)
            inode = (status.st_dev, status.st_ino)
            # Before listen(): nobody gets in with the permissions of a moment.
            _set_access(path, options)
        sock.listen(options.backlog)
    except (OSError, ConfigurationError) as error:
        Listener(sock, path=None if abstract else path, inode=inode).close()
        if isinstance(error, ConfigurationError):
            raise
        raise listen_errors.refused_unix(error, path) from error
    return _prepared(Listener(sock, path=None if abstract else path, inode=inode))


def _bind_unix(sock: socket.socket, path: str, umask: int | None) -> None:
    if umask is None:
        sock.bind(path)
        return
    previous = os.umask(umask)
    try:
        sock.bind(path)
    finally:
        os.umask(previous)


def _remove_stale(path: str) -> None:
    """Take away the socket of a server that is no more; refuse a live one or another file."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass  # a full backlog: somebody listens there
    raise OSError(errno.EADDRINUSE, "another server is listening there")


def _set_access(path: str, options: SocketOptions) -> None:
    if options.owner is not None or options.group is not None:
        try:
            os.chown(path, user_id(options.owner), group_id(options.group))
        except PermissionError as error:
            what = "owner" if options.owner is not None else "group"
            text = f"{listen_errors.whoever_we_are()} may not give a socket to that {what}"
            raise OSError(error.errno, text) from error
    if options.mode is not None:
        os.chmod(path, options.mode)


def user_id(owner: str | int | None) -> int:
    """The number of a user by name or number; -1 for None.

    Raises:
        ConfigurationError: There is no such user.
    """
    if owner is None:
        return -1
    number = _number(owner)
    if number is not None:
        return number
    import pwd  # posix only

    try:
        return pwd.getpwnam(str(owner)).pw_uid
    except (KeyError, ValueError):
        raise ConfigurationError(f"no such user: {owner!r}") from None


def _number(text: str | int) -> int | None:
    """The number of a user or group that is given as one; what no system has is a name."""
    digits = str(text)
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 10 or int(digits) > _MAX_ID:
        return None
    return int(digits)


def group_id(group: str | int | None) -> int:
    """The number of a group by name or number; -1 for None.

    Raises:
        ConfigurationError: There is no such group.
    """
    if group is None:
        return -1
    number = _number(group)
    if number is not None:
        return number
    import grp  # posix only

    try:
        return grp.getgrnam(str(group)).gr_gid
    except (KeyError, ValueError):
        raise ConfigurationError(f"no such group: {group!r}") from None


def allowed_peers(text: str | None) -> frozenset[str] | None:
    """FCGI_WEB_SERVER_ADDRS (spec 3.2) as normalised addresses; None when anybody may connect.

    Raises:
        ConfigurationError: One of them is no IP address.
    """
    if text is None or not text.strip():
        return None
    try:
        return frozenset(_normalised(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ConfigurationError(f"FCGI_WEB_SERVER_ADDRS: {error}") from None


def is_allowed(peer: Any, allowed: frozenset[str] | None) -> bool:
    """Whether a peer, as accept() names it, may connect; unix peers always may."""
    if allowed is None or not isinstance(peer, tuple):
        return True
    return _normalised(peer[0]) in allowed


def _normalised(text: str) -> str:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def reserve_standard_fds() -> None:
    """Keep descriptors 0 to 2 from being given to a connection.

    A process started by a web server may have only descriptor 0 (spec 2.2); a print() would then
    write into whatever connection happened to become descriptor 1.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            # open() returns the lowest free descriptor, which is fd. Children want it, too.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def default_addresses() -> list[int] | None:
    """The listening sockets this process was started with: systemd's, else descriptor 0.

    Returns:
        Descriptors, or None when there is none and the process was started as plain CGI.
    """
    fds = inherited_fds()
    if fds:
        return fds
    return [LISTENSOCK_FILENO] if is_listening(LISTENSOCK_FILENO) else None
