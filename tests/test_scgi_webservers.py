"""SCGI end to end: nginx, lighttpd and Apache on what `fastfcgi config --protocol scgi` prints,
and on the shortest configurations, which docs/scgi.md shows."""

import uuid
from typing import ClassVar

import pytest
import test_matrix_lighttpd
import test_matrix_nginx
from checks_failures import FailureChecks
from fronts import App
from http_client import Client, Site, blocks, fetch
from test_docs import DOCS
from test_docs import blocks as fenced
from test_mount_webservers import APACHE_BLOCK, LIGHTTPD_BLOCK, NGINX_BLOCK, Shortest
from webserver_checks import AllChecks, InFront
from webservers import WebServer

pytestmark = pytest.mark.webserver

SCGI = {"protocol": "scgi"}


class SCGIFailureChecks(FailureChecks):
    """What SCGI has no way for."""

    def test_errors_reach_the_log(self, site: Site, server: WebServer, app: App) -> None:
        """Not that of the web server; the application's own log has it."""
        text = uuid.uuid4().hex
        assert fetch(site, f"/errors-log?text={text}").body == b"written"
        app.wait_for_log(text)
        assert text not in server.log()


class SCGIChecks(SCGIFailureChecks, AllChecks):
    """Through a unix socket. No column of the table, which is about FastCGI."""

    options: ClassVar = SCGI
    app_options: ClassVar = SCGI

    def test_connections_are_kept(self, site: Site) -> None:
        self.check_connection_per_request(site)

    def test_multiplexed(self, site: Site, app: App) -> None:
        self.check_not_multiplexed(site, app)

    def test_unfinished_body_of_unknown_length(self, site: Site) -> None:
        """The end of a unix socket is always the same."""
        self.check_unfinished_looks_complete(site)


class TestNginx(SCGIChecks):
    kind = "nginx"

    test_long_headers = test_matrix_nginx.TestNginx.test_long_headers
    test_underscores = test_matrix_nginx.TestNginx.test_underscores


class TestLighttpd(SCGIChecks):
    kind = "lighttpd"

    test_byte_path = test_matrix_lighttpd.TestLighttpd.test_byte_path
    test_long_headers = test_matrix_lighttpd.TestLighttpd.test_long_headers


class TestApache(SCGIChecks):
    kind = "apache"
    tells_mount = True

    def check_chunked(self, site: Site, size: int) -> None:
        """mod_proxy_scgi takes none."""
        with Client(site) as client:
            assert client.fetch("/digest", "POST", blocks(bytes(size))).status == 411

    def test_underscores(self, site: Site) -> None:
        self.check_underscores_are_dropped(site)

    @pytest.mark.parametrize("target", ["/error-late", "/short"])
    def test_incomplete_body_is_cut(self, site: Site, app: App, target: str) -> None:
        """It hands on no Content-Length, so that this looks complete."""
        assert fetch(site, target).status == 200


class OverTCP(SCGIFailureChecks, InFront):
    """A response that is cut ends by a reset."""

    tcp = True
    options: ClassVar = SCGI
    app_options: ClassVar = SCGI


class TestNginxOverTCP(OverTCP):
    kind = "nginx"


class TestLighttpdOverTCP(OverTCP):
    kind = "lighttpd"

    test_unfinished_body_of_unknown_length = (
        test_matrix_lighttpd.TestLighttpd.test_unfinished_body_of_unknown_length
    )


class TestApacheOverTCP(OverTCP):
    kind = "apache"
    tells_mount = True


def documented(language: str) -> str:
    """The configuration of docs/scgi.md."""
    (block,) = fenced(DOCS / "scgi.md", language)
    return block.replace("include ", "include /etc/nginx/")


class ShortestSCGI(Shortest):
    """A block of docs/scgi.md."""

    options: ClassVar = SCGI
    app_options: ClassVar = SCGI


class TestShortestNginx(ShortestSCGI):
    kind = "nginx"
    shortened: ClassVar = {NGINX_BLOCK: documented("nginx")}


class TestShortestLighttpd(ShortestSCGI):
    kind = "lighttpd"
    shortened: ClassVar = {LIGHTTPD_BLOCK: documented("lighttpd")}

    test_byte_path = TestLighttpd.test_byte_path


class TestShortestApache(ShortestSCGI):
    kind = "apache"
    shortened: ClassVar = {APACHE_BLOCK: documented("apache")}
    sends_neighbours = False
    tcp = True
