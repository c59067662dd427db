"""`fastfcgi doctor URL --bind ADDRESS` names each mistake in a web server's configuration, and
advises what puts it right."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("needs Linux, as all tests with real processes", allow_module_level=True)

import doctored
from doctored import (
    APACHE_ROOT,
    CGI_PASS_AUTH,
    HOST_LINE,
    NGINX_ROOT,
    NGINX_WSGI,
    TO_SOCKET,
    examine,
)
from http_client import HOST
from processes import free_ports

pytestmark = pytest.mark.webserver

INCLUDE = f"include /etc/nginx/fastcgi_params; {HOST_LINE}"
# The fewest that make a request of it.
MINIMAL = f"""fastcgi_param REQUEST_METHOD $request_method;
    fastcgi_param SCRIPT_NAME "";
    fastcgi_param PATH_INFO $fastcgi_script_name; {TO_SOCKET}"""

Starter = Callable[[Path], AbstractContextManager[int]]


def nginx(location: str, path: str = "/", **options: str) -> Starter:
    return lambda folder: doctored.nginx(folder, location, path=path, **options)  # type: ignore[arg-type]


def mistakes(
    *cases: tuple[str, Starter, str, str, str],
) -> "pytest.MarkDecorator":
    """Cases of: a name, what starts the web server, the mount, the key of the one thing that is
    wrong, and a line of the advice."""
    return pytest.mark.parametrize(
        ("start", "mount", "key", "line"), [case[1:] for case in cases], ids=[c[0] for c in cases]
    )


# ------------------------------------------------------------------------------------ paths


@mistakes(
    (
        "nginx-stock",
        nginx(INCLUDE + TO_SOCKET),
        *("", "script-name-whole", 'fastcgi_param SCRIPT_NAME "";'),
    ),
    (
        "nginx-without-SCRIPT_NAME",
        nginx(f"{INCLUDE} fastcgi_param PATH_INFO $fastcgi_script_name; {TO_SOCKET}"),
        *("", "script-name-whole", "fastcgi_param PATH_INFO $fastcgi_script_name;"),
    ),
    (
        "nginx-not-split",
        nginx(NGINX_ROOT + TO_SOCKET, "/wsgi"),
        *("/wsgi", "mount-not-split", "location ~ ^/wsgi(?<path_info>/.*)?$ {"),
    ),
    (
        "nginx-mount-lost",
        nginx(f"rewrite ^/wsgi(.*)$ $1 break; {NGINX_ROOT} {TO_SOCKET}", "/wsgi"),
        *("/wsgi", "mount-lost", "location ~ ^/wsgi(?<path_info>/.*)?$ {"),
    ),
    (
        "nginx-not-decoded",
        nginx(f"{NGINX_ROOT.replace('$fastcgi_script_name', '$request_uri')} {TO_SOCKET}"),
        *("", "path-not-decoded", "fastcgi_param PATH_INFO $fastcgi_script_name;"),
    ),
    (
        "nginx-fastcgi_index",
        nginx(f"fastcgi_index index.php; {NGINX_ROOT} {TO_SOCKET}"),
        *("", "top", "fastcgi_param PATH_INFO $fastcgi_script_name;"),
    ),
    (
        "nginx-rewritten",
        nginx(f"rewrite ^(.*)$ /index.php$1 break; {NGINX_ROOT} {TO_SOCKET}"),
        *("", "path-changed", "fastcgi_param PATH_INFO $fastcgi_script_name;"),
    ),
    (
        "lighttpd-without-fix-root-scriptname",
        lambda folder: doctored.lighttpd(folder, ""),
        *("", "first-segment", '"fix-root-scriptname" => "enable"'),
    ),
    (
        "lighttpd-another-key",
        lambda folder: doctored.lighttpd(folder),
        *("/wsgi", "mount-not-split", '"/wsgi" => (( "socket" => "'),
    ),
    (
        "apache-stock",
        lambda folder: doctored.apache(
            folder, f'ProxyPass "/" "unix:FOLDER/app.sock|fcgi://app/"\n{CGI_PASS_AUTH}'
        ),
        *("", "script-name-whole", 'ProxyFCGISetEnvIf "true" SCRIPT_NAME ""'),
    ),
    (
        "apache-stock-at-a-mount",
        lambda folder: doctored.apache(
            folder,
            '<Location "/wsgi">\nProxyPass "unix:FOLDER/app.sock|fcgi://app/wsgi"\nCGIPassAuth On\n'
            "</Location>",
        ),
        *("/wsgi", "script-name-whole", 'ProxyFCGISetEnvIf "true" SCRIPT_NAME "/wsgi"'),
    ),
    (
        "haproxy-without-path-info",
        lambda folder: doctored.haproxy(folder, "pass-header Authorization"),
        *("", "script-name-whole", "path-info ^()(/.*)$"),
    ),
    (
        "caddy-without-split",
        lambda folder: doctored.caddy(folder, "transport fastcgi {\n root FOLDER\n }", "/wsgi*"),
        *("/wsgi", "mount-not-split", "split /wsgi"),
    ),
    (
        "h2o-at-a-mount",
        lambda folder: doctored.h2o(folder, "/wsgi"),
        *("/wsgi", "mount-not-split", "--mount /wsgi"),
    ),
)
def test_paths(start: Starter, mount: str, key: str, line: str, folder: Path) -> None:
    with start(folder) as port:
        found = examine(folder, port, mount)
    assert found.wrong == [key]
    assert line in found.advice(key)


def test_decoded_twice(folder: Path) -> None:
    """A proxy that hands on the path decoded has it decoded once more."""
    (inner,) = free_ports(1)
    of_http = f"""server {{ listen {HOST}:{inner}; location / {{ {NGINX_ROOT} {TO_SOCKET} }} }}"""
    location = f"""proxy_pass http://{HOST}:{inner}$uri$is_args$args;
    proxy_set_header Host $http_host;"""
    inner_host = of_http.replace(HOST_LINE, "fastcgi_param HTTP_HOST $http_host;")
    with doctored.nginx(folder, location, of_http=inner_host) as port:
        found = examine(folder, port)
    # To send it decoded is wrong in itself: a space ends the path.
    assert found.wrong == ["path-refused", "path-decoded-twice"]


def test_advice_for_h2o(folder: Path) -> None:
    """The environ that is advised puts the application where it is."""
    from test_doctor import fastfcgi_serve

    options = ["--mount", "/wsgi"]
    with fastfcgi_serve(folder, *options) as token, doctored.h2o(folder, "/wsgi") as port:
        found = doctored.doctor(f"http://{HOST}:{port}/wsgi", "--token", token)
    assert found.wrong == []


# -------------------------------------------------------------- what else of a request is lost


@mistakes(
    (
        "query",
        nginx(f"{MINIMAL} {HOST_LINE}"),
        *("", "query-lost", "fastcgi_param QUERY_STRING $query_string;"),
    ),
    (
        "host-without-port",
        nginx(f"{NGINX_ROOT.replace(HOST_LINE, 'fastcgi_param HTTP_HOST $host;')} {TO_SOCKET}"),
        *("", "host-port", HOST_LINE),
    ),
    (
        "host",
        nginx(f"{NGINX_ROOT.replace(HOST_LINE, 'fastcgi_param HTTP_HOST x.org;')} {TO_SOCKET}"),
        *("", "host-changed", "proxy_set_header Host $http_host;"),
    ),
    (
        "apache-authorization",
        lambda folder: doctored.apache(folder, APACHE_ROOT),
        *("", "authorization-withheld", "CGIPassAuth On"),
    ),
    (
        "haproxy-authorization",
        lambda folder: doctored.haproxy(folder, "path-info ^()(/.*)$"),
        *("", "authorization-withheld", "pass-header Authorization"),
    ),
    (
        "headers",
        nginx(f"{NGINX_ROOT} fastcgi_pass_request_headers off; {TO_SOCKET}"),
        *("", "headers-lost", "fastcgi_pass_request_headers on;"),
    ),
    (
        "response-header",
        nginx(f"{NGINX_ROOT} {TO_SOCKET}", of_server="fastcgi_buffer_size 1k;"),
        *("", "response-header", "fastcgi_buffer_size 32k;"),
    ),
    (
        "response-header-lost",
        nginx(f"{NGINX_ROOT} fastcgi_hide_header X-Fill-0; {TO_SOCKET}"),
        *("", "response-header", ""),
    ),
    (
        "cookies-lost",
        nginx(f"{NGINX_ROOT} fastcgi_hide_header Set-Cookie; {TO_SOCKET}"),
        *("", "cookies", ""),
    ),
)
def test_requests(start: Starter, mount: str, key: str, line: str, folder: Path) -> None:
    with start(folder) as port:
        found = examine(folder, port, mount)
    assert found.wrong == [key]
    assert line in found.advice(key)


def test_https_missing(folder: Path) -> None:
    with doctored.nginx(folder, f"{MINIMAL} {HOST_LINE}", tls=True) as port:
        found = examine(folder, port, "", "check_scheme", scheme="https")
    assert found.wrong == ["https-missing"]
    assert "fastcgi_param HTTPS $https if_not_empty;" in found.advice("https-missing")


def test_a_check_that_is_not_possible(folder: Path) -> None:
    """The others are made nevertheless."""
    refused = "location /doctor/login { return 403; }"
    with doctored.nginx(folder, of_server=refused) as port:
        found = examine(folder, port, "", "check_authorization", "check_query")
    assert "403 Forbidden" in found.one("authorization-unknown", "note")["text"]
    found.one("query", "ok")


@pytest.mark.parametrize("advised", [False, True])
def test_https_behind_a_proxy(advised: bool, folder: Path) -> None:
    """TLS ends in one server, FastCGI begins in another one."""
    (inner,) = free_ports(1)
    of_http = f"""map $http_x_forwarded_proto $client_https {{ default ""; https on; }}
    server {{ listen {HOST}:{inner}; location / {{
        {NGINX_ROOT.replace(HOST_LINE, "fastcgi_param HTTP_HOST $http_host;")}
        {"fastcgi_param HTTPS $client_https if_not_empty;" if advised else ""} {TO_SOCKET} }} }}"""
    location = f"""proxy_pass http://{HOST}:{inner};
    proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto $scheme;"""
    with doctored.nginx(folder, location, of_http=of_http, tls=True) as port:
        found = examine(folder, port, scheme="https")
    if advised:
        assert found.wrong == []
        return
    assert found.wrong == ["https-missing"]
    assert "X-Forwarded-Proto says https" in found.one("https-missing")["text"]
    for line in ("map $http_x_forwarded_proto $client_https", "HTTPS $client_https if_not_empty"):
        assert line in found.advice("https-missing")


def test_https_always(folder: Path) -> None:
    with doctored.nginx(folder, f"{NGINX_ROOT} fastcgi_param HTTPS on; {TO_SOCKET}") as port:
        found = examine(folder, port, "", "check_scheme")
    found.one("https-always", "note")


@mistakes(
    (
        "slash",
        lambda folder: doctored.apache(
            folder, APACHE_ROOT.replace("AllowEncodedSlashes On", "") + CGI_PASS_AUTH
        ),
        *("", "slash", "AllowEncodedSlashes On"),
    ),
    (
        "methods",
        nginx(f"limit_except GET POST {{ deny all; }} {NGINX_ROOT} {TO_SOCKET}"),
        *("", "methods", "git"),
    ),
    (
        "intercepted",
        nginx(
            f"fastcgi_intercept_errors on; {NGINX_ROOT} {TO_SOCKET}",
            of_server="error_page 404 /gone.html; location = /gone.html { return 200 gone; }",
        ),
        *("", "intercepted", "fastcgi_intercept_errors off;"),
    ),
    (
        "response-header",
        nginx(f"{NGINX_ROOT} {TO_SOCKET}", of_server="fastcgi_buffer_size 4k;"),
        *("", "response-header", "fastcgi_buffer_size 32k;"),
    ),
    (
        "extension",
        nginx(
            NGINX_ROOT + TO_SOCKET,
            of_server=r"location ~ \.css$ { root FOLDER; }",
        ),
        *("", "extension", "serves such files"),
    ),
    (
        "request-header",
        nginx(
            NGINX_ROOT + TO_SOCKET,
            of_server="client_header_buffer_size 1k; large_client_header_buffers 2 2k;",
        ),
        *("", "request-header", "large_client_header_buffers 4 16k;"),
    ),
    (
        "neighbour",
        nginx(NGINX_WSGI + TO_SOCKET, "/wsgi"),
        *("/wsgi", "neighbour", ""),
    ),
    (
        "slashes",
        nginx(NGINX_ROOT + TO_SOCKET),
        *("", "slashes", ""),
    ),
)
def test_notes(start: Starter, mount: str, key: str, line: str, folder: Path) -> None:
    """What may be as it is."""
    with start(folder) as port:
        found = examine(folder, port, mount)
    assert found.wrong == []
    assert line in found.advice(key, "note")


# ----------------------------------------------------------------------------------- bodies


@mistakes(
    (
        "nginx-limit",
        nginx(NGINX_ROOT + TO_SOCKET, of_server="client_max_body_size 1k;"),
        *("", "body-limit", "client_max_body_size 64m;"),
    ),
    (
        "nginx-small-limit",
        nginx(NGINX_ROOT + TO_SOCKET, of_server="client_max_body_size 100;"),
        *("", "body-limit", "client_max_body_size 64m;"),
    ),
    (
        "nginx-no-body",
        nginx(f"fastcgi_pass_request_body off; {NGINX_ROOT} {TO_SOCKET}"),
        *("", "body-empty", "fastcgi_pass_request_body"),
    ),
    (
        "lighttpd-limit",
        lambda folder: doctored.lighttpd(folder, more="server.max-request-size = 16"),
        *("", "body-limit", "server.max-request-size = 65536"),
    ),
    (
        "nginx-no-length",
        nginx(
            f"{NGINX_ROOT} fastcgi_param CONTENT_LENGTH 10; {TO_SOCKET}",
            of_server="client_max_body_size 64m;",
        ),
        *("", "body-changed", "fastcgi_param CONTENT_LENGTH $content_length;"),
    ),
)
def test_bodies(start: Starter, mount: str, key: str, line: str, folder: Path) -> None:
    with start(folder) as port:
        found = examine(folder, port, mount, "check_bodies")
    assert found.wrong == [key]
    assert line in found.advice(key)
    if key == "body-changed":
        assert "arrives with 10 bytes" in found.one(key)["text"]


def test_a_large_body_may_be_refused(folder: Path) -> None:
    """nginx takes 1 MiB as it comes."""
    with doctored.nginx(folder, of_server="") as port:
        found = examine(folder, port, "", "check_bodies")
    assert found.wrong == []
    assert "a body of 20 MiB is refused" in found.one("body-limit", "note")["text"]


@mistakes(
    (
        "haproxy-400",
        lambda folder: doctored.haproxy(folder, "path-info ^()(/.*)$"),
        *("", "100 KiB is refused: the web server answers 400", ""),
    ),
)
def test_chunked(start: Starter, mount: str, key: str, line: str, folder: Path) -> None:
    with start(folder) as port:
        found = examine(folder, port, mount, "check_chunked")
    assert key in found.one("chunked", "note")["text"]
