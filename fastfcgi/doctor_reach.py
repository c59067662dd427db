"""Does a request for the URL reach the probe, and if not, who stopped it and why?"""

import os
from collections.abc import Iterator
from typing import Final

from fastfcgi import doctor_advice
from fastfcgi.doctor_http import Answer, HTTPFailure
from fastfcgi.doctor_visit import NotTold, Visit, told
from fastfcgi.exceptions import FastCGIError
from fastfcgi.findings import Finding, note, ok, wrong
from fastfcgi.socket_access import check_access
from fastfcgi.sockets import parse_address

_TARGET: Final = "/doctor/reach"

# What the first byte of a connection says of who made it, if that is not FastCGI's 1.
_HTTP: Final = frozenset(b"GHPODC")

_MEANING: Final = {
    400: "the web server does not take the request; is https asked for on a port of http?",
    403: "the web server forbids it: it looks for a file, or has not granted access",
    404: "the web server looks for a file: this URL does not lead to the application",
    405: "the web server does not allow GET here",
    413: "the web server takes no body at all",
    500: "the web server could not start the application, or got no whole answer of it",
    502: "the web server cannot connect to the application, or does not understand its answer",
    503: "the web server cannot connect to the application, or holds it for dead for a while",
    504: "the web server waits for the application in vain",
}


def reach(visit: Visit, web_user: str | None) -> Iterator[Finding]:
    """Find out; sets visit.server. The last finding has the key "reached" if all is well.

    Args:
        web_user: Who the web server runs as, name or number; None: whoever is likely.
    """
    try:
        answer = visit.site.ask(_TARGET)
    except HTTPFailure as failure:
        yield _no_answer(visit, failure)
        return
    visit.server = doctor_advice.recognised("", answer.header("Server"))
    if answer.of_probe and answer.status == 200:
        yield _reached(visit, answer)
    elif answer.of_probe:
        yield _refused(visit, answer)
    elif visit.served is None:
        yield from _other(visit, answer)
    else:
        yield from _astray(visit, answer, web_user)


def _no_answer(visit: Visit, failure: HTTPFailure) -> Finding:
    site = visit.site
    advice = {
        "name": ["Is the name of the host right?"],
        "refused": ["Start the web server; does it listen at this port?"],
        "timeout": [
            "A firewall, or the web server waits for an application that does not answer.",
            *visit.advice("timeout"),
        ],
        "tls": [f"Is it {'http' if site.scheme == 'https' else 'https'}: that is spoken there?"],
    }
    return wrong("web-server", str(failure), *advice.get(failure.kind, []))


def _reached(visit: Visit, answer: Answer) -> Finding:
    try:
        found = told(answer)
    except NotTold as error:
        text = f"what answers at {visit.site.url(_TARGET)} cannot be understood: {error}"
        return wrong("answer-lost", text, *visit.advice("intercepted"))
    software = found["environ"].get("SERVER_SOFTWARE", "")
    known = doctor_advice.recognised(software, answer.header("Server"), bool(found["proxied"]))
    visit.server = known
    name = software or answer.header("Server") or "a web server that does not tell its name"
    return ok("reached", f"a request for {visit.site.url('')} reaches the application by {name}")


def _refused(visit: Visit, answer: Answer) -> Finding:
    if visit.served is None:
        return wrong(
            "token",
            "a probe answers, but it does not know this token",
            "It has written its token to stderr when it started: fastfcgi doctor URL --token TOKEN",
            "Or start it with PROBE_TOKEN=TOKEN in its environment. It has to be one process.",
        )
    text = "request headers do not arrive: the probe has not got its token"
    return wrong("headers-lost", text, "nginx: fastcgi_pass_request_headers on;  as without it")


# ------------------------------------------------------------------- something else answers


def _other(visit: Visit, answer: Answer) -> Iterator[Finding]:
    """Without a probe of our own: all that can be told of whatever answers."""
    try:
        answer = visit.site.ask("" if visit.site.path else "/")
    except HTTPFailure as failure:
        yield _no_answer(visit, failure)
        return
    what = f"{visit.site.url('')} is answered with {answer.status} {answer.reason}"
    if 300 <= answer.status < 400:
        yield from _redirect(visit, answer)
    elif answer.status >= 500:
        meaning = _MEANING.get(answer.status, "the application fails, or the web server")
        yield wrong("status", f"{what}: {meaning}")
    else:
        yield ok("status", what)
    yield note(
        "no-probe",
        "no probe answers, so it cannot be seen what an application gets. To see it:",
        "Stop the application, and let the doctor take its place for a moment:",
        f"    fastfcgi doctor {visit.site.url('')} --bind ADDRESS",
        "or, where the web server or spawn-fcgi starts it, put in its place for a moment",
        "    from fastfcgi.probe import application",
        "and run fastfcgi doctor URL --token with the token that it writes to stderr.",
    )


