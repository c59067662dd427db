"""What web servers send by SCGI on what `fastfcgi config --protocol scgi` prints.

Who takes it here is a few lines that are no server of ours: it tells the pairs that it got.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_client import fetch
from processes import DEADLINE, require
from webservers import WEB_SERVERS, start

pytestmark = pytest.mark.webserver


def _answer(connection: socket.socket) -> None:
    """Take one request without a body: a netstring of pairs. Answer with them as JSON."""
    connection.settimeout(DEADLINE)
    with connection, connection.makefile("rb") as stream:
        digits = b""
        while (byte := stream.read(1)) != b":":
            digits += byte
        values = stream.read(int(digits)).decode("latin-1").split("\0")
        pairs = dict(zip(values[::2], values[1::2], strict=False))
        head = b"Status: 200 OK\r\nContent-Type: application/json\r\n\r\n"
        connection.sendall(head + json.dumps(pairs).encode())


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    """Where SCGI is answered."""
    path = str(folder / "scgi.sock")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    Path(path).chmod(0o666)
    listening.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):  # shut down at the end
            while True:
                _answer(listening.accept()[0])

    thread = threading.Thread(target=serve)
    thread.start()
    yield path
    listening.shutdown(socket.SHUT_RDWR)
    thread.join(DEADLINE)
    listening.close()


@pytest.mark.parametrize("mount", ["", "/wsgi"])
@pytest.mark.parametrize("name", ["nginx", "lighttpd", "apache"])
def test_paths(folder: Path, address: str, name: str, mount: str) -> None:
    """SCRIPT_NAME and PATH_INFO; from Apache the whole path as SCRIPT_NAME, as its comment says."""
    require(WEB_SERVERS[name].program)
    with start(name, folder, address, mount, protocol="scgi") as server:
        for target, path in {
            "/a%20b%2Fc?x=1": "/a b/c",
            "/": "/",
            "": "" if mount else "/",
        }.items():
            headers = [("Authorization", "Basic eDp5"), ("Proxy", "http://evil.example")]
            pairs = fetch(server.site, target, headers=headers).json()
            found = (pairs["SCRIPT_NAME"], pairs.get("PATH_INFO", ""))
            assert found == ((mount + path, "") if name == "apache" else (mount, path))
            assert pairs["REQUEST_URI"] == (mount + target or "/")
            assert (pairs["SCGI"], pairs["CONTENT_LENGTH"]) == ("1", "0")
            assert pairs["HTTP_AUTHORIZATION"] == "Basic eDp5"
            assert "HTTP_PROXY" not in pairs
