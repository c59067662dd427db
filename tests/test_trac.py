"""Trac by spawn-fcgi -u, behind lighttpd and nginx: a front end of two lines, and Trac's own.

Trac's own is the script that `trac-admin deploy` writes, unchanged. With TRAC_USE_FLUP it imports
flup, which `python -m fastfcgi.flup` answers.
"""

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from application_sites import (
    MEGABYTE,
    WAYS,
    Application,
    application_python,
    behind_web_servers,
    below_the_mount,
    cookies,
    form_data,
    links_of,
    spawned,
)
from http_client import Answer, Client, Headers
from processes import SERVER_USER, Process, give_to_server, missing
from runtimes import Runtime
from wire import Peer, cgi_params

pytestmark = pytest.mark.webserver

FRONT_END = """
from trac.web.main import dispatch_request
from fastfcgi import WSGIServer; WSGIServer(dispatch_request, maxThreads=15).run()
"""

# A plugin of one file whose page fails.
FAILS = """
from trac.core import Component, implements
from trac.web.api import IRequestHandler

class Fails(Component):
    implements(IRequestHandler)

    def match_request(self, req):
        return req.path_info == "/fails"

    def process_request(self, req):
        raise RuntimeError("this page fails")
"""

# One process for all commands: most of trac-admin's time goes into starting.
ADMIN = """
import sys
from trac.admin.console import run
sys.exit(any(run([sys.argv[1], *command.split()]) for command in sys.argv[2:]))
"""

FORM = ("Content-Type", "application/x-www-form-urlencoded")


def trac_admin(python: Runtime, folder: Path, *commands: str) -> None:
    """Run commands of trac-admin as the user that the front end will run as."""
    command = [python.python, "-c", ADMIN, str(folder / "env"), *commands]
    with Process(command, folder, "trac-admin", python.env, SERVER_USER) as process:
        assert process.wait() == 0, process.log()


@pytest.fixture(scope="module")
def python(module_folder: Path) -> Runtime:
    """A Python with Trac."""
    if importlib.util.find_spec("pkg_resources") is None:
        missing("the module pkg_resources, which Trac 1.6 needs,")
    return application_python(module_folder, "Trac")


@pytest.fixture(scope="module")
def environment(module_folder: Path, python: Runtime) -> Path:
    """The folder of a Trac environment, env; what is deployed from it is in deployed."""
    commands = [
        "initenv Test sqlite:db/trac.db",
        "permission add anonymous TRAC_ADMIN",
        "config set attachment max_size 2000000",
        "config set logging log_type stderr",
        "config set logging log_level ERROR",
        f"deploy {module_folder}/deployed",
    ]
    trac_admin(python, module_folder, *commands)
    plugin = module_folder / "env" / "plugins" / "fails.py"
    plugin.write_text(FAILS)
    give_to_server(plugin)
    return module_folder


def front_end(kind: str, folder: Path, python: Runtime) -> tuple[list[str], dict[str, str]]:
    """The command of a front end, and its environment."""
    if kind == "fastfcgi":
        script = python.script(folder / "trac.fcgi", FRONT_END)
        return [str(script)], {**python.env, "TRAC_ENV": str(folder / "env")}
    places = {
        "deployed": folder / "deployed" / "cgi-bin" / "trac.fcgi",
        "module": Path(importlib.util.find_spec("trac").origin).parent / "web" / "fcgi_frontend.py",
    }
    command = [python.python, "-m", "fastfcgi.flup", str(places[kind])]
    return command, {**python.env, "TRAC_USE_FLUP": "1"}


@pytest.fixture(scope="module", params=["fastfcgi", "deployed"])
def running(
    request: pytest.FixtureRequest, environment: Path, python: Runtime
) -> Iterator[Application]:
    """Trac, running."""
    command, env = front_end(request.param, environment, python)
    with behind_web_servers(environment, command, f"trac-{request.param}", env) as application:
        yield application


@pytest.fixture(params=WAYS)
def client(request: pytest.FixtureRequest, running: Application) -> Iterator[Client]:
    with Client(running.sites[request.param]) as connection:
        yield connection


# ---- pages ------------------------------------------------------------------------------------


def page(client: Client, target: str) -> str:
    """A page, with all its links below the place where Trac is mounted."""
    answer = client.fetch(target)
    text = answer.body.decode()
    assert answer.status == 200, text
    prefix = client.site.prefix
    links = links_of(text)
    assert len(links) > 10
    assert [link for link in links if not link.startswith(prefix + "/")] == []
    assert {re.split("[/?#]", link)[1] for link in links if not prefix} <= TOP_LEVEL
    return text


# What Trac's links begin with at the root: an address of their own below it would be among these.
TOP_LEVEL = set(
    "about admin attachment chrome help login newticket prefs raw-attachment report roadmap "
    "query search ticket timeline wiki zip-attachment".split()
)


def token_and_cookie(client: Client, target: str) -> tuple[str, Headers]:
    """The form token of a page, and the cookie that belongs to it."""
    answer = client.fetch(target)
    token = re.search(rb'name="__FORM_TOKEN" value="([^"]+)"', answer.body)
    assert token, answer
    return token[1].decode(), cookies(answer)


def redirected_to(client: Client, answer: Answer) -> str:
    """The path below the mount point that a form's answer leads to."""
    assert answer.status in (302, 303), (answer.status, answer.body[:2000])
    return below_the_mount(client, answer)


def new_ticket(client: Client, summary: str) -> str:
    """Create a ticket by the form; returns its path."""
    token, cookie = token_and_cookie(client, "/newticket")
    form = urlencode(
        {
            "__FORM_TOKEN": token,
            "field_summary": summary,
            "field_description": "A description\r\nof two lines: é€",
            "field_type": "defect",
            "submit": "Create ticket",
        }
    )
    return redirected_to(client, client.fetch("/newticket", "POST", form.encode(), [*cookie, FORM]))