def _redirect(visit: Visit, answer: Answer) -> Iterator[Finding]:
    location = answer.header("Location")
    text = f"{visit.site.url('')} is redirected to {location or 'nowhere'}"
    if location.rstrip("/") == visit.site.url("").rstrip("/"):
        yield wrong("redirect-loop", f"{text}, which is itself: that has no end")
    else:
        yield note("redirect", text, f"Ask for that: fastfcgi doctor {location}")


def _astray(visit: Visit, answer: Answer, web_user: str | None) -> Iterator[Finding]:
    """The probe runs, but somebody else has answered."""
    served = visit.served
    assert served is not None
    what = f"{visit.site.url(_TARGET)} is answered with {answer.status} {answer.reason}"
    if served.first_byte is not None:
        yield _spoken(visit, served.first_byte)
    elif served.requests:
        text = f"{what}: the request has reached the probe, but its answer was replaced"
        yield wrong("answer-lost", text, *visit.advice("intercepted"))
    elif answer.status == 401:
        text = f"{what}: the web server wants a login before it asks the application"
        yield wrong("login", text, "Switch that off for the check.")
    elif 300 <= answer.status < 400:
        location = answer.header("Location")
        text = f"{what}: the web server itself redirects to {location}"
        yield wrong("redirect", text, "Ask for that URL.", *visit.advice("not-reached"))
    elif answer.status in (500, 502, 503, 504):
        yield wrong("no-connection", f"{what}: {_MEANING[answer.status]}", *_same(visit))
        yield from _access(visit.address, web_user)
    else:
        meaning = _MEANING.get(answer.status, "something else than the application answers")
        yield wrong("not-reached", f"{what}: {meaning}", *visit.advice("not-reached"))


def _same(visit: Visit) -> list[str]:
    return [
        f"The doctor listens at {visit.address}: is it the same in the web server's configuration?",
        "Its error log says which address it tried, and why that failed.",
    ]


def _spoken(visit: Visit, byte: int) -> Finding:
    where = f"the web server connects to {visit.address}, but"
    if byte == 0x50:  # "PROXY TCP4 ...", before which no GET comes; the doctor makes no POST here
        text = f"{where} begins with the PROXY protocol, which FastCGI does not know"
        return wrong("proxy-spoken", text, "HAProxy: server app ADDRESS proto fcgi, no send-proxy")
    if byte in _HTTP:
        text = f"{where} speaks HTTP, not FastCGI"
        return wrong("http-spoken", text, *visit.advice("http-spoken"))
    if 0x30 <= byte <= 0x39:
        text = f"{where} speaks SCGI, not FastCGI"
        meant = (
            "Where SCGI is meant (fastfcgi serve --protocol scgi), the doctor cannot look further."
        )
        return wrong("scgi-spoken", text, *visit.advice("scgi-spoken"), meant)
    what = {0: "uwsgi", 22: "TLS"}.get(byte, f"something that begins with byte {byte}")
    text = f"{where} speaks {what}, not FastCGI"
    return wrong("other-spoken", text, *visit.advice("http-spoken"))


def _access(address: str, web_user: str | None) -> Iterator[Finding]:
    """Whether the web server's user can get to the socket of the probe."""
    parsed = parse_address(address)
    if os.path.exists("/sys/fs/selinux/enforce"):
        yield note(
            "selinux",
            "SELinux is there; it may forbid the web server to connect",
            "setsebool -P httpd_can_network_connect 1  (ausearch -m avc says what was denied)",
        )
    if parsed[0] == "unix" and not str(parsed[1]).startswith("\0"):  # type: ignore[misc]
        try:
            yield from check_access(str(parsed[1]), web_user)  # type: ignore[misc]
        except (FastCGIError, OSError) as error:
            yield note("access-unknown", f"{address} cannot be looked at: {error}")
    elif parsed[0] == "tcp":
        yield note(
            "address",
            "in a container, or on another machine, 127.0.0.1 is another one",
        )
