"""Records and name-value pairs; every test runs on the C codec and on the reference codec."""

import array

import pytest
import reference_codec

from fastfcgi import _codec, constants
from fastfcgi.exceptions import LimitExceeded, RemoteProtocolError

STREAM_TYPES = (
    constants.PARAMS,
    constants.STDIN,
    constants.STDOUT,
    constants.STDERR,
    constants.DATA,
)


@pytest.fixture(params=[_codec, reference_codec], ids=["c", "reference"])
def codec(request):
    return request.param


def joined(records):
    """Records as comparable values, pieces of one stream that follow each other joined."""
    out = []
    for type, request_id, content in records:
        content = bytes(content)
        if content and out and type in STREAM_TYPES and out[-1][:2] == (type, request_id):
            if out[-1][2]:
                content = out.pop()[2] + content
        out.append((type, request_id, content))
    return out


def read_in_parts(codec, parts):
    reader = codec.RecordReader()
    return joined([record for part in parts for record in reader.feed(part)])


def params_of(codec, *parts, **limits):
    decoder = codec.ParamsDecoder(**limits)
    for part in parts:
        decoder.feed(part)
    return decoder.finish()


def test_the_extension_is_a_compiled_one():
    assert not _codec.__file__.endswith((".py", ".pyx"))


# ----------------------------------------------------------------------------- headers out


def test_header_fields_are_where_section_3_3_has_them(codec):
    assert codec.encode_header(5, 0x0102, 0x0304, 6) == bytes.fromhex("0105010203040600")
    assert codec.encode_header(255, 65535, 65535, 255) == bytes.fromhex("01ffffffffffff00")
    assert codec.encode_header(0, 0, 0) == bytes.fromhex("0100000000000000")


@pytest.mark.parametrize(
    "fields",
    [
        *[(-1, 1, 0, 0), (256, 1, 0, 0), (1, -1, 0, 0), (1, 65536, 0, 0)],
        *[(1, 1, -1, 0), (1, 1, 65536, 0), (1, 1, 0, -1), (1, 1, 0, 256)],
    ],
)
def test_header_fields_out_of_range_are_refused(codec, fields):
    with pytest.raises(ValueError):
        codec.encode_header(*fields)


@pytest.mark.parametrize("fields", [(2**40, 1, 0), (1, -(2**70), 0), (1, 1, 2**64)])
def test_header_fields_beyond_any_c_integer_are_refused(codec, fields):
    with pytest.raises((ValueError, OverflowError)):
        codec.encode_header(*fields)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 255, 65528, 65529, 65535])
def test_record_is_padded_to_8_bytes_with_zeros(codec, length):
    content = b"\xff" * length
    record = codec.encode_record(constants.STDIN, 9, content)
    padding = -length % 8
    assert record == codec.encode_header(constants.STDIN, 9, length, padding) + content + bytes(
        padding
    )
    assert len(record) % constants.HEADER_LEN == 0


def test_record_takes_any_contiguous_buffer(codec):
    expected = codec.encode_record(5, 1, b"abcd")
    for content in (bytearray(b"abcd"), memoryview(b"xabcdx")[1:5], array.array("B", b"abcd")):
        assert codec.encode_record(5, 1, content) == expected
    numbers = array.array("I", [1, 2])
    assert codec.encode_record(5, 1, numbers) == codec.encode_record(5, 1, numbers.tobytes())


def test_record_without_content_ends_a_stream(codec):
    assert codec.encode_record(6, 1) == codec.encode_record(6, 1, b"") == b"\1\6\0\1\0\0\0\0"


@pytest.mark.parametrize(
    "arguments", [(5, 1, bytes(65536)), (256, 1, b""), (-1, 1, b""), (5, 65536, b""), (5, -1, b"")]
)
def test_record_out_of_range_is_refused(codec, arguments):
    with pytest.raises(ValueError):
        codec.encode_record(*arguments)


# ------------------------------------------------------------------------------ bodies


def test_begin_request_body(codec):
    record = codec.encode_begin_request(0x0203, constants.FILTER, constants.KEEP_CONN)
    assert record == bytes.fromhex("0101020300080000 0003010000000000")
    assert codec.decode_begin_request(record[8:]) == (constants.FILTER, constants.KEEP_CONN)
    assert codec.decode_begin_request(b"\xff" * 8) == (65535, 255)
    for role, flags in ((-1, 0), (65536, 0), (1, -1), (1, 256)):
        with pytest.raises(ValueError):
            codec.encode_begin_request(1, role, flags)


