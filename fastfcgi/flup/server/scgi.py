"""flup.server.scgi: an SCGI server whose requests run in threads."""

import logging
from collections.abc import Mapping
from typing import Any

from fastfcgi.flup._version import attribute
from fastfcgi.flup.server import NoDefault
from fastfcgi.flup.server.scgi_base import _ADDRESS, BaseSCGIServer
from fastfcgi.flup.server.threadedserver import ThreadedServer
from fastfcgi.wsgi import WSGIApplication

__all__ = ["WSGIServer"]

__getattr__ = attribute


class WSGIServer(BaseSCGIServer, ThreadedServer):  # type: ignore[misc]  # run() has no argument
    """BaseSCGIServer, to which all hosts may connect by default; flup's minSpare, maxSpare and
    maxThreads are among its options."""

    def __init__(
        self,
        application: WSGIApplication,
        scriptName: Any = NoDefault,
        environ: Mapping[str, Any] | None = None,
        multithreaded: bool = True,
        multiprocess: bool = False,
        bindAddress: "str | tuple[Any, ...] | None" = _ADDRESS,
        umask: int | None = None,
        allowedServers: Any = None,
        loggingLevel: int = logging.INFO,
        debug: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            *(application, scriptName, environ, multithreaded, multiprocess, bindAddress, umask),
            *(allowedServers, loggingLevel, debug),
            **options,
        )
