"""flup.server.scgi_fork: an SCGI server whose requests run in processes, one at a time each."""

import logging
from collections.abc import Mapping
from typing import Any

from fastfcgi.flup._version import attribute
from fastfcgi.flup.server import NoDefault
from fastfcgi.flup.server.common import Forking
from fastfcgi.flup.server.scgi_base import _ADDRESS, BaseSCGIServer
from fastfcgi.wsgi import WSGIApplication

__all__ = ["WSGIServer"]

__getattr__ = attribute


class WSGIServer(BaseSCGIServer, Forking):
    """BaseSCGIServer, to which all hosts may connect by default, in several processes; timeout,
    minSpare, maxSpare, maxChildren, maxRequests are those of fastfcgi.prefork.WSGIServer."""

    def __init__(
        self,
        application: WSGIApplication,
        scriptName: Any = NoDefault,
        environ: Mapping[str, Any] | None = None,
        bindAddress: "str | tuple[Any, ...] | None" = _ADDRESS,
        umask: int | None = None,
        allowedServers: Any = None,
        loggingLevel: int = logging.INFO,
        debug: bool = False,
        timeout: float | None = None,
        **options: Any,
    ) -> None:
        for name in ("multithreaded", "multiprocess"):
            options.pop(name, None)
        super().__init__(
            *(application, scriptName, environ, False, True, bindAddress, umask),
            *(allowedServers, loggingLevel, debug),
            timeout=timeout,
            **options,
        )
