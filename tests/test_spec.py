"""The rules of FastCGI 1.0, one test each: records and name-value pairs (sections 3.3, 3.4, 8).

Section numbers are those of the specification. Each test talks raw bytes with a running server.
"""

import itertools
import struct
import time

import pytest
import reference_codec as codec
import wire
from spec_server import Application, answer, echo, serving, split_records

from fastfcgi import _codec
from fastfcgi.constants import (
    ABORT_REQUEST,
    BEGIN_REQUEST,
    DATA,
    GET_VALUES,
    PARAMS,
    RESPONDER,
    STDIN,
    STDOUT,
    UNKNOWN_TYPE,
)


@pytest.fixture
def serve(tmp_path):
    with serving(tmp_path) as serve:
        yield serve


# ------------------------------------------------------------------------- records (3.3, 8)


def test_header_has_eight_bytes(serve):
    """3.3: version 1, type, request_id and content_length (two bytes each, the high one first),
    padding_length, a reserved byte; then content, then padding."""
    peer = serve(lambda environ, start: answer(start, b"x" * 700)).connect()
    peer.request(request_id=0xABCD)
    version, type, request_id, content_length, padding_length, reserved = struct.unpack(
        "!BBHHBB", peer.answers.raw[:8]
    )
    assert (version, type, request_id, reserved) == (1, 6, 0xABCD, 0)
    content = bytes(peer.answers.raw[8 : 8 + content_length])
    assert content.startswith(b"Status: 200 OK\r\n") and content.endswith(b"\r\n" + b"x" * 700)
    # The next record begins behind the padding.
    assert peer.answers.raw[8 + content_length + padding_length :][:2] == b"\x01\x06"


def test_types_have_the_numbers_of_the_table(serve):
    """8: 1 BEGIN_REQUEST, 2 ABORT_REQUEST, 3 END_REQUEST, 4 PARAMS, 5 STDIN, 6 STDOUT, 7 STDERR,
    8 DATA, 9 GET_VALUES, 10 GET_VALUES_RESULT, 11 UNKNOWN_TYPE."""

    def application(environ, start_response):
        environ["wsgi.errors"].write("noted")
        data = environ["fastfcgi.data"].read()
        return answer(start_response, environ["wsgi.input"].read() + data)

    def record(type, request_id, content=b""):
        return struct.pack("!BBHHBB", 1, type, request_id, len(content), 0, 0) + content

    peer = serve(application, roles=(1, 3)).connect()
    begin = b"\0\3\1\0\0\0\0\0"  # a filter, to be kept
    peer.send(record(9, 0) + record(12, 0))
    peer.send(record(1, 1, begin) + record(4, 1) + record(5, 1, b"in") + record(5, 1))
    peer.send(record(8, 1, b"data") + record(8, 1))
    peer.receive_end(1)
    peer.send(record(1, 2, begin) + record(2, 2))
    peer.receive_end(2)
    types = [record.type for record in peer.records]
    assert types[:2] == [10, 11]
    assert set(types[2:-2]) == {6, 7, 3} and types[-2:] == [6, 3]
    assert peer.response(1).body == b"indata" and peer.response(1).stderr == b"noted"


@pytest.mark.parametrize("size", [1, 255, 256, 65535])
def test_content_of_up_to_65535_bytes(serve, size):
    """3.3: content has 0 to 65535 bytes."""
    body = bytes(i % 251 for i in range(size))
    response = serve(echo).request(body=body)
    assert response.body == body


def test_more_content_than_fits_is_sent_in_several_records(serve):
    """3.3: content has at most 65535 bytes, so a longer block becomes several records."""
    block = bytes(i % 251 for i in range(200_000))
    peer = serve(lambda environ, start: answer(start, block)).connect()
    assert peer.request().body == block
    assert sum(bool(record.content) for record in peer.records) >= 4


@pytest.mark.parametrize("size", [1, 7, 8, 255])
def test_padding_is_ignored_whatever_it_holds(serve, size):
    """3.3: padding_length bytes follow the content, to be ignored whatever they hold."""
    padding = (wire.record(STDIN, 1, b"evil") * 32)[:size]
    pairs = codec.encode_pairs(wire.as_pairs(wire.cgi_params("POST")))
    peer = serve(echo).connect()
    for type, content in [
        (BEGIN_REQUEST, struct.pack("!HB5x", RESPONDER, 0)),
        (PARAMS, pairs),
        (PARAMS, b""),
        (STDIN, b"good"),
        (STDIN, b""),
    ]:
        peer.send(wire.record(type, 1, content, padding))
    assert peer.receive_end().body == b"good"


