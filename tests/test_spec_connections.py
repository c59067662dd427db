"""The rules of FastCGI 1.0, one test each: bodies of records, management records, the order of a
response and the life of a connection (sections 3.1, 3.2, 3.5, 4, 5).
"""

import socket
import struct
import time

import pytest
import reference_codec as codec
import wire
from spec_server import (
    A_WHILE,
    DEADLINE,
    HAS_UNIX_SOCKETS,
    Application,
    Gate,
    answer,
    echo,
    serving,
    wait_until,
)

from fastfcgi import WSGIServer
from fastfcgi.constants import STDIN

END_REQUEST, STDOUT, STDERR, GET_VALUES_RESULT, UNKNOWN_TYPE = 3, 6, 7, 10, 11


@pytest.fixture
def serve(tmp_path):
    with serving(tmp_path) as serve:
        yield serve


class Exiting(WSGIServer):
    """Its application_status is that of an application that was told to say so."""

    def handler(self, req):
        super().handler(req)
        return 0, 0x01020304


# ------------------------------------------------------------------- bodies of records (5.1, 5.5)


@pytest.mark.parametrize("flags", [0, 1, 0xFE, 0xFF])
def test_bit_0_of_the_flags_keeps_the_connection(serve, flags):
    """5.1: KEEP_CONN is bit 0 of the flags of BEGIN_REQUEST; the other bits say nothing, nor do
    the reserved bytes."""
    peer = serve(echo).connect()
    rest = wire.params(1, wire.cgi_params()) + wire.stdin(1)
    peer.send(wire.record(1, 1, struct.pack("!HB", 1, flags) + b"\xff" * 5) + rest)
    assert peer.receive_end().ended
    if flags & 1:
        peer.sync()
    else:
        assert peer.receive_close()


def test_end_request_has_app_status_and_protocol_status(serve):
    """5.5: END_REQUEST holds app_status (four bytes, the high one first), protocol_status (one)
    and three reserved bytes."""
    peer = serve(echo, kind=Exiting).connect()
    peer.request()
    assert peer.records[-1].type == END_REQUEST
    assert peer.records[-1].content == b"\1\2\3\4" + b"\0" + b"\0\0\0"


def test_app_status_and_protocol_status_of_a_normal_end_are_0(serve):
    """5.5: app_status is as an exit code; protocol_status of a request that was served is
    REQUEST_COMPLETE, 0."""
    peer = serve(echo).connect()
    peer.request()
    assert peer.records[-1].content == bytes(8)


def test_app_status_that_does_not_fit(serve):
    """5.5: app_status is four bytes; an exit code of -1 is cut to them, and the request ends."""

    class Failing(WSGIServer):
        def handler(self, req):
            super().handler(req)
            return 0, -1

    assert serve(echo, kind=Failing).request().app_status == 0xFFFFFFFF


@pytest.mark.parametrize("role", [0, 2, 3, 4, 256 + 1])
def test_unknown_role(serve, role):
    """5.5: a request in a role that is not served ends with UNKNOWN_ROLE, 3, and nothing else."""
    application = Application()
    peer = serve(application).connect()
    response = peer.request(role=role, keep_conn=True, body=b"ignored")
    assert response.protocol_status == 3
    assert [record.type for record in peer.records] == [END_REQUEST]
    # The connection goes on.
    assert peer.request(keep_conn=True).status == 200
    assert application.bodies == [b""]


def test_cant_mpx_conn(serve):
    """5.5: a second request on a connection that cannot be shared ends with CANT_MPX_CONN, 1."""
    peer = serve(echo, max_requests_per_connection=1).connect()
    peer.send(wire.begin_request(1, keep_conn=True))
    peer.send(wire.request(2, keep_conn=True))
    assert peer.receive_end(2).protocol_status == 1
    peer.send(wire.params(1, wire.cgi_params("POST")) + wire.stdin(1, b"first"))
    assert peer.receive_end(1).body == b"first"


