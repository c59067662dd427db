"""The rules of FastCGI 1.0, one test each: requests side by side on one connection (section 3),
ABORT_REQUEST (5.4) and the three roles (6).
"""

import threading

import pytest
import wire
from spec_server import (
    DEADLINE,
    MIB,
    Application,
    Body,
    Gate,
    answer,
    echo,
    serving,
    wait_until,
)

from fastfcgi import WSGIServer
from fastfcgi.exceptions import RequestAborted

RESPONDER, AUTHORIZER, FILTER = 1, 2, 3


@pytest.fixture
def serve(tmp_path):
    with serving(tmp_path) as serve:
        yield serve


# --------------------------------------------------------------- side by side (3.3, 5.1)


def test_32_requests_at_once(serve):
    """3.3: requests of one connection run at the same time: 32 that wait for each other take the
    time of one."""
    together = threading.Barrier(32)

    def application(environ, start_response):
        together.wait(DEADLINE)
        return answer(start_response, environ["N"].encode())

    peer = serve(application).connect()
    for id in range(1, 33):
        peer.send(wire.request(id, wire.cgi_params(N=str(id)), keep_conn=True))
    for id in range(1, 33):
        assert peer.receive_end(id).body == str(id).encode()


def test_answers_interleave(serve):
    """3.3: answers are sent as they come, record by record, whoever was first."""
    gates = {"1": (Gate(), Gate()), "2": (Gate(), Gate())}

    def application(environ, start_response):
        start_response("200 OK", [])
        for gate in gates[environ["N"]]:
            yield environ["N"].encode()
            gate.wait()

    peer = serve(application).connect()
    for id in (1, 2):
        peer.send(wire.request(id, wire.cgi_params(N=str(id)), keep_conn=True))
        gates[str(id)][0].wait_reached()
    peer.receive_stdout(b"\r\n\r\n1", 1)
    peer.receive_stdout(b"\r\n\r\n2", 2)
    for id in (2, 1):
        gates[str(id)][0].open()
        peer.receive_stdout(b"\r\n\r\n" + b"%d" % id * 2, id)
    gates["2"][1].open()
    assert peer.receive_end(2).body == b"22"
    assert not peer.ended(1)
    gates["1"][1].open()
    assert peer.receive_end(1).body == b"11"


def test_the_connection_is_not_closed_under_other_requests(serve):
    """3.5: a request without KEEP_CONN closes the connection when it ends, but not before the
    others on it have ended."""
    gate = Gate()

    def application(environ, start_response):
        if environ["N"] == "slow":
            gate.wait()
        return answer(start_response, environ["N"].encode())

    peer = serve(application).connect()
    peer.send(wire.request(1, wire.cgi_params(N="slow"), keep_conn=True))
    gate.wait_reached()
    peer.send(wire.request(2, wire.cgi_params(N="quick"), keep_conn=False))
    assert peer.receive_end(2).body == b"quick"
    gate.open()
    assert peer.receive_end(1).body == b"slow"
    assert peer.receive_close()


def test_a_body_that_nobody_reads_does_not_stop_other_requests(serve):
    """3.3: one state per id: a request whose body is not read holds up no other one."""
    gate = Gate()

    def application(environ, start_response):
        if environ["N"] == "slow":
            gate.wait()
        return answer(start_response, environ["wsgi.input"].read())

    body = b"x" * (3 * MIB)
    peer = serve(application).connect()
    peer.send(wire.begin_request(1, keep_conn=True) + wire.params(1, wire.cgi_params(N="slow")))
    peer.send(wire.begin_request(2, keep_conn=True) + wire.params(2, wire.cgi_params(N="quick")))
    peer.send(wire.stdin(1, body, end=False))
    gate.wait_reached()
    peer.send(wire.stdin(2, b"quick"))
    assert peer.receive_end(2).body == b"quick"
    gate.open()
    peer.send(wire.stdin(1))
    assert peer.receive_end(1).body == body


# ------------------------------------------------------------------------ ABORT_REQUEST (5.4)


