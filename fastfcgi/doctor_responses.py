"""Does what the application sends arrive at the client as it was sent?"""

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from fastfcgi import probe
from fastfcgi.doctor_http import HTTPFailure, receive
from fastfcgi.doctor_visit import NotTold, Visit
from fastfcgi.findings import Finding, note, ok, wrong

# A login with several cookies needs the first.
_HEADER_SIZES: Final = (2048, 7000, 14000)
_AT_ONCE: Final = 4


def check_streaming(visit: Visit) -> Iterator[Finding]:
    """Whether blocks arrive one by one, and what can be seen of the connections meanwhile."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        asked = [pool.submit(visit.answer, "/doctor/stream", "stream") for _ in range(_AT_ONCE)]
        answers = [one.result() for one in asked]
    whole = b"".join(b"block %d\n" % number for number in range(probe.STREAM_BLOCKS))
    if any(answer.body != whole for answer in answers):
        yield wrong("stream-cut", "a streamed response arrives cut or changed")
        return
    spread = max(answer.arrivals[-1] - answer.arrivals[0] for answer in answers)
    if spread > probe.STREAM_SECONDS / 2:
        yield ok("buffering", "a streamed response arrives block by block")
    else:
        text = "a streamed response arrives at its end only: the web server holds it back"
        yield note("buffering", text, *visit.advice("buffered"))


def check_statuses(visit: Visit) -> Iterator[Finding]:
    """Responses without a body, and error pages of the application's own."""
    site = visit.site
    try:
        with site.talk() as connection:
            site.send(connection, "/doctor/head", "report", method="HEAD")
            first = receive(connection)
            # What came too much would be taken for the beginning of this answer.
            if first.header("Connection").lower() != "close":
                site.send(connection, "/doctor/head", "status:204")
                receive(connection)
        yield ok("head", f"HEAD is answered with {first.status} and no body")
    except HTTPFailure as failure:
        yield wrong("head", f"a HEAD request and another one after it fail: {failure}")
    for status in (204, 404, 500):
        try:
            answer = visit.answer("/doctor/status", f"status:{status}")
        except NotTold as error:
            text = f"the application's own answer of {status} does not arrive: {error}"
            yield note("intercepted", text, *visit.advice("intercepted"))
            return
        if answer.status != status:
            yield wrong("status", f"the status {status} arrives as {answer.status}")
            return
    yield ok("statuses", "answers of 204, 404 and 500 arrive as the application sends them")


def check_header_size(visit: Visit) -> Iterator[Finding]:
    """How much of a response header is taken: cookies and policies need room."""
    taken = 0
    for size in _HEADER_SIZES:
        try:
            answer = visit.answer("/doctor/header", f"fill:{size}")
        except NotTold as error:
            what = f"a response header of {size} bytes is not passed on: {error}"
            advice = visit.advice("response-header")
            level = note if taken else wrong
            yield level("response-header", what, *advice)
            return
        if sum(len(v) for n, v in answer.headers if n.lower().startswith("x-fill")) != size:
            yield wrong("response-header", f"a response header of {size} bytes arrives changed")
            return
        taken = size
    yield ok("response-header", f"response headers of {taken} bytes arrive")


def check_cookies(visit: Visit) -> Iterator[Finding]:
    """The one response header that may come twice and cannot be joined (RFC 6265, section 3)."""
    answer = visit.answer("/doctor/cookies", "cookies")
    cookies = [value for name, value in answer.headers if name.lower() == "set-cookie"]
    if len(cookies) == 2:
        yield ok("cookies", "a response may set two cookies")
    else:
        yield wrong("cookies", f"of two cookies of a response, this arrives: {cookies}")


def check_errors(visit: Visit) -> Iterator[Finding]:
    """The doctor cannot read logs, but can say what to look for."""
    name = secrets.token_hex(4)
    visit.report("/doctor/errors", f"errors:{name}")
    what = f"wsgi.errors got the line `fastfcgi doctor {name}`"
    if visit.server == "caddy":
        yield note("errors", f"{what}: Caddy 2.6 drops such lines, look into the log of fastfcgi")
    elif visit.server == "haproxy":
        text = f"{what}: it should be in HAProxy's log, if fcgi-app has `log-stderr global`"
        yield note("errors", text)
    else:
        yield note("errors", f"{what}: it should be in the web server's error log")


def check_connections(visit: Visit) -> Iterator[Finding]:
    """What the probe saw of the FastCGI connections, if it is served here."""
    served = visit.served
    if served is None:
        return
    if served.kept:
        shared = ", several requests at once on one" if served.shared else ""
        yield ok("connections", f"the web server keeps its connections{shared}")
        return
    advice: tuple[str, ...] = ()
    if visit.server == "nginx":
        advice = (
            "Keeping them saves time:",
            "    upstream app { server unix:/run/app/app.sock; keepalive 8; }",
            "    fastcgi_pass app; fastcgi_keep_conn on;",
        )
    elif visit.server == "apache":
        advice = ("ProxyPass ... enablereuse=on keeps them, SetHandler does not.",)
    yield note("connections", "the web server makes a connection for each request", *advice)
