"""flup.server.fcgi: a FastCGI server whose requests run in threads."""

from fastfcgi.flup._version import attribute
from fastfcgi.flup.server.fcgi_base import BaseFCGIServer
from fastfcgi.flup.server.threadedserver import ThreadedServer

__all__ = ["WSGIServer"]

__getattr__ = attribute


class WSGIServer(BaseFCGIServer, ThreadedServer):  # type: ignore[misc]  # run() has no argument
    """fastfcgi.WSGIServer: its arguments, flup's among them, and its methods."""
