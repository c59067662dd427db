"""A small HTTP server that hands every request to a FastCGI server: for development only.

It lets a browser see an application without a web server being set up. It has no TLS, no static
files, no access control and no limit on connections, so keep it on the loopback. In production a
web server such as nginx, lighttpd, Apache or HAProxy takes its place.

What it sends as params follows RFC 3875 and what those servers were seen to send: PATH_INFO
decoded once, REQUEST_URI as it came, repeated headers joined, no HTTP_PROXY (httpoxy), and no
header with an underscore, because X_Name could pass for the X-Name that a proxy has checked.
"""

import contextlib
import http.server
import logging
import os
import re
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

from fastfcgi.client import (
    Address,
    BadResponse,
    Client,
    RequestRefused,
    RequestTimeout,
    Response,
)
from fastfcgi.constants import OVERLOADED
from fastfcgi.exceptions import FastCGIError

logger = logging.getLogger("fastfcgi.http_front")

BLOCK_SIZE = 65536
MAX_CHUNK_LINE = 1024
MAX_TRAILER_LINES = 100
# What is read of a body that nobody wants any more, so that the browser gets to the response.
MAX_LINGER_BYTES = 64 * 1024 * 1024
LINGER_SECONDS = 5.0

_TOKEN = re.compile(r"[!#$%&'*+.^`|~0-9A-Za-z_-]+\Z")
_CONTROL = {code: f"\\x{code:02x}" for code in [*range(32), 127] if code != 9}
# Of one connection (RFC 9110, 7.6.1).
_HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
# They have params of their own, no longer apply, or could do harm.
_NOT_PASSED = {"content-type", "content-length", "transfer-encoding", "expect", "proxy"}

