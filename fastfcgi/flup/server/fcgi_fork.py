"""flup.server.fcgi_fork: a FastCGI server whose requests run in processes, one at a time each."""

from fastfcgi.flup._version import attribute
from fastfcgi.flup.server.common import Forking
from fastfcgi.flup.server.fcgi_base import BaseFCGIServer

__all__ = ["WSGIServer"]

__getattr__ = attribute


class WSGIServer(Forking, BaseFCGIServer):
    """fastfcgi.prefork.WSGIServer: its arguments, flup's among them, and its methods."""
