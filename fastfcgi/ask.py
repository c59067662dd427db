"""`fastfcgi ping`, `status` and `request`: ask a FastCGI server, without a web server before it.

Each ends with exit status 0 if the answer was right. What went wrong is an AskError, one line for
the person who asked, or an OSError of a file.
"""

import argparse
import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Final
from urllib.parse import quote, unquote_to_bytes

from fastfcgi import bench
from fastfcgi.client import Client, RequestRefused, Response
from fastfcgi.constants import AUTHORIZER, RESPONDER
from fastfcgi.exceptions import FastCGIError, RemoteProtocolError
from fastfcgi.request_body import Body, of_file
from fastfcgi.status import JSON_TYPE, OPENMETRICS_TYPE, TEXT_TYPE, printable

PING_PATH: Final = "/ping"
STATUS_PATH: Final = "/status"

# Of a whole ping or status page. Both are answered while all threads are busy, so who takes
# longer is not well.
PAGE_TIMEOUT: Final = 5.0
# Without a byte in either direction. Applications may take their time.
REQUEST_TIMEOUT: Final = 60.0
# Of a ping or status page, which are in memory; thousands of workers have less on theirs.
MAX_PAGE: Final = 16 * 1024 * 1024

ROLES: Final = {"responder": RESPONDER, "authorizer": AUTHORIZER}

# What php-fpm writes to STDERR when it would run a script that does not exist.
_PHP_SIGN: Final = b"Primary script unknown"


class AskError(FastCGIError):
    """The answer was not right, or there is none."""


@contextlib.contextmanager
def plain_errors(address: str) -> Iterator[None]:
    """What the client raises inside becomes an AskError that says whom it is about."""
    try:
        yield
    except RemoteProtocolError as error:
        http = error.offset == 0 and str(error).startswith(f"version {ord('H')} ")
        what = "it answers in HTTP" if http else str(error)
        raise AskError(f"{address} does not speak FastCGI: {what}") from error
    except FastCGIError as error:
        text = str(error)
        raise AskError(text if address in text else f"{address}: {text}") from error


# --------------------------------------------------------------------------------- params


# Of the web server that we stand for, and of its client.
_SERVER: Final = {
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REQUEST_SCHEME": "http",
    "GATEWAY_INTERFACE": "CGI/1.1",
    "SERVER_SOFTWARE": "fastfcgi",
    "REMOTE_ADDR": "127.0.0.1",
    "REMOTE_PORT": "0",
    "REMOTE_USER": "",
    "SERVER_ADDR": "127.0.0.1",
    "SERVER_PORT": "80",
    "SERVER_NAME": "localhost",
    "HTTP_HOST": "localhost",
    "HTTP_USER_AGENT": "fastfcgi",
    "HTTP_ACCEPT": "*/*",
}


def params_of(
    method: str, target: str, mount: str = "", length: int | None = None, kind: str = ""
) -> dict[str, str]:
    """The params that nginx sends with its fastcgi_params, and PATH_INFO.

    Args:
        method: Such as GET.
        target: Path, percent-encoded, and perhaps a query.
        mount: The beginning of the path that is to be SCRIPT_NAME.
        length: Of the body; None if it is not known, or there is no body.
        kind: CONTENT_TYPE.

    Raises:
        AskError: The path is not below the mount.
    """
    encoded, _, query = target.partition("?")
    path = unquote_to_bytes(encoded).decode("latin-1")
    mount = mount.rstrip("/")
    if path != mount and not path.startswith(f"{mount}/"):
        raise AskError(f"{encoded} is not below {mount}")
    return {
        "QUERY_STRING": query,
        "REQUEST_METHOD": method,
        "CONTENT_TYPE": kind,
        "CONTENT_LENGTH": "" if length is None else str(length),
        "SCRIPT_NAME": mount,
        "PATH_INFO": path[len(mount) :],
        "REQUEST_URI": target,
        "DOCUMENT_URI": path,
        **_SERVER,
    }


def _with_headers(params: dict[str, str], headers: list[tuple[str, str]]) -> None:
    """Add request headers as web servers do: the same one twice is joined."""
    given: dict[str, str] = {}
    for name, value in headers:
        joint = "; " if name == "HTTP_COOKIE" else ", "
        given[name] = given[name] + joint + value if name in given else value
    params.update(given)
    if "HTTP_HOST" in given:
        found = re.fullmatch(r"(.*?)(?::([0-9]+))?", given["HTTP_HOST"], re.DOTALL)
        assert found is not None  # it takes anything
        params["SERVER_NAME"] = found[1]
        params["SERVER_PORT"] = found[2] or params["SERVER_PORT"]


# ---------------------------------------------------------------------------- ping, status


def add_ping_options(ping: argparse.ArgumentParser) -> None:
    """The options of `fastfcgi ping`, for run_ping()."""
    ping.set_defaults(run=run_ping)
    _add_page_options(ping, PING_PATH)


