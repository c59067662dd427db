"""The client: requests as nginx sends them, made by the load generator, every answer checked."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import reference_codec
import wire

from bench.apps import PAGE
from fastfcgi import _load
from fastfcgi.constants import PARAMS, STDIN

TIMEOUT = 20.0


class Failed(Exception):
    """A server did not answer, or not rightly."""


class Ask(NamedTuple):
    """What is asked of bench.apps.application, and the body of the right response."""

    path: str
    right: bytes
    query: str = ""
    body: bytes = b""
    cookie: str = "session=0123456789abcdef"


def params_of(ask: Ask) -> dict[str, str]:
    """The 27 params that nginx sends with its fastcgi_params, PATH_INFO and a browser's headers."""
    return {
        "QUERY_STRING": ask.query,
        "REQUEST_METHOD": "POST" if ask.body else "GET",
        "CONTENT_TYPE": "application/octet-stream" if ask.body else "",
        "CONTENT_LENGTH": str(len(ask.body)) if ask.body else "",
        "SCRIPT_NAME": "",
        "REQUEST_URI": f"{ask.path}?{ask.query}" if ask.query else ask.path,
        "DOCUMENT_URI": ask.path,
        "DOCUMENT_ROOT": "/usr/share/nginx/html",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REQUEST_SCHEME": "http",
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_SOFTWARE": "nginx/1.22.1",
        "REMOTE_ADDR": "192.0.2.1",
        "REMOTE_PORT": "43210",
        "REMOTE_USER": "",
        "SERVER_ADDR": "192.0.2.2",
        "SERVER_PORT": "80",
        "SERVER_NAME": "www.example.org",
        "REDIRECT_STATUS": "200",
        "PATH_INFO": ask.path,
        "HTTP_HOST": "www.example.org",
        "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
        "HTTP_ACCEPT": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "HTTP_ACCEPT_LANGUAGE": "en-US,en;q=0.5",
        "HTTP_ACCEPT_ENCODING": "gzip, deflate",
        "HTTP_CONNECTION": "keep-alive",
        "HTTP_COOKIE": ask.cookie,
    }


def request_of(ask: Ask, keep_conn: bool) -> bytes:
    """Its records on request_id 1; a body as nginx sends it from its buffer, by 32 KiB."""
    body = reference_codec.encode_stream(STDIN, 1, ask.body, 32768)
    return b"".join(
        [
            wire.begin_request(1, keep_conn=keep_conn),
            wire.params(1, [*params_of(ask).items()]),
            *body,
            reference_codec.encode_record(STDIN, 1),
        ]
    )


def stdout_of(path: str, ask: Ask) -> bytes:
    """What the server at that socket sends on STDOUT, header and body: the same every time.

    Raises:
        Failed: It is not the right response, or none.
    """
    try:
        with wire.Peer(path, TIMEOUT) as peer:
            peer.send(request_of(ask, False))
            response = peer.receive_end()
            stdout = bytes(peer.answers[1].stdout) if response.ended else b""
    except TimeoutError as exc:
        raise Failed(f"{ask.path}: no whole answer within {TIMEOUT:.0f} s") from exc
    except (OSError, KeyError, AssertionError) as exc:
        raise Failed(f"{ask.path}: {exc!r}"[:200]) from exc
    if not response.ended or response.status != 200 or response.body != ask.right:
        seen = f"status {response.status}, {len(response.body)} bytes"
        raise Failed(f"{ask.path}: not what the application answers, but {seen}")
    return stdout


def check(results: list[_load.LaneResult]) -> None:
    """Raise Failed unless all requests of a run were answered rightly, and there were some."""
    for result in results:
        if result.errors or not result.requests:
            errors = [f"{number} x {reason}" for reason, number in result.errors.items()]
            errors += [f"{reason}: {said}" for reason, said in result.examples.items() if said]
            raise Failed(f"{result.requests} right answers; {'; '.join(errors)}")


