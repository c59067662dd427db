"""Django as docs/applications/django.md says, behind lighttpd and nginx at / and at a path."""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from application_sites import (
    MEGABYTE,
    STREAMED,
    Application,
    application_python,
    as_server_user,
    behind_web_servers,
    below_the_mount,
    cookies,
    documented_script,
    first_before_last,
    form_data,
    links_of,
    spawned,
    web_server_of,
)
from http_client import Client, Headers
from runtimes import Runtime
from test_docs import DOCS, blocks
from wire import Peer, cgi_params

pytestmark = pytest.mark.webserver

PAGE = DOCS / "applications" / "django.md"

# What the test adds to the settings of the page.
SETTINGS = """
import os
ALLOWED_HOSTS = ["127.0.0.1", "www.example.org"]
DEBUG = bool(os.environ.get("TEST_DEBUG"))
"""

URLS = """
from django.conf import settings
from django.contrib import admin
from django.urls import path, re_path
from django.views.static import serve

from mysite import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("upload", views.upload),
    path("file", views.file),
    path("stream", views.stream),
    path("release", views.release),
    path("fails", views.fails),
    path("name/<path:name>", views.name, name="name"),
    re_path("^static/(?P<path>.*)$", serve, {"document_root": settings.STATIC_ROOT}),
]
"""

VIEWS = """
import hashlib
import threading

from django.conf import settings
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt

released = threading.Event()


@csrf_exempt
def upload(request):
    [file] = request.FILES.values()
    digest = hashlib.sha256()
    for chunk in file.chunks():
        digest.update(chunk)
    return JsonResponse({
        "kind": type(file).__name__, "name": file.name, "size": file.size,
        "sha256": digest.hexdigest(), "note": request.POST["note"],
    })


def file(request):
    return FileResponse(open(settings.BASE_DIR / "big.bin", "rb"), as_attachment=True)


def stream(request):
    def lines():
        yield "first\\n"
        released.wait(300)
        yield "last\\n"
    return StreamingHttpResponse(lines(), headers={"X-Accel-Buffering": "no"})


def release(request):
    released.set()
    return HttpResponse("released")


def fails(request):
    raise RuntimeError("this view fails")


def name(request, name):
    return JsonResponse({"name": name, "link": reverse("name", args=[name])})
"""

# One process for all commands: most of the time goes into starting.
MANAGE = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
import django; django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
call_command("collectstatic", interactive=False, verbosity=0)
call_command("createsuperuser", username="admin", email="a@example.org", interactive=False)
"""


@pytest.fixture(scope="module")
def python(module_folder: Path) -> Runtime:
    return application_python(module_folder, "Django")


@pytest.fixture(scope="module")
def project(module_folder: Path, python: Runtime) -> Path:
    """The folder of the page's project, with our views and a superuser."""
    start = "from django.core.management import execute_from_command_line as run; import sys; run()"
    as_server_user(python, module_folder, "startproject", start, "startproject", "mysite", ".")
    package = module_folder / "mysite"
    with (package / "settings.py").open("a") as settings:
        settings.write(blocks(PAGE, "python")[0] + SETTINGS)
    (package / "urls.py").write_text(URLS)
    (package / "views.py").write_text(VIEWS)
    (module_folder / "big.bin").write_bytes(os.urandom(5 * MEGABYTE))
    env = {"DJANGO_SUPERUSER_PASSWORD": "secret"}
    as_server_user(python, module_folder, "manage", MANAGE, env=env)
    return module_folder


@pytest.fixture(scope="module")
def script(project: Path, python: Runtime) -> Path:
    return documented_script(PAGE, 1, project, python)


# A process for each mount point: the prefix of its first request goes into STATIC_URL.
@pytest.fixture(scope="module", params=["root", "path"])
def running(
    request: pytest.FixtureRequest, project: Path, script: Path, python: Runtime
) -> Iterator[Application]:
    """Django, running."""
    with behind_web_servers(project, [script], request.param, python.env) as application:
        yield application


@pytest.fixture(params=["lighttpd", "nginx"])
def client(request: pytest.FixtureRequest, running: Application) -> Iterator[Client]:
    with Client(running.sites[f"{request.param}-{running.process.name}"]) as connection:
        yield connection


# ---- admin ------------------------------------------------------------------------------------


def log_in(client: Client) -> Headers:
    """Log in to the admin site by its form; returns the header with the session's cookies."""
    login = "/admin/login/?next=" + client.site.prefix + "/admin/"
    answer = client.fetch(login)
    token = re.search(rb'name="csrfmiddlewaretoken" value="([^"]+)"', answer.body)
    form = {
        "csrfmiddlewaretoken": token[1].decode(),
        "username": "admin",
        "password": "secret",
        "next": client.site.prefix + "/admin/",
    }
    headers = [*cookies(answer), ("Content-Type", "application/x-www-form-urlencoded")]
    answer = client.fetch(login, "POST", urlencode(form).encode(), headers)
    assert (answer.status, below_the_mount(client, answer)) == (302, "/admin/"), answer
    return cookies(answer)


