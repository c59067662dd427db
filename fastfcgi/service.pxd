from libc.stdint cimport int64_t

from fastfcgi.connection_settings cimport ConnectionSettings
from fastfcgi.engine cimport Engine
from fastfcgi.exchange cimport Exchange
from fastfcgi.wsgi cimport Gateway


cdef class Service:
    cdef readonly object server
    cdef readonly Engine engine
    cdef readonly Gateway gateway
    cdef object handler             # of a server that overrides it, else None
    cdef readonly object limits
    cdef ConnectionSettings settings
    cdef readonly set channels
    cdef public bint is_full        # the server waits for a connection to close
    cdef public bint stopping       # it serves no connection that is new
    cdef public bint retiring       # connections that are idle are another process's:
    cdef public object giver        # called with a descriptor; set once, before `retiring` is
    cdef public dict pages          # path -> what makes a page of params; or None
    cdef public object access_log   # or None
    cdef readonly bint scgi         # spoken in the place of FastCGI
    cdef readonly Py_ssize_t max_connections
    cdef Py_ssize_t max_body_memory
    cdef int64_t max_body_file
    cdef Py_ssize_t body_start
    cdef Py_ssize_t max_unsent
    cdef Py_ssize_t linger_bytes
    cdef double header_timeout
    cdef double body_timeout
    cdef double send_timeout
    cdef double keep_alive_timeout
    cdef double linger_timeout

    cdef object page_of(self, dict params)
    cdef bytes answer_itself(self, Exchange request, object page)
