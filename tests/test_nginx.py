"""End to end through nginx: at / and /wsgi, FastCGI connections kept or not, bodies streamed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from apps import pattern_sha256
from http_client import Client, Site, blocks, fetch
from processes import Process, accepts, descriptors, require, wait_until
from webserver_checks import MEGABYTE, WebServerChecks, running_app, sha256
from webservers import NGINX_SITES, WebServer, nginx

pytestmark = pytest.mark.webserver


@pytest.fixture(scope="module")
def running(module_folder: Path) -> Iterator[tuple[WebServer, Process]]:
    require("nginx")
    # The application ends first: with nginx's idle kept connections still open.
    with (
        running_app(module_folder, flup=True) as (process, address),
        nginx(module_folder, address) as started,
    ):
        yield started, process
        assert process.stop() == 0, process.log()


@pytest.fixture(params=NGINX_SITES)
def site(request: pytest.FixtureRequest, running: tuple[WebServer, Process]) -> Site:
    return running[0].sites[request.param]


@pytest.fixture(params=["path-kept", "root-unkept", "root-streamed"])
def big_site(request: pytest.FixtureRequest, running: tuple[WebServer, Process]) -> Site:
    return running[0].sites[request.param]


class TestNginx(WebServerChecks):
    def test_large_chunked_upload(self, big_site: Site) -> None:
        body = os.urandom(3 * MEGABYTE)
        answer = fetch(big_site, "/digest", "POST", blocks(body, 50_000)).json()
        assert answer == {"length": len(body), "sha256": sha256(body)}

    def test_connections_are_kept(self, server: WebServer, app: Process) -> None:
        """Requests one after the other use one connection, and an idle one holds no thread."""
        kept = server.sites["root-kept"]

        def sockets() -> set[str]:
            return {name for name in descriptors(app.pid) if name.startswith("socket:")}

        with Client(kept) as client:
            client.fetch("/env")
            before = sockets()
            for _ in range(30):
                assert client.fetch("/size/100000").status == 200
            assert sockets() <= before

    def test_connections_are_closed(self, server: WebServer, app: Process) -> None:
        before = len(descriptors(app.pid))
        for _ in range(30):
            assert fetch(server.sites["root-unkept"], "/size/100000").status == 200
        wait_until(lambda: len(descriptors(app.pid)) <= before, "descriptors to be closed")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_with_idle_kept_connections(folder: Path, signum: int) -> None:
    with running_app(folder) as (app, address), nginx(folder, address) as server:
        with Client(server.sites["root-kept"]) as client:
            assert client.fetch("/env").status == 200
            assert app.stop(signum) == 0, app.log()
            assert client.fetch("/env").status == 502


def test_term_lets_a_running_request_finish(folder: Path) -> None:
    with (
        running_app(folder) as (app, address),
        nginx(folder, address) as server,
        Client(server.sites["root-streamed"]) as client,
    ):
        size = 50 * MEGABYTE
        response = client.start(f"/size/{size}")
        body = response.read(1000)  # nobody takes the rest: the application waits
        app.popen.terminate()
        # Who comes now is told so, instead of waiting for the last request to end.
        wait_until(lambda: not accepts(address), "new connections to be refused", seconds=5)
        body += response.read()
        assert (len(body), sha256(body)) == (size, pattern_sha256(size))
        assert app.wait() == 0, app.log()
