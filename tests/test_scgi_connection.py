"""scgi_connection: bytes to events and calls to buffers, for the one request of a connection."""

import itertools

import pytest
import scgi_wire
from hypothesis import given
from hypothesis import strategies as st

from fastfcgi.constants import RESPONDER, STDIN
from fastfcgi.events import InputEnded, InputReceived, RequestReceived
from fastfcgi.exceptions import LimitExceeded, LocalProtocolError, RemoteProtocolError
from fastfcgi.scgi_connection import ScgiConnection

PARAMS = {"REQUEST_METHOD": "POST", "PATH_INFO": "/x"}


def fed(connection, *parts):
    """What the events come to: the params, the body, whether it ended."""
    params, body, ended = None, b"", False
    for event in itertools.chain.from_iterable(map(connection.receive_data, parts)):
        if isinstance(event, RequestReceived):
            assert params is None
            assert (event.request_id, event.role, event.keep_conn) == (1, RESPONDER, False)
            params = event.params
        elif isinstance(event, InputReceived):
            assert params is not None and not ended and event.data
            assert (event.request_id, event.stream) == (1, STDIN)
            body += event.data
        else:
            assert event == InputEnded(1, STDIN) and not ended
            ended = True
    return params, body, ended


def test_a_request_cut_at_every_byte():
    data = scgi_wire.request(PARAMS, b"some body")
    whole = ({"CONTENT_LENGTH": "9", "SCGI": "1", **PARAMS}, b"some body", True)
    assert fed(ScgiConnection(), data) == whole
    for pos in range(1, len(data)):
        assert fed(ScgiConnection(), data[:pos], data[pos:]) == whole
    assert fed(ScgiConnection(), *(data[i : i + 1] for i in range(len(data)))) == whole


def test_no_body_ends_with_the_header():
    params, body, ended = fed(ScgiConnection(), scgi_wire.request(PARAMS))
    assert params is not None
    assert (body, ended) == (b"", True)


def test_data_is_given_out_uncopied():
    data = scgi_wire.request(PARAMS, b"some body")
    _, received, _ = ScgiConnection().receive_data(data)
    assert received.data.obj is data


def test_what_the_owner_of_the_socket_asks():
    connection = ScgiConnection()
    assert connection.idle and not connection.awaiting_params
    connection.receive_data(b"")
    assert connection.idle
    data = scgi_wire.request(PARAMS, b"body")
    for octet in data[:-5]:
        connection.receive_data(bytes([octet]))
        assert connection.awaiting_params and not connection.idle and connection.active == 0
    connection.receive_data(data[-5:-4])
    assert connection.active == 1 and connection.is_active(1)
    assert not (connection.awaiting_params or connection.idle or connection.should_close)
    assert connection.body_left == 4
    connection.receive_data(data[-4:])
    assert connection.body_left == 0
    connection.end_request(1)
    assert connection.should_close and connection.active == 0 and connection.idle
    assert not connection.input_expected and not connection.abandoned


def test_pausing_and_going_on():
    connection = ScgiConnection(max_unread_stdin=4)
    data = scgi_wire.request(PARAMS, b"some body")
    connection.receive_data(data[:-6])
    assert not connection.paused and connection.unread == 3
    connection.receive_data(data[-6:-5])
    assert connection.paused
    connection.acknowledge(1, 2)
    assert not connection.paused and connection.unread == 2
    connection.receive_data(data[-5:])
    assert not connection.paused  # nothing more will come


# ------------------------------------------------------------------------------------ out


def test_a_response_goes_out_as_it_is():
    connection = ScgiConnection()
    connection.receive_data(scgi_wire.request(PARAMS))
    body = b"x" * 100_000
    connection.send_stdout(1, b"", b"Status: 200 OK\r\n\r\n")
    connection.send_stdout(1, body)
    connection.send_stdout(1, bytearray(b"end"))
    connection.send_stderr(1, b"for nobody")
    connection.close_stdout(1)
    connection.end_request(1, 3, 0)
    sent = connection.data_to_send()
    assert sent == [b"Status: 200 OK\r\n\r\n", body, b"end"]
    assert sent[1] is body
    assert connection.data_to_send() == []


