"""PARAMS -> the CGI part of a WSGI environ."""

import pytest

from fastfcgi.environ import complete_environ, content_length_of, url_scheme


def completed(override=None, **params):
    environ = dict(params)
    complete_environ(environ, override)
    return environ


# ------------------------------------------------------------------------- CONTENT_LENGTH


@pytest.mark.parametrize(
    ("text", "length"),
    [("0", 0), ("1", 1), ("0042", 42), ("9" * 18, 10**18 - 1)],
)
def test_content_length_is_a_number(text, length):
    assert content_length_of({"CONTENT_LENGTH": text}) == length


@pytest.mark.parametrize(
    "text",
    [
        *["", "-1", "+1", " 1", "1 ", "1.0", "0x10", "1_000", "ten", "\xb2", "\u0663", "\u3131"],
        *["1" * 19, "9" * 19, "1" * 9999, "9" * 9999],
    ],
)
def test_content_length_that_is_not_digits_counts_as_absent(text):
    assert content_length_of({"CONTENT_LENGTH": text}) is None
    assert "CONTENT_LENGTH" not in completed(CONTENT_LENGTH=text)


def test_content_length_absent():
    assert content_length_of({}) is None
    assert "CONTENT_LENGTH" not in completed()


def test_content_length_reaches_the_application_as_it_was_sent():
    assert completed(CONTENT_LENGTH="0012")["CONTENT_LENGTH"] == "0012"


# --------------------------------------------------------------------- what is left out


@pytest.mark.parametrize(
    "name",
    ["HTTP_PROXY", "HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE", "HTTP_TRANSFER_ENCODING"],
)
def test_withheld_names_do_not_reach_the_application(name):
    assert name not in completed(**{name: "x"})


def test_withheld_names_do_not_come_back_by_the_override():
    assert "HTTP_PROXY" not in completed({"HTTP_PROXY": "http://proxy"})


def test_everything_else_is_handed_on():
    environ = completed(HTTP_X_ANY="1", CONTENT_TYPE="text/plain", DOCUMENT_ROOT="", LANG="de")
    assert environ["HTTP_X_ANY"] == "1"
    assert environ["CONTENT_TYPE"] == "text/plain"
    assert environ["DOCUMENT_ROOT"] == ""
    assert environ["LANG"] == "de"


# ------------------------------------------------------------------- what is always there


def test_everything_that_pep_3333_promises_is_there_when_nothing_was_sent():
    assert completed() == {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.0",
        "wsgi.url_scheme": "http",
    }


@pytest.mark.parametrize("name", ["REQUEST_METHOD", "SERVER_NAME", "SERVER_PORT"])
def test_what_can_never_be_empty_gets_its_default(name):
    """PEP 3333; nginx sends an empty SERVER_NAME where none is configured."""
    assert completed(**{name: ""})[name]


def test_what_was_sent_is_kept():
    params = {
        "REQUEST_METHOD": "PUT",
        "SERVER_NAME": "example.org",
        "SERVER_PORT": "8443",
        "SERVER_PROTOCOL": "HTTP/2.0",
        "SCRIPT_NAME": "/app",
        "PATH_INFO": "/x",
        "QUERY_STRING": "a=b",
    }
    assert params.items() <= completed(**params).items()


@pytest.mark.parametrize(
    ("uri", "path_info"),
    [
        ("/admin//../x", "/x"),  # nginx asks its rules about /x
        ("/a/b//../../x", "/x"),
        ("/a//b/./c", "/a/b/c"),
        ("/a//b/..", "/a/"),
        ("/a/..//", "/"),
        ("/a//", "/a//"),
        ("/a//b", "/a//b"),
        ("/a//b.c/.d", "/a/b.c/.d"),
        ("//../x", "/x"),
        ("/..", "/"),
        ("/.", "/"),
    ],
)
def test_dots_and_slashes_as_web_servers_take_them(uri, path_info):
    assert completed(REQUEST_URI=uri)["PATH_INFO"] == path_info


# ---------------------------------------------------------------------------- the scheme


@pytest.mark.parametrize("https", ["on", "ON", "1", "true", "True", "yes"])
def test_https_is_on(https):
    assert url_scheme({"HTTPS": https}) == "https"
    assert url_scheme({"HTTPS": https, "REQUEST_SCHEME": "http"}) == "https"


@pytest.mark.parametrize("https", ["off", "Off", "0", "no", "false", ""])
def test_https_is_off(https):
    assert url_scheme({"HTTPS": https}) == "http"
    assert url_scheme({"HTTPS": https, "REQUEST_SCHEME": "https"}) == "http"


@pytest.mark.parametrize(
    ("params", "scheme"),
    [
        ({}, "http"),
        ({"REQUEST_SCHEME": "https"}, "https"),
        ({"REQUEST_SCHEME": "HTTPS"}, "https"),
        ({"REQUEST_SCHEME": "http"}, "http"),
        ({"REQUEST_SCHEME": "gopher"}, "http"),
        ({"HTTPS": "perhaps", "REQUEST_SCHEME": "https"}, "https"),
        ({"HTTPS": "perhaps"}, "http"),
    ],
)
def test_request_scheme_decides_where_https_says_nothing(params, scheme):
    assert url_scheme(params) == scheme
    assert completed(**params)["wsgi.url_scheme"] == scheme


# -------------------------------------------------------------- SCRIPT_NAME, PATH_INFO, query


