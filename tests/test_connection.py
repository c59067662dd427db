"""The sans-I/O core: bytes in, events out; calls in, buffers out."""

from itertools import count

import pytest
import reference_codec
import wire

from fastfcgi import constants
from fastfcgi.connection import Connection
from fastfcgi.constants import (
    AUTHORIZER,
    DATA,
    FILTER,
    GET_VALUES_RESULT,
    REQUEST_COMPLETE,
    RESPONDER,
    STDIN,
    STDOUT,
    UNKNOWN_ROLE,
    UNKNOWN_TYPE,
)
from fastfcgi.events import InputEnded, InputReceived, RequestAborted, RequestReceived
from fastfcgi.exceptions import RemoteProtocolError

PARAMS = {"REQUEST_METHOD": "GET", "PATH_INFO": "/\xe9"}
ALL_ROLES = (RESPONDER, AUTHORIZER, FILTER)
VALUES = {"FCGI_MAX_CONNS": "10", "FCGI_MAX_REQS": "50", "FCGI_MPXS_CONNS": "1"}


def receive(connection, *parts):
    """The events of some bytes; views are copied, as whoever keeps them must."""
    return [
        event._replace(data=bytes(event.data)) if isinstance(event, InputReceived) else event
        for event in connection.receive_data(b"".join(parts))
    ]


def sent(connection):
    return b"".join(connection.data_to_send())


def answers(connection):
    return wire.parse_response(sent(connection))


def started(*ids, roles=ALL_ROLES, keep_conn=True, **options):
    """A connection with requests whose PARAMS are complete."""
    connection = Connection(roles=roles, **options)
    for request_id in ids or (1,):
        receive(connection, wire.begin_request(request_id, RESPONDER, keep_conn))
        receive(connection, wire.params(request_id, PARAMS))
    return connection


def begun(role=RESPONDER, **options):
    """A connection with request 1, of which nothing but BEGIN_REQUEST has come."""
    connection = Connection(roles=ALL_ROLES, **options)
    assert receive(connection, wire.begin_request(1, role, True)) == []
    return connection


# ---------------------------------------------------------------------------------- roles


def test_responder():
    connection = Connection()
    assert connection.idle and not connection.active
    assert receive(connection, wire.request(1, PARAMS, b"body")) == [
        RequestReceived(1, RESPONDER, False, PARAMS),
        InputReceived(1, STDIN, b"body"),
        InputEnded(1, STDIN),
    ]
    assert connection.active == 1 and connection.is_active(1) and not connection.idle
    assert sent(connection) == b""


def test_authorizer_with_and_without_stdin():
    connection = Connection(roles=[AUTHORIZER])
    data = wire.begin_request(1, AUTHORIZER) + wire.params(1, PARAMS)
    assert receive(connection, data) == [RequestReceived(1, AUTHORIZER, False, PARAMS)]
    assert receive(connection, wire.stdin(1)) == [InputEnded(1, STDIN)]


def test_filter_takes_data_after_stdin():
    connection = Connection(roles=ALL_ROLES)
    data = wire.request(1, PARAMS, b"body", role=FILTER, data=b"file")
    assert receive(connection, data) == [
        RequestReceived(1, FILTER, False, PARAMS),
        InputReceived(1, STDIN, b"body"),
        InputEnded(1, STDIN),
        InputReceived(1, DATA, b"file"),
        InputEnded(1, DATA),
    ]


@pytest.mark.parametrize("role", [0, AUTHORIZER, FILTER, 4, 256, 65535])
def test_role_that_is_not_served(role):
    connection = Connection()
    assert receive(connection, wire.request(7, PARAMS, b"body", True, role)) == []
    assert sent(connection) == reference_codec.encode_end_request(7, 0, UNKNOWN_ROLE)
    assert not connection.active and not connection.should_close
    # The connection goes on, with the same id.
    assert len(receive(connection, wire.request(7, PARAMS))) == 2


def test_refused_request_without_keep_conn_closes_the_connection():
    connection = Connection()
    receive(connection, wire.request(1, PARAMS, role=9))
    assert connection.should_close


def test_roles_that_are_none_are_the_callers_mistake():
    with pytest.raises(ValueError):
        Connection(roles=(RESPONDER, 4))


