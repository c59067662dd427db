# cython: language_level=3, freethreading_compatible=True
"""The state of one active request: what of it may come in and go out next, by the tables of
states.py, which are here in C."""

from libc.string cimport memset

from fastfcgi import constants, states
from fastfcgi.exceptions import LocalProtocolError, RemoteProtocolError

# In the order of the numbers in active_request.pxd.
cdef list RECEIVING = [states.Receiving[name] for name in ("PARAMS", "STDIN", "DATA", "DONE")]
cdef list SENDING = [states.Sending[name] for name in ("OPEN", "STDOUT_CLOSED", "ENDED")]
cdef list SEND = [
    states.Send[name] for name in ("STDOUT", "STDOUT_END", "STDERR", "END_REQUEST")
]


cdef int fill_tables() except -1:
    """Once at import; the tables are only read after it."""
    cdef int role, type, ended, state, what
    memset(RECEIVING_AFTER, 0xFF, sizeof(RECEIVING_AFTER))  # -1
    memset(SENDING_AFTER, 0xFF, sizeof(SENDING_AFTER))
    for role, table in states.RECEIVING.items():
        for (before, type, ended), after in table.items():
            state = RECEIVING.index(before)
            RECEIVING_AFTER[role][state][type][ended] = RECEIVING.index(after)
    for (before, sent), after in states.SENDING.items():
        state, what = SENDING.index(before), SEND.index(sent)
        SENDING_AFTER[state][what] = SENDING.index(after)
    return 0


fill_tables()


cdef class ActiveRequest:
    """The state of one active request_id.

    Attributes:
        request_id: Of the records that it comes in and is answered with.
        role: RESPONDER, AUTHORIZER or FILTER.
        keep_conn: The web server wants the connection kept after it.
    """


cdef int refuse_received(ActiveRequest request, int stream) except -1:
    """The record of a stream that is not next."""
    name = constants.RECORD_NAMES.get(stream, stream)
    raise RemoteProtocolError(
        f"{name} for request_id {request.request_id} while its"
        f" {RECEIVING[request.receiving].value} is next (spec 6)"
    )


cdef int refuse_sending(ActiveRequest request, int what) except -1:
    """What may not be sent any more."""
    raise LocalProtocolError(
        f"{SEND[what].value} for request_id {request.request_id} whose answer is"
        f" {SENDING[request.sending].value}"
    )
