"""A WSGI application that tells `fastfcgi doctor` what arrives of the requests it makes.

Where the address cannot be freed for `fastfcgi doctor URL --bind ADDRESS`, because the web server
or spawn-fcgi starts the application, this takes its place for a while, in one process:

    from fastfcgi.probe import application

It answers only who knows its token: that of PROBE_TOKEN in the environment, or one made by chance
and written to stderr. Everybody else gets 503. It tells what the web server sent with the request
that asks; never the environment of the process, nor anybody's credentials.
"""

import contextlib
import functools
import hashlib
import hmac
import json
import os
import re
import secrets
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

# Request headers of the doctor.
TOKEN: Final = "X-Fastfcgi-Token"
ASK: Final = "X-Fastfcgi-Ask"  # what is to be done: a name of _TASKS, and perhaps :ARGUMENT
ID: Final = "X-Fastfcgi-Id"
TEST: Final = "X-Fastfcgi-Test"  # sent twice
# A response header by which a probe is known, whether it knows the token or not.
SIGN: Final = "X-Fastfcgi-Probe"

TOKEN_VARIABLE: Final = "PROBE_TOKEN"

STREAM_BLOCKS: Final = 3
STREAM_SECONDS: Final = 0.4

# More than the doctor sends; what comes beyond is not read.
_MAX_BODY: Final = 64 * 1024 * 1024
_MAX_FILL: Final = 32768
_REMEMBERED: Final = 64
_BLOCK: Final = 65536

# What is told of the environ. No name of this list is set for a CGI program by anything but the
# web server, and none holds a secret.
_TOLD: Final = (
    "REQUEST_METHOD",
    "SCRIPT_NAME",
    "PATH_INFO",
    "QUERY_STRING",
    "REQUEST_URI",
    "CONTENT_TYPE",
    "CONTENT_LENGTH",
    "SERVER_SOFTWARE",
    "SERVER_NAME",
    "SERVER_PORT",
    "SERVER_PROTOCOL",
    "REMOTE_ADDR",
    "HTTPS",
    "HTTP_HOST",
    "HTTP_X_FORWARDED_PROTO",
    "HTTP_X_FASTFCGI_TEST",
    "wsgi.url_scheme",
)

_REFUSAL: Final = b"This site is being checked with fastfcgi doctor. Please come back soon.\n"


def _variable(header: str) -> str:
    return "HTTP_" + header.upper().replace("-", "_")


def _as_sent(text: str) -> frozenset[bytes]:
    """The bytes as which a text may come in a header: as UTF-8, and, where that can be, as
    latin-1. What is no UTF-8 in an environment variable comes as the bytes it is."""
    found = {text.encode("utf-8", "surrogateescape")}
    with contextlib.suppress(UnicodeEncodeError):
        found.add(text.encode("latin-1"))
    return frozenset(found)


def _is_one_of(given: str, expected: Iterable[bytes]) -> bool:
    """Whether a header, as the environ has it, is one of these; takes as long if it is not."""
    data = given.encode("latin-1")
    return sum(hmac.compare_digest(data, one) for one in expected) > 0


class Probe:
    """The application, for one token.

    Args:
        token: What a request has to bring in the header X-Fastfcgi-Token, in UTF-8 or latin-1.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        self._tokens = _as_sent(token)
        self._own = _as_sent(f"Bearer {token}")
        self._seen: deque[str] = deque(maxlen=_REMEMBERED)

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        if not _is_one_of(environ.get(_variable(TOKEN), ""), self._tokens):
            # Retry-After and no-store: nobody is to remember this for the site itself.
            start = [("Content-Type", "text/plain"), ("Retry-After", "60"), (SIGN, "1")]
            start_response("503 Service Unavailable", [*start, ("Cache-Control", "no-store")])
            return [_REFUSAL]
        self._seen.append(environ.get(_variable(ID), ""))
        task, _, argument = environ.get(_variable(ASK), "report").partition(":")
        status, fill, body = "200 OK", 0, b""
        if task == "stream":
            start_response(status, _head("text/plain", 0))
            return _blocks()
        if task == "status":
            status = f"{_number(argument, 599)} Asked-For"
            if argument == "204":  # has no body, and no type of one
                start_response(status, [(SIGN, "1")])
                return []
            body = b"the status that was asked for\n"
        elif task == "fill":
            fill = _number(argument, _MAX_FILL)
        elif task == "seen":
            body = json.dumps(argument in self._seen).encode()
        else:
            if task == "errors":
                environ["wsgi.errors"].write(f"fastfcgi doctor {argument[:40]}\n")
            body = json.dumps(self._report(environ)).encode()
        head = _head("application/json", fill)
        if task == "cookies":
            head += [("Set-Cookie", f"fastfcgi-{name}=1; Max-Age=0") for name in "ab"]
        start_response(status, head)
        return [body]

    def _report(self, environ: "WSGIEnvironment") -> dict[str, Any]:
        authorization = environ.get("HTTP_AUTHORIZATION")
        is_own = authorization is not None and _is_one_of(authorization, self._own)
        return {
            "environ": {name: environ[name] for name in _TOLD if name in environ},
            "authorization": authorization and ("own" if is_own else "another"),
            "proxy": "HTTP_PROXY" in environ,
            # How Apache's mod_proxy_fcgi names a script.
            "proxied": environ.get("SCRIPT_FILENAME", "").startswith("proxy:"),
            "body": _read(environ),
        }


def _head(kind: str, fill: int) -> list[tuple[str, str]]:
    fields = [("Content-Type", kind), ("Cache-Control", "no-store"), (SIGN, "1")]
    # Several fields, each of a usual size: what is measured is the limit of all of them together.
    return fields + [(f"X-Fill-{at}", "x" * min(1000, fill - at)) for at in range(0, fill, 1000)]


def _number(text: str, most: int) -> int:
    return min(int(text), most) if re.fullmatch("[0-9]{1,9}", text) else 200


def _blocks() -> Iterator[bytes]:
    for number in range(STREAM_BLOCKS):
        if number:
            time.sleep(STREAM_SECONDS)
        yield b"block %d\n" % number


def _read(environ: "WSGIEnvironment") -> dict[str, Any]:
    """Length and SHA-256 of the body, and what reading it raised."""
    digest, length, error = hashlib.sha256(), 0, ""
    announced = environ.get("CONTENT_LENGTH", "")
    left = int(announced) if re.fullmatch("[0-9]{1,12}", announced) else None
    if left is None:  # without this key no server promises that reading ends
        left = _MAX_BODY if environ.get("wsgi.input_terminated") else 0
    try:
        while left > 0 and length < _MAX_BODY:
            block = environ["wsgi.input"].read(min(_BLOCK, left))
            if not block:
                break
            digest.update(block)
            length += len(block)
            left -= len(block)
    except OSError as failure:
        error = str(failure) or type(failure).__name__
    return {"length": length, "sha256": digest.hexdigest(), "error": error}


@functools.cache
def _standard() -> Probe:
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        token = secrets.token_hex(16)
        print(f"fastfcgi probe: check it with fastfcgi doctor URL --token {token}", file=sys.stderr)
    return Probe(token)


def __getattr__(name: str) -> Probe:
    # Made when somebody asks for it: who imports the rest of this module needs no token.
    if name == "application":
        return _standard()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
