"""`fastfcgi bench` against a real server process, and what it is made of."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import reference_codec as codec
import wire

if sys.platform == "win32":
    pytest.skip("signals and unix sockets", allow_module_level=True)

from load_server import RIGHT, Server, listening, requests_of
from load_server import path as path  # a fixture
from processes import wait_until
from scripted import Peer
from test_cli import COMMAND, Running, child_environment, error_of, run

from fastfcgi import bench as command
from fastfcgi import cli, constants, load
from fastfcgi.constants import KEEP_CONN

# Answers 200 when the request is what the query says, 404 when it is not.
APP = """
    import os
    from urllib.parse import parse_qsl

    def application(environ, start_response):
        open("requested", "w").close()
        path = environ["PATH_INFO"]
        body = environ["wsgi.input"].read()
        asked = dict(parse_qsl(environ["QUERY_STRING"], True, encoding="latin-1"))
        if path == "/length":
            right = len(body) == int(asked.pop("length"))
        else:
            right = path != "/wrong" and body.decode("latin-1") == asked.pop("body", "")
        right = right and all(environ.get(name) == value for name, value in asked.items())
        start_response("200 OK" if right else "404 Not Found", [("Content-Type", "text/plain")])
        return [os.urandom(8) if path == "/random" else b"always the same"]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the socket `s` of a running server."""
    folder = tmp_path_factory.mktemp("b", numbered=True)
    (folder / "webapp.py").write_text(textwrap.dedent(APP))
    with Running(["serve", "--bind", "./s", "webapp"], folder) as running:
        running.wait_for("serving webapp")
        yield folder


def bench(server: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run(["bench", "./s", *arguments], server)


def report_of(server: Path, *arguments: str, status: int = 0) -> dict[str, Any]:
    done = bench(server, "--json", *arguments)
    assert (done.returncode, done.stderr) == (status, "")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


# ------------------------------------------------------------------------------ the report


@pytest.mark.parametrize("kept", [True, False])
def test_report(server: Path, kept: bool) -> None:
    report = report_of(server, "--requests=50", "--connections=4", *([] if kept else ["--close"]))
    assert set(report) == {
        *("address", "connections", "keep_conn", "request_bytes", "seconds", "requests"),
        *("failed", "errors", "examples", "requests_per_second", "bytes_received", "connects"),
        *("latency", "client_cpu"),
    }
    assert (report["address"], report["connections"], report["keep_conn"]) == ("./s", 4, kept)
    assert (report["requests"], report["failed"], report["errors"]) == (50, 0, {})
    assert report["connects"] == (4 if kept else 50)
    assert report["request_bytes"] == len(load.request_bytes(load.params(), keep_conn=kept))
    assert report["bytes_received"] > 50 * len("always the same")
    assert report["requests_per_second"] == pytest.approx(50 / report["seconds"])
    assert set(report["latency"]) == {"p50", "p90", "p99", "p99.9", "max", "mean"}
    assert 0 < report["latency"]["p50"] <= report["latency"]["p99.9"] <= report["latency"]["max"]
    assert 0 < report["client_cpu"]


def test_report_for_a_person(server: Path) -> None:
    done = bench(server, "--requests=1200", "--path=/a?REQUEST_METHOD=GET")
    assert (done.returncode, done.stderr) == (0, "")
    time = r"[0-9.]+ (us|ms|s)"
    lines = [
        r"GET /a\?REQUEST_METHOD=GET at ./s: 16 at once, kept; 27 params, 0 bytes",
        r"answered  1,200 requests in [0-9.]+ s, [0-9,]+ per second",
        r"failed    0",
        rf"latency   p50 {time}, p90 {time}, p99 {time}, p99.9 {time}, max {time}, mean {time}",
        r"received  [0-9,]+ (bytes|KiB) over 16 connections",
        r"client    [0-9.]+ us of CPU per request, [0-9]+% of one CPU",
    ]
    assert re.fullmatch("\n".join(lines) + "\n", done.stdout), done.stdout


def test_report_of_failures(server: Path) -> None:
    done = bench(server, "--requests=20", "--path=/wrong", "--close", "--body=abc")
    assert (done.returncode, done.stderr) == (1, "")
    lines = [
        r"GET /wrong at ./s: 16 at once, one connection per request; 27 params, 3 bytes",
        r"answered  0 requests in [0-9.]+ s, 0 per second",
        r"failed    20",
        r"          20 wrong status \(status 404\)",
        r"received  [0-9,]+ bytes over 20 connections",
    ]
    assert re.fullmatch("\n".join(lines) + "\n", done.stdout), done.stdout


def test_a_server_that_closes_what_it_could_keep() -> None:
    report = load.Report(
        address="x",
        connections=2,
        keep_conn=True,
        request_bytes=1,
        seconds=2.0,
        requests=4,
        failed=3,
        errors={"timeout": 1, "closed early": 2},
        examples={"timeout": "", "closed early": "reset"},
        requests_per_second=2.0,
        bytes_received=30 * 1024**3,
        connects=5,
        latency={"p50": 0.0000004, "p90": 0.0123, "max": 12.5},
        client_cpu=0.5,
    )
    assert command.as_text(report).splitlines() == [
        "answered  4 requests in 2.00 s, 2 per second",
        "failed    3",
        "          1 timeout",
        "          2 closed early (reset)",
        "latency   p50 0 us, p90 12.3 ms, max 12.50 s",
        "received  30 GiB over 5 connections: the server closed some that it could have kept",
        "client    125000.0 us of CPU per request, 25% of one CPU",
    ]


# -------------------------------------------------------------------------- what is checked


def test_status(server: Path) -> None:
    report = report_of(server, "--requests=9", "--path=/wrong", status=1)
    assert (report["requests"], report["failed"]) == (0, 9)
    assert report["errors"] == {"wrong status": 9}
    assert report["examples"] == {"wrong status": "status 404"}
    assert report_of(server, "--requests=9", "--path=/wrong", "--status=404")["requests"] == 9
    assert report_of(server, "--requests=9", "--status=404", status=1)["requests"] == 0


def test_same(server: Path) -> None:
    assert report_of(server, "--requests=9", "--same")["requests"] == 9
    assert report_of(server, "--requests=9", "--path=/random")["requests"] == 9
    report = report_of(server, "--requests=9", "--path=/random", "--same", status=1)
    assert report["errors"] == {"different answer": 9}
    error = error_of(["bench", "./s", "--same", "--path=/wrong"], server, 1)
    assert error == "the first answer has status 404\n"
    report_of(server, "--requests=9", "--same", "--path=/wrong", "--status=404")
    error = error_of(["bench", "./s", "--same", "--status=404"], server, 1)
    assert error == "the first answer has status 200\n"


def test_timeout(server: Path) -> None:
    """There is nobody to answer."""
    code = "import socket, time; s = socket.socket(socket.AF_UNIX); s.bind('./mute')"
    code += "; s.listen(); print('there', flush=True); time.sleep(60)"
    mute = subprocess.Popen([sys.executable, "-c", code], cwd=server, stdout=subprocess.PIPE)
    with mute:
        assert mute.stdout is not None
        mute.stdout.readline()
        done = run(["bench", "./mute", "--requests=2", "--timeout=0.2"], server)
        mute.kill()
    assert done.returncode == 1
    assert "2 timeout\n" in done.stdout


# ---------------------------------------------------------------------------- what is asked


@pytest.mark.parametrize(
    "arguments",
    [
        ["--path=/?REQUEST_METHOD=GET&HTTP_HOST=www.example.org"],
        ["--method=DELETE", "--path=/?REQUEST_METHOD=DELETE"],
        ["--path=/a%20b/%C3%A9?PATH_INFO=/a+b/%C3%A9&DOCUMENT_URI=/a+b/%C3%A9&SCRIPT_NAME="],
        ["--body=x=1", "--path=/?body=x%3D1&CONTENT_LENGTH=3"],
        ["--body=\u00e9", "--path=/?body=%C3%A9&CONTENT_LENGTH=2"],
        ["--header=X-Some-Thing:  a: b ", "--path=/?HTTP_X_SOME_THING=a:+b"],
        ["--header=Accept:x", "--header=host:y", "--path=/?HTTP_ACCEPT=x&HTTP_HOST=y"],
        ["--header=Content-Type: a/b", "--body=x", "--path=/?CONTENT_TYPE=a/b&body=x"],
        ["--param=REMOTE_USER=me=you", "--param=X=", "--path=/?REMOTE_USER=me%3Dyou&X="],
        ["--params=lighttpd", "--path=/a?PATH_TRANSLATED=/srv/www/a"],
        ["--params=minimal", "--path=/?SERVER_NAME=www.example.org", "--close"],
        ["--params=large", "--path=/?HTTP_X_PROXY_8=8:" + "0123456789abcdef" * 16],
    ],
)
def test_the_request(server: Path, arguments: list[str]) -> None:
    report_of(server, "--requests=3", *arguments)
    (path,) = (argument for argument in arguments if argument.startswith("--path"))
    report = report_of(server, "--requests=3", *arguments, path + "&X=wrong", status=1)
    assert report["errors"] == {"wrong status": 3}


@pytest.mark.parametrize("kept", [True, False])
def test_the_server_is_told_whether_to_keep(
    path: str, kept: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = set()

    def script(peer: Peer) -> None:
        for records in requests_of(peer):
            flags.add(codec.decode_begin_request(records[0][2])[1])
            peer.send(RIGHT)

    with Server(script, listening(path)):
        assert cli.main(["bench", path, "--requests=5", *([] if kept else ["--close"])]) == 0
    assert flags == {KEEP_CONN if kept else 0}
    assert "answered  5 requests" in capsys.readouterr().out


@pytest.mark.parametrize("kept", [True, False])
def test_a_body_from_a_file(server: Path, kept: bool) -> None:
    size = 3_000_000
    (server / "body").write_bytes(b"z" * size)
    options = ["--method=POST", "--body-file=./body", "--requests=6", "--connections=2"]
    path = f"--path=/length?length={size}&REQUEST_METHOD=POST"
    report = report_of(server, *options, path, *([] if kept else ["--close"]))
    assert report["request_bytes"] > size
    report_of(server, *options, path.replace("3", "4"), status=1)


def test_a_body_that_is_not_there(server: Path) -> None:
    error = error_of(["bench", "./s", "--body-file=./none"], server, 1)
    assert error == "./none: No such file or directory\n"


# ------------------------------------------------------------------------------- the end


def test_seconds(server: Path) -> None:
    report = report_of(server, "--seconds=0.2", "--connections=2")
    assert report["requests"] >= 2
    assert report["seconds"] < wire.DEADLINE


def test_five_seconds_by_default() -> None:
    options = cli._parser().parse_args(["bench", "./s"])
    assert (options.seconds, options.requests) == (None, None)
    assert command.limits(options)["seconds"] == command.DEFAULT_SECONDS == 5
    assert command.limits(options)["timeout"] == 10
    options = cli._parser().parse_args(["bench", "./s", "--requests=3", "--timeout=0.5"])
    assert command.limits(options)["timeout"] == 0.5
    assert (command.limits(options)["seconds"], command.limits(options)["requests"]) == (None, 3)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_report(server: Path, tmp_path: Path, signum: int) -> None:
    requested = server / "requested"
    requested.unlink(missing_ok=True)
    with Running(["bench", f"{server}/s", "--seconds=60"], tmp_path) as running:
        wait_until(requested.exists, "a request")
        assert running.stop(signum) == 0
        assert re.search(r"^answered  [0-9,]+ requests in [0-9.]+ s, ", running.output(), re.M)


def test_a_signal_before_any_answer(tmp_path: Path, server: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(f"{server}/m")
        mute.listen()
        mute.settimeout(wire.DEADLINE)
        with Running(["bench", f"{server}/m", "--seconds=60", "--timeout=60"], tmp_path) as running:
            mute.accept()[0].close()  # which only looked whether somebody is there
            with mute.accept()[0]:
                assert running.stop(signal.SIGINT) == 1
    assert re.search("^answered  0 requests in .*\nfailed    0\n", running.output(), re.M)


def test_nobody_there(server: Path) -> None:
    error = error_of(["bench", "./none"], server, 1)
    assert error == "no FastCGI server at ./none: No such file or directory\n"
    error = error_of(["bench", "./none", "--same"], server, 1)
    assert error == "no FastCGI server at ./none: No such file or directory\n"


def test_where_it_is_not_available(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on Windows."""
    monkeypatch.setitem(sys.modules, "fastfcgi._load", None)
    assert cli.main(["bench", "./s"]) == 1
    error = "fastfcgi: error: bench is not available here: it needs a POSIX system\n"
    assert capsys.readouterr() == ("", error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "ADDRESS"),
        (["nonsense"], "not an address: 'nonsense'"),
        (["fd:3"], "not an address to connect to: 'fd:3'"),
        (["systemd"], "not an address to connect to: 'systemd'"),
        (["./s", "--connections=0"], "not a number from 1: '0'"),
        (["./s", "--connections=100000"], "more than 60000 connections"),
        (["./s", "--requests=-1"], "not a number from 1: '-1'"),
        (["./s", "--requests=many"], "not a number from 1: 'many'"),
        (["./s", "--seconds=0"], "not a number of seconds, from 0.001: '0'"),
        (["./s", "--timeout=0.0001"], "not a number of seconds, from 0.001: '0.0001'"),
        (["./s", "--timeout=nan"], "not a number of seconds"),
        (["./s", "--method="], "not a method"),
        (["./s", "--path=a"], "not a path, percent-encoded: 'a'"),
        (["./s", "--path=/a b"], "not a path, percent-encoded: '/a b'"),
        (["./s", "--path=/\u00e9"], "not a path, percent-encoded"),
        (["./s", "--body=a", "--body-file=b"], "not allowed with"),
        (["./s", "--params=apache"], "choose from"),
        (["./s", "--header=a"], "not NAME:VALUE: 'a'"),
        (["./s", "--header=a b: c"], "not NAME:VALUE: 'a b: c'"),
        (["./s", "--header=a: \u20ac"], "not NAME=VALUE in latin-1"),
        (["./s", "--param=a"], "not NAME=VALUE in latin-1: 'a'"),
        (["./s", "--param==a"], "not NAME=VALUE in latin-1: '=a'"),
        (["./s", "--status=20"], "not an HTTP status: '20'"),
    ],
)
def test_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", *arguments])
    out, error = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert re.fullmatch("fastfcgi: error: [^\n]+\n", error)
    assert message in error


