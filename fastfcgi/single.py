"""flup.server.fcgi_single: a server that runs one request at a time, in its only process."""

import inspect
from collections.abc import Collection, Mapping
from typing import Any, Final

from fastfcgi import constants, server
from fastfcgi.limits import LIMIT_NAMES
from fastfcgi.wsgi import WSGIApplication

_KNOWN: Final = LIMIT_NAMES | set(inspect.signature(server.WSGIServer).parameters)


class WSGIServer(server.WSGIServer):
    """Serves a WSGI application, one request at a time.

    Args:
        application, environ, bindAddress, umask, multiplexed, debug, roles, forceCGI: As those of
            fastfcgi.WSGIServer.
        **options: The same; what it does not know is left alone, as by flup.
    """

    def __init__(
        self,
        application: WSGIApplication,
        environ: Mapping[str, Any] | None = None,
        bindAddress: "str | tuple[Any, ...] | None" = None,
        umask: int | None = None,
        multiplexed: bool = False,
        debug: bool = False,
        roles: Collection[int] = (constants.RESPONDER,),
        forceCGI: bool = False,
        **options: Any,
    ) -> None:
        known = {name: value for name, value in options.items() if name in _KNOWN}
        for name in ("multithreaded", "multiprocess", "threads"):
            known.pop(name, None)
        super().__init__(
            *(application, environ, False, False, bindAddress, umask, multiplexed, debug, roles),
            forceCGI=forceCGI,
            **known,
        )
