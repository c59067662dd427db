"""What has to hold behind every web server, at / and at a path: the checks, put together.

The class of tests of a web server inherits WebServerChecks, says which one it is, and overrides the
checks for what that web server itself refuses. ``make matrix`` makes a table of a run of them.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from checks_bodies import BodyChecks, ResponseChecks
from checks_environ import EnvironChecks, PathChecks
from checks_failures import FailureChecks
from checks_load import LoadChecks
from fronts import App, Front, running_app, served
from http_client import Site
from matrix import refusal_of, row_of
from webservers import WEB_SERVERS, WebServer, start


class InFront:
    """A web server in front of apps.py: the fixtures of checks. The fixture ``front`` starts both.

    Attributes:
        kind: the web server's name in WEB_SERVERS.
        options: for its starter.
        app_options: for WSGIServer.
        tells_mount: whether WSGIServer is told its mount, at / too.
        tcp: whether the web server finds the application at a port, in place of a unix socket.
    """

    kind: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    app_options: ClassVar[dict[str, Any]] = {}
    tells_mount: ClassVar[bool] = False
    tcp: ClassVar[bool] = False

    @classmethod
    @contextlib.contextmanager
    def run(cls, request: pytest.FixtureRequest, folder: Path, mount: str) -> Iterator[Front]:
        """Start the application, and the web server with it at the mount."""
        # Where the web server does not say where the application is, that has to be told.
        told = cls.tells_mount or (mount and WEB_SERVERS[cls.kind].needs_mount)
        options = {**cls.app_options, **({"mount": mount or "/"} if told else {})}
        with (
            running_app(folder, tcp=cls.tcp, **options) as (process, address),
            cls.start(folder, address, mount) as server,
        ):
            yield Front(server, served(process), address)
            # It ends first: with the idle connections that the web server keeps still open.
            assert process.stop() == 0, process.log()

    @classmethod
    def start(cls, folder: Path, address: str, mount: str) -> WebServer:
        """Start the web server."""
        return start(cls.kind, folder, address, mount, **cls.options)

    @pytest.fixture
    def server(self, front: Front) -> WebServer:
        return front.server

    @pytest.fixture
    def app(self, front: Front) -> App:
        return front.app

    @pytest.fixture
    def site(self, front: Front) -> Site:
        return front.server.site

    @pytest.fixture
    def tls_site(self, front: Front, site: Site, folder: Path) -> Iterator[Site]:
        """Another one of these web servers before the same application, with TLS."""
        options = {**self.options, **front.options, "tls": True}
        with start(self.kind, folder, front.address, site.prefix, **options) as server:
            yield server.site


class AllChecks(
    LoadChecks,
    FailureChecks,
    ResponseChecks,
    BodyChecks,
    EnvironChecks,
    PathChecks,
    InFront,
):
    """All of them."""

    def test_validator_is_content(self, server: WebServer, app: App) -> None:
        """Nothing that ran before has broken a rule that wsgiref.validate watches."""
        for log in (app.log(), server.log()):
            assert "AssertionError" not in log
            assert "without being closed" not in log


class WebServerChecks(AllChecks):
    """They are a column of the table. Its rows are in the order of the classes, reversed."""

    column: ClassVar[str]  # its title

    @pytest.fixture(autouse=True)
    def cell(
        self,
        request: pytest.FixtureRequest,
        record_property: Callable[[str, object], None],
        site: Site,
    ) -> None:
        """Note in the report of the run which cell of the table the test belongs to."""
        name = request.node.originalname
        if text := row_of(type(self), name):
            record_property("row", text)
            record_property("column", self.column)
            record_property("mount", site.prefix or "/")
            record_property("refused", refusal_of(type(self), name))