def test_overloaded(serve):
    """5.5: a request beyond what the connection may have at once ends with OVERLOADED, 2."""
    peer = serve(echo, max_requests_per_connection=2).connect()
    peer.send(wire.begin_request(1, keep_conn=True) + wire.begin_request(2, keep_conn=True))
    peer.send(wire.request(3, keep_conn=True))
    assert peer.receive_end(3).protocol_status == 2
    for id in (1, 2):
        peer.send(wire.params(id, wire.cgi_params("POST")) + wire.stdin(id, b"mine"))
        assert peer.receive_end(id).body == b"mine"


# ----------------------------------------------------------------------- management (4.1, 4.2)


@pytest.mark.parametrize("type", [0, 12, 100, 255])
def test_unknown_management_record(serve, type):
    """4.2: a management record of an unknown type is answered by UNKNOWN_TYPE: request_id 0, the
    type, seven reserved bytes."""
    peer = serve(echo).connect()
    peer.send(wire.record(type, 0, b"whatever"))
    peer.receive(lambda answers: answers.management)
    [record] = peer.records
    assert (record.type, record.request_id) == (UNKNOWN_TYPE, 0)
    assert record.content == bytes([type]) + bytes(7)
    assert peer.request().status == 200


def test_unknown_application_record(serve):
    """4.2: UNKNOWN_TYPE answers management records; one of an active request is passed over."""
    peer = serve(echo).connect()
    peer.send(wire.begin_request(1) + wire.record(100, 1, b"whatever"))
    peer.send(wire.params(1, wire.cgi_params("POST")) + wire.record(100, 1))
    peer.send(wire.stdin(1, b"body"))
    assert peer.receive_end().body == b"body"
    assert UNKNOWN_TYPE not in {record.type for record in peer.records}


def test_get_values(serve):
    """4.1: GET_VALUES_RESULT has the values of FCGI_MAX_CONNS, FCGI_MAX_REQS, FCGI_MPXS_CONNS,
    and they are true."""
    options = {"max_connections": 7, "threads": 3, "queue_size": 2}
    peer = serve(echo, **options).connect()
    peer.send(wire.get_values("FCGI_MAX_CONNS", "FCGI_MAX_REQS", "FCGI_MPXS_CONNS"))
    peer.receive(lambda answers: answers.management)
    [(type, content)] = peer.answers.management
    assert type == GET_VALUES_RESULT
    assert dict(codec.decode_pairs(content)) == {
        b"FCGI_MAX_CONNS": b"7",
        b"FCGI_MAX_REQS": b"5",
        b"FCGI_MPXS_CONNS": b"1",
    }


def test_get_values_tells_that_a_connection_cannot_be_shared(serve):
    """4.1: FCGI_MPXS_CONNS is "0" where a connection takes one request at a time."""
    peer = serve(echo, max_requests_per_connection=1).connect()
    peer.send(wire.get_values("FCGI_MPXS_CONNS"))
    peer.receive(lambda answers: answers.management)
    assert peer.answers.management == [(GET_VALUES_RESULT, b"\x0f\x01FCGI_MPXS_CONNS0")]


def test_get_values_omits_what_it_does_not_know(serve):
    """4.1: the result holds the known names and omits the others, all of them if need be."""
    peer = serve(echo).connect()
    peer.send(wire.get_values("FCGI_NO_SUCH", "FCGI_MPXS_CONNS", "fcgi_max_conns", "", b"\xff"))
    peer.send(wire.get_values("FCGI_NO_SUCH"))
    peer.send(wire.get_values())
    peer.receive(lambda answers: len(answers.management) == 3)
    contents = [content for _, content in peer.answers.management]
    assert contents == [b"\x0f\x01FCGI_MPXS_CONNS1", b"", b""]


