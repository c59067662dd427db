"""One request as plain CGI, in memory and as a process."""

import io
import os
import socket
import subprocess
import sys
import textwrap

import pytest
import wire

from fastfcgi.cgi import CGIRequest, environment, is_cgi
from fastfcgi.exceptions import RequestAborted
from fastfcgi.wsgi import Gateway

SCRIPT = """
import sys
from fastfcgi import WSGIServer

def app(environ, start_response):
    print("printed by the application")
    if environ["PATH_INFO"] == "/error":
        raise RuntimeError("failed as asked")
    if environ["PATH_INFO"] == "/late":
        start_response("200 OK", [("Content-Length", "100")])
        return [b"short"]
    environ["wsgi.errors"].write("written to wsgi.errors\\n")
    body = environ["wsgi.input"].read()
    flags = [environ["wsgi." + name] for name in ("multithread", "multiprocess", "run_once")]
    start_response("201 Created", [("Content-Type", "text/plain")])
    return [repr((environ["PATH_INFO"], body, flags)).encode()]
"""


def run(path="/x", body=b"", method="GET", options="", script=SCRIPT, stdin=None, **environment):
    """Run a script as a web server runs a CGI program."""
    environment.setdefault("CONTENT_LENGTH", str(len(body)))
    params = wire.cgi_params(method, path, **environment)
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script) + f"\nWSGIServer(app{options}).run()"],
        input=None if stdin else body,
        stdin=stdin,
        capture_output=True,
        env={
            "PYTHONPATH": os.pathsep.join(sys.path),
            "SYSTEMROOT": os.environ.get("SYSTEMROOT", ""),
            **params,
        },
        timeout=60,
        check=False,
    )


# -------------------------------------------------------------------------------- a process


def test_a_process_started_as_cgi_answers_one_request():
    done = run(body=b"body", method="POST")
    status, headers, body = wire.parse_cgi(done.stdout)
    assert (status, done.returncode) == (201, 0)
    assert ("Content-Type", "text/plain") in headers
    assert body == repr(("/x", b"body", [False, False, True])).encode()


def test_what_is_printed_does_not_get_into_the_response():
    done = run()
    assert done.stdout.startswith(b"Status: 201 Created\r\n")
    assert b"printed by the application" in done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "sys.stdin = sys.stdin.buffer",
        "sys.stdin = sys.stdin.detach()",
        "sys.stderr = open(2, 'w', closefd=False).buffer",
        "import io; sys.stderr = io.StringIO()",
        "sys.stderr = None",
    ],
)
def test_a_script_may_have_put_other_streams_there(line):
    done = run(body=b"body", method="POST", script=f"{SCRIPT}\n{line}\n")
    assert done.returncode == 0, done.stderr
    assert b"('/x', b'body', " in wire.parse_cgi(done.stdout)[2]


def test_without_a_stdin_there_is_no_body():
    done = run(script=f"{SCRIPT}\nsys.stdin = None\n")  # as where descriptor 0 is closed
    assert b"('/x', b'', " in wire.parse_cgi(done.stdout)[2]


def test_errors_go_to_stderr_once():
    done = run()
    assert done.stderr.count(b"written to wsgi.errors\n") == 1


def test_a_failure_is_a_500_and_in_stderr():
    done = run("/error")
    assert wire.parse_cgi(done.stdout)[0] == 500
    assert b"failed as asked" not in done.stdout
    assert b"failed as asked" in done.stderr
    assert done.returncode == 0


def test_a_response_that_is_not_whole_shows_in_the_exit_status():
    done = run("/late")
    assert wire.parse_cgi(done.stdout)[2] == b"short"
    assert done.returncode == 1


def test_a_body_is_not_read_beyond_content_length():
    """The web server may leave stdin open (RFC 3875 section 4.2)."""
    done = run(body=b"bodyand more", method="POST", CONTENT_LENGTH="4")
    assert b"b'body'" in done.stdout


@pytest.mark.parametrize("length", [None, "", "x"])
def test_no_content_length_is_no_body(length):
    done = run(body=b"ignored", CONTENT_LENGTH=length)
    assert repr(("/x", b"")).encode()[:-1] in done.stdout


def test_forced_although_nothing_says_that_it_is_cgi():
    nothing = {"GATEWAY_INTERFACE": None, "REQUEST_METHOD": None}
    assert wire.parse_cgi(run(options=", forceCGI=True", **nothing).stdout)[0] == 201
    assert wire.parse_cgi(run(FCGI_FORCE_CGI="Y", **nothing).stdout)[0] == 201


def test_neither_a_socket_nor_cgi_is_a_clear_error():
    done = run(GATEWAY_INTERFACE=None, REQUEST_METHOD=None)
    assert done.returncode == 1
    last = done.stderr.decode().strip().splitlines()[-1]
    assert "file descriptor 0 is not a listening socket" in last and "bind=" in last


