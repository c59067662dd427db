"""Trac with a front end of two lines: by spawn-fcgi -u, behind lighttpd at / and at /trac."""

import importlib.util
import os
import pwd
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from checks_bodies import MEGABYTE
from http_client import HOST, Answer, Client, Site
from processes import SERVER_USER, Process, missing, require
from runtimes import Runtime, public_runtime
from webservers import start

pytestmark = pytest.mark.webserver

FRONT_END = """
from trac.web.main import dispatch_request
from fastfcgi import WSGIServer; WSGIServer(dispatch_request, maxThreads=15).run()
"""

# One process for all commands: most of trac-admin's time goes into starting.
ADMIN = """
import sys
from trac.admin.console import run
sys.exit(any(run([sys.argv[1], *command.split()]) for command in sys.argv[2:]))
"""


def needed_distributions() -> list[str]:
    """What Trac 1.6 is made of; the test is skipped (in CI: failed) where a part is missing."""
    needed = ["Trac", "Jinja2", "MarkupSafe", "setuptools"]
    for module in ("trac", "pkg_resources"):
        if importlib.util.find_spec(module) is None:
            missing(f"the module {module}, which Trac 1.6 needs,")
    if importlib.util.find_spec("cgi") is None:  # gone since Python 3.13
        if importlib.util.find_spec("multipart") is None:
            missing("the module multipart, which Trac 1.6 needs on this Python,")
        needed.append("multipart")
    return needed


def trac_admin(python: Runtime, folder: Path, *commands: str) -> None:
    """Run commands of trac-admin as the user that the front end will run as."""
    command = [python.python, "-c", ADMIN, str(folder / "env"), *commands]
    with Process(command, folder, "trac-admin", python.env, SERVER_USER) as process:
        assert process.wait() == 0, process.log()


@pytest.fixture(scope="module")
def sites(module_folder: Path) -> Iterator[dict[str, Site]]:
    """Trac, running."""
    spawn_fcgi = require("spawn-fcgi")
    python = public_runtime(module_folder, needed_distributions())
    commands = [
        "initenv Test sqlite:db/trac.db",
        "permission add anonymous TRAC_ADMIN",
        "config set attachment max_size 2000000",
    ]
    trac_admin(python, module_folder, *commands)

    script = python.script(module_folder / "trac.fcgi", FRONT_END)
    address = str(module_folder / "trac.sock")
    who = ["-u", SERVER_USER] if SERVER_USER else []
    command = [spawn_fcgi, "-n", "-s", address, *who, "--", str(script)]
    env = {**python.env, "TRAC_ENV": str(module_folder / "env")}
    with Process(command, module_folder, "spawn-fcgi", env) as process:
        process.wait_for(address)
        if SERVER_USER:
            assert os.stat(f"/proc/{process.pid}").st_uid == pwd.getpwnam(SERVER_USER).pw_uid
        with (
            start("lighttpd", module_folder, address) as root,
            start("lighttpd", module_folder, address, "/trac") as below,
        ):
            yield {"root": root.site, "path": below.site}
        assert process.stop(signal.SIGTERM) == 0, process.log()
        assert "Traceback" not in process.log()


@pytest.fixture(params=["root", "path"])
def client(request: pytest.FixtureRequest, sites: dict[str, Site]) -> Iterator[Client]:
    with Client(sites[request.param]) as connection:
        yield connection


def page(client: Client, target: str) -> str:
    """A page, with all its links below the place where Trac is mounted."""
    answer = client.fetch(target)
    text = answer.body.decode()
    assert answer.status == 200, text
    prefix = client.site.prefix
    links = re.findall(r'(?:href|src|action)="(/[^"]*)"', text)
    assert len(links) > 10
    assert [link for link in links if not link.startswith(prefix + "/")] == []
    assert prefix or not any(link.startswith("/trac/") for link in links)
    return text


def cookie_and_token(client: Client, target: str) -> tuple[str, str]:
    """The session's cookie and the form token of a page."""
    answer = client.fetch(target)
    cookies = [value.partition(";")[0] for value in answer.all("Set-Cookie")]
    token = re.search(rb'name="__FORM_TOKEN" value="([^"]+)"', answer.body)
    assert cookies and token, answer
    return "; ".join(cookies), token[1].decode()


def redirected_to(client: Client, answer: Answer) -> str:
    """The path below the mount point that a form's answer leads to."""
    assert answer.status in (302, 303), (answer.status, answer.body[:2000])
    [location] = answer.all("Location")
    base = f"http://{HOST}:{client.site.port}{client.site.prefix}"
    assert location.startswith(base + "/")
    return location.removeprefix(base)


def new_ticket(client: Client, summary: str) -> str:
    """Create a ticket by the form; returns its path."""
    cookie, token = cookie_and_token(client, "/newticket")
    form = urlencode(
        {
            "__FORM_TOKEN": token,
            "field_summary": summary,
            "field_description": "A description\r\nof two lines: é€",
            "field_type": "defect",
            "submit": "Create ticket",
        }
    )
    headers = [("Cookie", cookie), ("Content-Type", "application/x-www-form-urlencoded")]
    return redirected_to(client, client.fetch("/newticket", "POST", form.encode(), headers))


def test_wiki_page(client: Client) -> None:
    assert "Welcome to Trac" in page(client, "/wiki")
    assert "WikiFormatting" in page(client, "/wiki/WikiFormatting")
    assert "No/Such Page" in page(client, "/wiki/No/Such%20Page")
    assert client.fetch("/ticket/99999").status == 404
    assert page(client, "")  # the bare mount point shows the start page


def test_static_file(client: Client) -> None:
    answer = client.fetch("/chrome/common/css/trac.css")
    assert answer.status == 200
    assert answer.all("Content-Length") == [str(len(answer.body))]


def test_ticket_by_post(client: Client) -> None:
    ticket = new_ticket(client, "Ä ticket & <more>")
    assert re.fullmatch(r"/ticket/\d+", ticket)
    text = page(client, ticket)
    assert "Ä ticket &amp; &lt;more&gt;" in text
    assert "of two lines: é€" in text


def test_post_without_form_token(client: Client) -> None:
    form = urlencode({"field_summary": "forged", "submit": "Create ticket"}).encode()
    headers = [("Content-Type", "application/x-www-form-urlencoded")]
    assert client.fetch("/newticket", "POST", form, headers).status == 400


def test_attachment_up_and_down(client: Client) -> None:
    ticket = new_ticket(client, "with an attachment")
    cookie, token = cookie_and_token(client, f"/attachment{ticket}?action=new")
    content = os.urandom(MEGABYTE)
    boundary = "----one-of-the-tests"
    fields = {
        "__FORM_TOKEN": token,
        "action": "new",
        "realm": "ticket",
        "id": ticket.rpartition("/")[2],
        "description": "some bytes",
    }
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="attachment"; '
        'filename="some bytes.bin"\r\nContent-Type: application/octet-stream\r\n\r\n'
    )
    body = "".join(parts).encode() + content + f"\r\n--{boundary}--\r\n".encode()
    headers = [("Cookie", cookie), ("Content-Type", f"multipart/form-data; boundary={boundary}")]
    redirected_to(client, client.fetch(f"/attachment{ticket}", "POST", body, headers))

    assert "some bytes.bin" in page(client, ticket)
    down = client.fetch(f"/raw-attachment{ticket}/some%20bytes.bin")
    assert down.status == 200
    assert down.body == content
