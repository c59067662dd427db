"""mount=: SCRIPT_NAME is what the server was told, whatever the web server takes for it."""

import json
import logging
from pathlib import Path
from wsgiref.validate import validator

import pytest
import wire
from fake_request import FakeRequest, answering, handled
from helpers import Serving, hello

from fastfcgi import ConfigurationError, WSGIServer, config, prefork, single
from fastfcgi.environ import checked_mount

CAPTURES = Path(__file__).parent / "captures"
MANIFEST = json.loads((CAPTURES / "manifest.json").read_text(encoding="utf-8"))

OUTSIDE = None


def paths(mount, script_name, path_info, uri, validated=True, method="GET"):
    """SCRIPT_NAME and PATH_INFO of the environ; OUTSIDE when no application was called.

    Args:
        script_name, path_info, uri: As the web server sends them; None for nothing.
    """
    seen = []

    def app(environ, start_response):
        seen.append((environ["SCRIPT_NAME"], environ["PATH_INFO"]))
        return answering([b"x"])(environ, start_response)

    request = FakeRequest(method)
    sent = {"SCRIPT_NAME": script_name, "PATH_INFO": path_info, "REQUEST_URI": uri}
    for name, value in sent.items():
        request.params.pop(name, None)
        if value is not None:
            request.params[name] = value
    handled(validator(app) if validated else app, request, mount=checked_mount(mount))
    assert request.status == 200 if seen else request.status == 404
    return seen[0] if seen else OUTSIDE


# ---------------------------------------------------------------------- the shortest configurations


@pytest.mark.parametrize("below", ["/env/a b", "/", "/env/Ã©/x"])
@pytest.mark.parametrize("mount", ["", "/wsgi", "/a/b"])
@pytest.mark.parametrize(
    "parts",
    [
        lambda mount, below: (mount + below, None),  # nginx, Apache: all of it, nothing
        lambda mount, below: (mount + below, ""),
        lambda mount, below: (mount + below, mount + below),  # recipes for nginx
        lambda mount, below: ("", mount + below),  # H2O, Caddy
        lambda mount, below: (None, mount + below),  # HAProxy
        lambda mount, below: (mount, below),  # as it should be
        lambda mount, below: (mount + "/", below),
        lambda mount, below: (None, None),  # nginx's scgi_params: nothing
    ],
)
def test_wherever_the_web_server_puts_the_path(parts, mount, below):
    uri = (mount + below).replace(" ", "%20").replace("Ã©", "%C3%A9") + "?x=/1"
    assert paths(mount, *parts(mount, below), uri) == (mount, below)


@pytest.mark.parametrize("said", [(None, None), ("", None), ("", "")])
def test_document_uri_where_there_is_nothing_else(said):
    """nginx's scgi_params; it is the path as nginx has cleaned it."""
    request = FakeRequest()
    sent = {"SCRIPT_NAME": said[0], "PATH_INFO": said[1], "REQUEST_URI": "/x//../a//%62"}
    for name, value in {**sent, "DOCUMENT_URI": "/a/b"}.items():
        request.params.pop(name, None)
        if value is not None:
            request.params[name] = value
    handled(answering([b"x"]), request, mount="/a")
    assert (request.params["SCRIPT_NAME"], request.params["PATH_INFO"]) == ("/a", "/b")


def test_the_first_segment_as_script_name():
    """lighttpd at / without fix-root-scriptname."""
    assert paths("/", "/env", "/a b", "/env/a%20b?x=1") == ("", "/env/a b")
    assert paths("/env", "/env", "/a b", "/env/a%20b?x=1") == ("/env", "/a b")
    assert paths("/env/a b", "/env", "/a b", "/env/a%20b?x=1") == ("/env/a b", "")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        # lighttpd as above, of /a/a: both parts are the same, and the whole is not one of them
        (("/a", "/a", "/a/a"), ("", "/a/a")),
        (("/a", "/a", "/a?/a/a"), ("", "/a")),
        (("/a", "/a", None), ("", "/a/a")),
    ],
)
def test_both_parts_the_same(said, expected):
    assert paths("", *said) == expected


