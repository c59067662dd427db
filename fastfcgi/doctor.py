"""`fastfcgi doctor`: what is wrong between a web server and an application, and what to change.

    fastfcgi doctor ADDRESS               the socket, who may use it, what is spoken there
    fastfcgi doctor URL --bind ADDRESS    what arrives of requests made through the web server
    fastfcgi doctor URL                   the same, with fastfcgi.probe in the application's place

Exit status: 0 nothing is wrong, 1 something is, 2 wrong options.
"""

import argparse
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from typing import Final

from fastfcgi import ask, bench, config
from fastfcgi.doctor_address import check_address
from fastfcgi.doctor_bodies import check_bodies, check_chunked, check_request_buffering
from fastfcgi.doctor_http import Site, split_url
from fastfcgi.doctor_paths import check_paths
from fastfcgi.doctor_reach import reach
from fastfcgi.doctor_requests import (
    check_authorization,
    check_certificate,
    check_headers,
    check_host,
    check_methods,
    check_query,
    check_request_header,
    check_scheme,
)
from fastfcgi.doctor_responses import (
    check_connections,
    check_cookies,
    check_errors,
    check_header_size,
    check_statuses,
    check_streaming,
)
from fastfcgi.doctor_serve import ProbeServer
from fastfcgi.doctor_visit import NotTold, Visit
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.findings import Finding, Report, note, wrong
from fastfcgi.probe import Probe
from fastfcgi.sockets import may_be_host, parse_address

_TIMEOUT: Final = 10.0

_PLACES: Final = (
    "an ADDRESS (unix:/path, unix:@abstract, host:port) nor a URL (http://host/, https://host/)"
)

_CHECKS: Final[tuple[Callable[[Visit], Iterator[Finding]], ...]] = (
    *(check_paths, check_query, check_scheme, check_certificate, check_host),
    *(check_authorization, check_headers, check_request_header, check_methods),
    *(check_bodies, check_chunked, check_request_buffering),
    *(check_streaming, check_statuses, check_header_size, check_cookies),
    *(check_errors, check_connections),
)

_EXPLANATION: Final = """\
fastfcgi doctor unix:/run/app/app.sock
    Is there a socket, may the web server use it, does FastCGI answer there?
fastfcgi doctor https://www.example.org/wsgi --bind unix:/run/app/app.sock
    What arrives of requests through the web server? The application has to be stopped: the doctor
    takes its place for a moment.
fastfcgi doctor --config site.toml
    The first one, for each address in a configuration of fastfcgi serve."""


def add_options(doctor: argparse.ArgumentParser) -> None:
    """The options of `fastfcgi doctor`, for run()."""
    doctor.set_defaults(run=run)
    add = doctor.add_argument
    add(
        "place",
        metavar="ADDRESS|URL",
        nargs="?",
        type=_place,
        help="unix:/path, unix:@abstract or host:port of a FastCGI server; or where the"
        " application is in the web, http://host/mount",
    )
    add(
        "--bind",
        metavar="ADDRESS",
        type=bench._peer,
        help="with a URL: answer there, in the application's place, while asking",
    )
    add("--mount", metavar="PATH", type=ask._path, help="where the application is; default: URL's")
    add("--token", metavar="TEXT", help="with a URL: what the probe there has written to stderr")
    add("--web-user", metavar="USER", help="whom the web server runs as; default: who is found")
    add("--request", metavar="PATH", type=ask._path, help="with an address: make a GET request")
    add("--ping-path", metavar="PATH", type=ask._path, help="the same for a ping page")
    add("--config", metavar="FILE", help="look at the addresses in a file of fastfcgi serve")
    add(
        "--timeout",
        metavar="S",
        type=bench._seconds,
        default=_TIMEOUT,
        help=f"seconds that an answer may take; default: {_TIMEOUT:g}",
    )
    add("--json", action="store_true", help="print the findings as JSON")


