# cython: language_level=3, freethreading_compatible=True, nonecheck=True
"""A request as the gateway sees it, whoever serves it and over whatever."""

import os

from fastfcgi import constants

cdef int ROLE_RESPONDER = constants.RESPONDER


cdef class Exchange:
    """A request as the gateway sees it; who serves requests says what it does.

    Args:
        params: The environ entries; the application's environ once it runs.
        role: RESPONDER, AUTHORIZER or FILTER.

    Attributes:
        aborted: The web server gave the request up or went away.
        failed: The application raised an exception.
    """

    def __init__(self, dict params=None, int role=ROLE_RESPONDER):
        self.params = {} if params is None else params
        self.role = role

    def __call__(self):
        """Whether it was aborted: it is what the environ has as fastfcgi.aborted, since one more
        object for that would cost each request."""
        return self.aborted

    @property
    def log_id(self):
        """What tells it from others in a log."""
        return self.name_in_log()

    cdef str name_in_log(self):
        return f"{os.getpid()}-1"  # as plain CGI, there is no other one

    cpdef object input_stream(self):
        """The body, for wsgi.input."""
        raise NotImplementedError

    cpdef object data_stream(self):
        """A filter's DATA (spec 6.4)."""
        raise NotImplementedError

    cpdef object write(self, bytes head, object data, bint last=False):
        """Send part of the response; raises RequestAborted.

        Args:
            head: The response header, before the first part of the body; or None.
            data: Part of the body: bytes; or a FilePart, which is let go of when it is sent; or
                None.
            last: Nothing follows.
        """
        raise NotImplementedError

    cpdef object write_error(self, bytes data):
        """Send to the web server's error log; best effort."""
        raise NotImplementedError

    cpdef object abandon(self):
        """The response cannot be completed and must not look complete."""
        raise NotImplementedError


def describe(Exchange request):
    """A request in a log line: its method and path, without control characters, and its id."""
    params = request.params
    # They are the application's environ by now, in which it may have put anything.
    path = f"{params.get('SCRIPT_NAME', '')}{params.get('PATH_INFO', '')}"
    # An odd method is shown as it is; a line break in it would make two lines of the log.
    method = str(params.get("REQUEST_METHOD", "?"))
    return f"{method if method.isalpha() else repr(method)} {path!r} [{request.log_id}]"
