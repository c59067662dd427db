"""flup.server.paste_factory: the servers as `use = egg:fastfcgi#fcgi_thread` of Paste Deploy.

Each takes the options of its section as str. That of flup is umask: a decimal number there, too.
"""

from collections.abc import Mapping
from typing import Any, Final

from fastfcgi.exceptions import ConfigurationError
from fastfcgi.flup._version import attribute
from fastfcgi.flup.server import NoDefault, fcgi, fcgi_fork, scgi, scgi_fork
from fastfcgi.wsgi import WSGIApplication

__getattr__ = attribute

_TRUE: Final = ("true", "yes", "on", "y", "t", "1")
_FALSE: Final = ("false", "no", "off", "n", "f", "0")


def _number(name: str, value: Any) -> int:
    try:
        return int(value)
    except ValueError:
        raise ConfigurationError(f"{name} is a number, not {value!r}") from None


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, str):
        return bool(value)
    word = value.strip().lower()
    if word not in (*_TRUE, *_FALSE):
        raise ConfigurationError(f"{name} is true or false, not {value!r}")
    return word in _TRUE


def _debug(value: Any, global_conf: Mapping[str, Any] | None) -> bool:
    """A section's own, else that of [DEFAULT]."""
    if value is NoDefault:
        value = (global_conf or {}).get("debug", False)
    return _switch("debug", value)


def _numbers(**given: Any) -> dict[str, int]:
    """Those that were given."""
    return {name: _number(name, value) for name, value in given.items() if value is not None}


def _fcgi(
    server: Any,
    global_conf: Mapping[str, Any] | None,
    *options: Any,
    **numbers: Any,
) -> None:
    """Run a FastCGI server."""
    app, host, port, socket, umask, multiplexed, debug = options
    if socket and (host is not None or port is not None):
        raise ConfigurationError("either socket or host and port")
    if bool(host) != (port is not None):
        raise ConfigurationError("host and port belong together")
    address: Any = socket or ((host, _number("port", port)) if host else None)
    server(
        app,
        bindAddress=address,
        umask=None if umask is None else _number("umask", umask),
        multiplexed=_switch("multiplexed", multiplexed),
        debug=_debug(debug, global_conf),
        **_numbers(**numbers),
    ).run()


def _scgi(
    server: Any, global_conf: Mapping[str, Any] | None, *options: Any, **numbers: Any
) -> None:
    """Run an SCGI server."""
    app, script_name, host, port, allowed, debug = options
    server(
        app,
        scriptName=script_name,
        bindAddress=(host, _number("port", port)),
        allowedServers=allowed.split() if isinstance(allowed, str) else allowed,
        debug=_debug(debug, global_conf),
        **_numbers(**numbers),
    ).run()


def run_fcgi_thread(
    wsgi_app: WSGIApplication,
    global_conf: Mapping[str, Any] | None,
    host: str | None = None,
    port: Any = None,
    socket: str | None = None,
    umask: Any = None,
    multiplexed: Any = False,
    debug: Any = NoDefault,
    minSpare: Any = None,
    maxSpare: Any = None,
    maxThreads: Any = None,
) -> None:
    """egg:fastfcgi#fcgi_thread, #fcgi: serve until a signal.

    Args:
        wsgi_app, global_conf: Of Paste Deploy.
        host, port: Listen on TCP; or
        socket: the path of a unix socket; or, without any, descriptor 0.
        umask: While the socket is bound, a decimal number: 18 is 022.
        multiplexed, debug: true or false; debug is by default that of [DEFAULT].
        minSpare, maxSpare, maxThreads: Those of flup.server.fcgi.

    Raises:
        ConfigurationError: Options that do not fit.
    """
    options = (wsgi_app, host, port, socket, umask, multiplexed, debug)
    numbers = {"minSpare": minSpare, "maxSpare": maxSpare, "maxThreads": maxThreads}
    _fcgi(fcgi.WSGIServer, global_conf, *options, **numbers)


def run_fcgi_fork(
    wsgi_app: WSGIApplication,
    global_conf: Mapping[str, Any] | None,
    host: str | None = None,
    port: Any = None,
    socket: str | None = None,
    umask: Any = None,
    multiplexed: Any = False,
    debug: Any = NoDefault,
    minSpare: Any = None,
    maxSpare: Any = None,
    maxChildren: Any = None,
    maxRequests: Any = None,
) -> None:
    """egg:fastfcgi#fcgi_fork; as run_fcgi_thread, with the numbers of flup.server.fcgi_fork."""
    options = (wsgi_app, host, port, socket, umask, multiplexed, debug)
    numbers = {"minSpare": minSpare, "maxSpare": maxSpare}
    numbers |= {"maxChildren": maxChildren, "maxRequests": maxRequests}
    _fcgi(fcgi_fork.WSGIServer, global_conf, *options, **numbers)


def run_scgi_thread(
    wsgi_app: WSGIApplication,
    global_conf: Mapping[str, Any] | None,
    scriptName: Any = NoDefault,
    host: str = "localhost",
    port: Any = "4000",
    allowedServers: Any = "127.0.0.1",
    debug: Any = NoDefault,
    minSpare: Any = None,
    maxSpare: Any = None,
    maxThreads: Any = None,
) -> None:
    """egg:fastfcgi#scgi_thread, #scgi: serve until a signal.

    Args:
        wsgi_app, global_conf: Of Paste Deploy.
        scriptName: Where the application is mounted.
        host, port: Where it listens.
        allowedServers: Addresses of the hosts that may connect, with spaces between them.
        debug: true or false; by default that of [DEFAULT].
        minSpare, maxSpare, maxThreads: Those of flup.server.scgi.

    Raises:
        ConfigurationError: Options that do not fit.
    """
    options = (wsgi_app, scriptName, host, port, allowedServers, debug)
    numbers = {"minSpare": minSpare, "maxSpare": maxSpare, "maxThreads": maxThreads}
    _scgi(scgi.WSGIServer, global_conf, *options, **numbers)


def run_scgi_fork(
    wsgi_app: WSGIApplication,
    global_conf: Mapping[str, Any] | None,
    scriptName: Any = NoDefault,
    host: str = "localhost",
    port: Any = "4000",
    allowedServers: Any = "127.0.0.1",
    debug: Any = NoDefault,
    minSpare: Any = None,
    maxSpare: Any = None,
    maxChildren: Any = None,
    maxRequests: Any = None,
) -> None:
    """egg:fastfcgi#scgi_fork; as run_scgi_thread, with the numbers of flup.server.scgi_fork."""
    options = (wsgi_app, scriptName, host, port, allowedServers, debug)
    numbers = {"minSpare": minSpare, "maxSpare": maxSpare}
    numbers |= {"maxChildren": maxChildren, "maxRequests": maxRequests}
    _scgi(scgi_fork.WSGIServer, global_conf, *options, **numbers)
