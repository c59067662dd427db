"""The C codec and the reference codec do the same with whatever comes, however it is cut."""

import reference_codec
import wire
from hypothesis import given, settings
from hypothesis import strategies as st

from fastfcgi import _codec
from fastfcgi.exceptions import RemoteProtocolError

# A deadline per example would be a measurement of the machine.
relaxed = settings(deadline=None)

numbers = st.integers(0, 255)
request_ids = st.one_of(st.integers(0, 3), st.integers(0, 65535))
types = st.one_of(st.integers(0, 12), numbers)


@st.composite
def record_bytes(draw):
    return wire.record(
        draw(types),
        draw(request_ids),
        draw(st.binary(max_size=300)),
        draw(st.binary(max_size=255)),
        version=draw(st.sampled_from([1] * 30 + [0, 2, 255])),
    )


streams_of_records = st.lists(record_bytes(), max_size=8).map(b"".join)
garbage = st.one_of(st.binary(max_size=100), st.binary(max_size=100).map(b"\1".__add__))
received = st.one_of(
    streams_of_records, garbage, st.tuples(streams_of_records, garbage).map(b"".join)
)

names = st.one_of(
    st.sampled_from([b"HTTP_HOST", b"HTTP_COOKIE", b"HTTP_A", b"HTTP_", b"A", b"", b"wsgi.input"]),
    st.sampled_from([b"REQUEST_METHOD", b"PATH_INFO", b"HTTP_ACCEPT", b"HTTP_PROXY"]),
    st.binary(max_size=140),
)
values = st.one_of(st.binary(max_size=6), st.binary(max_size=140), st.binary(max_size=300))
pair_lists = st.lists(st.tuples(names, values), max_size=12)


def encode_length(length, long):
    return (length | 0x80000000).to_bytes(4, "big") if long or length > 127 else bytes([length])


@st.composite
def pair_bytes(draw):
    """Pairs with lengths in either form, sometimes cut, sometimes with other lengths."""
    out = []
    for name, value in draw(pair_lists):
        long_name, long_value = draw(st.booleans()), draw(st.booleans())
        out += [encode_length(len(name), long_name), encode_length(len(value), long_value)]
        out += [name, value]
    data = b"".join(out)
    kind = draw(st.integers(0, 5))
    if kind == 0:
        data = data[: draw(st.integers(0, len(data)))]
    elif kind == 1:
        data += draw(st.binary(max_size=20))
    return data


@st.composite
def cut(draw, whole):
    """The parts of some bytes, cut anywhere, empty parts among them."""
    data = draw(whole)
    if draw(st.integers(0, 9)) == 0:
        return [bytes([octet]) for octet in data]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def read(codec, parts):
    """What each feed gave, ending with the error if there is one, and the state after."""
    reader = codec.RecordReader()
    log = []
    for part in parts:
        try:
            records = reader.feed(part)
        except RemoteProtocolError as error:
            log.append(("error", error.offset))
            break
        log += [(t, i, type(content), bytes(content)) for t, i, content in records]
        log.append(reader.at_border)
    return log


def decode(codec, parts, limits):
    """The params, or in which feed (or in finish) which error came."""
    decoder = codec.ParamsDecoder(*limits)
    step = 0
    try:
        for step, part in enumerate(parts):  # noqa: B007 - used after the loop
            decoder.feed(part)
        step = "finish"
        return list(decoder.finish().items()), decoder.received
    except RemoteProtocolError as error:
        return step, type(error)


def outcome(call, *args):
    try:
        return call(*args)
    except (RemoteProtocolError, ValueError) as error:
        return type(error)


@relaxed
@given(cut(received))
def test_records_are_read_as_the_reference_reads_them(parts):
    assert read(_codec, parts) == read(reference_codec, parts)


@relaxed
@given(received.flatmap(lambda data: st.tuples(cut(st.just(data)), cut(st.just(data)))))
def test_cuts_change_nothing(two):
    def octets(parts):
        """Each octet of a stream and each other record in order, and the error if there is one."""
        reader, items = _codec.RecordReader(), []
        try:
            for part in parts:
                for type, request_id, content in reader.feed(part):
                    contents = content if isinstance(content, memoryview) else [content]
                    items += [(type, request_id, item) for item in contents]
        except RemoteProtocolError as error:
            return items, error.offset
        return items, None

    first, second = map(octets, two)
    assert first[1] == second[1]
    # Records that came in the same feed as the error are lost with it.
    assert first[1] is not None or first == second