@pytest.mark.parametrize(
    ("script_name", "request_uri", "path_info"),
    [
        ("", "/", "/"),
        ("", "/a/b", "/a/b"),
        ("", "/a/b?c=d", "/a/b"),
        ("", "/a%20b", "/a b"),
        ("", "/%C3%A9", "/\xc3\xa9"),
        ("", "/\xe9", "/\xe9"),
        ("", "/%FF", "/\xff"),
        ("", "/a%2Fb", "/a/b"),
        ("", "/a%252Fb", "/a%2Fb"),
        ("", "/%zz", "/%zz"),
        ("", "/?/x", "/"),
        ("", "/a/../b/./c", "/b/c"),
        ("", "/a/b/..", "/a/"),
        ("", "/a/.", "/a/"),
        ("", "/../../x", "/x"),
        ("", "/a/%2e%2e/b", "/b"),
        ("", "/a/.b/..c", "/a/.b/..c"),
        ("/app", "/app", ""),
        ("/app", "/app?x", ""),
        ("/app", "/app/", "/"),
        ("/app", "/app/x", "/x"),
        ("/app", "/%61pp/x", "/x"),
        ("/app", "/z/../app/x", "/x"),
        ("/a b", "/a%20b/c", "/c"),
        ("/app", "/appendix", ""),
        ("/app.fcgi", "/pretty/path", ""),
        ("/", "/x", "/x"),
        ("/app/", "/app/x", "/x"),
        ("", "http://www.example.org/a%20b?c", "/a b"),
        ("/app", "http://www.example.org/app/x", "/x"),
        ("", "http://www.example.org", ""),
        ("", "http://www.example.org?x/y", ""),
        ("", "*", ""),
        ("", "", ""),
        ("", "?x", ""),
        # what nginx and lighttpd leave out of the path that their rules are asked about
        ("/app", "/app#/../app/admin", ""),
        ("/app", "/app#?/../app/admin", ""),
        ("", "/x#/y", "/x"),
        ("/app", "/app/%23", "/#"),
    ],
)
def test_empty_path_info_is_derived_from_request_uri(script_name, request_uri, path_info):
    environ = completed(SCRIPT_NAME=script_name, REQUEST_URI=request_uri, PATH_INFO="")
    assert environ["PATH_INFO"] == path_info
    assert environ["SCRIPT_NAME"] == script_name
    without = completed(SCRIPT_NAME=script_name, REQUEST_URI=request_uri)
    assert without["PATH_INFO"] == path_info


def test_a_path_info_that_was_sent_is_never_decoded_again():
    environ = completed(SCRIPT_NAME="/app", PATH_INFO="/100%25", REQUEST_URI="/app/100%2525")
    assert environ["PATH_INFO"] == "/100%25"


def test_script_name_may_be_missing():
    environ = completed(REQUEST_URI="/x")
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("", "/x")


@pytest.mark.parametrize(
    ("params", "query"),
    [
        ({"REQUEST_URI": "/x?a=b%20c"}, "a=b%20c"),
        ({"REQUEST_URI": "/x?a?b"}, "a?b"),
        ({"REQUEST_URI": "/x?a=b", "QUERY_STRING": ""}, "a=b"),
        ({"REQUEST_URI": "/x?a=b", "QUERY_STRING": "c=d"}, "c=d"),
        ({"REQUEST_URI": "/x?", "QUERY_STRING": ""}, ""),
        ({"REQUEST_URI": "/x"}, ""),
        ({"QUERY_STRING": "a=b"}, "a=b"),
    ],
)
def test_query_string_is_taken_from_request_uri_only_when_empty(params, query):
    assert completed(**params)["QUERY_STRING"] == query
    assert completed(**params, PATH_INFO="/x")["QUERY_STRING"] == query


class Text(str):
    pass


def test_values_of_another_str_class_count_as_well():
    values = {
        "CONTENT_LENGTH": "12",
        "HTTPS": "ON",
        "REQUEST_METHOD": "PUT",
        "REQUEST_URI": "/a%20b?c=d",
    }
    environ = completed({name: Text(value) for name, value in values.items()})
    assert environ == completed(values)
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/a b", "c=d")
    assert content_length_of(environ) == 12
    assert "REQUEST_METHOD" in completed({"REQUEST_METHOD": Text("")})
    assert "CONTENT_LENGTH" not in completed({"CONTENT_LENGTH": Text("x")})


@pytest.mark.parametrize("nothing", [None, ""])
def test_an_override_by_nothing(nothing):
    names = ["CONTENT_LENGTH", "REQUEST_METHOD", "REQUEST_URI", "HTTPS", "REQUEST_SCHEME"]
    names += ["QUERY_STRING", "PATH_INFO", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL"]
    environ = completed(dict.fromkeys(names, nothing), REQUEST_METHOD="PUT", HTTPS="on")
    for name, value in completed().items():
        assert environ[name] == value
    assert "CONTENT_LENGTH" not in environ


# ---------------------------------------------------------------------------- override


def test_override_takes_the_place_of_what_was_sent():
    environ = completed({"SERVER_NAME": "public", "extra": 1}, SERVER_NAME="inner")
    assert environ["SERVER_NAME"] == "public"
    assert environ["extra"] == 1


def test_override_of_script_name_counts_before_the_path_is_looked_at():
    environ = completed({"SCRIPT_NAME": "/app"}, REQUEST_URI="/app/x")
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/app", "/x")


def test_override_is_not_changed():
    override = {"SERVER_NAME": "x"}
    completed(override)
    assert override == {"SERVER_NAME": "x"}


@pytest.mark.parametrize("environ", [None, [], Text("x"), {}.items()])
def test_an_environ_is_a_dict(environ):
    with pytest.raises(TypeError):
        complete_environ(environ)