@pytest.mark.skipif(os.name != "posix", reason="posix only")
@pytest.mark.parametrize("options", [", forceCGI=True", ""])
def test_a_listening_descriptor_0_is_served_unless_cgi_is_forced(options):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        script = SCRIPT + "\nWSGIServer.handler = lambda self, req: print('as CGI')"
        script += "\nWSGIServer._serve = lambda self: print('as FastCGI')"
        done = run(options=options, script=script, stdin=sock)
    assert (b"as CGI" in done.stderr, b"as FastCGI" in done.stdout) == (bool(options), not options)


def test_a_file_is_sent_from_its_map(tmp_path):
    """And no buffer of ours looks into that."""
    (tmp_path / "file").write_bytes(bytes(range(256)) * 5000)
    script = f"""
        from fastfcgi import WSGIServer

        class Server(WSGIServer):
            def handler(self, req):
                print(type(req.stdout).__name__)
                return super().handler(req)

        def app(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return environ["wsgi.file_wrapper"](open({str(tmp_path / "file")!r}, "rb"))

        WSGIServer = Server
    """
    done = run(script=script)
    assert wire.parse_cgi(done.stdout)[2] == bytes(range(256)) * 5000
    assert (b"FileIO" in done.stderr, done.returncode) == (True, 0)


# -------------------------------------------------------------------------------- in memory


def test_what_says_that_this_is_cgi():
    assert is_cgi({"GATEWAY_INTERFACE": "CGI/1.1"})
    assert is_cgi({"REQUEST_METHOD": "GET"})
    assert not is_cgi({"PATH": "/bin", "SERVER_NAME": "x"})


@pytest.mark.skipif(not hasattr(os, "environb"), reason="the environment is not bytes here")
def test_the_environment_is_latin_1(monkeypatch):
    monkeypatch.setitem(os.environb, b"PATH_INFO", b"/caf\xc3\xa9\xff")
    assert environment()["PATH_INFO"] == "/caf\xc3\xa9\xff"


def test_the_environment_where_it_is_not_bytes(monkeypatch):
    monkeypatch.delattr(os, "environb", raising=False)
    monkeypatch.setenv("PATH_INFO", "/caf\xe9")
    assert environment()["PATH_INFO"] == "/caf\xc3\xa9"


@pytest.fixture
def request_of(monkeypatch):
    def make(body=b"", stderr=None, stdout=None, **params):
        monkeypatch.setattr("fastfcgi.cgi.environment", lambda: wire.cgi_params(**params))
        return CGIRequest(io.BytesIO(body), stdout or io.BytesIO(), stderr)

    return make


def echo(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield from environ["wsgi.input"]


def test_lines_of_a_body(request_of):
    request = request_of(b"a\nb\nc and more", CONTENT_LENGTH="5")
    Gateway(echo, run_once=True).handle(request)
    assert wire.parse_cgi(request.stdout.getvalue())[2] == b"a\nb\nc"


def test_a_body_that_is_cut_short_ends(request_of):
    request = request_of(b"abc", CONTENT_LENGTH="5")
    assert request.input_stream().read() == b"abc"


def test_without_a_stderr_nothing_is_lost_but_the_text(request_of):
    request_of().write_error(b"text")


def test_every_part_is_flushed(request_of):
    class Output(io.BytesIO):
        flushed = b""

        def flush(self):
            self.flushed = self.getvalue()

    request = request_of(stdout=Output())
    request.write(b"a", b"b")
    assert request.stdout.flushed == b"ab"


def test_the_parts_of_a_response_may_be_missing(request_of):
    request = request_of()
    request.write(b"head", None)
    request.write(None, b"data", last=True)
    assert request.stdout.getvalue() == b"headdata"


def test_what_stdout_did_not_take_at_once_is_written_again(request_of):
    class Narrow(io.BytesIO):
        def write(self, data):
            return super().write(data[:3])

    request = request_of(stdout=Narrow())
    request.write(b"0123456", memoryview(b"789abcdef"))
    assert request.stdout.getvalue() == b"0123456789abcdef"


def test_a_stdout_that_takes_nothing_is_not_asked_for_ever(request_of):
    class Full(io.BytesIO):
        def write(self, data):
            return None

    with pytest.raises(BlockingIOError):
        request_of(stdout=Full()).write(b"x", None)


def test_a_web_server_that_has_gone_is_an_abort(request_of):
    class Closed(io.BytesIO):
        def write(self, data):
            raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(RequestAborted):
        request_of(stdout=Closed()).write(None, b"x")
    request = request_of(stdout=Closed())
    Gateway(echo, run_once=True).handle(request)
    assert request.aborted and request.abandoned


def test_cgi_knows_no_filters(request_of):
    assert request_of().data_stream().read() == b""
