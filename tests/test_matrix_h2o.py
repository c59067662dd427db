"""End to end through H2O, at / and at a path, where the application fixes SCRIPT_NAME."""

import pytest
from fronts import App
from http_client import Site
from matrix import refused
from webserver_checks import WebServerChecks

pytestmark = pytest.mark.webserver


class TestH2O(WebServerChecks):
    """As ``fastfcgi config h2o`` says: FastCGI connections are kept."""

    kind = "h2o"
    column = "H2O"

    @refused("resolves dots, and passes double slashes on")
    def test_cleaned_path(self, site: Site) -> None:
        self.check_slashes_are_kept(site)
        self.check(site, "/env/x/../a", "/env/a")

    @refused("takes the response for complete")
    def test_unfinished_body_of_unknown_length(self, site: Site) -> None:
        self.check_unfinished_looks_complete(site)

    @refused("does not multiplex: a connection for each")
    def test_multiplexed(self, site: Site, app: App) -> None:
        self.check_not_multiplexed(site, app)
