"""End to end through lighttpd 1.4: at / and at /wsgi, bodies buffered and streamed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_client import Site, blocks, fetch
from processes import Process, require
from webserver_checks import MEGABYTE, WebServerChecks, running_app, sha256
from webservers import LIGHTTPD_SITES, WebServer, lighttpd

pytestmark = pytest.mark.webserver


@pytest.fixture(scope="module")
def running(module_folder: Path) -> Iterator[tuple[WebServer, Process]]:
    require("lighttpd")
    with running_app(module_folder) as (process, address):
        with lighttpd(module_folder, address) as started:
            yield started, process


@pytest.fixture(params=LIGHTTPD_SITES)
def site(request: pytest.FixtureRequest, running: tuple[WebServer, Process]) -> Site:
    return running[0].sites[request.param]


@pytest.fixture(params=["root", "path", "root-streamed"])
def big_site(request: pytest.FixtureRequest, running: tuple[WebServer, Process]) -> Site:
    return running[0].sites[request.param]


class TestLighttpd(WebServerChecks):
    # Streaming, lighttpd answers 411 unless the whole body comes with the header.
    @pytest.fixture(params=["root", "path"])
    def chunked_site(self, request: pytest.FixtureRequest, server: WebServer) -> Site:
        return server.sites[request.param]

    def test_large_chunked_upload(self, chunked_site: Site) -> None:
        body = os.urandom(3 * MEGABYTE)
        answer = fetch(chunked_site, "/digest", "POST", blocks(body, 50_000)).json()
        assert answer == {"length": len(body), "sha256": sha256(body)}
