"""The exceptions of fastfcgi.

FastCGIError
├── ProtocolError
│   ├── LocalProtocolError     the caller asked for what the protocol does not allow
│   └── RemoteProtocolError    the peer sent what the protocol does not allow
│       └── LimitExceeded      the peer sent more than a named limit takes
├── ConfigurationError         an option that cannot be served; one line for a person
└── RequestAborted             the web server gave the request up (also an OSError)
"""


class FastCGIError(Exception):
    """Base of everything that fastfcgi raises on its own account."""


class ProtocolError(FastCGIError):
    """A rule of FastCGI 1.0 was broken."""


class LocalProtocolError(ProtocolError):
    """The caller broke a rule, such as sending on a stream that was closed."""


class RemoteProtocolError(ProtocolError):
    """The peer broke a rule; its connection cannot be used any further.

    Args:
        message: What was wrong, with the section of the specification.
        offset: Where in the stream it was seen, in bytes, when that is known.
    """

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message if offset is None else f"{message} (at byte {offset})")
        self.offset = offset


class LimitExceeded(RemoteProtocolError):
    """The peer sent more than one of the named limits takes in."""


class ConfigurationError(FastCGIError):
    """An option or an environment that cannot be served."""


class RequestAborted(FastCGIError, ConnectionError):
    """The web server aborted the request or went away.

    Raised by reads of the body and by write(); as a ConnectionError it is what
    applications expect of a client that hung up.
    """