@pytest.mark.parametrize(
    ("flags", "keep_conn"), [(0, False), (1, True), (0xFE, False), (255, True)]
)
def test_only_bit_0_of_the_flags_counts(flags, keep_conn):
    connection = Connection()
    data = reference_codec.encode_begin_request(1, RESPONDER, flags) + wire.params(1, {})
    assert receive(connection, data) == [RequestReceived(1, RESPONDER, keep_conn, {})]
    connection.end_request(1)
    assert connection.should_close is not keep_conn


def test_reserved_bytes_of_begin_request_are_ignored():
    connection = Connection()
    begin = wire.record(constants.BEGIN_REQUEST, 1, b"\0\1\0" + b"\xff" * 5)
    assert receive(connection, begin, wire.params(1, {})) == [RequestReceived(1, 1, False, {})]


def test_params_cut_inside_a_pair_joined_and_without_reserved_names():
    pairs = [*PARAMS.items(), ("HTTP_A", "1"), ("HTTP_A", "2"), ("wsgi.input", "x")]
    connection = Connection(reserved=b"wsgi.")
    receive(connection, wire.begin_request(1))
    [event] = receive(connection, wire.params(1, pairs, record_sizes=1))
    assert event.params == {**PARAMS, "HTTP_A": "1, 2"}


# ---------------------------------------------------------------------- management records


def get_values_result(*pairs):
    return reference_codec.encode_record(GET_VALUES_RESULT, 0, reference_codec.encode_pairs(pairs))


def test_get_values():
    connection = Connection(values=VALUES)
    assert receive(connection, wire.get_values("FCGI_MPXS_CONNS", "X", "FCGI_MAX_CONNS")) == []
    assert sent(connection) == get_values_result(
        (b"FCGI_MPXS_CONNS", b"1"), (b"FCGI_MAX_CONNS", b"10")
    )


def test_get_values_one_result_for_each_query_and_nothing_for_unknown_names():
    connection = Connection(values=VALUES)
    data = [wire.get_values(), wire.get_values("fcgi_max_reqs", b"\xff")]
    assert receive(connection, *data, wire.get_values("FCGI_MAX_REQS")) == []
    known = get_values_result((b"FCGI_MAX_REQS", b"50"))
    assert sent(connection) == get_values_result() * 2 + known


def test_get_values_that_asks_a_thousand_times_has_a_short_answer():
    connection = Connection(values=VALUES)
    receive(connection, wire.get_values(*["FCGI_MAX_REQS"] * 1000))
    assert sent(connection) == get_values_result((b"FCGI_MAX_REQS", b"50"))


def test_get_values_with_values_is_answered_all_the_same():
    connection = Connection(values=VALUES)
    pairs = reference_codec.encode_pairs([(b"FCGI_MAX_REQS", b"what?")])
    receive(connection, reference_codec.encode_record(constants.GET_VALUES, 0, pairs))
    assert sent(connection) == get_values_result((b"FCGI_MAX_REQS", b"50"))


def test_get_values_within_a_request_changes_nothing_of_it():
    connection = Connection(values=VALUES)
    data = wire.request(1, PARAMS, b"body")
    whole = receive(Connection(), data)
    reader, borders = reference_codec.RecordReader(), []
    for i in range(len(data)):
        reader.feed(data[i : i + 1])
        if reader.at_border:
            borders.append(i + 1)
    assert len(borders) == 5
    for border in borders:
        connection = Connection(values=VALUES)
        got = receive(connection, data[:border], wire.get_values("X"), data[border:])
        assert got == whole and sent(connection) == get_values_result()


def test_get_values_cut_inside_a_pair_is_an_error():
    with pytest.raises(RemoteProtocolError):
        receive(Connection(), wire.record(constants.GET_VALUES, 0, b"\5\0FCGI"))


@pytest.mark.parametrize("type", [0, 12, 100, 255])
@pytest.mark.parametrize("content", [b"", b"content"])
def test_unknown_management_record_is_answered(type, content):
    connection = Connection()
    assert receive(connection, wire.record(type, 0, content)) == []
    assert sent(connection) == b"\1\x0b\0\0\0\x08\0\0" + bytes([type]) + bytes(7)


