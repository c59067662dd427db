# cython: language_level=3
"""The C interface of settings, for the other extensions. It may change with every version."""

cimport cython

from fastfcgi._shapes cimport ValueCache


@cython.final
cdef class ConnectionSettings:
    cdef readonly frozenset roles
    cdef readonly Py_ssize_t max_params_bytes
    cdef readonly Py_ssize_t max_params_pairs
    cdef readonly Py_ssize_t max_requests
    cdef readonly Py_ssize_t max_unread_stdin
    cdef readonly Py_ssize_t max_unread_total
    cdef readonly bytes reserved
    cdef dict values
    cdef dict start             # what params begin with, see ParamsDecoder
    cdef bint served[4]         # by role
    cdef ValueCache cache
