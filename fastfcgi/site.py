"""What `fastfcgi config` is told, checked, and what all its configurations are made of.

A value that would end a line, a string or a comment of a configuration must never get into one:
everything that is not printable is refused here, for all languages, and each language escapes or
refuses the rest (Quoting).
"""

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from fastfcgi.config import SettingError
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.sockets import parse_address

DEFAULT_ADDRESS: Final = "unix:/run/app/app.sock"
DEFAULT_ROOT: Final = "/var/www/html"
DEFAULT_SCRIPT: Final = "/srv/app/app.fcgi"
DEFAULT_USER: Final = "www-data"

# What is left of sun_path in the structure sockaddr_un of Linux.
_SOCKET_PATH: Final = 107

_HOST = r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?"
# What is neither percent-encoded by clients nor special in any of the languages.
_SEGMENT = r"[A-Za-z0-9._~+@,:-]+"


class SiteError(SettingError):
    """A value that cannot be written, or that the web server cannot honour: exit status 2."""


@dataclass(frozen=True)
class Address:
    """Where the application answers: a unix socket, or host and port."""

    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def host_port(self) -> str:
        """As URLs have it: an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else self.host_port


@dataclass(frozen=True)
class Site:
    """A web server's place for one application.

    Attributes:
        address: Where the application answers.
        mount: Its path without a slash at the end; "" is the whole site.
        listen: The web server's host and port; no host means all addresses, of IPv4 and IPv6.
        host: The name of the site; "" is any.
        static: URL path (no slash at its end) and folder of files that the web server sends.
        root: The document root.
        tls: Files of the certificate and of its key; None without TLS.
        protocol: "fastcgi" or "scgi".
        script: The front-end script, where somebody starts it.
        app: MODULE:APP, where `fastfcgi serve` is started instead of a script; "" otherwise.
        env: Names and values of the started application's environment.
        user: User and group of whoever is started as root.
        state_dir: Folder for everything that the web server writes; "" is Debian's places.
        stream: Whether bodies are passed on as they come.
        keep_alive: Whether connections to the application are kept for the next request.
        multiplex: Whether requests share them at the same time.
    """

    address: Address
    mount: str
    listen: tuple[str, int]
    host: str
    static: tuple[tuple[str, str], ...]
    root: str
    tls: tuple[str, str] | None
    protocol: str
    script: str
    app: str
    env: tuple[tuple[str, str], ...]
    user: tuple[str, str]
    state_dir: str
    stream: bool
    keep_alive: bool
    multiplex: bool

    @property
    def path(self) -> str:
        """The mount point as URLs have it."""
        return self.mount or "/"

    @property
    def listen_text(self) -> str:
        """HOST:PORT, the host in brackets if it is an IPv6 address, or :PORT."""
        host, port = self.listen
        return Address(host=host, port=port).host_port

    def state(self, name: str, otherwise: str) -> str:
        """A file that the web server writes: by its name in state_dir, or Debian's place."""
        return f"{self.state_dir}/{name}" if self.state_dir else otherwise

    @property
    def log_comment(self) -> str:
        """Whether the web server's log is where to look for what the application tells."""
        if self.protocol == "fastcgi":
            return "# wsgi.errors and tracebacks arrive here"
        return "# not wsgi.errors and tracebacks: with SCGI they are in the application's own log"

    def application(self, mount: str = "") -> list[str]:
        """Comments: how the application is started so that the web server finds it.

        Args:
            mount: What it has to be told of its place, because the web server does not.
        """
        words = ["fastfcgi", "serve", "--bind", shlex.quote(str(self.address))]
        if self.protocol != "fastcgi":
            words += ["--protocol", self.protocol]
        if mount:
            words += ["--mount", mount]
        lines = [f"# The application: {' '.join([*words, 'MODULE:APP'])}"]
        if self.address.path:
            user, group = self.user
            lines.append(
                f"# {user} has to be allowed to write to its socket:"
                f" --socket-mode 660 --socket-group {group}"
            )
        return lines


class Quoting:
    """How a language writes any text between quotes.

    Args:
        language: What to call it in errors.
        never: Characters that it cannot hold there, or would replace.
        escapes: Character -> what stands for it.
        quote: What stands before and after.
        bare: Leave quotes out where the text has letters, digits and /._-:@ only.
    """

    def __init__(
        self,
        language: str,
        never: str = "",
        escapes: Mapping[str, str] | None = None,
        quote: str = '"',
        bare: bool = False,
    ) -> None:
        self._language = language
        self._never = never
        self._escapes = {ord(char): text for char, text in (escapes or {}).items()}
        self._quote = quote
        self._bare = bare

    def __call__(self, text: str) -> str:
        """The text in quotes; SiteError if that is not possible."""
        if self._bare and re.fullmatch(r"[/\w][/\w.:@-]*", text, re.ASCII):
            return text
        for char in self._never:
            if char in text:
                shown = "a space" if char == " " else char
                raise SiteError(f"{self._language} cannot take {shown} in {text}")
        return f"{self._quote}{text.translate(self._escapes)}{self._quote}"


