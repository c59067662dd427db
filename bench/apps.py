"""The applications that all servers run. `application` does what PATH_INFO says, as often, as long
or with whatever QUERY_STRING says."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

HELLO = b"Hello, world!\n"
PAGE = b"<p>Hello, world.</p>" * 50
LINE = b"0123456789abcdef" * 64  # 1 KiB
BLOCK = LINE * 64  # 64 KiB
TEXT = "text/plain"

StartResponse = Callable[..., object]


def page(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """One kilobyte, whatever was asked for."""
    return answer(start_response, PAGE, "text/html")


def hello(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    return answer(start_response, HELLO)


def digest(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """The sha256 of the body, which is read by 64 KiB."""
    sha256 = hashlib.sha256()
    read = environ["wsgi.input"].read
    while block := read(65536):
        sha256.update(block)
    return answer(start_response, sha256.hexdigest().encode())


def down(environ: dict[str, Any], start_response: StartResponse) -> Iterator[bytes]:
    """So many blocks of 64 KiB from a generator."""
    return _blocks(environ, start_response, BLOCK)


def lines(environ: dict[str, Any], start_response: StartResponse) -> Iterator[bytes]:
    """So many blocks of 1 KiB from a generator."""
    return _blocks(environ, start_response, LINE)


def file(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """A file by its path, through wsgi.file_wrapper where there is one."""
    opened = open(environ["QUERY_STRING"], "rb")
    size = opened.seek(0, 2)
    opened.seek(0)
    start_response("200 OK", [("Content-Type", TEXT), ("Content-Length", str(size))])
    if "wsgi.file_wrapper" in environ:
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](opened, 65536)
        return wrapped
    return iter(lambda: opened.read(65536), b"")


def sleep(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Takes so many milliseconds without any CPU."""
    time.sleep(int(environ["QUERY_STRING"]) / 1000)
    return answer(start_response, HELLO)


def drip(environ: dict[str, Any], start_response: StartResponse) -> Iterator[bytes]:
    """So many blocks of 1 KiB, 10 ms between two."""
    for number, block in enumerate(_blocks(environ, start_response, LINE)):
        if number:
            time.sleep(0.01)
        yield block


def spin(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """So many rounds of a loop that holds the GIL."""
    spin_rounds(int(environ["QUERY_STRING"]))
    return answer(start_response, HELLO)


def spin_rounds(rounds: int) -> int:
    number = 1
    for _ in range(rounds):
        number = number * 1103515245 + 12345 & 0x7FFFFFFF
    return number


def answer(start_response: StartResponse, body: bytes, type: str = TEXT) -> list[bytes]:
    start_response("200 OK", [("Content-Type", type), ("Content-Length", str(len(body)))])
    return [body]


def _blocks(
    environ: dict[str, Any], start_response: StartResponse, block: bytes
) -> Iterator[bytes]:
    count = int(environ["QUERY_STRING"])
    length = str(count * len(block))
    start_response("200 OK", [("Content-Type", TEXT), ("Content-Length", length)])
    for _ in range(count):
        yield block


ROUTES: dict[str, Callable[..., Iterable[bytes]]] = {
    "/hello": hello,
    "/digest": digest,
    "/down": down,
    "/lines": lines,
    "/file": file,
    "/sleep": sleep,
    "/drip": drip,
    "/spin": spin,
}


def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    return ROUTES[environ["PATH_INFO"]](environ, start_response)