@relaxed
@given(cut(pair_bytes()))
def test_params_are_decoded_as_the_reference_decodes_them(parts):
    limits = (1048576, 1024, b"wsgi.")
    assert decode(_codec, parts, limits) == decode(reference_codec, parts, limits)


@relaxed
@given(cut(pair_bytes()), st.integers(0, 800), st.integers(0, 12), st.sampled_from([b"", b"HTTP_"]))
def test_limits_strike_where_those_of_the_reference_do(parts, max_bytes, max_pairs, reserved):
    limits = (max_bytes, max_pairs, reserved)
    assert decode(_codec, parts, limits) == decode(reference_codec, parts, limits)


@relaxed
@given(st.one_of(pair_bytes(), st.binary(max_size=60)))
def test_pairs_are_decoded_as_the_reference_decodes_them(data):
    assert outcome(_codec.decode_pairs, data) == outcome(reference_codec.decode_pairs, data)


@relaxed
@given(pair_lists)
def test_pairs_come_back(pairs):
    encoded = _codec.encode_pairs(pairs)
    assert encoded == reference_codec.encode_pairs(pairs)
    assert _codec.decode_pairs(encoded) == pairs


@relaxed
@given(st.dictionaries(values, values, max_size=12), st.data())
def test_params_come_back(params, data):
    encoded = reference_codec.encode_pairs(params.items())
    decoder = _codec.ParamsDecoder()
    for part in data.draw(cut(st.just(encoded))):
        decoder.feed(part)
    assert decoder.finish() == {
        name.decode("latin-1"): value.decode("latin-1") for name, value in params.items()
    }


@relaxed
@given(types, request_ids, st.binary(max_size=500))
def test_records_come_back(type, request_id, content):
    record = _codec.encode_record(type, request_id, content)
    assert record == reference_codec.encode_record(type, request_id, content)
    assert _codec.RecordReader().feed(record) == [(type, request_id, content)]


@relaxed
@given(types, request_ids, st.integers(0, 300000))
def test_streams_come_back(type, request_id, length):
    data = bytes(length)
    wire_bytes = b"".join(_codec.encode_stream(type, request_id, data))
    assert wire_bytes == b"".join(reference_codec.encode_stream(type, request_id, data))
    assert len(wire_bytes) % 8 == 0
    records = _codec.RecordReader().feed(wire_bytes)
    assert b"".join(content for _, _, content in records) == data


some_numbers = st.integers(-2, 66000)


@relaxed
@given(st.lists(some_numbers, min_size=4, max_size=4))
def test_numbers_are_encoded_or_refused_as_by_the_reference(four):
    for function, count in (("encode_header", 4), ("encode_begin_request", 3)):
        arguments = four[:count]
        assert outcome(getattr(_codec, function), *arguments) == outcome(
            getattr(reference_codec, function), *arguments
        )


@relaxed
@given(st.binary(max_size=12))
def test_bodies_are_decoded_as_the_reference_decodes_them(content):
    for function in ("decode_begin_request", "decode_end_request"):
        assert outcome(getattr(_codec, function), content) == outcome(
            getattr(reference_codec, function), content
        )


one_cache = _codec.ValueCache()
steady_names = st.sampled_from([b"HTTP_HOST", b"HTTP_ACCEPT", b"REQUEST_METHOD", b"SERVER_NAME"])
few_values = st.binary(max_size=3)


@relaxed
@given(st.lists(st.tuples(steady_names, few_values), max_size=8))
def test_values_of_earlier_requests_change_nothing(pairs):
    """What other examples left in the cache is there."""
    wire = reference_codec.encode_pairs(pairs)
    decoder, reference = _codec.ParamsDecoder(cache=one_cache), reference_codec.ParamsDecoder()
    for decode in (decoder, reference):
        decode.feed(wire)
    assert decoder.finish() == reference.finish()
