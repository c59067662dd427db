"""Flask as docs/applications/flask.md says, behind lighttpd and nginx at / and at a path."""

import hashlib
import os
import re
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
    spawned,
    web_server_of,
)
from http_client import HOST, Client, Site
from http_client import blocks as chunks
from processes import wait_until
from runtimes import Runtime
from test_docs import DOCS, blocks
from wire import Peer, cgi_params

pytestmark = pytest.mark.webserver

PAGE = DOCS / "applications" / "flask.md"

APPLICATION = """
import hashlib
import threading

from flask import Flask, redirect, request, send_file, stream_with_context, url_for

app = Flask(__name__)
released = threading.Event()


@app.get("/")
def index():
    return redirect(url_for("name", name="Ä b/50%41", _external=True))


@app.get("/name/<path:name>")
def name(name):
    return {"name": name, "link": url_for("name", name=name)}


@app.put("/upload")
def upload():
    digest, size = hashlib.sha256(), 0
    while block := request.stream.read(100_000):
        digest.update(block)
        size += len(block)
    return {"sha256": digest.hexdigest(), "size": size, "said": request.content_length}


@app.post("/form")
def form():
    file = request.files["file"]
    digest = hashlib.sha256(file.read()).hexdigest()
    return {"sha256": digest, "name": file.filename, "note": request.form["note"]}


@app.get("/file")
def file():
    return send_file("big.bin", as_attachment=True)


@app.get("/stream")
def stream():
    released.clear()

    @stream_with_context
    def lines():
        yield "first\\n"
        released.wait(300)
        yield request.args.get("last", "last") + "\\n"

    return lines(), {"X-Accel-Buffering": "no"}


@app.get("/release")
def release():
    released.set()
    return "released"


@app.get("/fails")
def fails():
    raise RuntimeError("this view fails")
"""

DEBUGGED = """
from fastfcgi import WSGIServer
from myapp import app
from werkzeug.debug import DebuggedApplication
app.debug = True
WSGIServer({}).run()
"""


@pytest.fixture(scope="module")
def python(module_folder: Path) -> Runtime:
    return application_python(module_folder, "Flask")


@pytest.fixture(scope="module")
def running(module_folder: Path, python: Runtime) -> Iterator[Application]:
    """Flask, running."""
    (module_folder / "myapp.py").write_text(APPLICATION)
    (module_folder / "big.bin").write_bytes(os.urandom(3 * MEGABYTE))
    script = documented_script(PAGE, 0, module_folder, python)
    with behind_web_servers(module_folder, [script], "flask", python.env) as application:
        yield application


@pytest.fixture(params=WAYS)
def client(request: pytest.FixtureRequest, running: Application) -> Iterator[Client]:
    with Client(running.sites[request.param]) as connection:
        yield connection


def test_links(client: Client) -> None:
    answer = client.fetch("/")
    assert answer.status == 302
    target = below_the_mount(client, answer)
    link = client.site.prefix + "/name/%C3%84%20b/50%2541"
    assert client.fetch(target).json() == {"name": "Ä b/50%41", "link": link}


def test_form_with_a_file(client: Client) -> None:
    content = os.urandom(MEGABYTE)
    body, headers = form_data({"note": "é€"}, "file", "some.bin", content)
    assert client.fetch("/form", "POST", body, headers).json() == {
        "sha256": hashlib.sha256(content).hexdigest(),
        "name": "some.bin",
        "note": "é€",
    }


@pytest.mark.parametrize("size", [0, 10, 3 * MEGABYTE])
@pytest.mark.parametrize("way", [*WAYS, "nginx-streamed"])
def test_upload_without_length(running: Application, way: str, size: int) -> None:
    """A chunked body. Only nginx without request buffering leaves its length open to Flask,

    and that only where the end of the body does not come with the request.
    """
    content = os.urandom(size)
    with Client(running.sites[way]) as client:
        answer = client.fetch("/upload", "PUT", chunks(content)).json()
    said = answer.pop("said")
    assert said == size or (said is None and way == "nginx-streamed")
    assert said is None or way != "nginx-streamed" or size < MEGABYTE
    assert answer == {"sha256": hashlib.sha256(content).hexdigest(), "size": size}


