"""End to end through HAProxy, which multiplexes if it is told to, or if the application says so."""

import concurrent.futures
import os

import pytest
from checks_bodies import MEGABYTE
from fronts import App
from http_client import Site, blocks, fetch
from matrix import refused
from webserver_checks import WebServerChecks

pytestmark = pytest.mark.webserver


class HAProxyChecks(WebServerChecks):
    """What all of them refuse."""

    @refused("passes such paths on as they are")
    def test_cleaned_path(self, site: Site) -> None:
        self.check_slashes_are_kept(site)
        self.check_dots_are_kept(site)

    @refused("answers 400 to a chunked body beyond its buffer (tune.bufsize, 16 KB)")
    def test_chunked_3_megabytes(self, site: Site) -> None:
        assert fetch(site, "/digest", "POST", blocks(os.urandom(3 * MEGABYTE))).status == 400

    @refused("answers 400 beyond its buffer (tune.bufsize, 16 KB)")
    def test_long_headers(self, site: Site) -> None:
        assert fetch(site, "/env", headers=self.long_headers).status == 400

    @refused("drops it")
    def test_underscores(self, site: Site) -> None:
        self.check_underscores_are_dropped(site)

    def test_interleaved_bodies(self, site: Site) -> None:
        """Bodies that arrive on one connection in turns stay apart."""

        def upload(number: int) -> bool:
            body = bytes([number]) * (200_000 + number)
            return fetch(site, "/echo", "POST", body).body == body

        assert fetch(site, "/env").status == 200
        # With many more at once it answers some with a 500 of its own, see SharingChecks.
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert all(pool.map(upload, range(32)))


class TestHAProxy(HAProxyChecks):
    """As ``fastfcgi config haproxy`` says."""

    kind = "haproxy"
    column = "HAProxy"

    @refused("does not multiplex: a connection for each")
    def test_multiplexed(self, site: Site, app: App) -> None:
        self.check_not_multiplexed(site, app)


class SharingChecks(HAProxyChecks):
    """What they refuse where requests share connections."""

    # "IH" in its log; when many bodies at once fill the buffer of a connection.
    @refused("answers some of 50 at once with a 500 of its own; 8 at once are well")
    def test_parallel_clients(self, site: Site) -> None:
        self.check_clients(site, 8)


class TestMultiplexed(SharingChecks):
    """With ``option mpxs-conns``."""

    kind = "haproxy-mpxs"
    column = "HAProxy mpxs-conns"


class TestGetValues(SharingChecks):
    """With ``option get-values``: it asks by FCGI_GET_VALUES whether it may multiplex."""

    kind = "haproxy-get-values"
    column = "HAProxy get-values"
