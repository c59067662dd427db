"""The WSGI gateway: calls the application and turns what it returns into a CGI response.

Everything of PEP 3333 that is not the environ stands here. The request it works on is given; it
knows no socket and waits for nothing itself.
"""

import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import IO, Any, BinaryIO, Final, Protocol, TextIO, TypeAlias

from fastfcgi.constants import FILTER, RESPONDER, ROLE_NAMES
from fastfcgi.environ import complete_environ
from fastfcgi.exceptions import RequestAborted

logger: Final = logging.getLogger("fastfcgi")

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]
OptExcInfo: TypeAlias = ExcInfo | tuple[None, None, None]
WSGIApplication: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[Any]]

# A block up to this size goes out in one record with the header: one copy of it costs less than
# another record.
_JOIN_SIZE: Final = 16 * 1024

# Bytes of wsgi.errors kept until they are flushed or something else is sent.
_ERRORS_SIZE: Final = 8 * 1024

_STATUS: Final = re.compile(r"[1-9][0-9]{2}(?: [^\r\n\0]*)?")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # a token of RFC 9110
_HEADER_VALUE: Final = re.compile(r"[^\r\n\0]*")

# Of the connection between the web server and its client, which an application knows nothing of
# (PEP 3333, "Other HTTP Features"); and "Status", which is the gateway's own.
_NOT_PASSED_ON: Final = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
        "status",
    )
)


class Request(Protocol):
    """What the gateway needs of a request."""

    params: dict[str, Any]
    role: int
    aborted: bool

    def input_stream(self) -> BinaryIO:
        """The body, for wsgi.input."""

    def data_stream(self) -> BinaryIO:
        """A filter's DATA (spec 6.4)."""

    def write(self, *blocks: bytes, last: bool = False) -> None:
        """Send part of the response; `last` when nothing follows it. Raises RequestAborted."""

    def write_error(self, data: bytes) -> None:
        """Send to the web server's error log; best effort."""

    def abandon(self) -> None:
        """The response cannot be completed and must not look complete."""


class FileWrapper:
    """wsgi.file_wrapper (PEP 3333, "Optional Platform-Specific File Handling").

    Args:
        filelike: Has read(size); its close(), if any, is called after the response.
        block_size: Bytes read at a time.
    """

    def __init__(self, filelike: IO[bytes], block_size: int = 64 * 1024) -> None:
        self.filelike = filelike
        self.block_size = block_size
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self) -> Iterator[bytes]:
        while block := self.filelike.read(self.block_size):
            yield block


class ErrorStream:
    """wsgi.errors: text for FCGI_STDERR, and for `tee` as well when there is one.

    What is written is sent by flush(), when much has come together, or with the response.
    """

    encoding: Final = "utf-8"
    errors: Final = "backslashreplace"

    def __init__(self, request: Request, tee: TextIO | None = None) -> None:
        self._request = request
        self._tee = tee
        self._pending: list[bytes] = []
        self._size = 0

    def write(self, text: str) -> int:
        """Write text, as any text stream does; returns its length in characters."""
        data = text.encode(self.encoding, self.errors)
        self._pending.append(data)
        self._size += len(data)
        if self._tee is not None:
            self._tee.write(text)
        if self._size >= _ERRORS_SIZE:
            self.send()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of the lines, which bring their own line ends."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Send what was written."""
        self.send()
        if self._tee is not None:
            self._tee.flush()

    def isatty(self) -> bool:
        """Never a terminal."""
        return False

    def send(self) -> None:
        """Hand over what is pending, if anything."""
        if self._pending:
            pending, self._pending, self._size = self._pending, [], 0
            self._request.write_error(b"".join(pending))