@pytest.mark.parametrize(
    ("file", "mount", "expected"),
    [
        ("nginx-1.22.1/get-plain-config", "", ("", "/env/a b")),
        ("lighttpd-1.4.69/get-plain-config", "", ("", "/env/a b")),
        ("apache-proxy-2.4.71/get-plain-config", "", ("", "/env/a b")),
        ("apache-proxy-2.4.71/get-sethandler", "/wsgi", ("/wsgi", "/env/a b")),
        ("h2o-2.2.5/get-plain-config", "/wsgi", ("/wsgi", "/env/a b")),
        ("h2o-2.2.5/get-plain-config", "", ("", "/wsgi/env/a b")),
        ("h2o-2.2.5/options-star", "", ("", "/*")),
        ("h2o-2.2.5/options-star", "/wsgi", OUTSIDE),
        ("cgi-fcgi-2.4.2/get-query", "", ("", "/env")),
    ],
)
def test_what_web_servers_sent(file, mount, expected):
    (entry,) = [one for one in MANIFEST if one["file"] == f"{file}.request.bin"]
    params = entry["requests"][0]["params"]
    said = [params.get(name) for name in ("SCRIPT_NAME", "PATH_INFO", "REQUEST_URI")]
    assert paths(mount, *said) == expected


@pytest.mark.parametrize("entry", MANIFEST, ids=lambda entry: entry["file"])
def test_right_configurations_stay_right(entry):
    """Where SCRIPT_NAME is the mount already, mount= changes nothing."""
    for request in entry["requests"]:
        params = request["params"]
        said = [params.get(name) for name in ("SCRIPT_NAME", "PATH_INFO", "REQUEST_URI")]
        if "plain-config" in entry["file"] or not request["params_records"]:
            continue
        mount = said[0] or ""
        assert paths(mount, *said) == paths(None, *said) == (mount, said[1] or "")


# ------------------------------------------------------------------------------- borders


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (("/wsgi", "", "/wsgi"), ("/wsgi", "")),
        (("/wsgi", None, "/wsgi?x"), ("/wsgi", "")),
        (("/wsgi/", None, "/wsgi/"), ("/wsgi", "/")),
        (("/wsgi", "/", "/wsgi/"), ("/wsgi", "/")),
        (("/wsgi", "//", "/wsgi//"), ("/wsgi", "//")),
        (("", "/wsgi//a", "/wsgi//a"), ("/wsgi", "//a")),
        (("", "/wsgi/wsgi/a", "/wsgi/wsgi/a"), ("/wsgi", "/wsgi/a")),
        (("/wsgi", "/wsgi/a", "/wsgi/wsgi/a"), ("/wsgi", "/wsgi/a")),
        (("", "/wsgi/a/b", "/wsgi/a%2Fb"), ("/wsgi", "/a/b")),
        (("", "/wsgi/100%", "/wsgi/100%25"), ("/wsgi", "/100%")),
        (("", "/wsgi/%41", "/wsgi/%2541"), ("/wsgi", "/%41")),
        (("", "/wsgi/\xff", "/wsgi/%FF"), ("/wsgi", "/\xff")),
        # lighttpd2, prefix /wsgi, of /wsgifoo
        (("/wsgi", "foo", "/wsgifoo"), OUTSIDE),
        (("/wsgifoo", None, "/wsgifoo"), OUTSIDE),
        (("", "/wsg", "/wsg"), OUTSIDE),
        (("", "/WSGI/a", "/WSGI/a"), OUTSIDE),
        (("", "//wsgi/a", "//wsgi/a"), OUTSIDE),
        (("", "/", "/"), OUTSIDE),
        (("", "", None), OUTSIDE),
        ((None, None, None), OUTSIDE),
        (("", "*", "*"), OUTSIDE),
    ],
)
def test_below_and_outside(said, expected):
    assert paths("/wsgi", *said) == expected


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/wsgi/a%20b?x=1", ("/wsgi", "/a b")),
        ("/wsgi", ("/wsgi", "")),
        ("/wsgi?/x", ("/wsgi", "")),
        ("/wsgi/", ("/wsgi", "/")),
        ("/%77sgi/a", ("/wsgi", "/a")),
        ("/x/../wsgi/./a/..", ("/wsgi", "/")),
        ("http://h:8/wsgi/%C3%A9", ("/wsgi", "/Ã©")),
        ("http://h/wsgi", ("/wsgi", "")),
        ("/wsgi/%2e%2e/secret", OUTSIDE),
        ("/wsgi/../secret", OUTSIDE),
        ("/wsgifoo", OUTSIDE),
        ("http://h", OUTSIDE),
        ("h/wsgi", OUTSIDE),
        ("", OUTSIDE),
        ("?/wsgi", OUTSIDE),
    ],
)
@pytest.mark.parametrize("said", [("", "/a"), ("", "/other"), ("/app.fcgi", "/a"), (None, None)])
def test_request_uri_is_the_second_choice(said, uri, expected):
    """Of a web server that strips the mount, or sends requests to a script by a rewrite."""
    assert paths("/wsgi", *said, uri) == expected


