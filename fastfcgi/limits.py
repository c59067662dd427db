"""Every limit and timeout of the server in one place: name, default, reason."""

from dataclasses import dataclass, fields

from fastfcgi.body import DEFAULT_MAX_BODY_FILE, DEFAULT_MAX_BODY_MEMORY
from fastfcgi.connection_settings import (
    DEFAULT_MAX_PARAMS_BYTES,
    DEFAULT_MAX_PARAMS_PAIRS,
    DEFAULT_MAX_REQUESTS,
    DEFAULT_MAX_UNREAD_STDIN,
    DEFAULT_MAX_UNREAD_TOTAL,
)
from fastfcgi.exceptions import ConfigurationError

MIB = 1024 * 1024

# Descriptors left to the application when max_connections is fitted to what may be open.
_SPARE_DESCRIPTORS = 64

# No queue, no patience: these two can be done without.
_MAY_BE_ZERO = ("queue_size", "graceful_timeout")


@dataclass(frozen=True)
class Limits:
    """What one server takes in and how long it waits. Sizes are bytes, times are seconds.

    Raises:
        ConfigurationError: A limit that is not a positive number.
    """

    # Of one request. Beyond: the connection is closed with a log line.
    max_params_bytes: int = DEFAULT_MAX_PARAMS_BYTES
    max_params_pairs: int = DEFAULT_MAX_PARAMS_PAIRS
    # Of one connection. Beyond: END_REQUEST with OVERLOADED (CANT_MPX_CONN when it is 1).
    max_requests_per_connection: int = DEFAULT_MAX_REQUESTS
    # Of one request's body that its application has not read. Beyond: nothing more is received,
    # or, on a connection that is multiplexed, the body goes to its file.
    max_unread_stdin: int = DEFAULT_MAX_UNREAD_STDIN
    # Of one connection, all requests together. Beyond: nothing more is received.
    max_unread_total: int = DEFAULT_MAX_UNREAD_TOTAL
    # The application starts when this much of the body is there, or all of it.
    body_start: int = 1 * MIB
    # Of a body that is taken in before the first output: what goes beyond is in a file.
    max_body_memory: int = DEFAULT_MAX_BODY_MEMORY
    # Of that file. Beyond: reading the body so far fails with OSError EFBIG.
    max_body_file: int = DEFAULT_MAX_BODY_FILE
    # Of a response that the web server has not taken. Beyond: the application's write waits.
    max_unsent: int = 1 * MIB
    # Connections, idle ones included. Beyond: the longest idle one is closed, else they wait in
    # the kernel's backlog. Lowered to what the process may open.
    max_connections: int = 1024
    # Requests that wait because every thread is busy. Beyond: "Status: 503".
    queue_size: int = 512
    # From the first byte of a request to the end of its PARAMS, and from accept to that byte: a
    # web server sends all of it at once. Beyond: the connection is closed.
    header_timeout: float = 30.0
    # Between two parts of a body. Web servers wait 60 s for their clients. Beyond: aborted.
    body_timeout: float = 90.0
    # Without any progress in sending. Beyond: aborted.
    send_timeout: float = 90.0
    # Of an idle kept connection; longer than web servers keep theirs (nginx 60 s), so that it
    # is they who close. Beyond: closed.
    keep_alive_timeout: float = 600.0
    # After the last answer, for what the peer still sends (spec 3.5). Beyond: closed.
    linger_timeout: float = 5.0
    linger_bytes: int = 16 * MIB
    # From TERM to the end, for requests that are running. Beyond: they are left behind.
    graceful_timeout: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            # Times may be fractions; what is counted may not.
            whole = not field.name.endswith("_timeout")
            if not isinstance(value, int if whole else (int, float)) or isinstance(value, bool):
                kind = "whole number" if whole else "number"
                raise ConfigurationError(f"{field.name} is a {kind}, not {value!r}")
            least = 0 if field.name in _MAY_BE_ZERO else 1e-3
            if not value >= least:  # so that NaN is refused, too
                raise ConfigurationError(f"{field.name}={value!r} is too small")


LIMIT_NAMES = frozenset(field.name for field in fields(Limits))


def fitting_connections(wanted: int) -> int:
    """As many connections as the process may have descriptors for."""
    try:
        import resource  # posix only
    except ImportError:
        return wanted
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, soft - _SPARE_DESCRIPTORS))
