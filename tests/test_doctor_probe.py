"""The probe tells those who know its token what arrived, and nobody else anything."""

import io
import json
import os
import subprocess
import sys
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from fastfcgi import probe
from fastfcgi.probe import ASK, TOKEN, Probe

SECRET = "a secret of somebody"
PROBE = Probe("the-token")


def ask(
    task: str = "report", token: str = "the-token", body: bytes = b"", **environ: Any
) -> tuple[str, dict[str, str], bytes]:
    """Status, headers and body of the answer; wsgiref looks at both sides."""
    environ |= {probe._variable(ASK): task, probe._variable(TOKEN): token}
    environ.setdefault("wsgi.input", io.BytesIO(body))
    if body:
        environ.setdefault("CONTENT_LENGTH", str(len(body)))
    environ.setdefault("REQUEST_METHOD", "POST" if body else "GET")
    environ = {"SCRIPT_NAME": "", "PATH_INFO": "/", "QUERY_STRING": "", **environ}
    setup_testing_defaults(environ)
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        started.extend([status, dict(headers)])
        return lambda data: None

    blocks = validator(PROBE)(environ, start_response)
    try:
        content = b"".join(blocks)
    finally:
        blocks.close()  # type: ignore[attr-defined]
    return started[0], started[1], content


@pytest.mark.parametrize("token", ["", "the-toke", "the-token2", "THE-TOKEN", "\xff"])
@pytest.mark.parametrize("task", ["report", "stream", "seen:x", "fill:9", "status:200", "errors:x"])
def test_without_its_token_it_tells_nothing(task: str, token: str) -> None:
    log = io.StringIO()
    status, headers, body = ask(task, token, HTTP_HOST="h", **{"wsgi.errors": log})
    assert status == "503 Service Unavailable"
    assert body == probe._REFUSAL
    assert set(headers) == {"Content-Type", "Retry-After", "Cache-Control", probe.SIGN}
    assert log.getvalue() == ""


def test_nothing_of_the_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CGI program has its own environment and the request's in one."""
    names = ("DATABASE_PASSWORD", "HTTP_COOKIE", "REMOTE_USER", "PATH", "HTTP_X_API_KEY")
    environ: dict[str, Any] = dict.fromkeys(names, SECRET)
    environ |= {"HTTP_AUTHORIZATION": f"Basic {SECRET}", "HTTP_PROXY": SECRET}
    monkeypatch.setenv("ANOTHER", SECRET)
    status, headers, body = ask(**environ)
    assert status == "200 OK"
    assert SECRET not in f"{headers} {body.decode()}"
    found = json.loads(body)
    assert found["authorization"] == "another"
    assert found["proxy"] is True
    assert "the-token" not in body.decode()


def test_report() -> None:
    found = json.loads(ask(body=b"abc", PATH_INFO="/\xc3\xbc", HTTP_HOST="a.example:81")[2])
    assert found["environ"]["PATH_INFO"] == "/\xc3\xbc"
    assert found["environ"]["HTTP_HOST"] == "a.example:81"
    assert found["environ"]["wsgi.url_scheme"] == "http"
    assert found["body"]["length"] == 3
    assert found["body"]["sha256"].startswith("ba7816bf")
    assert (found["authorization"], found["proxy"], found["proxied"]) == (None, False, False)
    own = json.loads(ask(HTTP_AUTHORIZATION="Bearer the-token")[2])
    assert own["authorization"] == "own"


def test_a_body_that_cannot_be_read() -> None:
    class Cut(io.BytesIO):
        def read(self, size: "int | None" = -1) -> bytes:
            raise ConnectionError("gone")

    found = json.loads(ask(REQUEST_METHOD="POST", CONTENT_LENGTH="5", **{"wsgi.input": Cut()})[2])
    assert found["body"]["error"] == "gone"


def test_a_body_of_unknown_length() -> None:
    """It is read to its end where the server promises that there is one; else not at all."""
    options = {"wsgi.input": io.BytesIO(b"abc"), "REQUEST_METHOD": "POST"}
    assert json.loads(ask(**options)[2])["body"]["length"] == 0
    options |= {"wsgi.input_terminated": True}
    assert json.loads(ask(**options)[2])["body"]["length"] == 3


@pytest.mark.parametrize(
    ("task", "status"),
    [
        ("status:404", "404 Asked-For"),
        ("status:204", "204 Asked-For"),
        ("status:9999", "599 Asked-For"),
        ("status:x", "200 Asked-For"),
        ("unknown", "200 OK"),
    ],
)
def test_status(task: str, status: str) -> None:
    assert ask(task)[0] == status


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (2500, 2500), (999999, 32768)])
def test_fill(size: int, expected: int) -> None:
    headers = ask(f"fill:{size}")[1]
    assert sum(len(v) for n, v in headers.items() if n.startswith("X-Fill")) == expected


def test_seen() -> None:
    """It knows requests that have begun, the last ones only."""
    name = probe._variable(probe.ID)
    assert json.loads(ask("seen:one")[2]) is False
    ask(**{name: "one"})
    assert json.loads(ask("seen:one")[2]) is True
    for number in range(probe._REMEMBERED):
        ask(**{name: f"other-{number}"})
    assert json.loads(ask("seen:one")[2]) is False


def test_errors() -> None:
    log = io.StringIO()
    ask("errors:abc" + "x" * 100, **{"wsgi.errors": log})
    assert log.getvalue() == "fastfcgi doctor abc" + "x" * 37 + "\n"


def test_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "STREAM_SECONDS", 0)
    assert ask("stream")[2] == b"block 0\nblock 1\nblock 2\n"


CODE = """
import fastfcgi.probe
from fastfcgi.probe import Probe
print("nothing yet", flush=True)
from fastfcgi.probe import application
assert application is fastfcgi.probe.application and isinstance(application, Probe)
assert not hasattr(fastfcgi.probe, "app")
print(application.token)
"""


@pytest.mark.parametrize("given", ["", "given"])
def test_token(given: str) -> None:
    """Made and told when somebody wants the application, not when the module is imported."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environ[probe.TOKEN_VARIABLE] = given
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environ, capture_output=True, text=True, check=True
    )
    token = done.stdout.splitlines()[1]
    if given:
        assert (token, done.stderr) == ("given", "")
    else:
        assert len(token) == 32
        assert done.stderr.endswith(f"fastfcgi doctor URL --token {token}\n")


@pytest.mark.parametrize(
    ("given", "sent", "knows"),
    [
        (b"cl\xc3\xa9", b"cl\xc3\xa9", True),
        (b"cl\xc3\xa9", b"cl\xe9", True),
        ("cl\u20ac".encode(), "cl\u20ac".encode(), True),
        ("cl\u20ac".encode(), b"cl?", False),
        (b"cl\xff\xfe", b"cl\xff\xfe", True),
        (b"cl\xff\xfe", b"cl\xff", False),
    ],
)
def test_a_token_that_is_not_ascii(
    given: bytes, sent: bytes, knows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers are bytes: UTF-8 from most clients, latin-1 from others."""
    token = given.decode("utf-8", "surrogateescape")  # as os.environ has it
    monkeypatch.setattr(f"{__name__}.PROBE", Probe(token))
    header = sent.decode("latin-1")  # as an environ has it
    status, _, body = ask(token=header, HTTP_AUTHORIZATION=f"Bearer {header}")
    assert status == ("200 OK" if knows else "503 Service Unavailable")
    assert not knows or json.loads(body)["authorization"] == "own"
