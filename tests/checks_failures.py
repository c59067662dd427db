"""Checks behind every web server: applications that go wrong."""

import http.client
import uuid

import pytest
from fronts import App
from http_client import Client, Site, fetch
from matrix import row
from webservers import WebServer


class FailureChecks:
    """Applications that fail."""

    @row("an exception is a 500, and in the log")
    def test_exception_is_a_500(self, site: Site, app: App) -> None:
        text = uuid.uuid4().hex
        answer = fetch(site, f"/error?text={text}")
        assert answer.status == 500
        assert text.encode() not in answer.body, "the traceback is shown to the world"
        app.wait_for_log(text)

    @row("a response that ends before its Content-Length is cut")
    @pytest.mark.parametrize("target", ["/error-late", "/short"])
    def test_incomplete_body_is_cut(self, site: Site, app: App, target: str) -> None:
        text = uuid.uuid4().hex
        # A client that keeps its connection would have to wait for nginx's keepalive_timeout.
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            fetch(site, f"{target}?text={text}", headers=[("Connection", "close")])
        assert fetch(site, "/env").status == 200
        if target == "/error-late":
            app.wait_for_log(text)

    @row("an exception cuts a response without Content-Length")
    def test_unfinished_body_of_unknown_length(self, site: Site) -> None:
        """Closed without END_REQUEST; nothing else could tell that there should have been more."""
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            fetch(site, "/error-late/open", headers=[("Connection", "close")])

    def check_unfinished_looks_complete(self, site: Site) -> None:
        answer = fetch(site, "/error-late/open", headers=[("Connection", "close")])
        assert (answer.status, answer.body) == (200, b"x" * 1000)

    @row("a response beyond its Content-Length is limited")
    def test_long_body_is_limited(self, site: Site) -> None:
        with Client(site) as client:
            assert client.fetch("/long").body == b"0123456789"
            assert client.fetch("/env").status == 200

    @row("header injection is a 500")
    @pytest.mark.parametrize("where", ["status", "name", "value", "newline", "nul"])
    def test_header_injection_is_refused(self, site: Site, where: str) -> None:
        answer = fetch(site, f"/bare/inject/{where}")
        assert answer.status == 500
        assert answer.all("X-Smuggled") == []

    @row("`wsgi.errors` is in the web server's log")
    def test_errors_reach_the_log(self, site: Site, server: WebServer) -> None:
        text = uuid.uuid4().hex
        assert fetch(site, f"/errors-log?text={text}").body == b"written"
        server.wait_for_log(text)

    @row("`wsgi.errors` of any length")
    @pytest.mark.parametrize("length", [1, 8, 1024, 17_000, 100_000])
    def test_errors_of_any_length(self, site: Site, server: WebServer, length: int) -> None:
        """HAProxy 2.6.12 crashes on STDERR records without padding, and on those above 16 KB."""
        for _ in range(2):
            assert fetch(site, f"/errors-log?length={length}").body == b"written"
        assert fetch(site, "/env").status == 200
        assert server.popen.poll() is None, server.log()[-5000:]
