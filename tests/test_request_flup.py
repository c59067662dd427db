"""The names under which flup's users know a request."""

import contextlib

import pytest
import wire
from wired import Wired, get, post

from fastfcgi.constants import RESPONDER


@pytest.fixture
def wired():
    with contextlib.ExitStack() as stack:

        def make(**options):
            made = Wired(**options)
            stack.callback(made.close)
            return made

        yield make


def test_what_flups_error_pages_and_handlers_use(wired):
    web = wired()
    web.deliver(post(7, b"body"))
    (request,) = web.requests
    assert request.requestId == 7
    assert request.flags == 1
    assert request.role == RESPONDER
    assert request.server is web.server
    assert request.aborted is False
    assert request.params["REQUEST_METHOD"] == "POST"
    assert request.stdin.read() == b"body"
    request.stdout.write("Status: 500 caf\xe9\r\n")
    request.stdout.writelines([b"\r\n", "page"])
    request.stdout.write(b"")
    request.stdout.flush()
    request.stderr.write("line\n")
    request.end()
    assert web.response(7) == (b"Status: 500 caf\xe9\r\n\r\npage", True)
    assert web.answers[7].stderr == b"line\n"


def test_flags_without_keep_conn(wired):
    web = wired()
    web.deliver(get(keep_conn=False))
    assert web.requests[0].flags == 0


def test_stdin_is_the_applications_stream_once_it_runs(wired):
    web = wired()
    web.deliver(post(body=b"body"))
    (request,) = web.requests
    stream = request.params["wsgi.input"] = request.input_stream()
    assert stream.read(2) == b"bo"
    assert request.stdin.read() == b"dy"


@pytest.mark.parametrize("size", [40, 200_000])
def test_stdin_is_one_stream_however_often_it_is_asked_for(wired, size):
    """A handler() has no environ's wsgi.input: flup's name is all that it has."""
    web = wired(body_start=1)
    body = bytes(i % 251 for i in range(size))
    web.deliver(post(body=body, end=size < 100))
    (request,) = web.requests
    assert request.stdin.read(5) == body[:5]
    assert request.stdin.read(10) == body[5:15]
    assert request.input_stream().read(20) == body[15:35]
    web.deliver(b"" if size < 100 else wire.stdin(1))
    assert request.stdin.read() == body[35:]