def test_end_request_body(codec):
    record = codec.encode_end_request(1, 0x01020304, constants.UNKNOWN_ROLE)
    assert record == bytes.fromhex("0103000100080000 0102030403000000")
    assert codec.decode_end_request(record[8:]) == (0x01020304, constants.UNKNOWN_ROLE)
    assert codec.decode_end_request(b"\xff" * 8) == (2**32 - 1, 255)
    for protocol_status in (-1, 256):
        with pytest.raises(ValueError):
            codec.encode_end_request(1, 0, protocol_status)
    for app_status in (-1, 2**32):
        with pytest.raises((ValueError, OverflowError)):
            codec.encode_end_request(1, app_status, 0)


@pytest.mark.parametrize("length", [0, 1, 7, 9, 16])
def test_body_that_is_not_8_bytes_is_the_peers_error(codec, length):
    for decode in (codec.decode_begin_request, codec.decode_end_request):
        with pytest.raises(RemoteProtocolError):
            decode(bytes(length))


# ---------------------------------------------------------------------------- stream out


@pytest.mark.parametrize("length", [1, 7, 8, 65527, 65528, 65529, 65535, 65536, 131056, 200000])
def test_stream_is_split_into_records(codec, length):
    data = bytes(range(251)) * (length // 251 + 1)
    data = data[:length]
    buffers = codec.encode_stream(constants.STDOUT, 7, data)
    wire = b"".join(buffers)
    expected = b"".join(
        reference_codec.encode_record(constants.STDOUT, 7, data[start : start + 65528])
        for start in range(0, length, 65528)
    )
    assert wire == expected
    assert read_in_parts(codec, [wire]) == [(constants.STDOUT, 7, data)]


@pytest.mark.parametrize("max_content", [1, 7, 8, 8000, 65535])
@pytest.mark.parametrize("min_padding", [0, 1, 8])
def test_stream_in_records_of_another_shape(codec, max_content, min_padding):
    data = bytes(range(256)) * 3
    buffers = codec.encode_stream(constants.STDERR, 7, data, max_content, min_padding)
    headers = [bytes(buffer) for buffer in buffers if bytes(buffer[:2]) == b"\1\7"]
    lengths = [int.from_bytes(header[4:6], "big") for header in headers]
    paddings = [header[6] for header in headers]
    assert max(lengths) <= max_content and sum(lengths) == len(data)
    assert all(padding >= min_padding for padding in paddings)
    assert all((a + b) % 8 == 0 for a, b in zip(lengths, paddings, strict=True))
    assert read_in_parts(codec, [b"".join(buffers)]) == [(constants.STDERR, 7, data)]


def test_stream_in_records_of_no_shape(codec):
    for wrong in ((0, 0), (65536, 0), (-1, 0), (8000, 9), (8000, -1)):
        with pytest.raises((ValueError, OverflowError)):
            codec.encode_stream(constants.STDERR, 7, b"data", *wrong)


@pytest.mark.parametrize("make", [bytes, bytearray, lambda n: memoryview(bytes(n))])
def test_stream_data_is_the_object_given(codec, make):
    for length in (1, 65528):
        data = make(length)
        assert codec.encode_stream(constants.STDOUT, 1, data)[1] is data


def test_stream_data_beyond_one_record_is_sliced_not_copied(codec):
    data = bytes(200000)
    slices = [b for b in codec.encode_stream(constants.STDOUT, 1, data) if len(b) > 16]
    assert [len(piece) for piece in slices] == [65528, 65528, 65528, 3416]
    assert all(isinstance(piece, memoryview) and piece.obj is data for piece in slices)


def test_stream_counts_bytes_not_items(codec):
    numbers = array.array("I", range(50000))
    wire = b"".join(bytes(b) for b in codec.encode_stream(constants.STDOUT, 1, numbers))
    assert read_in_parts(codec, [wire]) == [(constants.STDOUT, 1, numbers.tobytes())]


def test_stream_without_data_is_no_record(codec):
    # An empty record would end the stream.
    assert codec.encode_stream(constants.STDOUT, 1, b"") == []


@pytest.mark.parametrize("where", [(-1, 1), (256, 1), (6, -1), (6, 65536)])
def test_stream_out_of_range_is_refused(codec, where):
    for data in (b"x", bytes(70000)):
        with pytest.raises(ValueError):
            codec.encode_stream(*where, data)


# ---------------------------------------------------------------------------- records in


@pytest.mark.parametrize("padding_length", range(256))
def test_padding_of_any_length_and_content_is_skipped(codec, padding_length):
    padding = bytes(range(1, 256))[:padding_length]
    header = codec.encode_header(constants.STDIN, 1, 3, padding_length)
    wire = header + b"abc" + padding + codec.encode_record(constants.STDIN, 1)
    assert read_in_parts(codec, [wire]) == [(5, 1, b"abc"), (5, 1, b"")]
    halves = [wire[: 11 + padding_length // 2], wire[11 + padding_length // 2 :]]
    assert read_in_parts(codec, halves) == [(5, 1, b"abc"), (5, 1, b"")]


def test_padding_that_looks_like_a_header_is_skipped(codec):
    padding = codec.encode_begin_request(1, 1, 0)
    wire = codec.encode_header(constants.STDIN, 1, 0, len(padding)) + padding
    assert read_in_parts(codec, [wire]) == [(5, 1, b"")]


def test_reserved_header_byte_is_ignored(codec):
    assert read_in_parts(codec, [b"\1\5\0\1\0\1\0\xffx"]) == [(5, 1, b"x")]


SEVERAL = (
    reference_codec.encode_begin_request(1, 1, 1)
    + reference_codec.encode_record(constants.PARAMS, 1, b"p" * 13)
    + reference_codec.encode_record(constants.PARAMS, 1)
    + reference_codec.encode_record(constants.GET_VALUES, 0, b"\x03\x00abc")
    + reference_codec.encode_header(constants.STDIN, 1, 4, 9)
    + b"body"
    + b"\1" * 9
    + reference_codec.encode_record(constants.STDIN, 1)
    + reference_codec.encode_record(200, 513, b"new")
)
SEVERAL_RECORDS = [
    (constants.BEGIN_REQUEST, 1, b"\0\1\1\0\0\0\0\0"),
    (constants.PARAMS, 1, b"p" * 13),
    (constants.PARAMS, 1, b""),
    (constants.GET_VALUES, 0, b"\x03\x00abc"),
    (constants.STDIN, 1, b"body"),
    (constants.STDIN, 1, b""),
    (200, 513, b"new"),
]


def test_records_are_the_same_however_they_are_cut(codec):
    assert read_in_parts(codec, [SEVERAL]) == SEVERAL_RECORDS
    assert read_in_parts(codec, [bytes([b]) for b in SEVERAL]) == SEVERAL_RECORDS
    for cut in range(len(SEVERAL) + 1):
        assert read_in_parts(codec, [SEVERAL[:cut], SEVERAL[cut:]]) == SEVERAL_RECORDS, cut


def test_each_part_of_a_stream_comes_at_once_as_a_view_of_what_was_fed(codec):
    reader = codec.RecordReader()
    first = codec.encode_header(constants.STDIN, 1, 10, 6) + b"abc"
    second = bytearray(b"defghij" + bytes(6))
    [(type, request_id, piece)] = reader.feed(first)
    assert (type, request_id, piece) == (constants.STDIN, 1, b"abc")
    assert isinstance(piece, memoryview) and piece.obj is first
    [(_, _, piece)] = reader.feed(second)
    assert piece == b"defghij" and piece.obj is second
    # A header alone is no piece: an empty one would read as the end of the stream.
    assert reader.feed(codec.encode_header(constants.STDIN, 1, 10)) == []


def test_the_end_of_a_stream_is_empty_bytes(codec):
    for type in STREAM_TYPES:
        [record] = codec.RecordReader().feed(codec.encode_record(type, 3))
        assert record == (type, 3, b"") and isinstance(record[2], bytes)


@pytest.mark.parametrize("type", range(256))
def test_any_type_passes_and_only_the_five_streams_come_in_pieces(codec, type):
    wire = codec.encode_record(type, 1, b"content!")
    reader = codec.RecordReader()
    first, second = reader.feed(wire[:12]), reader.feed(wire[12:])
    if type in STREAM_TYPES:
        assert (first, second) == ([(type, 1, b"cont")], [(type, 1, b"ent!")])
    else:
        assert (first, second) == ([], [(type, 1, b"content!")])
        assert isinstance(second[0][2], bytes)


@pytest.mark.parametrize("type", STREAM_TYPES)
def test_on_request_id_0_no_record_is_a_stream(codec, type):
    wire = codec.encode_record(type, 0, b"content!")
    for cut in range(1, len(wire)):
        reader = codec.RecordReader()
        records = reader.feed(wire[:cut]) + reader.feed(wire[cut:])
        assert records == [(type, 0, b"content!")]
        assert isinstance(records[0][2], bytes)


def test_discrete_record_of_the_greatest_length_in_single_bytes(codec):
    content = bytes(i % 251 for i in range(constants.MAX_CONTENT_LENGTH))
    wire = codec.encode_record(constants.GET_VALUES, 0, content)
    reader = codec.RecordReader()
    records = [record for i in range(len(wire)) for record in reader.feed(wire[i : i + 1])]
    assert records == [(constants.GET_VALUES, 0, content)]


def test_only_the_first_size_bytes_are_read(codec):
    reader = codec.RecordReader()
    block = bytearray(codec.encode_record(constants.STDIN, 1, b"12345678") + b"\xff" * 40)
    assert joined(reader.feed(block, 10)) == [(5, 1, b"12")]
    assert reader.feed(block, 0) == []
    assert joined(reader.feed(memoryview(block)[10:], 6)) == [(5, 1, b"345678")]
    assert reader.at_border
    with pytest.raises(ValueError):
        reader.feed(block, len(block) + 1)


def test_at_border_means_that_no_part_of_a_record_is_pending(codec):
    reader = codec.RecordReader()
    assert reader.at_border
    wire = codec.encode_header(constants.STDIN, 1, 2, 3) + b"ab" + b"\0\0\0"
    for i, octet in enumerate(wire):
        reader.feed(bytes([octet]))
        assert reader.at_border == (i == len(wire) - 1)


@pytest.mark.parametrize("version", [0, 2, 71, 255])
@pytest.mark.parametrize("first_part", [0, 1, 8, 19, 32])
def test_another_version_is_an_error_with_its_offset(codec, version, first_part):
    good = codec.encode_begin_request(1, 1, 0) + codec.encode_record(constants.STDIN, 1, b"x")
    wire = good + bytes([version]) + bytes(7)
    reader = codec.RecordReader()
    reader.feed(wire[:first_part])
    with pytest.raises(RemoteProtocolError) as caught:
        reader.feed(wire[first_part:])
    assert caught.value.offset == len(good) == 32


def test_after_an_error_the_reader_takes_nothing_more(codec):
    reader = codec.RecordReader()
    for data in (b"GET / HTTP/1.1\r\n\r\n", SEVERAL, b""):
        with pytest.raises(RemoteProtocolError):
            reader.feed(data)


# ------------------------------------------------------------------- wrong kinds of input


def takers(codec):
    """Every function that takes a buffer."""
    return [
        codec.RecordReader().feed,
        codec.ParamsDecoder().feed,
        codec.decode_pairs,
        codec.decode_begin_request,
        codec.decode_end_request,
        lambda data: codec.encode_record(5, 1, data),
        lambda data: codec.encode_stream(5, 1, data),
    ]


def test_strided_views_are_refused(codec):
    strided = memoryview(bytes(64))[::2]
    backwards = memoryview(bytes(8))[::-1]
    for take in takers(codec):
        for view in (strided, backwards):
            with pytest.raises(BufferError):
                take(view)


@pytest.mark.parametrize("wrong", ["text", None, 8, [1, 2], object()])
def test_what_is_no_buffer_is_refused(codec, wrong):
    for take in takers(codec):
        with pytest.raises(TypeError):
            take(wrong)


def test_a_released_view_is_refused(codec):
    view = memoryview(b"12345678")
    view.release()
    for take in takers(codec):
        with pytest.raises(ValueError):
            take(view)


@pytest.mark.parametrize(
    "wrong", [[("name", b"")], [(b"name", "value")], [(b"name", None)], [(1, b"")], 7]
)
def test_pairs_that_are_not_bytes_are_refused(codec, wrong):
    with pytest.raises(TypeError):
        codec.encode_pairs(wrong)


# ------------------------------------------------------- numbers of the extension module


def test_numbers_of_the_codec_are_those_of_the_constants(codec):
    begin, end = codec.encode_begin_request(1, 1, 0), codec.encode_end_request(1, 0, 0)
    assert begin[0] == end[0] == constants.VERSION_1
    assert (begin[1], end[1]) == (constants.BEGIN_REQUEST, constants.END_REQUEST)
    assert len(codec.encode_header(1, 1, 0)) == constants.HEADER_LEN
    codec.encode_record(1, 1, bytes(constants.MAX_CONTENT_LENGTH))
    with pytest.raises(ValueError):
        codec.encode_record(1, 1, bytes(constants.MAX_CONTENT_LENGTH + 1))
    # The limits of ParamsDecoder that are used when none are given.
    with pytest.raises(LimitExceeded):
        codec.ParamsDecoder().feed(bytes(1024 * 1024 + 1))
    with pytest.raises(LimitExceeded):
        codec.ParamsDecoder().feed(bytes(2 * 1025))
    assert params_of(codec, bytes(2 * 1024)) == {"": ""}
