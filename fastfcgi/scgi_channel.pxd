from fastfcgi.channel cimport Channel
from fastfcgi.scgi_connection cimport ScgiConnection


cdef class ScgiLink(ScgiConnection):
    cdef Channel channel


cdef class ScgiChannel(Channel):
    pass
