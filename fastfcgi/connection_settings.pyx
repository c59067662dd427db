# cython: language_level=3, freethreading_compatible=True
"""What is the same for all connections of a server."""

cimport cython

from fastfcgi._params cimport start_of
from fastfcgi._shapes cimport ValueCache

from fastfcgi import constants

cdef enum:
    MIB = 1024 * 1024

# Every limit with the reason for its default. They bound what one peer can make us hold.
DEFAULT_MAX_PARAMS_BYTES = 1 * MIB  # web servers take 8 to 72 KiB of request headers
DEFAULT_MAX_PARAMS_PAIRS = 1024  # 25 are usual; Apache stops at 100 request headers
DEFAULT_MAX_REQUESTS = 128  # HAProxy multiplexes 32 when told to, 1 by default
DEFAULT_MAX_UNREAD_STDIN = 1 * MIB  # what arrives while an application does not read
DEFAULT_MAX_UNREAD_TOTAL = 16 * MIB  # the same over all requests, and PARAMS under way


@cython.final
cdef class ConnectionSettings:
    """What is the same for all connections of a server; made once.

    Args:
        roles: The roles served; a request in another one is answered with UNKNOWN_ROLE.
        max_params_bytes: Bytes of PARAMS per request.
        max_params_pairs: Name-value pairs per request.
        max_requests: Requests active at once; one more is answered with OVERLOADED, or with
            CANT_MPX_CONN when it is 1.
        max_unread_stdin: Bytes of STDIN and DATA per request that were reported and not yet
            acknowledged, before `paused` turns true.
        max_unread_total: The same for all requests together, with the PARAMS under way.
        reserved: Params whose names begin with this are left out.
        values: What GET_VALUES is answered with: name -> value, both str.
        base: What params begin with, any object by its name; all these names are reserved.
    """

    def __cinit__(
        self,
        *,
        roles=(constants.RESPONDER,),
        Py_ssize_t max_params_bytes=DEFAULT_MAX_PARAMS_BYTES,
        Py_ssize_t max_params_pairs=DEFAULT_MAX_PARAMS_PAIRS,
        Py_ssize_t max_requests=DEFAULT_MAX_REQUESTS,
        Py_ssize_t max_unread_stdin=DEFAULT_MAX_UNREAD_STDIN,
        Py_ssize_t max_unread_total=DEFAULT_MAX_UNREAD_TOTAL,
        bytes reserved not None=b"",
        values=None,
        base=None,
    ):
        unknown = set(roles) - set(constants.ROLE_NAMES)
        if unknown:
            raise ValueError(f"no roles of FastCGI 1.0: {sorted(unknown)}")
        self.roles = frozenset(roles)
        for role in range(4):
            self.served[role] = role in self.roles
        prefix = reserved.decode("latin-1")
        if base and not (prefix and all(name.startswith(prefix) for name in base)):
            raise ValueError("a name in base is not reserved: a web server could send it, too")
        self.max_params_bytes = max_params_bytes
        self.max_params_pairs = max_params_pairs
        self.max_requests = max_requests
        self.max_unread_stdin = max_unread_stdin
        self.max_unread_total = max_unread_total
        self.reserved = reserved
        self.values = dict(values or {})
        self.start = start_of(dict(base or {}))
        self.cache = ValueCache()
