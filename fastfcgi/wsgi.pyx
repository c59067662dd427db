# cython: language_level=3, freethreading_compatible=True, nonecheck=True
"""The WSGI gateway: calls the application and turns what it returns into a CGI response.

Everything of PEP 3333 that is not the environ, the head's bytes or a file stands here. The
request it works on is given; it knows no socket and waits for nothing itself.
"""

cimport cython
from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Contains, PyDict_GetItemWithError, PyDict_SetItem
from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from fastfcgi.environ cimport complete_environ, mount_path
from fastfcgi.head cimport HeadFacts, end_head, make_head

import logging
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from fastfcgi import constants
from fastfcgi.exceptions import RequestAborted
from fastfcgi.exchange import describe
from fastfcgi.file_wrapper import FileWrapper, parts

cdef object logger = logging.getLogger("fastfcgi")

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[Any]]

cdef int ROLE_RESPONDER = constants.RESPONDER
cdef int ROLE_FILTER = constants.FILTER
cdef object file_wrapper = FileWrapper

cdef enum:
    # Bytes of wsgi.errors kept until they are flushed or something else is sent.
    ERRORS_SIZE = 8 * 1024


@cython.final
@cython.freelist(16)
cdef class ErrorStream:
    """wsgi.errors: text for FCGI_STDERR, and for `tee` as well when there is one.

    What is written is sent by flush(), when much has come together, or with the response.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, Exchange request not None, tee=None):
        self.request = request
        self.tee = tee

    def write(self, text):
        """Write text, as any text stream does; returns its length in characters."""
        cdef bytes data = text.encode("utf-8", "backslashreplace")
        cdef Py_ssize_t size
        with cython.critical_section(self):
            if self.pending is None:
                self.pending = []
            self.pending.append(data)
            self.size += len(data)
            size = self.size
        if self.tee is not None:
            self.tee.write(text)
        if size >= ERRORS_SIZE:
            self.send()
        return len(text)

    def writelines(self, lines):
        """Write each of the lines, which bring their own line ends."""
        for line in lines:
            self.write(line)

    def flush(self):
        """Send what was written."""
        self.send()
        if self.tee is not None:
            self.tee.flush()

    def isatty(self):
        """Never a terminal."""
        return False

    cdef int send(self) except -1:
        """Hand over what is pending, if anything."""
        cdef list pending
        if self.pending is None:
            return 0
        with cython.critical_section(self):
            pending, self.pending, self.size = self.pending, None, 0
        if pending:
            self.request.write_error(b"".join(pending))
        return 0


@cython.final
@cython.freelist(16)
cdef class Response:
    """One response on its way: start_response, write, and what they promise (PEP 3333).

    What start_response returns, write(), is the response itself, called.

    Args:
        request: Where it goes.
        is_head: The request's method is HEAD, so no body is sent (RFC 9110 section 9.3.2).
    """

    def __init__(self, Exchange request not None, bint is_head):
        self.request = request
        self.is_head = self.no_body = is_head
        self.content_length = self.remaining = self.added_length = -1

    def start_response(self, status, response_headers, exc_info=None):
        """Set status and headers; returns write().

        Raises:
            AssertionError: Called again without exc_info.
            ValueError: A status or header that cannot be sent: CR, LF or NUL, characters
                outside latin-1, a Content-Length that is no number.
            TypeError: A status, name or value that is not str.
        """
        cdef HeadFacts facts
        cdef bytes head
        if exc_info is not None:
            try:
                if self.header_sent and exc_info[1] is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.head is not None:
            raise AssertionError("start_response called again without exc_info (PEP 3333)")
        head = make_head(status, response_headers, &facts)
        with cython.critical_section(self):
            self.head = head
            self.content_length = self.remaining = facts.content_length
            self.never_body = facts.never_body
            self.no_body = self.is_head or self.never_body
        return self

    def __call__(self, block):
        """write(): send a block of the body; the header first if it is not out yet."""
        self.send(block, False)

    cdef int send(self, object block, bint last) except -1:
        """Send a block, as far as a body is to be sent and Content-Length leaves room."""
        if not PyBytes_CheckExact(block):
            block = to_bytes(block)
        if PyBytes_GET_SIZE(block):
            self.send_data(block, PyBytes_GET_SIZE(block), last)
        return 0

    cdef int send_data(self, object data, Py_ssize_t size, bint last) except -1:
        cdef bytes head = None
        # Two threads may call write(): what is theirs is decided here, sent below.
        with cython.critical_section(self):
            if self.no_body or self.remaining >= 0:
                data = self.clip(data, size)
            if not self.header_sent:
                head = self.take_head()
        if head is not None or data is not None:
            self.request.write(head, data, last)
        return 0

    cdef int send_only(self, object block) except -1:
        """Send the one block that is the whole body: its length is then known."""
        if not PyBytes_CheckExact(block):
            block = to_bytes(block)
        if PyBytes_GET_SIZE(block) or not self.is_head:
            self.add_length(PyBytes_GET_SIZE(block))
        return self.send(block, True)

    cdef bint finish(self, bint empty) except -1:
        """Everything was sent; `empty` when it is known that there was no body at all.

        Returns:
            Whether the response is whole; not so when it falls short of its Content-Length.
        """
        cdef bytes head = None
        with cython.critical_section(self):
            if not self.header_sent:
                if empty and not self.is_head:
                    self.add_length(0)
                head = self.take_head()
        if head is not None:
            self.request.write(head, None, True)
        if self.no_body or self.remaining <= 0:
            return True
        logger.error(
            "the response is %d bytes shorter than its Content-Length of %d",
            self.remaining,
            self.content_length,
        )
        return False

    cdef bint done(self) noexcept:
        """Nothing that follows would be sent any more."""
        return self.header_sent and (self.no_body or self.too_long)

    cdef int add_length(self, int64_t length) except -1:
        """Add the Content-Length that the application left out, if it is not too late."""
        if self.head is None or self.header_sent or self.never_body:
            return 0
        if self.content_length < 0:
            self.added_length = self.content_length = self.remaining = length
        return 0

    cdef bytes take_head(self):
        if self.head is None:
            raise AssertionError("the application sent a body before start_response (PEP 3333)")
        self.header_sent = True
        return end_head(self.head, self.added_length)

    cdef object clip(self, object data, Py_ssize_t size):
        """As much of the data as is to be sent, or None."""
        if self.no_body:
            return None
        if size > self.remaining:
            if not self.too_long:
                self.too_long = True
                logger.error(
                    "the response is longer than its Content-Length of %d; the rest is cut",
                    self.content_length,
                )
            size = <Py_ssize_t>self.remaining
            data = data[:size] if size else None
        self.remaining -= size
        return data


cdef object to_bytes(object block):
    """A block that is not bytes: other buffers, and str of latin-1 as flup takes it."""
    if isinstance(block, bytes):
        return block
    if isinstance(block, str):
        return block.encode("latin-1")
    if isinstance(block, (bytearray, memoryview)):
        return bytes(block)
    raise TypeError(f"a block of the body is a {type(block).__name__}, not bytes (PEP 3333)")


@cython.final
cdef class Gateway:
    """Runs a WSGI application for one request after another, from any number of threads.

    Args:
        application: The WSGI callable.
        environ: Entries that replace those of the web server, or None.
        multithread, multiprocess, run_once: For the environ keys of the same names.
        debug: Show tracebacks in the error page.
        tee_errors: Write wsgi.errors to sys.stderr as well.
        error_page: Called with the request while the exception is being handled, to send a
            page in the place of a response that has not begun; send_error_page by default.
        names_requests: Tell applications fastfcgi.request_id, which costs each request some.
        mount: Where the application is mounted, whatever the web server sends as SCRIPT_NAME; as
            checked_mount() returns it, None leaves it to the web server.
    """

    def __init__(
        self,
        application,
        *,
        environ=None,
        bint multithread=True,
        bint multiprocess=False,
        bint run_once=False,
        bint debug=False,
        bint tee_errors=False,
        error_page=None,
        bint names_requests=False,
        str mount=None,
    ):
        self.application = application
        self.mount = mount
        self.debug = debug
        self.environ = environ
        self.tee_errors = tee_errors
        self.error_page = error_page
        self.names_requests = names_requests
        self.constants = {
            "wsgi.version": (1, 0),
            "wsgi.multithread": multithread,
            "wsgi.multiprocess": multiprocess,
            "wsgi.run_once": run_once,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True,
            # Each request's own, set later: to replace a value costs less than to add one.
            "wsgi.input": None,
            "wsgi.errors": None,
        }
        self.protects = bool(self.constants.keys() & (environ or {}).keys())

    @property
    def base(self):
        """What params may hold already when they come here, as a dict: the same for every request,
        so that it need not be put into each."""
        return {} if self.protects else dict(self.constants)

    cpdef object handle(self, Exchange request):
        """Answer one request. Whatever the application does, this returns."""
        cdef ErrorStream errors = ErrorStream.__new__(ErrorStream)
        cdef Response response = None
        cdef dict environ
        cdef bint whole, inside
        errors.request = request
        if self.tee_errors:
            errors.tee = sys.stderr
        try:
            inside = self.mount is None or mount_path(request.params, self.mount)
            environ = self.environ_of(request, errors)
            response = new_response(request, is_head(environ))
            whole = self.run(environ, response) if inside else self.refuse_path(request, response)
            errors.send()
            if not whole:
                request.abandon()
        except RequestAborted:
            logger.info("aborted by the web server: %s", describe(request))
            request.abandon()
        except BaseException:  # SystemExit too: an application does not end the server
            self.failed(request, response, errors)

    cdef dict environ_of(self, Exchange request, ErrorStream errors):
        cdef dict environ = request.params
        complete_environ(environ, self.environ)
        if self.protects or not PyDict_Contains(environ, "wsgi.input_terminated"):
            environ.update(self.constants)
        PyDict_SetItem(environ, "wsgi.input", request.input_stream())
        PyDict_SetItem(environ, "wsgi.errors", errors)
        PyDict_SetItem(environ, "fastfcgi.aborted", request)
        if self.names_requests:
            PyDict_SetItem(environ, "fastfcgi.request_id", request.name_in_log())
        if request.role != ROLE_RESPONDER:
            environ.setdefault("FCGI_ROLE", constants.ROLE_NAMES[request.role])
            if request.role == ROLE_FILTER:
                environ["fastfcgi.data"] = request.data_stream()
        return environ

    cdef bint run(self, dict environ, Response response) except -1:
        """Call the application, send what it returns, close that; PEP 3333's order."""
        cdef object result = self.application(environ, response.start_response)
        cdef object close
        cdef bint whole = False
        if type(result) is list or type(result) is tuple:
            return send_result(result, response)
        close = getattr(result, "close", None)
        if close is None:
            return send_result(result, response)
        try:
            whole = send_result(result, response)
        finally:
            try:
                close()
            except Exception:
                # The response is out, or another exception tells more.
                logger.exception("close() of the response failed")
        return whole

    cdef bint refuse_path(self, Exchange request, Response response) except -1:
        """Send "404 Not Found": the path is not below the mount, so it is not the application's."""
        cdef int level = logging.DEBUG if self.told_of_mount else logging.WARNING
        self.told_of_mount = True
        logger.log(
            level,
            "404, the path is not below mount=%r: %s; is mount what the web server has the"
            " application at? (told once)",
            self.mount or "/",
            describe(request),
        )
        response.start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        response.send_only(b"There is no application at this path.\n")
        return response.finish(True)

    cdef int failed(self, Exchange request, Response response, ErrorStream errors) except -1:
        """An exception of the application: a page if nothing was sent, else a cut response."""
        if request.aborted:
            # It failed over a client that had gone: nobody is there to be told.
            logger.info("aborted by the web server: %s", describe(request), exc_info=True)
            request.abandon()
            return 0
        request.failed = True
        logger.exception("the application failed: %s", describe(request))
        try:
            errors.send()
            request.write_error(traceback.format_exc().encode("utf-8", "backslashreplace"))
            if response is not None and response.header_sent:
                request.abandon()
            elif self.error_page is not None:
                self.error_page(request)
            else:
                self.send_error_page(request)
        except RequestAborted:
            request.abandon()
        return 0

    cpdef object send_error_page(self, Exchange request):
        """Send "500 Internal Server Error"; with the traceback when debugging."""
        cdef Response response = new_response(request, is_head(request.params))
        text = "The application failed; its error log says why.\n"
        if self.debug:
            text = traceback.format_exc()
        response.start_response(
            "500 Internal Server Error", [("Content-Type", "text/plain; charset=utf-8")]
        )
        response.send_only(text.encode("utf-8", "backslashreplace"))


cdef Response new_response(Exchange request, bint is_head):
    cdef Response response = Response.__new__(Response)
    response.request = request
    response.is_head = response.no_body = is_head
    response.content_length = response.remaining = response.added_length = -1
    return response


cdef bint is_head(dict environ) except -1:
    cdef PyObject* method = PyDict_GetItemWithError(environ, "REQUEST_METHOD")
    return method != NULL and <object>method == "HEAD"


cdef bint send_result(object result, Response response) except -1:
    """Send what the application returned; returns whether the response is whole."""
    cdef bint known = isinstance(result, (list, tuple))
    if known and len(result) == 1:
        response.send_only(result[0])
    else:
        if type(result) is file_wrapper and not response.no_body:
            send_file(result, response)
        for block in result:
            response.send(block, False)
            if response.done():
                break
    return response.finish(known)


cdef int send_file(object result, Response response) except -1:
    """Send a file as far as the system can; the rest, usually none, is to be read."""
    limit = None if response.remaining < 0 else response.remaining
    for part in parts(result.filelike, limit):
        response.send_data(part, len(part), False)
        part = None  # or its descriptor would be kept until all is sent
    return 0