class Response:
    """One response on its way: start_response, write, and what they promise (PEP 3333).

    Args:
        request: Where it goes.
        is_head: The request's method is HEAD, so no body is sent (RFC 9110 section 9.3.2).
    """

    def __init__(self, request: Request, is_head: bool) -> None:
        self._request = request
        self._is_head = is_head
        self._head: bytes | None = None
        self._no_body = is_head
        self._never_body = False
        self._content_length: int | None = None
        self._remaining: int | None = None
        self._too_long = False
        self.header_sent = False

    def start_response(
        self,
        status: str,
        response_headers: list[tuple[str, str]],
        exc_info: OptExcInfo | None = None,
    ) -> Callable[[bytes], None]:
        """Set status and headers; returns write().

        Raises:
            AssertionError: Called again without exc_info.
            ValueError: A status or header that cannot be sent: CR, LF or NUL, characters
                outside latin-1, a Content-Length that is no number.
            TypeError: A status, name or value that is not str.
        """
        if exc_info is not None:
            try:
                if self.header_sent and exc_info[1] is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._head is not None:
            raise AssertionError("start_response called again without exc_info (PEP 3333)")
        if not isinstance(status, str):
            raise TypeError(f"the status is a {type(status).__name__}, not a str (PEP 3333)")
        if not _STATUS.fullmatch(status):
            raise ValueError(f"not a status line: {status!r}")
        lines = [f"Status: {status}\r\n"]
        content_length: int | None = None
        for name, value in response_headers:
            self._check_header(name, value)
            lower = name.lower()
            if lower == "content-length":
                content_length = self._parse_length(value, content_length)
            if lower in _NOT_PASSED_ON:
                logger.warning("the response header %r is not an application's to set", name)
                continue
            lines.append(f"{name}: {value}\r\n")
        self._head = "".join(lines).encode("latin-1")
        self._content_length = self._remaining = content_length
        self._never_body = status[:3] in ("204", "304") or status[0] == "1"
        self._no_body = self._is_head or self._never_body
        return self.write

    @staticmethod
    def _check_header(name: str, value: str) -> None:
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"a header that is not of str: {name!r}: {value!r} (PEP 3333)")
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"not a header name: {name!r}")
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"CR, LF or NUL in the header {name}: {value!r}")

    @staticmethod
    def _parse_length(value: str, earlier: int | None) -> int:
        value = value.strip()
        if not (value.isascii() and value.isdigit()):
            raise ValueError(f"not a Content-Length: {value!r}")
        if earlier is not None and earlier != int(value):
            raise ValueError("two different Content-Length headers")
        return int(value)

    def write(self, block: bytes) -> None:
        """Send a block of the body; the header first if it is not out yet."""
        self.send(block)

    def send(self, block: bytes | str, last: bool = False) -> None:
        """Send a block, as far as a body is to be sent and Content-Length leaves room."""
        if not isinstance(block, bytes):
            block = _to_bytes(block)
        if not block:
            return
        data = self._clip(block)
        if self.header_sent:
            if data:
                self._request.write(data, last=last)
            return
        header = self._take_header()
        if len(data) <= _JOIN_SIZE:
            self._request.write(header + data, last=last)
        else:
            self._request.write(header, data, last=last)

    def send_only(self, block: bytes | str) -> None:
        """Send the one block that is the whole body: its length is then known."""
        if not isinstance(block, bytes):
            block = _to_bytes(block)
        if block or not self._is_head:
            self._set_length(len(block))
        self.send(block, last=True)

    def finish(self, empty: bool) -> bool:
        """Everything was sent; `empty` when it is known that there was no body at all.

        Returns:
            Whether the response is whole; not so when it falls short of its Content-Length.
        """
        if not self.header_sent:
            if empty and not self._is_head:
                self._set_length(0)
            self._request.write(self._take_header(), last=True)
        if self._no_body or not self._remaining:
            return True
        logger.error(
            "the response is %d bytes shorter than its Content-Length of %d",
            self._remaining,
            self._content_length,
        )
        return False

    @property
    def done(self) -> bool:
        """Nothing that follows would be sent any more."""
        return self.header_sent and (self._no_body or self._too_long)

    def _set_length(self, length: int) -> None:
        """Add the Content-Length that the application left out, if it is not too late."""
        if self._head is None or self.header_sent or self._never_body:
            return
        if self._content_length is None:
            self._head += b"Content-Length: %d\r\n" % length
            self._content_length = self._remaining = length

    def _take_header(self) -> bytes:
        if self._head is None:
            raise AssertionError("the application sent a body before start_response (PEP 3333)")
        self.header_sent = True
        return self._head + b"\r\n"

    def _clip(self, block: bytes) -> bytes:
        if self._no_body:
            return b""
        if self._remaining is None:
            return block
        if len(block) > self._remaining:
            if not self._too_long:
                self._too_long = True
                logger.error(
                    "the response is longer than its Content-Length of %d; the rest is cut",
                    self._content_length,
                )
            block = block[: self._remaining]
        self._remaining -= len(block)
        return block


def _to_bytes(block: object) -> bytes:
    """A block that is not bytes: other buffers, and str of latin-1 as flup takes it."""
    if isinstance(block, str):
        return block.encode("latin-1")
    if isinstance(block, (bytearray, memoryview)):
        return bytes(block)
    raise TypeError(f"a block of the body is a {type(block).__name__}, not bytes (PEP 3333)")


