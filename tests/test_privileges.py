"""Whom workers become, and that they cannot go back."""

import os
import sys

import pytest

if os.name != "posix":
    pytest.skip("the master is POSIX only", allow_module_level=True)

import pwd

from fastfcgi.exceptions import ConfigurationError
from fastfcgi.privileges import Identity, identity

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def in_child(call) -> str:
    """What a call gives or raises in a child, as text."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = repr(call())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(into, text.encode())
        os._exit(0)
    os.close(into)
    with open(out) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return text


def test_nobody_is_named() -> None:
    assert identity(None, None) is None


@pytest.mark.parametrize(("user", "group"), [("no-such-user", None), (None, "no-such-group")])
def test_who_does_not_exist(user: "str | None", group: "str | None") -> None:
    with pytest.raises(ConfigurationError, match="no such"):
        identity(user, group)


@as_root
def test_by_name_and_by_number() -> None:
    entry = pwd.getpwnam("nobody")
    expected = Identity(entry.pw_uid, entry.pw_gid, "nobody")
    assert identity("nobody", None) == expected
    assert identity(entry.pw_uid, None) == expected
    assert identity(str(entry.pw_uid), None) == expected
    assert identity("nobody", "daemon") == Identity(entry.pw_uid, 1, "nobody")
    assert identity(None, "daemon") == Identity(0, 1, "root")


@as_root
def test_a_number_without_an_entry_needs_a_group() -> None:
    with pytest.raises(ConfigurationError, match="group has to be named"):
        identity(54321, None)
    assert identity(54321, 54322) == Identity(54321, 54322, None)


@as_root
@pytest.mark.parametrize("who", [("nobody", None), (54321, 54322)])
def test_taking_it_is_for_good(who) -> None:
    taken = identity(*who)
    assert taken is not None

    def become():
        taken.take()
        found = (os.getresuid(), os.getresgid())
        for call in (os.setuid, os.seteuid, os.setgid):
            try:
                call(0)
            except PermissionError:
                continue
            return "root again"
        return found

    assert in_child(become) == repr(((taken.uid,) * 3, (taken.gid,) * 3))


@as_root
@pytest.mark.parametrize("who", [Identity(54321, 54322, None), Identity(65534, 54322, "nobody")])
def test_groups_are_those_of_the_user(who: Identity) -> None:
    def become():
        os.setgroups([0, 4, 54320])
        who.take()
        return os.getgroups()

    assert in_child(become) == "[54322]"


@as_root
def test_a_drop_that_did_not_work_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = identity("nobody", None)
    assert taken is not None
    monkeypatch.setattr(os, "setuid", lambda uid: None)
    assert in_child(taken.take).startswith("RuntimeError: user")


@as_root
def test_others_than_root_cannot() -> None:
    def ask():
        Identity(54321, 54322, None).take()
        return identity(54321, 54322), identity("nobody", None)

    assert "ConfigurationError: only root can run workers as nobody" in in_child(ask)


@pytest.mark.skipif(os.geteuid() == 0, reason="for everybody else")
def test_ourselves_is_nothing_to_do() -> None:
    assert identity(os.getuid(), os.getgid()) is None
    assert sys.platform
