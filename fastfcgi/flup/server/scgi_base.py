"""flup.server.scgi_base: what the SCGI servers have in common."""

import logging
from collections.abc import Collection, Mapping
from typing import Any, Final

from fastfcgi.flup._version import attribute
from fastfcgi.flup.server import NoDefault
from fastfcgi.flup.server.common import FlupServer, ListeningSocket
from fastfcgi.sockets import is_allowed
from fastfcgi.wsgi import WSGIApplication

__all__ = ["BaseSCGIServer"]

__getattr__ = attribute

logger: Final = logging.getLogger("fastfcgi")

_ADDRESS: Final = ("localhost", 4000)


class _CannotListen(Exception):
    """The address cannot be had; it has been logged."""


class BaseSCGIServer(FlupServer):
    """fastfcgi.SCGIServer with the arguments of flup's.

    Args:
        application, environ, multithreaded, multiprocess, bindAddress, umask, debug: As those of
            fastfcgi.WSGIServer.
        scriptName: Where the application is mounted, as mount of fastfcgi.WSGIServer; without
            it, or None, SCRIPT_NAME and PATH_INFO stay as the web server sends them.
        allowedServers: Addresses of the hosts that may connect by TCP; None for all. By
            default 127.0.0.1.
        loggingLevel: Taken for flup's sake; the logger is "fastfcgi".
        **options: Those of fastfcgi.WSGIServer.
    """

    def __init__(
        self,
        application: WSGIApplication,
        scriptName: Any = NoDefault,
        environ: Mapping[str, Any] | None = None,
        multithreaded: bool = True,
        multiprocess: bool = False,
        bindAddress: "str | tuple[Any, ...] | None" = _ADDRESS,
        umask: int | None = None,
        allowedServers: Any = NoDefault,
        loggingLevel: int = logging.INFO,
        debug: bool = False,
        **options: Any,
    ) -> None:
        if scriptName is not NoDefault and scriptName is not None:
            options["mount"] = scriptName.rstrip("/")
        names: dict[str, Any] = {"multithreaded": multithreaded, "multiprocess": multiprocess}
        super().__init__(
            application,
            environ=environ,
            bindAddress=bindAddress,
            umask=umask,
            debug=debug,
            protocol="scgi",
            **names,
            **options,
        )
        self.scriptName = scriptName
        self._allowedServers: Collection[str] | None = (
            ["127.0.0.1"] if allowedServers is NoDefault else allowedServers
        )
        self.logger = logger

    def run(self) -> bool:
        """As that of fastfcgi.WSGIServer; False at once, and a line in the log, when the system
        refuses the address."""
        try:
            return super().run()
        except _CannotListen:
            return False

    def _setupSocket(self) -> ListeningSocket:
        try:
            return super()._setupSocket()
        except OSError as error:
            logger.error("cannot listen: %s", error)
            raise _CannotListen from error

    def _isClientAllowed(self, addr: Any) -> bool:
        """Whether a peer may connect; by a unix socket, whoever may open that."""
        allowed = self._allowedServers
        return is_allowed(addr, None if allowed is None else frozenset(allowed))
