"""How a FastCGI application is started, one test for each rule (section 2.2): descriptor 0, and
plain CGI (RFC 3875) when that is no listening socket.
"""

import contextlib
import os
import socket
import subprocess

import pytest
import wire
from spec_server import DEADLINE, HAS_UNIX_SOCKETS, Peer, start_script

pytestmark = pytest.mark.skipif(os.name != "posix", reason="descriptor 0 is a matter of posix")

# Tells what it got; stops by itself after one request when its path says so.
SCRIPT = """
import sys
from fastfcgi import WSGIServer

def application(environ, start_response):
    body = environ["wsgi.input"].read()
    if environ["PATH_INFO"] == "/fail":
        raise RuntimeError("for every log")
    print("printed")
    environ["wsgi.errors"].write("noted")
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-A", "1"), ("X-A", "2")])
    keys = ["REQUEST_METHOD", "PATH_INFO", "X_LATIN", "wsgi.run_once", "wsgi.multithread"]
    return [repr([environ.get(key) for key in keys]).encode() + body]

WSGIServer(application%s).run()
"""

CGI = {
    "GATEWAY_INTERFACE": "CGI/1.1",
    "REQUEST_METHOD": "POST",
    "SCRIPT_NAME": "/cgi-bin/app",
    "PATH_INFO": "/path",
    "QUERY_STRING": "",
    "SERVER_NAME": "www.example.org",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
}


@contextlib.contextmanager
def started(listener, options="", **env):
    """A front-end script with a listening socket as its descriptor 0, and a Peer of it."""
    process = start_script(SCRIPT % options, stdin=listener, env=env)
    try:
        with Peer(listener.getsockname()) as peer:
            yield process, peer
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE)


def run_cgi(stdin=subprocess.DEVNULL, options="", data=None, **env):
    """Run the script as plain CGI; returns (exit status, stdout, stderr).

    Args:
        env: Goes into its environment beside that of CGI; None takes a name out of that.
    """
    environment = {name: value for name, value in {**CGI, **env}.items() if value is not None}
    process = start_script(SCRIPT % options, stdin=stdin, env=environment)
    try:
        out, err = process.communicate(data, timeout=DEADLINE)
    finally:
        process.kill()
        process.wait()
    return process.returncode, out, err


def tcp_listener():
    return socket.create_server(("127.0.0.1", 0))


# ------------------------------------------------------------------------- descriptor 0 (2.2)


def test_listening_socket_is_descriptor_0():
    """2.2: the listening socket is descriptor 0 at the start."""
    with tcp_listener() as listener, started(listener) as (process, peer):
        response = peer.request(wire.cgi_params("POST"), b" body", keep_conn=True)
        assert response.status == 200 and response.body.endswith(b"] body")
        assert response.stderr == b"noted"
        process.terminate()
        out, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0 and out == b"printed\n"


@pytest.mark.skipif(not HAS_UNIX_SOCKETS, reason="needs unix sockets")
def test_listening_unix_socket_is_descriptor_0(tmp_path):
    """2.2: whatever the family of the socket; and its file belongs to who made it."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with started(listener) as (_, peer):
            assert peer.request().status == 200
    assert os.path.exists(path)


def test_descriptor_0_is_asked_and_not_the_environment():
    """2.2: a listening socket is one, also where the environment looks like CGI's."""
    with tcp_listener() as listener, started(listener, **CGI) as (_, peer):
        assert b"'/'" in peer.request().body


def test_addresses_of_web_servers_are_in_the_environment():
    """3.2: FCGI_WEB_SERVER_ADDRS of the environment at the start counts."""
    with tcp_listener() as listener:
        with started(listener, FCGI_WEB_SERVER_ADDRS="192.0.2.1") as (_, peer):
            peer.send(wire.request())
            peer.receive_close()
            assert not peer.records


def test_traceback_is_in_both_logs():
    """5.3: STDERR is for the web server's error log. Some web servers drop it, so a failure of
    the application is on the stderr of the process too."""
    with tcp_listener() as listener, started(listener) as (process, peer):
        response = peer.request(wire.cgi_params(path="/fail"))
        assert response.status == 500 and b"for every log" not in response.body
        assert response.stderr.count(b"RuntimeError: for every log") == 1
        peer.close()
        process.terminate()
        _, err = process.communicate(timeout=DEADLINE)
        assert b"RuntimeError: for every log" in err


# ----------------------------------------------------------------------------- plain CGI


