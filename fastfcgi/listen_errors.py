"""Why an address cannot be listened on, in words: a check and a server say the same.

docs/start/own-socket.md explains the most frequent ones.
"""

import errno
import os
import stat
import sys
from pathlib import Path
from typing import Final

# Of struct sockaddr_un. The last byte of a path is left free, that of an abstract name is not.
SUN_PATH: Final = 108 if sys.platform == "linux" else 104
MAX_UNIX_PATH: Final = SUN_PATH - 1

# Below it, ports are for root as a rule (ip(7), ip_unprivileged_port_start).
_PRIVILEGED: Final = 1024


def of_unix(path: str) -> str | None:
    """What can be seen to be wrong with the path of a unix socket; None if nothing is.

    Opens nothing, so there may still be another reason.

    Args:
        path: In the file system, or "\\0name" of an abstract socket.
    """
    abstract = path.startswith("\0")
    most = SUN_PATH if abstract and sys.platform == "linux" else MAX_UNIX_PATH
    if len(os.fsencode(path)) > most:
        return f"the path is longer than {most} bytes, which sockets do not allow"
    if abstract:
        return None
    folder = os.path.dirname(os.path.abspath(path))
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return of_folder(folder)
    return of_folder(folder) if stat.S_ISSOCK(mode) else "there is a file that is no socket"


def of_folder(folder: str) -> str | None:
    """Why no file can be made in a directory; None if one can, as far as that can be seen."""
    try:
        mode = os.stat(folder).st_mode
    except PermissionError:
        return f"the directory {_closed(folder)} may not be entered by {whoever_we_are()}"
    except OSError:
        return f"there is no directory {folder}"
    if not stat.S_ISDIR(mode):
        return f"there is no directory {folder}"
    if not _may(folder, os.W_OK | os.X_OK):
        return f"the directory {folder} may not be written to by {whoever_we_are()}"
    return None


def _may(folder: str, how: int) -> bool:
    # The effective user is who makes the file; not every system can be asked about that one.
    return os.access(folder, how, effective_ids=os.access in os.supports_effective_ids)


def _closed(folder: str) -> str:
    """The first directory on the way to one that lets nobody through."""
    above = [str(one) for one in reversed(Path(folder).parents)]
    return next((one for one in above if not _may(one, os.X_OK)), folder)


def whoever_we_are() -> str:
    """The name of the effective user."""
    try:
        import pwd

        return pwd.getpwuid(os.geteuid()).pw_name
    except (ImportError, KeyError):  # no such thing on this system, or a number without a name
        return f"user {os.geteuid()}" if hasattr(os, "geteuid") else "this user"


def tcp_text(host: str, port: int) -> str:
    """In the notation of --bind."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def refused_tcp(error: OSError | UnicodeError, host: str, port: int) -> OSError:
    """The same error with one line that says where and why."""
    if isinstance(error, UnicodeError):  # of the codec that makes a DNS name of a host
        reason = "this cannot be the name of a host"
    elif error.errno == errno.EACCES and 0 < port < _PRIVILEGED:
        reason = f"ports below {_PRIVILEGED} are for root and for who has CAP_NET_BIND_SERVICE"
    elif error.errno == errno.EADDRNOTAVAIL:
        reason = "this machine has no such address"
    else:
        reason = error.strerror or str(error)
    return _explained(error, tcp_text(host, port), reason)


def refused_unix(error: OSError, path: str) -> OSError:
    """The same for the path of a unix socket."""
    reason = of_unix(path) or _of_existing(error, path) or error.strerror or str(error)
    return _explained(error, path.replace("\0", "@", 1), reason)


def _of_existing(error: OSError, path: str) -> str | None:
    """Of a socket that is there and that we may neither ask nor remove."""
    if error.errno not in (errno.EACCES, errno.EPERM) or not os.path.lexists(path):
        return None
    return "there is a socket of another user, which may not be replaced"


def _explained(error: OSError | UnicodeError, address: str, reason: str) -> OSError:
    text = f"cannot listen on {address}: {reason}"
    # Some errors are Python's own and have no number, such as that of a path that is too long.
    if not isinstance(error, OSError) or error.errno is None:
        return OSError(text)
    return type(error)(error.errno, text)
