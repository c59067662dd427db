"""Do request bodies arrive, whole, of any size and in any shape?"""

import hashlib
import secrets
import time
from collections.abc import Iterator
from typing import Any, Final

from fastfcgi import probe
from fastfcgi.doctor_http import HTTPFailure, receive
from fastfcgi.doctor_visit import NotTold, Visit
from fastfcgi.findings import OK, Finding, note, ok, wrong

_KIB: Final = 1024
_MIB: Final = 1024 * 1024
# A form, an upload, a large one. Who refuses the last one may well want to.
_FORM, _UPLOAD, _LARGE = 1000, _MIB, 20 * _MIB
_CHUNK: Final = 4000
# fastfcgi starts the application when so much is there (body_start), so a body that is to show
# whether the web server holds bodies back has to be longer.
_HALF: Final = 2 * _MIB
_LOOKS: Final = 10
_LOOK_SECONDS: Final = 0.1


def check_bodies(visit: Visit) -> Iterator[Finding]:
    """With a Content-Length, from a small one to a large one."""
    for size in (_FORM, _UPLOAD, _LARGE):
        finding = _body(visit, size)
        yield finding
        if finding.level != OK:
            return  # larger ones will not fare better


def check_chunked(visit: Visit) -> Iterator[Finding]:
    """Without a Content-Length: HTTP/1.1 allows it, git and some programs do it."""
    for size in (3 * _CHUNK, 100 * _KIB):
        data = secrets.token_bytes(size)
        try:
            found = visit.report("/doctor/chunked", method="POST", body=_chunks(data))
        except NotTold as error:
            text = f"a chunked body of {_size(size)} is refused: {error}"
            yield note("chunked", text, "git and programs that stream send such bodies.")
            return
        fault = _fault(found["body"], data)
        if fault:
            text = f"a chunked body of {_size(size)} arrives {fault}"
            yield wrong("chunked", text, "Have the web server buffer bodies (nginx: it does).")
            return
    yield ok("chunked", "chunked bodies arrive")


def _body(visit: Visit, size: int) -> Finding:
    data = secrets.token_bytes(size)
    what = f"a body of {_size(size)}"
    headers = [("Content-Type", "application/octet-stream")]
    try:
        found = visit.report("/doctor/body", method="POST", body=data, headers=headers)
    except NotTold as error:
        advice = visit.advice("body-limit")
        text = f"{what} is refused: {error}"
        if error.status == 413 or (size > _FORM and error.status in (0, 400, 500)):
            level = note if size == _LARGE else wrong
            return level("body-limit", text, *advice)
        return wrong("body-refused", text, *advice)
    fault = _fault(found["body"], data)
    if fault == "empty":
        return wrong("body-empty", f"{what} arrives empty", *visit.advice("body"))
    if fault:
        return wrong("body-changed", f"{what} arrives {fault}", *visit.advice("body"))
    return ok("body", f"{what} arrives")


def _fault(body: dict[str, Any], data: bytes) -> str:
    """What is wrong with a body as the probe got it; "" if nothing is."""
    if body["error"]:
        return f"cut after {_size(body['length'])}: {body['error']}"
    if not body["length"]:
        return "empty"
    if body["length"] != len(data):
        return f"with {_size(body['length'])}"
    return "" if body["sha256"] == hashlib.sha256(data).hexdigest() else "with other bytes"


def _chunks(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), _CHUNK):
        yield data[at : at + _CHUNK]


def _size(number: int) -> str:
    if number >= _MIB:
        return f"{number / _MIB:g} MiB"
    return f"{number / _KIB:g} KiB" if number % _KIB == 0 else f"{number} bytes"


def check_request_buffering(visit: Visit) -> Iterator[Finding]:
    """Whether the application starts before all of a body has come to the web server."""
    site, name = visit.site, secrets.token_hex(8)
    headers = [(probe.ID, name)]
    started = False
    try:
        with site.talk() as connection:
            size = 2 * _HALF
            site.send(
                connection, "/doctor/slow", "report", method="POST", headers=headers, length=size
            )
            connection.send(bytes(_HALF))
            for _ in range(_LOOKS):
                time.sleep(_LOOK_SECONDS)
                started = visit.has_seen(name)
                if started:
                    break
            connection.send(bytes(_HALF))
            receive(connection)
    except (HTTPFailure, NotTold):
        return  # such a body is not taken, which was told before
    if started:
        text = "bodies are passed on as they come: a slow client may hold a thread"
        yield note("request-buffering", text)
    else:
        text = "bodies are kept by the web server until they are whole"
        yield note("request-buffering", text, *visit.advice("request-buffering"))
