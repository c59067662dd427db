"""Who may connect to a unix socket, by what the system itself lets them do."""

import contextlib
import itertools
import os
import pwd
import shutil
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("needs Linux, as all tests with real processes", allow_module_level=True)

import doctored
from processes import AS_ROOT, SERVER_USER, server_folder

from fastfcgi import socket_access
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.findings import Finding
from fastfcgi.socket_access import WebUser, check_access

as_root = pytest.mark.skipif(not AS_ROOT, reason="only root can give files away")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder of root's, open to all, that is gone after the test."""
    with server_folder() as folder:
        if AS_ROOT:
            os.chown(folder, 0, 0)
        yield folder


@pytest.fixture
def path(place: Path) -> Iterator[Path]:
    """A socket that listens, in a folder of its own; both are open to nobody but their owner."""
    folder = place / "run"
    folder.mkdir(0o700)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "s"))
        sock.listen()
        os.chmod(folder / "s", 0o600)
        yield folder / "s"


def keys(findings: list[Finding], level: str = "WRONG") -> list[str]:
    return [finding.key for finding in findings if finding.level == level]


def look(path: Path) -> list[Finding]:
    return list(check_access(str(path), SERVER_USER))


TRY = """
import socket, sys
for line in sys.stdin:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(line[:-1])
        except OSError:
            print("no", flush=True)
        else:
            print("yes", flush=True)
"""


@contextlib.contextmanager
def system() -> Iterator[Callable[[Path], bool]]:
    """Tells whether a connection is possible: it is tried, as the web servers' user."""
    entry = pwd.getpwnam(SERVER_USER or "nobody")
    with subprocess.Popen(
        ["/usr/bin/python3", "-c", TRY],
        user=entry.pw_uid,
        group=entry.pw_gid,
        extra_groups=os.getgrouplist(entry.pw_name, entry.pw_gid),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
        text=True,
    ) as child:
        assert child.stdin and child.stdout

        def can_connect(path: Path) -> bool:
            child.stdin.write(f"{path}\n")
            child.stdin.flush()
            answer = child.stdout.readline()
            assert answer in ("yes\n", "no\n")
            return answer == "yes\n"

        yield can_connect
        child.stdin.close()


@as_root
@pytest.mark.skipif(not os.path.exists("/usr/bin/python3"), reason="a Python that all may run")
def test_as_the_system_has_it(place: Path) -> None:
    """For every mode and owner: the doctor sees what the kernel does."""
    entry = pwd.getpwnam(SERVER_USER or "nobody")
    folder, path = place / "run", place / "run" / "s"
    folder.mkdir()
    owners = [(0, 0), (0, entry.pw_gid), (entry.pw_uid, 0)]
    folder_modes, modes = (0o700, 0o710, 0o701, 0o755, 0o070), (0o600, 0o660, 0o606, 0o666, 0o066)
    seen = set()
    with system() as can_connect, socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(100)
        for (uid, gid), folder_mode, mode in itertools.product(owners, folder_modes, modes):
            for one, bits in ((path, mode), (folder, folder_mode)):
                os.chown(one, uid, gid)
                os.chmod(one, bits)
            able = can_connect(path)
            assert (keys(look(path)) == []) == able, (uid, gid, oct(folder_mode), oct(mode))
            seen.add(able)
    assert seen == {True, False}


@as_root
def test_both_are_named(path: Path) -> None:
    """With the modes as they are, and what to do."""
    folder, sock = (one for one in look(path) if one.level == "WRONG")
    assert (folder.key, sock.key) == ("directory", "socket-mode")
    assert f"{path.parent} is drwx------ of root:root" in folder.text
    assert f"chmod o+x {path.parent}" in folder.advice
    assert "is srw------- of root:root" in sock.text
    group = pwd.getpwnam(str(SERVER_USER)).pw_gid
    name = socket_access._group_name(group)
    assert f"fastfcgi serve --socket-mode 660 --socket-group {name} ..." in sock.advice
    assert f"or with spawn-fcgi: -M 0660 -U {SERVER_USER} -G {name}" in sock.advice


@as_root
def test_the_advice_helps(path: Path) -> None:
    os.chmod(path.parent, 0o711)
    os.chmod(path, 0o660)
    shutil.chown(path, group=pwd.getpwnam(str(SERVER_USER)).pw_gid)
    assert keys(look(path)) == []
    assert keys(look(path), "ok") == ["access"]


