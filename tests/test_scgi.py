"""_scgi.HeaderReader: the header of a request, cut anywhere, as a plain-Python oracle reads it."""

import itertools
import re
import tracemalloc

import pytest
import scgi_wire
import wire
from hypothesis import given
from hypothesis import strategies as st

from fastfcgi._params import ParamsDecoder
from fastfcgi._scgi import HeaderReader
from fastfcgi.exceptions import LimitExceeded, RemoteProtocolError

LEAST = [("CONTENT_LENGTH", "0"), ("SCGI", "1")]


def reader(**limits):
    return HeaderReader(ParamsDecoder(**limits))


def read(*parts, **limits):
    """What the parts come to: bytes used, entries, length of the body; MORE."""
    header, total = reader(**limits), 0
    for part in parts:
        used, params = header.feed(part)
        total += used
        if params is not None:
            return total, params, header.content_length
        assert used == len(part)
        assert header.content_length == -1
    return scgi_wire.MORE


def same_as_oracle(data, *parts, **limits):
    """The reader's result is the oracle's, and so is where it stops."""
    try:
        expected = scgi_wire.parse_header(data, **limits)
    except scgi_wire.Refused as refused:
        with pytest.raises(RemoteProtocolError) as caught:
            read(*(parts or [data]), **limits)
        assert caught.value.offset == refused.offset, caught.value
        assert isinstance(caught.value, LimitExceeded) == (refused.offset is None)
        return
    assert read(*(parts or [data]), **limits) == expected


# ------------------------------------------------------------------------------- what is right


def test_the_example_of_the_specification():
    data = (
        b"70:CONTENT_LENGTH\x0027\0SCGI\x001\0REQUEST_METHOD\0POST\0REQUEST_URI\0/deepthought\0,"
        b"What is the answer to life?"
    )
    assert read(data) == (
        len(data) - 27,
        {
            "CONTENT_LENGTH": "27",
            "SCGI": "1",
            "REQUEST_METHOD": "POST",
            "REQUEST_URI": "/deepthought",
        },
        27,
    )


def test_cut_at_every_byte():
    data = scgi_wire.request(scgi_wire.cgi_params("POST", "/x", HTTP_COOKIE="a=b"), b"body")
    whole = scgi_wire.parse_header(data)
    assert whole[1]["HTTP_COOKIE"] == "a=b"
    assert read(data) == whole
    for pos in range(1, len(data)):
        assert read(data[:pos], data[pos:]) == whole
    assert read(*(data[i : i + 1] for i in range(len(data)))) == whole


def test_values_are_latin_1_and_may_be_empty():
    pairs = [*LEAST, ("A", ""), (b"B\xff", b"\xff\xc3\xa9"), ("C", "x" * 70_000)]
    found = read(scgi_wire.header(pairs))[1]
    assert (found["A"], found["B\xff"], found["C"]) == ("", "\xff\xc3\xa9", "x" * 70_000)


def test_repeated_names_as_with_fastcgi():
    pairs = [("A", "1"), ("HTTP_X", "1"), ("HTTP_COOKIE", "a"), ("HTTP_HOST", "1")]
    found = read(scgi_wire.request([*pairs, *((n, v + "2") for n, v in pairs)]))[1]
    assert found["A"] == "12"
    assert found["HTTP_X"] == "1, 12"
    assert found["HTTP_COOKIE"] == "a; a2"
    assert found["HTTP_HOST"] == "12"


def test_reserved_names_and_a_base():
    decoder = ParamsDecoder(reserved=b"wsgi.", base={"wsgi.version": (1, 0)})
    _, found = HeaderReader(decoder).feed(scgi_wire.request([("wsgi.version", "9"), ("wsg", "")]))
    assert found == {"CONTENT_LENGTH": "0", "SCGI": "1", "wsg": "", "wsgi.version": (1, 0)}


@pytest.mark.parametrize("length", ["0", "000", "27", "0027", "9" * 18])
def test_content_length(length):
    data = scgi_wire.header([("CONTENT_LENGTH", length), ("SCGI", "1")])
    assert read(data)[2] == int(length)


def test_the_same_content_length_twice():
    assert read(scgi_wire.header([*LEAST, ("CONTENT_LENGTH", "0")]))[2] == 0


def test_what_follows_is_left_alone():
    data = scgi_wire.header(LEAST)
    assert read(data + b"body,")[0] == len(data)


