"""The rules of CGI and WSGI on top of FastCGI, one test each: the environ (RFC 3875, PEP 3333).

Each test sends params as a web server does and looks at what the application was called with.
"""

import pytest
import wire
from spec_server import Application, Gate, answer, serving

CGI_KEYS = (
    "REQUEST_METHOD",
    "SCRIPT_NAME",
    "PATH_INFO",
    "QUERY_STRING",
    "SERVER_NAME",
    "SERVER_PORT",
    "SERVER_PROTOCOL",
)


@pytest.fixture
def serve(tmp_path):
    with serving(tmp_path) as serve:
        yield serve


@pytest.fixture
def environ_of(serve):
    """What the application gets for params; the web server's usual ones are not added."""

    def environ_of(pairs, body=b"", **options):
        application = Application()
        response = serve(application, **options).request(pairs, body)
        assert response.status == 200
        return application.environ

    return environ_of


# -------------------------------------------------------------------------- always there


def test_keys_that_are_always_there(environ_of):
    """PEP 3333: REQUEST_METHOD, SCRIPT_NAME, PATH_INFO, QUERY_STRING, SERVER_NAME, SERVER_PORT and
    SERVER_PROTOCOL are there, as str, also when the web server sent none of them."""
    environ = environ_of([])
    for key in CGI_KEYS:
        assert type(environ[key]) is str
    assert environ["REQUEST_METHOD"] and environ["SERVER_NAME"] and environ["SERVER_PROTOCOL"]
    assert environ["SERVER_PORT"].isdigit()
    assert environ["SCRIPT_NAME"] == environ["PATH_INFO"] == environ["QUERY_STRING"] == ""


def test_keys_are_what_the_web_server_sent(environ_of):
    """PEP 3333: and what it sent of them is left as it is."""
    pairs = {
        "REQUEST_METHOD": "PROPFIND",
        "SCRIPT_NAME": "/app",
        "PATH_INFO": "/path",
        "QUERY_STRING": "a=b&c=%41+",
        "SERVER_NAME": "example.org",
        "SERVER_PORT": "8443",
        "SERVER_PROTOCOL": "HTTP/1.0",
        "REMOTE_ADDR": "192.0.2.7",
    }
    environ = environ_of(pairs)
    assert {key: environ[key] for key in pairs} == pairs


def test_content_type_and_content_length_when_given(environ_of):
    """RFC 3875 4.1: CONTENT_TYPE and CONTENT_LENGTH are there when they are given, else not."""
    environ = environ_of({"CONTENT_TYPE": "text/x", "CONTENT_LENGTH": "4"}, b"body")
    assert (environ["CONTENT_TYPE"], environ["CONTENT_LENGTH"]) == ("text/x", "4")
    environ = environ_of({})
    assert "CONTENT_TYPE" not in environ and "CONTENT_LENGTH" not in environ


def test_request_headers(environ_of):
    """RFC 3875 4.1.18: request headers are HTTP_*."""
    pairs = {"HTTP_USER_AGENT": "a/1 (b)", "HTTP_X_UNKNOWN": "", "HTTP_COOKIE": "a=1; b=2"}
    environ = environ_of(pairs)
    assert {key: environ[key] for key in pairs} == pairs


def test_environ_is_a_dict_of_this_request(serve):
    """PEP 3333: environ is a builtin dict, and the application may change it as it likes."""
    seen = []

    def application(environ, start_response):
        seen.append((type(environ), dict(environ)))
        environ.clear()
        return answer(start_response)

    peer = serve(application).connect()
    for _ in range(2):
        assert peer.request(keep_conn=True).status == 200
    assert [kind for kind, _ in seen] == [dict, dict]
    assert seen[0][1].keys() == seen[1][1].keys()


# ------------------------------------------------------------------------------ wsgi.*


def test_wsgi_keys(environ_of):
    """PEP 3333: wsgi.version is (1, 0); url_scheme, input, errors, multithread, multiprocess,
    run_once are there; file_wrapper and input_terminated are offered."""
    environ = environ_of(wire.cgi_params())
    assert environ["wsgi.version"] == (1, 0)
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["wsgi.multithread"] is True
    assert environ["wsgi.multiprocess"] is False
    assert environ["wsgi.run_once"] is False
    assert environ["wsgi.input_terminated"] is True
    assert callable(environ["wsgi.file_wrapper"])
    for name in ("read", "readline", "readlines", "__iter__"):
        assert hasattr(environ["wsgi.input"], name)
    for name in ("write", "writelines", "flush"):
        assert hasattr(environ["wsgi.errors"], name)


@pytest.mark.parametrize(
    ("options", "multithread", "multiprocess"),
    [
        ({"multithreaded": False}, False, False),
        ({"threads": 1}, False, False),
        ({"multiprocess": True}, True, True),
        ({"multithreaded": False, "multiprocess": True}, False, True),
    ],
)
def test_wsgi_multithread_and_multiprocess(environ_of, options, multithread, multiprocess):
    """PEP 3333: they say whether the application may be called at the same time by another thread
    or process."""
    environ = environ_of({}, **options)
    assert environ["wsgi.multithread"] is multithread
    assert environ["wsgi.multiprocess"] is multiprocess


