"""The demonstration application, and `fastfcgi demo` that serves it."""

import contextlib
import hashlib
import http.client
import io
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
import wire

from fastfcgi import demo
from fastfcgi.demo import BadUpload, application, read_form

BOUNDARY = b"----x+Y'1"
TRICKY = (b"\r\n--" + BOUNDARY[:-1]) * 500 + b"\r\n--"


def part(name: str, content: bytes, filename: str | None = None, kind: str = "") -> bytes:
    header = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        header += f'; filename="{filename}"'
    if kind:
        header += f"\r\nContent-Type: {kind}"
    return b"--" + BOUNDARY + b"\r\n" + header.encode() + b"\r\n\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


FORM = form(
    part("note", "grün".encode()),
    part("file", TRICKY, "a ü.bin", "application/x-odd"),
    part("file", b"", ""),
)


def parsed(*blocks: bytes) -> list[dict[str, Any]]:
    return list(read_form(iter(blocks), BOUNDARY))


def call(path: str, method: str = "GET", **more: Any) -> tuple[str, dict[str, str], str]:
    """Status, headers and page of a call that wsgiref.validate watches."""
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "QUERY_STRING": ""}
    setup_testing_defaults(environ)
    environ.update({"SCRIPT_NAME": "", "PATH_INFO": path, **more})
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], error: Any = None) -> Any:
        started[:] = [status, dict(headers)]
        return lambda data: None

    result = validator(application)(environ, start_response)
    with contextlib.closing(result):  # type: ignore[type-var]
        body = b"".join(result)
    return started[0], started[1], body.decode()


# ---------------------------------------------------------------------------------- uploads


def test_a_form() -> None:
    note, file, empty = parsed(FORM)
    assert note == {"name": "note", "value": "grün", "size": 5}
    assert file == {
        "name": "file",
        "file name": "a ü.bin",
        "type": "application/x-odd",
        "size": len(TRICKY),
        "sha256": hashlib.sha256(TRICKY).hexdigest(),
    }
    assert (empty["file name"], empty["size"]) == ("", 0)


def test_a_form_cut_anywhere() -> None:
    whole = parsed(FORM)
    for size in (1, 2, 3, 7, 64, 1000):
        assert parsed(*(FORM[i : i + size] for i in range(0, len(FORM), size))) == whole
    draw = random.Random(1)
    for _ in range(200):
        cuts = sorted(draw.choices(range(len(FORM) + 1), k=4))
        blocks = [FORM[a:b] for a, b in zip([0, *cuts], [*cuts, len(FORM)], strict=True)]
        assert parsed(*filter(None, blocks)) == whole


def test_a_form_that_ends_too_early() -> None:
    end = len(FORM) - len(b"\r\n")  # what follows the last boundary is not needed
    for length in range(end):
        with pytest.raises(BadUpload):
            parsed(FORM[:length])
    assert parsed(FORM[:end]) == parsed(FORM)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage" + FORM,
        form(b"--" + BOUNDARY + b"\r\nContent-Type: a\r\n\r\nx\r\n"),
        form(b"--" + BOUNDARY + b"\r\n\r\nx\r\n"),
        form(b"--" + BOUNDARY + b"x" + part("a", b"")),
        form(b"--" + BOUNDARY + b"\r\n" + b"A: b\r\n" * 5000),
        form(*[part("a", b"")] * 200),
    ],
    ids=["empty", "garbage", "no name", "no header", "boundary", "long header", "many parts"],
)
def test_a_bad_form(body: bytes) -> None:
    with pytest.raises(BadUpload):
        parsed(body)


def test_a_long_field_is_not_kept_whole() -> None:
    (field,) = parsed(form(part("a", b"x" * 1_000_000)))
    assert len(field["value"]) == demo.MAX_FIELD
    assert field["size"] == 1_000_000


@pytest.mark.parametrize("quote", ['"', ""])
@pytest.mark.parametrize("announced", [True, False])
def test_an_upload(quote: str, announced: bool) -> None:
    kind = f"multipart/form-data; charset=x; boundary={quote}{BOUNDARY.decode()}{quote}"
    # With its length announced, an input that goes on is not read beyond that.
    stream = io.BytesIO(FORM + b"next" if announced else FORM)
    more = {"CONTENT_LENGTH": str(len(FORM))} if announced else {}
    status, _, page = call("/upload", "POST", CONTENT_TYPE=kind, **{"wsgi.input": stream}, **more)
    assert status == "200 OK"
    assert hashlib.sha256(TRICKY).hexdigest() in page
    assert "a ü.bin" in page and "grün" in page


