"""The WSGI application that the end-to-end tests ask about itself, wrapped in wsgiref.validate.

The first segment of PATH_INFO selects one of the ROUTES; below ``/bare`` the same routes answer
without the validator, for what the validator itself would refuse or hide (a bad header,
``wsgi.file_wrapper``).

Run as a script it is a front-end script: ``apps.py '{"bindAddress": "/run/app.sock", "umask": 0}'``
hands the JSON object to WSGIServer as keyword arguments; without an argument it serves what it was
started with.
"""

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs
from wsgiref.validate import validator

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
Route = Callable[[Environ, StartResponse], Iterable[bytes]]

BLOCK = 65536
TOGETHER_SECONDS = 30.0  # how long a request of /together waits for the others


def pattern(size: int) -> Iterator[bytes]:
    """The bytes that /size/N answers with, in blocks; never periodic in a power of two."""
    block = bytes(i * 7 % 251 for i in range(BLOCK))
    for _ in range(size // BLOCK):
        yield block
    if size % BLOCK:
        yield block[: size % BLOCK]


def pattern_sha256(size: int) -> str:
    """The checksum of what /size/N answers with."""
    digest = hashlib.sha256()
    for block in pattern(size):
        digest.update(block)
    return digest.hexdigest()


def _blocks(environ: Environ) -> Iterator[bytes]:
    while block := environ["wsgi.input"].read(BLOCK):
        yield block


def _segment(environ: Environ, index: int, default: str = "") -> str:
    segments = [part for part in environ["PATH_INFO"].split("/") if part]
    return segments[index] if index < len(segments) else default


def _query(environ: Environ, name: str, default: str = "") -> str:
    values: list[str] = parse_qs(environ["QUERY_STRING"]).get(name, [default])
    return values[0]


def _answer(
    start_response: StartResponse, body: bytes, content_type: str = "text/plain"
) -> Iterable[bytes]:
    headers = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


def _answer_json(start_response: StartResponse, value: object) -> Iterable[bytes]:
    return _answer(start_response, json.dumps(value).encode(), "application/json")


def env(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The environ as JSON; what JSON does not know as its repr()."""
    return _answer_json(
        start_response,
        {k: v if isinstance(v, str | int | tuple) else repr(v) for k, v in environ.items()},
    )


def _sockets() -> list[str]:
    """The sockets that the process has open, where /proc tells; each has a number of its own."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed in the meantime
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [name for name in found if name.startswith("socket:")]


def process(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Who serves: process id, user, arguments, names in the process's environment, sockets."""
    return _answer_json(
        start_response,
        {
            "pid": os.getpid(),
            "uid": os.getuid(),
            "gid": os.getgid(),
            "argv": sys.argv,
            "environment": sorted(os.environ),
            "sockets": _sockets(),
        },
    )


def echo(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The request body, each block sent back before the next is read."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return _blocks(environ)


def digest(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Length and checksum of the request body; with ?by=lines read line by line."""
    source = environ["wsgi.input"] if _query(environ, "by") == "lines" else _blocks(environ)
    sha256, length = hashlib.sha256(), 0
    for block in source:
        sha256.update(block)
        length += len(block)
    return _answer_json(start_response, {"length": length, "sha256": sha256.hexdigest()})


def ignore(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answers without a look at the request body."""
    return _answer(start_response, b"ignored")


def size(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """/size/N: N bytes of pattern(); /size/N/open without a Content-Length."""
    length = int(_segment(environ, 1, "0"))
    headers = [("Content-Type", "application/octet-stream")]
    if _segment(environ, 2) != "open":
        headers.append(("Content-Length", str(length)))
    start_response("200 OK", headers)
    return pattern(length)


def status(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """/status/N: that status; 204 and 304 without Content-Type, as the validator asks.
    /status/N/location has a Location."""
    number = _segment(environ, 1, "200")
    if number in ("204", "304"):
        start_response(f"{number} Nothing Here", [("X-Kept", "yes")])
        return [b""]
    headers = [("Content-Type", "text/plain")]
    if _segment(environ, 2) == "location":
        headers.append(("Location", "http://www.example.org/there"))
    start_response(f"{number} As Asked", headers)
    return [b"status " + number.encode()]


def error(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Fails before the header."""
    raise RuntimeError(_query(environ, "text", "failed as asked"))


def error_late(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    """Fails after the first block of a response that announced more; /error-late/open: did not."""
    headers = [("Content-Type", "text/plain")]
    if _segment(environ, 1) != "open":
        headers.append(("Content-Length", "100000"))
    start_response("200 OK", headers)
    yield b"x" * 1000
    raise RuntimeError(_query(environ, "text", "failed late as asked"))


def falls_short(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Gives fewer bytes than its Content-Length."""
    headers = [("Content-Type", "text/plain"), ("Content-Length", "100000")]
    start_response("200 OK", headers)
    return [b"x" * 1000]


def too_long(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Gives more bytes than its Content-Length."""
    headers = [("Content-Type", "text/plain"), ("Content-Length", "10")]
    start_response("200 OK", headers)
    return [b"0123456789", b"too much"]


def errors_log(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Writes a line of ?text= to wsgi.errors, made ?length= long; a moment later it answers."""
    line = _query(environ, "text") + "\n"
    environ["wsgi.errors"].write(line.rjust(int(_query(environ, "length", "0")), "."))
    environ["wsgi.errors"].flush()
    time.sleep(0.02)  # so that it does not travel together with the answer
    return _answer(start_response, b"written")


def sleep(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """/sleep/N: answers after N milliseconds."""
    time.sleep(int(_segment(environ, 1, "0")) / 1000)
    return _answer(start_response, str(os.getpid()).encode())


def span(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """/span/N: takes N milliseconds; from when to when they were, on the clock of the machine."""
    begin = time.monotonic()
    time.sleep(int(_segment(environ, 1, "0")) / 1000)
    return _answer_json(start_response, {"pid": os.getpid(), "span": [begin, time.monotonic()]})


_barriers: dict[int, threading.Barrier] = {}
_barriers_lock = threading.Lock()


def together(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """/together/N: 200 when N of these requests are being served at the same time, else 503."""
    count = int(_segment(environ, 1, "1"))
    with _barriers_lock:
        barrier = _barriers.setdefault(count, threading.Barrier(count))
    try:
        barrier.wait(TOGETHER_SECONDS)
    except threading.BrokenBarrierError:
        start_response("503 Alone", [("Content-Type", "text/plain")])
        return [b"alone"]
    return _answer(start_response, b"together")


def waiting(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """/waiting/N: how many requests of /together/N are waiting."""
    with _barriers_lock:
        barrier = _barriers.get(int(_segment(environ, 1, "1")))
    return _answer(start_response, b"%d" % (barrier.n_waiting if barrier else 0))


def headers(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Repeated response headers, in an order that must stay."""
    repeated = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2; Path=/"), ("Set-Cookie", "a=3")]
    start_response("200 OK", [("Content-Type", "text/plain"), *repeated])
    return [b"headers"]


def write(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Uses the write() of start_response, then an iterable."""
    send = start_response("200 OK", [("Content-Type", "text/plain")])
    send(b"written, ")
    send(b"written again, ")
    return [b"returned"]


def file_wrapper(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """/filewrapper/N: N bytes of pattern() from a file, by wsgi.file_wrapper."""
    length = int(_segment(environ, 1, "0"))
    source = tempfile.TemporaryFile()  # the server closes it
    for block in pattern(length):
        source.write(block)
    source.seek(0)
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](source, 8192)
    return wrapped


def inject(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """/inject/WHERE: smuggles a header in; only below /bare, else the validator stops it."""
    smuggled = "x\r\nX-Smuggled: yes"
    line, name, value = "200 OK", "X-Name", "value"
    match _segment(environ, 1):
        case "status":
            line = "200 " + smuggled
        case "name":
            name = "X-Name: " + smuggled
        case "value":
            value = smuggled
        case "newline":
            value = "x\nX-Smuggled: yes"
        case "nul":
            value = "x\0X-Smuggled: yes"
    start_response(line, [("Content-Type", "text/plain"), (name, value)])
    return [b"sent"]


ROUTES: dict[str, Route] = {
    "": env,
    "env": env,
    "process": process,
    "echo": echo,
    "digest": digest,
    "ignore": ignore,
    "size": size,
    "status": status,
    "error": error,
    "error-late": error_late,
    "short": falls_short,
    "long": too_long,
    "errors-log": errors_log,
    "sleep": sleep,
    "span": span,
    "together": together,
    "waiting": waiting,
    "headers": headers,
    "write": write,
    "filewrapper": file_wrapper,
    "inject": inject,
}


def _route(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    selected = ROUTES.get(_segment(environ, 0))
    if selected is None:
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"no such route"]
    return selected(environ, start_response)


_validated = validator(_route)


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The application: ROUTES behind the validator, or below /bare without it."""
    if _segment(environ, 0) == "bare":
        environ["SCRIPT_NAME"] += "/bare"
        environ["PATH_INFO"] = environ["PATH_INFO"].replace("/bare", "", 1)
        return _route(environ, start_response)
    answer: Iterable[bytes] = _validated(environ, start_response)
    return answer


def main() -> None:
    """Serve the application with the options given as JSON."""
    from fastfcgi import WSGIServer

    options = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    WSGIServer(application, **options).run()


if __name__ == "__main__":
    main()
