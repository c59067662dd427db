"""Name-value pairs and PARAMS; every test runs on the C codec and on the reference codec."""

import itertools
import struct
import tracemalloc

import pytest
import reference_codec

from fastfcgi import _codec
from fastfcgi.exceptions import LimitExceeded, RemoteProtocolError


@pytest.fixture(params=[_codec, reference_codec], ids=["c", "reference"])
def codec(request):
    return request.param


def params_of(codec, *parts, **limits):
    decoder = codec.ParamsDecoder(**limits)
    for part in parts:
        decoder.feed(part)
    return decoder.finish()


def long_length(length):
    """The four-byte form, which is legal for any length (section 3.4)."""
    return struct.pack(">I", length | 0x80000000)


ANY_BYTE = bytes(range(256))
PAIRS = [
    (b"SCRIPT_NAME", b""),
    (b"", b"no name"),
    (b"", b""),
    (b"PATH_INFO", b"/\xc3\xa9\x00\xff"),
    (ANY_BYTE, ANY_BYTE[::-1]),
    (b"n" * 127, b"v" * 128),
    (b"n" * 128, b"v" * 127),
    (b"n" * 129, b"v" * 300),
    (b"QUERY_STRING", b"x=1"),
]
PAIRS_AS_PARAMS = {
    **{name.decode("latin-1"): value.decode("latin-1") for name, value in PAIRS},
}


# ------------------------------------------------------------------------------- pairs


def test_short_and_long_lengths_are_where_section_3_4_has_them(codec):
    assert codec.encode_pairs([(b"ab", b"c")]) == b"\x02\x01abc"
    assert codec.encode_pairs([(b"n" * 127, b"v" * 128)]) == (
        b"\x7f" + b"\x80\x00\x00\x80" + b"n" * 127 + b"v" * 128
    )
    assert codec.encode_pairs([(b"n" * 0x12345, b"")]) == (
        b"\x80\x01\x23\x45" + b"\x00" + b"n" * 0x12345
    )
    assert codec.encode_pairs([]) == b""
    assert codec.encode_pairs(iter([(b"", b"")])) == b"\0\0"


def test_pairs_come_back(codec):
    assert codec.decode_pairs(codec.encode_pairs(PAIRS)) == PAIRS
    assert params_of(codec, codec.encode_pairs(PAIRS)) == PAIRS_AS_PARAMS
    assert codec.decode_pairs(b"") == []
    assert params_of(codec) == {}


@pytest.mark.parametrize("name_length", [0, 1, 126, 127, 128, 129, 255, 256, 65535, 65536])
@pytest.mark.parametrize("value_length", [0, 127, 128, 70000])
def test_lengths_around_the_borders(codec, name_length, value_length):
    pairs = [(b"n" * name_length, b"v" * value_length), (b"next", b"pair")]
    wire = codec.encode_pairs(pairs)
    assert wire == reference_codec.encode_pairs(pairs)
    assert codec.decode_pairs(wire) == pairs
    assert params_of(codec, wire) == {"n" * name_length: "v" * value_length, "next": "pair"}


@pytest.mark.parametrize("length", [0, 1, 127, 128])
def test_four_byte_form_of_any_length_is_legal(codec, length):
    name, value = b"n" * length, b"v" * length
    for lengths in (
        long_length(length) + long_length(length),
        reference_codec.encode_length(length) + long_length(length),
        long_length(length) + reference_codec.encode_length(length),
    ):
        wire = lengths + name + value
        assert codec.decode_pairs(wire) == [(name, value)]
        assert params_of(codec, wire) == {name.decode(): value.decode()}


def test_pairs_cut_at_every_byte(codec):
    wire = codec.encode_pairs(PAIRS)
    assert params_of(codec, *(bytes([octet]) for octet in wire)) == PAIRS_AS_PARAMS
    for cut in range(len(wire) + 1):
        assert params_of(codec, wire[:cut], wire[cut:]) == PAIRS_AS_PARAMS, cut
    for first, second in itertools.combinations(range(0, len(wire), 31), 2):
        parts = wire[:first], wire[first:second], wire[second:]
        assert params_of(codec, *parts) == PAIRS_AS_PARAMS, (first, second)