def attach(client: Client, ticket: str, filename: str, content: bytes) -> None:
    """Attach a file to a ticket by the form."""
    token, cookie = token_and_cookie(client, f"/attachment{ticket}?action=new")
    fields = {
        "__FORM_TOKEN": token,
        "action": "new",
        "realm": "ticket",
        "id": ticket.rpartition("/")[2],
        "description": "some bytes",
    }
    body, headers = form_data(fields, "attachment", filename, content)
    answer = client.fetch(f"/attachment{ticket}", "POST", body, [*cookie, *headers])
    redirected_to(client, answer)


def edit_page(client: Client, target: str, text: str) -> str:
    """Write a wiki page by the form; returns the path that leads to it."""
    token, cookie = token_and_cookie(client, f"{target}?action=edit")
    version = re.search(r'name="version" value="(\d+)"', page(client, f"{target}?action=edit"))
    form = {
        "__FORM_TOKEN": token,
        "action": "edit",
        "version": version[1] if version else "0",
        "text": text,
        "save": "Submit changes",
    }
    headers = [*cookie, FORM]
    return redirected_to(client, client.fetch(target, "POST", urlencode(form).encode(), headers))


def test_wiki_page(client: Client) -> None:
    assert "Welcome to Trac" in page(client, "/wiki")
    assert "WikiFormatting" in page(client, "/wiki/WikiFormatting")
    assert "No/Such Page" in page(client, "/wiki/No/Such%20Page")
    assert client.fetch("/ticket/99999").status == 404
    assert page(client, "")  # the bare mount point shows the start page


def test_wiki_page_by_form(client: Client) -> None:
    target = f"/wiki/%C3%84ndern/{client.site.name}%20{client.site.port}"
    text = "So '''fett''' wie é€.\n\n" + "Noch ein Wort.\n" * 2000
    assert edit_page(client, target, text) == target
    assert "So <strong>fett</strong> wie é€" in page(client, target)


def test_search(client: Client) -> None:
    text = page(client, "/search?q=WikiFormatting&wiki=on&noquickjump=1")
    assert f'href="{client.site.prefix}/wiki/WikiFormatting"' in text
    assert "No matches found" in page(client, "/search?q=h%C3%B6chstunwahrscheinlich")


def test_ticket_by_form(client: Client) -> None:
    ticket = new_ticket(client, "Ä ticket & <more>")
    assert re.fullmatch(r"/ticket/\d+", ticket)
    text = page(client, ticket)
    assert "Ä ticket &amp; &lt;more&gt;" in text
    assert "of two lines: é€" in text


def test_form_without_token(client: Client) -> None:
    form = urlencode({"field_summary": "forged", "submit": "Create ticket"}).encode()
    assert client.fetch("/newticket", "POST", form, [FORM]).status == 400


def test_attachment_up_and_down(client: Client) -> None:
    ticket = new_ticket(client, "with an attachment")
    content = os.urandom(MEGABYTE)
    attach(client, ticket, "some bytes.bin", content)
    assert "some bytes.bin" in page(client, ticket)
    down = client.fetch(f"/raw-attachment{ticket}/some%20bytes.bin")
    assert down.status == 200
    assert down.body == content


def test_etag(client: Client) -> None:
    ticket = new_ticket(client, "with a small attachment")
    attach(client, ticket, "small.txt", b"small")
    target = f"/attachment{ticket}/small.txt"
    first = client.fetch(target)
    [etag] = first.all("ETag")
    assert (first.status, etag[:2]) == (200, "W/")
    again = client.fetch(target, headers=[("If-None-Match", etag)])
    assert (again.status, again.body) == (304, b"")
    assert client.fetch(target, headers=[("If-None-Match", 'W/"else"')]).status == 200


def test_static_file(client: Client) -> None:
    answer = client.fetch("/chrome/common/css/trac.css")
    assert answer.status == 200
    assert answer.all("Content-Length") == [str(len(answer.body))]
    [modified] = answer.all("Last-Modified")
    again = client.fetch("/chrome/common/css/trac.css", headers=[("If-Modified-Since", modified)])
    assert (again.status, again.body) == (304, b"")
    assert client.fetch("/chrome/common/no-such-file").status == 404


def test_page_that_fails(client: Client, running: Application) -> None:
    before = running.process.log().count("RuntimeError: this page fails")
    answer = client.fetch("/fails")
    assert answer.status == 500
    assert b"this page fails" in answer.body
    assert running.process.log().count("RuntimeError: this page fails") > before


# ---- what the front ends differ in ------------------------------------------------------------


def test_percent_sign_in_a_page_name(client: Client, request: pytest.FixtureRequest) -> None:
    """Trac's own front end decodes the path once more; see docs/applications/trac.md."""
    own = "deployed" in request.node.name
    text = page(client, "/wiki/Only50%2541")
    assert ("Only50A" if own else "Only50%41") in text
    assert ("Only50%41" if own else "Only50A") not in text


def test_front_end_in_the_package(environment: Path, python: Runtime) -> None:
    """trac/web/fcgi_frontend.py run as a script, as the deployed one runs it."""
    command, env = front_end("module", environment, python)
    env["TRAC_ENV"] = str(environment / "env")
    with spawned(environment, command, "trac-module", env) as (_, address):
        with Peer(address) as peer:
            response = peer.request(cgi_params(path="/wiki/WikiStart"))
    assert response.status == 200
    assert b"Welcome to Trac" in response.body
