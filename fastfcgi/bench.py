"""`fastfcgi bench`: its options, its progress and its report."""

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, TextIO

from fastfcgi import client, load
from fastfcgi.constants import RESPONDER
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.sockets import parse_address

if TYPE_CHECKING:
    from fastfcgi._load import LaneResult

DEFAULT_SECONDS: Final = 5.0
PROGRESS_SECONDS: Final = 0.5
MAX_CONNECTIONS: Final = 60000  # from one address to a TCP port
ENDING: Final = (signal.SIGINT, signal.SIGTERM)


def add_options(bench: argparse.ArgumentParser) -> None:
    """The command's options, for run()."""
    bench.set_defaults(run=run)
    bench.add_argument(
        "address",
        metavar="ADDRESS",
        type=_peer,
        help="unix:/path, unix:@abstract, host:port or [::1]:port",
    )
    add = bench.add_argument
    add("--connections", metavar="N", type=_connections, default=16, help="default: 16")
    add("--requests", metavar="N", type=_count, help="end after so many requests")
    add("--seconds", metavar="S", type=_seconds, help="end after so many seconds")
    add("--close", action="store_true", help="make a new connection for every request")
    add("--method", metavar="NAME", type=_method, default="GET", help="default: GET")
    add("--path", metavar="PATH", type=_path, default="/", help="path and query; default: /")
    body = bench.add_mutually_exclusive_group()
    body.add_argument("--body", metavar="TEXT", help="what is sent with every request")
    body.add_argument("--body-file", metavar="FILE", help="the same from a file")
    add(
        "--params",
        metavar="SET",
        choices=load.PARAM_SETS,
        default="nginx",
        help=f"the params of a request: {', '.join(load.PARAM_SETS)}; default: nginx",
    )
    add(
        "--header",
        metavar="NAME:VALUE",
        action="append",
        type=_header,
        default=[],
        help="a request header, added to them or in place of one; may be repeated",
    )
    add(
        "--param",
        metavar="NAME=VALUE",
        action="append",
        type=_param,
        default=[],
        help="the same for any param",
    )
    add("--status", metavar="N", type=_status, default=0, help="the only right HTTP status")
    add("--same", action="store_true", help="a right answer has every byte as the first one has")
    add(
        "--timeout",
        metavar="S",
        type=_seconds,
        default=10.0,
        help="seconds that a request may take; default: 10",
    )
    add("--json", action="store_true", help="print the report as JSON")


def _peer(text: str) -> str:
    try:
        kind = parse_address(text)[0]
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if kind not in ("unix", "tcp"):
        raise argparse.ArgumentTypeError(f"not an address to connect to: {text!r}")
    return text


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,12}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"not a number from 1: {text!r}")
    return int(text)


def _connections(text: str) -> int:
    if _count(text) > MAX_CONNECTIONS:
        raise argparse.ArgumentTypeError(f"more than {MAX_CONNECTIONS} connections: {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]*)?", text) or float(text) < 0.001:
        raise argparse.ArgumentTypeError(f"not a number of seconds, from 0.001: {text!r}")
    return float(text)


def _method(text: str) -> str:
    if not re.fullmatch("[A-Za-z-]+", text):
        raise argparse.ArgumentTypeError(f"not a method: {text!r}")
    return text


def _path(text: str) -> str:
    if not re.fullmatch("/[!-~]*", text):
        raise argparse.ArgumentTypeError(f"not a path, percent-encoded: {text!r}")
    return text


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not re.fullmatch("[A-Za-z0-9-]+", name):
        raise argparse.ArgumentTypeError(f"not NAME:VALUE: {text!r}")
    name = name.upper().replace("-", "_")
    if name not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        name = f"HTTP_{name}"
    return _param(f"{name}={value.strip()}")


