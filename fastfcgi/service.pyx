# cython: language_level=3, freethreading_compatible=True
"""What the channels of one run share."""

import logging

from fastfcgi.exchange import describe

logger = logging.getLogger("fastfcgi")

cdef bytes BUSY_ANSWER = (
    b"Status: 503 Service Unavailable\r\nContent-Type: text/plain\r\nRetry-After: 1\r\n\r\n"
    b"The server is busy.\n"
)

cdef double NEVER = float("inf")


cdef class Service:
    """What the channels of one run share: whom to serve with, and the limits as C numbers.

    Args:
        server: Told of closed channels; its handler() runs requests if `overridden`.
        engine: Watches the channels, runs their requests.
        gateway: Runs the requests if not.
        limits: fastfcgi.limits.Limits.
        settings: Of each connection.
        max_connections: How many there may be.
        scgi: SCGI is spoken on them, not FastCGI.
    """

    def __init__(
        self, server, Engine engine, Gateway gateway, limits, settings, max_connections,
        overridden=False, bint scgi=False,
    ):
        self.server = server
        self.engine = engine
        self.gateway = gateway
        self.handler = server.handler if overridden else None
        self.limits = limits
        self.settings = settings
        self.scgi = scgi
        self.channels = set()
        self.max_connections = max_connections
        self.max_body_memory = limits.max_body_memory
        self.max_body_file = limits.max_body_file
        self.body_start = limits.body_start
        self.max_unsent = limits.max_unsent
        self.linger_bytes = limits.linger_bytes
        self.header_timeout = limits.header_timeout
        self.body_timeout = limits.body_timeout
        self.send_timeout = limits.send_timeout
        self.keep_alive_timeout = limits.keep_alive_timeout
        self.linger_timeout = limits.linger_timeout

    cdef object page_of(self, dict params):
        """What answers a request with these params in the place of the application, or None."""
        cdef object script_name = params.get("SCRIPT_NAME"), path = params.get("PATH_INFO")
        if script_name:
            path = script_name + path if path else script_name
        elif not path:
            path = params.get("DOCUMENT_URI")  # all that nginx's scgi_params have
        return self.pages.get(path)

    cdef bytes answer_itself(self, Exchange request, object page):
        """What a request is told that no application sees: its page; or else that there is no room
        for it, in the words that every web server knows."""
        cdef bytes answer = BUSY_ANSWER
        if page is not None:
            try:
                answer = page(request.params)
            except Exception:
                logger.exception("no page for %s", describe(request))
                answer = b"Status: 500 Internal Server Error\r\nContent-Type: text/plain\r\n\r\n"
        if request.params.get("REQUEST_METHOD") == "HEAD":
            answer = b"".join(answer.partition(b"\r\n\r\n")[:2])
        return answer

    def on_deadline(self, double now):
        """Some connection's time may have come; returns when the next one's will."""
        cdef double due = NEVER
        for channel in list(self.channels):
            try:
                due = min(due, <double>channel.on_tick(now))
            except Exception:
                logger.exception("internal error, the connection is closed")
                channel.on_failure()
        return due