_ERROR_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>%(code)d %(message)s</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:4em auto}</style></head>
<body><h1>%(code)d %(message)s</h1><p>%(explain)s</p><hr>fastfcgi development front</body></html>
"""


class BadRequest(Exception):
    """What the browser sent cannot be passed on."""

    def __init__(self, text: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(text)
        self.status = status


class RequestBody:
    """The body of an HTTP request as a WaitableBody, its chunks taken apart.

    Raises BadRequest when it is cut or its chunks are malformed; the client then hangs up
    on the FastCGI server, which sees an aborted request and no complete body.
    """

    def __init__(self, handler: "FrontHandler", length: int | None) -> None:
        self._handler = handler
        self._input = handler.rfile
        self._chunked = length is None
        self._left = length or 0
        self.done = length == 0

    def fileno(self) -> int:
        return int(self._handler.connection.fileno())

    def ready(self) -> bool:
        """Whether the next block, or a part of it, can be had without waiting."""
        self._handler.send_continue()
        connection = self._handler.connection
        timeout = connection.gettimeout()
        connection.setblocking(False)
        try:
            return self.done or bool(self._input.peek(1))
        finally:
            connection.settimeout(timeout)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self.done and self._chunked and not self._left:
            self._left = self._next_chunk()
        if self.done:
            raise StopIteration
        block: bytes = self._input.read1(min(self._left, BLOCK_SIZE))
        if not block:
            raise BadRequest("The request body is cut.")
        self._left -= len(block)
        if not self._left:
            self._end_chunk()
        return block

    def _end_chunk(self) -> None:
        if not self._chunked:
            self.done = True
        elif self._line() != b"":
            raise BadRequest("A chunk of the body is malformed.")

    def _next_chunk(self) -> int:
        size = self._line().partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", size):
            raise BadRequest("A chunk size of the body is malformed.")
        if int(size, 16):
            return int(size, 16)
        for _ in range(MAX_TRAILER_LINES):
            if not self._line():
                self.done = True
                return 0
        raise BadRequest("The trailer of the body is too long.")

    def _line(self) -> bytes:
        line: bytes = self._input.readline(MAX_CHUNK_LINE)
        if not line.endswith(b"\n"):
            raise BadRequest("The chunks of the body are cut or malformed.")
        return line.rstrip(b"\r\n")


def split_target(target: str) -> tuple[bytes, bytes, bytes]:
    """REQUEST_URI, PATH_INFO (decoded once, raw bytes) and QUERY_STRING of a request target."""
    absolute = re.match(r"https?://[^/?#]*", target, re.IGNORECASE)
    if absolute is not None:  # absolute-form, as sent to a proxy
        target = target[absolute.end() :]
        target = target if target.startswith("/") else "/" + target
    uri = target.encode("latin-1")
    path, _, query = uri.partition(b"?")
    if target == "*":  # OPTIONS *
        path = b"/*"
    decoded = unquote_to_bytes(path)
    if not path.startswith(b"/") or b"\0" in decoded:
        raise BadRequest("The request target is not a path.")
    return uri, decoded, query


def header_params(headers: list[tuple[str, str]]) -> dict[str, str]:
    """HTTP_* of request headers: repeated ones joined, those that must not pass left out."""
    params: dict[str, str] = {}
    for name, value in headers:
        if not _TOKEN.match(name) or "\0" in value:
            raise BadRequest("A request header is malformed.")
        if "_" in name or name.lower() in _NOT_PASSED:
            continue
        key = "HTTP_" + name.upper().replace("-", "_")
        value = re.sub(r"\r?\n[ \t]*", " ", value)
        joint = "; " if key == "HTTP_COOKIE" else ", "
        params[key] = params[key] + joint + value if key in params else value
    return params


class FrontHandler(http.server.BaseHTTPRequestHandler):
    """One connection of a browser."""

    server: "HTTPFront"
    rfile: Any  # a BufferedReader, which typeshed knows as BufferedIOBase without peek()
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # not 0.9, whose errors have no status
    server_version = "fastfcgi-http-front"
    error_message_format = _ERROR_PAGE
    disable_nagle_algorithm = True  # blocks of a streamed response leave at once
    timeout = 60.0
    _expects_continue = _begun = _framed = False

    def log_message(self, format: str, *args: Any) -> None:
        logger.info("%s %s", self.client_address[0], (format % args).translate(_CONTROL))

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        pass  # relay() logs a response when it has ended and its size is known

    def handle_expect_100(self) -> bool:
        # Not before the FastCGI server is there: a body is better not sent than sent in vain.
        self._expects_continue = True
        return True

    def send_continue(self) -> None:
        if self._expects_continue:
            self._expects_continue = False
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def handle_one_request(self) -> None:
        """As in the base class, but for every method there is."""
        self._expects_continue = self._begun = False
        self.command = self.requestline = self.request_version = ""
        try:
            self.raw_requestline = self.rfile.readline(BLOCK_SIZE + 1)
            if not self.raw_requestline:
                self.close_connection = True
            elif len(self.raw_requestline) > BLOCK_SIZE:
                self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)
            elif self.parse_request():
                with self.server.busy():
                    self.forward()
        except OSError:  # the browser is gone, or silent for too long
            self.close_connection = True

    def forward(self) -> None:
        """Pass one request on, and its response back."""
        body: RequestBody | None = None
        try:
            body = RequestBody(self, self.body_length())
            client = Client(self.server.fastcgi_address, timeout=self.server.fastcgi_timeout)
            source = b"" if body.done else body
            with client.request(self.params(), source, on_stderr=self.log_stderr) as response:
                self.relay(response)
        except BadRequest as error:
            self.refuse(error.status, str(error))
        except RequestTimeout as error:
            self.refuse(HTTPStatus.GATEWAY_TIMEOUT, str(error))
        except RequestRefused as error:
            full = error.protocol_status == OVERLOADED
            self.refuse(HTTPStatus(503 if full else 502), str(error))
        except FastCGIError as error:
            self.refuse(HTTPStatus.BAD_GATEWAY, str(error))
        if body is None or not body.done:
            self.linger()

    def body_length(self) -> int | None:
        """The announced length of the body; None when it is chunked."""
        codings = ", ".join(self.headers.get_all("Transfer-Encoding", []))
        lengths = {value.strip() for value in self.headers.get_all("Content-Length", [])}
        if codings:
            if codings.strip().lower() != "chunked":
                raise BadRequest("Unknown transfer coding.", HTTPStatus.NOT_IMPLEMENTED)
            # RFC 9112, 6.3: with both, whichever is meant, the connection does not go on.
            self.close_connection |= bool(lengths)
            return None
        if len(lengths) > 1 or not all(re.fullmatch("[0-9]{1,18}", value) for value in lengths):
            raise BadRequest("Content-Length is malformed.")
        return int(lengths.pop()) if lengths else 0

    def params(self) -> dict[str, str]:
        """The CGI variables of the request; bytes as latin-1."""
        hosts = len(self.headers.get_all("Host", []))
        if self.headers.get_payload() or (hosts != 1 and self.request_version >= "HTTP/1.1"):
            raise BadRequest("The request headers are malformed.")
        # Not self.path, in which the base class has already joined slashes.
        uri, path, query = split_target(self.requestline.split()[1])
        host, port = self.connection.getsockname()[:2]
        params = {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_SOFTWARE": self.server_version,
            "SERVER_PROTOCOL": self.request_version,
            "SERVER_NAME": f"[{host}]" if ":" in host else host,
            "SERVER_ADDR": host,
            "SERVER_PORT": str(port),
            "REMOTE_ADDR": self.client_address[0],
            "REMOTE_PORT": str(self.client_address[1]),
            "REQUEST_SCHEME": "http",
            "REQUEST_METHOD": self.command,
            "REQUEST_URI": uri.decode("latin-1"),
            "SCRIPT_NAME": "",
            "PATH_INFO": path.decode("latin-1"),
            "QUERY_STRING": query.decode("latin-1"),
        }
        if "Content-Type" in self.headers:
            params["CONTENT_TYPE"] = self.headers["Content-Type"].strip()
        # A chunked body has no length yet; it ends with the STDIN stream.
        if "Content-Length" in self.headers and "Transfer-Encoding" not in self.headers:
            params["CONTENT_LENGTH"] = self.headers["Content-Length"].strip()
        return params | header_params(self.headers.items())

    def relay(self, response: Response) -> None:
        """Pass a response on, each block as soon as it is there."""
        if response.status < 200:
            raise BadResponse(f"status {response.status} cannot be passed on")
        with_body = self.command != "HEAD" and response.status not in (204, 304)
        length = content_length(response)
        current = self.request_version >= "HTTP/1.1"
        chunked = with_body and length is None and current
        self._framed = not with_body or length is not None or chunked
        if not current or not self._framed or self.server.stopping:
            self.close_connection = True
        self.send_response_header(response, length, chunked)
        sent = 0
        for block in response:
            if not with_body:
                continue
            if length is not None and sent + len(block) > length:
                logger.warning(
                    "the response is longer than its Content-Length, the rest is cut off"
                )
                block = block[: length - sent]
            if block:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
            sent += len(block)
        if with_body and length is not None and sent < length:
            raise BadResponse(f"the response ended {length - sent} bytes before its Content-Length")
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        self.log_message('"%s" %d %d', self.requestline, response.status, sent)

    def send_response_header(self, response: Response, length: int | None, chunked: bool) -> None:
        """The status line and headers, with those that say how the body ends."""
        self._begun = True
        self.send_response_only(response.status, response.reason or None)
        for name, value in response.headers:
            if name.lower() not in _HOP_BY_HOP and name.lower() != "content-length":
                self.send_header(name, value)
        if response.header("Date") is None:
            self.send_header("Date", self.date_time_string())
        if length is not None and response.status != 204:
            self.send_header("Content-Length", str(length))
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def refuse(self, status: HTTPStatus, text: str) -> None:
        """Answer with an error page, or cut a response that has already begun."""
        self.close_connection = True
        logger.error("%s: %s", self.requestline.translate(_CONTROL), text)
        if not self._begun:
            self.send_error(status, explain=text)
        elif not self._framed:
            # Only the close tells the browser where this body ends, so the close has to hurt.
            reset = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            self.connection.close()

    def linger(self) -> None:
        """Read what is left of a body: closing before that would take the response away."""
        self.close_connection = True
        left, until = MAX_LINGER_BYTES, time.monotonic() + LINGER_SECONDS
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(LINGER_SECONDS)
            while left > 0 and time.monotonic() < until:
                left -= len(self.rfile.read1(BLOCK_SIZE)) or left

    def log_stderr(self, data: bytes) -> None:
        if self.server.log_stderr:
            for line in data.decode("utf-8", "replace").splitlines():
                logger.warning("stderr: %s", line.translate(_CONTROL))


def content_length(response: Response) -> int | None:
    """The Content-Length of a response, when it has a usable one."""
    values = {value for name, value in response.headers if name.lower() == "content-length"}
    usable = len(values) == 1 and all(re.fullmatch("[0-9]{1,18}", value) for value in values)
    return int(values.pop()) if usable else None


class HTTPFront(http.server.ThreadingHTTPServer):
    """The listening side of the front; it listens as soon as it is made, and serves from start().

    Args:
        address: (host, port); port 0 takes a free one, see url.
        fastcgi_address: Where the requests go, see client.connect(). May be set until start().
        fastcgi_timeout: Seconds a response may stand still before it is given up with a 504.
        log_stderr: Whether STDERR of the application goes to the log of this module.

    Raises:
        OSError: The address is in use or not allowed.
    """

    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = os.name == "posix"  # on Windows it would let two have one port

    def __init__(
        self,
        address: tuple[str, int],
        fastcgi_address: Address,
        *,
        fastcgi_timeout: float | None = 300.0,
        log_stderr: bool = True,
    ) -> None:
        self.fastcgi_address = fastcgi_address
        self.fastcgi_timeout = fastcgi_timeout
        self.log_stderr = log_stderr
        self.stopping = False
        self._change = threading.Condition()
        self._busy = 0
        self._connections: set[Any] = set()
        self._thread: threading.Thread | None = None
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        super().__init__(found[0][4][:2], FrontHandler)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        host = str(self.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_address[1]}/"

    def start(self) -> None:
        """Serve on a thread of its own."""
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Take no more connections, let running responses end for `timeout` seconds, and close."""
        self.stopping = True
        if self._thread is not None:
            self.shutdown()
            self._thread.join()
        with self._change:
            self._change.wait_for(lambda: not self._busy, timeout)
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Around each request: stop() waits for these, and not for idle connections."""
        with self._change:
            self._busy += 1
        try:
            yield
        finally:
            with self._change:
                self._busy -= 1
                self._change.notify_all()

    def server_bind(self) -> None:
        # The base class would look the name of the host up, which may take seconds.
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._change:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._change:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.exception("error in a request of %s", client_address[0])
