"""The bodies of requests in a loop of one's own: how much is taken in, and where it is."""

import errno
import io
import os
import select
import socket

import pytest

if not hasattr(socket, "AF_UNIX") or not hasattr(select, "poll"):
    pytest.skip("flup runs on POSIX alone", allow_module_level=True)

import wire
from flup_loops import Composed, OwnLoop
from helpers import wait_until

from fastfcgi.flup.server.fcgi_base import FCGI_STDIN


def told(environ, start_response):
    """What reading a body gives, in pieces and until it fails."""
    stream, received, error = environ["wsgi.input"], 0, ""
    try:
        while block := stream.read(1000):
            received += len(block)
    except OSError as failure:
        error = f"{errno.errorcode[failure.errno]}: {failure.strerror}"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{received} {error}".encode()]


@pytest.mark.parametrize(
    ("memory", "file", "size", "expected"),
    [
        (500, 2000, 2000, "2000 "),
        (500, 2000, 2001, "2000 EFBIG: more than max_body_file=2000 bytes"),
        (500, 2000, 300_000, "2000 EFBIG: more than max_body_file=2000 bytes"),
        # what fits into memory is in no file
        (5000, 2000, 5000, "5000 "),
        (5000, 2000, 5001, "5000 EFBIG: more than max_body_file=2000 bytes"),
    ],
)
def test_own_loop_and_a_body_that_is_too_large(memory, file, size, expected):
    """Reading fails there, as under fastfcgi's loop, and the connection serves on."""
    options = {"max_body_memory": memory, "max_body_file": file}
    with Composed(OwnLoop, application=told, **options) as web, web.peer() as kept:
        for body, answer in ((bytes(size), expected), (b"short", "5 ")):
            params = wire.cgi_params("POST", CONTENT_LENGTH=str(len(body)))
            response = kept.request(params, body, keep_conn=True)
            assert (response.ended, response.closed) == (True, False)
            assert response.body.decode() == answer


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc")
@pytest.mark.parametrize("end", ["answered", "hung up", "aborted"])
def test_own_loop_closes_the_files_of_bodies(end):
    """What is open afterwards is what was open before, however the request ended."""

    def files():
        links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
        return [os.readlink(link) for link in links if os.path.lexists(link)]

    def bodies():
        return [link for link in files() if "(deleted)" in link]

    before, seen = bodies(), []

    def app(environ, start_response):
        seen.append(len(bodies()))
        return told(environ, start_response)

    with Composed(OwnLoop, application=app, max_body_memory=10) as web:
        with web.peer() as peer:
            params = wire.cgi_params("POST", CONTENT_LENGTH="3000")
            if end == "answered":
                assert peer.request(params, bytes(3000)).body == b"3000 "
                assert seen == [len(before) + 1]
            else:
                peer.send(wire.begin_request(1, keep_conn=True) + wire.params(1, params))
                peer.send(wire.record(FCGI_STDIN, 1, bytes(2000)))
                wait_until(lambda: len(bodies()) == len(before) + 1, "the file")
                if end == "aborted":
                    peer.send(wire.abort(1))
                    assert peer.receive_end().ended
        wait_until(lambda: bodies() == before, "the file to be closed")


@pytest.mark.parametrize("way", ["close", "detach"])
def test_own_loop_and_a_stream_that_is_gone(way):
    """Frameworks close what they have wrapped; the connection serves on."""

    def app(environ, start_response):
        getattr(environ["wsgi.input"], way)()
        start_response("200 OK", [])
        return [b"gone"]

    with Composed(OwnLoop, application=app) as web, web.peer() as kept:
        for _ in range(2):
            response = kept.request(body=b"some", keep_conn=True)
            assert (response.body, response.ended, response.closed) == (b"gone", True, False)


@pytest.mark.parametrize("size", [10, 5000], ids=["in memory", "in a file"])
def test_own_loop_and_wrappers_of_io(size):
    """io's own classes ask a stream for what it can."""

    def app(environ, start_response):
        stream = environ["wsgi.input"]
        facts = [stream.readable(), stream.seekable(), stream.writable(), stream.read(2)]
        stream.seek(0)
        text = io.TextIOWrapper(stream, "latin-1")
        facts += [len(text.read()), text.seek(0), len(text.readline()), text.detach() is stream]
        stream.seek(0)
        with io.BufferedReader(stream) as again:
            facts.append(len(again.read()))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [repr(facts).encode()]

    body = b"x\n" * (size // 2)
    with Composed(OwnLoop, application=app, max_body_memory=100) as web, web.peer() as peer:
        params = wire.cgi_params("POST", CONTENT_LENGTH=str(size))
        response = peer.request(params, body)
    expected = [True, True, False, b"x\n", size, 0, 2, True, size]
    assert (response.status, response.body.decode()) == (200, repr(expected))
