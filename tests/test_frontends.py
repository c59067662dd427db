"""End to end through Apache (mod_proxy_fcgi), HAProxy, which multiplexes, and Caddy."""

import concurrent.futures
import contextlib
import http.client
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from http_client import Client, Site, fetch
from processes import Process, descriptors, require, wait_until
from webserver_checks import WebServerChecks, running_app
from webservers import WebServer, apache, caddy, haproxy

pytestmark = pytest.mark.webserver

STARTERS: dict[str, Callable[[Path, str], WebServer]] = {
    "apache2": apache,
    "haproxy": haproxy,
    "caddy": caddy,
}


@pytest.fixture(scope="module", params=list(STARTERS))
def running(
    request: pytest.FixtureRequest, module_folder: Path
) -> Iterator[tuple[WebServer, Process]]:
    require(request.param)
    start = STARTERS[request.param]
    with running_app(module_folder) as (process, address):
        with start(module_folder, address) as started:
            yield started, process


@pytest.fixture(params=["root", "path"])
def site(request: pytest.FixtureRequest, running: tuple[WebServer, Process]) -> Site:
    return running[0].sites[request.param]


@pytest.fixture(params=["root", "path"])
def big_site(request: pytest.FixtureRequest, running: tuple[WebServer, Process]) -> Site:
    return running[0].sites[request.param]


class TestFrontends(WebServerChecks):
    def test_unfinished_body_of_unknown_length(self, site: Site, server: WebServer) -> None:
        """Closed without END_REQUEST; nothing else could tell that there should have been more."""
        with contextlib.ExitStack() as stack:
            if server.cuts_unfinished:
                stack.enter_context(pytest.raises((http.client.HTTPException, ConnectionError)))
            answer = fetch(site, "/error-late/open", headers=[("Connection", "close")])
            assert answer.body == b"x" * 1000


def test_multiplexed_requests_run_at_once(folder: Path) -> None:
    """32 slow requests are on one or two connections at the same time; the 33rd frees them all."""
    require("haproxy")
    with (
        running_app(folder, threads=40) as (app, address),
        haproxy(folder, address) as server,
        concurrent.futures.ThreadPoolExecutor(33) as pool,
    ):
        site = server.sites["root"]
        assert fetch(site, "/env").status == 200  # from now on there is a connection to share
        with_one = len(descriptors(app.pid))
        waiting = [pool.submit(fetch, site, "/together/33") for _ in range(32)]
        with Client(server.sites["path"]) as client:
            running = "/waiting/33"
            wait_until(lambda: client.fetch(running).body == b"32", "32 requests to be waiting")
            # The one that asks how many are waiting has a connection of its own, and HAProxy may
            # have opened a second one before it knew that the first can be shared.
            assert len(descriptors(app.pid)) <= with_one + 2
            assert client.fetch("/together/33").body == b"together"
        for done in waiting:
            assert done.result().body == b"together"


def test_interleaved_bodies(folder: Path) -> None:
    """Bodies that arrive on one connection in turns stay apart."""
    require("haproxy")

    def upload(site: Site, number: int) -> bool:
        body = bytes([number]) * (200_000 + number)
        return fetch(site, "/echo", "POST", body).body == body

    with (
        running_app(folder, threads=40) as (_, address),
        haproxy(folder, address) as server,
        # with many more at once HAProxy 2.6 answers some with a 500 of its own (WebServer.clients)
        concurrent.futures.ThreadPoolExecutor(4) as pool,
    ):
        site = server.sites["root"]
        assert fetch(site, "/env").status == 200
        assert all(pool.map(lambda number: upload(site, number), range(32)))
