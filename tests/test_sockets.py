"""Listening sockets: addresses, how they are opened, what is left of them."""

import contextlib
import errno
import os
import socket
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from fastfcgi import listen_errors
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.sockets import SocketOptions, open_listeners, parse_address

needs_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")
needs_posix = pytest.mark.skipif(os.name != "posix", reason="posix only")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give a file away"
)
needs_user = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may do everything"
)


@pytest.fixture
def listen():
    """Opens listeners with SocketOptions by keyword; they are closed after the test."""
    with contextlib.ExitStack() as stack:

        def opened(*addresses, **options):
            listeners = open_listeners(addresses, SocketOptions(**options))
            for listener in listeners:
                stack.callback(listener.close)
            return listeners[0] if len(addresses) == 1 else listeners

        yield opened


@pytest.fixture
def path():
    """Where a socket may be; pytest's own folders have names too long for some systems."""
    with tempfile.TemporaryDirectory(prefix="fcgi-") as folder:
        yield os.path.join(folder, "app.sock")


def connects(address):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(30)
        try:
            sock.connect(address)
        except OSError:
            return False
        return True


# ------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/app.sock", ("unix", "/run/app.sock")),
        ("unix:app.sock", ("unix", "app.sock")),
        ("unix:host:80", ("unix", "host:80")),
        ("unix:@app", ("unix", "\0app")),
        ("@app", ("unix", "\0app")),
        ("\0app", ("unix", "\0app")),
        ("@app/x", ("unix", "\0app/x")),
        ("/run/app.sock", ("unix", "/run/app.sock")),
        ("./app.sock", ("unix", "./app.sock")),
        ("/run/a:1", ("unix", "/run/a:1")),
        ("127.0.0.1:9000", ("tcp", ("127.0.0.1", 9000))),
        ("localhost:0", ("tcp", ("localhost", 0))),
        (":9000", ("tcp", ("", 9000))),
        ("[::1]:9000", ("tcp", ("::1", 9000))),
        ("[::]:65535", ("tcp", ("::", 65535))),
        ("./http://x", ("unix", "./http://x")),
        ("unix:http://x", ("unix", "http://x")),
        ("unix:///run/a", ("unix", "///run/a")),
        ("@a\0b", ("unix", "\0a\0b")),
        (("127.0.0.1", 9000), ("tcp", ("127.0.0.1", 9000))),
        (("::1", 9000, 0, 0), ("tcp", ("::1", 9000))),
        ("fd:3", ("fd", 3)),
        (0, ("fd", 0)),
        ("systemd", ("systemd",)),
    ],
)
def test_parse_address(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "unix:@",
        "@",
        "localhost",
        "9000",
        "host:",
        "host:port",
        "host:-1",
        "host:65536",
        "host:\xb2",
        "::1:9000",
        "fd:",
        "fd:x",
        "fd:-1",
        "Systemd",
        "http://localhost",
        "http://localhost:80",
        "tcp://127.0.0.1:9000/",
        "a..b:80",
        f"{'x' * 64}.org:80",
        "\udcff.org:80",
        "unix:/a\0b",
        "a\0b:80",
        "[::1\0]:80",
        ("a..b", 80),
        (),
        ("host",),
        ("host", "80"),
        (1, 80),
        ("host", 65536),
        ("host", -1),
        None,
        1.5,
        b"/run/app.sock",
    ],
)
def test_what_is_no_address(text):
    with pytest.raises(ConfigurationError, match="address"):
        parse_address(text)


def test_more_than_two_parts_of_a_tuple_mean_ipv6():
    """flup's rule; it shows with an empty host."""
    assert parse_address(("", 9000, 0)) == ("tcp", ("::", 9000))
    assert parse_address(("", 9000)) == ("tcp", ("", 9000))


# ------------------------------------------------------------------------------------- TCP


def test_tcp_on_a_free_port(listen):
    listener = listen(("127.0.0.1", 0))
    host, port = listener.address
    assert host == "127.0.0.1" and port > 0
    assert connects((host, port))
    assert not listener.sock.getblocking()
    assert not listener.sock.get_inheritable()