def add_status_options(status: argparse.ArgumentParser) -> None:
    """The options of `fastfcgi status`, for run_status()."""
    status.set_defaults(run=run_status)
    _add_page_options(status, STATUS_PATH)
    status.add_argument("--full", action="store_true", help="with the running requests")
    kind = status.add_mutually_exclusive_group()
    kind.add_argument("--json", action="store_true", help="as JSON")
    kind.add_argument("--openmetrics", action="store_true", help="as Prometheus gets it")


def _add_page_options(command: argparse.ArgumentParser, path: str) -> None:
    add_address(command)
    about = f"path of the page; default: {path}"
    command.add_argument("--path", metavar="PATH", type=_path, default=path, help=about)
    command.add_argument(
        "--timeout",
        metavar="S",
        type=bench._seconds,
        default=PAGE_TIMEOUT,
        help=f"seconds that all of it may take; default: {PAGE_TIMEOUT:g}",
    )


def add_address(command: argparse.ArgumentParser) -> None:
    """The argument that all have first."""
    command.add_argument(
        "address",
        metavar="ADDRESS",
        type=bench._peer,
        help="unix:/path, unix:@abstract, host:port or [::1]:port",
    )


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise argparse.ArgumentTypeError(f"a path begins with a slash: {text!r}")
    # What is not allowed in a URL is encoded, what is already encoded stays so.
    return quote(text, safe="!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", errors="surrogateescape")


def run_ping(options: argparse.Namespace) -> int:
    """`fastfcgi ping`: one line that says whether the server answers."""
    began = time.monotonic()
    response, body = fetch(options.address, options.path, options.timeout)
    took = f"in {(time.monotonic() - began) * 1000:.1f} ms"
    if not 200 <= response.status < 300:
        raise _not_answered(options, response, "--ping-path")
    if body.strip() == b"pong":
        print(f"{options.address}: pong {took}")
    else:
        # The application's own page may tell how it is as well.
        print(f"{options.address}: {options.path} is answered with {_status(response)} {took}")
    return 0


def run_status(options: argparse.Namespace) -> int:
    """`fastfcgi status`: the page as it comes."""
    asked = [word for word in ("json", "full", "openmetrics") if getattr(options, word)]
    response, body = fetch(options.address, options.path, options.timeout, "&".join(asked))
    if response.status != 200:
        raise _not_answered(options, response, "--status-path")
    kind = JSON_TYPE if options.json else OPENMETRICS_TYPE if options.openmetrics else TEXT_TYPE
    expect_type(options.address, options.path, response, kind)
    write_out(body)
    return 0


def _not_answered(options: argparse.Namespace, response: Response, option: str) -> AskError:
    hint = f": is it served with {option} {options.path}?" if response.status == 404 else ""
    return AskError(
        f"{options.address} answers {options.path} with status {_status(response)}{hint}"
    )


def _status(response: Response) -> str:
    return printable(f"{response.status} {response.reason}".strip())[:80]


def expect_type(address: str, path: str, response: Response, kind: str) -> None:
    """Raise AskError where what came is not of the type that a status page has."""
    wanted, found = (text.partition(";")[0].strip() for text in (kind, _type(response)))
    if found != wanted:
        what = printable(found)[:80] or "nothing of a type"
        raise AskError(f"{address} answers {path} with {what}: that is no status page")


def _type(response: Response) -> str:
    return (response.header("Content-Type") or "").lower()


def fetch(address: str, path: str, timeout: float, query: str = "") -> tuple[Response, bytes]:
    """Get a small page, within so many seconds in all.

    php-fpm looks for its own pages in SCRIPT_NAME, where an application has its mount. It is
    asked again in its way, but no other server is: an application might take it for its root.

    Raises:
        AskError: There is no answer, or not all of it.
    """
    client = Client(address, timeout=None, connect_timeout=timeout, total_timeout=timeout)
    target = path + (f"{'&' if '?' in path else '?'}{query}" if query else "")
    params = params_of("GET", target)
    with plain_errors(address):
        response, body = _whole(client, params)
        if response.status == 404 and _PHP_SIGN in response.stderr:
            script = params["PATH_INFO"]
            params |= {"SCRIPT_NAME": script, "SCRIPT_FILENAME": script, "PATH_INFO": ""}
            response, body = _whole(client, params)
    return response, body


def _whole(client: Client, params: dict[str, str]) -> tuple[Response, bytes]:
    with client.request(params) as response:
        body = b""
        for block in response:
            body += block
            if len(body) > MAX_PAGE:
                raise AskError(f"the page is longer than {MAX_PAGE} bytes")
        _expect_end(response)
        return response, body


def _expect_end(response: Response) -> None:
    """Raise RequestRefused where the server says so after a response."""
    if response.protocol_status:
        raise RequestRefused(response.protocol_status)


