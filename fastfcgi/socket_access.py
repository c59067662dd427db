"""Whether a web server's user may connect to a unix socket, and what to change if not.

To connect means to write (unix(7)), to get there means to search every directory above.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastfcgi.exceptions import ConfigurationError
from fastfcgi.findings import Finding, note, ok, wrong
from fastfcgi.sockets import user_id

# Processes that are web servers, by the name that the kernel has for them.
_PROCESSES: Final = frozenset(
    ("nginx", "lighttpd", "lighttpd2", "lighttpd2-worke", "apache2", "httpd", "caddy", "haproxy")
) | {"h2o"}
# Whom systems have their web servers run as.
_USERS: Final = (
    *("www-data", "nginx", "apache", "http", "lighttpd", "caddy", "haproxy", "h2o"),
    *("www", "_www", "wwwrun"),
)
_LAST_RESORT: Final = "nobody"

_ACL: Final = "system.posix_acl_access"
# Directories that systemd's PrivateTmp= gives each service its own of.
_PRIVATE: Final = ("/tmp/", "/var/tmp/")


@dataclass(frozen=True)
class WebUser:
    """Somebody who may want to connect.

    Attributes:
        why: The web servers that run as this user, "" for none.
    """

    name: str
    uid: int
    groups: frozenset[int]
    why: str

    def may(self, wanted: int, status: os.stat_result) -> bool:
        """Whether the mode lets this user do it.

        Args:
            wanted: stat.S_IXOTH or stat.S_IWOTH.
        """
        if self.uid == 0:
            return True
        if self.uid == status.st_uid:
            return bool(status.st_mode >> 6 & wanted)
        if status.st_gid in self.groups:
            return bool(status.st_mode >> 3 & wanted)
        return bool(status.st_mode & wanted)


def check_access(path: str, web_user: str | None = None) -> Iterator[Finding]:
    """Look at the socket and at the directories above it.

    Args:
        path: Of a socket that exists.
        web_user: Name or number of the only user of interest; None looks for likely ones.

    Raises:
        ConfigurationError: There is no such user.
    """
    users = [_named(web_user)] if web_user else likely_users()
    places = [*directories(path), path]
    found = {user: list(_obstacles(user, places)) for user in users}
    able = [user for user, obstacles in found.items() if not obstacles]
    if not users:
        yield note("access-unknown", "no user of a web server is known here; use --web-user NAME")
    if able:
        yield ok("access", f"{_names(able)} may connect to it")
    # Where a web server runs, its user has to get in. Of those who merely exist, one has to.
    needed = [user for user in users if user.why or not able]
    for user in needed:
        for place, status in found[user]:
            yield _obstacle(user, path, place, status)
    yield from _hints(path, places)


def _obstacles(user: WebUser, places: list[str]) -> Iterator[tuple[str, os.stat_result]]:
    for place in places:
        with contextlib.suppress(OSError):
            status = os.stat(place)
            wanted = stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else stat.S_IWOTH
            if not user.may(wanted, status):
                yield place, status


def _obstacle(user: WebUser, path: str, place: str, status: os.stat_result) -> Finding:
    is_at = f"{place} is {stat.filemode(status.st_mode)} of {owner_of(status)}"
    who = _names([user])
    group = _group_name(next(iter(_primary(user)), -1))
    if place != path:
        return wrong(
            "directory",
            f"{who} cannot connect: {is_at}, and {user.name} may not enter it (x)",
            f"chmod o+x {place}",
            f"or, for this group only: chgrp {group} {place} && chmod g+x {place}",
            "With systemd: RuntimeDirectory=NAME and RuntimeDirectoryMode=0755.",
        )
    given = "" if status.st_gid in user.groups else f" --socket-group {group}"
    named = "" if status.st_gid in user.groups else f', socket_group="{group}"'
    return wrong(
        "socket-mode",
        f"{who} cannot connect: {is_at}, and {user.name} may not write to it (w)",
        f"fastfcgi serve --socket-mode 660{given} ...",
        f"or in a script: WSGIServer(..., socket_mode=0o660{named})",
        f"or with spawn-fcgi: -M 0660 -U {user.name} -G {group}",
        f"or in a socket unit of systemd: SocketMode=0660 and SocketGroup={group}",
    )


def _hints(path: str, places: list[str]) -> Iterator[Finding]:
    for place in places:
        if _has_acl(place):
            text = f"{place} has an ACL, which is not looked at here: see getfacl {place}"
            yield note("acl", text)
    if os.stat(path).st_mode & stat.S_IWOTH and all(_open_to_all(one) for one in places[:-1]):
        text = "every user of this machine may connect, and then make any request as anybody"
        advice = "fastfcgi serve --socket-mode 660 --socket-group GROUP lets a group in only."
        yield note("open-to-all", text, advice)
    if path.startswith(_PRIVATE):
        yield note(
            "private-tmp",
            "services of systemd with PrivateTmp=yes, as Apache often is, have another /tmp: for"
            " them this socket does not exist",
            "Put it below /run: RuntimeDirectory=app and --bind unix:/run/app/app.sock.",
        )


def _open_to_all(folder: str) -> bool:
    return bool(os.stat(folder).st_mode & stat.S_IXOTH)


def _has_acl(path: str) -> bool:
    try:
        return bool(os.getxattr(path, _ACL))
    except (AttributeError, OSError):  # not on this system, or there is none
        return False


def directories(path: str) -> list[str]:
    """Those that one passes on the way to a path, links followed, from the root."""
    found: list[str] = []
    for way in (os.path.abspath(path), os.path.realpath(path)):
        found += [str(one) for one in reversed(Path(way).parents) if str(one) not in found]
    return found


def owner_of(status: os.stat_result) -> str:
    """USER:GROUP of a file, numbers where they have no name."""
    return f"{_user_name(status.st_uid)}:{_group_name(status.st_gid)}"


# ------------------------------------------------------------------------------------ users


def likely_users() -> list[WebUser]:
    """Whom the running web servers run as; else whom a web server would probably run as."""
    import pwd  # posix only

    running = _running()
    if running:
        return running
    known = {entry.pw_name for entry in pwd.getpwall()}
    names: list[str] = [name for name in _USERS if name in known]
    if not names and _LAST_RESORT in known:
        names = [_LAST_RESORT]
    return [_named(name) for name in names]


def _named(name: str) -> WebUser:
    import pwd

    uid = user_id(name)
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise ConfigurationError(f"no such user: {name!r}") from None
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return WebUser(entry.pw_name, uid, frozenset(groups), "")


def _running() -> list[WebUser]:
    """From /proc, which only Linux has. A master that is root does not connect itself."""
    groups: dict[int, frozenset[int]] = {}
    programs: dict[int, set[str]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            name = (process / "comm").read_text().strip()
            if name not in _PROCESSES:
                continue
            lines = (process / "status").read_text().splitlines()
            fields = {key: value.split() for key, _, value in (one.partition(":") for one in lines)}
            uid = int(fields["Uid"][1])
            if uid:
                groups[uid] = frozenset(map(int, [fields["Gid"][1], *fields["Groups"]]))
                programs.setdefault(uid, set()).add(name)
    return [
        WebUser(_user_name(uid), uid, groups[uid], ", ".join(sorted(programs[uid])))
        for uid in sorted(groups)
    ]


def _primary(user: WebUser) -> list[int]:
    import pwd

    with contextlib.suppress(KeyError):
        return [pwd.getpwuid(user.uid).pw_gid]
    return sorted(user.groups)


def _names(users: list[WebUser]) -> str:
    return ", ".join(
        f"{user.name} (the user of {user.why})" if user.why else user.name for user in users
    )


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