# ---------------------------------------------------------------------------- the progress


def test_progress_on_a_terminal(server: Path) -> None:
    """On stderr, and gone at the end; nothing of it is in the report."""
    import pty

    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            [*COMMAND, "bench", "./s", "--seconds=1.5", "--json"],
            cwd=server,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=slave,
            timeout=wire.DEADLINE,
        )
        os.set_blocking(master, False)
        shown = os.read(master, 65536).decode()
    finally:
        os.close(master)
        os.close(slave)
    assert done.returncode == 0
    assert json.loads(done.stdout)["failed"] == 0
    lines = shown.split("\r")[1:]
    assert len(lines) >= 2
    for line in lines[:-1]:
        assert re.fullmatch(r"\d+ s: [0-9,]+ answered, [0-9,]+ per second\x1b\[K", line), line
    assert lines[-1] == "\x1b[K"


def test_progress_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Result:
        requests = 1500
        errors: ClassVar[dict[str, int]] = {}

    now = 10.0
    monkeypatch.setattr(command.time, "monotonic", lambda: now)
    out = io.StringIO()
    progress = command.Progress(out)
    now += command.PROGRESS_SECONDS / 2
    assert not progress([Result()])  # type: ignore[list-item]
    assert out.getvalue() == ""
    now = 12.0
    assert not progress([Result(), Result()])  # type: ignore[list-item]
    Result.errors = {"timeout": 2, "closed early": 3}
    now = 13.0
    progress.stop()
    assert progress([Result()])  # type: ignore[list-item]
    assert out.getvalue().split("\r")[1:] == [
        "2 s: 3,000 answered, 1,500 per second\x1b[K",
        "3 s: 1,500 answered, 500 per second, 5 failed\x1b[K",
    ]