def _place(text: str) -> str:
    if not _is_url(text):
        if "://" in text and not text.startswith(("unix:", "/", ".", "@")):
            raise argparse.ArgumentTypeError(f"neither {_PLACES}: {text!r}")
        return bench._peer(text)
    try:
        host = split_url(text)[1]
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    except UnicodeError as error:
        raise argparse.ArgumentTypeError(f"not a URL, percent-encoded: {text!r}") from error
    if not may_be_host(host):
        raise argparse.ArgumentTypeError(f"not a URL, {host!r} cannot be the name of a host")
    return text


def _is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def run(options: argparse.Namespace) -> int:
    """`fastfcgi doctor`: print what is found; returns the exit status."""
    report = Report(options.json)
    is_url = options.place is not None and _is_url(options.place)
    _check_together(options, is_url)
    if is_url:
        _examine_url(options, report)
        return report.close()
    addresses = [options.place] if options.place else _configured(options)
    if not addresses:
        print(_EXPLANATION)
        return 2
    for address in addresses:
        report.heading(address)
        report.take(
            check_address(
                address, options.timeout, options.web_user, options.request, options.ping_path
            )
        )
    return report.close()


def _check_together(options: argparse.Namespace, is_url: bool) -> None:
    names = ("request", "ping_path", "config") if is_url else ("bind", "mount", "token")
    for name in names:
        if getattr(options, name) is not None:
            what = "an ADDRESS" if is_url else "a URL"
            option = f"--{name.replace('_', '-')}"
            raise config.SettingError(f"{option} goes with {what} only")
    if options.place and options.config:
        raise config.SettingError("either an ADDRESS or --config")


def _configured(options: argparse.Namespace) -> list[str]:
    """The addresses that `fastfcgi serve` would take from a file and from the environment."""
    typed = {"config": options.config} if options.config else {}
    settings = config.read(typed, os.environ, os.getcwd())
    folder = settings.chdir or os.getcwd()
    found = []
    for text in settings.bind or []:
        parsed = parse_address(text)
        if parsed[0] == "unix" and not str(parsed[1]).startswith("\0"):  # type: ignore[misc]
            path = os.path.join(folder, str(parsed[1]))  # type: ignore[misc]
            text = f"unix:{os.path.normpath(path)}"
        if parsed[0] in ("unix", "tcp"):
            found.append(text)
    return found


# -------------------------------------------------------------------------------------- URL


def _examine_url(options: argparse.Namespace, report: Report) -> None:
    token = options.token or secrets.token_hex(16)
    try:
        site = Site(options.place, token, options.timeout, options.mount)
    except ConfigurationError as error:
        raise config.SettingError(str(error)) from error
    visit = Visit(site, address=options.bind or "")
    report.heading(options.place)
    if not options.bind:
        _examine(visit, report, options.web_user)
        return
    try:
        with ProbeServer(Probe(token), options.bind).running() as visit.served:
            _examine(visit, report, options.web_user)
    except OSError as error:
        if visit.served is not None:
            raise
        report.take([_not_bound(options, error)])


def _not_bound(options: argparse.Namespace, error: OSError) -> Finding:
    where = f"the doctor {error.strerror or error}"
    if error.errno != errno.EADDRINUSE:
        return wrong("bind", where)
    return wrong(
        "in-use",
        f"{where}: the application runs there, probably",
        "Stop it for the check; or, where something starts it again at once, put in its place",
        "    from fastfcgi.probe import application",
        f"and ask without --bind: fastfcgi doctor {options.place} --token TOKEN",
        "(the probe writes its token to stderr)",
    )


def _examine(visit: Visit, report: Report, web_user: str | None) -> None:
    report.take(reach(visit, web_user))
    reached = report.findings[-1].key == "reached"
    for check in _CHECKS if reached else [check_certificate]:
        try:
            report.take(check(visit))
        except NotTold as error:
            name = check.__name__.removeprefix("check_").replace("_", "-")
            text = f"the check of {name.replace('-', ' ')} is not possible: {error}"
            report.take([note(f"{name}-unknown", text)])
