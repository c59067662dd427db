"""The requests that `fastfcgi doctor URL` makes through a web server, by http.client.

Each has a connection of its own. Certificates are not verified: it is not the web server that is
to be trusted here, and what is sent is not worth stealing.
"""

import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote_to_bytes, urlsplit

from fastfcgi import probe
from fastfcgi.exceptions import ConfigurationError, FastCGIError

Headers = Sequence[tuple[str, str]]

_MAX_ANSWER: Final = 1024 * 1024
_MAX_SECONDS: Final = 60.0  # for a body that trickles
_PORTS: Final = {"http": 80, "https": 443}
# What urllib's quote() leaves as it is: what may stand in a URL, and what is encoded already.
_SAFE: Final = "!\"#$%&'()*+,-./:;=@[\\]^_`{|}~"


class HTTPFailure(FastCGIError):
    """There is no answer in HTTP.

    Attributes:
        kind: "name", "refused", "timeout", "tls", "cut" or "other".
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass
class Answer:
    """An HTTP response.

    Attributes:
        body: Up to 1 MiB of it.
        arrivals: When each block of it came, in seconds of time.monotonic().
        local: The address that the request came from.
    """

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    arrivals: list[float] = field(default_factory=list)
    local: str = ""

    def header(self, name: str) -> str:
        """The first header of that name, "" without one."""
        return next((v for n, v in self.headers if n.lower() == name.lower()), "")

    @property
    def of_probe(self) -> bool:
        """Whether a probe has sent it."""
        return bool(self.header(probe.SIGN))


def split_url(text: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and path of a URL; the path percent-encoded, without its last slash.

    Raises:
        ConfigurationError: It is none that a web server could be asked for.
    """
    try:
        parts = urlsplit(text)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise ConfigurationError(f"not a URL: {text!r}: {error}") from error
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ConfigurationError(f"not a URL of http or https: {text!r}")
    if parts.query or parts.fragment or parts.username:
        raise ConfigurationError(f"only scheme, host, port and path of a URL are used: {text!r}")
    return parts.scheme, parts.hostname, port, quote(parts.path, safe=_SAFE).rstrip("/")


class Site:
    """An application as web clients see it.

    Args:
        url: Where it is; the path is where it is mounted.
        token: Of the probe that should answer there.
        timeout: Seconds that may pass without anything coming.
        mount: Where it is mounted, if that is not the whole path.

    Raises:
        ConfigurationError: The URL is none.
    """

    def __init__(self, url: str, token: str, timeout: float, mount: str | None = None) -> None:
        self.scheme, self.host, self.port, self.path = split_url(url)
        given = self.path if mount is None else quote(mount, safe=_SAFE).rstrip("/")
        if not f"{self.path}/".startswith(f"{given}/"):
            raise ConfigurationError(f"{url} is not below the mount {mount}")
        # As SCRIPT_NAME has it: decoded, each byte a character.
        self.mount = unquote_to_bytes(given).decode("latin-1")
        self.rest = unquote_to_bytes(self.path).decode("latin-1")[len(self.mount) :]
        self.token = token
        self.timeout = timeout

    @property
    def authority(self) -> str:
        """What is in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def url(self, target: str) -> str:
        """The whole URL of a path below the site's."""
        return f"{self.scheme}://{self.authority}{self.path}{target}"

    def open(self, verify: bool = False) -> http.client.HTTPConnection:
        """A connection, not yet made."""
        if self.scheme == "http":
            return http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
        context = ssl.create_default_context()
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection
        return connection(self.host, self.port, timeout=self.timeout, context=context)

    def ask(
        self,
        target: str,
        task: str = "report",
        *,
        method: str = "GET",
        body: "bytes | Iterator[bytes] | None" = None,
        headers: Headers = (),
        raw: bool = False,
    ) -> Answer:
        """Make a request and take the whole response in.

        Args:
            target: Below the site's path, percent-encoded; with raw, the whole of it.
            task: What the probe is to do.
            body: An iterator is sent chunked.

        Raises:
            HTTPFailure: There is no answer.
        """
        with self.talk() as connection:
            self.send(connection, target, task, method=method, body=body, headers=headers, raw=raw)
            return receive(connection)

    @contextlib.contextmanager
    def talk(self, verify: bool = False) -> Iterator[http.client.HTTPConnection]:
        """A connection, made. Inside, what goes wrong is an HTTPFailure."""
        connection = self.open(verify)
        with contextlib.closing(connection), _failures(self.host, self.port):
            connection.connect()
            yield connection

    def send(
        self,
        connection: http.client.HTTPConnection,
        target: str,
        task: str,
        *,
        method: str = "GET",
        body: "bytes | Iterator[bytes] | None" = None,
        headers: Headers = (),
        raw: bool = False,
        length: int | None = None,
    ) -> None:
        """Send a request.

        Args:
            length: Announce a body of so many bytes, and leave it to the caller to send it.
        """
        path = target if raw else self.path + target
        connection.putrequest(method, path or "/", skip_accept_encoding=True)
        for name, value in [(probe.TOKEN, self.token), (probe.ASK, task), *headers]:
            connection.putheader(name, value.encode())  # as browsers and curl do
        chunked = body is not None and not isinstance(body, bytes)
        if chunked:
            connection.putheader("Transfer-Encoding", "chunked")
        elif body is not None or length is not None:
            size = len(body) if isinstance(body, bytes) else length
            connection.putheader("Content-Length", str(size))
        # A web server that refuses a body may say so before it has come, and close.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.endheaders(body, encode_chunked=chunked)


def receive(connection: http.client.HTTPConnection) -> Answer:
    """The response to what was sent."""
    local = connection.sock.getsockname()[0]
    response = connection.getresponse()
    answer = Answer(response.status, response.reason, response.getheaders(), local=local)
    until = time.monotonic() + _MAX_SECONDS
    while len(answer.body) < _MAX_ANSWER and time.monotonic() < until:
        block = response.read1(65536)
        if not block:
            response.read()  # so that http.client knows that the connection is free
            break
        answer.body += block
        answer.arrivals.append(time.monotonic())
    return answer


@contextlib.contextmanager
def _failures(host: str, port: int) -> Iterator[None]:
    where = f"{host}:{port}"
    try:
        yield
    except socket.gaierror as error:
        raise HTTPFailure("name", f"{host} has no address: {error.strerror}") from error
    except ssl.SSLCertVerificationError as error:
        raise HTTPFailure("tls", error.verify_message) from error
    except ssl.SSLError as error:
        raise HTTPFailure("tls", f"no TLS with {where}: {error.reason or error}") from error
    except ConnectionRefusedError as error:
        raise HTTPFailure("refused", f"nobody listens at {where}") from error
    except TimeoutError as error:
        raise HTTPFailure("timeout", f"{where} says nothing in time") from error
    except (ConnectionError, http.client.IncompleteRead, http.client.RemoteDisconnected) as error:
        raise HTTPFailure("cut", f"{where} closes the connection without an answer") from error
    except http.client.HTTPException as error:
        raise HTTPFailure("other", f"{where} does not answer in HTTP: {error!r}") from error
    except OSError as error:
        raise HTTPFailure("other", f"{where}: {error.strerror or error}") from error
