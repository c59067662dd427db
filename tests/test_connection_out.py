"""The sans-I/O core, the way out: the exact bytes of an answer, and when the connection ends."""

import array

import pytest
import reference_codec
import wire

from fastfcgi import constants
from fastfcgi.connection import Connection
from fastfcgi.constants import END_REQUEST, OVERLOADED, STDERR, STDOUT
from fastfcgi.exceptions import LocalProtocolError


def started(*ids, keep_conn=True, body=True, **options):
    """A connection with requests that have arrived, whole or all but their body."""
    connection = Connection(**options)
    for request_id in ids or (1,):
        data = wire.request(request_id, {}, b"body", keep_conn)
        connection.receive_data(data if body else data[:-24])
    return connection


def sent(connection):
    return b"".join(connection.data_to_send())


def record(type, content=b"", request_id=1):
    return reference_codec.encode_record(type, request_id, content)


COMPLETE = record(END_REQUEST, bytes(8))


# ------------------------------------------------------------------------- exact bytes


def test_answer_is_stdout_its_end_and_end_request():
    connection = started()
    connection.send_stdout(1, b"Status: 200 OK\r\n\r\n")
    connection.send_stdout(1, b"body")
    connection.end_request(1)
    assert sent(connection) == (
        record(STDOUT, b"Status: 200 OK\r\n\r\n")
        + record(STDOUT, b"body")
        + bytes.fromhex("0106000100000000")
        + bytes.fromhex("0103000100080000 0000000000000000")
    )
    assert connection.data_to_send() == []


def test_each_stream_that_was_used_is_ended():
    connection = started()
    connection.send_stderr(1, b"oh")
    connection.send_stdout(1, b"x")
    connection.send_stderr(1, b"dear")
    connection.end_request(1)
    data = sent(connection)
    assert data.startswith(record(STDERR, b"oh") + record(STDOUT, b"x") + record(STDERR, b"dear"))
    assert data.endswith(COMPLETE)
    output = wire.parse_response(data)[1]
    assert output.stdout_ended and output.stderr_ended and output.stderr == b"ohdear"


def test_stderr_is_ended_also_when_stdout_was_closed_before():
    connection = started()
    connection.send_stdout(1, b"x")
    connection.close_stdout(1)
    connection.send_stderr(1, b"late")
    connection.end_request(1)
    output = wire.parse_response(sent(connection))[1]
    assert output.stdout_ended and output.stderr_ended and output.ended


def test_stdout_that_is_closed_is_ended_once():
    connection = started()
    connection.send_stdout(1, b"x")
    connection.close_stdout(1)
    assert sent(connection) == record(STDOUT, b"x") + record(STDOUT)
    connection.end_request(1)
    assert sent(connection) == COMPLETE


def test_stderr_that_was_not_used_has_no_record():
    connection = started()
    connection.send_stderr(1, b"")
    connection.end_request(1)
    assert sent(connection) == record(STDOUT) + COMPLETE


def test_empty_data_does_not_end_a_stream():
    connection = started()
    connection.send_stdout(1, b"")
    connection.send_stderr(1, b"")
    assert connection.data_to_send() == []
    connection.send_stdout(1, b"x")
    assert sent(connection) == record(STDOUT, b"x")


@pytest.mark.parametrize("app_status", [0, 1, 255, 2**31, 2**32 - 1])
@pytest.mark.parametrize("protocol_status", [0, OVERLOADED])
def test_statuses_of_end_request(app_status, protocol_status):
    connection = started()
    connection.end_request(1, app_status, protocol_status)
    output = wire.parse_response(sent(connection))[1]
    assert (output.app_status, output.protocol_status) == (app_status, protocol_status)


def test_data_is_given_on_uncopied():
    connection = started()
    data, error = bytes(10000), bytearray(b"error")
    connection.send_stdout(1, data)
    connection.send_stderr(1, error)
    buffers = connection.data_to_send()
    assert any(buffer is data for buffer in buffers)
    assert any(buffer is error for buffer in buffers)


