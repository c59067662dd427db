"""What a benchmark asks of a FastCGI server: named sets of params, whole requests, and a Report.

The requests are made by _load, which is not there on Windows.
"""

import importlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final
from urllib.parse import unquote

from fastfcgi import _codec, client
from fastfcgi.constants import KEEP_CONN, RESPONDER, STDIN
from fastfcgi.exceptions import ConfigurationError

PERCENTILES: Final = (50, 90, 99, 99.9)

# {path} is what was asked for; the rest of the request itself is put before these.
_MINIMAL = {
    "SERVER_NAME": "www.example.org",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
}
_FRONT_END = {
    "REQUEST_URI": "{target}",
    **_MINIMAL,
    "GATEWAY_INTERFACE": "CGI/1.1",
    "REQUEST_SCHEME": "http",
    "DOCUMENT_ROOT": "/srv/www",
    "REMOTE_ADDR": "192.0.2.1",
    "REMOTE_PORT": "49152",
    "SERVER_ADDR": "192.0.2.80",
    "REDIRECT_STATUS": "200",
}
_BROWSER = {
    "HTTP_HOST": "www.example.org",
    "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "HTTP_ACCEPT": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "HTTP_ACCEPT_LANGUAGE": "en-US,en;q=0.5",
    "HTTP_ACCEPT_ENCODING": "gzip, deflate, br, zstd",
    "HTTP_CONNECTION": "keep-alive",
}
_NGINX = {
    **_FRONT_END,
    "SERVER_SOFTWARE": "nginx/1.28.0",
    "DOCUMENT_URI": "{path}",
    "REMOTE_USER": "",
    "CONTENT_TYPE": "",
    "CONTENT_LENGTH": "",
    **_BROWSER,
    "HTTP_UPGRADE_INSECURE_REQUESTS": "1",
}
_LIGHTTPD = {
    **_FRONT_END,
    "SERVER_SOFTWARE": "lighttpd/1.4.79",
    "SCRIPT_FILENAME": "/srv/www/",
    "PATH_TRANSLATED": "/srv/www{path}",
    "CONTENT_LENGTH": "0",
    **_BROWSER,
}
# With the cookies of many trackers and the headers of some proxies: 8 KiB.
_LARGE = {
    **_NGINX,
    **{f"HTTP_X_PROXY_{number}": f"{number}:" + "0123456789abcdef" * 16 for number in range(9)},
    "HTTP_COOKIE": "; ".join(f"_cookie_{number}={'0a1b2c3d' * 40}" for number in range(15)),
}
PARAM_SETS: Final[Mapping[str, Mapping[str, str]]] = {
    "minimal": _MINIMAL,
    "nginx": _NGINX,
    "lighttpd": _LIGHTTPD,
    "large": _LARGE,
}


def params(
    name: str = "nginx", method: str = "GET", target: str = "/", body_length: int = 0
) -> dict[str, str]:
    """The params of a request, as the web server that the set is named for sends them.

    Args:
        name: One of PARAM_SETS.
        method: Such as GET.
        target: What a browser asks for: a path, percent-encoded, and perhaps a query.
        body_length: Bytes of the body.
    """
    path, _, query = target.partition("?")
    path = unquote(path, "latin-1")
    found = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
    }
    for key, value in PARAM_SETS[name].items():
        found[key] = value.format(target=target, path=path)
    if body_length:
        found["CONTENT_LENGTH"] = str(body_length)
        found["CONTENT_TYPE"] = "application/octet-stream"
    return found


def request_bytes(
    params: client.Params, body: bytes = b"", *, keep_conn: bool = True, role: int = RESPONDER
) -> bytes:
    """The records of one request, all of them; str of the params are encoded as latin-1."""
    return b"".join(
        [
            client.preamble(role, params, KEEP_CONN if keep_conn else 0),
            *_codec.encode_stream(STDIN, client.REQUEST_ID, body),
            _codec.encode_record(STDIN, client.REQUEST_ID),
        ]
    )


def generator() -> ModuleType:
    """The module _load; ConfigurationError on Windows, where there is none."""
    try:
        return importlib.import_module("fastfcgi._load")
    except ImportError:
        message = "bench is not available here: it needs a POSIX system"
        raise ConfigurationError(message) from None


@dataclass(frozen=True)
class Report:
    """What came of one lane.

    Attributes:
        request_bytes: The size of one request.
        seconds: From the first request to the end of the last one.
        requests: Those that were answered, and rightly; failed: the others.
        errors: Reason -> how many failed for it; examples: reason -> what it was at first.
        latency: "p50", "p90", "p99", "p99.9", "max" and "mean" of right answers, in seconds.
        connects: Connections made.
        client_cpu: Seconds of CPU that making the requests took; the client has one thread.
    """

    address: str
    connections: int
    keep_conn: bool
    request_bytes: int
    seconds: float
    requests: int
    failed: int
    errors: dict[str, int]
    examples: dict[str, str]
    requests_per_second: float
    bytes_received: int
    connects: int
    latency: dict[str, float]
    client_cpu: float


def measure(
    address: client.Address,
    request: bytes,
    connections: int,
    *,
    keep_conn: bool = True,
    expected: bytes | None = None,
    status: int = 0,
    **limits: Any,
) -> Report:
    """Make requests of one kind and report; limits are seconds, requests, timeout and progress.

    The arguments are those of _load.Lane and _load.run, and so is what is raised, but for:

    Raises:
        ConfigurationError: This is Windows.
    """
    _load = generator()
    lane = _load.Lane(request, connections, keep_conn, expected=expected, status=status)
    began = time.thread_time()
    (result,) = _load.run(address, [lane], **limits)
    spent = time.thread_time() - began
    latency = {f"p{q}": result.percentile(q) for q in PERCENTILES}
    return Report(
        address=str(address),
        connections=connections,
        keep_conn=keep_conn,
        request_bytes=len(request),
        seconds=result.seconds,
        requests=result.requests,
        failed=sum(result.errors.values()),
        errors=result.errors,
        examples=result.examples,
        requests_per_second=result.requests / result.seconds if result.seconds else 0.0,
        bytes_received=result.bytes_received,
        connects=result.connects,
        latency={**latency, "max": result.max, "mean": result.mean},
        client_cpu=spent,
    )
