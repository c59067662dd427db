"""Who may connect to a unix socket: its mode, owner and group."""

import os
import socket
import stat
import tempfile

import pytest

from fastfcgi import sockets
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.sockets import SocketOptions, open_listeners

needs_posix = pytest.mark.skipif(os.name != "posix", reason="posix only")
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give a file away"
)


@pytest.fixture
def path():
    """Where a socket may be; pytest's own folders have names too long for some systems."""
    with tempfile.TemporaryDirectory(prefix="fcgi-") as folder:
        yield os.path.join(folder, "app.sock")


@pytest.fixture
def listen():
    """Opens a listener with SocketOptions by keyword; it is closed after the test."""
    listeners = []

    def opened(address, **options):
        listeners.extend(open_listeners([address], SocketOptions(**options)))
        return listeners[-1]

    yield opened
    for listener in listeners:
        listener.close()


@needs_posix
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777])
def test_mode(path, mode, listen):
    listen(path, mode=mode, umask=0o077)
    assert stat.S_IMODE(os.lstat(path).st_mode) == mode


@needs_posix
@pytest.mark.parametrize("umask", [0, 0o007, 0o077])
def test_umask_counts_while_the_socket_is_bound(path, umask, listen):
    before = os.umask(0o022)
    try:
        listen(path, umask=umask)
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o777 & ~umask


@needs_posix
def test_umask_is_put_back_after_a_failure(path):
    before = os.umask(0o022)
    try:
        with pytest.raises(OSError):
            open_listeners([path + "/x"], SocketOptions(umask=0))
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


@needs_root
@pytest.mark.parametrize(("owner", "group"), [("nobody", 12), (65534, "12"), (None, 12), (7, None)])
def test_owner_and_group(path, owner, group, listen):
    listen(path, owner=owner, group=group)
    status = os.lstat(path)
    uid = {"nobody": sockets.user_id("nobody"), None: os.geteuid()}.get(owner, owner)
    assert status.st_uid == uid
    assert status.st_gid == (os.getegid() if group is None else 12)


@needs_posix
def test_access_is_set_before_anybody_can_connect(path, monkeypatch):
    seen = []

    class Socket(socket.socket):
        def listen(self, *args):
            seen.append(stat.S_IMODE(os.lstat(path).st_mode))
            super().listen(*args)

    monkeypatch.setattr(socket, "socket", Socket)
    (listener,) = open_listeners([path], SocketOptions(mode=0o604, umask=0o077))
    listener.close()
    assert seen == [0o604]


@needs_posix
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"owner": "no such"}, "no such user: 'no such'"),
        ({"group": "x y"}, "no such group: 'x y'"),
        ({"owner": "4294967295"}, "no such user: '4294967295'"),
        ({"group": str(1 << 70)}, "no such group: '1180591620717411303424'"),
        ({"owner": 1 << 32}, "no such user: 4294967296"),
        ({"group": -1}, "no such group: -1"),
        ({"owner": "\xb2"}, "no such user: '\xb2'"),
    ],
)
def test_unknown_owner_or_group(path, options, text, listen):
    with pytest.raises(ConfigurationError, match=text):
        listen(path, **options)
    assert not os.path.lexists(path)


@needs_posix
def test_names_and_numbers_of_users_and_groups():
    import grp
    import pwd

    user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(os.getegid())
    assert sockets.user_id(user.pw_name) == user.pw_uid
    assert sockets.group_id(group.gr_name) == group.gr_gid
    assert sockets.user_id("12") == sockets.user_id(12) == 12
    assert sockets.group_id("12") == sockets.group_id(12) == 12
    assert sockets.user_id(None) == sockets.group_id(None) == -1