@pytest.mark.parametrize("length", [65527, 65528, 65529, 65535, 65536, 1000000])
def test_large_data_is_split(length):
    connection = started()
    data = (b"0123456789" * (length // 10 + 1))[:length]
    connection.send_stdout(1, data)
    connection.end_request(1)
    buffers = connection.data_to_send()
    assert all(memoryview(buffer).nbytes <= constants.MAX_CONTENT_LENGTH for buffer in buffers)
    assert wire.parse_response(b"".join(buffers))[1].stdout == data


@pytest.mark.parametrize("length", [1, 8, 7999, 8000, 8001, 17000])
def test_stderr_is_sent_in_small_padded_records(length):
    """HAProxy 2.6 crashes over large ones, and over one without padding."""
    connection = started()
    data = bytes(range(256)) * 70
    connection.send_stderr(1, data[:length])
    rest = sent(connection)
    text = b""
    while rest:
        header, rest = rest[:8], rest[8:]
        content, padding = int.from_bytes(header[4:6], "big"), header[6]
        assert header[:4] == bytes((1, constants.STDERR, 0, 1))
        assert content <= 8000 and 1 <= padding <= 8 and (content + padding) % 8 == 0
        text, rest = text + rest[:content], rest[content + padding :]
    assert text == data[:length]


def test_any_contiguous_buffer_can_be_sent_and_nothing_else():
    connection = started()
    for data in (bytearray(b"a"), memoryview(b"xbx")[1:2], array.array("H", b"cd")):
        connection.send_stdout(1, data)
    for wrong, error in ((memoryview(b"1234")[::2], BufferError), ("text", TypeError)):
        with pytest.raises(error):
            connection.send_stdout(1, wrong)
        with pytest.raises(error):
            connection.send_stderr(1, wrong)
    connection.end_request(1)
    output = wire.parse_response(sent(connection))[1]
    assert output.stdout == b"abcd" and not output.stderr_ended


def test_answers_of_several_requests_keep_their_ids():
    connection = started(1, 256, 65535)
    for request_id in (65535, 1, 256):
        connection.send_stdout(request_id, b"%d" % request_id)
        connection.end_request(request_id, request_id)
    answers = wire.parse_response(sent(connection))
    assert {i: bytes(output.stdout) for i, output in answers.outputs.items()} == {
        1: b"1",
        256: b"256",
        65535: b"65535",
    }


# ---------------------------------------------------------------------- the caller's errors


CALLS = [
    lambda connection, i: connection.send_stdout(i, b"x"),
    lambda connection, i: connection.send_stderr(i, b"x"),
    lambda connection, i: connection.end_request(i),
    lambda connection, i: connection.close_stdout(i),
    lambda connection, i: connection.abandon(i),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("request_id", [0, 1, 2, 65536, -1])
def test_sending_for_an_id_that_is_not_active(call, request_id):
    connection = started(1, 3)
    connection.end_request(1)
    sent(connection)
    with pytest.raises(LocalProtocolError):
        call(connection, request_id)
    assert connection.data_to_send() == [] and connection.is_active(3)


@pytest.mark.parametrize("call", CALLS)
def test_sending_after_a_request_was_abandoned_or_refused(call):
    connection = started(1, 3)
    connection.abandon(1)
    connection.receive_data(wire.request(5, {}, role=9, keep_conn=True))
    for request_id in (1, 5):
        with pytest.raises(LocalProtocolError):
            call(connection, request_id)


@pytest.mark.parametrize("call", [CALLS[0], CALLS[3]])
def test_sending_on_a_stdout_that_was_closed(call):
    connection = started()
    connection.close_stdout(1)
    with pytest.raises(LocalProtocolError):
        call(connection, 1)
    connection.end_request(1)


# ------------------------------------------------------------------- the connection's end


def test_without_keep_conn_the_connection_ends_with_its_request():
    connection = started(keep_conn=False)
    assert not connection.should_close
    connection.end_request(1)
    assert connection.should_close and not connection.input_expected


def test_with_keep_conn_it_stays():
    connection = started(keep_conn=True)
    connection.end_request(1)
    assert not connection.should_close and connection.idle


def test_it_does_not_end_before_the_last_active_request():
    connection = started(1, keep_conn=False)
    connection.receive_data(wire.request(2, {}, keep_conn=True))
    connection.end_request(1)
    assert not connection.should_close
    connection.end_request(2)
    assert connection.should_close


def test_input_that_is_still_to_come_is_known_at_the_end():
    connection = started(keep_conn=False, body=False)
    connection.end_request(1)
    assert connection.should_close and connection.input_expected


def test_abandoned_request_has_no_end():
    connection = started(1, 2)
    connection.send_stdout(1, b"part")
    connection.abandon(1)
    assert sent(connection) == record(STDOUT, b"part")
    assert not connection.should_close
    connection.end_request(2)
    assert connection.should_close


def test_close_when_idle_begins_no_further_request():
    connection = started(1, body=False)
    connection.close_when_idle()
    assert not connection.should_close
    assert len(connection.receive_data(wire.stdin(1))) == 1
    assert connection.receive_data(wire.request(2, {}, keep_conn=True)) == []
    output = wire.parse_response(sent(connection))[2]
    assert output.protocol_status == OVERLOADED
    connection.end_request(1)
    assert connection.should_close


def test_idle_means_no_request_and_no_part_of_a_record():
    connection = Connection()
    assert connection.idle
    data = wire.begin_request(1)
    connection.receive_data(data[:1])
    assert not connection.idle
    connection.receive_data(data[1:])
    assert not connection.idle
    connection.receive_data(wire.params(1, {}) + wire.stdin(1))
    connection.end_request(1)
    assert connection.idle
