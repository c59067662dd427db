"""FastCGI 1.0 records and name-value pairs in plain Python: the oracle of the codec tests.

The same names and meanings as fastfcgi._codec, written from the specification and for the
reader, not for speed. The section numbers are those of the FastCGI 1.0 specification.
"""

import struct
import sys
from collections.abc import Iterable, Iterator

from fastfcgi.constants import (
    BEGIN_REQUEST,
    DATA,
    END_REQUEST,
    HEADER_LEN,
    MAX_CONTENT_LENGTH,
    PARAMS,
    STDERR,
    STDIN,
    STDOUT,
    VERSION_1,
)
from fastfcgi.exceptions import LimitExceeded, RemoteProtocolError

STREAM_TYPES = frozenset({PARAMS, STDIN, STDOUT, STDERR, DATA})
HEADER = struct.Struct(">BBHHBx")  # version, type, request_id, content_length, padding_length
BEGIN_BODY = struct.Struct(">HB5x")  # role, flags (section 5.1)
END_BODY = struct.Struct(">IB3x")  # app_status, protocol_status (section 5.5)
# The most one record of a stream carries: the largest multiple of 8 (section 3.3).
LARGEST_PIECE = 65528


def octets(data) -> memoryview:
    """Look at any contiguous buffer as bytes."""
    view = memoryview(data)
    if not view.c_contiguous:
        raise BufferError("the buffer is not contiguous")
    return view.cast("B")


class RecordReader:
    """Cuts what was received into records (section 3.3)."""

    def __init__(self) -> None:
        self._offset = 0  # bytes since the start of the connection
        self._header = b""  # what is there of the next header
        self._content = b""  # what is there of a discrete record's content
        self._type = self._request_id = self._content_left = self._padding_left = 0
        self._failed = False

    @property
    def at_border(self) -> bool:
        return not (self._header or self._content_left or self._padding_left)

    def feed(self, data, size: int = -1) -> list[tuple[int, int, bytes | memoryview]]:
        view = octets(data)
        if not -1 <= size <= len(view):
            raise ValueError("size is not within the buffer")
        if self._failed:
            raise RemoteProtocolError("nothing can be read after an error")
        return list(self._records(view if size == -1 else view[:size]))

    def _records(self, view: memoryview) -> Iterator[tuple[int, int, bytes | memoryview]]:
        while view:
            # One octet of a header at a time, as much as there is of content or padding.
            part = view[: self._content_left or self._padding_left or 1]
            view = view[len(part) :]
            if self._content_left:
                yield from self._content_arrived(part)
            elif self._padding_left:
                self._padding_left -= len(part)
            else:
                yield from self._header_arrived(bytes(part))
            self._offset += len(part)

    def _header_arrived(self, octet: bytes) -> Iterator[tuple[int, int, bytes]]:
        self._header += octet
        if self._header[0] != VERSION_1:
            self._failed = True
            raise RemoteProtocolError("version is not 1 (section 3.3)", self._offset)
        if len(self._header) < HEADER_LEN:
            return
        _, self._type, self._request_id, self._content_left, self._padding_left = HEADER.unpack(
            self._header
        )
        self._header = b""
        if not self._content_left:
            yield self._type, self._request_id, b""

    def _content_arrived(self, piece: memoryview) -> Iterator[tuple[int, int, bytes | memoryview]]:
        self._content_left -= len(piece)
        if self._type in STREAM_TYPES and self._request_id != 0:
            yield self._type, self._request_id, piece
            return
        self._content += bytes(piece)
        if not self._content_left:
            yield self._type, self._request_id, self._content
            self._content = b""


def pair_lengths(data: bytes) -> tuple[int, int, int] | None:
    """Read the lengths in front of a pair (section 3.4).

    Returns:
        Octets taken by the lengths, name length, value length; None when they are cut.
    """
    position = 0
    lengths = []
    for _ in ("name", "value"):
        if position >= len(data):
            return None
        width = 4 if data[position] & 0x80 else 1
        if position + width > len(data):
            return None
        length = int.from_bytes(data[position : position + width], "big")
        lengths.append(length & 0x7FFFFFFF)  # the top bit says only that there are four bytes
        position += width
    return position, lengths[0], lengths[1]


def decode_pairs(data) -> list[tuple[bytes, bytes]]:
    rest = bytes(octets(data))
    pairs = []
    while rest:
        lengths = pair_lengths(rest)
        if lengths is None or sum(lengths) > len(rest):
            raise RemoteProtocolError("the name-value pairs end inside a pair (section 3.4)")
        start, name_length, _ = lengths
        value_start = start + name_length
        pairs.append((rest[start:value_start], rest[value_start : sum(lengths)]))
        rest = rest[sum(lengths) :]
    return pairs