def test_params_cannot_overwrite_wsgi_keys(environ_of):
    """PEP 3333: wsgi.* is the server's: no parameter becomes such a key."""
    names = [
        "version",
        "url_scheme",
        "input",
        "errors",
        "multithread",
        "multiprocess",
        "run_once",
        "file_wrapper",
        "input_terminated",
        "invented",
    ]
    plain = environ_of(wire.cgi_params())
    environ = environ_of({**wire.cgi_params(), **{f"wsgi.{name}": "forged" for name in names}})
    assert environ.keys() == plain.keys()
    assert "forged" not in environ.values()


def test_strings_are_latin_1(environ_of):
    """PEP 3333: str values are latin-1 decodings of the bytes, whatever these meant."""
    every_byte = bytes(range(256))
    environ = environ_of(
        {"HTTP_X_ALL": every_byte, "PATH_INFO": "/é€".encode(), "QUERY_STRING": b"\xff"}
    )
    assert environ["HTTP_X_ALL"].encode("latin-1") == every_byte
    assert environ["PATH_INFO"].encode("latin-1").decode() == "/é€"
    assert environ["QUERY_STRING"] == "\xff"


HTTPS = [
    *((value, "http", "https") for value in ("on", "1", "true", "yes", "ON", "On", "TRUE", "Yes")),
    *((value, "https", "http") for value in ("off", "0", "no", "", "OFF", "No")),
    ("maybe", "https", "https"),
    ("maybe", "http", "http"),
    (None, "https", "https"),
    (None, "HTTPS", "https"),
    (None, "http", "http"),
    (None, None, "http"),
    ("maybe", None, "http"),
    (None, "ftp", "http"),
    ("on", None, "https"),
]


@pytest.mark.parametrize(("https", "scheme", "expected"), HTTPS)
def test_url_scheme(environ_of, https, scheme, expected):
    """PEP 3333: HTTPS on, 1, true or yes (any case) is https; off, 0, no or empty is http; else
    REQUEST_SCHEME says it."""
    pairs = {"HTTPS": https, "REQUEST_SCHEME": scheme}
    environ = environ_of({name: value for name, value in pairs.items() if value is not None})
    assert environ["wsgi.url_scheme"] == expected


# ------------------------------------------------------------------ withheld and joined


def test_proxy_header_is_dropped(environ_of):
    """httpoxy: HTTP_PROXY from a request header "Proxy" would steer the application's own HTTP
    clients."""
    environ = environ_of({"HTTP_PROXY": "http://evil/", "HTTP_PROXY_CONNECTION": "keep-alive"})
    assert "HTTP_PROXY" not in environ
    assert environ["HTTP_PROXY_CONNECTION"] == "keep-alive"


def test_headers_that_have_keys_of_their_own_are_dropped(environ_of):
    """PEP 3333: CONTENT_LENGTH and CONTENT_TYPE have no HTTP_ twins, which some servers send."""
    pairs = {
        "HTTP_CONTENT_LENGTH": "4",
        "HTTP_CONTENT_TYPE": "text/x",
        "CONTENT_LENGTH": "4",
        "CONTENT_TYPE": "text/x",
    }
    environ = environ_of(pairs, b"body")
    assert "HTTP_CONTENT_LENGTH" not in environ and "HTTP_CONTENT_TYPE" not in environ
    assert (environ["CONTENT_LENGTH"], environ["CONTENT_TYPE"]) == ("4", "text/x")


def test_transfer_encoding_is_dropped(environ_of):
    """PEP 3333: the body arrives decoded, so nothing may tell an application to decode it."""
    assert "HTTP_TRANSFER_ENCODING" not in environ_of({"HTTP_TRANSFER_ENCODING": "chunked"}, b"b")


@pytest.mark.parametrize("value", ["", "-1", "abc", "1.5", "+4", "4 ", "0x4", "\xb2", "4,4"])
def test_content_length_that_is_no_number_is_dropped(environ_of, value):
    """RFC 3875 4.1.2: CONTENT_LENGTH is digits; anything else is as if it were not there."""
    assert "CONTENT_LENGTH" not in environ_of({"CONTENT_LENGTH": value}, b"body")


def test_repeated_headers_are_joined(environ_of):
    """RFC 9110 5.3: a header that comes several times is joined by ", " in order, cookies by "; ",
    and Host is never a list."""
    pairs = [
        ("HTTP_X_FORWARDED_FOR", "a"),
        ("HTTP_COOKIE", "a=1"),
        ("HTTP_X_FORWARDED_FOR", "b, c"),
        ("HTTP_HOST", "first"),
        ("HTTP_COOKIE", "b=2"),
        ("HTTP_X_FORWARDED_FOR", "a"),
        ("HTTP_HOST", "second"),
    ]
    environ = environ_of(pairs)
    assert environ["HTTP_X_FORWARDED_FOR"] == "a, b, c, a"
    assert environ["HTTP_COOKIE"] == "a=1; b=2"
    assert environ["HTTP_HOST"] == "second"


