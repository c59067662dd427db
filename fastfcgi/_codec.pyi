from typing import final

from typing_extensions import Buffer

from fastfcgi._pairs import decode_pairs, encode_pairs
from fastfcgi._params import ParamsDecoder
from fastfcgi._shapes import ValueCache

__all__ = [
    "Block",
    "ParamsDecoder",
    "ReceiveBuffer",
    "RecordReader",
    "ValueCache",
    "decode_begin_request",
    "decode_end_request",
    "decode_pairs",
    "encode_begin_request",
    "encode_end_request",
    "encode_header",
    "encode_pairs",
    "encode_record",
    "encode_stream",
]

@final
class Block:
    def __len__(self) -> int: ...
    @property
    def exports(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class ReceiveBuffer:
    def __init__(self, size: int = 65536) -> None: ...
    def writable(self) -> Block: ...

@final
class RecordReader:
    def __init__(self) -> None: ...
    @property
    def at_border(self) -> bool: ...
    def feed(
        self, data: Buffer, size: int = -1
    ) -> list[tuple[int, int, bytes | memoryview]]: ...

def encode_header(
    type: int, request_id: int, content_length: int, padding_length: int = 0
) -> bytes: ...
def encode_record(type: int, request_id: int, content: Buffer = b"") -> bytes: ...
def encode_stream(
    type: int, request_id: int, data: Buffer, max_content: int = 65528, min_padding: int = 0
) -> list[Buffer]: ...
def encode_begin_request(request_id: int, role: int, flags: int) -> bytes: ...
def decode_begin_request(content: Buffer) -> tuple[int, int]: ...
def encode_end_request(
    request_id: int, app_status: int, protocol_status: int
) -> bytes: ...
def decode_end_request(content: Buffer) -> tuple[int, int]: ...