def starved(result: _load.LaneResult) -> bool:
    """Whether a request waited for as long as the run took, while others had answers by the dozen:
    most likely its connection was served only when the others had been closed."""
    return result.max > max(0.95 * result.seconds, 50 * result.percentile(50))


class Load:
    """Requests for bench.apps.page, whatever params are sent.

    Args:
        path: The socket.
        params: The encoded PARAMS stream of each request.
        at_once: How many requests are under way at any time.
        keep_conn: Whether connections are kept, or made for each request.
        timeout: Seconds without a response after which run() raises TimeoutError.
    """

    def __init__(
        self, path: str, params: bytes, at_once: int, keep_conn: bool, timeout: float = TIMEOUT
    ) -> None:
        self._path = path
        self._timeout = timeout
        self._request = (
            wire.begin_request(1, keep_conn=keep_conn)
            + wire.stream(PARAMS, 1, params)
            + reference_codec.encode_record(STDIN, 1)
        )
        self._lane = _load.Lane(self._request, at_once, keep_conn)

    def run(self, requests: int) -> bool:
        """Make so many requests and read the responses to their end.

        Returns:
            Whether a connection was starved.

        Raises:
            TimeoutError: One was not answered in time.
            ConnectionError: The server closed a connection that was to be kept.
            Failed: It answered wrongly.
        """
        (result,) = _load.run(self._path, [self._lane], requests=requests, timeout=self._timeout)
        if "timeout" in result.errors:
            raise TimeoutError(f"no response to {result.errors['timeout']} requests")
        check([result])
        if self._lane.keep_conn and result.connects > self._lane.connections:
            raise ConnectionError("connections are not kept")
        return starved(result)

    def check(self) -> None:
        """Make one request and look at the response; from then on run() wants the same: a fast
        server of wrong ones must not win.

        Raises:
            Failed: It is not that of bench.apps.page.
        """
        with wire.Peer(self._path, self._timeout) as peer:
            peer.send(self._request)
            response = peer.receive_end()
            stdout = bytes(peer.answers[1].stdout)
        if (response.status, response.body) != (200, PAGE):
            raise Failed(f"not the response of the application: {response!r}")
        lane = self._lane
        self._lane = _load.Lane(self._request, lane.connections, lane.keep_conn, expected=stdout)


# ---- clients that are slow: a thread each, until the block is left ----------------------------


@contextmanager
def slow_clients(path: str, sending: Ask, reading: Ask, each: int) -> Iterator[None]:
    """So many clients that send the body of one request over and over, 1 KiB every 10 ms, and so
    many that read the response to another over and over, 16 KiB every 10 ms."""
    stop = threading.Event()
    jobs = [(send_slowly, sending), (read_slowly, reading)] * each
    threads = [threading.Thread(target=job, args=(path, ask, stop)) for job, ask in jobs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(TIMEOUT)


def send_slowly(path: str, ask: Ask, stop: threading.Event) -> None:
    data = request_of(ask, False)
    while not stop.is_set():
        with suppress(OSError), wire.Peer(path, TIMEOUT) as peer:
            for start in range(0, len(data), 1024):
                peer.send(data[start : start + 1024])
                if stop.wait(0.01):
                    return
            peer.receive_end()


def read_slowly(path: str, ask: Ask, stop: threading.Event) -> None:
    while not stop.is_set():
        with suppress(OSError), wire.Peer(path, TIMEOUT) as peer:
            peer.send(request_of(ask, False))
            peer.sock.setblocking(True)
            peer.sock.settimeout(TIMEOUT)
            while peer.sock.recv(16384):
                if stop.wait(0.01):
                    return


@contextmanager
def idle_connections(path: str, ask: Ask, number: int) -> Iterator[None]:
    """So many kept connections that have had their answer."""
    peers: list[wire.Peer] = []
    try:
        for _ in range(number):
            peers.append(wire.Peer(path, TIMEOUT))
            peers[-1].send(request_of(ask, True))
            peers[-1].receive_end()
        time.sleep(0.1)
        yield
    finally:
        for peer in peers:
            peer.close()