def test_a_stream_that_ends_inside_a_pair_is_the_peers_error(codec):
    wire = codec.encode_pairs(PAIRS)
    borders = {len(codec.encode_pairs(PAIRS[:count])) for count in range(len(PAIRS) + 1)}
    for cut in range(len(wire)):
        if cut in borders:
            assert len(codec.decode_pairs(wire[:cut])) < len(PAIRS)
            params_of(codec, wire[:cut])
            continue
        with pytest.raises(RemoteProtocolError):
            codec.decode_pairs(wire[:cut])
        with pytest.raises(RemoteProtocolError):
            params_of(codec, wire[:cut])


def test_any_contiguous_buffer_is_taken_and_let_go(codec):
    wire = codec.encode_pairs([(b"A", b"1"), (b"B", b"2")])
    for data in (bytearray(wire), memoryview(b"??" + wire)[2:], memoryview(bytearray(wire))):
        assert params_of(codec, data) == {"A": "1", "B": "2"}
        assert codec.decode_pairs(data) == [(b"A", b"1"), (b"B", b"2")]
    kept = bytearray(wire)
    decoder = codec.ParamsDecoder()
    decoder.feed(kept)
    kept[:] = bytes(len(kept))  # nothing of it may be looked at any more
    kept.clear()  # and no view of it may be alive
    assert decoder.finish() == {"A": "1", "B": "2"}


def test_received_counts_the_bytes_of_the_stream(codec):
    decoder = codec.ParamsDecoder()
    wire = codec.encode_pairs(PAIRS)
    for i in range(len(wire)):
        assert decoder.received == i
        decoder.feed(wire[i : i + 1])
    assert decoder.received == len(wire)


# ---------------------------------------------------------------- repeated and reserved


def pairs_of(codec, *pairs):
    return codec.encode_pairs([(name.encode(), value.encode()) for name, value in pairs])


def test_repeated_header_fields_are_joined_in_order(codec):
    wire = pairs_of(
        codec,
        ("HTTP_X_DUP", "b"),
        ("HTTP_COOKIE", "a=1"),
        ("HTTP_X_DUP", "a"),
        ("HTTP_COOKIE", "b=2"),
        ("HTTP_X_DUP", "c"),
        ("HTTP_ACCEPT", "*/*"),
        ("HTTP_X_FORWARDED_FOR", "192.0.2.1"),
        ("HTTP_X_FORWARDED_FOR", "192.0.2.2"),
    )
    expected = {
        "HTTP_X_DUP": "b, a, c",
        "HTTP_COOKIE": "a=1; b=2",
        "HTTP_ACCEPT": "*/*",
        "HTTP_X_FORWARDED_FOR": "192.0.2.1, 192.0.2.2",
    }
    for cut in range(len(wire) + 1):
        assert params_of(codec, wire[:cut], wire[cut:]) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("HTTP_HOST", "two"),  # never a list
        ("SCRIPT_NAME", "two"),  # nginx sends its own after the configured one
        ("CONTENT_TYPE", "two"),
        ("HTTPS", "two"),
        ("HTTP", "two"),
        ("XHTTP_X", "two"),
        ("http_x", "two"),
        ("", "two"),
        ("HTTP_", "one, two"),
        ("HTTP_X", "one, two"),
        ("HTTP_HOSTS", "one, two"),
        ("HTTP_COOKIE2", "one, two"),
        ("HTTP_COOKIE", "one; two"),
    ],
)
def test_which_repeated_names_are_joined(codec, name, expected):
    assert params_of(codec, pairs_of(codec, (name, "one"), (name, "two"))) == {name: expected}


def test_joining_keeps_empty_values(codec):
    wire = pairs_of(codec, ("HTTP_A", ""), ("HTTP_A", ""), ("HTTP_B", "1"), ("HTTP_B", ""))
    assert params_of(codec, wire) == {"HTTP_A": ", ", "HTTP_B": "1, "}


@pytest.mark.parametrize("reserved", [b"wsgi.", b"HTTP_PROXY", b"REQUEST_M", b"\xff"])
def test_reserved_names_are_left_out(codec, reserved):
    names = [reserved, reserved + b"x", reserved + b"ETHOD", reserved[:-1], b"y" + reserved]
    wire = codec.encode_pairs([(name, b"") for name in names])
    params = params_of(codec, wire, reserved=reserved)
    assert list(params) == [name.decode("latin-1") for name in names[3:]]
    assert len(params_of(codec, wire)) == len(names)


# ---------------------------------------------------------------------------- the limits