@pytest.mark.parametrize("kind", ["", "text/plain", "multipart/form-data"])
def test_not_an_upload(kind: str) -> None:
    status, _, page = call("/upload", "POST", CONTENT_TYPE=kind)
    assert status == "400 Bad Request"
    assert "Not an upload" in page


# ------------------------------------------------------------------------------------ pages


@pytest.mark.parametrize("path", ["/", "", "/upload", "/stream", "/any/other"])
@pytest.mark.parametrize("script_name", ["", "/mounted", "/with space/\xc3\xbc"])
def test_links_stay_below_the_mount_point(path: str, script_name: str) -> None:
    demo_links = {"": "", "/mounted": "/mounted", "/with space/\xc3\xbc": "/with%20space/%C3%BC"}
    _, _, page = call(path, SCRIPT_NAME=script_name)
    links = re.findall(r'(?:href|action)="([^"]*)"', page)
    assert len(links) >= 4
    assert all(link.startswith(demo_links[script_name] + "/") for link in links)


def test_the_environ_is_shown_and_escaped() -> None:
    nasty = '<script>"x"</script>&amp;'
    _, headers, page = call("/<b>", HTTP_X_NASTY=nasty, QUERY_STRING=nasty)
    assert "<script>" not in page and "<b>&" not in page
    assert page.count("&lt;script&gt;&quot;x&quot;&lt;/script&gt;&amp;amp;") == 3
    assert "HTTP_X_NASTY" in page
    assert headers["Content-Type"] == "text/html; charset=utf-8"


def test_bytes_are_shown_as_text_where_they_are_text() -> None:
    _, _, page = call("/gr\xc3\xbcn/\xff")
    assert '<span id="PATH_INFO">/grün/\ufffd</span>' in page


def test_the_error_page_raises() -> None:
    with pytest.raises(RuntimeError):
        call("/error")


def test_the_stream_comes_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr(demo.time, "sleep", naps.append)
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ["PATH_INFO"] = "/stream"
    blocks = list(application(environ, lambda *args: None))  # type: ignore[arg-type,return-value]
    assert len(naps) == demo.STREAM_LINES
    assert sum(b'class="line"' in block for block in blocks) == demo.STREAM_LINES


# -------------------------------------------------------------------------- `fastfcgi demo`

if sys.platform != "win32":
    from test_cli import Running, child_environment, http_get

    @contextlib.contextmanager
    def demonstration(folder: Path) -> Iterator[tuple[Running, tuple[str, int]]]:
        with Running(["demo", "--http", "127.0.0.1:0"], folder, env=child_environment()) as running:
            yield running, running.url()

    def test_demo_from_outside(tmp_path: Path) -> None:
        with demonstration(tmp_path) as (running, url):
            status, page = http_get(url, "/a%20b/%C3%BC?x=1")
            assert status == 200
            assert '<span id="PATH_INFO">/a b/ü</span>' in page.decode()
            assert '<span id="REQUEST_URI">/a%20b/%C3%BC?x=1</span>' in page.decode()
            status, page = http_get(url, "/error")
            assert status == 500
            assert b"what the error page" not in page
            running.wait_for("RuntimeError: this is what the error page")
            private = Path(running.wait_for(r"serving demo at unix:(.*)$")[1])
            assert private.is_socket()
            assert running.stop() == 0
        assert not private.parent.exists()

    def test_demo_stream(tmp_path: Path) -> None:
        with demonstration(tmp_path) as (_, url):
            connection = http.client.HTTPConnection(*url, timeout=wire.DEADLINE)
            with contextlib.closing(connection):
                connection.request("GET", "/stream")
                response = connection.getresponse()
                reads = 0
                while block := response.read1(1 << 20):
                    assert block.count(b'class="line"') < demo.STREAM_LINES
                    reads += 1
            assert reads > 2

    def test_demo_upload(tmp_path: Path) -> None:
        content = random.Random(3).randbytes(30 << 20)
        whole = form(part("file", content, "big.bin"))
        kind = f"multipart/form-data; boundary={BOUNDARY.decode()}"
        blocks = (whole[i : i + 65536] for i in range(0, len(whole), 65536))
        with demonstration(tmp_path) as (_, url):
            connection = http.client.HTTPConnection(*url, timeout=wire.DEADLINE)
            for body, chunked in ((whole, False), (blocks, True)):
                headers = {"Content-Type": kind} | (
                    {"Transfer-Encoding": "chunked"} if chunked else {}
                )
                with contextlib.closing(connection):
                    connection.request("POST", "/upload", body, headers, encode_chunked=chunked)
                    page = connection.getresponse().read().decode()
                assert hashlib.sha256(content).hexdigest() in page
                assert f"{len(content)}" in page
