"""A small WSGI application that shows what an application gets, for `fastfcgi demo`.

Every path shows SCRIPT_NAME, PATH_INFO and the environ, but for these:

    /upload   takes a form with files and shows size and SHA-256 of each, streamed at any size
    /stream   sends a line every 0.2 seconds, each as a block of its own
    /error    raises, to show what a browser and the log get to see of that

All links begin with SCRIPT_NAME, so it works below any path. Only the standard library is used.
"""

import hashlib
import platform
import re
import time
from collections.abc import Iterable, Iterator
from html import escape
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

STREAM_LINES = 10
STREAM_SECONDS = 0.2
BLOCK_SIZE = 65536
# Limits of an upload: its number of parts, the header of one, and what is kept of a text field.
MAX_PARTS = 100
MAX_PART_HEADER = 8192
MAX_FIELD = 65536

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --link: #2a6fdb }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1.5rem }
nav { display: flex; gap: 1.25rem; border-bottom: 1px solid var(--line); padding-bottom: .75rem }
nav b { margin-right: auto }
a { color: var(--link) }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
         padding: .3rem .75rem .3rem 0; overflow-wrap: anywhere }
th { white-space: nowrap; font-weight: 500; width: 17rem }
td, code, pre { font-family: ui-monospace, monospace; font-size: .9em }
form { background: var(--soft); padding: 1rem; border-radius: .5rem }
"""
_LINKS = {"/": "Environ", "/upload": "Upload", "/stream": "Stream", "/error": "Error"}


class BadUpload(Exception):
    """The body is not the multipart/form-data that it is announced as."""


def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """The demonstration, a WSGI application."""
    path = environ.get("PATH_INFO", "")
    if path == "/error":
        raise RuntimeError("this is what the error page of the demonstration raises")
    start: list[tuple[str, str]] = [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),
    ]
    if path == "/stream":
        start_response("200 OK", start)
        return stream(environ)
    status, body = "200 OK", ""
    if path == "/upload":
        try:
            body = upload(environ)
        except BadUpload as error:
            status = "400 Bad Request"
            body = f"<h1>Not an upload</h1><p>{escape(str(error))}</p>"
    else:
        body = overview(environ)
    page = (head(environ, _LINKS.get(path, "Environ")) + body).encode()
    start_response(status, [*start, ("Content-Length", str(len(page)))])
    return [page]


def text(value: str) -> str:
    """An environ string, which is bytes in the guise of latin-1, as a person reads it, escaped."""
    return escape(value.encode("latin-1", "replace").decode("utf-8", "replace"))


def head(environ: "WSGIEnvironment", title: str) -> str:
    """The top of every page; links stay below the path that the application is mounted at."""
    root = quote(environ.get("SCRIPT_NAME", ""), encoding="latin-1")
    links = " ".join(f'<a href="{root}{path}">{name}</a>' for path, name in _LINKS.items())
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title} - fastfcgi demo</title><style>{_STYLE}</style></head>\n"
        f"<body><nav><b>fastfcgi demo</b> {links}</nav>\n"
    )


def rows(items: Iterable[tuple[str, str]]) -> str:
    """A table of names and values; the values are HTML already."""
    lines = (f"<tr><th>{escape(name)}</th><td>{value}</td></tr>\n" for name, value in items)
    return f"<table>{''.join(lines)}</table>\n"


def overview(environ: "WSGIEnvironment") -> str:
    """The environ, the parts that say where the application is first."""
    names = ("REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "REQUEST_URI")
    where = [(n, f'<span id="{n}">{text(environ.get(n, ""))}</span>') for n in names]
    table = [
        (name, text(value) if isinstance(value, str) else escape(repr(value)))
        for name, value in sorted(environ.items())
    ]
    return (
        "<h1>It works</h1>\n<p>This page came through FastCGI; below is what the application got. "
        "Add anything to the address to see it arrive, "
        "<code>/some path/&uuml;?x=1</code> for example.</p>\n"
        f"{rows(where)}<h2>Environ</h2>\n{rows(table)}"
        f"<p>Python {escape(platform.python_version())}</p></body></html>\n"
    )


def stream(environ: "WSGIEnvironment") -> Iterator[bytes]:
    """A page that grows while it is looked at: each line is a block of its own."""
    yield (
        head(environ, "Stream") + "<h1>A streaming response</h1>\n<p>Each line leaves the "
        f"application {STREAM_SECONDS:g} seconds after the one before.</p>\n"
    ).encode()
    began = time.monotonic()
    for number in range(1, STREAM_LINES + 1):
        time.sleep(STREAM_SECONDS)
        spent = time.monotonic() - began
        yield f'<div class="line">line {number} of {STREAM_LINES}, {spent:.1f} s</div>\n'.encode()
    yield b'<p id="end">This was all of it.</p></body></html>\n'


def upload(environ: "WSGIEnvironment") -> str:
    """The form, or what came with it."""
    if environ["REQUEST_METHOD"] != "POST":
        action = quote(environ.get("SCRIPT_NAME", ""), encoding="latin-1") + "/upload"
        return (
            "<h1>Upload</h1>\n<p>Files are read as they arrive and kept nowhere.</p>\n"
            f'<form method="post" action="{action}" enctype="multipart/form-data">'
            '<p><label>A note <input name="note"></label></p>'
            '<p><input type="file" name="file" multiple></p>'
            "<p><button>Send</button></p></form></body></html>\n"
        )
    boundary = re.search(
        r'multipart/form-data;.*\bboundary=(?:"([^"]+)"|([^\s;"]+))',
        environ.get("CONTENT_TYPE", ""),
        re.IGNORECASE,
    )
    if boundary is None:
        raise BadUpload("The request is no multipart/form-data with a boundary.")
    began = time.monotonic()
    parts = list(read_form(body_of(environ), (boundary[1] or boundary[2]).encode("latin-1")))
    total = sum(part["size"] for part in parts)
    return (
        "<h1>Received</h1>\n"
        + "".join(rows((name, escape(str(value))) for name, value in p.items()) for p in parts)
        + f"<p>{total:,} bytes in {time.monotonic() - began:.2f} s</p></body></html>\n"
    )


def body_of(environ: "WSGIEnvironment") -> Iterator[bytes]:
    """The blocks of the request body, up to CONTENT_LENGTH where there is one."""
    body: IO[bytes] = environ["wsgi.input"]
    length = environ.get("CONTENT_LENGTH", "")
    left = int(length) if re.fullmatch("[0-9]{1,18}", length) else None
    while left is None or left > 0:
        block = body.read(BLOCK_SIZE if left is None else min(BLOCK_SIZE, left))
        if not block:
            return
        if left is not None:
            left -= len(block)
        yield block


def read_form(blocks: Iterator[bytes], boundary: bytes) -> Iterator[dict[str, Any]]:
    """The parts of a multipart/form-data body (RFC 7578), with a file never whole in memory.

    Yields:
        name, file name, type, size in bytes and SHA-256 of a file; name, value and size of a field.

    Raises:
        BadUpload: The body is cut or malformed, or over one of the limits.
    """
    reader = _Delimited(blocks, b"\r\n--" + boundary)
    for piece in reader.until_delimiter():
        if piece.strip():
            raise BadUpload("There is something before the first boundary.")
    for _ in range(MAX_PARTS):
        after = reader.take(2)
        if after == b"--":
            return
        if after != b"\r\n":
            raise BadUpload("A boundary is malformed.")
        yield _read_part(reader)
    raise BadUpload(f"There are more than {MAX_PARTS} parts.")


def _read_part(reader: "_Delimited") -> dict[str, Any]:
    header = reader.header().decode("utf-8", "replace")
    found = dict(re.findall(r'[; ](name|filename)="([^"\r\n]*)"', header))
    if "name" not in found:
        raise BadUpload("A part has no name.")
    digest, size, kept = hashlib.sha256(), 0, b""
    for piece in reader.until_delimiter():
        digest.update(piece)
        size += len(piece)
        kept = (kept + piece)[:MAX_FIELD] if "filename" not in found else b""
    if "filename" not in found:
        return {"name": found["name"], "value": kept.decode("utf-8", "replace"), "size": size}
    kind = re.search(r"^Content-Type:\s*([^\r\n]*)", header, re.IGNORECASE | re.MULTILINE)
    return {
        "name": found["name"],
        "file name": found["filename"],
        "type": kind[1].strip() if kind else "",
        "size": size,
        "sha256": digest.hexdigest(),
    }


class _Delimited:
    """Reads a stream of blocks piece by piece up to a delimiter that may be cut anywhere."""

    def __init__(self, blocks: Iterator[bytes], delimiter: bytes) -> None:
        self._blocks = blocks
        self._delimiter = delimiter
        # The first delimiter stands without the line end that belongs to all others.
        self._held = b"\r\n"

    def _more(self) -> None:
        block = next(self._blocks, b"")
        if not block:
            raise BadUpload("The body is cut.")
        self._held += block

    def take(self, count: int) -> bytes:
        """Exactly that many bytes."""
        while len(self._held) < count:
            self._more()
        taken, self._held = self._held[:count], self._held[count:]
        return taken

    def header(self) -> bytes:
        """The header of a part, which ends with an empty line."""
        while b"\r\n\r\n" not in self._held[: MAX_PART_HEADER + 4]:
            if len(self._held) > MAX_PART_HEADER:
                raise BadUpload("The header of a part is too long.")
            self._more()
        header, _, self._held = self._held.partition(b"\r\n\r\n")
        return header

    def until_delimiter(self) -> Iterator[bytes]:
        """What stands before the next delimiter, which is taken away with it."""
        keep = len(self._delimiter) - 1
        while (at := self._held.find(self._delimiter)) < 0:
            if len(self._held) > keep:
                yield self.take(len(self._held) - keep)
            self._more()
        if at:
            yield self.take(at)
        self.take(len(self._delimiter))