class Exiting(WSGIServer):
    """Its applications end with 7."""

    def handler(self, req):
        super().handler(req)
        return 0, 7


def test_abort_within_params(serve):
    """5.4: aborted before PARAMS are complete: END_REQUEST at once, nothing is started."""
    application = Application()
    peer = serve(application).connect()
    peer.send(wire.begin_request(1, keep_conn=True) + wire.params(1, {"A": "1"}, end=False))
    peer.send(wire.abort(1))
    response = peer.receive_end()
    assert response.protocol_status == 0 and response.status is None
    peer.send(wire.params(1, {"LATE": "1"}) + wire.stdin(1))
    assert peer.request(keep_conn=True).status == 200
    assert len(application.environs) == 1


def test_abort_right_after_begin_request(serve):
    """5.4: aborted before anything of it came, as HAProxy does for "OPTIONS *"."""
    application = Application()
    peer = serve(application).connect()
    peer.send(wire.begin_request(1) + wire.abort(1))
    assert peer.receive_end().protocol_status == 0
    assert peer.receive_close() and not application.environs


def test_abort_within_stdin(serve):
    """5.4: aborted before the body is there: END_REQUEST at once, nothing is started."""
    application = Application()
    peer = serve(application).connect()
    peer.send(wire.begin_request(1, keep_conn=True) + wire.params(1, wire.cgi_params("POST")))
    peer.send(wire.stdin(1, b"part", end=False) + wire.abort(1))
    assert peer.receive_end().protocol_status == 0
    peer.send(wire.stdin(1))
    assert peer.request(body=b"new", keep_conn=True).status == 200
    assert application.bodies == [b"new"]


def test_abort_while_the_application_reads(serve):
    """5.4: an application that waits for its body is told, and END_REQUEST follows; app_status
    is the application's."""
    raised = []
    gate = Gate()
    gate.open()

    def application(environ, start_response):
        try:
            environ["wsgi.input"].read(10)
            gate.wait()
            environ["wsgi.input"].read()
        except OSError as error:
            raised.append(error)
            raise

    peer = serve(application, body_start=10, kind=Exiting).connect()
    peer.send(wire.begin_request(1, keep_conn=True) + wire.params(1, wire.cgi_params("POST")))
    peer.send(wire.stdin(1, b"0123456789", end=False))
    gate.wait_reached()
    peer.send(wire.abort(1))
    response = peer.receive_end()
    assert (response.app_status, response.protocol_status) == (7, 0)
    assert response.status is None  # nobody is there to be told of an error
    [error] = raised
    assert isinstance(error, (RequestAborted, ConnectionError))
    peer.sync()  # the connection is as good as new


def test_abort_while_the_application_answers(serve):
    """5.4: an application that goes on answering is stopped at its next block, closed, and
    END_REQUEST sent as soon as that is done."""
    gate = Gate()
    body = Body(b"first", lambda: gate.wait() or b"second", b"third", b"fourth")

    def application(environ, start_response):
        start_response("200 OK", [])
        return body

    peer = serve(application, kind=Exiting).connect()
    peer.send(wire.request(keep_conn=True))
    peer.receive_stdout(b"first")
    gate.wait_reached()
    peer.send(wire.abort(1))
    peer.sync()
    gate.open()
    response = peer.receive_end()
    assert response.body == b"first"
    assert (response.app_status, response.protocol_status) == (7, 0)
    assert body.closed == 1 and body.asked == 2
    peer.sync()


def test_abort_while_the_application_neither_reads_nor_answers(serve):
    """5.4: END_REQUEST comes when the application has ended, and nothing of its answer before."""
    gate = Gate()

    def application(environ, start_response):
        gate.wait()
        return answer(start_response)

    peer = serve(application).connect()
    peer.send(wire.request(keep_conn=True))
    gate.wait_reached()
    peer.send(wire.abort(1))
    peer.sync()
    gate.open()
    assert peer.receive_end().status is None
    assert [record.type for record in peer.records] == [10, 6, 3]


