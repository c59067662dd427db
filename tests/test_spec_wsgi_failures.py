"""The rules of CGI and WSGI on top of FastCGI, one test each: responses that go wrong, and close(),
which is called whatever happens (PEP 3333).
"""

import pytest
import wire
from spec_server import Body, Gate, answer, serving, wait_until

TEXT = [("Content-Type", "text/plain")]


@pytest.fixture
def serve(tmp_path):
    with serving(tmp_path) as serve:
        yield serve


def returning(body, headers=TEXT):
    """An application that answers with this iterable."""

    def application(environ, start_response):
        start_response("200 OK", list(headers))
        return body

    return application


# ------------------------------------------------------------------------- Content-Length


def test_longer_than_content_length(serve, caplog):
    """RFC 9110 8.6: a response is cut at its Content-Length, and that is logged."""
    body = Body(b"1234", b"567", b"89", b"0")
    served = serve(returning(body, headers=[("Content-Length", "6")]))
    response = served.request()
    assert (response.body, response.ended) == (b"123456", True)
    assert body.closed == 1
    assert "longer than its Content-Length" in caplog.text


def test_shorter_than_content_length(serve, caplog):
    """RFC 9110 8.6: one that falls short must not look complete: no END_REQUEST, the connection
    is closed, and that is logged."""
    served = serve(returning([b"1234", b"5"], headers=[("Content-Length", "6")]))
    peer = served.connect()
    response = peer.request(keep_conn=True)
    assert (response.body, response.ended, response.closed) == (b"12345", False, True)
    assert [record.type for record in peer.records if not record.content] == []
    assert "shorter than its Content-Length" in caplog.text


# ------------------------------------------------------------------------------ exceptions


@pytest.mark.parametrize("error", [RuntimeError("secret"), SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("when", ["called", "first block", "after an empty block"])
def test_exception_before_the_header(serve, caplog, error, when):
    """PEP 3333: an exception before the header went out is a 500, without a traceback in it; that
    is in the log and on STDERR. The server goes on."""

    def application(environ, start_response):
        if environ["PATH_INFO"] == "/well":
            return answer(start_response)
        start_response("200 OK", [("X-A", "1")])
        if when == "called":
            raise error
        return Body(error) if when == "first block" else Body(b"", error, b"never")

    peer = serve(application).connect()
    response = peer.request(keep_conn=True)
    assert (response.status, response.header("X-A"), response.ended) == (500, None, True)
    assert b"Traceback" not in response.body and b"secret" not in response.body
    assert response.stderr.startswith(b"Traceback")
    assert type(error).__name__.encode() in response.stderr
    assert any(record.exc_info for record in caplog.records)
    assert peer.request(wire.cgi_params(path="/well"), keep_conn=True).status == 200


@pytest.mark.parametrize("entry", ["SCRIPT_NAME", "PATH_INFO", "REQUEST_METHOD"])
@pytest.mark.parametrize("value", [None, b"/x", 5])
def test_exception_when_the_environ_has_been_changed(serve, entry, value):
    """PEP 3333 lets the application change its environ as it likes: the line in the log that tells
    of its exception must not be one more."""

    def application(environ, start_response):
        environ[entry] = value
        raise RuntimeError

    response = serve(application).request()
    assert (response.status, response.ended) == (500, True)


@pytest.mark.parametrize("error", [RuntimeError("secret"), SystemExit(3)])
def test_exception_after_the_header(serve, error):
    """PEP 3333: an exception after the header went out: the response must not look complete: it
    ends without the rest, by a close without END_REQUEST; other requests of the connection end
    first."""
    gate = Gate()
    body = Body(b"first", error, b"never")

    def application(environ, start_response):
        if environ["PATH_INFO"] == "/other":
            gate.wait()
            return answer(start_response, b"other")
        start_response("200 OK", TEXT)
        return body

    peer = serve(application).connect()
    peer.send(wire.request(2, wire.cgi_params(path="/other"), keep_conn=True))
    gate.wait_reached()
    peer.send(wire.request(1, keep_conn=True))
    wait_until(lambda: body.closed, "the exception")
    peer.sync()
    gate.open()
    assert peer.receive_end(2).body == b"other"
    peer.receive_close()
    response = peer.response(1)
    assert (response.status, response.body, response.ended) == (200, b"first", False)
    assert response.stderr.startswith(b"Traceback")


# ---------------------------------------------------------------------------------- close()

OUTCOMES = {
    "whole": (Body, (b"a", b"b"), "GET"),
    "empty": (Body, (), "GET"),
    "one block": (Body, (b"a",), "GET"),
    "HEAD": (Body, (b"a", b"b"), "HEAD"),
    "too long": (Body, (b"a" * 9, b"b"), "GET"),
    "fails at once": (Body, (RuntimeError("on purpose"),), "GET"),
    "fails late": (Body, (b"a", RuntimeError("on purpose")), "GET"),
    "exits": (Body, (b"a", SystemExit(1)), "GET"),
    "no bytes": (Body, (b"a", 1), "GET"),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("header", [(), (("Content-Length", "3"),)], ids=["", "Content-Length"])
def test_close_is_called_once(serve, outcome, header):
    """PEP 3333: close() of the iterable is called, and once, whatever happens."""
    kind, parts, method = OUTCOMES[outcome]
    body = kind(*parts)
    peer = serve(returning(body, headers=header)).connect()
    peer.send(wire.request(1, wire.cgi_params(method)))
    peer.receive_close()
    assert body.closed == 1


def test_close_is_called_without_start_response(serve):
    """PEP 3333: also when the application forgot start_response."""
    body = Body(b"a")
    assert serve(lambda environ, start_response: body).request().status == 500
    assert body.closed == 1


def test_close_is_called_when_the_client_is_gone(serve):
    """PEP 3333: also when nobody takes the response any more; an endless one ends then."""

    def forever():
        return b"x" * 65536

    body = Body(*[forever] * 100_000)
    peer = serve(returning(body)).connect()
    peer.send(wire.request())
    peer.receive(lambda answers: peer.stdout())
    peer.close()
    wait_until(lambda: body.closed == 1, "close() of the response")
    assert body.asked < 100_000


def test_close_that_fails(serve, caplog):
    """PEP 3333: close() comes after the last block, so its failure spoils nothing of the
    response."""

    class Failing(Body):
        def close(self):
            super().close()
            raise RuntimeError("close() failed")

    body = Failing(b"bo", b"dy")
    response = serve(returning(body)).request()
    assert (response.body, response.ended, body.closed) == (b"body", True, 1)
    assert "close() failed" in caplog.text