def test_padding_is_not_relied_on(serve):
    """3.3: padding is never required, whatever the length of the content."""
    application = Application()
    peer = serve(application).connect()
    for size in range(1, 10):
        pairs = codec.encode_pairs([(b"N", b"v" * size)])
        peer.send(
            wire.record(BEGIN_REQUEST, size, struct.pack("!HB5x", RESPONDER, 1))
            + wire.record(PARAMS, size, pairs)
            + wire.record(PARAMS, size)
            + wire.record(STDIN, size, b"b" * size)
            + wire.record(STDIN, size)
        )
        assert peer.receive_end(size).status == 200
        assert application.environ["N"] == "v" * size
        assert application.bodies[-1] == b"b" * size


def test_records_are_padded_to_eight_bytes(serve):
    """3.3: what is sent is padded to 8-byte boundaries, as the specification suggests."""

    def application(environ, start_response):
        environ["wsgi.errors"].write("e" * int(environ["QUERY_STRING"]))
        return answer(start_response, b"x" * int(environ["QUERY_STRING"]))

    served = serve(application)
    for size in (*range(1, 10), 65527, 65529, 100_001):
        peer = served.connect()
        peer.request(wire.cgi_params(query=str(size)))
        raw = bytes(peer.answers.raw)
        for record in split_records(raw):
            assert (len(record.content) + len(record.padding)) % 8 == 0


@pytest.mark.parametrize("version", [0, 2, 0x47])
def test_another_version_ends_the_connection(serve, version):
    """3.3: version is 1. What follows another one cannot be understood."""
    application = Application()
    served = serve(application)
    with served.connect() as peer:
        peer.send(wire.record(BEGIN_REQUEST, 1, b"\0\1\0\0\0\0\0\0", version=version))
        peer.send(wire.params(1, wire.cgi_params()) + wire.stdin(1))
        peer.receive_close()
        assert not peer.records and not application.environs
    assert served.request().status == 200


# --------------------------------------------------------------------- request ids (3.3)


def test_request_id_0_is_only_for_management_records(serve):
    """3.3: request_id 0 is for management records and only for them: no request has it."""
    application = Application()
    peer = serve(application).connect()
    peer.send(wire.request(0, keep_conn=True))
    assert peer.request().status == 200
    assert len(application.environs) == 1
    assert {type for type, _ in peer.answers.management} <= {UNKNOWN_TYPE}


def test_management_records_have_request_id_0(serve):
    """3.3: request_id 0 is for management records, so GET_VALUES with another id asks nothing."""
    peer = serve(echo).connect()
    peer.send(wire.record(GET_VALUES, 5, codec.encode_pairs([(b"FCGI_MAX_CONNS", b"")])))
    assert peer.request().status == 200
    assert {record.type for record in peer.records} == {3, 6}


@pytest.mark.parametrize("request_id", [1, 255, 256, 65535])
def test_request_id_has_two_bytes(serve, request_id):
    """3.3: request_id is 1 to 65535, and the answer carries that of its request."""
    peer = serve(echo).connect()
    assert peer.request(body=b"mine", request_id=request_id).body == b"mine"
    assert {record.request_id for record in peer.records} == {request_id}


LATE = {
    "STDIN": wire.record(STDIN, 1, b"late"),
    "end of STDIN": wire.record(STDIN, 1),
    "PARAMS": wire.params(1, {"LATE": "1"}),
    "DATA": wire.record(DATA, 1, b"late"),
    "ABORT_REQUEST": wire.record(ABORT_REQUEST, 1),
    "GET_VALUES": wire.record(GET_VALUES, 1),
    "no type": wire.record(77, 1, b"late"),
}


@pytest.mark.parametrize("late", LATE)
def test_records_for_an_inactive_id_are_ignored(serve, late):
    """3.3: records for an id that is not active are ignored: it never was, or its END_REQUEST
    was not yet seen by the peer."""
    application = Application()
    peer = serve(application).connect()
    peer.send(LATE[late])
    for _ in range(2):
        assert peer.request(body=b"body", keep_conn=True).body == b"ok"
        peer.send(LATE[late])
    peer.sync()
    assert application.bodies == [b"body", b"body"]
    assert [record.type for record in peer.records] == [6, 6, 3, 6, 6, 3, 10]


