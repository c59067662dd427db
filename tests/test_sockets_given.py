"""Sockets that somebody else opened: descriptors, systemd's, ready ones; who may connect."""

import errno
import os
import socket
import subprocess
import sys
import textwrap

import pytest

from fastfcgi import sockets
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.sockets import SocketOptions, inherited_fds, is_listening, open_listeners

needs_posix = pytest.mark.skipif(os.name != "posix", reason="posix only")


@pytest.fixture
def listening():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock


def opened(address):
    (listener,) = open_listeners([address], SocketOptions())
    return listener


def run_with_fds(code, *socks, **environment):
    """Run code in a process whose descriptors from 0 on are these; its exit status."""
    # pass_fds keeps numbers, so the numbers are arranged by a first process.
    arrange = """
        import os, sys
        fds = [int(fd) for fd in sys.argv[2].split(",")]
        high = [os.dup2(fd, 100 + i) for i, fd in enumerate(fds)]
        for i, fd in enumerate(high):
            os.dup2(fd, i, inheritable=True)
        os.environ["LISTEN_PID"] = str(os.getpid())
        os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
    """
    fds = [sock.fileno() for sock in socks]
    return subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(arrange),
            textwrap.dedent(code),
            ",".join(map(str, fds)),
        ],
        pass_fds=fds,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        timeout=60,
        check=False,
    ).returncode


# ------------------------------------------------------------------------- is it listening?


@needs_posix
def test_is_listening(listening):
    assert is_listening(listening.fileno())


@needs_posix
def test_what_is_not_listening(tmp_path):
    with socket.socket() as bound, (tmp_path / "file").open("w") as file:
        bound.bind(("127.0.0.1", 0))
        assert not is_listening(bound.fileno())
        assert not is_listening(file.fileno())
    left, right = socket.socketpair()
    with left, right:
        assert not is_listening(left.fileno())
    read, write = os.pipe()
    assert not is_listening(read)
    os.close(read)
    os.close(write)
    assert not is_listening(read)
    assert not is_listening(-1)


@needs_posix
def test_asking_leaves_the_descriptor_alone(listening):
    is_listening(listening.fileno())
    assert listening.getsockname()
    assert listening.getblocking()


@needs_posix
def test_asking_opens_nothing_for_good(listening, tmp_path):
    with (tmp_path / "file").open("w") as file:
        for fd in (listening.fileno(), file.fileno(), -1):
            before = os.dup(file.fileno())
            os.close(before)
            is_listening(fd)
            after = os.dup(file.fileno())
            os.close(after)
            assert before == after


@needs_posix
def test_where_the_system_does_not_tell_who_has_no_peer_listens(listening, monkeypatch):
    """The specification's own test (spec 2.2)."""

    def unknown(*args):
        raise OSError(errno.ENOPROTOOPT, "as asked")

    monkeypatch.setattr(socket.socket, "getsockopt", unknown)
    left, right = socket.socketpair()
    with left, right:
        assert not is_listening(left.fileno())
    assert is_listening(listening.fileno())


# ---------------------------------------------------------------------- descriptors, sockets


@needs_posix
@pytest.mark.parametrize("form", [lambda fd: fd, "fd:{}".format])
def test_a_descriptor(listening, form):
    listener = opened(form(listening.fileno()))
    assert listener.address == listening.getsockname()
    assert not listener.sock.getblocking()
    assert not listener.sock.get_inheritable()
    listener.close()
    assert is_listening(listening.fileno())


@needs_posix
def test_a_descriptor_that_does_not_listen(tmp_path):
    with (tmp_path / "file").open("w") as file:
        text = f"file descriptor {file.fileno()} is not a listening socket"
        with pytest.raises(ConfigurationError, match=text):
            opened(file.fileno())


@pytest.mark.parametrize("fd", [99999, 1 << 40, -1])
def test_a_descriptor_that_is_none(fd):
    with pytest.raises(ConfigurationError, match=f"file descriptor {fd} is not a listening sock"):
        opened(fd)


def test_a_ready_socket(listening):
    listener = opened(listening)
    assert listener.address == listening.getsockname()
    listener.close()


def test_a_ready_socket_that_does_not_listen():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigurationError, match="not a listening socket"):
            opened(sock)


def test_a_ready_socket_stays_its_owners(listening):
    """run() may be called again, after SIGHUP."""
    address = listening.getsockname()
    for _ in range(2):
        opened(listening).close()
    assert listening.getsockname() == address