def test_one_result_for_each_query(serve):
    """4.1: each GET_VALUES record has one GET_VALUES_RESULT, also in the midst of requests."""
    peer = serve(echo).connect()
    query = wire.get_values("FCGI_MPXS_CONNS")
    peer.send(query + wire.begin_request(1, keep_conn=True) + query)
    peer.send(wire.params(1, wire.cgi_params("POST")) + query)
    peer.send(wire.stdin(1, b"body") + query + query)
    assert peer.receive_end().body == b"body"
    peer.receive(lambda answers: len(answers.management) == 5)
    peer.assert_silent()
    assert peer.answers.management == [(GET_VALUES_RESULT, b"\x0f\x01FCGI_MPXS_CONNS1")] * 5


# --------------------------------------------------------------------- order of a response


def test_order_of_a_response(serve):
    """3.3, 5.5: STDOUT, the empty record that ends it, END_REQUEST. STDERR that was not used has
    no record."""
    peer = serve(echo).connect()
    peer.request(body=b"body")
    assert [record.type for record in peer.records] == [STDOUT, STDOUT, END_REQUEST]
    assert [bool(record.content) for record in peer.records] == [True, False, True]


def test_order_of_a_response_with_errors(serve):
    """3.3, 5.5: an empty record for each stream that was used, STDERR too, then END_REQUEST."""

    def application(environ, start_response):
        environ["wsgi.errors"].write("noted")
        environ["wsgi.errors"].flush()
        yield from answer(start_response, b"body")
        environ["wsgi.errors"].write("later")

    peer = serve(application).connect()
    assert peer.request().stderr == b"notedlater"
    records = [(record.type, bool(record.content)) for record in peer.records]
    assert records[-1] == (END_REQUEST, True)
    assert sorted(records[-3:-1]) == [(STDOUT, False), (STDERR, False)]
    assert all(full for _, full in records[:-3])
    assert {type for type, _ in records[:-3]} == {STDOUT, STDERR}


def test_stdout_is_ended_also_when_nothing_was_sent(serve):
    """3.3: servers expect the end of STDOUT, so it is there even where no data was."""
    peer = serve(echo).connect()
    peer.send(wire.begin_request(1) + wire.abort(1))
    peer.receive_end()
    assert [(record.type, record.content) for record in peer.records] == [
        (STDOUT, b""),
        (END_REQUEST, bytes(8)),
    ]


# ------------------------------------------------------------------- life of a connection (3.5)


def test_without_keep_conn_the_connection_is_closed(serve):
    """3.5: without KEEP_CONN the application closes the connection after END_REQUEST, in order."""
    served = serve(echo)
    peer = served.connect()
    peer.send(wire.request())
    peer.receive_end()
    assert peer.receive_close()
    peer.close()
    wait_until(lambda: not served.server.channels, "the server to close its end")


def test_with_keep_conn_the_web_server_decides(serve):
    """3.5: with KEEP_CONN the connection stays, and the next request may end it."""
    application = Application()
    served = serve(application)
    peer = served.connect()
    for _ in range(3):
        assert peer.request(keep_conn=True).status == 200
    peer.assert_silent()
    assert not peer.closed and len(served.server.channels) == 1
    assert peer.request(keep_conn=False).closed
    assert len(application.environs) == 4


def test_closed_by_the_web_server(serve):
    """3.5: a kept connection that the web server closes is given back."""
    served = serve(echo)
    peer = served.connect()
    peer.request(keep_conn=True)
    peer.close()
    wait_until(lambda: not served.server.channels, "the server to close its end")


def test_half_closed_web_server_gets_its_answer(serve):
    """3.5: a peer that sends no more may still read."""
    gate = Gate()

    def application(environ, start_response):
        gate.wait()
        return answer(start_response, b"body")

    peer = serve(application).connect()
    peer.send(wire.request(keep_conn=True))
    gate.wait_reached()
    peer.half_close()
    time.sleep(A_WHILE)  # that nothing comes for it cannot be waited for
    gate.open()
    assert peer.receive_end().body == b"body"
    assert peer.receive_close()