# ------------------------------------------------------------------------ sets of params

CAPTURES = Path(__file__).parent / "captures"


def captured_names(file: str) -> set[str]:
    """The names of the params that a web server sent."""
    records = codec.RecordReader().feed((CAPTURES / file).read_bytes())
    sent = b"".join(bytes(content) for kind, _, content in records if kind == constants.PARAMS)
    return {name.decode() for name, _ in codec.decode_pairs(sent)}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("nginx", "nginx-1.22.1/get-query.request.bin"),
        ("lighttpd", "lighttpd-1.4.69/get-query.request.bin"),
    ],
)
def test_sets_are_those_of_web_servers(name: str, file: str) -> None:
    """What they send, and headers of a browser."""
    captured = captured_names(file)
    found = set(load.params(name))
    assert captured <= found
    assert all(extra.startswith("HTTP_") for extra in found - captured)


def test_sizes_of_sets() -> None:
    sizes = {}
    for name in load.PARAM_SETS:
        pairs = [(k.encode(), v.encode()) for k, v in load.params(name).items()]
        sizes[name] = len(pairs), len(codec.encode_pairs(pairs))
    assert sizes["minimal"][0] == 7
    assert sizes["nginx"][0] == 27
    assert 8000 <= sizes["large"][1] <= 8400
    assert sizes["minimal"][1] < sizes["lighttpd"][1] < sizes["nginx"][1] + 100 < sizes["large"][1]