@pytest.mark.parametrize("type", range(1, 9))
def test_application_records_on_id_0_make_no_request(type):
    data = wire.record(type, 0, b"\0\1\1\0\0\0\0\0")
    for cut in range(len(data) + 1):
        connection = Connection()
        assert receive(connection, data[:cut]) == receive(connection, data[cut:]) == []
        assert not connection.active
        # One answer to a record, not to each part that was received.
        assert answers(connection).management == [(UNKNOWN_TYPE, bytes([type]) + bytes(7))]


def test_answers_to_questions_nobody_asked_are_not_answered():
    connection = Connection()
    for type in (GET_VALUES_RESULT, UNKNOWN_TYPE):
        assert receive(connection, wire.record(type, 0, bytes(8))) == []
    assert sent(connection) == b""


# ---------------------------------------------------------------------------- multiplexing


def test_requests_interleaved_record_by_record():
    ids = (1, 2, 300, 65535)
    connection = Connection()
    assert receive(connection, *(wire.begin_request(i, keep_conn=True) for i in ids)) == []
    assert connection.active == 4
    for i in ids:
        receive(connection, wire.params(i, {"N": str(i)}, record_sizes=2, end=False))
    events = receive(connection, *(wire.params(i, {}) for i in ids))
    assert events == [RequestReceived(i, RESPONDER, True, {"N": str(i)}) for i in ids]
    for part in (b"a", b"b"):
        events = receive(connection, *(wire.stdin(i, part * i, end=False) for i in ids))
        assert events == [InputReceived(i, STDIN, part * i) for i in ids]
    assert receive(connection, *(wire.stdin(i) for i in ids)) == [InputEnded(i, STDIN) for i in ids]


def test_answers_interleaved_and_in_any_order():
    connection = started(1, 2, 3)
    for request_id in (3, 1, 2, 1, 3):
        connection.send_stdout(request_id, b"%d" % request_id)
    for request_id in (2, 3, 1):
        connection.end_request(request_id, app_status=request_id)
    got = answers(connection)
    assert [(i, bytes(got[i].stdout), got[i].app_status) for i in (1, 2, 3)] == [
        (1, b"11", 1),
        (2, b"2", 2),
        (3, b"33", 3),
    ]


# ----------------------------------------------------------------------------------- abort


def test_abort_before_params_are_complete_is_answered_at_once():
    for data in (b"", wire.params(1, PARAMS, end=False), wire.params(1, PARAMS, [3], end=False)):
        connection = begun()
        assert receive(connection, data, wire.abort(1)) == []
        output = answers(connection)[1]
        assert (output.stdout, output.protocol_status) == (b"", REQUEST_COMPLETE)
        assert not connection.active and not connection.should_close
        # What was on its way is ignored, and the id is free again.
        assert receive(connection, wire.params(1, PARAMS), wire.stdin(1, b"late")) == []
        assert len(receive(connection, wire.request(1, PARAMS))) == 2


def test_abort_of_a_request_that_was_reported():
    for data in (b"", wire.stdin(1, b"part", end=False), wire.stdin(1, b"all")):
        connection = started(1)
        receive(connection, data)
        assert receive(connection, wire.abort(1), wire.abort(1)) == [RequestAborted(1)]
        assert connection.is_active(1) and sent(connection) == b""
        connection.send_stdout(1, b"bye")
        connection.end_request(1, app_status=3)
        output = answers(connection)[1]
        assert (output.stdout, output.app_status) == (b"bye", 3)
        assert receive(connection, wire.abort(1)) == []


def test_abort_touches_no_other_request():
    connection = started(1, 2)
    receive(connection, wire.abort(1))
    assert receive(connection, wire.stdin(2, b"x")) == [
        InputReceived(2, STDIN, b"x"),
        InputEnded(2, STDIN),
    ]


# ----------------------------------------------------------------------- ids and wrong order


@pytest.mark.parametrize(
    "late",
    [
        wire.params(5, PARAMS),
        wire.stdin(5, b"late"),
        wire.data_stream(5, b"late"),
        wire.abort(5),
        wire.record(constants.GET_VALUES, 5),
        wire.record(99, 5, b"x"),
        wire.record(STDOUT, 5, b"x"),
        wire.record(constants.END_REQUEST, 5, bytes(8)),
    ],
    ids=count(),
)
def test_records_of_an_inactive_id_are_ignored(late):
    connection = Connection()
    assert receive(connection, late) == []  # never begun
    receive(connection, wire.request(5, PARAMS, keep_conn=True))
    connection.end_request(5)
    sent(connection)
    assert receive(connection, late) == []  # ended
    assert sent(connection) == b"" and connection.ignored_records >= 2
    assert len(receive(connection, wire.request(5, PARAMS))) == 2