def test_abort_while_the_request_waits_for_a_thread(serve):
    """5.4: a request that is aborted before its application was called is not started any more."""
    gate = Gate()
    called = []

    def application(environ, start_response):
        called.append(environ["N"])
        if environ["N"] == "first":
            gate.wait()
        return answer(start_response)

    peer = serve(application, threads=1).connect()
    peer.send(wire.request(1, wire.cgi_params(N="first"), keep_conn=True))
    gate.wait_reached()
    peer.send(wire.request(2, wire.cgi_params(N="second"), keep_conn=True))
    peer.sync()
    peer.send(wire.abort(2))
    peer.sync()
    gate.open()
    assert peer.receive_end(1).status == 200
    assert peer.receive_end(2).status is None
    assert called == ["first"]


def test_abort_touches_no_other_request(serve):
    """5.4: ABORT_REQUEST is about one id."""
    gate = Gate()

    def application(environ, start_response):
        gate.wait()
        return answer(start_response, environ["N"].encode())

    peer = serve(application).connect()
    for id in (1, 2):
        peer.send(wire.request(id, wire.cgi_params(N=str(id)), keep_conn=True))
    peer.send(wire.begin_request(3, keep_conn=True) + wire.abort(3) + wire.abort(1))
    peer.sync()
    gate.open()
    assert peer.receive_end(2).body == b"2"
    assert peer.receive_end(1).status is None and peer.receive_end(3).status is None


def test_abort_after_the_end(serve):
    """5.4, 3.3: an ABORT_REQUEST that comes after END_REQUEST is for an inactive id: ignored."""
    peer = serve(echo).connect()
    peer.request(keep_conn=True)
    peer.send(wire.abort(1))
    assert peer.request(body=b"next", keep_conn=True).body == b"next"
    peer.sync()
    assert [record.type for record in peer.records].count(3) == 2


# ----------------------------------------------------------------------------- roles (6)

# What a web server does not send to an authorizer.
NOT_FOR_AUTHORIZERS = dict.fromkeys(
    ("CONTENT_LENGTH", "PATH_INFO", "PATH_TRANSLATED", "SCRIPT_NAME"), None
)


def authorizer_request(peer, stdin=b"", **more):
    pairs = wire.cgi_params(**NOT_FOR_AUTHORIZERS, **more)
    peer.send(wire.begin_request(1, AUTHORIZER) + wire.params(1, pairs) + stdin)
    return peer.receive_end()


def test_responder(serve):
    """6.2: PARAMS and STDIN come, STDOUT goes."""
    assert serve(echo, roles=(RESPONDER,)).request(body=b"body").body == b"body"


@pytest.mark.parametrize("stdin", [b"", wire.record(5, 1)], ids=["without STDIN", "with its end"])
def test_authorizer_lets_a_request_through(serve, stdin):
    """6.3: a 200 answer lets the request through; "Variable-Name: value" become variables. It
    needs no STDIN, nor CONTENT_LENGTH, PATH_INFO, PATH_TRANSLATED, SCRIPT_NAME."""
    seen = []

    def application(environ, start_response):
        seen.append((environ["REMOTE_USER"], environ["SCRIPT_NAME"], environ["wsgi.input"].read()))
        return answer(start_response, b"", headers=[("Variable-AUTH", "yes"), ("Variable-B", "b")])

    peer = serve(application, roles=(AUTHORIZER, RESPONDER)).connect()
    response = authorizer_request(peer, stdin, REMOTE_USER="somebody")
    assert response.status == 200 and response.ended
    variables = [pair for pair in response.headers if pair[0].startswith("Variable-")]
    assert variables == [("Variable-AUTH", "yes"), ("Variable-B", "b")]
    assert seen == [("somebody", "", b"")]


