"""End to end through Caddy 2, at / and at a path."""

import uuid

import pytest
from fronts import App
from http_client import Site, fetch
from matrix import refused
from webserver_checks import WebServerChecks
from webservers import WebServer

pytestmark = pytest.mark.webserver


class TestCaddy(WebServerChecks):
    """As ``fastfcgi config caddy`` says."""

    kind = "caddy"
    column = "Caddy"

    @refused("passes such paths on as they are")
    def test_cleaned_path(self, site: Site) -> None:
        self.check_slashes_are_kept(site)
        self.check_dots_are_kept(site)

    @refused("takes the response for complete")
    def test_unfinished_body_of_unknown_length(self, site: Site) -> None:
        self.check_unfinished_looks_complete(site)

    @refused("drops FCGI_STDERR; the application's own log has it")
    def test_errors_reach_the_log(self, site: Site, server: WebServer, app: App) -> None:
        text = uuid.uuid4().hex
        assert fetch(site, f"/errors-log?text={text}").body == b"written"
        app.wait_for_log(text)
        assert text not in server.log()

    @refused("opens a connection for each request")
    def test_connections_are_kept(self, site: Site) -> None:
        self.check_connection_per_request(site)

    @refused("does not multiplex: a connection for each")
    def test_multiplexed(self, site: Site, app: App) -> None:
        self.check_not_multiplexed(site, app)
