"""flup.server.fcgi_base: what the FastCGI servers have in common, and the numbers of FastCGI."""

from typing import Any

from fastfcgi import request
from fastfcgi.cgi import CGIRequest as CGIRequest
from fastfcgi.flup._version import attribute
from fastfcgi.flup.server import blocking
from fastfcgi.flup.server.blocking import Connection as Connection
from fastfcgi.flup.server.common import FlupServer

# What they import of it: Record, the numbers, struct. The star below gives __all__ no name more:
# flup's is this one, and `from flup.server.fcgi_base import *` is to hide no name of theirs.
from fastfcgi.flup.server.record import *  # noqa: F403
from fastfcgi.flup.server.record import _debug as _debug

__all__ = ["BaseFCGIServer"]

__getattr__ = attribute


class _AllRequests(type):
    """What isinstance() asks: requests are of two classes here, by who accepts connections."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, (request.Request, blocking.Request))


class Request(metaclass=_AllRequests):
    """The class of all requests, to isinstance(). Programs put methods of their own into flup's,
    which they may do here, too: it has no effect."""

    def _end(self, appStatus: int = 0, protocolStatus: int = 0) -> None:
        """flup's end of a request."""


class BaseFCGIServer(FlupServer):
    """What every FastCGI server of this package is: fastfcgi.WSGIServer, with its arguments.

    It serves by its own run(). Classes that bring a loop along instead accept connections from
    what _setupSocket() gives, and call run() of
    `self._connectionClass(socket, address, self)` for each.
    """

    _connectionClass = Connection
