"""flup.server.fcgi_single: a FastCGI server that runs one request at a time, in one process."""

from fastfcgi import single
from fastfcgi.flup._version import attribute
from fastfcgi.flup.server.fcgi_base import BaseFCGIServer

__all__ = ["WSGIServer"]

__getattr__ = attribute


class WSGIServer(single.WSGIServer, BaseFCGIServer):
    """fastfcgi.single.WSGIServer: its arguments, flup's among them, and its methods."""
