"""Bottle with server="flup" as docs/applications/bottle.md says, behind lighttpd and nginx."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from application_sites import (
    MEGABYTE,
    STREAMED,
    WAYS,
    Application,
    application_python,
    behind_web_servers,
    below_the_mount,
    documented_script,
    first_before_last,
    form_data,
)
from http_client import Client
from processes import wait_until
from runtimes import Runtime
from test_docs import DOCS

pytestmark = pytest.mark.webserver

PAGE = DOCS / "applications" / "bottle.md"

APPLICATION = """
import hashlib
import threading

from bottle import Bottle, redirect, request, response, static_file

app = Bottle()
released = threading.Event()


@app.get("/")
def index():
    redirect("name/one")


@app.get("/name/<name:path>")
def name(name):
    return {"name": name, "link": app.get_url("/name/<name:path>", name=name), "url": request.url}


@app.post("/upload")
def upload():
    file = request.files.file
    digest = hashlib.sha256(file.file.read()).hexdigest()
    return {"sha256": digest, "name": file.filename, "note": request.forms.note}


@app.get("/static/<name>")
def static(name):
    return static_file(name, root=".", mimetype="application/octet-stream")


@app.get("/stream")
def stream():
    released.clear()
    response.headers["X-Accel-Buffering"] = "no"
    yield "first\\n"
    released.wait(300)
    yield "last\\n"


@app.get("/release")
def release():
    released.set()
    return "released"


@app.get("/fails")
def fails():
    raise RuntimeError("this view fails")
"""


@pytest.fixture(scope="module", params=["fastfcgi", "flup"])
def running(
    request: pytest.FixtureRequest, module_folder: Path, python: Runtime
) -> Iterator[Application]:
    """Bottle, running by either script of the page."""
    number = ["fastfcgi", "flup"].index(request.param)
    script = documented_script(PAGE, number, module_folder, python)
    command = [python.python, "-m", "fastfcgi.flup", script] if number else [script]
    with behind_web_servers(module_folder, command, request.param, python.env) as application:
        yield application


@pytest.fixture(scope="module")
def python(module_folder: Path) -> Runtime:
    (module_folder / "myapp.py").write_text(APPLICATION)
    (module_folder / "big.bin").write_bytes(os.urandom(2 * MEGABYTE))
    return application_python(module_folder, "bottle")


@pytest.fixture(params=WAYS)
def client(request: pytest.FixtureRequest, running: Application) -> Iterator[Client]:
    with Client(running.sites[request.param]) as connection:
        yield connection


def test_links(client: Client) -> None:
    answer = client.fetch("/")
    assert answer.status == 303
    assert below_the_mount(client, answer) == "/name/one"
    answer = client.fetch("/name/%C3%84%20b/50%2541").json()
    assert answer["name"] == "Ä b/50%41"
    assert answer["link"].startswith(client.site.prefix + "/name/")
    assert answer["url"].endswith(client.site.prefix + "/name/%C3%84%20b/50%2541")


def test_upload(client: Client) -> None:
    content = os.urandom(MEGABYTE)
    body, headers = form_data({"note": "é€"}, "file", "some.bin", content)
    assert client.fetch("/upload", "POST", body, headers).json() == {
        "sha256": hashlib.sha256(content).hexdigest(),
        "name": "some.bin",
        "note": "é€",
    }


def test_static_file(client: Client, module_folder: Path) -> None:
    content = (module_folder / "big.bin").read_bytes()
    whole = client.fetch("/static/big.bin")
    assert (whole.status, whole.body) == (200, content)
    part = client.fetch("/static/big.bin", headers=[("Range", "bytes=1000000-1999999")])
    assert (part.status, part.body) == (206, content[1000000:2000000])
    again = client.fetch("/static/big.bin", headers=[("If-None-Match", whole.all("ETag")[0])])
    assert (again.status, again.body) == (304, b"")
    assert client.fetch("/static/missing.bin").status == 404


@pytest.mark.parametrize("way", STREAMED)
def test_streaming(running: Application, way: str) -> None:
    first_before_last(running.sites[way])


def test_view_that_fails(client: Client, running: Application) -> None:
    """The traceback is in the web server's error log."""

    def told() -> int:
        return sum(server.log().count("this view fails") for server in running.servers)

    before = told()
    answer = client.fetch("/fails")
    assert answer.status == 500
    assert b"RuntimeError" not in answer.body
    wait_until(lambda: told() > before, "the traceback in the web server's log")
    assert client.fetch("/missing").status == 404
