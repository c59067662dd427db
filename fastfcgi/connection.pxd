# cython: language_level=3
"""The C interface of a connection, for the other extensions. It may change with every version."""

from libc.stdint cimport uint8_t

from fastfcgi.endpoint cimport Endpoint


cdef class Connection(Endpoint):
    # While receive_data() runs: the events so far, the data, where it begins, a view of it.
    cdef list events
    cdef object data
    cdef const uint8_t* base
    cdef object view
    cdef list out
