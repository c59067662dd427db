"""`fastfcgi doctor ADDRESS`: is there a socket, who may use it, and what speaks there?

A server that is at work is not disturbed: it gets one connection, and on it the management record
GET_VALUES (spec 4.1), which no application sees. Requests are made only when they are asked for.
"""

import errno
import os
import socket
import stat
import time
from collections.abc import Iterator
from typing import Final

from fastfcgi import _codec, ask
from fastfcgi.client import Client, ConnectFailed, connect
from fastfcgi.constants import (
    GET_VALUES,
    GET_VALUES_RESULT,
    MAX_CONNS,
    MAX_REQS,
    MPXS_CONNS,
    NULL_REQUEST_ID,
)
from fastfcgi.exceptions import FastCGIError, RemoteProtocolError
from fastfcgi.findings import Finding, note, ok, wrong
from fastfcgi.listen_errors import MAX_UNIX_PATH
from fastfcgi.socket_access import check_access, directories
from fastfcgi.sockets import parse_address

_START: Final = "Start the application, with this address in --bind (or in spawn-fcgi's -s)."
_RUN: Final = (
    "Directories below /run are gone after a restart of the machine: with systemd write"
    " RuntimeDirectory=NAME."
)
_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFREG: "a plain file",
    stat.S_IFIFO: "a pipe",
}
_NAMES: Final = (MAX_CONNS, MAX_REQS, MPXS_CONNS)


def check_address(
    address: str,
    timeout: float,
    web_user: str | None = None,
    path: str | None = None,
    ping_path: str | None = None,
) -> Iterator[Finding]:
    """Look at an address from the file of its socket to what is spoken there.

    Args:
        address: As for client.connect().
        timeout: Seconds that each question may take.
        web_user: Who has to be able to connect, name or number; None: whoever is likely.
        path: Of a request to make, percent-encoded; None makes none.
        ping_path: The same for a ping page.

    Raises:
        ConfigurationError: There is no such user.
    """
    parsed = parse_address(address)
    if parsed[0] == "unix":
        name = str(parsed[1])  # type: ignore[misc]
        if not name.startswith("\0"):
            missing = _file(name)
            if missing:
                yield missing
                return
            yield from check_access(name, web_user)
    answered = False
    for finding in _questions(address, timeout):
        answered = answered or finding.key == "fastcgi"
        # Some servers do not answer this question, but requests: that is then the better one.
        if finding.key == "silent" and (path or ping_path):
            finding = note(finding.key, finding.text)
        yield finding
        if finding.key in ("connect", "http", "other"):
            return
    for wanted, key in ((ping_path, "ping"), (path, "request")):
        if wanted:
            yield _request(address, wanted, key, timeout)


# ------------------------------------------------------------------------------------- file


def _file(path: str) -> Finding | None:
    """What is wrong with the file that should be a socket; None if nothing is."""
    if len(os.fsencode(path)) > MAX_UNIX_PATH:
        text = f"{path} is longer than {MAX_UNIX_PATH} bytes, which sockets do not allow"
        return wrong("path-too-long", text, "Choose a shorter path, below /run for example.")
    for place in [*directories(path)[1:], path]:
        try:
            kind = stat.S_IFMT(os.stat(place).st_mode)
        except FileNotFoundError:
            return _missing(path, place)
        except NotADirectoryError:
            continue  # told of its parent already
        except OSError as error:
            text = f"{place} cannot be looked at: {error.strerror}"
            return wrong("no-look", text, "Run the doctor as root.")
        if place != path and kind != stat.S_IFDIR:
            return wrong("not-a-directory", f"{place}, a part of {path}, is not a directory")
    if kind == stat.S_IFSOCK:
        return None
    text = f"{path} is {_KINDS.get(kind, 'a file')}, not a socket"
    return wrong(
        "not-a-socket", text, "Choose another path, or remove it if nobody needs it.", _START
    )


def _missing(path: str, place: str) -> Finding:
    if os.path.islink(place):
        text = f"{place} is a link to {os.readlink(place)}, which is not there"
        return wrong("missing", text, _START)
    if place == path:
        return wrong("missing", f"there is no {path}, but its directory is there", _START)
    advice = [_RUN] if place.startswith(("/run/", "/var/run/")) else []
    text = f"there is no {path}: its directory {place} is missing"
    return wrong("missing", text, f"Make {place}, where the application may write.", *advice)


# --------------------------------------------------------------------------------- speaking


def _questions(address: str, timeout: float) -> Iterator[Finding]:
    began = time.monotonic()
    try:
        sock = connect(address, timeout)
    except ConnectFailed as error:
        yield _no_connection(address, error)
        return
    with sock:
        took = (time.monotonic() - began) * 1000
        yield ok("connected", f"somebody listens at {address}, connected in {took:.1f} ms")
        yield _spoken(*_answer(sock, timeout))


