"""The head of a response, compared with the same rules as regular expressions (RFC 9110, CGI)."""

import re

import pytest
from fake_request import FakeRequest, handled
from hypothesis import given, settings
from hypothesis import strategies as st

from fastfcgi.wsgi import Response

STATUS = re.compile(r"[1-9][0-9]{2}(?: [^\r\n\0]*)?")
NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
VALUE = re.compile(r"[^\r\n\0]*")
NOT_PASSED_ON = [
    *["connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"],
    *["trailers", "transfer-encoding", "upgrade", "status"],
]
EVERY_BYTE = [chr(code) for code in range(256)]


def expected(status, headers):
    """The head up to its empty line, or the exception that start_response raises."""
    if not isinstance(status, str):
        return TypeError(f"the status is a {type(status).__name__}, not a str (PEP 3333)")
    if not STATUS.fullmatch(status):
        return ValueError(f"not a status line: {status!r}")
    lines, lengths = [], set()
    for name, value in headers:
        if not isinstance(name, str) or not isinstance(value, str):
            return TypeError(f"a header that is not of str: {name!r}: {value!r} (PEP 3333)")
        if not NAME.fullmatch(name):
            return ValueError(f"not a header name: {name!r}")
        if not VALUE.fullmatch(value):
            return ValueError(f"CR, LF or NUL in the header {name}: {value!r}")
        if name.lower() == "content-length":
            length = value.strip()
            if not (length.isascii() and length.isdigit()):
                return ValueError(f"not a Content-Length: {length!r}")
            lengths.add(int(length))
            if len(lengths) > 1:
                return ValueError("two different Content-Length headers")
        if name.lower() not in NOT_PASSED_ON:
            lines.append(f"{name}: {value}\r\n")
    # HAProxy makes 302 of any status that stands before a Location.
    has_location = any(name.lower() == "location" for name, _ in headers)
    lines.insert(len(lines) if has_location else 0, f"Status: {status}\r\n")
    try:
        return "".join(lines).encode("latin-1")
    except UnicodeEncodeError as error:
        return error


def head_of(status, headers):
    request = FakeRequest()
    response = Response(request, True)
    try:
        response.start_response(status, headers)
    except Exception as error:
        return error
    response(b"x")
    assert request.output.endswith(b"\r\n\r\n")
    return request.output[:-2]


def check(status, headers):
    found, wanted = head_of(status, headers), expected(status, headers)
    if isinstance(wanted, UnicodeEncodeError):
        assert type(found) is UnicodeEncodeError
        assert found.object[found.start] == wanted.object[wanted.start]
    elif isinstance(wanted, Exception):
        assert (type(found), str(found)) == (type(wanted), str(wanted))
    else:
        assert found == wanted


@pytest.mark.parametrize("name", ["Location", "LOCATION", "Content-Location", "Locations"])
@pytest.mark.parametrize("before", [0, 1, 40])
def test_a_location_stands_before_the_status(name, before):
    check("301 Moved", [("X-Status", "Status: 5" * 3)] * before + [(name, "/x"), ("X-A", "b")])
    check("201 " + "x" * 1010, [(name, "/x"), (name, "/y")])


# ---------------------------------------------------------------------------- every byte


@pytest.mark.parametrize("text", ["{}", "{}X-A", "X{}-A", "X-A{}"])
def test_every_byte_in_a_name(text):
    for char in EVERY_BYTE:
        check("200 OK", [(text.format(char), "1")])


@pytest.mark.parametrize("length", range(20))
def test_every_byte_at_every_place_of_a_value(length):
    """Values are looked at eight bytes at a time."""
    for place in range(length + 1):
        for char in EVERY_BYTE:
            check("200 OK", [("X-A", "x" * place + char + "\t" * (length - place))])


@pytest.mark.parametrize("text", ["{}", "{}00 OK", "2{}0 OK", "20{}", "200{}OK", "200{}", "200 {}"])
def test_every_byte_in_a_status(text):
    for char in EVERY_BYTE:
        check(text.format(char), [])
        check(text.format(char) + " and more", [])


@pytest.mark.parametrize("text", ["{}3", "3{}", "3{}3", "{}", " {}3"])
def test_every_byte_in_a_content_length(text):
    for char in EVERY_BYTE:
        check("200 OK", [("Content-Length", text.format(char))])


# --------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", [*NOT_PASSED_ON, "content-length"])
def test_special_names_in_letters_of_any_size_and_names_that_are_nearly_so(name):
    for spelled in (name, name.upper(), name.title(), name.swapcase()):
        check("200 OK", [(spelled, "3")])
    for place in range(len(name)):
        for char in "a~-@[`{Z":
            if NAME.fullmatch(char):
                check("200 OK", [(name[:place] + char + name[place + 1 :], "x3")])
    for other in (name + "s", name[:-1], "x" + name):
        check("200 OK", [(other or "x", "x3")])


@pytest.mark.parametrize("length", range(1, 40))
def test_names_of_every_length(length):
    check("200 OK", [("t" * length, "x"), ("X" * length, "y")])


# ------------------------------------------------------------------------ content-length


@pytest.mark.parametrize("first", ["3", "03", " 3", "4", "9" * 18, "9" * 19, "0" * 30 + "3"])
@pytest.mark.parametrize("second", ["3", "003\t", "\xa03", "5", "9" * 18, "0" * 30 + "3", "x"])
def test_two_content_lengths(first, second):
    check("200 OK", [("Content-Length", first), ("content-length", second)])


