"""End to end through nginx: at / and at a path, connections kept or not, bodies streamed."""

import signal
from pathlib import Path
from typing import ClassVar

import pytest
from apps import pattern_sha256
from checks_bodies import MEGABYTE, BodyChecks, ResponseChecks, sha256
from checks_failures import FailureChecks
from checks_load import LoadChecks
from fronts import App, running_app
from http_client import Client, Site, fetch
from matrix import refused
from processes import accepts, wait_until
from webserver_checks import InFront, WebServerChecks
from webservers import start

pytestmark = pytest.mark.webserver


class TestNginx(WebServerChecks):
    """As ``fastfcgi config nginx`` says: FastCGI connections are kept, bodies buffered."""

    kind = "nginx"
    column = "nginx"

    @refused("takes 32 KB (large_client_header_buffers), and answers 400")
    def test_long_headers(self, site: Site) -> None:
        assert fetch(site, "/env", headers=self.long_headers).status == 400

    @refused("drops it (underscores_in_headers)")
    def test_underscores(self, site: Site) -> None:
        self.check_underscores_are_dropped(site)

    @refused("does not multiplex: a connection for each")
    def test_multiplexed(self, site: Site, app: App) -> None:
        self.check_not_multiplexed(site, app)


class TestStreamed(BodyChecks, ResponseChecks, FailureChecks, LoadChecks, InFront):
    """Bodies go through as they come."""

    kind = "nginx"
    options: ClassVar = {"stream": True}

    test_multiplexed = TestNginx.test_multiplexed

    def test_unfinished_body_of_unknown_length(self, site: Site) -> None:
        self.check_unfinished_looks_complete(site)


class TestUnkept(BodyChecks, ResponseChecks, FailureChecks, LoadChecks, InFront):
    """A FastCGI connection for each request."""

    kind = "nginx"
    options: ClassVar = {"keep_alive": False}

    test_multiplexed = TestNginx.test_multiplexed

    def test_connections_are_kept(self, site: Site) -> None:
        self.check_connection_per_request(site)

    def test_unfinished_body_of_unknown_length(self, site: Site) -> None:
        self.check_unfinished_looks_complete(site)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_with_idle_kept_connections(folder: Path, signum: int) -> None:
    with running_app(folder, flup=True) as (app, address), start("nginx", folder, address) as nginx:
        with Client(nginx.site) as client:
            assert client.fetch("/env").status == 200
            assert app.stop(signum) == 0, app.log()
            assert client.fetch("/env").status == 502


def test_term_lets_a_running_request_finish(folder: Path) -> None:
    with (
        running_app(folder) as (app, address),
        start("nginx", folder, address, stream=True) as nginx,
        Client(nginx.site) as client,
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