def test_response_is_not_lost_when_input_arrives_late(serve):
    """3.5: closing while the peer still sends resets a TCP connection and loses the response:
    stop writing, read what is left, then close."""
    block = bytes(i % 251 for i in range(300_000))

    def application(environ, start_response):
        return answer(start_response, block)

    served = serve(application, tcp=True, linger_timeout=10 * DEADLINE)
    peer = served.connect()
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    # The empty body is known to be that, so nobody waits for the end of STDIN.
    pairs = wire.cgi_params(CONTENT_LENGTH="0")
    peer.send(wire.begin_request(1) + wire.params(1, pairs))
    peer.receive(lambda answers: peer.stdout())
    wait_until(lambda: all(c.connection.should_close for c in served.server.channels), "the end")
    for _ in range(5):
        peer.send_unread(wire.stdin(1, b"late" * 1000))
        time.sleep(0.02)  # for a reset to come back
    response = peer.receive_end()
    assert response.body == block and response.ended
    assert peer.receive_close()


def test_refusal_is_not_lost_when_much_input_follows(serve):
    """3.5: the same for a request that is refused before its body has arrived."""
    peer = serve(echo, tcp=True).connect()
    request = wire.request(1, wire.cgi_params("POST"), b"x" * 4_000_000, role=3)
    peer.send_unread(request)
    assert peer.receive_end().protocol_status == 3
    assert peer.receive_close()


def test_what_is_left_is_read_within_a_limit_of_bytes(serve):
    """3.5: a peer that goes on sending for ever is cut off."""
    served = serve(echo, linger_bytes=100_000, linger_timeout=10 * DEADLINE)
    peer = served.connect()
    peer.request()
    peer.sock.settimeout(DEADLINE)
    with pytest.raises(ConnectionError):
        for _ in range(2000):
            peer.sock.sendall(wire.record(STDIN, 1, b"x" * 65535))
    wait_until(lambda: not served.server.channels, "the connection to be closed")


def test_what_is_left_is_read_within_a_limit_of_time(serve):
    """3.5: a peer that neither sends nor closes is cut off."""
    served = serve(echo, linger_timeout=0.1)
    peer = served.connect()
    peer.request()
    wait_until(lambda: not served.server.channels, "the connection to be closed")


# -------------------------------------------------------------- who may connect (3.2)


@pytest.mark.parametrize(
    ("allowed", "served_all_the_same"),
    [
        ("192.0.2.1", False),
        ("192.0.2.1,192.0.2.2", False),
        ("127.0.0.11", False),
        ("127.0.0.1", True),
        ("192.0.2.1,127.0.0.1", True),
        ("192.0.2.1, 127.0.0.1 ,192.0.2.2", True),
        ("", True),
    ],
)
def test_fcgi_web_server_addrs(serve, monkeypatch, allowed, served_all_the_same):
    """3.2: FCGI_WEB_SERVER_ADDRS is a comma-separated list of the addresses that may connect."""
    monkeypatch.setenv("FCGI_WEB_SERVER_ADDRS", allowed)
    application = Application()
    peer = serve(application, tcp=True).connect()
    peer.send(wire.request())
    response = peer.receive_end()
    assert (response.status == 200) is served_all_the_same
    assert peer.closed or served_all_the_same
    assert len(application.environs) == served_all_the_same


@pytest.mark.skipif(not HAS_UNIX_SOCKETS, reason="needs unix sockets")
def test_fcgi_web_server_addrs_is_not_about_unix_sockets(serve, monkeypatch):
    """3.2: a peer on a unix socket has no address to be compared."""
    monkeypatch.setenv("FCGI_WEB_SERVER_ADDRS", "192.0.2.1")
    assert serve(echo).request().status == 200
