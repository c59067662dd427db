"""flup.server.cgi: one request as plain CGI."""

import sys
from typing import Any, Final

from fastfcgi.cgi import standard_request
from fastfcgi.flup._version import attribute
from fastfcgi.wsgi import Gateway, WSGIApplication

__all__ = ["WSGIServer"]

__getattr__ = attribute

_NO_THREADS: Final[dict[str, Any]] = {"multithread": False, "multiprocess": True, "run_once": True}


class WSGIServer:
    """Runs an application for the request that this process was started for.

    Args:
        application: The WSGI callable.
    """

    def __init__(self, application: WSGIApplication) -> None:
        self.application = application

    def run(self) -> None:
        """Answer the request.

        Raises:
            SystemExit: The answer could not be completed; the exit status is then 1.
        """
        request = standard_request()
        Gateway(self.application, **_NO_THREADS).handle(request)
        if request.abandoned:
            sys.exit(1)
