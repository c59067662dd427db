"""mount= behind the shortest configuration of each web server, at / and at /wsgi."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import webservers
from http_client import HOST, Client, Site, fetch
from processes import Process, require
from webserver_checks import PathChecks, running_app
from webservers import MOUNT, WebServer

pytestmark = pytest.mark.webserver

# Site -> the socket of the application that is mounted there.
Sockets = Mapping[str, str]
MOUNTS = {"root": "/", "path": MOUNT}


def nginx(folder: Path, sockets: Sockets) -> WebServer:
    temporary = "\n    ".join(
        f"{kind}_temp_path {folder}/nginx-{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )

    def server(site: Site) -> str:
        return f"""
    server {{
        listen {HOST}:{site.port};
        location {site.prefix or "/"} {{
            include /etc/nginx/fastcgi_params;
            fastcgi_pass unix:{sockets[site.name]};
        }}
    }}"""

    def configure(sites: Mapping[str, Site]) -> str:
        return f"""
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    {temporary}
    {webservers._each(sites, server)}
}}
"""

    command = [require("nginx"), "-e", "stderr", "-p", str(folder), "-c", "CONFIG"]
    return webservers._start(folder, command, MOUNTS, configure)


def lighttpd(folder: Path, sockets: Sockets) -> WebServer:
    def settings(site: Site) -> str:
        socket = sockets[site.name]
        return f"""
$SERVER["socket"] == "{HOST}:{site.port}" {{
    fastcgi.server = (
        "{site.prefix or "/"}" => (( "socket" => "{socket}", "check-local" => "disable" ))
    )
}}"""

    return webservers._lighttpd(folder, list(MOUNTS), '"mod_fastcgi"', settings)


def apache(folder: Path, sockets: Sockets) -> WebServer:
    def virtual_host(site: Site) -> str:
        there = f"unix:{sockets[site.name]}|fcgi://app{site.prefix or '/'}"
        return f'ProxyPass "{site.prefix or "/"}" "{there}"'

    return webservers._apache(folder, ["proxy", "proxy_fcgi"], "", virtual_host)


def haproxy(folder: Path, sockets: Sockets) -> WebServer:
    def settings(site: Site) -> str:
        return f"""
fcgi-app app-{site.name}
    docroot {folder}
frontend front-{site.name}
    bind {HOST}:{site.port}
    default_backend back-{site.name}
backend back-{site.name}
    use-fcgi-app app-{site.name}
    server app unix@{sockets[site.name]} proto fcgi
"""

    def configure(sites: Mapping[str, Site]) -> str:
        return f"""
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
{webservers._each(sites, settings)}
"""

    command = [require("haproxy"), "-db", "-f", "CONFIG"]
    server = webservers._start(folder, command, MOUNTS, configure)
    server.cleans_paths = False
    return server


def caddy(folder: Path, sockets: Sockets) -> WebServer:
    def block(site: Site) -> str:
        matcher = f"{site.prefix}*" if site.prefix else ""
        return f"""
http://:{site.port} {{
    bind {HOST}
    reverse_proxy {matcher} unix/{sockets[site.name]} {{
        transport fastcgi
    }}
}}"""

    def configure(sites: Mapping[str, Site]) -> str:
        return "{\n    admin off\n    auto_https off\n}\n" + webservers._each(sites, block)

    command = [require("caddy"), "run", "--config", "CONFIG", "--adapter", "caddyfile"]
    server = webservers._start(folder, command, MOUNTS, configure)
    server.cleans_paths = False
    return server


STARTERS: dict[str, Callable[[Path, Sockets], WebServer]] = {
    "nginx": nginx,
    "lighttpd": lighttpd,
    "apache2": apache,
    "haproxy": haproxy,
    "caddy": caddy,
}


@pytest.fixture(scope="module")
def apps(module_folder: Path) -> Iterator[dict[str, tuple[Process, str]]]:
    """An application for each mount: its process and its socket."""
    folders = {name: module_folder / name for name in MOUNTS}
    for folder in folders.values():
        folder.mkdir()
        folder.chmod(0o755)
    with (
        running_app(folders["root"], mount="/") as root,
        running_app(folders["path"], mount=MOUNT) as path,
    ):
        yield {"root": root, "path": path}


@pytest.fixture(scope="module", params=list(STARTERS))
def server(
    request: pytest.FixtureRequest, module_folder: Path, apps: dict[str, tuple[Process, str]]
) -> Iterator[WebServer]:
    require(request.param)
    start = STARTERS[request.param]
    with start(module_folder, {name: address for name, (_, address) in apps.items()}) as started:
        yield started


@pytest.fixture(params=list(MOUNTS))
def site(request: pytest.FixtureRequest, server: WebServer) -> Site:
    return server.sites[request.param]


class TestShortestConfigurations(PathChecks):
    def test_outside_is_a_404(self, server: WebServer) -> None:
        """What the web server sends here though it is not below the mount."""
        path = server.sites["path"]
        with Client(Site("outside", path.port, "")) as client:
            assert client.fetch(MOUNT + "/env").status == 200
            assert client.fetch(MOUNT + "foo/env").status == 404

    def test_validator_is_content(self, site: Site, apps: dict[str, tuple[Process, str]]) -> None:
        assert fetch(site, "/env").status == 200
        assert "AssertionError" not in apps[site.name][0].log()
