"""The sans-I/O core and a peer that means ill: every limit at its border, and any bytes at all."""

import tracemalloc

import pytest
import reference_codec
import wire
from hypothesis import given, settings
from hypothesis import strategies as st

from fastfcgi import constants
from fastfcgi.connection import Connection
from fastfcgi.constants import CANT_MPX_CONN, DATA, FILTER, OVERLOADED, RESPONDER, STDIN
from fastfcgi.events import InputReceived, RequestReceived
from fastfcgi.exceptions import LimitExceeded, RemoteProtocolError

KIB = 1024
MIB = 1024 * KIB


def started(*ids, role=RESPONDER, **options):
    connection = Connection(roles=(1, 2, 3), **options)
    for request_id in ids or (1,):
        connection.receive_data(wire.begin_request(request_id, role, True))
        connection.receive_data(wire.params(request_id, {}))
    return connection


def sent(connection):
    return wire.parse_response(b"".join(connection.data_to_send()))


# ---------------------------------------------------------------------------------- params


def feed_params(params, record_sizes=65535, **limits):
    connection = Connection(**limits)
    connection.receive_data(wire.begin_request(1))
    return connection.receive_data(wire.params(1, params, record_sizes))


@pytest.mark.parametrize("record_sizes", [1, 7, 65535])
def test_max_params_bytes_exactly_and_one_beyond(record_sizes):
    params = {"A": "x" * 100, "B": "y" * 200}
    size = len(reference_codec.encode_pairs(wire.as_pairs(params)))
    [event] = feed_params(params, record_sizes, max_params_bytes=size)
    assert event.params == params
    with pytest.raises(LimitExceeded):
        feed_params(params, record_sizes, max_params_bytes=size - 1)


def test_default_of_max_params_bytes():
    overhead = len(b"\1") + 4 + len(b"A")
    assert len(feed_params({"A": "x" * (MIB - overhead)})[0].params["A"]) == MIB - overhead
    with pytest.raises(LimitExceeded):
        feed_params({"A": "x" * (MIB - overhead + 1)})


def test_max_params_pairs_exactly_and_one_beyond():
    params = {str(i): "" for i in range(10)}
    assert feed_params(params, max_params_pairs=10)[0].params == params
    with pytest.raises(LimitExceeded):
        feed_params(params, max_params_pairs=9)
    params = {str(i): "" for i in range(1024)}
    assert feed_params(params)[0].params == params
    with pytest.raises(LimitExceeded):
        feed_params({**params, "one": "more"})


@pytest.mark.parametrize("lengths", [b"\xff\xff\xff\xff\0", b"\0\xff\xff\xff\xff", b"\xff" * 8])
def test_pair_of_2_gib_is_refused_at_once(lengths):
    connection = Connection()
    connection.receive_data(wire.begin_request(1))
    with pytest.raises(LimitExceeded):
        connection.receive_data(wire.record(constants.PARAMS, 1, lengths))


def test_100_mib_of_params_cost_no_more_than_the_limit():
    connection = Connection()
    connection.receive_data(wire.begin_request(1))
    pair = reference_codec.encode_pairs([(b"A", bytes(2000))])
    part = wire.record(constants.PARAMS, 1, pair * 30)
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceeded):
            for _ in range(100 * MIB // len(part)):
                connection.receive_data(part)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


def test_params_of_many_requests_at_once_count_together():
    connection = Connection(max_params_bytes=1000, max_unread_total=5000, max_requests=100)
    pair = reference_codec.encode_pairs([(b"A", b"x" * 900)])[:-1]  # of each the last byte lacks
    with pytest.raises(LimitExceeded):
        for request_id in range(1, 100):
            connection.receive_data(wire.begin_request(request_id))
            connection.receive_data(wire.stream(constants.PARAMS, request_id, pair, end=False))
    assert 5000 // 1000 <= connection.active <= 6000 // 900 + 1


def test_params_that_are_complete_are_held_no_longer():
    connection = Connection(max_params_bytes=1000, max_unread_total=1500)
    for _ in range(20):
        connection.receive_data(wire.request(1, {"A": "x" * 900}, keep_conn=True))
        connection.receive_data(wire.begin_request(2, 1, True))
        connection.receive_data(wire.params(2, {"A": "x" * 900}, end=False))
        connection.receive_data(wire.abort(2))
        connection.end_request(1)
        assert not connection.paused and connection.idle


# -------------------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("max_requests", "refusal"), [(1, CANT_MPX_CONN), (2, OVERLOADED), (5, OVERLOADED)]
)
def test_max_requests_exactly_and_one_beyond(max_requests, refusal):
    connection = started(*range(1, max_requests + 1), max_requests=max_requests)
    assert connection.active == max_requests and not sent(connection).outputs
    assert connection.receive_data(wire.request(99, {"A": "B"}, b"body", keep_conn=True)) == []
    output = sent(connection)[99]
    assert output == wire.Output(app_status=0, protocol_status=refusal)
    assert connection.active == max_requests
    connection.end_request(1)
    events = connection.receive_data(wire.request(99, {}, keep_conn=True))
    assert events[0] == RequestReceived(99, RESPONDER, True, {})
    assert not connection.should_close


