"""flup.server.fcgi_base: what the FastCGI servers have in common, and the numbers of FastCGI."""

import struct
from typing import Final

from fastfcgi import constants
from fastfcgi.cgi import CGIRequest
from fastfcgi.flup._version import attribute
from fastfcgi.flup.server.blocking import Connection
from fastfcgi.flup.server.common import FlupServer
from fastfcgi.flup.server.record import Record
from fastfcgi.request import Request

__all__ = ["BaseFCGIServer", "CGIRequest", "Connection", "Record", "Request"]

__getattr__ = attribute

FCGI_LISTENSOCK_FILENO: Final = constants.LISTENSOCK_FILENO
FCGI_HEADER_LEN: Final = constants.HEADER_LEN
FCGI_VERSION_1: Final = constants.VERSION_1
FCGI_BEGIN_REQUEST: Final = constants.BEGIN_REQUEST
FCGI_ABORT_REQUEST: Final = constants.ABORT_REQUEST
FCGI_END_REQUEST: Final = constants.END_REQUEST
FCGI_PARAMS: Final = constants.PARAMS
FCGI_STDIN: Final = constants.STDIN
FCGI_STDOUT: Final = constants.STDOUT
FCGI_STDERR: Final = constants.STDERR
FCGI_DATA: Final = constants.DATA
FCGI_GET_VALUES: Final = constants.GET_VALUES
FCGI_GET_VALUES_RESULT: Final = constants.GET_VALUES_RESULT
FCGI_UNKNOWN_TYPE: Final = constants.UNKNOWN_TYPE
FCGI_MAXTYPE: Final = constants.MAX_TYPE
FCGI_NULL_REQUEST_ID: Final = constants.NULL_REQUEST_ID
FCGI_KEEP_CONN: Final = constants.KEEP_CONN
FCGI_RESPONDER: Final = constants.RESPONDER
FCGI_AUTHORIZER: Final = constants.AUTHORIZER
FCGI_FILTER: Final = constants.FILTER
FCGI_REQUEST_COMPLETE: Final = constants.REQUEST_COMPLETE
FCGI_CANT_MPX_CONN: Final = constants.CANT_MPX_CONN
FCGI_OVERLOADED: Final = constants.OVERLOADED
FCGI_UNKNOWN_ROLE: Final = constants.UNKNOWN_ROLE
FCGI_MAX_CONNS: Final = constants.MAX_CONNS
FCGI_MAX_REQS: Final = constants.MAX_REQS
FCGI_MPXS_CONNS: Final = constants.MPXS_CONNS

# The layouts of section 8, for the module struct.
FCGI_Header: Final = "!BBHHBx"
FCGI_BeginRequestBody: Final = "!HB5x"
FCGI_EndRequestBody: Final = "!LB3x"
FCGI_UnknownTypeBody: Final = "!B7x"
FCGI_EndRequestBody_LEN: Final = struct.calcsize(FCGI_EndRequestBody)
FCGI_UnknownTypeBody_LEN: Final = struct.calcsize(FCGI_UnknownTypeBody)


class BaseFCGIServer(FlupServer):
    """What every FastCGI server of this package is: fastfcgi.WSGIServer, with its arguments.

    It serves by its own run(). Classes that bring a loop along instead accept connections from
    what _setupSocket() gives, and call run() of
    `self._connectionClass(socket, address, self)` for each.
    """

    _connectionClass = Connection
