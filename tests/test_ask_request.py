"""`fastfcgi request`: what is sent, what becomes of the answer, and how it ends."""

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import reference_codec as codec
import wire
from asking import COMMAND, Done, Runner, environment
from asking import run as run  # a fixture
from helpers import Serving, serving
from scripted import END, HEADER, Peer, answering, scripted, stdout

from fastfcgi import constants, request_body

if not hasattr(socket, "AF_UNIX"):
    pytest.skip("unix sockets", allow_module_level=True)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

MIB = 1024 * 1024
BIG = 96 * MIB


def application(environ: dict[str, Any], start_response: Any) -> Any:
    """Tells what it got, or does what the path says."""
    path = environ["PATH_INFO"]
    if path == "/big":
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return (bytes(MIB) for _ in range(BIG // MIB))
    if path == "/missing":
        start_response("404 Not \x1b[2J", [("Content-Type", "text/plain"), ("X-A", "1")])
        return [b"missing"]
    digest, length = hashlib.sha256(), 0
    while block := environ["wsgi.input"].read(MIB):
        digest.update(block)
        length += len(block)
    told = {name: value for name, value in environ.items() if isinstance(value, str)}
    told.update(length=length, sha256=digest.hexdigest())
    start_response("200 OK", [("Content-Type", "application/json"), ("X-B", "2")])
    return [json.dumps(told).encode()]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(application, bind=f"unix:{tmp_path_factory.mktemp('w')}/s") as found:
        yield found


def told(run: Runner, web: Serving, *arguments: object) -> dict[str, Any]:
    """What the application got."""
    done = run("request", web.address, *arguments)
    assert (done.status, done.err) == (0, ""), done
    found: dict[str, Any] = json.loads(done.out)
    return found


# ------------------------------------------------------------------------------------ sent

# What nginx sends with its fastcgi_params, but for what only a web server has.
PARAMS = {
    "QUERY_STRING": "x=1&y=%22",
    "REQUEST_METHOD": "GET",
    "CONTENT_TYPE": "",
    "CONTENT_LENGTH": "",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/a b/\xc3\xa9%2",
    "REQUEST_URI": "/a%20b/%C3%A9%252?x=1&y=%22",
    "DOCUMENT_URI": "/a b/\xc3\xa9%2",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REQUEST_SCHEME": "http",
    "GATEWAY_INTERFACE": "CGI/1.1",
    "SERVER_SOFTWARE": "fastfcgi",
    "REMOTE_ADDR": "127.0.0.1",
    "REMOTE_PORT": "0",
    "REMOTE_USER": "",
    "SERVER_ADDR": "127.0.0.1",
    "SERVER_PORT": "80",
    "SERVER_NAME": "localhost",
    "HTTP_HOST": "localhost",
    "HTTP_USER_AGENT": "fastfcgi",
    "HTTP_ACCEPT": "*/*",
}


class Sent:
    """A server that notes what it is sent."""

    def __init__(self, *answer: bytes) -> None:
        self.role = 0
        self.params: dict[str, str] = {}
        self.body = b""
        self._answer = answer or (stdout(HEADER), END)

    def script(self, peer: Peer) -> None:
        answering(*self._answer)(peer)
        (begin,) = [content for kind, _, content in peer.records if kind == constants.BEGIN_REQUEST]
        self.role = codec.decode_begin_request(begin)[0]
        pairs = codec.decode_pairs(peer.stream(constants.PARAMS))
        self.params = {name.decode(): value.decode("latin-1") for name, value in pairs}
        self.body = peer.stream(constants.STDIN)


def sent(run: Runner, *arguments: object, answer: tuple[bytes, ...] = ()) -> tuple[Sent, Done]:
    server = Sent(*answer)
    with scripted(server.script) as (host, port):
        done = run("request", f"{host}:{port}", *arguments)
    return server, done


def test_params(run: Runner) -> None:
    server, done = sent(run, "/a b/\u00e9%252", "--query", "x=1&y=%22")
    assert done == (0, "", "")
    assert server.params == PARAMS
    assert (server.role, server.body) == (constants.RESPONDER, b"")


@pytest.mark.skipif(not Path("/etc/nginx/fastcgi_params").exists(), reason="nginx is not here")
def test_params_are_those_of_nginx() -> None:
    lines = Path("/etc/nginx/fastcgi_params").read_text().splitlines()
    names = {line.split()[1] for line in lines if line.startswith("fastcgi_param")}
    assert names - {"DOCUMENT_ROOT", "HTTPS", "REDIRECT_STATUS"} <= set(PARAMS)


def test_what_an_application_gets(run: Runner, web: Serving) -> None:
    found = told(run, web, "/a/b?x=1", "--mount", "/a", "-X", "DELETE")
    assert (found["SCRIPT_NAME"], found["PATH_INFO"]) == ("/a", "/b")
    assert (found["QUERY_STRING"], found["REQUEST_URI"]) == ("x=1", "/a/b?x=1")
    assert (found["REQUEST_METHOD"], found["length"]) == ("DELETE", 0)


@pytest.mark.parametrize(
    ("path", "mount", "script", "info"),
    [
        *(("/a/b", "/a/", "/a", "/b"), ("/a", "/a", "/a", "")),
        ("/a%20b/c", "/a b", "/a b", "/c"),
        ("/a%20b/c", "/a%20b", "/a b", "/c"),
        ("/a/b", "/", "", "/a/b"),
    ],
)
def test_mount(path: str, mount: str, script: str, info: str, run: Runner) -> None:
    params = sent(run, path, "--mount", mount)[0].params
    found = [params[name] for name in ("SCRIPT_NAME", "PATH_INFO", "REQUEST_URI")]
    assert found == [script, info, path]


def test_a_path_that_is_no_utf_8(run: Runner) -> None:
    params = sent(run, os.fsdecode(b"/\xff "))[0].params
    assert (params["PATH_INFO"], params["REQUEST_URI"]) == ("/\xff ", "/%FF%20")


def test_not_below_the_mount(run: Runner) -> None:
    assert run.error("request", "./s", "/ab", "--mount", "/a") == "/ab is not below /a"


@pytest.mark.parametrize(("path", "query"), [("/?a=1", "a=1&b=%20"), ("/", "b=%20")])
def test_query(path: str, query: str, run: Runner) -> None:
    params = sent(run, path, "--query", "b= ")[0].params
    assert params["QUERY_STRING"] == query
    assert params["REQUEST_URI"] == f"/?{query}"


def test_headers(run: Runner) -> None:
    headers = ["X-A: 1", "x-a:2", "Cookie: a=1", "Cookie: b=2", "Host: example.org:8080"]
    headers += ["Content-Type: text/x", "User-Agent:"]
    arguments = [word for header in headers for word in ("-H", header)]
    params = sent(run, "/", *arguments, "-p", "HTTP_X_B=\xe9=", "--param=SERVER_PORT=1")[0].params
    expected = {
        "HTTP_X_A": "1, 2",
        "HTTP_COOKIE": "a=1; b=2",
        "HTTP_HOST": "example.org:8080",
        "SERVER_NAME": "example.org",
        "SERVER_PORT": "1",
        "CONTENT_TYPE": "text/x",
        "HTTP_USER_AGENT": "",
        "HTTP_X_B": "\xe9=",
    }
    assert expected.items() <= params.items()


@pytest.mark.parametrize("host", ["a:81", "a", "[::1]:81", "[::1]"])
def test_host(host: str, run: Runner) -> None:
    params = sent(run, "/", "-H", f"Host: {host}")[0].params
    name = host.removesuffix(":81")
    assert (params["SERVER_NAME"], params["SERVER_PORT"]) == (name, "80" if name == host else "81")


def test_authorizer(run: Runner) -> None:
    assert sent(run, "/", "--role", "authorizer")[0].role == constants.AUTHORIZER


# ---------------------------------------------------------------------------------- bodies

FORM = "application/x-www-form-urlencoded"
BINARY = "application/octet-stream"


def test_data(run: Runner, web: Serving, tmp_path: Path) -> None:
    found = told(run, web, "/", "-d", "a=\u00e9")
    assert (found["REQUEST_METHOD"], found["CONTENT_TYPE"]) == ("POST", FORM)
    assert found["CONTENT_LENGTH"] == "4"
    assert found["sha256"] == hashlib.sha256("a=\u00e9".encode()).hexdigest()
    found = told(run, web, "/", "--data=", "-X", "PUT")
    assert (found["REQUEST_METHOD"], found["CONTENT_LENGTH"], found["length"]) == ("PUT", "0", 0)
    (tmp_path / "file").write_bytes(b"\x00\xff" * 50_000)
    found = told(run, web, "/", "-d", f"@{tmp_path}/file")
    assert (found["REQUEST_METHOD"], found["CONTENT_TYPE"]) == ("POST", BINARY)
    assert (found["CONTENT_LENGTH"], found["length"]) == ("100000", 100_000)
    assert found["sha256"] == hashlib.sha256(b"\x00\xff" * 50_000).hexdigest()


def test_no_such_file(run: Runner, web: Serving, tmp_path: Path) -> None:
    text = run.error("request", web.address, "/", "-d", f"@{tmp_path}/none")
    assert text == f"{tmp_path}/none: No such file or directory"


def test_a_file_that_grows_and_one_that_shrinks(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    with path.open("rb", buffering=0) as file:
        file.seek(1000)
        body, length = request_body.of_file(file)
        assert length == 99_000
        with path.open("ab") as more:
            more.write(b"y" * 1000)
        assert b"".join(request_body.blocks(body)) == b"x" * 99_000
    with path.open("rb", buffering=0) as file:
        body, length = request_body.of_file(file)
        os.truncate(path, 10)
        with pytest.raises(OSError, match="shorter"):
            list(request_body.blocks(body))


@contextlib.contextmanager
def started(*arguments: object, **options: Any) -> "Iterator[subprocess.Popen[bytes]]":
    words = [*COMMAND, "request", *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    with subprocess.Popen(words, env=environment(), **options) as process:
        try:
            yield process
        finally:
            process.kill()


@linux_only
def test_stdin_goes_out_as_it_comes() -> None:
    """And what the application answers meanwhile is printed meanwhile."""
    peers: list[Peer] = []

    def script(peer: Peer) -> None:
        peers.append(peer)
        peer.receive(lambda peer: peer.stream(constants.STDIN) == b"one")
        peer.send(stdout(HEADER + b"early"))
        peer.receive_request()
        peer.send(stdout(peer.stream(constants.STDIN)) + END)

    with scripted(script) as (host, port):
        with started(f"{host}:{port}", "/", "-d", "-", stdin=subprocess.PIPE) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(b"one")
            process.stdin.flush()
            assert process.stdout.read(5) == b"early"
            process.stdin.write(b"two")
            process.stdin.close()
            assert process.stdout.read() == b"onetwo"
            assert process.wait(wire.DEADLINE) == 0
    pairs = dict(codec.decode_pairs(peers[0].stream(constants.PARAMS)))
    assert (pairs[b"CONTENT_LENGTH"], pairs[b"REQUEST_METHOD"]) == (b"", b"POST")


# Tells on stderr the most memory, in KiB, that it has had.
MEASURED = """
import sys, asking
status = asking.main(sys.argv[1:])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")),
      file=sys.stderr)
sys.exit(status)
"""


def measured(*arguments: object, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    """The command, which has to succeed without ever having had all of a large body."""
    words = [sys.executable, "-c", MEASURED, "request", *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
    done = subprocess.run(
        words, env=environment(), stderr=subprocess.PIPE, timeout=wire.DEADLINE * 2, **options
    )
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stderr) * 1024 < BIG
    return done


@linux_only
@pytest.mark.parametrize("source", ["file", "stdin file", "pipe"])
def test_large_bodies_are_never_whole_in_memory(source: str, web: Serving, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.touch()
    os.truncate(big, BIG)
    with contextlib.ExitStack() as stack:
        options: dict[str, Any] = {}
        if source == "stdin file":
            options["stdin"] = stack.enter_context(big.open("rb"))
        elif source == "pipe":
            cat = stack.enter_context(subprocess.Popen(["cat", big], stdout=subprocess.PIPE))
            options["stdin"] = cat.stdout
        data = f"@{big}" if source == "file" else "-"
        found = json.loads(measured(web.address, "/", "-d", data, **options).stdout)
    assert found["length"] == BIG
    assert found.get("CONTENT_LENGTH") == (None if source == "pipe" else str(BIG))


@linux_only
def test_large_responses_are_never_whole_in_memory(web: Serving, tmp_path: Path) -> None:
    measured(web.address, "/big", "-o", tmp_path / "out")
    assert (tmp_path / "out").stat().st_size == BIG
    with (tmp_path / "out").open("wb") as out:
        measured(web.address, "/big", stdout=out)
    assert (tmp_path / "out").stat().st_size == BIG


# -------------------------------------------------------------------------------- received

MISSING = "Status: 404 Not \x1b[2J\r\nContent-Type: text/plain\r\nX-A: 1\r\n"


def test_the_body_alone(run: Runner) -> None:
    """STDERR comes to stderr as it is; a status from 400 on is no success."""
    stderr = wire.stream(constants.STDERR, 1, b"not \xe9 there\n", end=False)
    answer = (stderr, stdout(b"Status: 400 No\r\n\r\nmissing\xff"), END)
    assert sent(run, "/", answer=answer)[1] == (1, "missing\xff", "not \xe9 there\n")
    answer = (stdout(b"Status: 399 Yes\r\n\r\n"), END)
    assert sent(run, "/", answer=answer)[1] == (0, "", "")


def test_with_its_head(run: Runner, web: Serving) -> None:
    done = run("request", web.address, "/missing", "-i")
    head, _, body = done.out.partition("\r\n\r\n")
    assert (done.status, body) == (1, "missing")
    assert head.startswith(MISSING)


def test_verbose(run: Runner) -> None:
    head = b"Status: 201 \x1b[2J\r\nX-A: \x9b\r\n\r\n"
    end = codec.encode_end_request(1, 3, constants.REQUEST_COMPLETE)
    answer = (wire.stream(constants.STDERR, 1, b"warn\n", end=False), stdout(head + b"body"), end)
    server, done = sent(run, "/a?b", "-v", "-d", "x\x1b", "-p", "A=\x1b", answer=answer)
    assert (done.status, done.out) == (0, "body")
    lines = done.err.splitlines()
    assert lines[0].startswith("* to 127.0.0.1:") and lines[0].endswith(" as responder")
    expected = [f"> {name}={value}" for name, value in server.params.items()]
    assert lines[1:-6] == [line.replace("\x1b", r"\x1b") for line in expected]
    received = ["warn", r"< Status: 201 \x1b[2J", r"< X-A: \x9b", "<"]
    assert lines[-6:-1] == [r"> and a body: x\x1b", *received]
    assert lines[-1].startswith("* 4 bytes of body in ")
    assert lines[-1].endswith(" ms, app_status 3, protocol_status 0")


def test_a_file_for_the_response(run: Runner, web: Serving, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("what was there before")
    done = run("request", web.address, "/missing", "-i", "-o", out)
    assert (done.status, done.out) == (1, "")
    assert out.read_bytes().endswith(b"\r\n\r\nmissing")
    text = run.error("request", web.address, "/", "-o", tmp_path / "none" / "out")
    assert text == f"{tmp_path}/none/out: No such file or directory"


def test_without_an_answer_a_file_stays_as_it_was(run: Runner, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("before")
    assert "no FastCGI server" in run.error("request", tmp_path / "none", "/", "-o", out)
    assert out.read_text() == "before"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([stdout(HEADER + b"half")], "the peer closed the connection before END_REQUEST"),
        ([stdout(HEADER + b"half"), codec.encode_end_request(1, 0, 1)], "CANT_MPX_CONN"),
        ([stdout(HEADER + b"half"), b"HTTP/1.1"], "version 72"),
    ],
    ids=["cut", "refused", "broken"],
)
def test_a_response_that_is_not_whole(answer: list[bytes], said: str, run: Runner) -> None:
    """What came is printed, but it is no success."""
    _, done = sent(run, "/", answer=tuple(answer))
    assert done.status == 1
    # What comes in one piece with a wrong record is lost.
    assert done.out == "half" or "version" in said
    assert said in done.err and done.err.count("\n") == 1


def test_a_server_that_is_silent(run: Runner) -> None:
    with scripted(Peer.receive_close) as (host, port):
        text = run.error("request", f"{host}:{port}", "/", "--timeout", "0.1")
    assert text == f"{host}:{port}: nothing moved for 0.1 seconds"


def test_a_server_that_is_slow_but_lively(run: Runner) -> None:
    """It is not the whole response that has to come within --timeout."""

    def script(peer: Peer) -> None:
        peer.receive_request()
        peer.send(stdout(HEADER))
        for _ in range(8):
            time.sleep(0.1)
            peer.send(stdout(b"."))
        peer.send(END)

    with scripted(script) as (host, port):
        assert run("request", f"{host}:{port}", "/", "--timeout", "0.6").out == "." * 8


@linux_only
def test_who_reads_has_seen_enough(web: Serving) -> None:
    """As in `fastfcgi request ... | head -c 10`: no traceback, and the server is not held up."""
    with started(web.address, "/big") as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(10) == bytes(10)
        process.stdout.close()
        assert process.wait(wire.DEADLINE) == 1
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["./s"], "PATH"),
        (["./s", "path"], "a path begins with a slash"),
        (["./s", "/", "-X", "GE T"], "not a method"),
        (["./s", "/", "-H", "nothing"], "not NAME:VALUE"),
        (["./s", "/", "-H", "X_A: 1"], "not NAME:VALUE"),
        (["./s", "/", "-p", "A"], "not NAME=VALUE"),
        (["./s", "/", "-p", "A=\u20ac"], "latin-1"),
        (["./s", "/", "--role", "filter"], "invalid choice"),
        (["./s", "/", "--mount", "a"], "a path begins with a slash"),
        (["nonsense", "/"], "not an address"),
    ],
)
def test_wrong_options(arguments: list[str], said: str, run: Runner) -> None:
    assert said in run.error("request", *arguments, status=2)
