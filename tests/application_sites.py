"""Start real applications by spawn-fcgi, each behind lighttpd and nginx at / and at a path."""

import contextlib
import importlib.metadata
import os
import re
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

if sys.platform != "linux":
    pytest.skip("needs Linux, as all tests with real processes", allow_module_level=True)

import pwd

from checks_bodies import MEGABYTE as MEGABYTE
from http_client import HOST, Answer, Client, Headers, Site
from packaging.requirements import Requirement
from processes import SERVER_USER, Process, free_ports, give_to_server, missing, require
from runtimes import Runtime, public_runtime
from test_docs import blocks
from webservers import start

# The web servers in front of one socket; "path" is below MOUNT.
WAYS = ["lighttpd-root", "lighttpd-path", "nginx-root", "nginx-path"]
# Those that pass on each block of a response, and of a request, as it comes.
STREAMED = ["lighttpd-streamed", "nginx-streamed"]
MOUNT = "/app"


@dataclass(frozen=True)
class Application:
    """A running application and the web servers in front of it."""

    process: Process
    address: str
    sites: Mapping[str, Site]
    servers: Sequence[Process]

    def log(self) -> str:
        """What the application wrote to its stderr, and the web servers to theirs."""
        return "".join(process.log() for process in (self.process, *self.servers))


def with_what_they_need(names: Sequence[str]) -> list[str]:
    """Installed distributions and all that they require, without extras.

    The test is skipped (in CI: failed) where one is not installed.
    """
    found: dict[str, None] = {}
    ahead = list(names)
    while ahead:
        name = ahead.pop()
        if name in found:
            continue
        found[name] = None
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            missing(f"the distribution {name}")
        for requirement in map(Requirement, required):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                ahead.append(requirement.name)
    return list(found)


def application_python(folder: Path, *distributions: str) -> Runtime:
    """A Python for SERVER_USER with fastfcgi and these distributions, and what they require."""
    return public_runtime(folder, with_what_they_need(distributions))


@contextlib.contextmanager
def in_front(folder: Path, address: str) -> Iterator[tuple[dict[str, Site], list[Process]]]:
    """lighttpd and nginx in front of a unix socket: sites by the names in WAYS and STREAMED."""
    with contextlib.ExitStack() as stack:
        sites: dict[str, Site] = {}
        servers: list[Process] = []
        for way in (*WAYS, *STREAMED):
            name, _, kind = way.partition("-")
            mount = MOUNT if kind == "path" else ""
            server = start(name, folder, address, mount, stream=kind == "streamed")
            servers.append(stack.enter_context(server))
            sites[way] = server.site
        yield sites, servers


@contextlib.contextmanager
def spawned(
    folder: Path, command: Sequence[str | Path], name: str, env: Mapping[str, str]
) -> Iterator[tuple[Process, str]]:
    """A front end by spawn-fcgi as SERVER_USER; yields its process and the path of its socket.

    Its log is NAME.log in the folder. At the end it gets a TERM and must exit with status 0.
    """
    address = str(folder / f"{name}.sock")
    who = ["-u", SERVER_USER] if SERVER_USER else []
    words = [require("spawn-fcgi"), "-n", "-s", address, *who, "--", *map(str, command)]
    with Process(words, folder, name, env) as process:
        process.wait_for(address)
        if SERVER_USER:
            assert os.stat(f"/proc/{process.pid}").st_uid == pwd.getpwnam(SERVER_USER).pw_uid
        yield process, address
        assert process.stop(signal.SIGTERM) == 0, process.log()


@contextlib.contextmanager
def behind_web_servers(
    folder: Path, command: Sequence[str | Path], name: str, env: Mapping[str, str]
) -> Iterator[Application]:
    """A front end, spawned, and web servers in front of it."""
    place = folder / f"{name}-sites"
    place.mkdir()
    give_to_server(place)
    with spawned(folder, command, name, env) as (process, address):
        with in_front(place, address) as (sites, servers):
            yield Application(process, address, sites, servers)


# ---- what the pages of docs/applications say --------------------------------------------------


