"""FastCGI 1.0 numbers and names (specification section 8), and nothing else."""

from typing import Final

VERSION_1: Final = 1
LISTENSOCK_FILENO: Final = 0

# Record layout (section 3.3).
HEADER_LEN: Final = 8
MAX_CONTENT_LENGTH: Final = 65535
NULL_REQUEST_ID: Final = 0

# Record types.
BEGIN_REQUEST: Final = 1
ABORT_REQUEST: Final = 2
END_REQUEST: Final = 3
PARAMS: Final = 4
STDIN: Final = 5
STDOUT: Final = 6
STDERR: Final = 7
DATA: Final = 8
GET_VALUES: Final = 9
GET_VALUES_RESULT: Final = 10
UNKNOWN_TYPE: Final = 11
MAX_TYPE: Final = UNKNOWN_TYPE

# Flags of BEGIN_REQUEST (section 5.1).
KEEP_CONN: Final = 1

# Roles (section 6).
RESPONDER: Final = 1
AUTHORIZER: Final = 2
FILTER: Final = 3

# protocol_status of END_REQUEST (section 5.5).
REQUEST_COMPLETE: Final = 0
CANT_MPX_CONN: Final = 1
OVERLOADED: Final = 2
UNKNOWN_ROLE: Final = 3

# Names of GET_VALUES (section 4.1).
MAX_CONNS: Final = "FCGI_MAX_CONNS"
MAX_REQS: Final = "FCGI_MAX_REQS"
MPXS_CONNS: Final = "FCGI_MPXS_CONNS"

RECORD_NAMES: Final = {
    BEGIN_REQUEST: "BEGIN_REQUEST",
    ABORT_REQUEST: "ABORT_REQUEST",
    END_REQUEST: "END_REQUEST",
    PARAMS: "PARAMS",
    STDIN: "STDIN",
    STDOUT: "STDOUT",
    STDERR: "STDERR",
    DATA: "DATA",
    GET_VALUES: "GET_VALUES",
    GET_VALUES_RESULT: "GET_VALUES_RESULT",
    UNKNOWN_TYPE: "UNKNOWN_TYPE",
}

ROLE_NAMES: Final = {RESPONDER: "RESPONDER", AUTHORIZER: "AUTHORIZER", FILTER: "FILTER"}
