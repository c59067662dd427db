"""Whom workers run as: looked up while we may still fail, taken on in the worker."""

import os
from dataclasses import dataclass

from fastfcgi.exceptions import ConfigurationError
from fastfcgi.sockets import group_id, user_id


@dataclass(frozen=True)
class Identity:
    """A user with a group.

    Attributes:
        uid, gid: Their numbers.
        name: The user's name, for the groups it is in; None for a number without an entry.
    """

    uid: int
    gid: int
    name: str | None

    def take(self) -> None:
        """Become this user, for good.

        Raises:
            OSError: The system refuses.
            RuntimeError: It could be undone.
        """
        # In this order: after setuid nobody may change groups any more.
        if self.name is None:
            os.setgroups([self.gid])
        else:
            os.initgroups(self.name, self.gid)
        os.setgid(self.gid)
        os.setuid(self.uid)
        if self.uid != 0:
            self._verify()

    def _verify(self) -> None:
        """Nobody believes in a drop of privileges that was not tried."""
        for undo in (os.setuid, os.seteuid):
            try:
                undo(0)
            except OSError:
                continue
            raise RuntimeError(f"user {self.uid} can become root again")
        if (os.getuid(), os.geteuid(), os.getgid(), os.getegid()) != (
            *(self.uid, self.uid),
            *(self.gid, self.gid),
        ):
            raise RuntimeError(f"the process did not become user {self.uid}, group {self.gid}")


def identity(user: str | int | None, group: str | int | None) -> Identity | None:
    """Whom to become; None to stay who we are.

    Args:
        user, group: Names or numbers. Without a group it is the user's own.

    Raises:
        ConfigurationError: There is no such user or group, or only root could become it.
    """
    if user is None and group is None:
        return None
    import pwd  # posix only

    uid = os.getuid() if user is None else user_id(user)
    try:
        entry = pwd.getpwuid(uid)
    except (KeyError, OverflowError):
        entry = None
    if group is not None:
        gid = group_id(group)
    elif entry is not None:
        gid = entry.pw_gid
    else:
        raise ConfigurationError(f"user {user} has no entry, so its group has to be named, too")
    if os.geteuid() == 0:
        return Identity(uid, gid, None if entry is None else entry.pw_name)
    if (uid, gid) != (os.getuid(), os.getgid()):
        who = user if user is not None else f"group {group}"
        raise ConfigurationError(f"only root can run workers as {who}")
    return None