def indent(lines: Iterable[str], by: str = "    ") -> list[str]:
    """The same lines further right; empty ones stay empty."""
    return [by + line if line else line for line in lines]


def pattern(path: str) -> str:
    """A path of mount_path() as a regular expression."""
    return re.sub(r"[.+]", r"\\\g<0>", path)


# ---- values of options --------------------------------------------------------------------------


def text(value: str) -> str:
    """Any text of one line."""
    if not value or not value.isprintable():
        raise ConfigurationError(f"not a text of one line: {value!r}")
    return value


def absolute_path(value: str) -> str:
    """The path of a file or folder."""
    if not text(value).startswith("/"):
        raise ConfigurationError(f"not an absolute path: {value!r}")
    return value.rstrip("/") or "/"


def mount_path(value: str) -> str:
    """A path such as /wsgi or /a/b; "" for /."""
    if value == "/":
        return ""
    if not re.fullmatch(f"(/{_SEGMENT})+", value) or {".", ".."} & set(value.split("/")):
        raise ConfigurationError(
            f"not a path such as /wsgi: {value!r}; it has no slash at its end, and only letters,"
            " digits and . _ ~ + @ , : - in it"
        )
    return value


def static_files(value: str) -> tuple[str, str]:
    """/URL=DIR."""
    url, equals, folder = value.partition("=")
    if not equals:
        raise ConfigurationError(f"not /URL=DIR: {value!r}")
    path = mount_path(url if url == "/" else url.removesuffix("/"))
    if not path:
        raise ConfigurationError(f"static files cannot be the whole site: {value!r}")
    return path, absolute_path(folder)


def backend(value: str) -> Address:
    """Where the application answers, as a web server can be told."""
    kind, *found = _parsed(text(value), "unix:/path or HOST:PORT")
    if kind == "unix":
        path = str(found[0])
        if path.startswith("\0"):
            raise ConfigurationError(f"web servers know no abstract sockets: {value!r}")
        if len(path.encode()) > _SOCKET_PATH:
            raise ConfigurationError(f"longer than the path of a socket can be: {value!r}")
        return Address(path=absolute_path(path))
    if kind != "tcp":
        raise ConfigurationError(f"not unix:/path or HOST:PORT: {value!r}")
    host, port = _host_port(found[0])
    if not host or not port:
        raise ConfigurationError(f"a web server needs a host and a port to connect to: {value!r}")
    return Address(host=host, port=port)


def listen_address(value: str) -> tuple[str, int]:
    """HOST:PORT, :PORT or PORT."""
    port_alone = value.isascii() and value.isdigit()
    kind, *found = _parsed(f":{value}" if port_alone else text(value), "HOST:PORT, :PORT or PORT")
    if kind != "tcp":
        raise ConfigurationError(f"not HOST:PORT, :PORT or PORT: {value!r}")
    host, port = _host_port(found[0])
    if not port:
        raise ConfigurationError(f"no port to listen at: {value!r}")
    return host, port


def _parsed(value: str, known: str) -> tuple[object, ...]:
    """What parse_address() makes of it; an error names only what is known here."""
    try:
        return parse_address(value)
    except ConfigurationError:
        raise ConfigurationError(f"not {known}: {value!r}") from None


def _host_port(found: object) -> tuple[str, int]:
    assert isinstance(found, tuple)
    host, port = found
    if host and not re.fullmatch(rf"{_HOST}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*", host):
        raise ConfigurationError(f"not a host: {host!r}")
    return host, port


def host_name(value: str) -> str:
    """The name of a site."""
    if not re.fullmatch(_HOST, value):
        raise ConfigurationError(f"not a host name: {value!r}")
    return value


def user_and_group(value: str) -> tuple[str, str]:
    """USER or USER:GROUP; the group has the user's name by default."""
    found = re.fullmatch(r"([A-Za-z0-9_][\w.-]*)(?::([A-Za-z0-9_][\w.-]*))?", value, re.ASCII)
    if found is None:
        raise ConfigurationError(f"not USER or USER:GROUP: {value!r}")
    return found[1], found[2] or found[1]


def env_pair(value: str) -> tuple[str, str]:
    """NAME=VALUE; an error does not show it, because values may be secret."""
    name, equals, content = value.partition("=")
    if not equals or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
        raise ConfigurationError("not NAME=VALUE (not shown, it may be secret)")
    if not content.isprintable():
        raise ConfigurationError(f"the value of {name} has more than one line")
    return name, content
