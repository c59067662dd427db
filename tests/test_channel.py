"""One accepted connection: receiving, starting requests, sending (its end: test_channel_end)."""

import contextlib
import socket
import sys

import pytest
import wire
from helpers import blocked
from wired import ANSWER, Wired, answer, get, post

from fastfcgi.constants import DATA, FILTER, GET_VALUES_RESULT, RESPONDER, UNKNOWN_ROLE
from fastfcgi.engine import READ, WRITE

KIB = 1024


@pytest.fixture
def wired():
    """Makes channels with the web server's end (see helpers.Wired)."""
    with contextlib.ExitStack() as stack:

        def make(**options):
            made = Wired(**options)
            stack.callback(made.close)
            return made

        yield make


# ------------------------------------------------------------------------ starting requests


def test_a_request_is_started_when_it_is_complete(wired):
    web = wired()
    data = get()
    for i in range(len(data)):
        assert web.requests == []
        web.deliver(data[i : i + 1])
    assert [request.request_id for request in web.requests] == [1]
    assert web.requests[0].params["REQUEST_METHOD"] == "GET"


def test_a_request_whose_body_is_on_its_way_is_not_started(wired):
    web = wired()
    web.deliver(post(body=b"abc", end=False))
    assert web.requests == []
    web.deliver(wire.stdin(1, b"def"))
    assert len(web.requests) == 1


def test_a_request_is_started_when_content_length_bytes_came(wired):
    """End of STDIN never comes from some web servers."""
    web = wired()
    web.deliver(post(body=b"abc", length=4, end=False))
    assert web.requests == []
    web.deliver(wire.stdin(1, b"d", end=False))
    assert len(web.requests) == 1


def test_a_request_is_started_when_enough_of_its_body_is_there(wired):
    web = wired(body_start=100)
    web.deliver(post(body=b"x" * 99, end=False))
    assert web.requests == []
    web.deliver(wire.stdin(1, b"x", end=False))
    assert len(web.requests) == 1


def test_a_request_is_started_once(wired):
    web = wired(body_start=1)
    web.deliver(post(body=b"x", end=False))
    for _ in range(3):
        web.deliver(wire.stdin(1, b"x", end=False))
    web.deliver(wire.stdin(1))
    assert len(web.requests) == 1


def test_requests_of_one_connection_are_started_side_by_side(wired):
    web = wired()
    web.deliver(get(1), get(7), get(3))
    assert [request.request_id for request in web.requests] == [1, 7, 3]
    answer(web.requests[1], b"seven")
    answer(web.requests[0], b"one")
    assert web.response(7) == (b"seven", True)
    assert web.response(1) == (b"one", True)
    assert web.response(3) == (b"", False)


def test_without_room_the_answer_is_503(wired, caplog):
    web = wired(threads=1, queue_size=2)
    web.deliver(get(1), get(2), get(3), get(4))
    stdout, ended = web.response(4)
    assert stdout.startswith(b"Status: 503 ") and ended
    assert "queue_size=2" in caplog.text
    assert [request.request_id for request in web.requests] == [1, 2, 3]
    web.deliver(get(5))
    assert [request.request_id for request in web.requests] == [1, 2, 3, 5]


def test_without_room_nothing_of_the_request_stays(wired):
    web = wired(threads=0)
    web.deliver(get())
    assert web.response()[1] and web.channel.idle
    web.half_close()
    assert web.closed


def test_without_room_the_answer_comes_after_the_body(wired):
    """Web servers stall or fail over an answer that comes while they send."""
    web = wired(threads=0, body_start=1, max_unread_stdin=100 * KIB)
    web.deliver(post(body=b"x", end=False))
    web.deliver(wire.stdin(1, b"x" * 300 * KIB, end=False), get(2))
    assert web.response(2)[0].startswith(b"Status: 503 ")
    assert web.mask == READ
    web.deliver(wire.stdin(1))
    assert web.response()[0].startswith(b"Status: 503 ")


def test_management_records_need_no_application(wired):
    web = wired(values={"FCGI_MPXS_CONNS": "1"})
    web.deliver(wire.get_values("FCGI_MPXS_CONNS", "OTHER"))
    assert web.read().management == [(GET_VALUES_RESULT, b"\x0f\x01FCGI_MPXS_CONNS1")]
    assert web.requests == [] and web.mask == READ


