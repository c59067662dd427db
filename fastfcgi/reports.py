"""What the server tells of a request to whoever keeps logs: at its end, and when it takes long."""

from typing import Any, NamedTuple


class AccessRecord(NamedTuple):
    """A request that has been answered.

    Attributes:
        request_id: As `fastfcgi.request_id` of the environ.
        started: When its params were complete, on time.time()'s clock.
        seconds: From then until its response was handed over; its body and its wait for a thread
            are in that time.
        environ: The application's, which may have changed it.
        status: Such as "200 OK", "" if there was none.
        sent: Bytes of the body that were handed over.
        aborted: The web server gave it up.
        failed: The application raised an exception.
    """

    request_id: str
    started: float
    seconds: float
    environ: dict[str, Any]
    status: str
    sent: int
    aborted: bool
    failed: bool


class SlowRequest(NamedTuple):
    """A request that runs for longer than slow_timeout.

    Attributes:
        request_id: As `fastfcgi.request_id` of the environ.
        seconds: For how long it has run.
        text: Its method, path and query.
        thread: threading.get_ident() of its thread.
        stack: What that thread was doing, as traceback.format_stack() shows it.
    """

    request_id: str
    seconds: float
    text: str
    thread: int
    stack: str