def test_a_content_length_beyond_64_bits_is_sent_as_it_is():
    check("200 OK", [("Content-Length", "9" * 30)])


@pytest.mark.parametrize("other", ["8" * 30, "3"])
def test_two_content_lengths_beyond_64_bits(other):
    headers = [("Content-Length", "9" * 30), ("Content-Length", other)]
    check("200 OK", headers)
    check("200 OK", headers[::-1])


def test_a_content_length_that_python_takes_for_no_number():
    found = head_of("200 OK", [("Content-Length", "9" * 5000)])
    assert type(found) is ValueError


@pytest.mark.parametrize("length", [0, 1, 9, 10, 99, 12345, 10**6 + 7])
def test_a_content_length_that_is_added(length):
    request = FakeRequest()

    def app(environ, start_response):
        start_response("200 OK", [])
        return [bytes(length)]

    handled(app, request)
    assert request.blocks[0] == b"Status: 200 OK\r\nContent-Length: %d\r\n\r\n" % length


# --------------------------------------------------------------------- what is not plain


class Text(str):
    """Says something else of itself than it is."""

    def __str__(self):
        return "evil\r\nX-Evil: 1"

    def __format__(self, spec):
        return "evil\r\nX-Evil: 1"

    def encode(self, *args):
        return b"evil\r\nX-Evil: 1"


def test_a_str_of_another_class_is_its_text():
    wanted = b"Status: 200 OK\r\nX-A: caf\xe9\r\n"
    assert head_of(Text("200 OK"), [(Text("X-A"), Text("caf\xe9"))]) == wanted
    assert type(head_of("200 OK", [("X-A", Text("a\nb"))])) is ValueError
    assert type(head_of("200 OK", [("X-A", Text("\u20ac"))])) is UnicodeEncodeError


class Pairs(list):
    pass


class Pair(tuple):
    pass


@pytest.mark.parametrize(
    "headers",
    [
        (("X-A", "1"), ("X-B", "2")),
        [["X-A", "1"], ["X-B", "2"]],
        Pairs([Pair(("X-A", "1")), Pair(("X-B", "2"))]),
        {"X-A": "1", "X-B": "2"}.items(),
        iter([("X-A", "1"), iter(("X-B", "2"))]),
    ],
)
def test_headers_in_other_shapes(headers):
    assert head_of("200 OK", headers) == b"Status: 200 OK\r\nX-A: 1\r\nX-B: 2\r\n"


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ([("X-A",)], ValueError),
        ([("X-A", "1", "2")], ValueError),
        ([()], ValueError),
        ([None], TypeError),
        ([1], TypeError),
        (None, TypeError),
        (1, TypeError),
    ],
)
def test_headers_that_are_no_pairs(headers, error):
    assert type(head_of("200 OK", headers)) is error


@pytest.mark.parametrize("char", ["\u0100", "\u20ac", "\ud800", "\U0001f600"])
@pytest.mark.parametrize("rest", ["", "\n", "x" * 20, "caf\xe9"])
def test_what_is_beyond_latin_1(char, rest):
    text = char + rest
    check("200 " + text, [])
    check(text, [])
    check("200 OK", [("X-A", text)])
    check("200 OK", [(text, "1")])
    check("200 OK", [("Content-Length", text)])
    check("200 OK", [("Connection", rest)])
    # What else is wrong is told first, wherever it stands.
    check("200 " + text, [("X A", "1")])
    check("200 OK", [("X-A", text), ("X-B", "1\n")])


def test_digits_of_other_scripts_are_no_content_length():
    check("200 OK", [("Content-Length", "\u0663")])
    check("200 OK", [("Content-Length", "\xb2")])


@pytest.mark.parametrize("length", [900, 1000, 1005, 1010, 1020, 1024, 1030, 2000, 100_000])
def test_heads_of_every_size(length):
    check("200 OK", [("X-A", "a" * length)])
    check("200 " + "a" * length, [("X-A", "b" * length), ("X-B", "c" * length)])
    check("200 OK", [("X-A", "a")] * (length // 8))


@pytest.mark.parametrize("headers", [1, 2, 5])
def test_heads_around_the_size_that_needs_no_memory_of_its_own(headers):
    """To the byte, because what is written beyond it may show only in the sanitizers' build."""
    for length in range(900, 1060):
        check("200 OK", [("X-A", "a" * (length // headers))] * headers)
        check("200 " + "a" * length, [])


def test_what_fails_far_into_a_long_head_leaves_the_response_as_it_was():
    request = FakeRequest()
    response = Response(request, False)
    for _ in range(3):
        with pytest.raises(ValueError, match="not a header name"):
            response.start_response("200 OK", [("X-A", "a" * 5000)] * 20 + [("", "")])
    response.start_response("201 Created", [])
    response(b"x")
    assert request.output == b"Status: 201 Created\r\n\r\nx"


# -------------------------------------------------------------------------- anything at all

CHARS = st.sampled_from('aZ09-: \t\r\n\0\x7f\xa0\xe9\xff\u20ac,;="()')
NAMES = st.sampled_from(
    ["X-A", "Location", "Content-Length", "content-LENGTH", "Status", "te", "Set-Cookie"]
)
TEXTS = st.text(CHARS, max_size=30) | st.sampled_from(["3", "text/plain", "4", " 3 "])


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(["200 OK", "204", "304 Not Modified"]) | TEXTS | st.none(),
    st.lists(st.tuples(NAMES | TEXTS, TEXTS | st.none()), max_size=5),
)
def test_any_head(status, headers):
    check(status, headers)
