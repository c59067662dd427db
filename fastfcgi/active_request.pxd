# cython: language_level=3
"""The C interface of an active request, for the other extensions. It may change with every
version."""

from fastfcgi._codec cimport MAX_TYPE
from fastfcgi._params cimport ParamsDecoder

# The states of states.py and what can be sent, in its order.
cdef enum:
    RECEIVING_PARAMS
    RECEIVING_STDIN
    RECEIVING_DATA
    RECEIVING_DONE

cdef enum:
    SENDING_OPEN
    SENDING_STDOUT_CLOSED
    SENDING_ENDED

cdef enum:
    SEND_STDOUT
    SEND_STDOUT_END
    SEND_STDERR
    SEND_END_REQUEST

# [role][state][type of the record][whether it is the empty one] -> state, -1 where it is an error.
cdef signed char RECEIVING_AFTER[4][4][MAX_TYPE + 1][2]
# [state][what is sent] -> state, -1 where it is an error.
cdef signed char SENDING_AFTER[3][4]


cdef class ActiveRequest:
    cdef readonly int request_id
    cdef readonly int role
    cdef readonly bint keep_conn
    cdef bint abort_seen
    cdef bint stderr_used
    cdef bint over_unread       # counted in the connection's over_unread
    cdef int receiving
    cdef int sending            # SENDING_ENDED: it is not active any more
    cdef Py_ssize_t unread      # bytes of STDIN and DATA reported and not yet acknowledged
    cdef ParamsDecoder decoder  # None when PARAMS are complete


cdef int refuse_received(ActiveRequest request, int stream) except -1
cdef int refuse_sending(ActiveRequest request, int what) except -1


cdef inline int receiving_after(ActiveRequest request, int stream, bint ended) except -1:
    """The state of a request's input after a record of a stream.

    Raises:
        RemoteProtocolError: It is not next.
    """
    cdef int after = RECEIVING_AFTER[request.role][request.receiving][stream][ended]
    return after if after >= 0 else refuse_received(request, stream)


cdef inline int sending_after(ActiveRequest request, int what) except -1:
    """The state of a request's answer after something is sent.

    Raises:
        LocalProtocolError: It may not be sent any more.
    """
    cdef int after = SENDING_AFTER[request.sending][what]
    return after if after >= 0 else refuse_sending(request, what)
