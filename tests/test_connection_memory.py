"""The sans-I/O core and memory: the end of what it is given, and leaks."""

import pytest
import wire
from test_codec_memory import LEAK_SCRIPT, guarded, places, run_script

from fastfcgi import constants
from fastfcgi.connection import Connection, ConnectionSettings
from fastfcgi.events import InputReceived
from fastfcgi.exceptions import LimitExceeded, RemoteProtocolError

__all__ = ["guarded"]  # a fixture

RECORDS = b"".join(
    [
        wire.get_values("FCGI_MAX_REQS"),
        wire.request(1, {"HTTP_HOST": "a.example", "A": "1"}, b"body", keep_conn=True),
        wire.request(2, {"HTTP_HOST": "b.example"}, b"", role=3, data=b"file"),
        wire.abort(2),
        wire.record(99, 1, b"x"),
        wire.record(99, 0, b"x"),
    ]
)


def outcome(connection, data):
    """The events of some bytes, with views copied."""
    return [
        event._replace(data=bytes(event.data)) if isinstance(event, InputReceived) else event
        for event in connection.receive_data(data)
    ]


def test_connection_stays_within_its_input(guarded):
    settings = ConnectionSettings(roles=(1, 3), values={"FCGI_MAX_REQS": "9"})
    for cut in range(len(RECORDS) + 1):
        reference = Connection(settings=settings)
        expected = outcome(reference, RECORDS[:cut])
        answer = b"".join(reference.data_to_send())
        for view in places(guarded, RECORDS[:cut]):
            connection = Connection(settings=settings)
            assert outcome(connection, view) == expected
            assert b"".join(connection.data_to_send()) == answer


# ---------------------------------------------------------------------------------- leaks

BODY = bytes(60000)
MANY = {f"HTTP_X_{i}": "v" * 600 for i in range(100)}
FEW = {name: MANY[name] for name in list(MANY)[:30]}
SETTINGS = ConnectionSettings(roles=(1, 2, 3), values={"FCGI_MAX_REQS": "9"})
WHOLE = {i: wire.request(i, MANY, BODY, keep_conn=True) for i in (1, 2, 3)}
BEGUN = {
    i: wire.begin_request(i, 1, True) + wire.params(i, MANY, 9000, end=i % 2 == 0)
    for i in range(1, 5)
}
CUT = [wire.record(constants.GET_VALUES, 0, BODY), wire.params(1, MANY)]
BROKEN = [
    (RemoteProtocolError, {}, WHOLE[1] + wire.stdin(1, BODY)),
    (RemoteProtocolError, {}, wire.begin_request(1) + wire.stdin(1, BODY)),
    (RemoteProtocolError, {}, wire.record(constants.GET_VALUES, 0, b"\xff" * 8 + BODY)),
    (LimitExceeded, {"max_params_bytes": 50000}, WHOLE[1]),
]


def requests(*ids):
    """Whole requests, answered."""
    connection = Connection(settings=SETTINGS)
    for request_id in ids:
        assert len(connection.receive_data(WHOLE[request_id])) == 3
    for request_id in ids:
        connection.send_stdout(request_id, BODY, b"head")
        connection.send_stderr(request_id, BODY)
        connection.end_request(request_id)
    connection.data_to_send()


def alike():
    """Requests with the same names, on one connection and on others."""
    settings = ConnectionSettings(reserved=b"wsgi.", base={"wsgi.x": BODY})
    for number in range(4):
        connection = Connection(settings=settings)
        for host in ("a.example", "b.example"):
            params = {**FEW, "HTTP_HOST": host, "HTTP_COOKIE": f"{number}"}
            connection.receive_data(wire.request(1, params, keep_conn=True))
            connection.end_request(1)


def aborted():
    """Requests that are given up with half their PARAMS and with all of them."""
    connection = Connection(settings=SETTINGS)
    for data in BEGUN.values():
        connection.receive_data(data)
    for request_id in BEGUN:
        connection.receive_data(wire.abort(request_id))
        if connection.is_active(request_id):
            connection.abandon(request_id)
    assert connection.active == 0


def broken():
    """Connections that end by an error."""
    for error, options, data in BROKEN:
        connection = Connection(**options)
        with pytest.raises(error):
            for start in range(0, len(data), 30000):
                connection.receive_data(data[start : start + 30000])


def cut():
    """Bytes of records that never become whole."""
    for record in CUT:
        connection = Connection(settings=SETTINGS)
        connection.receive_data(wire.begin_request(1))
        connection.receive_data(record[:30000])
        connection.receive_data(record[30000:59000])


# Ways through a connection; each must leave nothing behind.
LEAK_ROUNDS = {
    "one by one": lambda: [requests(1), requests(1)],
    "side by side": lambda: requests(1, 2, 3),
    "alike": alike,
    "aborted": aborted,
    "broken": broken,
    "cut": cut,
}


@pytest.mark.parametrize("name", LEAK_ROUNDS)
def test_nothing_leaks(name):
    result = run_script(LEAK_SCRIPT.format(module="test_connection_memory", name=name))
    assert result.returncode == 0, result.stderr