def test_authorizer_refuses_a_request(serve):
    """6.3: anything but 200 is what the client gets."""

    def application(environ, start_response):
        return answer(start_response, b"no", "403 Forbidden", [("X-Reason", "none")])

    peer = serve(application, roles=(AUTHORIZER,)).connect()
    response = authorizer_request(peer)
    assert (response.status, response.body, response.header("X-Reason")) == (403, b"no", "none")


FILTER_PARAMS = wire.cgi_params(FCGI_DATA_LENGTH="9", FCGI_DATA_LAST_MOD="1700000000")


def test_filter(serve):
    """6.4: STDIN, then DATA, with FCGI_DATA_LENGTH and FCGI_DATA_LAST_MOD; the application finds
    DATA in fastfcgi.data."""
    seen = []

    def application(environ, start_response):
        seen.append((environ["FCGI_DATA_LENGTH"], environ["FCGI_DATA_LAST_MOD"]))
        data = environ["fastfcgi.data"]
        return answer(start_response, environ["wsgi.input"].read() + data.read(4) + data.read())

    served = serve(application, roles=(FILTER,))
    response = served.request(FILTER_PARAMS, b"stdin ", role=FILTER, data=b"some data")
    assert response.body == b"stdin some data"
    assert seen == [("9", "1700000000")]


def test_only_a_filter_has_data(serve):
    """6.2, 6.4: DATA is a filter's."""
    application = Application()
    serve(application, roles=(RESPONDER, FILTER)).request()
    assert "fastfcgi.data" not in application.environ


def test_filter_reads_data_as_it_arrives(serve):
    """6.4: DATA is a stream; what is there can be read before the rest has come."""
    gate = Gate()

    def application(environ, start_response):
        data = environ["fastfcgi.data"]
        first = data.read(4)
        gate.wait()
        return answer(start_response, first + data.read())

    peer = serve(application, roles=(FILTER,)).connect()
    peer.send(wire.begin_request(1, FILTER) + wire.params(1, FILTER_PARAMS) + wire.stdin(1))
    peer.send(wire.data_stream(1, b"some", end=False))
    gate.wait_reached()
    gate.open()
    peer.send(wire.data_stream(1, b" data"))
    assert peer.receive_end().body == b"some data"


def test_filter_decides_before_it_has_read_all(serve):
    """6.4: the application may decide before it has read all, as when FCGI_DATA_LAST_MOD says that
    nothing changed: DATA that is still on its way is neither waited for nor in the way."""

    def application(environ, start_response):
        return answer(start_response, b"", "304 Not Modified")

    peer = serve(application, roles=(FILTER,)).connect()
    for _ in range(2):
        peer.answers.outputs.clear()
        peer.send(wire.begin_request(1, FILTER, keep_conn=True) + wire.params(1, FILTER_PARAMS))
        peer.send(wire.stdin(1, b"stdin") + wire.data_stream(1, b"x", end=False))
        assert peer.receive_end().status == 304
        peer.send(wire.data_stream(1, b"x" * (3 * MIB)))
    peer.sync()


def test_filter_that_does_not_read_its_data(serve):
    """6.4: DATA that came and that nobody read is no part of the next request."""
    served = serve(lambda environ, start: answer(start), roles=(FILTER,))
    peer = served.connect()
    for _ in range(3):
        response = peer.request(FILTER_PARAMS, role=FILTER, data=b"x" * (3 * MIB), keep_conn=True)
        assert response.status == 200


def test_connection_that_is_lost_is_an_abort(serve):
    """5.4: most web servers close the connection in the place of ABORT_REQUEST: the application
    is stopped and closed, and nothing of it is kept."""
    gate = Gate()
    body = Body(b"first", lambda: gate.wait() or b"second", b"third")

    def application(environ, start_response):
        start_response("200 OK", [])
        return body

    served = serve(application)
    peer = served.connect()
    peer.send(wire.request(keep_conn=True))
    peer.receive_stdout(b"first")
    gate.wait_reached()
    peer.close()
    wait_until(lambda: not served.server.channels, "the descriptor to be freed")
    gate.open()
    wait_until(lambda: body.closed == 1, "close() of the response")
    assert body.asked == 2