def test_id_is_inactive_after_end_request_also_when_stdin_goes_on(serve):
    """3.3: an id is active until the END_REQUEST; the STDIN that was under way then is ignored."""
    application = Application()
    peer = serve(application).connect()
    pairs = wire.cgi_params(CONTENT_LENGTH="0")
    # The body is known to be empty, so the answer does not wait for the end of STDIN.
    peer.send(wire.begin_request(1, keep_conn=True) + wire.params(1, pairs))
    assert peer.receive_end().status == 200
    peer.send(wire.stdin(1, b"late"))
    assert peer.request(body=b"new", keep_conn=True).status == 200
    assert application.bodies == [b"", b"new"]


def test_begin_request_for_an_active_id_is_refused(serve):
    """3.3: BEGIN_REQUEST is always for an inactive id. One state is kept per active id, so the
    connection cannot go on."""
    application = Application()
    served = serve(application)
    with served.connect() as peer:
        peer.send(wire.begin_request(1, keep_conn=True) + wire.begin_request(1, keep_conn=True))
        peer.send(wire.params(1, wire.cgi_params()) + wire.stdin(1))
        peer.receive_close()
        assert peer.closed and not application.environs
    assert served.request().status == 200


def test_id_of_an_ended_request_can_begin_again(serve):
    """3.3: web servers keep ids small: the next request has the id of the last one."""
    application = Application()
    peer = serve(application).connect()
    for number in range(5):
        response = peer.request(wire.cgi_params(N=str(number)), keep_conn=True)
        assert response.ended and application.environ["N"] == str(number)


def test_each_active_id_has_its_own_state(serve):
    """3.3: the application keeps one state per active id; records of different ids come mixed."""
    peer = serve(echo).connect()
    ids = (1, 2, 300)
    requests = [
        wire.begin_request(id, keep_conn=True)
        + wire.params(id, wire.cgi_params("POST"), 16)
        + wire.stdin(id, b"%d" % id * 50, 3)
        for id in ids
    ]
    # One record of each in turn.
    for records in itertools.zip_longest(*map(split_records, requests)):
        for record in filter(None, records):
            peer.send(wire.record(record.type, record.request_id, record.content))
    for id in ids:
        assert peer.receive_end(id).body == b"%d" % id * 50


# ------------------------------------------------------------------- streams and discrete records


def test_a_stream_ends_with_an_empty_record(serve):
    """3.3: a stream ends with an empty record, and not before."""
    application = Application()
    peer = serve(application).connect()
    peer.send(wire.begin_request(1) + wire.params(1, wire.cgi_params("POST"), end=False))
    peer.sync()
    peer.send(wire.params(1, {"MORE": "1"}) + wire.stdin(1, b"first ", end=False))
    peer.sync()
    assert not application.environs
    peer.send(wire.stdin(1, b"second", end=False))
    peer.sync()
    assert not application.environs
    peer.send(wire.record(STDIN, 1))
    assert peer.receive_end().ended
    assert application.environ["MORE"] == "1" and application.bodies == [b"first second"]


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_record_borders_mean_nothing_in_a_stream(serve, size):
    """3.3: a stream is a sequence of bytes, wherever records cut it."""
    application = Application()
    pairs = wire.cgi_params("POST", LONG="v" * 200)
    body = bytes(range(256))
    peer = serve(application).connect()
    peer.send(wire.begin_request(1) + wire.params(1, pairs, size) + wire.stdin(1, body, size))
    assert peer.receive_end().ended
    assert application.bodies == [body]
    assert {name: application.environ[name] for name in pairs} == pairs


def test_a_record_is_whole_however_its_bytes_arrive(serve):
    """3.3: a discrete record carries all its data, whatever a read brings of it."""
    peer = serve(echo).connect()
    data = wire.get_values("FCGI_MPXS_CONNS") + wire.request(body=b"body", keep_conn=True)
    for offset in range(len(data)):
        peer.send(data[offset : offset + 1])
        time.sleep(0.001)  # lets the server read it by itself
    assert peer.receive_end().body == b"body"
    assert peer.answers.management == [(10, b"\x0f\x01FCGI_MPXS_CONNS1")]


@pytest.mark.parametrize("size", [0, 7, 9, 16])
def test_discrete_records_carry_all_their_data_in_one_record(serve, size):
    """3.3, 5.1: a BEGIN_REQUEST of another length than 8 is none, and nothing completes it."""
    application = Application()
    peer = serve(application).connect()
    peer.send(wire.record(BEGIN_REQUEST, 1, (b"\0\1" + bytes(14))[:size]))
    peer.send(wire.params(1, wire.cgi_params()) + wire.stdin(1))
    peer.receive_close()
    assert not application.environs and not peer.records


