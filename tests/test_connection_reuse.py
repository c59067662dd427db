"""The sans-I/O core: what is shared by connections, used again for the next request, and left after
an error."""

import pytest
import reference_codec
import wire

from fastfcgi import connection as connection_module
from fastfcgi import constants
from fastfcgi.active_request import ActiveRequest
from fastfcgi.connection import Connection, ConnectionSettings
from fastfcgi.constants import OVERLOADED, RESPONDER, STDIN, STDOUT
from fastfcgi.events import InputEnded, RequestReceived
from fastfcgi.exceptions import LimitExceeded, LocalProtocolError, RemoteProtocolError

PARAMS = {"REQUEST_METHOD": "GET", "HTTP_HOST": "www.example", "HTTP_COOKIE": "id=secret"}


def sent(connection):
    return b"".join(connection.data_to_send())


def params_of(connection, params, request_id=1):
    """What a request's params come to; it is answered."""
    events = connection.receive_data(wire.request(request_id, params, keep_conn=True))
    assert [type(event) for event in events] == [RequestReceived, InputEnded]
    connection.end_request(request_id)
    return events[0].params


def test_the_extension_is_a_compiled_one():
    assert not connection_module.__file__.endswith((".py", ".pyx"))


# -------------------------------------------------------------------------------- settings


def test_settings_are_given_as_limits_or_made_once():
    settings = ConnectionSettings(
        roles=[1, 3], max_params_bytes=1, max_params_pairs=2, reserved=b"x"
    )
    assert settings.roles == frozenset({1, 3}) and settings.reserved == b"x"
    assert (settings.max_params_bytes, settings.max_params_pairs) == (1, 2)
    for first, second in ((settings, settings), (None, None)):
        connections = [Connection(settings=given) for given in (first, second)]
        assert (connections[0].settings is connections[1].settings) == (first is not None)
    assert Connection(max_requests=3).settings.max_requests == 3
    assert Connection(max_unread_stdin=4).settings.max_unread_stdin == 4


def test_settings_have_the_defaults_that_are_told():
    for settings in (ConnectionSettings(), Connection().settings):
        assert settings.roles == {RESPONDER} and settings.reserved == b""
        for name in dir(connection_module):
            if name.startswith("DEFAULT_"):
                value = getattr(connection_module, name)
                assert getattr(settings, name.removeprefix("DEFAULT_").lower()) == value


@pytest.mark.parametrize(
    "options",
    [
        {"settings": ConnectionSettings(), "max_requests": 1},
        {"max_request": 1},
        {"max_requests": "1"},
        {"reserved": None},
        {"settings": {}},
    ],
)
def test_settings_that_are_none_are_the_callers_mistake(options):
    with pytest.raises(TypeError):
        Connection(**options)


def test_settings_cannot_be_changed():
    for name in ("roles", "max_requests", "reserved"):
        with pytest.raises(AttributeError):
            setattr(ConnectionSettings(), name, None)


def test_a_connection_without_settings_has_the_defaults():
    connection = Connection.__new__(Connection)
    assert params_of(connection, PARAMS) == PARAMS
    assert params_of(connection, {"A": "1" * 70000}) == {"A": "1" * 70000}
    assert ActiveRequest().keep_conn is False  # of no connection, and harmless


def test_connections_share_values_but_no_request_sees_another_ones():
    settings = ConnectionSettings()
    connections = [Connection(settings=settings) for _ in range(3)]
    first, second = (params_of(connection, PARAMS) for connection in connections[:2])
    assert first == second == PARAMS
    assert first["HTTP_HOST"] is second["HTTP_HOST"]
    assert first["HTTP_COOKIE"] is not second["HTTP_COOKIE"]
    for other in ("wwx.example", "www.examplf", "", "www.example.com", "www.example"):
        for connection in connections:
            assert params_of(connection, {**PARAMS, "HTTP_HOST": other})["HTTP_HOST"] == other
    assert first == PARAMS


def test_requests_alike_on_several_connections_cut_anywhere():
    settings = ConnectionSettings(reserved=b"wsgi.", base={"wsgi.version": (1, 0)})
    connections = [Connection(settings=settings) for _ in range(3)]
    whole = wire.request(1, PARAMS, keep_conn=True)
    for cut in range(1, len(whole)):
        for number, connection in enumerate(connections):
            changed = {**PARAMS, "PATH_INFO": f"/{cut}", "HTTP_HOST": "ab"[number % 2]}
            assert params_of(connection, changed) == {"wsgi.version": (1, 0), **changed}
            events = connection.receive_data(whole[:cut]) + connection.receive_data(whole[cut:])
            assert events[0].params == {"wsgi.version": (1, 0), **PARAMS}
            connection.end_request(1)


