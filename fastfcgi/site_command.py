"""`fastfcgi config SERVER`: prints a configuration of a web server, or of what starts the
application, that starts as it is.

What each line is for stands in the configurations; docs/servers.md has a page for each server.
"""

import argparse
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fastfcgi import site as values
from fastfcgi import (
    site_apache,
    site_caddy,
    site_h2o,
    site_haproxy,
    site_lighttpd,
    site_lighttpd2,
    site_nginx,
    site_process,
)
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.site import Site, SiteError
from fastfcgi.values import target

Writer = Callable[[Site], "list[str]"]


@dataclass(frozen=True)
class Server:
    """What configurations are printed for.

    Attributes:
        about: Its line in the list.
        complete: Writes all of it.
        snippet: Writes the part for a configuration that is there; None where no part is.
        cannot: Option -> why it cannot be had there.
        user: Whom it runs as in Debian.
    """

    about: str
    complete: Writer
    snippet: Writer | None
    cannot: Mapping[str, str] = field(default_factory=dict)
    user: str = values.DEFAULT_USER


def _starts_nothing(name: str) -> dict[str, str]:
    reason = f"{name} starts no applications"
    return {"script": reason, "app": reason, "env": reason}


_ONE_BY_ONE: Final = "{} sends one request at a time on a connection"
_NO_WEB_SERVER: Final = "{} is no web server"
_BY_SCRIPT: Final = "{} starts a script; name one by --script"


def _no_web_server(name: str) -> dict[str, str]:
    options = ["listen", "host", "static", "root", "tls_cert", "tls_key", "stream", "no_keep_alive"]
    return {option: _NO_WEB_SERVER.format(name) for option in [*options, "multiplex", "snippet"]}


SERVERS: Final[dict[str, Server]] = {
    "nginx": Server(
        "nginx",
        site_nginx.complete,
        site_nginx.snippet,
        {**_starts_nothing("nginx"), "multiplex": _ONE_BY_ONE.format("nginx")},
    ),
    "lighttpd": Server(
        "lighttpd 1.4",
        site_lighttpd.complete,
        site_lighttpd.snippet,
        {
            **_starts_nothing("lighttpd without bin-path (fastfcgi config lighttpd-bin-path)"),
            "multiplex": _ONE_BY_ONE.format("lighttpd"),
        },
    ),
    "lighttpd-bin-path": Server(
        "lighttpd 1.4 that starts the application itself",
        site_lighttpd.complete_bin_path,
        site_lighttpd.snippet_bin_path,
        {
            "app": _BY_SCRIPT.format("lighttpd"),
            "multiplex": _ONE_BY_ONE.format("lighttpd"),
        },
    ),
    "lighttpd2": Server(
        "lighttpd 2, with core.wsgi",
        site_lighttpd2.complete,
        site_lighttpd2.snippet,
        {
            **_starts_nothing("lighttpd2"),
            "multiplex": _ONE_BY_ONE.format("lighttpd2"),
            "stream": "lighttpd2 has no option that is known to do it",
            "user": "lighttpd2-worker runs as whoever starts it; angel.conf names a user",
        },
    ),
    "apache": Server(
        "Apache with mod_proxy_fcgi",
        site_apache.complete,
        site_apache.snippet,
        {
            **_starts_nothing("mod_proxy (fastfcgi config apache-fcgid is for mod_fcgid)"),
            "multiplex": _ONE_BY_ONE.format("Apache"),
        },
    ),
    "apache-fcgid": Server(
        "Apache with mod_fcgid, which starts the application",
        site_apache.complete_fcgid,
        site_apache.snippet_fcgid,
        {
            "address": "mod_fcgid opens sockets of its own",
            "app": _BY_SCRIPT.format("mod_fcgid"),
            "protocol": "mod_fcgid speaks FastCGI alone",
            "no_keep_alive": "mod_fcgid keeps no connections, it keeps processes",
            "multiplex": "mod_fcgid gives a process one request at a time",
        },
    ),
    "caddy": Server(
        "Caddy 2",
        site_caddy.complete,
        site_caddy.snippet,
        {
            **_starts_nothing("Caddy"),
            "protocol": "Caddy speaks FastCGI alone",
            "multiplex": _ONE_BY_ONE.format("Caddy"),
            "user": "Caddy runs as whoever starts it: User= in its systemd unit",
        },
        "caddy",
    ),
    "haproxy": Server(
        "HAProxy",
        site_haproxy.complete,
        site_haproxy.snippet,
        {
            **_starts_nothing("HAProxy"),
            "static": "HAProxy sends no files",
            "protocol": "HAProxy speaks FastCGI alone",
        },
        "haproxy",
    ),
    "h2o": Server(
        "H2O",
        site_h2o.complete,
        site_h2o.snippet,
        {
            **_starts_nothing("H2O as it is configured here"),
            "protocol": "H2O speaks FastCGI alone",
            "multiplex": _ONE_BY_ONE.format("H2O"),
            "stream": "H2O takes in a whole upload before it passes it on",
        },
    ),
    "systemd": Server(
        "units of systemd: a socket and a service",
        site_process.systemd,
        None,
        {**_no_web_server("systemd"), "state_dir": "systemd's units write no files"},
    ),
    "spawn-fcgi": Server(
        "a shell script with spawn-fcgi",
        site_process.spawn_fcgi,
        None,
        _no_web_server("spawn-fcgi"),
    ),
}

