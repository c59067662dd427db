"""`fastfcgi doctor URL --bind ADDRESS` finds nothing wrong where a web server is set up right."""

import contextlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("needs Linux, as all tests with real processes", allow_module_level=True)

import doctored
from doctored import doctor, examine

from fastfcgi import doctor_bodies

pytestmark = pytest.mark.webserver

Starter = Callable[[Path], AbstractContextManager[int]]

CADDY_ROOT = "transport fastcgi {\n root FOLDER\n }"
CADDY_WSGI = "transport fastcgi {\n root FOLDER\n split /wsgi\n }"
HAPROXY_ROOT = """path-info ^()(/.*)$
    pass-header Authorization
    option mpxs-conns
    option max-reqs 32"""

# Name -> what starts it, where the application is, the software that has to be recognised, and
# whether connections are kept.
RIGHT: dict[str, tuple[Starter, str, str, bool]] = {
    "nginx": (doctored.nginx, "", "nginx/", False),
    "nginx-wsgi": (
        lambda folder: doctored.nginx(
            folder,
            f"{doctored.NGINX_WSGI} fastcgi_keep_conn on; {doctored.TO_SOCKET}",
            path="/wsgi",
        ),
        *("/wsgi", "nginx/", True),
    ),
    "lighttpd": (doctored.lighttpd, "", "lighttpd/", False),
    "lighttpd-wsgi": (
        lambda folder: doctored.lighttpd(folder, "", "/wsgi"),
        *("/wsgi", "lighttpd/", False),
    ),
    "apache": (
        lambda folder: doctored.apache(folder, doctored.APACHE_ROOT + doctored.CGI_PASS_AUTH),
        *("", "Apache/", True),
    ),
    "apache-wsgi": (
        lambda folder: doctored.apache(folder, doctored.APACHE_WSGI),
        *("/wsgi", "Apache/", False),
    ),
    "haproxy": (
        lambda folder: doctored.haproxy(
            folder, HAPROXY_ROOT, more="use-fcgi-app app\n    http-reuse always"
        ),
        *("", "HAProxy ", True),
    ),
    "haproxy-wsgi": (
        lambda folder: doctored.haproxy(
            folder, "path-info ^(/wsgi)(/.*)?$\n    pass-header Authorization"
        ),
        *("/wsgi", "HAProxy ", True),
    ),
    "caddy": (lambda folder: doctored.caddy(folder, CADDY_ROOT), "", "Caddy/", False),
    "caddy-wsgi": (
        lambda folder: doctored.caddy(folder, CADDY_WSGI, "/wsgi*"),
        *("/wsgi", "Caddy/", False),
    ),
    "h2o": (doctored.h2o, "", "h2o/", False),
}

# What has to have been looked at, whatever the answer.
KEYS = {
    *("reached", "paths", "space", "percent", "utf-8", "plus", "query", "scheme", "host", "remote"),
    *("authorization", "repeated", "httpoxy", "request-header", "methods", "body", "chunked"),
    *("request-buffering", "buffering", "head", "statuses", "response-header", "cookies"),
    *("errors", "connections"),
}


@pytest.mark.parametrize("name", [name for name in RIGHT if RIGHT[name][1]])
def test_nothing_is_wrong_below_a_path(name: str, folder: Path) -> None:
    start, mount, software, _ = RIGHT[name]
    with start(folder) as port:
        found = examine(folder, port, mount)
    assert found.wrong == []
    assert f" by {software}" in found.one("reached", "ok")["text"]


@pytest.mark.parametrize("name", [name for name in RIGHT if not RIGHT[name][1]])
def test_nothing_is_wrong(name: str, folder: Path) -> None:
    """The whole examination, by the command."""
    start, _, software, keeps = RIGHT[name]
    with start(folder) as port:
        found = doctor(f"http://127.0.0.1:{port}/", "--bind", f"unix:{folder}/app.sock")
    assert found.wrong == []
    assert KEYS - {one["key"] for one in found.findings} == set()
    assert f" by {software}" in found.one("reached", "ok")["text"]
    connections = found.one("connections", "ok" if keeps else "note")["text"]
    assert ("at once on one" in connections) == (name == "haproxy")
    bodies = [one["text"] for one in found.findings if one["key"] == "body"]
    assert bodies == [f"a body of {size} arrives" for size in ("1000 bytes", "1 MiB", "20 MiB")]


def test_https(folder: Path) -> None:
    """A certificate that nobody has signed does not keep the doctor from asking."""
    with doctored.nginx(folder, tls=True) as port:
        found = examine(folder, port, scheme="https")
    assert found.wrong == []
    assert found.one("scheme", "ok")["text"] == "wsgi.url_scheme is https"
    assert "self" in found.one("certificate", "note")["text"]


@pytest.mark.parametrize(
    "start",
    [
        lambda folder: doctored.nginx(
            folder, f"{doctored.NGINX_ROOT} fastcgi_buffering off; {doctored.TO_SOCKET}"
        ),
        lambda folder: doctored.lighttpd(
            folder,
            more="server.stream-response-body = 2",
        ),
        lambda folder: doctored.apache(
            folder, doctored.APACHE_ROOT.replace("enablereuse=on", "flushpackets=on")
        ),
        lambda folder: doctored.caddy(folder, f"flush_interval -1\n {CADDY_ROOT}"),
    ],
    ids=["nginx", "lighttpd", "apache", "caddy"],
)
def test_streaming_as_advised(start: Starter, folder: Path) -> None:
    """What the doctor advises against buffering makes that note go away."""
    with start(folder) as port:
        found = examine(folder, port, "", "check_streaming")
    found.one("buffering", "ok")


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (doctored.nginx, "kept by the web server"),
        (
            lambda folder: doctored.nginx(
                folder, f"{doctored.NGINX_ROOT} fastcgi_request_buffering off; {doctored.TO_SOCKET}"
            ),
            "passed on",
        ),
    ],
    ids=["on", "off"],
)
def test_request_buffering(
    start: Starter, says: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if says == "passed on":  # seen as soon as it is so, however slow this machine is
        monkeypatch.setattr(doctor_bodies, "_LOOKS", 300)
    with start(folder) as port:
        found = examine(folder, port, "", "check_request_buffering", "check_chunked")
    assert says in found.one("request-buffering", "note")["text"]
    found.one("chunked", "ok")


def test_a_port_of_tcp(folder: Path) -> None:
    """The probe is served at an address of TCP as well, and everything of it ends with the run."""
    from processes import accepts, free_ports

    (free,) = free_ports(1)
    location = f"{doctored.NGINX_ROOT} fastcgi_pass 127.0.0.1:{free};"
    with doctored.nginx(folder, location) as port:
        found = doctor(f"http://127.0.0.1:{port}/", "--bind", f"127.0.0.1:{free}")
    assert found.wrong == []
    assert not accepts(("127.0.0.1", free))


def test_nothing_is_left(folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(doctored.nginx(folder))
        examine(folder, port, "", "check_query")
        assert not (folder / "app.sock").exists()