@pytest.mark.parametrize(
    ("said", "uri"),
    [
        # HAProxy sends on what the client wrote; its rules were asked about that
        (("", "/x/../wsgi/admin"), "/x/../wsgi/admin"),
        (("/x/../wsgi/admin", None), "/x/../wsgi/admin"),
        (("", "/x/../wsgi/admin"), "/x/%2e%2e/wsgi/admin"),
        (("", "//wsgi/./admin"), "//wsgi/./admin"),
        (("", "/x/../wsgi/a%2Fb"), "/x/../wsgi/a%252Fb"),
        # H2O takes dot segments away and keeps slashes
        (("", "//wsgi/admin"), "/x/..//wsgi/admin"),
        # Apache, AllowEncodedSlashes NoDecode
        (("/x%2F../wsgi/admin", None), "/x%2F../wsgi/admin"),
        (("/x%2f../wsgi/admin", None), "/y/../x%2f../wsgi/admin"),
        # nginx and lighttpd leave out what follows #
        (("/public", None), "/public#/../wsgi/admin"),
        (("", "/public"), "/public#/../wsgi/admin"),
        (("", "/public"), "/public#?/../wsgi/admin"),
        ((None, None), "/public#/../wsgi/admin"),
        # Caddy does not
        (("", "/wsgi#/admin"), "/wsgi#/admin"),
    ],
)
def test_what_the_web_server_was_not_asked_about(said, uri):
    """A rule for /wsgi/admin has not been looked at for these, so they must not become that."""
    assert paths("/wsgi", *said, uri) == OUTSIDE


@pytest.mark.parametrize(
    ("said", "uri", "expected"),
    [
        (("", "/wsgi/admin"), "/wsgi/wsgi/admin", "/wsgi/admin"),
        (("/wsgi/admin", None), "/wsgi/wsgi/admin", "/wsgi/admin"),
        (("", "/wsgi"), "/wsgi/wsgi", "/wsgi"),
        (("", "/wsgi/admin"), "/wsgi//%77sgi/x/../admin?x", "/wsgi/admin"),
        (("", "/wsgi/admin"), "/wsgi/admin?/wsgi/wsgi/admin", "/admin"),
        (("", "/wsgi/admin"), "http://a.longer.host/wsgi/admin", "/admin"),
    ],
)
def test_a_stripped_path_that_begins_with_the_mount(said, uri, expected):
    """A rule for /wsgi/admin has not been looked at for /wsgi/wsgi/admin."""
    assert paths("/wsgi", *said, uri) == ("/wsgi", expected)


@pytest.mark.parametrize("uri", ["/wsgi//a", "/wsgi/./a", "/wsgi/a#b", "//wsgi/a?b"])
def test_both_parts_the_whole_path_however_it_was_written(uri):
    assert paths("/wsgi", "/wsgi/a", "/wsgi/a", uri) == ("/wsgi", "/a")


@pytest.mark.parametrize("uri", [None, "", "*", "http://h", "x"])
@pytest.mark.parametrize("path", [None, "", "/x"])
def test_nothing_is_outside_the_root(path, uri):
    assert paths("/", None, path, uri) == ("", path or "")


def test_options_of_the_server():
    assert paths("/", "", "*", "*", validated=False, method="OPTIONS") == ("", "*")


def test_a_mount_that_is_not_ascii():
    """It is written as it is; environs have the bytes of its UTF-8."""
    assert paths("/é", "", "/Ã©/Ã©", "/%C3%A9/%C3%A9") == ("/Ã©", "/Ã©")
    assert paths("/é", None, None, "/%C3%A9/x") == ("/Ã©", "/x")
    assert paths("/a b", None, None, "/a%20b/x") == ("/a b", "/x")


# ------------------------------------------------------------------------------- the option


