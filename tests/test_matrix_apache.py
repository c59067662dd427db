"""End to end through Apache: mod_proxy_fcgi, and mod_fcgid, which starts the application itself."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from fronts import App, Front, started_by
from http_client import Site, fetch
from matrix import refused
from processes import wait_until
from webserver_checks import WebServerChecks
from webservers import start

pytestmark = pytest.mark.webserver


class TestProxyFcgi(WebServerChecks):
    """As ``fastfcgi config apache`` says: FastCGI connections are kept."""

    kind = "apache"
    column = "Apache mod_proxy_fcgi"

    @refused("drops it")
    def test_underscores(self, site: Site) -> None:
        self.check_underscores_are_dropped(site)

    @refused("does not multiplex: a connection for each")
    def test_multiplexed(self, site: Site, app: App) -> None:
        self.check_not_multiplexed(site, app)


SCRIPT = """
from apps import application
from fastfcgi import WSGIServer

WSGIServer(application).run()
"""


class TestFcgid(WebServerChecks):
    """As ``fastfcgi config apache-fcgid`` says: Apache starts and ends the processes."""

    kind = "apache-fcgid"
    column = "Apache mod_fcgid"
    # A hundred processes, as it would start, take more time than all of the checks; and after some
    # that have ended it would make a pause.
    options: ClassVar = {
        "changed": {
            "ServerRoot": "FcgidSpawnScoreUpLimit 100000\nServerRoot",
            "FcgidMaxRequestLen": "FcgidMaxProcessesPerClass 4\nFcgidMaxRequestLen",
        }
    }

    @classmethod
    @contextlib.contextmanager
    def run(cls, request: pytest.FixtureRequest, folder: Path, mount: str) -> Iterator[Front]:
        python = request.getfixturevalue("public_python")
        script = python.script(folder / "app.fcgi", SCRIPT)
        options = {"script": script, "env": python.env}
        with start(cls.kind, folder, None, mount, **cls.options, **options) as server:
            app = started_by(server, script)
            yield Front(server, app, options=options)
            server.stop()
            wait_until(lambda: not app.pids(), "the application to end")

    @refused("drops it")
    def test_underscores(self, site: Site) -> None:
        self.check_underscores_are_dropped(site)

    @refused("answers 500 beyond 64 KB")
    def test_long_headers(self, site: Site) -> None:
        assert fetch(site, "/env", headers=self.long_headers).status == 500

    # It holds 64 KB back (FcgidOutputBufferSize), so these failures are in time.
    @refused("answers 500, because it holds back 64 KB of a response")
    @pytest.mark.parametrize("target", ["/error-late", "/short"])
    def test_incomplete_body_is_cut(self, site: Site, app: App, target: str) -> None:
        assert fetch(site, target).status == 500

    @refused("answers 500, because it holds back 64 KB of a response")
    def test_unfinished_body_of_unknown_length(self, site: Site) -> None:
        assert fetch(site, "/error-late/open").status == 500

    @refused("opens a connection for each request")
    def test_connections_are_kept(self, site: Site) -> None:
        self.check_connection_per_request(site)

    @refused("gives a process one request at a time")
    def test_slow_requests_at_once(self, site: Site, app: App) -> None:
        self.check_one_at_a_time(site)

    @refused("gives a process one request at a time")
    def test_multiplexed(self, site: Site, app: App) -> None:
        self.check_one_at_a_time(site)
