"""What one request may receive and may send next, as two independent tables.

An application may answer before its input ends, so what was received says nothing about what may
be sent. A key that is missing is the error.
"""

import enum
from typing import Final

from fastfcgi import constants


class Receiving(enum.Enum):
    """Which stream of a request is arriving."""

    PARAMS = "PARAMS"
    STDIN = "STDIN"
    DATA = "DATA"
    DONE = "DONE"


class Sending(enum.Enum):
    """What of the answer is still open."""

    OPEN = "OPEN"
    STDOUT_CLOSED = "STDOUT_CLOSED"
    ENDED = "ENDED"


class Send(enum.Enum):
    """What can be sent for a request."""

    STDOUT = "STDOUT"
    STDOUT_END = "STDOUT_END"
    STDERR = "STDERR"
    END_REQUEST = "END_REQUEST"


# (state, record type, whether it is the empty record) -> state
_ReceivingTable = dict[tuple[Receiving, int, bool], Receiving]

_RESPONDER: Final[_ReceivingTable] = {
    (Receiving.PARAMS, constants.PARAMS, False): Receiving.PARAMS,
    (Receiving.PARAMS, constants.PARAMS, True): Receiving.STDIN,
    (Receiving.STDIN, constants.STDIN, False): Receiving.STDIN,
    (Receiving.STDIN, constants.STDIN, True): Receiving.DONE,
}

_FILTER: Final[_ReceivingTable] = {
    **_RESPONDER,
    (Receiving.STDIN, constants.STDIN, True): Receiving.DATA,
    (Receiving.DATA, constants.DATA, False): Receiving.DATA,
    (Receiving.DATA, constants.DATA, True): Receiving.DONE,
}

# An authorizer needs no STDIN (spec 6.3), but web servers send it an empty one.
RECEIVING: Final[dict[int, _ReceivingTable]] = {
    constants.RESPONDER: _RESPONDER,
    constants.AUTHORIZER: _RESPONDER,
    constants.FILTER: _FILTER,
}

SENDING: Final[dict[tuple[Sending, Send], Sending]] = {
    (Sending.OPEN, Send.STDOUT): Sending.OPEN,
    (Sending.OPEN, Send.STDERR): Sending.OPEN,
    (Sending.OPEN, Send.STDOUT_END): Sending.STDOUT_CLOSED,
    (Sending.STDOUT_CLOSED, Send.STDERR): Sending.STDOUT_CLOSED,
    (Sending.OPEN, Send.END_REQUEST): Sending.ENDED,
    (Sending.STDOUT_CLOSED, Send.END_REQUEST): Sending.ENDED,
}
