"""Does the application get the rest of what a client sent: query, scheme, headers, methods?"""

import ssl
from collections.abc import Iterator

from fastfcgi import probe
from fastfcgi.doctor_http import HTTPFailure
from fastfcgi.doctor_visit import NotTold, Visit, told
from fastfcgi.findings import Finding, note, ok, wrong

_QUERY = "a=1&b=%20%26&a=2"
# REST and WebDAV use them.
_METHODS = ("PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "REPORT")
# What web servers take, if nobody tells them otherwise.
_HEADER = 7000
_LOCAL = ("127.0.0.1", "::1")
_LINKS = "absolute links of the application will be wrong"


def check_query(visit: Visit) -> Iterator[Finding]:
    """As it was sent, not decoded."""
    found = visit.environ(f"/doctor/q?{_QUERY}").get("QUERY_STRING", "")
    if found == _QUERY:
        yield ok("query", "the query arrives as it was sent")
    elif not found:
        yield wrong("query-lost", "the query does not arrive", *visit.advice("query-lost"))
    else:
        yield wrong("query-changed", f"the query ?{_QUERY} arrives as {found!r}")


def check_scheme(visit: Visit) -> Iterator[Finding]:
    """wsgi.url_scheme is what the client uses."""
    environ = visit.environ("/doctor/scheme")
    wanted, found = visit.site.scheme, environ.get("wsgi.url_scheme", "")
    if found == wanted:
        yield ok("scheme", f"wsgi.url_scheme is {found}")
    elif wanted == "https":
        forwarded = environ.get("HTTP_X_FORWARDED_PROTO", "")
        more = f", although X-Forwarded-Proto says {forwarded}" if forwarded else ""
        text = f"the URL is https, but wsgi.url_scheme {found}{more}: links will begin with http:,"
        text += " and an application that insists on https will redirect without end"
        yield wrong("https-missing", text, *visit.advice("https-missing"))
    else:
        text = f"the URL is http, but wsgi.url_scheme {found}: HTTPS is always on"
        yield note("https-always", text, "That is right where a proxy before it ends TLS.")


def check_certificate(visit: Visit) -> Iterator[Finding]:
    """Whether browsers would trust it; nothing depends on that here."""
    if visit.site.scheme != "https":
        return
    try:
        with visit.site.talk(verify=True) as connection:
            sock = connection.sock
            version = sock.version() if isinstance(sock, ssl.SSLSocket) else ""
        yield ok("certificate", f"the certificate is trusted here ({version})")
    except HTTPFailure as failure:
        yield note("certificate", f"the certificate is not trusted here: {failure}")


def check_host(visit: Visit) -> Iterator[Finding]:
    """The name that the client used, and where its request came from."""
    answer = visit.answer("/doctor/host")
    environ = told(answer)["environ"]
    found, wanted = environ.get("HTTP_HOST", ""), visit.site.authority
    if found == wanted:
        yield ok("host", f"HTTP_HOST is {found}")
    else:
        key = "host-port" if wanted.startswith(f"{found}:") else "host-changed"
        text = f"the client's Host {wanted} arrives as {found!r}: {_LINKS}"
        yield wrong(key, text, *visit.advice(key))
    remote = environ.get("REMOTE_ADDR", "")
    if remote in (answer.local, f"::ffff:{answer.local}"):
        yield ok("remote", f"REMOTE_ADDR is {remote}, whence the doctor asks")
    elif remote in _LOCAL:
        text = f"REMOTE_ADDR is {remote}, but the doctor asks from {answer.local}"
        advice = "A proxy stands before the web server: the client is in X-Forwarded-For."
        yield note("remote", text, advice)
    else:
        text = f"REMOTE_ADDR is {remote or 'missing'}; the doctor asks from {answer.local}"
        yield note("remote", text)


def check_authorization(visit: Visit) -> Iterator[Finding]:
    """The header with which clients log in."""
    headers = [("Authorization", f"Bearer {visit.site.token}")]
    found = visit.report("/doctor/login", headers=headers)["authorization"]
    if found == "own":
        yield ok("authorization", "the header Authorization arrives")
    elif found:
        yield note("authorization", "the header Authorization arrives changed")
    else:
        text = "the header Authorization is withheld: nobody can log in by it"
        yield wrong("authorization-withheld", text, *visit.advice("authorization"))


def check_headers(visit: Visit) -> Iterator[Finding]:
    """One that comes twice, and one that must not arrive."""
    twice = [(probe.TEST, "a"), (probe.TEST, "b")]
    found = visit.report("/doctor/headers", headers=[*twice, ("Proxy", "http://127.0.0.1:9/")])
    value = found["environ"].get("HTTP_X_FASTFCGI_TEST", "")
    if value.replace(" ", "") == "a,b":
        yield ok("repeated", f"a header that comes twice arrives as {value!r}")
    else:
        text = f"a header that comes twice, with the values a and b, arrives as {value!r}"
        yield note("repeated", text)
    if found["proxy"]:
        yield wrong(
            "httpoxy",
            "the client's header Proxy arrives as HTTP_PROXY: whoever makes requests may choose the"
            " proxy for those of the application (httpoxy)",
            "fastfcgi drops it; the server that runs this probe does not. In nginx:",
            '    fastcgi_param HTTP_PROXY "";',
        )
    else:
        yield ok("httpoxy", "a header Proxy does not arrive as HTTP_PROXY")


def check_request_header(visit: Visit) -> Iterator[Finding]:
    """Cookies and tokens may be long."""
    try:
        visit.answer("/doctor/header", "status:200", headers=[("X-Fill", "x" * _HEADER)])
    except NotTold as error:
        text = f"a request header of {_HEADER} bytes is refused: {error}"
        yield note("request-header", text, *visit.advice("request-header"))
        return
    yield ok("request-header", f"a request header of {_HEADER} bytes is taken")


def check_methods(visit: Visit) -> Iterator[Finding]:
    """Those that are refused: a static site needs GET and POST alone."""
    refused = []
    for method in _METHODS:
        try:
            found = visit.environ("/doctor/method", method=method).get("REQUEST_METHOD", "")
            if found != method:
                refused.append(f"{method} (arrives as {found})")
        except NotTold as error:
            refused.append(f"{method} ({error.status or error})")
    if refused:
        text = f"some methods do not reach the application: {', '.join(refused)}"
        yield note("methods", text, "REST, WebDAV and git need them.")
    else:
        yield ok("methods", f"{', '.join(_METHODS)} reach the application")
