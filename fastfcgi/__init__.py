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
from fastfcgi.pages import package_version
from fastfcgi.server import SCGIServer, WSGIServer

__all__ = [
    "ConfigurationError",
    "FastCGIError",
    "LimitExceeded",
    "Limits",
    "LocalProtocolError",
    "ProtocolError",
    "RemoteProtocolError",
    "RequestAborted",
    "SCGIServer",
    "WSGIServer",
    "__version__",
]


def __getattr__(name: str) -> str:
    # Asked for seldom, and finding it costs more than all the imports above.
    if name == "__version__":
        return package_version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