def write_out(data: bytes) -> None:
    """To stdout. Who reads it may have seen enough, as `head` does: then the command ends."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # So that Python does not try again at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


# --------------------------------------------------------------------------------- request


def add_request_options(request: argparse.ArgumentParser) -> None:
    """The options of `fastfcgi request`, for run_request()."""
    request.set_defaults(run=run_request)
    add_address(request)
    add = request.add_argument
    add("path", metavar="PATH", type=_path, help="path, and a query after a question mark")
    add("-X", "--method", metavar="NAME", type=bench._method, help="GET, or POST with --data")
    add(
        *("-H", "--header"),
        metavar="NAME:VALUE",
        action="append",
        type=bench._header,
        default=[],
        help="a request header; may be repeated",
    )
    add("-d", "--data", metavar="DATA", help="the body: a text, @FILE, or - for stdin")
    add("--query", metavar="TEXT", type=_query, help="a query, added to that of PATH")
    add("--mount", metavar="PATH", type=_path, default="/", help="what of PATH is SCRIPT_NAME")
    add(
        *("-p", "--param"),
        metavar="NAME=VALUE",
        action="append",
        type=bench._param,
        default=[],
        help="any param, added to the others or in place of one; may be repeated",
    )
    add("--role", choices=ROLES, default="responder", help="default: responder")
    add("-i", "--include", action="store_true", help="print the head of the response, too")
    add("-v", "--verbose", action="store_true", help="tell on stderr what is sent and received")
    add("-o", "--output", metavar="FILE", help="put the response there, not on stdout")
    add(
        "--timeout",
        metavar="S",
        type=bench._seconds,
        default=REQUEST_TIMEOUT,
        help=f"seconds without anything moving; default: {REQUEST_TIMEOUT:g}",
    )


def _query(text: str) -> str:
    return _path("/" + text)[1:]


def run_request(options: argparse.Namespace) -> int:
    """`fastfcgi request`: the response to stdout, STDERR to stderr; 0 for a status below 400."""
    with contextlib.ExitStack() as stack:
        body, length, kind = _body(options.data, stack)
        target = options.path
        if options.query:
            target += ("&" if "?" in target else "?") + options.query
        method = options.method or ("GET" if options.data is None else "POST")
        params = params_of(method, target, _unquoted(options.mount), length, kind)
        _with_headers(params, options.header)
        params.update(options.param)
        talk = Talk(options)
        talk.sent(params)
        limit = options.timeout
        client = Client(options.address, timeout=limit, connect_timeout=limit)
        with plain_errors(options.address):
            role = ROLES[options.role]
            response = client.request(params, body, role=role, on_stderr=talk.error)
            stack.enter_context(response)
            talk.head(response)
            out = _output(options.output, stack)
            if options.include:
                _write(out, _head(response, "\r\n"))
            for block in response:
                _write(out, block)
                talk.received += len(block)
            talk.end(response)
            _expect_end(response)
    return 0 if response.status < 400 else 1


def _unquoted(path: str) -> str:
    return unquote_to_bytes(path).decode("latin-1")


def _body(data: str | None, stack: contextlib.ExitStack) -> tuple[Body, int | None, str]:
    """The body that --data names, its length if that is known, and CONTENT_TYPE."""
    if data is None:
        return b"", None, ""
    if data == "-":
        # Unbuffered, so that each part goes out as it comes.
        file: IO[bytes] = open(0, "rb", buffering=0, closefd=False)
    elif data.startswith("@"):
        file = stack.enter_context(open(data[1:], "rb", buffering=0))
    else:
        text = os.fsencode(data)
        return text, len(text), "application/x-www-form-urlencoded"
    return *of_file(file), "application/octet-stream"


def _output(path: str | None, stack: contextlib.ExitStack) -> IO[bytes] | None:
    """The file to write to, None for stdout. Opened late: without an answer it stays as it was."""
    return None if path is None else stack.enter_context(open(path, "wb"))


def _write(out: IO[bytes] | None, data: bytes) -> None:
    if out is None:
        write_out(data)
    else:
        out.write(data)


def _head(response: Response, end: str) -> bytes:
    lines = [f"Status: {response.status} {response.reason}".rstrip()]
    lines += [f"{name}: {value}" for name, value in response.headers]
    return "".join(line + end for line in [*lines, ""]).encode("latin-1")


@dataclass
class Talk:
    """What --verbose tells on stderr, and STDERR of the application."""

    options: argparse.Namespace
    received: int = 0
    began: float = field(default_factory=time.monotonic)

    def _tell(self, line: str) -> None:
        if self.options.verbose:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    def sent(self, params: dict[str, str]) -> None:
        """Before the request."""
        self._tell(f"* to {self.options.address} as {self.options.role}")
        for name, value in params.items():
            self._tell(printable(f"> {name}={value}"))
        data = self.options.data
        self._tell("> and no body" if data is None else printable(f"> and a body: {data}")[:200])

    def error(self, data: bytes) -> None:
        """Whatever comes on STDERR, at once and as it is."""
        sys.stderr.flush()
        sys.stderr.buffer.write(data)
        sys.stderr.buffer.flush()

    def head(self, response: Response) -> None:
        """When the head of the response is there."""
        for line in _head(response, "\n").decode("latin-1").splitlines():
            self._tell(printable(f"< {line}".rstrip()))

    def end(self, response: Response) -> None:
        """After END_REQUEST."""
        took = (time.monotonic() - self.began) * 1000
        self._tell(
            f"* {self.received} bytes of body in {took:.1f} ms, app_status {response.app_status},"
            f" protocol_status {response.protocol_status}"
        )
