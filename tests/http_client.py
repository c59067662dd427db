"""An HTTP client for the end-to-end tests: one connection, whole or streamed responses."""

import contextlib
import hashlib
import http.client
import json
import ssl
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from processes import DEADLINE

HOST = "127.0.0.1"

Body = bytes | Iterable[bytes] | None
Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Site:
    """The application at one port of a web server, below a prefix ("" at the root)."""

    name: str
    port: int
    prefix: str
    tls: bool = False


@dataclass(frozen=True)
class Answer:
    """An HTTP response."""

    status: int
    reason: str
    headers: Headers
    body: bytes

    def all(self, name: str) -> list[str]:
        """The values of all headers of that name, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def json(self) -> Any:
        """The body, which must be that of a 200, as JSON."""
        assert self.status == 200, (self.status, self.body[:1000])
        return json.loads(self.body)


def _connection(site: Site) -> http.client.HTTPConnection:
    if not site.tls:
        return http.client.HTTPConnection(HOST, site.port, timeout=2 * DEADLINE)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the tests' servers sign their certificates themselves
    return http.client.HTTPSConnection(HOST, site.port, timeout=2 * DEADLINE, context=context)


class Client:
    """One client connection to a site, kept from request to request.

    Targets are paths below the site's prefix as they stand in the request line, percent-encoded.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.connection = _connection(site)

    def start(
        self, target: str, method: str = "GET", body: Body = None, headers: Headers = ()
    ) -> http.client.HTTPResponse:
        """Send a request (an iterable body chunked) and return the response, its body unread.

        A server that refuses a body may close before all of it is sent: its answer is what counts.
        """
        chunked = body is not None and not isinstance(body, bytes)
        path = self.site.prefix + target
        if not path.startswith("/"):  # the bare mount at the root, perhaps with a query
            path = f"/{path}"
        self.connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers:
            self.connection.putheader(name, value)
        if chunked:
            self.connection.putheader("Transfer-Encoding", "chunked")
        elif body is not None:
            self.connection.putheader("Content-Length", str(len(body)))  # type: ignore[arg-type]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.endheaders(body, encode_chunked=chunked)
        return self.connection.getresponse()

    def fetch(
        self, target: str, method: str = "GET", body: Body = None, headers: Headers = ()
    ) -> Answer:
        """Send a request and return the whole response."""
        response = self.start(target, method, body, headers)
        content = response.read()
        return Answer(response.status, response.reason, response.getheaders(), content)

    def download(self, target: str) -> tuple[int, str]:
        """Length and sha256 of what a GET brings."""
        response = self.start(target)
        assert response.status == 200, response.read()
        digest, length = hashlib.sha256(), 0
        while block := response.read(65536):
            digest.update(block)
            length += len(block)
        return length, digest.hexdigest()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception: object) -> None:
        self.connection.close()


def fetch(
    site: Site, target: str, method: str = "GET", body: Body = None, headers: Headers = ()
) -> Answer:
    """One request on a connection of its own."""
    with Client(site) as client:
        return client.fetch(target, method, body, headers)


def blocks(data: bytes, size: int = 8000) -> Iterator[bytes]:
    """The data cut into blocks, for a chunked request."""
    for start in range(0, len(data), size):
        yield data[start : start + size]
