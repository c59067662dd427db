"""What a connection reports of the bytes it was given."""

from typing import NamedTuple, TypeAlias


class RequestReceived(NamedTuple):
    """A request began and its PARAMS are complete.

    params are environ entries: latin-1 str, request header fields that came twice joined.
    """

    request_id: int
    role: int
    keep_conn: bool
    params: dict[str, str]


class InputReceived(NamedTuple):
    """Part of a request's STDIN or DATA (`stream` is that record type).

    data is a view into the bytes given to receive_data: whoever needs it longer copies it.
    """

    request_id: int
    stream: int
    data: bytes | memoryview


class InputEnded(NamedTuple):
    """The empty record that ends a request's STDIN or DATA."""

    request_id: int
    stream: int


class RequestAborted(NamedTuple):
    """ABORT_REQUEST for a request that was reported before (spec 5.4).

    What it still lacks is END_REQUEST, as soon as the application can be ended.
    """

    request_id: int


Event: TypeAlias = RequestReceived | InputReceived | InputEnded | RequestAborted
