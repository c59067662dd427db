"""fastfcgi: the FastCGI server for Python.

from fastfcgi import WSGIServer

WSGIServer(application, bind="unix:/run/app.sock").run()
"""

from fastfcgi.exceptions import (
    ConfigurationError,
    FastCGIError,
    LimitExceeded,
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
    RequestAborted,
)
from fastfcgi.limits import Limits
from fastfcgi.server import WSGIServer

__all__ = [
    "ConfigurationError",
    "FastCGIError",
    "LimitExceeded",
    "Limits",
    "LocalProtocolError",
    "ProtocolError",
    "RemoteProtocolError",
    "RequestAborted",
    "WSGIServer",
    "__version__",
]


def __getattr__(name: str) -> str:
    # Asked for seldom, and reading the metadata costs more than all the imports above.
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("fastfcgi")
        except PackageNotFoundError:  # a source tree that was never installed
            return "0+unknown"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