def test_ranges(client: Client, module_folder: Path) -> None:
    content = (module_folder / "big.bin").read_bytes()
    whole = client.fetch("/file")
    assert (whole.status, whole.body) == (200, content)
    [etag] = whole.all("ETag")
    part = client.fetch("/file", headers=[("Range", "bytes=1000000-1999999")])
    assert part.status == 206
    assert part.all("Content-Range") == [f"bytes 1000000-1999999/{len(content)}"]
    assert part.body == content[1000000:2000000]
    end = client.fetch("/file", headers=[("Range", "bytes=-5"), ("If-Range", etag)])
    assert (end.status, end.body) == (206, content[-5:])
    beyond = client.fetch("/file", headers=[("Range", f"bytes={len(content)}-")])
    assert beyond.status == 416
    same = client.fetch("/file", headers=[("If-None-Match", etag)])
    assert (same.status, same.body) == (304, b"")


@pytest.mark.parametrize("way", STREAMED)
def test_streaming(running: Application, way: str) -> None:
    first_before_last(running.sites[way])


def test_view_that_fails(client: Client, running: Application) -> None:
    """Flask writes the traceback to wsgi.errors, which is the web server's error log."""

    def told() -> int:
        return sum(server.log().count("this view fails") for server in running.servers)

    before = told()
    answer = client.fetch("/fails")
    assert answer.status == 500
    assert b"Internal Server Error" in answer.body
    assert b"RuntimeError" not in answer.body
    wait_until(lambda: told() > before, "the traceback in the web server's log")
    assert client.fetch("/missing").status == 404


@pytest.mark.parametrize(
    ("application", "shown"), [("app", False), ("DebuggedApplication(app)", True)]
)
def test_debug_mode(
    module_folder: Path, python: Runtime, running: Application, application: str, shown: bool
) -> None:
    """Only Werkzeug's middleware makes a page of a traceback; fastfcgi does not."""
    script = python.script(module_folder / "debugged.fcgi", DEBUGGED.format(application))
    with spawned(module_folder, [script], f"debugged-{shown}", python.env) as (_, address):
        with Peer(address) as peer:
            response = peer.request(cgi_params(path="/fails", HTTP_HOST="127.0.0.1"))
    assert response.status == 500
    assert (b"RuntimeError: this view fails" in response.body) == shown
    assert b"RuntimeError: this view fails" in response.stderr


# ---- what docs/applications.md says for all applications --------------------------------------

SHARED = DOCS / "applications.md"


@pytest.mark.parametrize(
    ("language", "number", "prefix"),
    [("lighttpd", 0, ""), ("lighttpd", 1, "/app"), ("nginx", 0, ""), ("nginx", 0, "/app")],
)
def test_configuration(
    running: Application, module_folder: Path, language: str, number: int, prefix: str
) -> None:
    block = blocks(SHARED, language)[number]
    with web_server_of(block, language, module_folder, running.address) as site:
        with Client(Site(language, site.port, prefix)) as client:
            name = client.fetch("/name/%C3%84%20b").json()
            assert name == {"name": "Ä b", "link": f"{prefix}/name/%C3%84%20b"}
            # X-Accel-Buffering is enough for nginx.
            if language == "nginx":
                first_before_last(client.site)


def test_streaming_by_lighttpd(running: Application, module_folder: Path) -> None:
    (line,) = set(re.findall(r"`(server\.stream-[^`]+)`", SHARED.read_text()))
    block = blocks(SHARED, "lighttpd")[0] + line
    with web_server_of(block, "lighttpd", module_folder, running.address) as site:
        first_before_last(site)


def test_port_in_redirects(running: Application, module_folder: Path) -> None:
    (line,) = re.findall(r"`(fastcgi_param HTTP_HOST [^`]+)`", SHARED.read_text())
    include = "include fastcgi_params;\n"
    block = blocks(SHARED, "nginx")[0].replace(include, f"{include} {line}\n")
    with web_server_of(block, "nginx", module_folder, running.address) as site:
        with Client(site) as client:
            location = client.fetch("/").all("Location")[0]
    assert location.startswith(f"http://{HOST}:{site.port}/name/")


def test_size_of_uploads(running: Application, module_folder: Path) -> None:
    (line,) = re.findall(r"`(client_max_body_size [^`]+)`", SHARED.read_text())
    include = "include fastcgi_params;\n"
    block = blocks(SHARED, "nginx")[0]
    for lines, status in ((block, 413), (block.replace(include, f"{include} {line}\n"), 200)):
        with web_server_of(lines, "nginx", module_folder, running.address) as site:
            with Client(site) as client:
                assert client.fetch("/upload", "PUT", bytes(2 * MEGABYTE)).status == status