def test_tcp_on_all_addresses(listen):
    _, port = listen(":0").address
    assert connects(("127.0.0.1", port))


def test_ipv6(listen):
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    assert listen("[::1]:0").address[0] == "::1"


def test_tcp_address_in_use(listen):
    _, port = listen(("127.0.0.1", 0)).address
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: ") as caught:
        listen(("127.0.0.1", port))
    if os.name == "posix":
        assert caught.value.errno == errno.EADDRINUSE


@needs_linux
def test_an_address_of_another_host():
    # TEST-NET-1 (RFC 5737): nobody has it.
    with pytest.raises(OSError, match=r"on 192\.0\.2\.1:9000: this machine has no such address"):
        open_listeners(["192.0.2.1:9000"], SocketOptions())


@needs_linux
def test_an_ipv6_address_is_named_in_its_notation():
    with pytest.raises(OSError, match=r"cannot listen on \[2001:db8::1\]:9000: "):
        open_listeners(["[2001:db8::1]:9000"], SocketOptions())


@needs_root
def test_as_another_user(path):
    """What only root may do, and what belongs to others."""
    # Here, because another user may not be able to read where Python is.
    import encodings.idna  # noqa: F401
    import pwd  # noqa: F401

    folder = os.path.dirname(path)
    os.chmod(folder, 0o777)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        os.chmod(path, 0o600)
        os.chmod(folder, 0o1777)
        open_path = path + "2"
        tries = [
            (path, {}, f"cannot listen on {path}: there is a socket of another user"),
            (open_path, {"owner": 0}, f"on {open_path}: nobody may not give a socket to that own"),
            (open_path, {"group": 0}, f"on {open_path}: nobody may not give a socket to that gro"),
        ]
        start = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        if start.exists() and int(start.read_text()) > 9:
            tries.append(("127.0.0.1:9", {}, "on 127.0.0.1:9: ports below 1024 are for root"))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                status = 0 if all(said in refused(*one) for *one, said in tries) else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def refused(address, options):
    """Why an address is not listened on; "" if it is."""
    try:
        open_listeners([address], SocketOptions(**options))
    except OSError as error:
        return str(error)
    return ""


def test_unknown_host():
    with pytest.raises(OSError, match=r"cannot listen on host\.invalid:80: "):
        open_listeners(["host.invalid:80"], SocketOptions())


@needs_posix
def test_a_port_in_time_wait_can_be_bound_again(listen):
    listener = listen(("127.0.0.1", 0))
    with socket.create_connection(listener.address, 30) as client:
        listener.sock.settimeout(30)
        listener.sock.accept()[0].close()
        assert client.recv(1) == b""
    address = listener.address
    listener.close()
    assert listen(address).address == address


@needs_unix
def test_a_failure_takes_away_what_was_opened_before(path, listen):
    _, port = listen(("127.0.0.1", 0)).address
    with pytest.raises(OSError):
        listen(path, ("127.0.0.1", port))
    assert not os.path.lexists(path)


def test_several_addresses(listen):
    first, second = listen("127.0.0.1:0", ("127.0.0.1", 0))
    assert connects(first.address) and connects(second.address)


# ------------------------------------------------------------------------------------- unix


@needs_unix
def test_unix_socket(path, listen):
    listener = listen("unix:" + path)
    assert listener.address == path
    assert connects(path)
    assert not listener.sock.getblocking()


@needs_unix
def test_the_file_goes_with_the_listener(path, listen):
    listen(path).close()
    assert not os.path.lexists(path)


@needs_unix
def test_a_file_that_is_gone_already_is_no_error(path, listen):
    listener = listen(path)
    os.unlink(path)
    listener.close()


@needs_unix
def test_a_file_that_another_server_took_over_stays(path, listen):
    listener = listen(path)
    os.rename(path, path + ".old")  # so that the inode number stays taken
    other = listen(path)
    listener.close()
    assert connects(path)
    other.close()
    assert not os.path.lexists(path)