def test_requests_whose_params_are_not_there_yet_count_too():
    connection = Connection(max_requests=3)
    connection.receive_data(b"".join(wire.begin_request(i, 1, True) for i in range(1, 5)))
    assert connection.active == 3
    assert sent(connection)[4].protocol_status == OVERLOADED
    connection.receive_data(wire.abort(2))
    connection.receive_data(wire.begin_request(4, 1, True))
    assert connection.is_active(4)


def test_10000_begin_requests():
    connection = Connection()
    for request_id in range(1, 10001):
        assert connection.receive_data(wire.begin_request(request_id, 1, True)) == []
    active = connection.active
    assert active == 128
    assert len(sent(connection).outputs) == 10000 - active
    for request_id in range(1, 10001):
        connection.receive_data(wire.abort(request_id))
    assert connection.active == 0 and len(sent(connection).outputs) == active


# ---------------------------------------------------------------------------- unread input


@pytest.mark.parametrize("stream", [STDIN, DATA])
def test_max_unread_stdin_of_one_request(stream):
    connection = started(role=FILTER, max_unread_stdin=1000)
    if stream == DATA:
        connection.receive_data(wire.stdin(1))
    connection.receive_data(wire.stream(stream, 1, bytes(999), end=False))
    assert not connection.paused
    connection.receive_data(wire.stream(stream, 1, b"x", end=False))
    assert connection.paused
    connection.acknowledge(1, 1)
    assert not connection.paused
    connection.receive_data(wire.stream(stream, 1, bytes(5000), end=False))
    connection.acknowledge(1, 4999)
    assert connection.paused
    connection.acknowledge(1, 1)
    assert not connection.paused


def test_stdin_and_data_of_a_filter_count_together():
    connection = started(role=FILTER, max_unread_stdin=1000)
    connection.receive_data(wire.stdin(1, bytes(600)))
    connection.receive_data(wire.stream(DATA, 1, bytes(400), end=False))
    assert connection.paused


def test_a_body_that_is_whole_pauses_nothing():
    connection = started(max_unread_stdin=1000)
    connection.receive_data(wire.stdin(1, bytes(2000)))
    assert not connection.paused


def test_max_unread_total_of_all_requests():
    connection = started(1, 2, 3, max_unread_stdin=1000, max_unread_total=2500)
    for request_id, size in ((1, 900), (2, 900), (3, 699)):
        connection.receive_data(wire.stdin(request_id, bytes(size)))
    assert not connection.paused
    connection.receive_data(wire.request(4, {}, b"x", keep_conn=True))
    assert connection.paused
    connection.acknowledge(2, 1)
    assert not connection.paused


def test_ended_and_abandoned_requests_are_held_no_longer():
    for end in (Connection.end_request, Connection.abandon):
        connection = started(1, 2, max_unread_stdin=1000, max_unread_total=1500)
        for request_id in (1, 2):
            connection.receive_data(wire.stdin(request_id, bytes(1000), end=False))
        assert connection.paused
        end(connection, 1)
        assert connection.paused
        end(connection, 2)
        assert not connection.paused
        # What arrives late or is acknowledged late counts no more.
        connection.receive_data(wire.stdin(1, bytes(60000)))
        connection.acknowledge(1, 1000)
        assert not connection.paused
        assert connection.ignored_records >= 2