@needs_posix
def test_the_path_of_a_given_socket_stays_its_owners(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("app.sock")
        sock.listen()
        opened(sock.fileno()).close()
    assert os.path.exists("app.sock")


# --------------------------------------------------------------------------------- systemd


def systemd(pid=None, fds="2", **more):
    return {"LISTEN_PID": str(os.getpid()) if pid is None else pid, "LISTEN_FDS": fds, **more}


@pytest.fixture
def environ(monkeypatch):
    """The process's own environment, with what systemd would set taken out."""
    monkeypatch.setattr("fastfcgi.sockets._passed", (0, []))
    names = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    for name in names:
        # Set first, so that it is put back as it was, whatever the test does.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return os.environ


def test_descriptors_of_systemd_begin_at_3(environ):
    environ.update(systemd(LISTEN_FDNAMES="a:b"))
    assert inherited_fds() == [3, 4]
    assert not [name for name in environ if name.startswith("LISTEN_")]


def test_descriptors_of_systemd_are_remembered_by_this_process_only(environ, monkeypatch):
    environ.update(systemd())
    assert inherited_fds() == inherited_fds() == [3, 4]
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert inherited_fds() == []


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"LISTEN_FDS": "1"},
        systemd(pid="1"),
        systemd(pid=""),
        systemd(pid="x"),
        systemd(fds=""),
        systemd(fds="x"),
        systemd(fds="-1"),
    ],
)
def test_descriptors_for_nobody_or_another_process_are_left_alone(environ, given):
    environ.update(given)
    before = dict(environ)
    assert inherited_fds() == []
    assert dict(environ) == before


def test_systemd_that_passed_none(environ):
    with pytest.raises(ConfigurationError, match="systemd"):
        open_listeners(["systemd"], SocketOptions())


@needs_posix
@pytest.mark.parametrize("how", ["open_listeners(['systemd'], SocketOptions())", "default()"])
def test_sockets_of_systemd(listening, how):
    code = f"""
        import os, socket
        from fastfcgi.sockets import *
        def default():
            return open_listeners(default_addresses(), SocketOptions())
        ports = [listener.address[1] for listener in {how}]
        assert ports == [{listening.getsockname()[1]}] * 2, ports
        assert "LISTEN_FDS" not in os.environ
    """
    null = open(os.devnull)
    with null:
        fds = [null, null, sys.__stderr__, listening, listening]
        assert run_with_fds(code, *fds, LISTEN_FDS="2") == 0


@needs_posix
def test_descriptor_0_is_the_default(listening):
    code = """
        from fastfcgi.sockets import default_addresses
        assert default_addresses() == [0]
    """
    assert run_with_fds(code, listening) == 0


@needs_posix
def test_no_default_where_descriptor_0_does_not_listen():
    code = """
        from fastfcgi.sockets import default_addresses
        assert default_addresses() is None
    """
    with open(os.devnull) as null:
        assert run_with_fds(code, null) == 0


# --------------------------------------------------------------------- the standard streams


@needs_posix
def test_reserved_descriptors_are_not_given_to_connections():
    code = """
        import os, socket, sys
        from fastfcgi.sockets import reserve_standard_fds
        for fd in (1, 2):
            os.close(fd)
        before = os.fstat(0)
        reserve_standard_fds()
        assert os.fstat(0) == before
        with socket.socket() as sock:
            assert sock.fileno() > 2
        os.write(1, b"lost")
        assert os.fstat(1).st_rdev == os.stat(os.devnull).st_rdev
        reserve_standard_fds()
    """
    with open(os.devnull) as null:
        assert run_with_fds(code, null) == 0


@needs_posix
def test_reserved_descriptors_are_there_for_children_too():
    code = """
        import os, subprocess, sys
        from fastfcgi.sockets import reserve_standard_fds
        os.close(1)
        reserve_standard_fds()
        check = "import os; os.write(1, b'x')"
        sys.exit(subprocess.run([sys.executable, "-c", check]).returncode)
    """
    with open(os.devnull) as null:
        assert run_with_fds(code, null) == 0


# -------------------------------------------------------------------- FCGI_WEB_SERVER_ADDRS


@pytest.mark.parametrize("text", [None, "", "  "])
def test_without_addresses_anybody_may_connect(text):
    allowed = sockets.allowed_peers(text)
    assert allowed is None
    assert sockets.is_allowed(("192.0.2.1", 1), allowed)


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        ("192.0.2.1", True),
        ("192.0.2.2", True),
        ("192.0.2.3", False),
        ("2001:db8::1", True),
        ("2001:db8::2", False),
        ("::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.3", False),
        ("fe80::1%eth0", True),
    ],
)
def test_addresses_that_may_connect(peer, allowed):
    text = " 192.0.2.1,::ffff:192.0.2.2, 2001:DB8:0::1 ,fe80::1,"
    assert sockets.is_allowed((peer, 4711), sockets.allowed_peers(text)) is allowed


@pytest.mark.parametrize("peer", ["", b"\0name", None])
def test_unix_peers_may_always_connect(peer):
    assert sockets.is_allowed(peer, sockets.allowed_peers("192.0.2.1"))


@pytest.mark.parametrize("text", ["localhost", "192.0.2.1,192.0.2.256", "192.0.2.0/24"])
def test_addresses_that_are_none(text):
    with pytest.raises(ConfigurationError, match="FCGI_WEB_SERVER_ADDRS: "):
        sockets.allowed_peers(text)