def _param(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals or not all(ord(character) < 256 for character in text):
        raise argparse.ArgumentTypeError(f"not NAME=VALUE in latin-1: {text!r}")
    return name, value


def _status(text: str) -> int:
    if not re.fullmatch("[1-9][0-9][0-9]", text):
        raise argparse.ArgumentTypeError(f"not an HTTP status: {text!r}")
    return int(text)


class Progress:
    """A line on the terminal, written anew about twice a second; tells when a signal came."""

    def __init__(self, out: TextIO | None) -> None:
        self.stopped = False
        self._out = out
        self._began = self._written = time.monotonic()

    def __call__(self, results: "list[LaneResult]") -> bool:
        now = time.monotonic()
        if self._out is not None and now - self._written >= PROGRESS_SECONDS:
            self._written = now
            answered = sum(result.requests for result in results)
            failed = sum(sum(result.errors.values()) for result in results)
            passed = now - self._began
            line = f"{passed:.0f} s: {answered:,} answered, {answered / passed:,.0f} per second"
            self._write(f"{line}, {failed:,} failed" if failed else line)
        return self.stopped

    def _write(self, line: str) -> None:
        assert self._out is not None
        self._out.write(f"\r{line}\x1b[K")
        self._out.flush()

    def stop(self, *signal_and_frame: object) -> None:
        self.stopped = True

    @contextlib.contextmanager
    def until_signal(self) -> Iterator[None]:
        """Inside, INT and TERM end the run with a report of what it came to."""
        previous = [(number, signal.signal(number, self.stop)) for number in ENDING]
        try:
            yield
        finally:
            for number, handler in previous:
                signal.signal(number, handler)
            if self._out is not None:
                self._write("")


def run(options: argparse.Namespace) -> int:
    """`fastfcgi bench`: make the requests, print the report; returns the exit status."""
    load.generator()
    body = _body(options)
    chosen = load.params(options.params, options.method, options.path, len(body))
    chosen.update(options.header)
    chosen.update(options.param)
    client.connect(options.address, options.timeout).close()  # says plainly when nobody is there
    expected = _first_answer(options, chosen, body) if options.same else None
    request = load.request_bytes(chosen, body, keep_conn=not options.close)
    progress = Progress(sys.stderr if sys.stderr.isatty() else None)
    with progress.until_signal():
        report = load.measure(
            options.address,
            request,
            options.connections,
            keep_conn=not options.close,
            expected=expected,
            status=options.status,
            progress=progress,
            **limits(options),
        )
    if options.json:
        print(json.dumps(asdict(report), indent=2))
    else:
        kind = "one connection per request" if options.close else "kept"
        print(f"{options.method} {options.path} at {options.address}: ", end="")
        print(f"{options.connections} at once, {kind}; {len(chosen)} params, {len(body)} bytes")
        print(as_text(report))
    return 1 if report.failed or not report.requests else 0


def limits(options: argparse.Namespace) -> dict[str, Any]:
    """What ends the run."""
    endless = options.requests is None and options.seconds is None
    return {
        "seconds": DEFAULT_SECONDS if endless else options.seconds,
        "requests": options.requests,
        "timeout": options.timeout,
    }


def _first_answer(options: argparse.Namespace, params: client.Params, body: bytes) -> bytes:
    """STDOUT of one request, which has to be right itself.

    Raises:
        ClientError, RemoteProtocolError: It is not, or there is none.
    """
    exchange = client._Exchange(client.preamble(RESPONDER, params), body, options.timeout, None)
    exchange.use(client.connect(options.address, options.timeout))
    answer = b"".join(iter(exchange.next_block, None))
    exchange.stdout.append(answer)  # as if it came now, for the header to be taken off
    status = client._parse_header(client._read_header(exchange)[0])[0]
    if status != options.status and (options.status or status >= 400):
        raise client.BadResponse(f"the first answer has status {status}")
    return answer


def _body(options: argparse.Namespace) -> bytes:
    if options.body_file is None:
        return os.fsencode(options.body or "")
    with open(options.body_file, "rb") as file:
        return file.read()


def as_text(report: load.Report) -> str:
    """The report for a person, in lines."""
    cpu = report.client_cpu
    times = (f"{name} {_time(value)}" for name, value in report.latency.items())
    lines = {
        "answered": f"{report.requests:,} requests in {report.seconds:.2f} s,"
        f" {report.requests_per_second:,.0f} per second",
        "failed": f"{report.failed:,}",
        "latency": ", ".join(times) if report.requests else "",
        "received": f"{_size(report.bytes_received)} over {report.connects:,} connections",
        "client": "",
    }
    if report.requests:
        per_request = f"{cpu / report.requests * 1e6:.1f} us of CPU per request"
        lines["client"] = f"{per_request}, {cpu / max(report.seconds, cpu):.0%} of one CPU"
    for reason, number in report.errors.items():
        example = report.examples[reason]
        lines["failed"] += f"\n{'':10}{number:,} {reason}" + (f" ({example})" if example else "")
    if report.keep_conn and report.connects > report.connections:
        lines["received"] += ": the server closed some that it could have kept"
    return "\n".join(f"{name:10}{line}" for name, line in lines.items() if line)


def _time(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def _size(number: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if number < 10240:
            return f"{number:,.0f} {unit}"
        number /= 1024
    return f"{number:,.0f} GiB"