_LIST: Final = "".join(f"  {name:18} {server.about}\n" for name, server in SERVERS.items())


def add_options(config: argparse.ArgumentParser) -> None:
    """The command's options, for run()."""
    config.set_defaults(run=run)
    config.formatter_class = argparse.RawDescriptionHelpFormatter
    config.description = textwrap.fill(config.description or "", 79)
    config.epilog = f"SERVER is one of:\n{_LIST}"
    config.add_argument("server", metavar="SERVER", nargs="?", choices=SERVERS)
    for name, metavar, parse, text in _OPTIONS:
        config.add_argument(f"--{name}", metavar=metavar, type=_parsed(parse), help=text)
    for name, metavar, parse, text in _REPEATED:
        config.add_argument(
            f"--{name}", metavar=metavar, type=_parsed(parse), action="append", help=text
        )
    config.add_argument(
        "--protocol", choices=["fastcgi", "scgi"], help="what the application speaks"
    )
    for name, text in _FLAGS.items():
        config.add_argument(f"--{name}", action="store_true", default=None, help=text)


Parse = Callable[[str], Any]

_OPTIONS: Final[list[tuple[str, str, Parse, str]]] = [
    ("mount", "PATH", values.mount_path, "path of the application; default: /, the whole site"),
    (
        "address",
        "ADDRESS",
        values.backend,
        f"of the application, unix:/path or host:port; default: {values.DEFAULT_ADDRESS}",
    ),
    (
        "listen",
        "HOST:PORT",
        values.listen_address,
        "where the web server listens; default: port 80, with TLS 443, of all addresses",
    ),
    ("host", "NAME", values.host_name, "name of the site; default: any"),
    ("root", "DIR", values.absolute_path, f"document root; default: {values.DEFAULT_ROOT}"),
    ("tls-cert", "FILE", values.absolute_path, "certificate, with TLS"),
    ("tls-key", "FILE", values.absolute_path, "its key; default: in the same file"),
    (
        "script",
        "FILE",
        values.absolute_path,
        f"front-end script, where it is started; default: {values.DEFAULT_SCRIPT}",
    ),
    (
        "app",
        "MODULE:APP",
        target,
        "systemd and spawn-fcgi: start `fastfcgi serve` with it instead of the script",
    ),
    (
        "user",
        "USER[:GROUP]",
        values.user_and_group,
        "whom the server, or the application that is started, runs as; default: Debian's",
    ),
    (
        "state-dir",
        "DIR",
        values.absolute_path,
        "folder for all that the server writes, logs too; default: Debian's places",
    ),
]

_REPEATED: Final[list[tuple[str, str, Parse, str]]] = [
    ("static", "/URL=DIR", values.static_files, "files that the web server sends; repeatable"),
    ("env", "NAME=VALUE", values.env_pair, "environment of a started application; repeatable"),
]

_FLAGS: Final = {
    "stream": "pass bodies on as they come, instead of whole",
    "no-keep-alive": "a connection to the application for each request",
    "multiplex": "HAProxy: several requests at once on a connection",
    "snippet": "only the part to put into a configuration that is there already",
}


def _parsed(parse: Parse) -> Parse:
    """The same for argparse."""

    def checked(text: str) -> Any:
        try:
            return parse(text)
        except ConfigurationError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def run(options: argparse.Namespace) -> int:
    """`fastfcgi config`: prints, and returns the exit status."""
    if options.server is None:
        sys.stdout.write(f"fastfcgi config SERVER prints a configuration. SERVER is:\n{_LIST}")
        return 0
    sys.stdout.write(configuration(options))
    return 0


def configuration(options: argparse.Namespace) -> str:
    """The text that is printed.

    Args:
        options: Of the command line.

    Raises:
        SiteError: The server cannot honour an option or hold a value.
    """
    server = SERVERS[options.server]
    for option, reason in server.cannot.items():
        if getattr(options, option) is not None:
            raise SiteError(f"no --{option.replace('_', '-')} for {options.server}: {reason}")
    writer = server.snippet if options.snippet else server.complete
    assert writer is not None
    return "\n".join(writer(_site(options, server))) + "\n"


def _site(options: argparse.Namespace, server: Server) -> Site:
    if options.tls_key and not options.tls_cert:
        raise SiteError("--tls-key needs --tls-cert")
    tls = (options.tls_cert, options.tls_key or options.tls_cert) if options.tls_cert else None
    return Site(
        address=options.address or values.backend(values.DEFAULT_ADDRESS),
        mount=options.mount or "",
        listen=options.listen or ("", 443 if tls else 80),
        host=options.host or "",
        static=tuple(options.static or ()),
        root=options.root or values.DEFAULT_ROOT,
        tls=tls,
        protocol=options.protocol or "fastcgi",
        script=options.script or values.DEFAULT_SCRIPT,
        app=options.app or "",
        env=tuple(options.env or ()),
        user=options.user or (server.user, server.user),
        state_dir=options.state_dir or "",
        stream=bool(options.stream),
        keep_alive=not options.no_keep_alive,
        multiplex=bool(options.multiplex),
    )
