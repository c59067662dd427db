"""mount= behind the shortest configuration of each web server, at / and at /wsgi."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import test_matrix_caddy
import test_matrix_h2o
import test_matrix_lighttpd
from checks_environ import PathChecks
from fronts import App
from http_client import Site, fetch
from webserver_checks import InFront
from webservers import WebServer, start

pytestmark = pytest.mark.webserver

# The mount and the address in what is shortened.
_PLACEHOLDERS = re.compile(r"/run/app/app\.sock|127\.0\.0\.1:4000|(?<!/)/app(?![\w/.])")


class Shortest(PathChecks, InFront):
    """A configuration without a line about paths.

    Attributes:
        shortened: pattern of what is printed -> what is enough, at /app for /run/app/app.sock.
        sends_neighbours: whether a path that only begins like the mount is sent here too.
    """

    tells_mount = True
    shortened: ClassVar[Mapping[str, str]] = {}
    sends_neighbours: ClassVar[bool] = True

    @classmethod
    def start(cls, folder: Path, address: str, mount: str) -> WebServer:
        def placed(found: re.Match[str]) -> str:
            return (mount or "/") if found[0] == "/app" else address

        changed = {
            re.compile(pattern, re.MULTILINE): _PLACEHOLDERS.sub(placed, text)
            for pattern, text in cls.shortened.items()
        }
        return start(cls.kind, folder, address, mount, changed=changed, **cls.options)

    def test_outside_is_a_404(self, site: Site) -> None:
        """What the web server sends here though it is not below the mount."""
        if site.prefix:
            answer = fetch(site, "foo/env")
            assert answer.status == 404
            assert (b"no application at this path" in answer.body) == self.sends_neighbours

    def test_validator_is_content(self, site: Site, app: App) -> None:
        assert fetch(site, "/env").status == 200
        assert "AssertionError" not in app.log()


# The whole block that asks the application.
NGINX_BLOCK = r"^ +location (?:.|\n)*?^        \}$"
LIGHTTPD_BLOCK = r'^(?:\$HTTP\["url"\]|\w+\.server =)(?:.|\n)*\Z'
APACHE_BLOCK = r"^ +<Location (?:.|\n)*</Location>$"


class TestNginx(Shortest):
    kind = "nginx"
    shortened: ClassVar = {
        NGINX_BLOCK: """
        location /app {
            include /etc/nginx/fastcgi_params;
            fastcgi_pass unix:/run/app/app.sock;
        }"""
    }


class TestLighttpd(Shortest):
    kind = "lighttpd"
    shortened: ClassVar = {
        LIGHTTPD_BLOCK: """
fastcgi.server = ("/app" => (("socket" => "/run/app/app.sock", "check-local" => "disable")))
"""
    }
    test_byte_path = test_matrix_lighttpd.TestLighttpd.test_byte_path


class TestApache(Shortest):
    kind = "apache"
    shortened: ClassVar = {APACHE_BLOCK: 'ProxyPass "/app" "unix:/run/app/app.sock|fcgi://app/app"'}
    sends_neighbours = False


class TestHAProxy(Shortest):
    kind = "haproxy"
    shortened: ClassVar = {
        r"^ +(?:log-stderr|path-info|pass-header) .*\n": "",
        r"(?:^ +acl .*\n)*^ +(?:use|default)_backend .*": "    default_backend app",
    }
    test_cleaned_path = test_matrix_caddy.TestCaddy.test_cleaned_path


class TestCaddy(Shortest):
    kind = "caddy"
    shortened: ClassVar = {
        r"(?<= \{\n)\t(?:.|\n)*^(?=\}$)": """
    reverse_proxy /app* unix//run/app/app.sock {
        transport fastcgi
    }
"""
    }
    test_cleaned_path = TestHAProxy.test_cleaned_path


class TestH2O(Shortest):
    """What is printed has no line about paths."""

    kind = "h2o"
    sends_neighbours = False
    test_cleaned_path = test_matrix_h2o.TestH2O.test_cleaned_path