# ------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("data", "text", "offset"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", "begins with the length of its header", 0),
        (b"\1\1\0\1", "begins with the length of its header", 0),
        (b":", "begins with the length of its header", 0),
        (b"-1:", "begins with the length of its header", 0),
        (b"7x:", "begins with the length of its header", 1),
        (b"7 :", "begins with the length of its header", 1),
        (b"0:,", "the header is empty", 1),
        (b"024:CONTENT_LENGTH", "begins with 0", 1),
        (b"00:,", "begins with 0", 1),
        (scgi_wire.netstring(b"SCGI\x001\0CONTENT_LENGTH\x000\0"), "is not the first name", 3),
        (scgi_wire.netstring(b"CONTENT_LENGTHX\x000\0SCGI\x001\0"), "is not the first name", 3),
        (scgi_wire.netstring(b"content_length\x000\0SCGI\x001\0"), "is not the first name", 3),
        (scgi_wire.netstring(b"\0"), "is not the first name", 2),
        (scgi_wire.netstring(b"CONTENT_LENGTH\0"), "is no number of bytes", 18),
        (scgi_wire.netstring(b"CONTENT_LENGTH\0\0SCGI\x001\0"), "is no number of bytes", 18),
        (scgi_wire.netstring(b"CONTENT_LENGTH\0-1\0SCGI\x001\0"), "is no number of bytes", 18),
        (scgi_wire.netstring(b"CONTENT_LENGTH\x001x\0SCGI\x001\0"), "is no number of bytes", 19),
        (
            scgi_wire.netstring(b"CONTENT_LENGTH\0" + b"1" * 19 + b"\0SCGI\x001\0"),
            "is no number of bytes",
            18,
        ),
        (scgi_wire.header([*LEAST, ("CONTENT_LENGTH", "1")]), "as two lengths", 3 + 24),
        (scgi_wire.header([*LEAST, ("CONTENT_LENGTH", "00")]), "as two lengths", 3 + 24),
        (scgi_wire.header([*LEAST, ("", "1")]), "an empty name", 3 + 24),
        (scgi_wire.netstring(b"CONTENT_LENGTH\x000\0SCGI\x001\0A\0"), "without a value", 3 + 24),
        (scgi_wire.netstring(b"CONTENT_LENGTH\x000\0SCGI\x001\0A"), "not end with NUL", 3 + 24),
        (scgi_wire.header([("CONTENT_LENGTH", "0")]), "SCGI is missing", 3 + 17),
        (scgi_wire.header([("CONTENT_LENGTH", "0"), ("SCGI", "2")]), "missing or not 1", 27),
        (scgi_wire.header([*LEAST, ("SCGI", "")]), "SCGI is missing or not 1", 33),
        (scgi_wire.header(LEAST)[:-1] + b";", "no comma after the header", 27),
    ],
)
def test_what_is_refused(data, text, offset):
    with pytest.raises(RemoteProtocolError, match=re.escape(text)) as caught:
        read(data)
    assert caught.value.offset == offset
    assert "(SCGI)" in str(caught.value)
    assert not isinstance(caught.value, LimitExceeded)
    same_as_oracle(data)
    same_as_oracle(data, *(data[i : i + 1] for i in range(len(data))))


def test_a_length_beyond_the_limit_is_refused_by_its_digits():
    """Nothing waits for so many bytes, or for the colon."""
    assert read(b"100", max_bytes=100) == scgi_wire.MORE
    for data in (b"101", b"1000", b"9" * 30):
        with pytest.raises(LimitExceeded, match="max_params_bytes=100"):
            read(data, max_bytes=100)
        same_as_oracle(data, max_bytes=100)


def test_the_longest_header():
    data = scgi_wire.header(LEAST)
    assert read(data, max_bytes=24)[2] == 0
    with pytest.raises(LimitExceeded, match="max_params_bytes=23"):
        read(data, max_bytes=23)


def test_the_most_pairs():
    data = scgi_wire.request([("A", "1")] * 8)
    assert read(data, max_pairs=10)
    with pytest.raises(LimitExceeded, match="max_params_pairs=9"):
        read(data, max_pairs=9)
    same_as_oracle(data, max_pairs=9)


def test_after_an_error_or_the_end_there_is_nothing():
    header = reader()
    with pytest.raises(RemoteProtocolError):
        header.feed(b"x")
    with pytest.raises(RemoteProtocolError, match="was broken"):
        header.feed(b"1")
    header = reader()
    header.feed(scgi_wire.header(LEAST))
    with pytest.raises(RemoteProtocolError, match="is complete"):
        header.feed(b"1")


def test_memory_is_taken_as_bytes_come():
    """A length costs its sender as many bytes as it costs us."""
    tracemalloc.start()
    header = reader(max_bytes=1 << 30)
    header.feed(b"%d:CONTENT_LENGTH" % (1 << 30))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


# ------------------------------------------------------------------------------- properties

NAMES = st.sampled_from(
    [b"", b"A", b"SCGI", b"CONTENT_LENGTH", b"HTTP_X", b"HTTP_COOKIE", b"HTTP_HOST", b"PATH_INFO"]
)
VALUES = st.sampled_from([b"", b"1", b"0", b"12", b"-1", b"x", b"\xff\xfe", b"1" * 20])
PAIRS = st.lists(st.tuples(NAMES, VALUES), max_size=6)


@st.composite
def headers(draw):
    """Mostly right ones, and such that are nearly right."""
    pairs = draw(PAIRS)
    if draw(st.integers(0, 4)):
        first = (b"CONTENT_LENGTH", draw(st.sampled_from([b"0", b"5", b"12"])))
        pairs = [first, (b"SCGI", b"1"), *(pair for pair in pairs if pair[0])]
    data = bytearray(scgi_wire.header(pairs) + draw(st.binary(max_size=5)))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        pos = draw(st.integers(0, len(data) - 1))
        data[pos] = draw(st.sampled_from([0, 0x2C, 0x30, 0x31, 0x3A, 0x41, 0xFF]))
    return bytes(data)


@given(headers(), st.lists(st.integers(0, 300), max_size=4))
def test_as_the_oracle_reads_it(data, cuts):
    borders = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    parts = [data[a:b] for a, b in itertools.pairwise(borders)]
    limits = {"max_bytes": 90, "max_pairs": 6}
    same_as_oracle(data, *parts, **limits)


@given(st.binary(max_size=40))
def test_any_bytes(data):
    same_as_oracle(data)
    same_as_oracle(b"9:" + data, max_bytes=20)


def test_the_oracle_knows_what_web_servers_send():
    data = scgi_wire.request(wire.cgi_params("GET", "/a"))
    assert scgi_wire.parse_header(data)[1]["PATH_INFO"] == "/a"


def test_one_that_was_not_made_whole():
    """Python can make one without its decoder, which must not be read then."""
    with pytest.raises(AttributeError):
        HeaderReader.__new__(HeaderReader).feed(b"1")