def test_last_of_other_params_counts(environ_of):
    """nginx sends SCRIPT_NAME twice: outside of HTTP_* the last one counts."""
    pairs = [("SCRIPT_NAME", "/wrong"), ("X", "1"), ("SCRIPT_NAME", "/app"), ("X", "2")]
    environ = environ_of([*pairs, ("PATH_INFO", "/p")])
    assert (environ["SCRIPT_NAME"], environ["X"]) == ("/app", "2")


# ------------------------------------------------------------------------------- paths

# SCRIPT_NAME, PATH_INFO, REQUEST_URI as sent -> PATH_INFO as seen.
PATHS = [
    # Given: it arrives decoded and is left alone.
    ("", "/a b", "/a%20b", "/a b"),
    ("", "/a%20b", "/a%2520b", "/a%20b"),
    ("/app", "/%41", "/app/%2541", "/%41"),
    ("", "/a/b", "/a%2Fb", "/a/b"),
    # Missing or empty: taken from REQUEST_URI, less SCRIPT_NAME and query, decoded once.
    (None, None, "/a%20b", "/a b"),
    ("", None, "/a%2520b?x=%41", "/a%20b"),
    ("", "", "/a%2Fb+c", "/a/b+c"),
    ("/app", None, "/app/a%20b?q", "/a b"),
    ("/app", "", "/app/%C3%A9%FF", "/\xc3\xa9\xff"),
    ("/a p", None, "/a%20p/b", "/b"),
    ("/app", None, "/app/", "/"),
    # At the mount point itself, or as the shortest configurations have it, it is empty.
    ("/app", None, "/app", ""),
    ("/app", "", "/app?x=/y", ""),
    ("/env/a b", None, "/env/a%20b", ""),
    ("/app", None, "/appfoo", ""),
    ("/app", None, "/other/x", ""),
    ("/app", None, None, ""),
    ("", None, "*", ""),
    # A web server may hand on the absolute form.
    ("/app", None, "http://www.example.org/app/a%20b?q", "/a b"),
]


@pytest.mark.parametrize(("script_name", "path_info", "request_uri", "expected"), PATHS)
def test_path_info(environ_of, script_name, path_info, request_uri, expected):
    """RFC 3875 4.1.5: only what is taken from REQUEST_URI is unquoted, and never twice."""
    pairs = {"SCRIPT_NAME": script_name, "PATH_INFO": path_info, "REQUEST_URI": request_uri}
    environ = environ_of({name: value for name, value in pairs.items() if value is not None})
    assert environ["PATH_INFO"] == expected
    # Neither of these is ever changed.
    assert environ["SCRIPT_NAME"] == (script_name or "")
    assert environ.get("REQUEST_URI") == request_uri


@pytest.mark.parametrize(
    ("query", "request_uri", "expected"),
    [
        ("a=%41", "/path?b", "a=%41"),
        (None, "/path?a=%41+b?c", "a=%41+b?c"),
        ("", "/path?a", "a"),
        (None, "/path?", ""),
        (None, "/path", ""),
    ],
)
def test_query_string(environ_of, query, request_uri, expected):
    """RFC 3875 4.1.7: QUERY_STRING is always there and never unquoted; a web server that leaves
    it out has it in REQUEST_URI."""
    pairs = {"PATH_INFO": "/path", "QUERY_STRING": query, "REQUEST_URI": request_uri}
    environ = environ_of({name: value for name, value in pairs.items() if value is not None})
    assert environ["QUERY_STRING"] == expected


def test_script_name_can_be_fixed(environ_of):
    """An option fixes SCRIPT_NAME and has the rest taken from REQUEST_URI: this makes the shortest
    configurations work."""
    pairs = {"SCRIPT_NAME": "/app/a b", "REQUEST_URI": "/app/a%20b?q"}
    environ = environ_of(pairs, environ={"SCRIPT_NAME": "/app"})
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/app", "/a b")
    environ = environ_of(pairs, environ={"SCRIPT_NAME": ""})
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("", "/app/a b")


# ------------------------------------------------------------------------------- wsgi.errors


def test_wsgi_errors_is_stderr(serve):
    """PEP 3333: wsgi.errors is a text stream; what is written arrives as STDERR."""

    def application(environ, start_response):
        errors = environ["wsgi.errors"]
        errors.write("one\n")
        errors.writelines(["two\n", "dreié\n"])
        print("four", file=errors)
        errors.flush()
        return answer(start_response)

    response = serve(application).request()
    assert response.stderr == "one\ntwo\ndreié\nfour\n".encode()
    assert response.body == b"ok"


def test_wsgi_errors_is_flushed(serve):
    """PEP 3333: flush() sends what was written; that need not wait for the response."""
    gate = Gate()

    def application(environ, start_response):
        environ["wsgi.errors"].write("noted")
        environ["wsgi.errors"].flush()
        gate.wait()
        return answer(start_response, b"body")

    peer = serve(application).connect()
    peer.send(wire.request())
    gate.wait_reached()
    peer.receive(lambda answers: 1 in answers.outputs)
    assert peer.response().stderr == b"noted"
    gate.open()
    assert peer.receive_end().body == b"body"
