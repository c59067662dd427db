"""What the servers of this package do, beyond fastfcgi.WSGIServer, as flup did."""

from typing import Any

from fastfcgi import server
from fastfcgi.sockets import Listener
from fastfcgi.wsgi import Gateway, WSGIApplication


class ListeningSocket(list[Listener]):
    """What _setupSocket() gives: a server's listeners, and the methods of the first one's socket,
    for whoever accepts from it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self[0].sock, name)


def _taking_bytes(application: WSGIApplication) -> WSGIApplication:
    """The application, which may give start_response bytes: flup on Python 3 takes them, PEP 3333
    does not."""

    def text(value: Any) -> Any:
        return value.decode("latin-1") if isinstance(value, bytes) else value

    def run(environ: dict[str, Any], start_response: Any) -> Any:
        def start(status: Any, headers: Any, exc_info: Any = None) -> Any:
            if isinstance(status, bytes) or any(isinstance(x, bytes) for h in headers for x in h):
                status, headers = text(status), [(text(name), text(v)) for name, v in headers]
            return start_response(status, headers, exc_info)

        return application(environ, start)

    return run


class FlupServer(server.WSGIServer):
    """fastfcgi.WSGIServer for applications and subclasses that were written for flup's."""

    def _setupSocket(self) -> ListeningSocket:
        """Open what is to be listened on. Started as plain CGI, it answers that request and
        raises SystemExit(0)."""
        listeners = super()._setupSocket()
        if listeners is None:
            self._run_cgi()
        # For a loop of somebody's own; run() makes another one.
        self._gateway = self._new_gateway(run_once=False)
        return ListeningSocket(listeners)

    def _new_gateway(self, run_once: bool) -> Gateway:
        application = self.application
        self.application = _taking_bytes(application)
        try:
            return super()._new_gateway(run_once)
        finally:
            self.application = application
