"""One FastCGI record over a socket that blocks, and the numbers of FastCGI by flup's names, for
programs that read and write their own."""

import struct
from typing import Any, Final

from fastfcgi import constants
from fastfcgi._codec import encode_pairs

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
FCGI_BeginRequestBody_LEN: Final = struct.calcsize(FCGI_BeginRequestBody)
FCGI_EndRequestBody_LEN: Final = struct.calcsize(FCGI_EndRequestBody)
FCGI_UnknownTypeBody_LEN: Final = struct.calcsize(FCGI_UnknownTypeBody)

_HEADER: Final = struct.Struct(FCGI_Header)
_LONG: Final = struct.Struct("!L")

DEBUG = 0  # programs set it; nothing here looks at it


def _debug(level: int, msg: str) -> None:
    """flup's, for programs that call it; it told nothing without DEBUG."""


def decode_pair(s: bytes, pos: int = 0) -> tuple[int, tuple[bytes, bytes]]:
    """A name-value pair (section 3.4), and where the next one begins.

    Raises:
        IndexError, struct.error: It is cut within its lengths.
    """
    lengths = []
    for _ in range(2):
        length = s[pos]
        if length & 0x80:
            length = _LONG.unpack_from(s, pos)[0] & 0x7FFFFFFF
            pos += 3
        pos += 1
        lengths.append(length)
    middle = pos + lengths[0]
    end = middle + lengths[1]
    return end, (s[pos:middle], s[middle:end])


def encode_pair(name: bytes, value: bytes) -> bytes:
    """The same as bytes."""
    return encode_pairs([(name, value)])


class Record:
    """A record (FastCGI 1.0, section 3.3).

    Args:
        type: A record type.
        requestId: 0 for a management record.

    Attributes:
        version, type, requestId, contentLength, paddingLength: The fields of its header.
        contentData: The content, bytes; who sets it sets contentLength, too.
    """

    def __init__(
        self,
        type: int = constants.UNKNOWN_TYPE,
        requestId: int = constants.NULL_REQUEST_ID,
    ) -> None:
        self.version = constants.VERSION_1
        self.type = type
        self.requestId = requestId
        self.contentLength = 0
        self.paddingLength = 0
        self.contentData = b""

    @staticmethod
    def _recvall(sock: Any, length: int) -> tuple[bytes, int]:
        """So many bytes of a socket, fewer at its end, and how many they are."""
        received = b""
        while len(received) < length:
            block = sock.recv(length - len(received))
            if not block:
                break
            received += block
        return received, len(received)

    @staticmethod
    def _sendall(sock: Any, data: bytes) -> None:
        sock.sendall(data)

    def _received(self, sock: Any, length: int) -> bytes:
        data, received = self._recvall(sock, length)
        if received < length:
            raise EOFError("the connection ended within a record")
        return data

    def read(self, sock: Any) -> None:
        """Receive a record.

        Raises:
            EOFError: The connection ended before it was there, or broke.
        """
        try:
            fields = _HEADER.unpack(self._received(sock, constants.HEADER_LEN))
            (self.version, self.type, self.requestId) = fields[:3]
            (self.contentLength, self.paddingLength) = fields[3:]
            self.contentData = self._received(sock, self.contentLength)
            self._received(sock, self.paddingLength)
        except OSError as error:
            raise EOFError(f"the connection broke: {error}") from error

    def write(self, sock: Any) -> None:
        """Send it, padded to a multiple of 8 bytes as section 3.3 recommends."""
        self.paddingLength = -self.contentLength % 8
        numbers = (self.version, self.type, self.requestId, self.contentLength, self.paddingLength)
        self._sendall(sock, _HEADER.pack(*numbers) + self.contentData + bytes(self.paddingLength))