@as_root
def test_the_group_is_right_but_the_mode(path: Path) -> None:
    """It is not told to set what is set."""
    os.chmod(path.parent, 0o755)
    shutil.chown(path, group=pwd.getpwnam(str(SERVER_USER)).pw_gid)
    (finding,) = [one for one in look(path) if one.level == "WRONG"]
    assert "fastfcgi serve --socket-mode 660 ..." in finding.advice


@as_root
def test_a_link(place: Path, path: Path) -> None:
    """Folders behind it count, too."""
    (place / "link").symlink_to(path.parent)
    findings = list(check_access(f"{place}/link/s", SERVER_USER))
    assert any(f"{path.parent} is drwx" in one.text for one in findings if one.level == "WRONG")


def test_open_to_all(path: Path) -> None:
    os.chmod(path.parent, 0o755)
    os.chmod(path, 0o666)
    assert "open-to-all" in keys(list(check_access(str(path), "root")), "note")
    os.chmod(path.parent, 0o700)
    assert "open-to-all" not in keys(list(check_access(str(path), "root")), "note")


def test_temporary_folders(path: Path) -> None:
    """/tmp may be another one for a web server."""
    expected = str(path).startswith("/tmp/")
    findings = list(check_access(str(path), "root"))
    assert ("private-tmp" in keys(findings, "note")) == expected


@as_root
def test_acl(path: Path) -> None:
    # acl(5): owner, one user more, group, mask, others; each a tag, its permissions, an id.
    entries = [(1, 6, -1), (2, 6, 1), (4, 0, -1), (16, 6, -1), (32, 0, -1)]
    packed = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", packed)
    except OSError as error:
        pytest.skip(f"no ACL on this file system: {error}")
    assert "acl" in keys(look(path), "note")


@as_root
def test_root_may_always(path: Path) -> None:
    """Whoever owns it, whatever its mode."""
    for place in (path, path.parent):
        os.chown(place, pwd.getpwnam("nobody").pw_uid, 0)
        os.chmod(place, 0)
    assert keys(list(check_access(str(path), "root"))) == []


def test_no_such_user(path: Path) -> None:
    for name in ("nobody-of-that-name", "4294967294"):
        with pytest.raises(ConfigurationError, match="no such user"):
            list(check_access(str(path), name))


def test_supplementary_groups() -> None:
    """Any group that the user is a member of counts."""
    user = WebUser("web", 1000, frozenset({1000, 2000}), "")
    status = os.stat_result((stat.S_IFSOCK | 0o660, 0, 0, 1, 0, 2000, 0, 0, 0, 0))
    assert user.may(stat.S_IWOTH, status)
    assert not WebUser("web", 1000, frozenset({1000}), "").may(stat.S_IWOTH, status)


def test_of_several_users_one_is_enough(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who only exist need not get in; those whose web server runs do."""
    nobody = WebUser("somebody", 12345, frozenset({12345}), "")
    root = WebUser("root", 0, frozenset({0}), "")
    monkeypatch.setattr(socket_access, "likely_users", lambda: [nobody, root])
    assert keys(list(check_access(str(path)))) == []
    running = WebUser("somebody", 12345, frozenset({12345}), "nginx")
    monkeypatch.setattr(socket_access, "likely_users", lambda: [running, root])
    assert set(keys(list(check_access(str(path))))) == {"directory", "socket-mode"}


@as_root
@pytest.mark.webserver
def test_a_running_web_server_is_found(folder: Path) -> None:
    """By its processes; its workers are somebody else than root."""
    with doctored.nginx(folder):
        users = socket_access.likely_users()
    (found,) = [user for user in users if user.name == SERVER_USER]
    assert "nginx" in found.why.split(", ")  # others may run elsewhere at the same time


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (["root", "www-data", "nobody", "nginx"], ["www-data", "nginx"]),
        (["root", "nobody"], ["nobody"]),
        (["root"], []),
    ],
)
def test_likely_users(
    known: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [pwd.struct_passwd((name, "", 1, 1, "", "", "")) for name in known]
    monkeypatch.setattr(pwd, "getpwall", lambda: entries)
    monkeypatch.setattr(socket_access, "_running", list)
    monkeypatch.setattr(socket_access, "_named", lambda name: WebUser(name, 1, frozenset(), ""))
    assert [user.name for user in socket_access.likely_users()] == expected