def test_defaults_of_the_unread_limits():
    connection = started(*range(1, 18))
    part = bytes(MIB - 1)
    for request_id in range(1, 17):
        connection.receive_data(wire.stdin(request_id, part, end=False))
        assert not connection.paused
    connection.receive_data(wire.stdin(17, bytes(16), end=False))
    assert connection.paused  # 16 MiB in all
    connection.end_request(16)
    assert not connection.paused
    connection.receive_data(wire.stdin(1, b"x", end=False))
    assert connection.paused  # 1 MiB of one request


# --------------------------------------------------------------------------- any bytes at all

# A deadline per example would be a measurement of the machine.
relaxed = settings(deadline=None, max_examples=300)
ids = st.sampled_from([0, 1, 1, 1, 2, 2, 3, 65535])
small = st.binary(max_size=40)
pairs = st.dictionaries(small, small, max_size=4)

valid = st.one_of(
    st.builds(wire.begin_request, ids, st.sampled_from([1, 1, 1, 2, 3, 4]), st.booleans()),
    st.builds(wire.params, ids, pairs, st.integers(1, 50), st.booleans()),
    st.builds(wire.stdin, ids, small, st.integers(1, 50), st.booleans()),
    st.builds(wire.data_stream, ids, small, st.integers(1, 50), st.booleans()),
    st.builds(wire.abort, ids),
    st.builds(wire.get_values, small, st.sampled_from(["FCGI_MAX_REQS", "X"])),
    st.builds(wire.request, ids, pairs, small, st.booleans(), st.sampled_from([1, 3])),
    st.builds(wire.record, st.integers(0, 255), ids, small, st.binary(max_size=9)),
)
anything = st.tuples(st.lists(valid, max_size=12).map(b"".join), small).map(b"".join)


def run(parts, **options):
    """What becomes of some bytes: items that do not depend on how they were cut.

    Any exception but RemoteProtocolError goes through and fails the test.
    """
    connection = Connection(roles=(1, 2, 3), values={"FCGI_MAX_REQS": "9"}, **options)
    items = []
    try:
        for part in parts:
            for event in connection.receive_data(part):
                if isinstance(event, InputReceived):
                    assert len(event.data) > 0
                    items += [(event.request_id, event.stream, octet) for octet in event.data]
                else:
                    items.append(event)
    except RemoteProtocolError:
        return None
    answers = b"".join(connection.data_to_send())
    reference_codec.RecordReader().feed(answers)
    return items, answers, connection.active, connection.paused, connection.ignored_records > 0


@relaxed
@given(st.one_of(anything, st.binary(max_size=200), st.binary(max_size=200).map(b"\1".__add__)))
def test_any_bytes_give_events_or_a_remote_protocol_error(data):
    whole = run([data])
    assert run([bytes([octet]) for octet in data]) == whole
    assert run([data[: len(data) // 2], data[len(data) // 2 :]]) == whole


@relaxed
@given(anything)
def test_any_bytes_with_the_smallest_limits(data):
    limits = {"max_params_bytes": 30, "max_params_pairs": 2, "max_requests": 2}
    limits |= {"max_unread_stdin": 10, "max_unread_total": 20}
    whole = run([data], **limits)
    assert run([bytes([octet]) for octet in data], **limits) == whole


@relaxed
@given(st.lists(st.tuples(valid, st.integers(0, 5), ids), max_size=15))
def test_any_bytes_while_the_application_answers(steps):
    connection = Connection(roles=(1, 2, 3), max_requests=3, max_unread_total=100)
    for data, action, request_id in steps:
        try:
            connection.receive_data(data)
        except RemoteProtocolError:
            return
        if not connection.is_active(request_id):
            continue
        if action == 1:
            connection.send_stdout(request_id, b"out")
        elif action == 2:
            connection.send_stderr(request_id, b"err")
        elif action == 3:
            connection.end_request(request_id)
        elif action == 4:
            connection.abandon(request_id)
        elif action == 5:
            connection.acknowledge(request_id, 1)
    reader = reference_codec.RecordReader()
    reader.feed(b"".join(connection.data_to_send()))
    assert reader.at_border