@needs_unix
def test_closing_again_leaves_the_next_servers_file_alone(path, listen):
    """File systems give the number of a removed inode to the next file."""
    listener = listen(path)
    listener.close()
    other = listen(path)
    listener.inode = other.inode
    listener.close()
    assert connects(path)


@needs_unix
def test_the_file_goes_while_its_inode_is_still_ours(path, listen, monkeypatch):
    """Once the socket is closed, a new server's file may have the same inode number."""
    listener = listen(path)
    unlink, open_then = os.unlink, []
    monkeypatch.setattr(
        os, "unlink", lambda p: (open_then.append(listener.sock.fileno() >= 0), unlink(p))
    )
    listener.close()
    assert open_then == [True]


@needs_unix
def test_a_stale_socket_is_replaced(path, listen):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
    assert stat.S_ISSOCK(os.lstat(path).st_mode)
    listen(path)
    assert connects(path)


@needs_unix
def test_a_live_socket_is_not_replaced(path, listen):
    listen(path)
    inode = os.lstat(path).st_ino
    with pytest.raises(OSError, match=f"cannot listen on {path}: another server") as caught:
        listen(path)
    assert caught.value.errno == errno.EADDRINUSE
    assert os.lstat(path).st_ino == inode
    assert connects(path)


@needs_linux
def test_a_live_socket_with_a_full_backlog_is_not_replaced(path, listen):
    listen(path, backlog=0)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(path)
        with pytest.raises(OSError, match="another server is listening"):
            listen(path)
    assert os.path.exists(path)


@needs_unix
@pytest.mark.parametrize("make", [lambda path: Path(path).write_text("mine"), os.mkdir])
def test_a_file_that_is_no_socket_is_not_replaced(path, make, listen):
    make(path)
    with pytest.raises(OSError, match=f"cannot listen on {path}: there is a file that is no sock"):
        listen(path)
    assert os.path.exists(path)


@needs_unix
def test_a_link_is_no_socket(path, listen):
    listen(path)
    os.symlink(path, path + ".link")
    with pytest.raises(OSError, match="no socket"):
        listen(path + ".link")


@needs_unix
def test_a_folder_that_does_not_exist(path):
    with pytest.raises(FileNotFoundError, match=f"cannot listen on {path}/x: there is no dir"):
        open_listeners([path + "/x"], SocketOptions())


@needs_unix
def test_a_path_that_is_too_long(path):
    with pytest.raises(OSError, match=r"cannot listen on .*: the path is longer") as caught:
        open_listeners([path + "x" * 200], SocketOptions())
    assert "None" not in str(caught.value)


@needs_user
def test_a_folder_that_is_closed(path, listen):
    folder = os.path.dirname(path)
    os.chmod(folder, 0o500)
    try:
        with pytest.raises(PermissionError, match="may not be written to by"):
            listen(path)
    finally:
        os.chmod(folder, 0o700)


@needs_root
def test_a_folder_that_is_closed_to_another_user(path):
    os.chmod(os.path.dirname(path), 0o755)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setuid(65534)
            open_listeners([path], SocketOptions())
        except PermissionError as error:
            text = f"cannot listen on {path}: the directory {os.path.dirname(path)} may not be w"
            status = 0 if text in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@needs_linux
def test_the_longest_names(path, listen):
    """They are known beforehand, and are those that the system takes."""
    folder = os.path.dirname(path)
    longest = f"{folder}/{'x' * (107 - len(folder) - 1)}"
    name = f"{os.getpid():x<107}"
    for place, parsed in (longest, longest), (f"@{name}", f"\0{name}"):
        listen(place)
        assert listen_errors.of_unix(parsed) is None
        with pytest.raises(OSError, match="longer than"):
            listen(place + "x")


@needs_linux
def test_abstract_socket(listen):
    name = f"@fastfcgi-test-{os.getpid()}"
    listener = listen("unix:" + name)
    assert listener.address == "\0" + name[1:]
    assert connects(listener.address)
    with pytest.raises(OSError, match=f"cannot listen on {name}: ") as caught:
        listen(name)
    assert caught.value.errno == errno.EADDRINUSE
