"""flup.server.singleserver: what others import of it."""

from fastfcgi.flup._version import attribute
from fastfcgi.flup.server.threadedserver import setCloseOnExec

__all__ = ["setCloseOnExec"]

__getattr__ = attribute