def test_params() -> None:
    found = load.params("nginx", "POST", "/a%20b/{path}?q=%20", 12)
    assert found["REQUEST_METHOD"] == "POST"
    assert found["PATH_INFO"] == found["DOCUMENT_URI"] == "/a b/{path}"
    assert found["REQUEST_URI"] == "/a%20b/{path}?q=%20"
    assert found["QUERY_STRING"] == "q=%20"
    assert found["CONTENT_LENGTH"] == "12"
    assert load.params("nginx")["CONTENT_LENGTH"] == ""
    assert "CONTENT_LENGTH" not in load.params("minimal")
    with pytest.raises(KeyError):
        load.params("apache")


@pytest.mark.parametrize("keep_conn", [True, False])
@pytest.mark.parametrize("body", [b"", b"abc", bytes(200_000)])
def test_request_bytes(keep_conn: bool, body: bytes) -> None:
    pairs = [("A", "\xe9"), (b"B", b"\xff"), ("A", "x" * 70000)]
    sent = load.request_bytes(pairs, body, keep_conn=keep_conn, role=constants.AUTHORIZER)
    reader = codec.RecordReader()
    records = [(kind, id, bytes(content)) for kind, id, content in reader.feed(sent)]
    assert reader.at_border
    assert {id for _, id, _ in records} == {1}
    kinds = [kind for kind, _, _ in records]
    assert kinds == sorted(kinds)  # BEGIN_REQUEST 1, PARAMS 4, STDIN 5
    begin = (constants.AUTHORIZER, KEEP_CONN if keep_conn else 0)
    assert codec.decode_begin_request(records[0][2]) == begin
    assert (constants.PARAMS, 1, b"") in records
    assert records[-1] == (constants.STDIN, 1, b"")
    streams = {
        kind: b"".join(content for found, _, content in records if found == kind)
        for kind in (constants.PARAMS, constants.STDIN)
    }
    expected = [(b"A", b"\xe9"), (b"B", b"\xff"), (b"A", b"x" * 70000)]
    assert codec.decode_pairs(streams[constants.PARAMS]) == expected
    assert streams[constants.STDIN] == body
