"""flup.server.fcgi_fork: a FastCGI server whose requests run in processes, one at a time each."""

from fastfcgi import prefork
from fastfcgi.flup._version import attribute
from fastfcgi.flup.server.fcgi_base import BaseFCGIServer

__all__ = ["WSGIServer"]

__getattr__ = attribute


class WSGIServer(prefork.WSGIServer, BaseFCGIServer):
    """fastfcgi.prefork.WSGIServer: its arguments, flup's among them, and its methods."""