@pytest.mark.parametrize("mount", ["", "/"])
def test_the_root(mount):
    assert checked_mount(mount) == ""


@pytest.mark.parametrize(
    "mount",
    [
        *["app", "/app/", "//", "/a//b", "/.", "/..", "/a/../b", "/./a", "/a/..", "http://h/app"],
        *["/a%20b", "/a?b", "/a#b", "/a\0b", "/a\nb", "/\x7f", "/\ud800", " /a", 1, b"/app", True],
    ],
)
def test_what_is_no_mount(mount):
    with pytest.raises(ConfigurationError, match="mount="):
        WSGIServer(hello, mount=mount)


@pytest.mark.parametrize("mount", ["/.a", "/a..", "/...", "/a.b/c", "/~x", "/a:b@c", "/\udcff"])
def test_odd_mounts(mount):
    assert checked_mount(mount)


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "PATH_INFO"])
def test_two_that_say_where(name):
    with pytest.raises(ConfigurationError, match="mount and environ"):
        WSGIServer(hello, mount="/app", environ={name: "/x"})
    WSGIServer(hello, environ={name: "/x"})
    WSGIServer(hello, mount="/app", environ={"X": "/x"})


def test_two_that_say_where_in_the_settings():
    typed = {"application": "x", "environ": [("SCRIPT_NAME", "/x")]}
    with pytest.raises(ConfigurationError, match="FASTFCGI_MOUNT: cannot be together"):
        config.read(typed, {"FASTFCGI_MOUNT": "/app"}, "/")


@pytest.mark.parametrize("kind", [WSGIServer, prefork.WSGIServer, single.WSGIServer])
def test_every_server_takes_it(kind):
    kind(hello, mount="/app")
    with pytest.raises(ConfigurationError, match="mount="):
        kind(hello, mount="app")


# ------------------------------------------------------------------------------- outside


def test_outside_is_a_404_and_told_once(caplog):
    caplog.set_level(logging.DEBUG)
    with Serving(WSGIServer(hello, bind="127.0.0.1:0", mount="/wsgi")) as web:
        for path in ("/one", "/two"):
            output = web.get(path)
            assert output.status == 404
            assert b"no application at this path" in output.body
        assert web.get("/wsgi/three").status == 200
    told = [r for r in caplog.records if "not below mount='/wsgi'" in r.getMessage()]
    assert [r.levelname for r in told] == ["WARNING", "DEBUG"]
    assert "GET '/one' [" in told[0].getMessage()


def test_no_body_for_head():
    with Serving(WSGIServer(hello, bind="127.0.0.1:0", mount="/wsgi")) as web, web.peer() as peer:
        output = peer.request(wire.cgi_params("HEAD", "/one"))
        assert (output.status, output.body) == (404, b"")


def test_pages_and_the_access_log_have_the_whole_path():
    """Pages are asked for at their whole path, below the mount or not."""
    records = []
    options = {"ping_path": "/ping", "status_path": "/wsgi/status", "mount": "/wsgi"}
    server = WSGIServer(hello, bind="127.0.0.1:0", access_log=records.append, **options)
    with Serving(server) as web:
        assert web.get("/ping").body == b"pong\n"
        assert b"fastfcgi" in web.get("/wsgi/status").body
        assert web.get("/wsgi/ping").status == 200
        assert web.get("/status").status == 404
    seen = [(r.environ["SCRIPT_NAME"], r.environ["PATH_INFO"], r.status[:3]) for r in records]
    assert seen == [("/wsgi", "/ping", "200"), ("", "/status", "404")]


def test_what_the_application_sees_over_fastcgi():
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [repr((environ["SCRIPT_NAME"], environ["PATH_INFO"])).encode()]

    with Serving(WSGIServer(app, bind="127.0.0.1:0", mount="/a")) as web, web.peer() as peer:
        for params in (
            wire.cgi_params("GET", "/a/b"),
            wire.cgi_params("GET", "", SCRIPT_NAME="/a/b", PATH_INFO=None, REQUEST_URI="/a/b"),
            wire.cgi_params("GET", "/b", SCRIPT_NAME="/a", REQUEST_URI="/a/b"),
        ):
            for _ in range(6):  # the fourth and later come from a shape
                assert peer.request(params, keep_conn=True).body == b"('/a', '/b')"