def test_admin(client: Client) -> None:
    prefix = client.site.prefix
    answer = client.fetch("/admin/")
    assert answer.status == 302
    assert below_the_mount(client, answer) == f"/admin/login/?next={prefix}/admin/"
    headers = log_in(client)
    text = client.fetch("/admin/", headers=headers).body.decode()
    assert "Site administration" in text
    assert f'href="{prefix}/admin/auth/user/"' in text
    text = client.fetch("/admin/auth/user/", headers=headers).body.decode()
    assert "a@example.org" in text
    assert all(link.startswith(prefix) for link in links_of(text))


def test_form_without_token(client: Client) -> None:
    form = urlencode({"username": "admin", "password": "secret"}).encode()
    headers = [("Content-Type", "application/x-www-form-urlencoded")]
    assert client.fetch("/admin/login/", "POST", form, headers).status == 403


def test_static_files(client: Client) -> None:
    text = client.fetch("/admin/login/").body.decode()
    [link] = re.findall(r'href="([^"]*/base\.css)"', text)
    assert link == client.site.prefix + "/static/admin/css/base.css"
    answer = client.fetch("/static/admin/css/base.css")
    assert (answer.status, answer.all("Content-Type")) == (200, ["text/css"])
    assert len(answer.body) > 10_000
    headers = [("If-Modified-Since", answer.all("Last-Modified")[0])]
    again = client.fetch("/static/admin/css/base.css", headers=headers)
    assert (again.status, again.body) == (304, b"")
    assert client.fetch("/static/admin/css/missing.css").status == 404


@pytest.mark.parametrize("language", ["lighttpd", "nginx"])
def test_static_files_by_the_web_server(running: Application, project: Path, language: str) -> None:
    """With the page's configuration; a file that only the web server can find."""
    extra = project / "static" / "not-collected.css"
    extra.write_text("body {}")
    (block,) = blocks(PAGE, language)
    with web_server_of(block, language, project, running.address) as site:
        with Client(site) as client:
            assert client.fetch("/static/not-collected.css").body == b"body {}"
            missing = client.fetch("/static/missing.css")
            assert missing.status == 404 and b"Not Found" in missing.body
            assert client.fetch("/admin/login/").status == 200
            assert client.fetch("/name/x").json()["link"] == "/name/x"


# ---- views ------------------------------------------------------------------------------------


def test_names_and_links(client: Client) -> None:
    answer = client.fetch("/name/%C3%84%20b/50%2541").json()
    link = client.site.prefix + "/name/%C3%84%20b/50%2541"
    assert answer == {"name": "Ä b/50%41", "link": link}


def test_upload(client: Client) -> None:
    content = os.urandom(4 * MEGABYTE)
    body, headers = form_data({"note": "é€"}, "file", "some.bin", content)
    assert client.fetch("/upload", "POST", body, headers).json() == {
        "kind": "TemporaryUploadedFile",
        "name": "some.bin",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "note": "é€",
    }


def test_file_response(client: Client, project: Path) -> None:
    content = (project / "big.bin").read_bytes()
    answer = client.fetch("/file")
    assert answer.all("Content-Length") == [str(len(content))]
    assert answer.all("Content-Disposition") == ['attachment; filename="big.bin"']
    assert answer.body == content
    answer = client.fetch("/file", "HEAD")
    assert (answer.all("Content-Length"), answer.body) == ([str(len(content))], b"")


@pytest.mark.parametrize("way", STREAMED)
def test_streaming(running: Application, way: str) -> None:
    first_before_last(running.sites[way])


def test_view_that_fails(client: Client, running: Application) -> None:
    before = running.process.log().count("RuntimeError: this view fails")
    answer = client.fetch("/fails")
    assert answer.status == 500
    assert b"Server Error (500)" in answer.body
    assert b"RuntimeError" not in answer.body
    assert running.process.log().count("RuntimeError: this view fails") > before
    assert client.fetch("/missing").status == 404


def test_debug_page(project: Path, script: Path, python: Runtime) -> None:
    env = {**python.env, "TEST_DEBUG": "1"}
    with spawned(project, [script], "debug", env) as (_, address), Peer(address) as peer:
        response = peer.request(cgi_params(path="/fails"))
    assert response.status == 500
    assert b"RuntimeError at /fails" in response.body
    assert b"wsgi.url_scheme" in response.body