def documented_script(
    page: Path, number: int, folder: Path, python: Runtime, name: str = "app.fcgi"
) -> Path:
    """A page's Python block of that number as a front-end script; only its folder changes."""
    first, _, rest = blocks(page, "python")[number].partition("\n")
    assert first == "#!/srv/app/venv/bin/python"
    return python.script(folder / name, rest.replace("/srv/app/", f"{folder}/"))


def as_server_user(
    python: Runtime,
    folder: Path,
    name: str,
    code: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run Python code in the folder as the user that the front end will run as."""
    command = [python.python, "-c", code, *arguments]
    with Process(command, folder, name, {**python.env, **(env or {})}, SERVER_USER) as process:
        assert process.wait() == 0, process.log()


LIGHTTPD = f"""server.bind = "{HOST}"
server.port = PORT
server.document-root = "/srv/app/"
server.upload-dirs = ( "/srv/app/" )
mimetype.assign = ( ".css" => "text/css" )
"""

NGINX = f"""daemon off;
pid /srv/app/nginx.pid;
error_log stderr;
events {{}}
http {{ access_log off;
types {{ text/css css; }} TEMPORARY server {{ listen {HOST}:PORT; BLOCK }} }}
"""


@contextlib.contextmanager
def web_server_of(block: str, language: str, folder: Path, address: str) -> Iterator[Site]:
    """lighttpd or nginx with a page's lines for it, their folder and socket replaced."""
    if language == "lighttpd":
        config, command = LIGHTTPD + block, ["-D", "-f"]
    else:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = " ".join(f"{kind}_temp_path /srv/app/{kind};" for kind in kinds)
        block = block.replace("include fastcgi_params", "include /etc/nginx/fastcgi_params")
        config = NGINX.replace("TEMPORARY", temporary).replace("BLOCK", block)
        command = ["-e", "stderr", "-p", str(folder), "-c"]
    (port,) = free_ports(1)
    config = config.replace("/srv/app/", f"{folder}/").replace("/run/app.sock", address)
    path = folder / f"page-{language}.conf"
    path.write_text(config.replace("PORT", str(port)))
    words = [require(language), *command, str(path)]
    with Process(words, folder, f"page-{language}", user=SERVER_USER) as server:
        server.wait_for((HOST, port))
        yield Site(language, port, "")


# ---- what browsers send -----------------------------------------------------------------------


def form_data(
    fields: Mapping[str, str], name: str, filename: str, content: bytes
) -> tuple[bytes, Headers]:
    """A form with one file as multipart/form-data: its body, and the headers that go with it."""
    boundary = f"----{uuid.uuid4().hex}"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        for field, value in fields.items()
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = "".join(parts).encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return body, [("Content-Type", f"multipart/form-data; boundary={boundary}")]


def cookies(answer: Answer) -> Headers:
    """The header that sends an answer's cookies back."""
    return [("Cookie", "; ".join(value.partition(";")[0] for value in answer.all("Set-Cookie")))]


def links_of(text: str) -> list[str]:
    """Where a page leads within its host: the paths of links, scripts, styles, images, forms."""
    return re.findall(r'(?:href|src|action)="(/[^"]*)"', text)


def below_the_mount(client: Client, answer: Answer) -> str:
    """The target below the mount point that an answer's Location leads to."""
    [location] = answer.all("Location")
    url = urlsplit(location)
    if url.netloc:
        # Newer fastcgi_params of Debian's nginx say the host without its port.
        assert (url.scheme, url.hostname) == ("http", HOST), location
        assert url.port in (None, client.site.port), location
    assert url.path.startswith(client.site.prefix + "/"), location
    target = url.path.removeprefix(client.site.prefix)
    return f"{target}?{url.query}" if url.query else target


def first_before_last(site: Site) -> None:
    """/stream gives "first" at once, and "last" only when /release was asked for."""
    with Client(site) as client, Client(site) as other:
        response = client.start("/stream")
        assert (response.status, response.readline()) == (200, b"first\n")
        assert other.fetch("/release").body == b"released"
        assert response.read() == b"last\n"