def test_a_role_that_is_not_served(wired):
    web = wired()
    web.deliver(wire.request(1, keep_conn=True, role=FILTER, data=b"x"))
    assert web.read()[1].protocol_status == UNKNOWN_ROLE
    web.deliver(get(1))
    assert len(web.requests) == 1


# ----------------------------------------------------------------------- the end of a request


def test_a_kept_connection_serves_one_request_after_another(wired):
    web = wired()
    for i in range(5):
        web.deliver(get())
        answer(web.requests[i], b"%d" % i)
        assert web.response() == (b"%d" % i, True)
        web.answers.outputs.clear()
        assert web.mask == READ and web.channel.idle
    assert not web.saw_end


def test_a_connection_that_is_not_kept_is_closed_after_the_response(wired):
    """By us at once where nothing can be lost by that, as through a unix socket."""
    web = wired()
    web.deliver(get(keep_conn=False))
    answer(web.requests[0])
    assert web.closed and web.channel.fd == -1
    assert web.response() == (ANSWER, True)
    assert web.saw_end


def test_a_tcp_connection_is_closed_by_the_peer_first(wired):
    web = wired(is_inet=True)
    web.deliver(get(keep_conn=False))
    answer(web.requests[0])
    assert web.response() == (ANSWER, True)
    assert web.saw_end
    assert not web.closed
    web.hang_up()
    assert web.closed


def test_a_unix_connection_is_closed_by_the_peer_first_while_it_may_send(wired):
    """The end of a body known by its length is not waited for."""
    web = wired()
    web.deliver(post(body=b"body", length=4, end=False, keep_conn=False))
    answer(web.requests[0])
    assert web.response() == (ANSWER, True)
    assert web.saw_end and not web.closed
    web.deliver(wire.stdin(1))
    web.hang_up()
    assert web.closed


def test_before_closing_what_the_peer_still_sends_is_taken_in(wired):
    """Closing with unread bytes would reset the connection (spec 3.5)."""
    web = wired(is_inet=True)
    web.deliver(get(keep_conn=False))
    answer(web.requests[0])
    assert web.mask == READ
    web.deliver(b"\0" * 300 * KIB)
    assert web.response() == (ANSWER, True)
    web.half_close()
    assert web.closed


def test_no_more_than_linger_bytes_are_taken_in(wired):
    web = wired(is_inet=True, linger_bytes=100 * KIB)
    web.deliver(get(keep_conn=False))
    answer(web.requests[0])
    web.deliver(b"\0" * 90 * KIB)
    assert not web.closed
    with contextlib.suppress(ConnectionError):
        web.deliver(b"\0" * 90 * KIB)
    assert web.closed


@pytest.mark.skipif(sys.platform != "linux", reason="a pair of SOCK_SEQPACKET is Linux's")
def test_a_response_leaves_in_one_write(wired):
    web = wired(kind=socket.SOCK_SEQPACKET)
    web.deliver(get())
    web.requests[0].write(ANSWER, b"more", last=True)
    assert web.read().outputs == {}
    web.requests[0].end()
    web.answers.feed(web.sock.recv(1 << 16))
    output = web.answers[1]
    assert (bytes(output.stdout), output.ended) == (ANSWER + b"more", True)


# --------------------------------------------------------------------------------- sending


def test_what_the_socket_does_not_take_is_sent_later(wired):
    web = wired(max_unsent=64 * KIB * KIB)
    blocks = [bytes([i]) * (i * 201 + 1) for i in range(200)]
    web.deliver(get())
    for block in blocks:
        web.requests[0].write(None, block)
    web.requests[0].end()
    assert web.channel.unsent and web.mask & WRITE
    assert web.read_all()[1].stdout == b"".join(blocks)
    assert web.read()[1].ended
    assert web.mask == READ and not web.channel.unsent


def test_an_application_waits_for_a_web_server_that_takes_nothing(wired):
    web = wired(max_unsent=KIB)
    web.deliver(get())
    (request,) = web.requests
    block = b"x" * 4 * KIB * KIB
    with blocked(request.write, None, block) as write:
        assert write.waiting()
        web.read_all()
        write.result()
    request.end()
    assert web.read_all()[1].stdout == block


