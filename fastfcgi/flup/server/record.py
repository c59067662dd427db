"""One FastCGI record over a socket that blocks, for programs that read and write their own."""

import struct
from typing import Any, Final

from fastfcgi import constants

_HEADER: Final = struct.Struct("!BBHHBx")


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
