"""Radicale as docs/applications/radicale.md says, behind lighttpd and nginx."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from application_sites import (
    WAYS,
    Application,
    application_python,
    as_server_user,
    behind_web_servers,
    documented_script,
)
from http_client import Answer, Client
from runtimes import Runtime
from test_docs import DOCS, blocks

pytestmark = pytest.mark.webserver

PAGE = DOCS / "applications" / "radicale.md"

PASSWORD = ("Authorization", "Basic " + base64.b64encode("alice:geheim é".encode()).decode())
NAMES = {"d": "DAV:", "c": "urn:ietf:params:xml:ns:caldav"}

# Does what the page's htpasswd does, which is not on every machine.
HTPASSWD = """
from passlib.hash import sha512_crypt
print("alice:" + sha512_crypt.using(rounds=5000).hash("geheim é"), file=open("users", "w"))
"""

MKCALENDAR = """<?xml version="1.0" encoding="utf-8"?>
<c:mkcalendar xmlns:d="DAV:" xmlns:c="urn:ietf:params:xml:ns:caldav">
  <d:set><d:prop><d:displayname>Übungen</d:displayname></d:prop></d:set>
</c:mkcalendar>"""

PROPFIND = """<?xml version="1.0" encoding="utf-8"?>
<d:propfind xmlns:d="DAV:"><d:prop><d:displayname/><d:getetag/></d:prop></d:propfind>"""

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<c:calendar-query xmlns:d="DAV:" xmlns:c="urn:ietf:params:xml:ns:caldav">
  <d:prop><d:getetag/><c:calendar-data/></d:prop>
  <c:filter><c:comp-filter name="VCALENDAR"><c:comp-filter name="VEVENT">
    <c:time-range start="20260101T000000Z" end="20270101T000000Z"/>
  </c:comp-filter></c:comp-filter></c:filter>
</c:calendar-query>"""


def event(uid: str, day: str, summary: str) -> bytes:
    """An event of one hour as iCalendar."""
    lines = f"""BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//example.org//test//EN
BEGIN:VEVENT
UID:{uid}
DTSTAMP:20260101T000000Z
DTSTART:{day}T100000Z
DTEND:{day}T110000Z
SUMMARY:{summary}
END:VEVENT
END:VCALENDAR
"""
    return lines.replace("\n", "\r\n").encode()


@pytest.fixture(scope="module")
def python(module_folder: Path) -> Runtime:
    return application_python(module_folder, "Radicale")


@pytest.fixture(scope="module")
def running(module_folder: Path, python: Runtime) -> Iterator[Application]:
    """Radicale, running."""
    config = blocks(PAGE, "ini")[0].replace("/srv/app/", f"{module_folder}/")
    (module_folder / "radicale.config").write_text(config)
    as_server_user(python, module_folder, "htpasswd", HTPASSWD)
    script = documented_script(PAGE, 0, module_folder, python)
    with behind_web_servers(module_folder, [script], "radicale", python.env) as application:
        yield application


@pytest.fixture(params=WAYS)
def client(request: pytest.FixtureRequest, running: Application) -> Iterator[Client]:
    with Client(running.sites[request.param]) as connection:
        yield connection


def ask(
    client: Client, method: str, target: str, body: str | bytes = b"", **headers: str
) -> Answer:
    """A request with Alice's password; an underscore in a header's name is a dash."""
    data = body.encode() if isinstance(body, str) else body
    kind = "text/calendar" if data.startswith(b"BEGIN") else "application/xml"
    more = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return client.fetch(target, method, data, [PASSWORD, ("Content-Type", kind), *more])


def found(answer: Answer) -> dict[str, dict[str, str | None]]:
    """The resources of a multi-status answer: href -> local name of a property -> its text."""
    assert answer.status == 207, answer
    tree = ElementTree.fromstring(answer.body)
    return {
        response.findtext("d:href", namespaces=NAMES): {
            prop.tag.rpartition("}")[2]: prop.text
            for status in response.iterfind("d:propstat", NAMES)
            if " 200 " in status.findtext("d:status", namespaces=NAMES)
            for prop in status.iterfind("d:prop/*", NAMES)
        }
        for response in tree.iterfind("d:response", NAMES)
    }


def test_calendar(client: Client) -> None:
    name = re.sub(r"\W", "-", client.site.name + str(client.site.port))
    calendar = f"/alice/{name}/"
    prefix = client.site.prefix
    assert ask(client, "MKCALENDAR", calendar, MKCALENDAR).status == 201

    one = ask(client, "PUT", f"{calendar}one.ics", event("one", "20260301", "Erstes: é€"))
    assert one.status == 201
    [etag] = one.all("ETag")
    put = ask(client, "PUT", f"{calendar}two.ics", event("two", "20300301", "Later"))
    assert put.status == 201
    again = event("one", "20260302", "other")
    assert ask(client, "PUT", f"{calendar}one.ics", again, If_Match='"else"').status == 412

    listed = found(ask(client, "PROPFIND", calendar, PROPFIND, Depth="1"))
    hrefs = {prefix + calendar, f"{prefix}{calendar}one.ics", f"{prefix}{calendar}two.ics"}
    assert set(listed) == hrefs
    assert listed[prefix + calendar]["displayname"] == "Übungen"
    assert listed[f"{prefix}{calendar}one.ics"]["getetag"] == etag

    reported = found(ask(client, "REPORT", calendar, REPORT, Depth="1"))
    assert set(reported) == {f"{prefix}{calendar}one.ics"}
    assert "SUMMARY:Erstes: é€" in reported[f"{prefix}{calendar}one.ics"]["calendar-data"]

    assert ask(client, "DELETE", f"{calendar}one.ics", If_Match=etag).status == 200
    assert ask(client, "GET", f"{calendar}one.ics").status == 404
    assert ask(client, "DELETE", calendar).status == 200
    assert ask(client, "PROPFIND", calendar, PROPFIND, Depth="0").status == 404


def test_large_event(client: Client) -> None:
    """2 MiB: nginx and lighttpd put such a body into a file first."""
    calendar = f"/alice/large-{client.site.port}/"
    assert ask(client, "MKCALENDAR", calendar, MKCALENDAR).status == 201
    text = "noch ein Wort " * 150_000
    assert ask(client, "PUT", f"{calendar}big.ics", event("big", "20260301", text)).status == 201
    down = ask(client, "GET", f"{calendar}big.ics").body.decode()
    assert text.strip() in re.sub("\r?\n ", "", down)


def test_without_password(client: Client) -> None:
    answer = client.fetch("/alice/", "PROPFIND", PROPFIND.encode())
    assert answer.status == 401
    assert "Basic" in answer.all("WWW-Authenticate")[0]


def test_start_page(client: Client) -> None:
    """Its redirect and its pages are below the mount point."""
    answer = client.fetch("/")
    assert answer.status == 302
    assert answer.all("Location")[0].endswith(client.site.prefix + "/.web")
    assert client.fetch("/.web/").status == 200