def assert_is_answer(out, body=b""):
    """What the script says of a CGI request, on stdout and nothing else."""
    status, headers, content = wire.parse_cgi(out)
    assert out.startswith(b"Status: 200 OK\r\n") and status == 200
    assert headers[:3] == [("Content-Type", "text/plain"), ("X-A", "1"), ("X-A", "2")]
    assert content == b"['POST', '/path', None, True, False]" + body


def test_plain_cgi():
    """2.2: otherwise the process was started as CGI: environment from os.environ, body on stdin,
    response on stdout."""
    status, out, err = run_cgi(subprocess.PIPE, data=b" body", CONTENT_LENGTH="5")
    assert_is_answer(out, b" body")
    assert status == 0
    assert b"noted" in err and b"printed" in err


def test_plain_cgi_reads_no_more_than_content_length():
    """RFC 3875 4.2: the body has CONTENT_LENGTH bytes; stdin need not end after them."""
    end, held_open = os.pipe()
    try:
        os.write(held_open, b" body and more")
        status, out, _ = run_cgi(end, CONTENT_LENGTH="5")
    finally:
        os.close(end)
        os.close(held_open)
    assert_is_answer(out, b" body")
    assert status == 0


def test_plain_cgi_without_content_length_has_no_body():
    """RFC 3875 4.1.2: no CONTENT_LENGTH means no body; stdin is not waited for."""
    end, held_open = os.pipe()
    try:
        _, out, _ = run_cgi(end)
    finally:
        os.close(end)
        os.close(held_open)
    assert_is_answer(out)


def test_plain_cgi_with_a_socket_that_does_not_listen():
    """2.2: a connected socket as descriptor 0 is no listening socket (SO_ACCEPTCONN)."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b" body")
        _, out, _ = run_cgi(theirs, CONTENT_LENGTH="5")
    assert_is_answer(out, b" body")


def test_plain_cgi_environment_is_latin_1():
    """RFC 3875 4.1, PEP 3333: the bytes of the environment as latin-1 str, whatever the locale."""
    value = os.fsdecode(b"\xe9\xff\xc3\xa9")
    _, out, _ = run_cgi(X_LATIN=value)
    assert b"'\xc3\xa9\xc3\xbf\xc3\x83\xc2\xa9'" in out  # repr() as UTF-8


@pytest.mark.parametrize(
    ("options", "env"), [(", forceCGI=True", {}), ("", {"FCGI_FORCE_CGI": "Y"})]
)
def test_plain_cgi_can_be_forced(options, env):
    """2.2: what overrules the question asked of descriptor 0."""
    with tcp_listener() as listener:
        _, out, _ = run_cgi(listener, options, **env)
    assert_is_answer(out)


def test_plain_cgi_that_fails():
    """PEP 3333: an exception before the header is a 500, here too; the traceback is on stderr."""
    _, out, err = run_cgi(PATH_INFO="/fail")
    assert wire.parse_cgi(out)[0] == 500
    assert b"RuntimeError: for every log" in err and b"for every log" not in out


def test_neither_a_socket_nor_cgi():
    """2.2: without a listening socket and without CGI's environment there is nothing to serve,
    and that is said."""
    status, out, err = run_cgi(**dict.fromkeys(CGI))
    assert status != 0 and not out
    assert b"descriptor 0 is not a listening socket" in err


# ----------------------------------------------------------------- sockets of systemd


@pytest.mark.skipif(not HAS_UNIX_SOCKETS, reason="needs unix sockets")
def test_listen_fds(tmp_path):
    """sd_listen_fds(3): LISTEN_FDS sockets from descriptor 3 on, if LISTEN_PID is this process;
    both variables are taken out of the environment, the socket's file is left to its owner."""
    path = str(tmp_path / "s")
    tell = "import os; environ['X_LATIN'] = sorted(os.environ)"
    script = SCRIPT.replace('print("printed")', tell)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        # exec keeps the number of the process that LISTEN_PID has to name.
        command = 'exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
        process = start_script(
            script % "", stdin=listener, env={}, wrapper=["sh", "-c", command, "sh"]
        )
        try:
            with Peer(path) as peer:
                response = peer.request()
        finally:
            process.terminate()
            process.communicate(timeout=DEADLINE)
    assert response.status == 200
    assert b"PYTHONPATH" in response.body and b"LISTEN_" not in response.body
    assert os.path.exists(path)