class ParamsDecoder:
    """Takes the pieces of a PARAMS stream and gives the parameters as a dict of latin-1 str."""

    def __init__(
        self, max_bytes: int = 1048576, max_pairs: int = 1024, reserved: bytes = b""
    ) -> None:
        self._max_bytes = max_bytes
        self._max_pairs = max_pairs
        self._reserved = reserved
        self._stream = b""

    @property
    def received(self) -> int:
        return len(self._stream)

    def feed(self, data) -> None:
        self._stream += bytes(octets(data))
        if len(self._stream) > self._max_bytes:
            raise LimitExceeded("more bytes of parameters than the limit")
        end = pairs = 0  # of the whole pairs
        while lengths := pair_lengths(self._stream[end : end + 8]):
            end += sum(lengths)
            if end > self._max_bytes:
                raise LimitExceeded("a pair that cannot end within the limit")
            if end > len(self._stream):
                break
            pairs += 1
            if pairs > self._max_pairs:
                raise LimitExceeded("more pairs of parameters than the limit")

    def finish(self) -> dict[str, str]:
        params: dict[str, str] = {}
        for name, value in decode_pairs(self._stream):
            if self._reserved and name.startswith(self._reserved):
                continue
            key = sys.intern(name.decode("latin-1"))
            text = value.decode("latin-1")
            # A header field that came twice is one list (RFC 9110 section 5.3); Host is no list.
            if key in params and key.startswith("HTTP_") and key != "HTTP_HOST":
                text = params[key] + ("; " if key == "HTTP_COOKIE" else ", ") + text
            params[key] = text
        return params


def check_range(name: str, value: int, largest: int) -> None:
    if not 0 <= value <= largest:
        raise ValueError(f"{name} is not in 0..{largest}")


def encode_header(
    type: int, request_id: int, content_length: int, padding_length: int = 0
) -> bytes:
    check_range("type", type, 255)
    check_range("request_id", request_id, 65535)
    check_range("content_length", content_length, MAX_CONTENT_LENGTH)
    check_range("padding_length", padding_length, 255)
    return HEADER.pack(VERSION_1, type, request_id, content_length, padding_length)


def encode_record(type: int, request_id: int, content=b"") -> bytes:
    content = bytes(octets(content))
    padding = bytes(-len(content) % 8)
    return encode_header(type, request_id, len(content), len(padding)) + content + padding


def encode_stream(
    type: int, request_id: int, data, max_content: int = LARGEST_PIECE, min_padding: int = 0
) -> list:
    view = octets(data)
    check_range("max_content", max_content - 1, 65534)
    check_range("min_padding", min_padding, 8)
    buffers = []
    for start in range(0, len(view), max_content):
        piece = view[start : start + max_content]
        padding = -len(piece) % 8
        padding += 8 if padding < min_padding else 0
        header = encode_header(type, request_id, len(piece), padding)
        buffers += [header, data if len(piece) == len(view) else piece]
        buffers += [bytes(padding)] if padding else []
    return buffers


def encode_length(length: int) -> bytes:
    check_range("length", length, 0x7FFFFFFF)
    return bytes([length]) if length < 128 else struct.pack(">I", length | 0x80000000)


def encode_pairs(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(encode_length(len(n)) + encode_length(len(v)) + n + v for n, v in pairs)


def encode_begin_request(request_id: int, role: int, flags: int) -> bytes:
    check_range("role", role, 65535)
    check_range("flags", flags, 255)
    return encode_record(BEGIN_REQUEST, request_id, BEGIN_BODY.pack(role, flags))


def decode_begin_request(content) -> tuple[int, int]:
    content = bytes(octets(content))
    if len(content) != BEGIN_BODY.size:
        raise RemoteProtocolError("the content of BEGIN_REQUEST is not 8 bytes (section 5.1)")
    return BEGIN_BODY.unpack(content)


def encode_end_request(request_id: int, app_status: int, protocol_status: int) -> bytes:
    check_range("app_status", app_status, 0xFFFFFFFF)
    check_range("protocol_status", protocol_status, 255)
    return encode_record(END_REQUEST, request_id, END_BODY.pack(app_status, protocol_status))


def decode_end_request(content) -> tuple[int, int]:
    content = bytes(octets(content))
    if len(content) != END_BODY.size:
        raise RemoteProtocolError("the content of END_REQUEST is not 8 bytes (section 5.5)")
    return END_BODY.unpack(content)