def _no_connection(address: str, error: ConnectFailed) -> Finding:
    cause = error.__cause__
    number = cause.errno if isinstance(cause, OSError) else None
    file = "/" in address
    if isinstance(cause, socket.gaierror):
        return wrong("connect", f"{address}: there is no host of that name")
    if number == errno.ECONNREFUSED:
        stale = ": its file was left behind by a server that is gone" if file else ""
        advice = ["The next start removes the file."] if file else []
        return wrong("connect", f"nobody listens at {address}{stale}", _START, *advice)
    if number == errno.EACCES:
        return wrong("connect", f"you may not connect to {address}", "Run the doctor as root.")
    if isinstance(cause, (BlockingIOError, TimeoutError)):
        return wrong(
            "connect",
            f"{address} accepts no connection: {error}",
            "A unix socket whose queue is full belongs to a server that hangs or has more to do"
            " than it can: look at its processes, give it more workers or threads.",
            "A TCP port that does not answer at all is behind a firewall as a rule.",
        )
    return wrong("connect", str(error))


def _question() -> bytes:
    pairs = _codec.encode_pairs((name.encode(), b"") for name in _NAMES)
    # Padding is ignored by all who speak FastCGI (spec 3.3). For a server that waits for the
    # end of an HTTP request this is one, and for one that waits for the length of an SCGI request
    # this is one: bad ones, so that they say so or hang up.
    padding = b":\r\n\r\n"
    header = _codec.encode_header(GET_VALUES, NULL_REQUEST_ID, len(pairs), len(padding))
    return header + pairs + padding


def _answer(sock: socket.socket, timeout: float) -> tuple[bytes, str]:
    """What comes, up to the end of one record, and how it ended: "whole", "closed", "silence"."""
    received = b""
    until = time.monotonic() + timeout
    try:
        sock.settimeout(timeout)
        sock.sendall(_question())
        while len(received) < 65536 and (left := until - time.monotonic()) > 0:
            sock.settimeout(left)
            block = sock.recv(4096)
            if not block:
                return received, "closed"
            received += block
            if len(received) >= 8 and len(received) >= 8 + int.from_bytes(received[4:6], "big"):
                return received, "whole"
    except TimeoutError:
        pass
    except OSError:
        return received, "closed"
    return received, "silence"


def _spoken(received: bytes, end: str) -> Finding:
    if received.startswith(b"HTTP/") or received.lstrip()[:1] == b"<":
        return wrong(
            "http",
            "an HTTP server answers there, not a FastCGI server",
            "Either have the web server speak HTTP to it (nginx: proxy_pass), or start the"
            " application with fastfcgi serve --bind, not --http.",
        )
    try:
        records = _codec.RecordReader().feed(received)
    except RemoteProtocolError:
        text = f"what answers is not FastCGI; it begins with {received[:20]!r}"
        return wrong("other", text, "Is this the address of another service?")
    for kind, _, content in records:
        if kind == GET_VALUES_RESULT:
            return _values(bytes(content))
    if records:
        return note("fastcgi", "FastCGI is spoken there, but GET_VALUES is not answered")
    if end == "closed":
        return wrong(
            "other",
            "the connection is closed without an answer: that is no FastCGI server, but perhaps"
            " one for SCGI or uwsgi, or FCGI_WEB_SERVER_ADDRS does not name this machine",
            "The protocol has to be the same on both sides: fastcgi_pass, not scgi_pass or"
            " uwsgi_pass in nginx; mod_fastcgi, not mod_scgi in lighttpd.",
            "Where SCGI is meant (fastfcgi serve --protocol scgi), the doctor cannot look further.",
        )
    return wrong(
        "silent",
        "the connection is accepted, but a FastCGI server would have answered: either all of its"
        " processes hang, or it never answers GET_VALUES (uWSGI does not)",
        "Ask with a request: fastfcgi doctor ADDRESS --request /",
    )


def _values(content: bytes) -> Finding:
    try:
        pairs = _codec.decode_pairs(content)
    except RemoteProtocolError as error:
        return wrong("other", f"GET_VALUES is answered with what nobody can read: {error}")
    said = {bytes(name).decode("latin-1"): bytes(v).decode("latin-1") for name, v in pairs}
    limits = ", ".join(f"{name.removeprefix('FCGI_')} {value}" for name, value in said.items())
    return ok("fastcgi", f"FastCGI is spoken there; limits: {limits or 'none told'}")


def _request(address: str, path: str, key: str, timeout: float) -> Finding:
    """One GET, which an application sees."""
    began = time.monotonic()
    client = Client(address, timeout=timeout, connect_timeout=timeout)
    try:
        with ask.plain_errors(address):
            with client.request(ask.params_of("GET", path)) as response:
                size = sum(map(len, response))
    except FastCGIError as error:
        text = f"GET {path} is not answered: {error}"
        return wrong(key, text, "The log of the application may say why.")
    took = (time.monotonic() - began) * 1000
    text = f"GET {path} is answered with {response.status}, {size} bytes in {took:.1f} ms"
    if key == "ping" and response.status != 200:
        return wrong(key, text, f"Is it served with --ping-path {path}?")
    if response.status >= 500:
        return wrong(key, text, "The log of the application may say why.")
    return ok(key, text)
