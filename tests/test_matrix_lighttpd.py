"""End to end through lighttpd 1.4: at / and at a path, bodies buffered and streamed."""

import os
from typing import ClassVar

import pytest
from checks_bodies import MEGABYTE, BodyChecks, ResponseChecks
from checks_failures import FailureChecks
from checks_load import LoadChecks
from fronts import App
from http_client import Site, blocks, fetch
from matrix import refused
from webserver_checks import InFront, WebServerChecks

pytestmark = pytest.mark.webserver


class TestLighttpd(WebServerChecks):
    """As ``fastfcgi config lighttpd`` says: bodies buffered."""

    kind = "lighttpd"
    column = "lighttpd 1.4"

    @refused("answers 400")
    def test_byte_path(self, site: Site) -> None:
        assert fetch(site, "/env/%FF").status == 400

    @refused("answers 431 beyond server.max-request-field-size")
    def test_long_headers(self, site: Site) -> None:
        assert fetch(site, "/env", headers=self.long_headers).status == 431

    @refused("takes the response for complete")
    def test_unfinished_body_of_unknown_length(self, site: Site) -> None:
        self.check_unfinished_looks_complete(site)

    @refused("opens a connection for each request")
    def test_connections_are_kept(self, site: Site) -> None:
        self.check_connection_per_request(site)

    @refused("does not multiplex: a connection for each")
    def test_multiplexed(self, site: Site, app: App) -> None:
        self.check_not_multiplexed(site, app)


class TestStreamed(BodyChecks, ResponseChecks, FailureChecks, LoadChecks, InFront):
    """Bodies go through as they come."""

    kind = "lighttpd"
    options: ClassVar = {"stream": True}

    test_multiplexed = TestLighttpd.test_multiplexed
    test_connections_are_kept = TestLighttpd.test_connections_are_kept

    # Unless the whole body comes with the header, which is a matter of luck for a short one.
    @pytest.mark.parametrize("size", [0, 3000, 3 * MEGABYTE])
    def test_chunked_is_refused(self, site: Site, size: int) -> None:
        answer = fetch(site, "/digest", "POST", blocks(os.urandom(size), 1000))
        assert answer.status in ((200, 411) if size < MEGABYTE else (411,))

    test_chunked_empty = test_chunked = test_chunked_3_megabytes = None

    # Cut or not: it depends on whether it sees the end of the connection together with the data.
    test_unfinished_body_of_unknown_length = None