def test_nothing_is_received_while_too_much_waits_to_be_sent(wired):
    """Else a peer that only asks and never reads would fill the memory."""
    web = wired(max_unsent=KIB)
    web.deliver(get(1), get(2))
    with blocked(web.requests[0].write, None, b"x" * 4 * KIB * KIB) as write:
        assert write.waiting()
        assert web.mask == WRITE
        web.read_all()
        write.result()
    assert web.mask == READ


# --------------------------------------------------------------- what one body may hold back


def test_a_body_that_nobody_reads_stops_the_receiving(wired):
    web = wired(max_unread_stdin=100 * KIB)
    web.deliver(post(body=b"x" * 400 * KIB, end=False))
    assert web.mask == 0
    assert web.requests[0].stdin_body.in_memory < 300 * KIB


def test_reading_goes_on_when_the_application_reads(wired):
    web = wired(max_unread_stdin=100 * KIB)
    body = bytes(range(256)) * 2000
    web.deliver(post(end=False))
    data = memoryview(wire.stdin(1, body))
    stream, got = None, b""
    while data:
        web.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            data = data[web.sock.send(data[:50_000]) :]
        while web.ready(0):
            pass
        if web.requests:
            stream = stream or web.requests[0].input_stream()
            got += stream.read1(100_000)
    while web.ready(0.05):
        pass
    assert got + stream.read() == body


def test_a_body_that_nobody_reads_does_not_stop_other_requests(wired):
    web = wired(max_unread_stdin=100 * KIB)
    web.deliver(post(1, b"a" * 90 * KIB, end=False), get(2))
    web.deliver(wire.stdin(1, b"b" * 900 * KIB), get(3))
    assert {request.request_id for request in web.requests} == {1, 2, 3}
    reader = next(r for r in web.requests if r.request_id == 1).input_stream()
    assert reader.read() == b"a" * 90 * KIB + b"b" * 900 * KIB


def test_a_body_that_nobody_reads_does_not_stop_later_requests(wired):
    """On a connection that the web server is known to multiplex; elsewhere it just waits."""
    web = wired(max_unread_stdin=100 * KIB)
    web.deliver(post(1, b"a" * 900 * KIB, end=False))
    assert web.mask == 0
    web = wired(max_unread_stdin=100 * KIB)
    web.deliver(get(1), get(2))
    for request in list(web.requests):
        answer(request)
    web.deliver(post(3, b"a" * 900 * KIB, end=False))
    assert web.mask == READ
    web.deliver(get(4))
    assert web.requests[-1].request_id == 4


def test_a_whole_body_that_nobody_reads_does_not_stop_other_requests(wired):
    """It waits for a thread, say, and others of the connection could get one."""
    web = wired(max_unread_stdin=100 * KIB, roles=(RESPONDER,))
    web.deliver(wire.begin_request(2, RESPONDER, True))
    web.deliver(post(1, b"x" * 100 * KIB))
    assert len(web.requests) == 1
    web.deliver(wire.params(2, wire.cgi_params()), wire.stdin(2))
    assert len(web.requests) == 2


def test_whole_bodies_that_nobody_reads_do_not_stop_other_requests(wired):
    """Not even beyond max_unread_total: they go on to their files. Each comes in one part, so that
    it is whole when that is looked at."""
    web = wired(max_unread_stdin=100 * KIB, max_unread_total=150 * KIB)
    for number in (1, 2, 3):
        web.deliver(post(number, bytes([number]) * 60 * KIB))
    assert web.mask == READ
    web.deliver(get(4))
    assert len(web.requests) == 4
    for request in web.requests[:3]:
        assert request.input_stream().read() == bytes([request.request_id]) * 60 * KIB


def test_receiving_goes_on_when_a_request_ends_with_its_body_unread(wired):
    web = wired(max_unread_stdin=100 * KIB, roles=(FILTER,))
    web.deliver(
        wire.begin_request(1, FILTER, True),
        wire.params(1, wire.cgi_params()),
        wire.stdin(1),
        wire.stream(DATA, 1, b"x" * 300 * KIB, end=False),
    )
    assert web.mask == 0
    answer(web.requests[0])
    assert web.mask == READ
