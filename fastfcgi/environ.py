"""PARAMS -> WSGI environ: what the real web servers leave out, send twice or should not send."""

import logging
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

logger: Final = logging.getLogger("fastfcgi")

# Never for the application: "Proxy:" of a request would steer its own HTTP clients (httpoxy); the
# next two repeat CONTENT_LENGTH and CONTENT_TYPE, which wsgiref.validate refuses; the body is
# decoded when it arrives here, whatever transfer coding the client used.
_WITHHELD: Final = (
    "HTTP_PROXY",
    "HTTP_CONTENT_LENGTH",
    "HTTP_CONTENT_TYPE",
    "HTTP_TRANSFER_ENCODING",
)

# What PEP 3333 promises to every application, for web servers that do not send it.
_DEFAULTS: Final = {
    "REQUEST_METHOD": "GET",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.0",
}

_HTTPS_ON: Final = frozenset(("on", "1", "true", "yes"))
_HTTPS_OFF: Final = frozenset(("off", "0", "no", "false", ""))

# Longer than any body; keeps int() away from numbers of thousands of digits.
_MAX_LENGTH_DIGITS: Final = 18


def content_length_of(params: Mapping[str, str]) -> int | None:
    """CONTENT_LENGTH as a number of bytes, None when the body's end alone tells its length.

    Anything but ASCII digits counts as absent: nginx sends "" and Caddy "-1" for a chunked body.
    """
    text = params.get("CONTENT_LENGTH")
    if text and text.isascii() and text.isdigit() and len(text) <= _MAX_LENGTH_DIGITS:
        return int(text)
    return None


def complete_environ(environ: dict[str, Any], override: Mapping[str, Any] | None = None) -> None:
    """Make the params of a request the CGI part of a WSGI environ, in place (PEP 3333).

    Args:
        environ: The params, latin-1 str.
        override: Entries that take the place of what the web server sent; they count before
            SCRIPT_NAME and PATH_INFO are looked at, so a fixed SCRIPT_NAME works.
    """
    if override:
        environ.update(override)
    for name in _WITHHELD:
        environ.pop(name, None)
    if content_length_of(environ) is None:
        environ.pop("CONTENT_LENGTH", None)
    for name, value in _DEFAULTS.items():
        if not environ.get(name):
            logger.debug("the web server sent no %s; %r is assumed", name, value)
            environ[name] = value
    _complete_path(environ)
    environ["wsgi.url_scheme"] = url_scheme(environ)


def url_scheme(environ: Mapping[str, Any]) -> str:
    """HTTPS decides where it says something, else REQUEST_SCHEME, else http."""
    https = environ.get("HTTPS")
    if https is not None:
        https = https.lower()
        if https in _HTTPS_ON:
            return "https"
        if https in _HTTPS_OFF:
            return "http"
    scheme = environ.get("REQUEST_SCHEME", "").lower()
    return scheme if scheme in ("http", "https") else "http"


def _complete_path(environ: dict[str, Any]) -> None:
    """SCRIPT_NAME, PATH_INFO and QUERY_STRING are always there.

    An empty PATH_INFO is derived from REQUEST_URI. Only what is taken from there is unquoted:
    everything else arrives decoded already.
    """
    script_name = environ.setdefault("SCRIPT_NAME", "")
    request_uri = environ.get("REQUEST_URI", "")
    path, _, query = request_uri.partition("?")
    if not environ.get("QUERY_STRING"):
        environ["QUERY_STRING"] = query
    if environ.get("PATH_INFO"):
        return
    environ["PATH_INFO"] = _path_below(script_name, path) if path else ""


def _path_below(script_name: str, path: str) -> str:
    """What follows script_name in the raw path of a request, "" when it does not begin so."""
    if not path.startswith("/"):
        # The absolute form, "http://host/path"; or "*", which names no path.
        _, separator, rest = path.partition("://")
        slash = rest.find("/")
        if not separator or slash < 0:
            return ""
        path = rest[slash:]
    decoded = _remove_dot_segments(unquote_to_bytes(path.encode("latin-1")).decode("latin-1"))
    if script_name.endswith("/"):
        script_name = script_name[:-1]
    if decoded.startswith(script_name):
        below = decoded[len(script_name) :]
        if below.startswith("/"):
            return below
    return ""


def _remove_dot_segments(path: str) -> str:
    """RFC 3986 section 5.2.4, as web servers do before they split the path."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            if len(kept) > 1:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/".join(kept)