def test_max_bytes_exactly_and_one_beyond(codec):
    wire = codec.encode_pairs([(b"NAME", b"v" * 94), (b"OTHER", b"w" * 100)])
    for limit, parts in itertools.product(
        (len(wire), len(wire) - 1), ([wire], [wire[:50], wire[50:]], [bytes([b]) for b in wire])
    ):
        decoder = codec.ParamsDecoder(max_bytes=limit)
        if limit == len(wire):
            for part in parts:
                decoder.feed(part)
            assert len(decoder.finish()) == 2
        else:
            with pytest.raises(LimitExceeded):
                for part in parts:
                    decoder.feed(part)


@pytest.mark.parametrize("first", [b"", b"\x01\x01ab"])
def test_pair_that_is_announced_beyond_max_bytes(codec, first):
    for name_length, value_length in ((100, 0), (0, 100), (50, 50)):
        lengths = long_length(name_length) + long_length(value_length)
        limit = len(first) + len(lengths) + 100
        params_of(codec, first + lengths + bytes(100), max_bytes=limit)
        for parts in ([first + lengths], [bytes([b]) for b in first + lengths]):
            decoder = codec.ParamsDecoder(max_bytes=limit - 1)
            with pytest.raises(LimitExceeded):
                for part in parts:
                    decoder.feed(part)


HUGE = [
    b"\xff\xff\xff\xff" + b"\x00",
    b"\x00" + b"\xff\xff\xff\xff",
    b"\xff\xff\xff\xff" + b"\xff\xff\xff\xff",
    b"\x80\x10\x00\x01" + b"\x00",
    b"\x01" + b"\x80\x10\x00\x00" + b"n",
]


@pytest.mark.parametrize("lengths", HUGE)
def test_lengths_up_to_2_gib_are_refused_at_once_and_allocate_nothing(codec, lengths):
    tracemalloc.start()
    try:
        for parts in ([lengths], [bytes([octet]) for octet in lengths]):
            decoder = codec.ParamsDecoder()
            with pytest.raises(LimitExceeded):
                for part in parts:
                    decoder.feed(part)
        with pytest.raises(RemoteProtocolError):
            codec.decode_pairs(lengths)
        assert tracemalloc.get_traced_memory()[1] < 1000000
    finally:
        tracemalloc.stop()


def test_max_pairs_exactly_and_one_beyond(codec):
    pairs = [(b"HTTP_A", b"1"), (b"wsgi.x", b""), (b"B", b""), (b"B", b"")]
    wire = codec.encode_pairs(pairs)
    # Every pair counts, also one that is left out or comes again.
    params = params_of(codec, wire, max_pairs=4, reserved=b"wsgi.")
    assert params == {"HTTP_A": "1", "B": ""}
    for parts in ([wire], [bytes([octet]) for octet in wire]):
        decoder = codec.ParamsDecoder(max_pairs=3, reserved=b"wsgi.")
        with pytest.raises(LimitExceeded):
            for part in parts:
                decoder.feed(part)


def test_a_limit_is_also_a_remote_protocol_error(codec):
    with pytest.raises(RemoteProtocolError):
        codec.ParamsDecoder(max_bytes=3).feed(b"four")


# -------------------------------------------------------------------------------- names


def test_names_are_the_same_objects_for_every_request(codec):
    wire = pairs_of(codec, ("REQUEST_METHOD", "GET"), ("HTTP_USER_AGENT", "x"), ("PATH_INFO", "/"))
    first, second = (params_of(codec, wire), params_of(codec, wire[:9], wire[9:]))
    assert first == second
    for one, other in zip(first, second, strict=True):
        assert one is other
    assert next(iter(first)) is "REQUEST_METHOD"  # noqa: F632 - a literal is interned


def test_names_that_resemble_known_ones_are_not_taken_for_them(codec):
    known = ["REQUEST_METHOD", "PATH_INFO", "HTTP_ACCEPT", "TZ", "SERVER_PORT"]
    close = [
        f"{name[:i]}{new}{name[i + 1 :]}"
        for name, new in itertools.product(known, "X\xff")
        for i in range(len(name))
    ]
    close += [name[:-1] for name in known] + [name + "S" for name in known]
    names = [*dict.fromkeys(known + close)]
    pairs = [(name.encode("latin-1"), str(i).encode()) for i, name in enumerate(names)]
    expected = {name: str(i) for i, name in enumerate(names)}
    assert params_of(codec, codec.encode_pairs(pairs)) == expected


def test_each_dict_belongs_to_its_caller(codec):
    wire = pairs_of(codec, ("A", "1"))
    first = params_of(codec, wire)
    first["A"] = "changed"
    assert params_of(codec, wire) == {"A": "1"}