def test_params_begin_with_what_settings_say():
    base = {"wsgi.version": (1, 0), "wsgi.run_once": False}
    settings = ConnectionSettings(reserved=b"wsgi.", base=base)
    sent_too = {"wsgi.version": "2", **PARAMS}
    for connection in [Connection(settings=settings) for _ in range(3)]:
        for params in (PARAMS, {}, sent_too, PARAMS):
            expected = {**base, **{k: v for k, v in params.items() if k not in base}}
            found = params_of(connection, params)
            assert list(found.items()) == list(expected.items())
            found.clear()


@pytest.mark.parametrize("base", [{"SERVER_NAME": "x"}, {"wsgi.version": (1, 0), "HTTP_X": ""}])
@pytest.mark.parametrize("reserved", [b"", b"wsgi."])
def test_what_a_web_server_could_send_is_nothing_to_begin_with(base, reserved):
    with pytest.raises(ValueError, match="not reserved"):
        ConnectionSettings(base=base, reserved=reserved)


def test_what_is_shared_is_not_the_dict():
    connection = Connection()
    first = params_of(connection, PARAMS)
    first["HTTP_HOST"] = "changed"
    assert params_of(connection, PARAMS) == PARAMS


# ------------------------------------------------------------- one request after the other


def test_params_of_an_aborted_request_are_not_those_of_the_next():
    """Wherever it was cut; request_ids may differ."""
    aborted = wire.params(1, {"HTTP_A": "1", "HTTP_B": "x" * 200, **PARAMS}, end=False)
    for size in range(8, len(aborted), 7):
        connection = Connection()
        connection.receive_data(wire.begin_request(1, keep_conn=True) + aborted[:size])
        # The rest of its record, so that what follows is read as a record.
        connection.receive_data(aborted[size:] if size % 2 else aborted[size:] + wire.params(1, {}))
        if size % 2:
            connection.receive_data(wire.abort(1))
        else:
            connection.end_request(1)
        assert connection.idle and not connection.awaiting_params
        assert params_of(connection, {"HTTP_A": "2"}, request_id=size) == {"HTTP_A": "2"}


@pytest.mark.parametrize("ids", [(1, 1, 1), (1, 2, 3)])
def test_each_request_has_the_limits_to_itself(ids):
    params = {"A": "x" * 100, "B": "y" * 100}
    size = len(reference_codec.encode_pairs(wire.as_pairs(params)))
    limits = {"max_params_bytes": size, "max_params_pairs": 2, "max_unread_total": size}
    connection = Connection(**limits)
    for request_id in ids:
        assert params_of(connection, params, request_id) == params
        connection.receive_data(wire.begin_request(request_id, 1, True))
        connection.receive_data(wire.params(request_id, params, 7, end=False))
        connection.receive_data(wire.abort(request_id))
    with pytest.raises(LimitExceeded):
        params_of(connection, {**params, "C": ""})


def test_params_side_by_side_after_params_one_by_one():
    connection = Connection(max_requests=3)
    for _ in range(3):
        assert params_of(connection, PARAMS) == PARAMS
        for request_id in (1, 2, 3):
            connection.receive_data(wire.begin_request(request_id, 1, True))
            params = {"N": str(request_id), "M": "m" * 50}
            connection.receive_data(wire.params(request_id, params, 5, end=False))
        assert connection.awaiting_params and connection.active == 3
        for request_id in (2, 3, 1):
            [event] = connection.receive_data(wire.params(request_id, {}))
            assert event.params == {"N": str(request_id), "M": "m" * 50}
        assert not connection.awaiting_params
        for request_id in (3, 1, 2):
            connection.end_request(request_id)
        assert connection.idle


def test_any_of_several_requests_may_end_first():
    for order in [(1, 2, 3), (3, 2, 1), (2, 1, 3), (2, 3, 1)]:
        connection = Connection()
        for request_id in (1, 2, 3):
            connection.receive_data(wire.begin_request(request_id, 1, True))
            connection.receive_data(wire.params(request_id, {}))
        for number, request_id in enumerate(order):
            left = set(order[number:])
            assert {i for i in range(5) if connection.is_active(i)} == left
            for other in left:
                assert connection.receive_data(wire.stdin(other, b"x", end=False))
            connection.end_request(request_id)
        assert connection.active == 0 and connection.unread == 0
        # Those ids are free again.
        assert params_of(connection, PARAMS, order[0]) == PARAMS


def test_params_are_awaited_as_long_as_a_request_lacks_them():
    connection = Connection()
    connection.receive_data(wire.request(1, {}, keep_conn=True))
    assert not connection.awaiting_params
    for end in (wire.abort(2), wire.params(2, {})):
        connection.receive_data(wire.begin_request(2, 1, True))
        assert connection.awaiting_params
        connection.receive_data(end)
        assert not connection.awaiting_params
    assert connection.active == 2


def test_a_request_that_has_ended_pauses_nothing():
    connection = Connection(max_unread_stdin=0)
    for end in (Connection.end_request, Connection.abandon):
        connection.receive_data(wire.begin_request(1, 1, True) + wire.params(1, {}))
        assert not connection.paused
        connection.receive_data(wire.stdin(1, b"x", end=False))
        assert connection.paused
        end(connection, 1)
        assert not connection.paused


