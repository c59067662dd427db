"""SCGI end to end: nginx (scgi_pass), lighttpd (mod_scgi) and Apache (mod_proxy_scgi), each by its
shortest configuration (mount=): at / over TCP, and at /wsgi through a unix socket."""

import http.client
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import webservers
from http_client import HOST, Client, Site, fetch
from processes import Process, free_ports, require
from test_docs import DOCS, blocks
from webserver_checks import MEGABYTE, WebServerChecks, running_app, sha256
from webservers import MOUNT, WebServer

pytestmark = pytest.mark.webserver

SITES = ["root", "path"]
# Site -> host:port of the root's application, path of the other one's unix socket.
Addresses = Mapping[str, str]


def documented(language: str, changes: Mapping[str, str]) -> str:
    """The configuration of docs/scgi.md, with these texts in the place of those."""
    (block,) = blocks(DOCS / "scgi.md", language)
    for old, new in changes.items():
        assert block.count(old) == 1
        block = block.replace(old, new)
    return block


def nginx(folder: Path, addresses: Addresses) -> WebServer:
    temporary = "\n    ".join(
        f"{kind}_temp_path {folder}/nginx-{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )

    def server(site: Site) -> str:
        address = addresses[site.name]
        there = f"{'unix:' * address.startswith('/')}{address}"
        location = f"location {site.prefix or '/'} "
        block = documented("nginx", {"location /app ": location, "unix:/run/app/app.sock": there})
        block = block.replace("include ", "include /etc/nginx/")
        return f"server {{ listen {HOST}:{site.port}; {block} }}"

    def configure(sites: Mapping[str, Site]) -> str:
        return f"""
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_max_body_size 64m;
    {temporary}
    {webservers._each(sites, server)}
}}
"""

    command = [require("nginx"), "-e", "stderr", "-p", str(folder), "-c", "CONFIG"]
    return webservers._start(folder, command, SITES, configure)


def lighttpd(folder: Path, addresses: Addresses) -> WebServer:
    def settings(site: Site) -> str:
        address = addresses[site.name]
        host, _, port = address.rpartition(":")
        where = f'"host" => "{host}", "port" => {port}' if host else f'"socket" => "{address}"'
        socket = '"socket" => "/run/app/app.sock"'
        block = documented("lighttpd", {socket: where, '"/app"': f'"{site.prefix or "/"}"'})
        return f'$SERVER["socket"] == "{HOST}:{site.port}" {{ {block} }}'

    return webservers._lighttpd(folder, SITES, '"mod_scgi"', settings)


def apache(folder: Path, addresses: Addresses) -> WebServer:
    def virtual_host(site: Site) -> str:
        address, below = addresses[site.name], site.prefix or "/"
        there = f"unix:{address}|scgi://app" if address.startswith("/") else f"scgi://{address}"
        changes = {"scgi://127.0.0.1:4000/app": there + below, '"/app"': f'"{below}"'}
        return documented("apache", changes)

    return webservers._apache(folder, ["proxy", "proxy_scgi"], "", virtual_host)


STARTERS: dict[str, Callable[[Path, Addresses], WebServer]] = {
    "nginx": nginx,
    "lighttpd": lighttpd,
    "apache2": apache,
}


def kind_of(server: WebServer) -> str:
    """The key of its starter: its configuration is the last word of its command."""
    return Path(server.popen.args[-1]).stem  # type: ignore[index,arg-type]


@pytest.fixture(scope="module")
def apps(module_folder: Path) -> Iterator[dict[str, tuple[Process, str]]]:
    """The application of each site: its process and its address."""
    port = free_ports(1)[0]
    folders = {name: module_folder / name for name in SITES}
    for folder in folders.values():
        folder.mkdir()
        folder.chmod(0o755)
    # What says that it listens is a unix socket.
    bind = [f"unix:{folders['root']}/app.sock", f"{HOST}:{port}"]
    with (
        running_app(folders["root"], protocol="scgi", mount="/", bind=bind) as (root, _),
        running_app(folders["path"], protocol="scgi", mount=MOUNT) as path,
    ):
        yield {"root": (root, f"{HOST}:{port}"), "path": path}


@pytest.fixture(scope="module", params=list(STARTERS))
def server(
    request: pytest.FixtureRequest, module_folder: Path, apps: dict[str, tuple[Process, str]]
) -> Iterator[WebServer]:
    require(request.param)
    addresses = {name: address for name, (_, address) in apps.items()}
    with STARTERS[request.param](module_folder, addresses) as started:
        started.logs_stderr = False
        yield started


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest, server: WebServer) -> Site:
    return server.sites[request.param]


@pytest.fixture(params=SITES)
def big_site(request: pytest.FixtureRequest, server: WebServer) -> Site:
    return server.sites[request.param]


class TestScgi(WebServerChecks):
    @pytest.fixture
    def server(self, server: WebServer) -> WebServer:
        return server  # that of this file

    @pytest.fixture
    def app(self, request: pytest.FixtureRequest, apps: dict[str, tuple[Process, str]]) -> Process:
        names = [name for name in ("site", "big_site") if name in request.fixturenames]
        where = request.getfixturevalue(names[0]).name if names else "root"
        return apps[where][0]

    @pytest.mark.parametrize("size", [0, 3000])
    def test_chunked(self, site: Site, server: WebServer, size: int) -> None:
        """nginx and lighttpd wait for all of the body; mod_proxy_scgi takes none."""
        if kind_of(server) != "apache2":
            return super().test_chunked(site, size)
        with Client(site) as client:
            assert client.fetch("/digest", "POST", iter([b"x" * size])).status == 411

    @pytest.mark.parametrize("target", ["/error-late", "/short"])
    def test_incomplete_body_is_cut(
        self, site: Site, server: WebServer, app: Process, target: str
    ) -> None:
        if kind_of(server) != "apache2" or site.name == "root":
            return super().test_incomplete_body_is_cut(site, app, target)
        # It hands on no Content-Length, and the end of a unix socket is always the same.
        assert fetch(site, target).status == 200

    def test_unfinished_body_of_unknown_length(self, server: WebServer) -> None:
        """Over TCP it ends by a reset, which tells all but lighttpd."""
        site, close = server.sites["root"], [("Connection", "close")]
        if kind_of(server) == "lighttpd":
            assert fetch(site, "/error-late/open", headers=close).body == b"x" * 1000
            return
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            fetch(site, "/error-late/open", headers=close)

    def test_large_upload(self, site: Site) -> None:
        body = os.urandom(3 * MEGABYTE)
        answer = fetch(site, "/digest", "POST", body).json()
        assert answer == {"length": len(body), "sha256": sha256(body)}
