"""What the servers of this package do, beyond fastfcgi.WSGIServer, as flup did."""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from fastfcgi import prefork, server
from fastfcgi.service import Service
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


def _let_through(req: Any) -> NoReturn:
    """In the place of error(): the application's exception goes on to whoever called handler()."""
    error = sys.exc_info()[1]
    assert error is not None
    raise error


class FlupServer(server.WSGIServer):
    """fastfcgi.WSGIServer for applications and subclasses that were written for flup's."""

    def _sanitizeEnv(self, environ: dict[str, Any]) -> None:
        """Called with each request's environ before the application sees it. May be overridden;
        what it filled in under flup has been filled in already."""

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
        made_with: dict[str, Any] = {"application": _taking_bytes(self._with_own_environ())}
        if self._overrides("handler"):
            made_with["error"] = _let_through
        with self._having(**made_with):
            return super()._new_gateway(run_once)

    def _new_service(self) -> Service:
        with self._having(**self._own_handler()):
            return super()._new_service()

    def _run_cgi(self) -> None:
        with self._having(**self._own_handler()):
            super()._run_cgi()

    @contextlib.contextmanager
    def _having(self, **attributes: Any) -> Iterator[None]:
        """Have other attributes for a moment, in which something takes them from here."""
        before = {name: vars(self)[name] for name in attributes if name in vars(self)}
        vars(self).update(attributes)
        try:
            yield
        finally:
            for name in attributes:
                del vars(self)[name]
            vars(self).update(before)

    def _own_handler(self) -> dict[str, Callable[[Any], Any]]:
        """A handler() that somebody has overridden, as requests are to run it."""
        if not self._overrides("handler"):
            return {}
        return {"handler": functools.partial(self._answer, self.handler)}

    def _answer(self, handler: Callable[[Any], Any], req: Any) -> Any:
        """Run handler(), which may catch what the application raises, as under flup; what it lets
        through is answered by error()."""
        try:
            return handler(req)
        except BaseException:
            if not req.failed or req.abandoned:
                raise
            self.error(req)
            return None

    def _with_own_environ(self) -> WSGIApplication:
        """The application, behind a _sanitizeEnv() that somebody has overridden."""
        application, change = self.application, self._sanitizeEnv
        if getattr(change, "__func__", None) is FlupServer._sanitizeEnv:
            return application

        def run(environ: dict[str, Any], start_response: Any) -> Any:
            change(environ)
            return application(environ, start_response)

        return run


class Forking(prefork.WSGIServer):
    """fastfcgi.prefork.WSGIServer for subclasses that were written for flup's."""

    def run(self) -> bool:
        """As that of fastfcgi.prefork.WSGIServer."""
        if self._is_worker:
            self._child(ListeningSocket(self._setupSocket()), None)
            return self._hupReceived
        return super().run()

    def _child(self, sock: ListeningSocket, parent: Any) -> None:
        """Serve, in a process that has just been forked; returns when that is to end. May be
        overridden, to do more before or after it.

        Args:
            sock: What is listened on.
            parent: None; flup's was a socket to the master.
        """
        super().run()