def test_unread_is_what_was_reported_and_not_acknowledged():
    connection = Connection()
    connection.receive_data(wire.request(1, {}, bytes(100), keep_conn=True))
    connection.receive_data(wire.request(2, {}, bytes(50), keep_conn=True))
    assert connection.unread == 150
    connection.acknowledge(1, 30)
    assert connection.unread == 120
    connection.end_request(1)
    connection.acknowledge(1, 70)
    assert connection.unread == 50
    connection.abandon(2)
    assert connection.unread == 0


# ---------------------------------------------------------------------------- after an error


@pytest.mark.parametrize(
    ("error", "data"),
    [
        (RemoteProtocolError, b"\2garbage"),
        (RemoteProtocolError, wire.stdin(1)),
        (RemoteProtocolError, wire.begin_request(1)),
        (RemoteProtocolError, wire.record(constants.GET_VALUES, 0, b"\5\0FCGI")),
        (RemoteProtocolError, wire.record(constants.PARAMS, 2, b"\1\1x") + wire.params(2, {})),
        (LimitExceeded, wire.params(2, {"A": "x" * 2000})),
        (LimitExceeded, wire.record(constants.PARAMS, 2, b"\xff\xff\xff\xff\0")),
    ],
)
def test_after_an_error_nothing_is_taken_in_but_answers_go_out(error, data):
    connection = Connection(max_params_bytes=1000)
    connection.receive_data(wire.request(1, PARAMS, keep_conn=True))
    connection.receive_data(wire.begin_request(2, keep_conn=True))
    with pytest.raises(error):
        connection.receive_data(data + wire.stdin(1))
    for late in (wire.request(9, {}), b"", wire.abort(1)):
        with pytest.raises(RemoteProtocolError):
            connection.receive_data(late)
    assert not connection.is_active(9)
    connection.send_stdout(1, b"answer")
    for request_id in (1, 2):
        connection.end_request(request_id)
    assert wire.parse_response(sent(connection))[1].stdout == b"answer"
    assert connection.active == 0 and not connection.paused
    with pytest.raises(LocalProtocolError):
        connection.end_request(2)


def test_a_mistake_of_the_caller_breaks_nothing():
    connection = Connection()
    for error, arguments in [
        (ValueError, (b"x", 2)),
        (TypeError, ("text",)),
        (TypeError, (None,)),
        (BufferError, (memoryview(b"1234")[::2],)),
    ]:
        with pytest.raises(error):
            connection.receive_data(*arguments)
    assert params_of(connection, PARAMS) == PARAMS


def test_no_view_of_the_data_is_left():
    connection = Connection()
    data = bytearray(wire.request(1, PARAMS, b"body", keep_conn=True))
    events = connection.receive_data(data)
    del events
    data.clear()  # BufferError if a view were still alive
    data += wire.stdin(1)
    with pytest.raises(RemoteProtocolError):
        connection.receive_data(data)
    data.clear()


# ------------------------------------------------------------------- head and data together


@pytest.mark.parametrize("head", [0, 1, 7, 8, 65527, 65528, 65529, 140000])
@pytest.mark.parametrize("size", [0, 1, 8, 65528, 65529, 140000])
def test_head_and_data_go_into_the_same_records(head, size):
    connection = Connection()
    connection.receive_data(wire.request(1, {}))
    head, data = (b"head" * head)[:head], (b"data" * size)[:size]
    connection.send_stdout(1, data, head)
    output = sent(connection)
    assert output == b"".join(
        reference_codec.encode_record(STDOUT, 1, (head + data)[start : start + 65528])
        for start in range(0, len(head + data), 65528)
    )


def test_head_and_data_are_given_on_uncopied():
    connection = Connection()
    connection.receive_data(wire.request(1, {}))
    head, data = b"Status: 200 OK\r\n\r\n", bytearray(5000)
    connection.send_stdout(1, data, head)
    header, *rest = connection.data_to_send()
    assert rest[0] is head and rest[1] is data and len(header) == constants.HEADER_LEN
    connection.send_stdout(1, b"", head)
    assert connection.data_to_send()[1] is head
    for wrong in ((None, head), ("text", head), (b"", "text"), (b"", bytearray(head))):
        with pytest.raises(TypeError):
            connection.send_stdout(1, *wrong)
    assert connection.data_to_send() == []


def test_a_refusal_is_one_record():
    connection = Connection(max_requests=2)
    connection.receive_data(b"".join(wire.begin_request(i, 1, True) for i in (1, 2, 3)))
    assert sent(connection) == reference_codec.encode_end_request(3, 0, OVERLOADED)
    assert connection.receive_data(wire.stdin(3, b"ignored")) == []
    assert connection.ignored_records == 2
    connection.receive_data(wire.params(1, {}))
    assert connection.receive_data(wire.stdin(1)) == [InputEnded(1, STDIN)]
