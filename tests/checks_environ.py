"""Checks behind every web server: where the application is mounted, and what it is told."""

import os
import re

import pytest
from http_client import HOST, Client, Site, fetch
from matrix import row


def as_environ(text: str) -> str:
    """A text as it stands in an environ: its UTF-8 bytes, each a latin-1 character (PEP 3333)."""
    return text.encode().decode("latin-1")


class PathChecks:
    """SCRIPT_NAME, PATH_INFO and QUERY_STRING."""

    def check(self, site: Site, target: str, path_info: str) -> None:
        environ = fetch(site, target).json()
        assert environ["SCRIPT_NAME"] == site.prefix
        assert environ["PATH_INFO"] == path_info
        assert environ["QUERY_STRING"] == ""
        assert environ["REQUEST_URI"] == site.prefix + target

    @row("plain, percent-encoded and UTF-8 paths")
    @pytest.mark.parametrize(
        ("target", "path_info"),
        [
            ("/env/plain", "/env/plain"),
            ("/env/a/", "/env/a/"),
            ("/env/a%20b", "/env/a b"),
            ("/env/a+b;c=1,2", "/env/a+b;c=1,2"),
            ("/env/100%25", "/env/100%"),
            ("/env/%2541", "/env/%41"),
            ("/env/a%2Fb", "/env/a/b"),
            ("/", "/"),
        ],
    )
    def test_path(self, site: Site, target: str, path_info: str) -> None:
        self.check(site, target, path_info)

    @row("plain, percent-encoded and UTF-8 paths")
    @pytest.mark.parametrize(
        ("target", "path_info"),
        [
            ("/env/%E2%82%AC/%C3%A9", as_environ("/env/€/é")),
            ("/env/%f0%9f%90%8d%20%CE%BB", as_environ("/env/🐍 λ")),
        ],
    )
    def test_utf8_path(self, site: Site, target: str, path_info: str) -> None:
        self.check(site, target, path_info)

    @row("paths that are not UTF-8")
    def test_byte_path(self, site: Site) -> None:
        self.check(site, "/env/%FF", "/env/\xff")

    @row("double slashes and dots are resolved")
    @pytest.mark.parametrize(
        ("target", "cleaned"), [("/env//a///b", "/env/a/b"), ("/env/x/../a", "/env/a")]
    )
    def test_cleaned_path(self, site: Site, target: str, cleaned: str) -> None:
        self.check(site, target, cleaned)

    def check_slashes_are_kept(self, site: Site) -> None:
        self.check(site, "/env//a///b", "/env//a///b")

    def check_dots_are_kept(self, site: Site) -> None:
        self.check(site, "/env/x/../a", "/env/x/../a")

    @row("the bare mount; a path that only begins like it")
    def test_bare_mount(self, site: Site) -> None:
        environ = fetch(site, "").json()
        assert environ["SCRIPT_NAME"] == site.prefix
        assert environ["PATH_INFO"] == ("" if site.prefix else "/")

    @row("the bare mount; a path that only begins like it")
    def test_bare_mount_with_a_query(self, site: Site) -> None:
        environ = fetch(site, "?a=b").json()
        assert environ["SCRIPT_NAME"] == site.prefix
        assert environ["PATH_INFO"] == ("" if site.prefix else "/")
        assert environ["QUERY_STRING"] == "a=b"

    @row("the bare mount; a path that only begins like it")
    def test_neighbour(self, site: Site) -> None:
        if site.prefix:
            assert fetch(site, "-other/env").status in (403, 404, 503)
        else:
            assert fetch(site, "/wsgi-other").body == b"no such route"  # at / every path is

    @row("query strings")
    @pytest.mark.parametrize(
        "query", ["a=1", "a=%20b&c=%C3%A9", "x=//../y", "a?b", "%26=%3D", "", "q=" + "v" * 6000]
    )
    def test_query(self, site: Site, query: str) -> None:
        environ = fetch(site, "/env/q%20q?" + query).json()
        assert environ["QUERY_STRING"] == query
        assert environ["PATH_INFO"] == "/env/q q"


