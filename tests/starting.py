"""Front-end scripts and how they are started and asked, for the tests of every way to start one.

Who asks is cgi-fcgi, the FastCGI client of the reference implementation; as plain CGI, the script
itself.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checks_bodies import MEGABYTE, sha256
from http_client import HOST, Site, fetch
from processes import DEADLINE, Address, Process, require
from runtimes import own_runtime

FRONT_END = """
from apps import application
from fastfcgi import WSGIServer

WSGIServer(application).run()
"""


@dataclass(frozen=True)
class Response:
    """What came out of a CGI program."""

    head: list[str]
    body: bytes
    stderr: str
    code: int

    def json(self) -> Any:
        """The body of a 200 as JSON."""
        assert self.head[0] == "Status: 200 OK", (self.head, self.stderr)
        return json.loads(self.body)


def request_env(target: str, method: str = "GET", length: int | None = None) -> dict[str, str]:
    """The CGI variables of a request (RFC 3875)."""
    path, _, query = target.partition("?")
    env = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "/app",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": HOST,
    }
    return env if length is None else {**env, "CONTENT_LENGTH": str(length)}


def run_cgi(command: list[str], env: Mapping[str, str], body: bytes = b"") -> Response:
    """Run a CGI program to its end."""
    done = subprocess.run(command, input=body, env=env, capture_output=True, timeout=DEADLINE)
    head, _, content = done.stdout.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    return Response(lines, content, done.stderr.decode(errors="replace"), done.returncode)


def ask(address: Address, target: str, method: str = "GET", body: bytes = b"") -> Response:
    """Send a request to a FastCGI application by cgi-fcgi."""
    where = address if isinstance(address, str) else "{}:{}".format(*address)
    command = [require("cgi-fcgi"), "-bind", "-connect", where]
    return run_cgi(command, request_env(target, method, len(body) if body else None), body)


def start(folder: Path, *command: str | Path, **env: str) -> Process:
    """Start a command with what our own runtime needs in its environment, and env."""
    words = [str(word) for word in command]
    return Process(words, folder, Path(words[0]).name, {**own_runtime().env, **env})


def check_serves(site: Site) -> None:
    """A body up, one down, a failure."""
    body = os.urandom(MEGABYTE)
    answer = fetch(site, "/digest", "POST", body).json()
    assert answer == {"length": len(body), "sha256": sha256(body)}
    assert len(fetch(site, "/size/1000000").body) == 1000000
    head = fetch(site, "/size/1000", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert fetch(site, "/error").status == 500
    assert fetch(site, "/ignore", "POST", body).body == b"ignored"