def test_application_may_answer_before_its_input_ends():
    connection = started(1)
    connection.send_stdout(1, b"early")
    connection.end_request(1)
    assert answers(connection)[1].stdout == b"early"
    assert receive(connection, wire.stdin(1, b"late")) == []


def test_id_of_an_ended_request_begins_anew():
    connection = Connection()
    for i in range(3):
        events = receive(connection, wire.request(1, {"N": str(i)}, b"x" * i, keep_conn=True))
        assert events[0] == RequestReceived(1, RESPONDER, True, {"N": str(i)})
        connection.send_stdout(1, b"answer %d" % i)
        connection.end_request(1)
        assert answers(connection)[1].stdout == b"answer %d" % i
        assert connection.idle and not connection.should_close


def test_begin_request_for_an_active_id_is_an_error():
    for connection in (begun(), started(1)):
        with pytest.raises(RemoteProtocolError):
            receive(connection, wire.begin_request(1))


@pytest.mark.parametrize("length", [0, 7, 9, 16])
def test_begin_request_of_another_length_is_an_error(length):
    with pytest.raises(RemoteProtocolError):
        receive(Connection(), wire.record(constants.BEGIN_REQUEST, 1, bytes(length)))


@pytest.mark.parametrize(
    "data",
    [
        wire.stdin(1, b"x"),
        wire.stdin(1),
        wire.data_stream(1, b"x"),
        wire.params(1, PARAMS) + wire.params(1, PARAMS),
        wire.params(1, PARAMS) + wire.params(1, {}),
        wire.params(1, PARAMS) + wire.stdin(1) + wire.params(1, {}),
        wire.params(1, PARAMS) + wire.stdin(1) + wire.stdin(1),
        wire.params(1, PARAMS) + wire.stdin(1, b"x") + wire.stdin(1, b"x", end=False),
        wire.params(1, PARAMS) + wire.data_stream(1, b"x"),
        wire.params(1, PARAMS) + wire.data_stream(1),
        wire.params(1, PARAMS) + wire.stdin(1) + wire.data_stream(1, b"x"),
        wire.record(STDOUT, 1, b"x"),
        wire.record(constants.STDERR, 1, b"x"),
        wire.record(constants.END_REQUEST, 1, bytes(8)),
        wire.params(1, PARAMS, end=False)
        + wire.record(constants.PARAMS, 1, b"\5\1cut")
        + wire.params(1, {}),
    ],
    ids=count(),
)
def test_streams_out_of_order_are_an_error(data):
    connection = begun()
    with pytest.raises(RemoteProtocolError):
        receive(connection, data)


@pytest.mark.parametrize(
    "streams",
    [
        wire.data_stream(1, b"x"),
        wire.stdin(1, b"x", end=False) + wire.data_stream(1, b"x"),
        wire.stdin(1) + wire.data_stream(1) + wire.data_stream(1),
        wire.stdin(1) + wire.data_stream(1) + wire.stdin(1),
    ],
    ids=count(),
)
def test_streams_of_a_filter_out_of_order_are_an_error(streams):
    connection = begun(FILTER)
    receive(connection, wire.params(1, PARAMS))
    with pytest.raises(RemoteProtocolError):
        receive(connection, streams)


def test_unknown_application_record_is_ignored():
    connection = started(1)
    assert receive(connection, wire.record(99, 1, b"x"), wire.stdin(1)) == [InputEnded(1, STDIN)]
    assert sent(connection) == b""


def test_another_version_is_an_error_and_ends_the_connection():
    connection = started(1)
    with pytest.raises(RemoteProtocolError):
        receive(connection, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(RemoteProtocolError):
        receive(connection, wire.stdin(1))


def test_only_the_first_size_bytes_are_taken():
    connection = Connection()
    data = wire.request(1, PARAMS)
    assert connection.receive_data(data + b"\xff" * 9, len(data))[0].params == PARAMS


def test_input_is_a_view_of_what_was_received():
    connection = started(1)
    block = bytearray(wire.stdin(1, b"body", end=False))
    [event] = connection.receive_data(block)
    assert event.data.obj is block