class Gateway:
    """Runs a WSGI application for one request after another, from any number of threads.

    Args:
        application: The WSGI callable.
        environ: Entries that replace those of the web server, or None.
        multithread, multiprocess, run_once: For the environ keys of the same names.
        debug: Show tracebacks in the error page.
        tee_errors: Write wsgi.errors to sys.stderr as well.
        error_page: Called with the request while the exception is being handled, to send a
            page in the place of a response that has not begun; send_error_page by default.
    """

    def __init__(
        self,
        application: WSGIApplication,
        *,
        environ: Mapping[str, Any] | None = None,
        multithread: bool = True,
        multiprocess: bool = False,
        run_once: bool = False,
        debug: bool = False,
        tee_errors: bool = False,
        error_page: Callable[[Any], object] | None = None,
    ) -> None:
        self.application = application
        self.debug = debug
        self._environ = environ
        self._tee_errors = tee_errors
        self._error_page = error_page or self.send_error_page
        self._constants: dict[str, Any] = {
            "wsgi.version": (1, 0),
            "wsgi.multithread": multithread,
            "wsgi.multiprocess": multiprocess,
            "wsgi.run_once": run_once,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True,
        }

    def handle(self, request: Request) -> None:
        """Answer one request. Whatever the application does, this returns."""
        errors = ErrorStream(request, sys.stderr if self._tee_errors else None)
        response: Response | None = None
        try:
            environ = self._environ_of(request, errors)
            response = Response(request, environ["REQUEST_METHOD"] == "HEAD")
            whole = self._run(environ, response)
            errors.send()
            if not whole:
                request.abandon()
        except RequestAborted:
            logger.info("aborted by the web server: %s", describe(request))
            request.abandon()
        except BaseException:  # SystemExit too: an application does not end the server
            self._failed(request, response, errors)

    def _environ_of(self, request: Request, errors: ErrorStream) -> dict[str, Any]:
        environ = request.params
        complete_environ(environ, self._environ)
        environ.update(self._constants)
        environ["wsgi.input"] = request.input_stream()
        environ["wsgi.errors"] = errors
        if request.role != RESPONDER:
            environ.setdefault("FCGI_ROLE", ROLE_NAMES[request.role])
            if request.role == FILTER:
                environ["fastfcgi.data"] = request.data_stream()
        return environ

    def _run(self, environ: dict[str, Any], response: Response) -> bool:
        """Call the application, send what it returns, close that; PEP 3333's order."""
        result = self.application(environ, response.start_response)
        close = getattr(result, "close", None)
        if close is None:
            return self._send_result(result, response)
        whole = False
        try:
            whole = self._send_result(result, response)
        finally:
            try:
                close()
            except Exception:
                # The response is out, or another exception tells more.
                logger.exception("close() of the response failed")
        return whole

    @staticmethod
    def _send_result(result: Iterable[Any], response: Response) -> bool:
        known = isinstance(result, (list, tuple))
        if known and len(result) == 1:  # type: ignore[arg-type]
            response.send_only(result[0])  # type: ignore[index]
        else:
            for block in result:
                response.send(block)
                if response.done:
                    break
        return response.finish(empty=known)

    def _failed(self, request: Request, response: Response | None, errors: ErrorStream) -> None:
        """An exception of the application: a page if nothing was sent, else a cut response."""
        if request.aborted:
            # It failed over a client that had gone: nobody is there to be told.
            logger.info("aborted by the web server: %s", describe(request), exc_info=True)
            request.abandon()
            return
        logger.exception("the application failed: %s", describe(request))
        try:
            errors.send()
            request.write_error(traceback.format_exc().encode("utf-8", "backslashreplace"))
            if response is None or not response.header_sent:
                self._error_page(request)
            else:
                request.abandon()
        except RequestAborted:
            request.abandon()

    def send_error_page(self, request: Request) -> None:
        """Send "500 Internal Server Error"; with the traceback when debugging."""
        text = "The application failed; its error log says why.\n"
        if self.debug:
            text = traceback.format_exc()
        response = Response(request, request.params.get("REQUEST_METHOD") == "HEAD")
        response.start_response(
            "500 Internal Server Error", [("Content-Type", "text/plain; charset=utf-8")]
        )
        response.send_only(text.encode("utf-8", "backslashreplace"))


def describe(request: Request) -> str:
    """A request in a log line: its method and path, without control characters."""
    params = request.params
    path = params.get("SCRIPT_NAME", "") + params.get("PATH_INFO", "")
    # An odd method is shown as it is; a line break in it would make two lines of the log.
    method = params.get("REQUEST_METHOD", "?")
    return f"{method if method.isalpha() else repr(method)} {path!r}"