def test_what_may_not_be_sent():
    connection = ScgiConnection()
    with pytest.raises(LocalProtocolError):
        connection.send_stdout(1, b"x")
    connection.receive_data(scgi_wire.request(PARAMS))
    connection.close_stdout(1)
    for call in (connection.send_stdout, connection.close_stdout):
        with pytest.raises(LocalProtocolError):
            call(*(1, b"x")[: 2 if call == connection.send_stdout else 1])
    connection.end_request(1)
    for call in (connection.send_stderr, connection.send_stdout):
        with pytest.raises(LocalProtocolError):
            call(1, b"x")
    with pytest.raises(LocalProtocolError):
        connection.end_request(1)


def test_a_request_that_is_abandoned():
    connection = ScgiConnection()
    connection.receive_data(scgi_wire.request(PARAMS))
    connection.send_stdout(1, b"part")
    connection.abandon(1)
    assert connection.abandoned and connection.should_close
    assert connection.data_to_send() == [b"part"]


def test_answered_before_its_body_has_come():
    connection = ScgiConnection()
    connection.receive_data(scgi_wire.request(PARAMS, b"body")[:-2])
    connection.end_request(1)
    assert connection.should_close and connection.input_expected
    assert connection.unread == 0
    assert connection.receive_data(b"dy") == []
    assert connection.unread == 0
    with pytest.raises(RemoteProtocolError, match="1 bytes after the body"):
        connection.receive_data(b"x")


# ------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("more", [b"x", b"\r\n", scgi_wire.request(PARAMS)])
@pytest.mark.parametrize("body", [b"", b"body"])
@pytest.mark.parametrize("together", [True, False])
def test_more_than_the_body(more, body, together):
    connection = ScgiConnection()
    data = scgi_wire.request(PARAMS, body)
    if not together:
        connection.receive_data(data)
        data = b""
    with pytest.raises(RemoteProtocolError, match=f"{len(more)} bytes after the body") as caught:
        connection.receive_data(data + more)
    assert caught.value.offset == len(scgi_wire.request(PARAMS, body))
    with pytest.raises(RemoteProtocolError, match="was broken before"):
        connection.receive_data(b"x")


def test_a_header_beyond_its_limits():
    with pytest.raises(LimitExceeded, match="max_params_bytes=50"):
        ScgiConnection(max_params_bytes=50).receive_data(scgi_wire.request(PARAMS))
    with pytest.raises(LimitExceeded, match="max_params_pairs=3"):
        ScgiConnection(max_params_pairs=3).receive_data(scgi_wire.request(PARAMS))


@given(
    st.binary(max_size=30),
    st.integers(-2, 3),
    st.lists(st.integers(1, 120), max_size=4),
    st.binary(max_size=4),
)
def test_any_request_however_it_is_cut(body, off, cuts, noise):
    """Whatever comes: events, or RemoteProtocolError; as the oracle has it."""
    data = scgi_wire.request(PARAMS, body, max(len(body) + off, 0))
    if noise:
        data = data.replace(b"SCGI", noise)
    connection, borders = ScgiConnection(), sorted({0, len(data), *cuts})
    parts = [data[a:b] for a, b in itertools.pairwise(borders)]
    try:
        header = scgi_wire.parse_header(data)
        if header == scgi_wire.MORE:
            assert fed(connection, *parts) == (None, b"", False)
            return
        size, params, length = header
        if len(data) - size > length:
            raise scgi_wire.Refused(size + length)
    except scgi_wire.Refused as refused:
        with pytest.raises(RemoteProtocolError) as caught:
            fed(connection, *parts)
        assert caught.value.offset == refused.offset
        return
    expected = (params, data[size:], len(data) - size == length)
    assert fed(connection, *parts) == expected