# ------------------------------------------------------------------------- pairs (3.4)


def pair_length(length):
    return bytes([length]) if length < 128 else struct.pack("!I", length | 1 << 31)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 255, 256, 65536, 100_000])
def test_lengths_of_one_byte_or_four(serve, length):
    """3.4: a length under 128 is one byte; else four bytes, the high one first, its top bit set."""
    application = Application()
    value = b"v" * length
    name = b"N" * (length or 1)
    pairs = pair_length(len(name)) + pair_length(len(value)) + name + value
    peer = serve(application).connect()
    peer.send(wire.begin_request(1) + wire.stream(PARAMS, 1, pairs) + wire.stdin(1))
    assert peer.receive_end().ended
    assert application.environ[name.decode()] == value.decode()


@pytest.mark.parametrize("length", [0, 1, 127])
def test_four_byte_form_of_a_short_length(serve, length):
    """3.4: the four-byte form of a length under 128 is legal."""
    application = Application()
    name, value = b"NAME", b"v" * length
    pairs = struct.pack("!II", len(name) | 1 << 31, length | 1 << 31) + name + value
    peer = serve(application).connect()
    peer.send(wire.begin_request(1) + wire.stream(PARAMS, 1, pairs) + wire.stdin(1))
    assert peer.receive_end().ended
    assert application.environ["NAME"] == value.decode()


def test_pairs_are_written_by_the_same_rule():
    """3.4: name length, value length, name, value; 127 takes one byte, 128 takes four."""
    pairs = [(b"n" * 127, b"v" * 128), (b"n" * 128, b"v" * 127), (b"", b""), (b"a", b"")]
    assert _codec.encode_pairs(pairs) == (
        b"\x7f\x80\0\0\x80" + b"n" * 127 + b"v" * 128
        + b"\x80\0\0\x80\x7f" + b"n" * 128 + b"v" * 127
        + b"\0\0"
        + b"\x01\0a"
    )  # fmt: skip


def test_names_and_values_may_be_empty_and_hold_any_byte(serve):
    """3.4: names and values are not terminated, may be empty and may hold any byte."""
    application = Application()
    every_byte = bytes(range(256))
    pairs = [("EMPTY", ""), ("", "of no name"), (every_byte, every_byte), ("A\0B\n", "\0")]
    assert serve(application).request(pairs).ended
    environ = application.environ
    assert (environ["EMPTY"], environ[""], environ["A\0B\n"]) == ("", "of no name", "\0")
    assert environ[every_byte.decode("latin-1")] == every_byte.decode("latin-1")


def test_a_pair_may_be_cut_anywhere(serve):
    """3.4: a pair may be cut anywhere by a record border: in a length, a name, a value."""
    application = Application()
    pairs = [("SHORT", "value"), ("LONG", "v" * 130), ("N" * 130, "value")]
    data = codec.encode_pairs(wire.as_pairs(pairs))
    peer = serve(application).connect()
    for cut in range(1, len(data)):
        peer.send(wire.begin_request(1, keep_conn=True))
        peer.send(wire.stream(PARAMS, 1, data, [cut, len(data)]) + wire.stdin(1))
        peer.receive(lambda answers, cut=cut: len(application.environs) == cut and peer.ended())
        assert {name: application.environ[name] for name, _ in pairs} == dict(pairs)
        peer.answers.outputs.clear()


def test_length_of_31_bits_is_not_believed(serve):
    """3.4: a length has 31 bits; nothing is allocated for 2 GiB that are only announced."""
    application = Application()
    served = serve(application, header_timeout=10 * wire.DEADLINE)
    with served.connect() as peer:
        pairs = b"\x04\xff\xff\xff\xffNAME" + b"v" * 1000
        peer.send(wire.begin_request(1) + wire.stream(PARAMS, 1, pairs, end=False))
        peer.receive_close()
        assert not application.environs
    assert served.request().status == 200


def test_params_that_end_inside_a_pair_are_refused(serve):
    """3.4: the stream of PARAMS holds whole pairs."""
    application = Application()
    peer = serve(application).connect()
    data = codec.encode_pairs(wire.as_pairs(wire.cgi_params()))[:-1]
    peer.send(wire.begin_request(1) + wire.stream(PARAMS, 1, data) + wire.stdin(1))
    peer.receive_close()
    assert peer.closed and not application.environs and not peer.stdout()
    assert STDOUT not in {record.type for record in peer.records}