class EnvironChecks:
    """The rest of the environ."""

    @row("what PEP 3333 asks for")
    def test_always_there(self, site: Site) -> None:
        environ = fetch(site, "/env").json()
        assert environ["REQUEST_METHOD"] == "GET"
        assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
        assert environ["SERVER_NAME"]
        assert environ["SERVER_PORT"] == str(site.port)
        # The fastcgi_params of Debian's nginx leave the port out.
        assert environ["HTTP_HOST"] in (HOST, f"{HOST}:{site.port}")
        assert environ["REMOTE_ADDR"] == HOST
        assert environ["wsgi.version"] == [1, 0]
        assert environ["wsgi.url_scheme"] == "http"
        assert environ.get("HTTPS", "off") in ("off", "")
        assert environ["wsgi.multithread"] is True
        assert environ["wsgi.run_once"] is False
        assert environ["wsgi.input_terminated"] is True
        assert environ["CONTENT_LENGTH"] in ("", "0") if "CONTENT_LENGTH" in environ else True

    @row("what PEP 3333 asks for")
    def test_body_headers(self, site: Site) -> None:
        environ = fetch(site, "/env", "POST", b"{}", [("Content-Type", "text/x-test")]).json()
        assert environ["CONTENT_LENGTH"] == "2"
        assert environ["CONTENT_TYPE"] == "text/x-test"
        assert not {"HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE"} & set(environ)

    @row("what PEP 3333 asks for")
    @pytest.mark.parametrize("method", ["DELETE", "OPTIONS", "PATCH", "PROPFIND"])
    def test_method(self, site: Site, method: str) -> None:
        assert fetch(site, "/env", method).json()["REQUEST_METHOD"] == method

    @row("`HTTPS` and `wsgi.url_scheme` with TLS")
    def test_tls(self, tls_site: Site) -> None:
        body = os.urandom(100_000)
        with Client(tls_site) as client:
            environ = client.fetch("/env/a%20b?c=d").json()
            assert client.fetch("/echo", "POST", body).body == body
        assert environ["HTTPS"] == "on"
        assert environ["wsgi.url_scheme"] == "https"
        assert environ["SERVER_PORT"] == str(tls_site.port)
        assert environ["SCRIPT_NAME"] == tls_site.prefix
        assert environ["PATH_INFO"] == "/env/a b"

    @row("repeated headers, 60 headers")
    def test_repeated_header(self, site: Site) -> None:
        sent = [("X-Name", "a"), ("X-Other", "z"), ("X-Name", "b")]
        environ = fetch(site, "/env", headers=sent).json()
        assert environ["HTTP_X_NAME"].replace(", ", ",") == "a,b"
        assert environ["HTTP_X_OTHER"] == "z"

    @row("repeated headers, 60 headers")
    def test_cookies(self, site: Site) -> None:
        environ = fetch(site, "/env", headers=[("Cookie", "a=1"), ("Cookie", "b=2")]).json()
        # Some web servers join them themselves, and by a comma.
        assert re.fullmatch("a=1[;,] ?b=2", environ["HTTP_COOKIE"])

    @row("repeated headers, 60 headers")
    def test_many_headers(self, site: Site) -> None:
        sent = [(f"X-Number-{n}", "v" * 50) for n in range(60)]
        environ = fetch(site, "/env", headers=sent).json()
        assert all(environ[f"HTTP_X_NUMBER_{n}"] == "v" * 50 for n in range(60))

    # A line of 8 KB is what most of them take; PARAMS of more than 64 KB are cut into records.
    long_headers = tuple((f"X-Long-{n}", f"{n}" * 7900) for n in range(9))

    @row("72 KB of headers")
    def test_long_headers(self, site: Site) -> None:
        environ = fetch(site, "/env", headers=self.long_headers).json()
        assert all(environ[f"HTTP_X_LONG_{n}"] == f"{n}" * 7900 for n in range(9))

    @row("`Authorization` arrives")
    def test_authorization(self, site: Site) -> None:
        sent = [("Authorization", "Basic YTpi")]
        assert fetch(site, "/env", headers=sent).json()["HTTP_AUTHORIZATION"] == "Basic YTpi"

    @row("`Proxy` does not arrive (httpoxy)")
    def test_proxy_header_is_dropped(self, site: Site) -> None:
        environ = fetch(site, "/env", headers=[("Proxy", "http://evil.example")]).json()
        assert "HTTP_PROXY" not in environ

    @row("`X_Under_Score` arrives")
    def test_underscores(self, site: Site) -> None:
        environ = fetch(site, "/env", headers=[("X_Under_Score", "1"), ("X-Dash", "2")]).json()
        assert (environ["HTTP_X_UNDER_SCORE"], environ["HTTP_X_DASH"]) == ("1", "2")

    def check_underscores_are_dropped(self, site: Site) -> None:
        environ = fetch(site, "/env", headers=[("X_Under_Score", "1"), ("X-Dash", "2")]).json()
        assert "HTTP_X_UNDER_SCORE" not in environ
        assert environ["HTTP_X_DASH"] == "2"

    @row("20 requests on one client connection")
    def test_kept_client_connection(self, site: Site) -> None:
        with Client(site) as client:
            for n in range(20):
                environ = client.fetch(f"/env?{n}").json()
                assert environ["QUERY_STRING"] == str(n)
