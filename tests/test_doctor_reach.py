"""`fastfcgi doctor URL --bind ADDRESS` says why no request reaches the application."""

import contextlib
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("needs Linux, as all tests with real processes", allow_module_level=True)

import doctored
from doctored import APACHE_ROOT, NGINX_ROOT, TO_SOCKET, examine
from http_client import HOST
from processes import AS_ROOT, SERVER_USER, free_ports
from test_doctor_wrong import Starter, mistakes, nginx

pytestmark = pytest.mark.webserver

# ------------------------------------------------------------------------------ not FastCGI


@mistakes(
    (
        "nginx-http",
        nginx("proxy_pass http://unix:FOLDER/app.sock;"),
        *("", "http-spoken", "fastcgi_pass unix:"),
    ),
    (
        "nginx-scgi",
        nginx("include /etc/nginx/scgi_params; scgi_pass unix:FOLDER/app.sock;"),
        *("", "scgi-spoken", "fastcgi_pass unix:"),
    ),
    (
        "nginx-uwsgi",
        nginx("include /etc/nginx/uwsgi_params; uwsgi_pass unix:FOLDER/app.sock;"),
        *("", "other-spoken", "fastcgi_pass unix:"),
    ),
    (
        "haproxy-http",
        lambda folder: doctored.haproxy(folder, "", "", "balance roundrobin"),
        *("", "http-spoken", "has to speak FastCGI"),
    ),
    (
        "haproxy-proxy",
        lambda folder: doctored.haproxy(folder, "", "proto fcgi send-proxy"),
        *("", "proxy-spoken", "no send-proxy"),
    ),
    (
        "caddy-http",
        lambda folder: doctored.caddy(folder, ""),
        *("", "http-spoken", "transport fastcgi"),
    ),
)
def test_another_protocol(start: Starter, mount: str, key: str, line: str, folder: Path) -> None:
    with start(folder) as port:
        found = examine(folder, port, mount)
    assert found.wrong == [key]
    assert line in found.advice(key)


# ------------------------------------------------------------------------------ not reached


@mistakes(
    (
        "a-file-is-wanted",
        nginx(f"try_files $uri =404; {NGINX_ROOT} {TO_SOCKET}"),
        *("", "not-reached", "nginx -T"),
    ),
    (
        "another-location",
        nginx(NGINX_ROOT + TO_SOCKET, "/elsewhere"),
        *("", "not-reached", "nginx -T"),
    ),
    (
        "forbidden",
        nginx(f"deny all; {NGINX_ROOT} {TO_SOCKET}"),
        *("", "not-reached", "nginx -T"),
    ),
    (
        "login",
        nginx(f"auth_basic x; auth_basic_user_file FOLDER/none; {NGINX_ROOT} {TO_SOCKET}"),
        *("", "login", "Switch that off"),
    ),
    (
        "redirect",
        nginx("return 301 https://www.example.org$request_uri;"),
        *("", "redirect", "Ask for that URL"),
    ),
    (
        "another-address",
        nginx(f"{NGINX_ROOT} fastcgi_pass unix:FOLDER/another.sock;"),
        *("", "no-connection", "is it the same"),
    ),
    (
        "lighttpd-another-address",
        lambda folder: doctored.lighttpd(
            folder, '"fix-root-scriptname" => "enable", "disable-time" => 0,', "/other"
        ),
        *("", "not-reached", "check-local"),
    ),
    (
        "apache-not-granted",
        lambda folder: doctored.apache(
            folder, f'{APACHE_ROOT} <Location "/">\nRequire all denied\n</Location>'
        ),
        *("", "not-reached", "Require all granted"),
    ),
)
def test_not_reached(start: Starter, mount: str, key: str, line: str, folder: Path) -> None:
    with start(folder) as port:
        found = examine(folder, port, mount)
    assert found.wrong == [key]
    assert line in found.advice(key)


def test_no_web_server(folder: Path) -> None:
    (port,) = free_ports(1)
    found = examine(folder, port)
    assert found.wrong == ["web-server"]
    assert "nobody listens" in found.one("web-server")["text"]


def test_no_tls(folder: Path) -> None:
    with doctored.nginx(folder) as port:
        found = examine(folder, port, scheme="https")
    assert found.wrong[:1] == ["web-server"]
    assert "Is it http" in found.advice("web-server")


def test_tls_where_http_is_asked(folder: Path) -> None:
    with doctored.nginx(folder, tls=True) as port:
        found = examine(folder, port)
    assert found.wrong == ["not-reached"]
    assert "is https asked for" in found.one("not-reached")["text"]


@pytest.mark.skipif(not AS_ROOT, reason="only root can close a folder to the web server")
def test_the_web_server_cannot_enter(folder: Path) -> None:
    """A folder that is root's alone, as many are in a home."""
    closed = folder / "closed"
    closed.mkdir(0o700)
    location = f"{NGINX_ROOT} fastcgi_pass unix:{closed}/app.sock;"
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(doctored.nginx(folder, location))
        url, bind = f"http://{HOST}:{port}", f"unix:{closed}/app.sock"
        found = doctored.doctor(url, "--bind", bind, "--web-user", SERVER_USER)
    assert found.wrong == ["no-connection", "directory"]
    assert "answered with 502" in found.one("no-connection")["text"]
    assert f"chmod o+x {closed}" in found.advice("directory")
