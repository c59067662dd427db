"""The rules of CGI and WSGI on top of FastCGI, one test each: the response (RFC 3875, PEP 3333)."""

import io
import logging
import sys

import pytest
import wire
from spec_server import Gate, serving, wait_until

TEXT = [("Content-Type", "text/plain")]


@pytest.fixture
def serve(tmp_path):
    with serving(tmp_path) as serve:
        yield serve


def returning(body, status="200 OK", headers=TEXT):
    """An application that answers with this iterable."""

    def application(environ, start_response):
        start_response(status, list(headers))
        return body

    return application


# ------------------------------------------------------------------------------ the header


def test_response_is_that_of_cgi(serve):
    """RFC 3875 6: "Status: 200 OK" and headers with CR LF, an empty line, the body."""
    application = returning([b"one", b"two"], "404 Not There", [("X-A", "1"), ("x-b", "")])
    peer = serve(application).connect()
    peer.request()
    assert peer.stdout() == b"Status: 404 Not There\r\nX-A: 1\r\nx-b: \r\n\r\nonetwo"


def test_repeated_headers_stay_repeated_in_order(serve):
    """PEP 3333: repeated headers stay repeated, in their order."""
    headers = [("Set-Cookie", "b=1"), ("X-A", "1"), ("Set-Cookie", "a=2"), ("Set-Cookie", "b=1")]
    assert serve(returning([b"a", b"b"], headers=headers)).request().headers == headers


def test_header_values_are_latin_1(serve):
    """PEP 3333: str of header values are latin-1 encodings of bytes."""
    peer = serve(returning([b"", b""], headers=[("X-A", "\xe9\xff")])).connect()
    peer.request()
    assert b"X-A: \xe9\xff\r\n" in peer.stdout()


FORBIDDEN = {"CR": "\r", "LF": "\n", "NUL": "\0", "CR LF": "\r\nX-Evil: 1"}


@pytest.mark.parametrize("text", FORBIDDEN)
@pytest.mark.parametrize("place", ["status", "name", "value"])
def test_cr_lf_and_nul_are_refused(serve, caplog, place, text):
    """RFC 9112 11.1: CR, LF or NUL in a status or header is a 500 and a log line, not an injected
    header."""
    evil = f"a{FORBIDDEN[text]}b"
    status = f"200 {evil}" if place == "status" else "200 OK"
    header = {"name": (evil, "1"), "value": ("X-A", evil), "status": ("X-A", "1")}[place]
    peer = serve(returning([b"body"], status, [header])).connect()
    response = peer.request()
    assert response.status == 500 and response.ended
    assert b"X-Evil" not in peer.stdout() and b"body" not in response.body
    assert [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (b"200 OK", []),
        (200, []),
        ("200 OK", [(b"X-A", "1")]),
        ("200 OK", [("X-A", b"1")]),
        ("200 OK", [("X-A", 1)]),
        ("200 OK", [("Content-Length", 4)]),
        ("200 OK", [("X-A", None)]),
    ],
)
def test_status_and_headers_are_str(serve, status, headers):
    """PEP 3333: status, names and values are str; anything else is refused."""
    response = serve(returning([b"body"], status, headers)).request()
    assert response.status == 500 and b"body" not in response.body


@pytest.mark.parametrize("status", ["OK", "20 OK", "2000", "abc", "", "200OK", " 200 OK"])
def test_status_begins_with_three_digits(serve, status):
    """PEP 3333: status is "999 Message here"."""
    assert serve(returning([b"body"], status)).request().status == 500


# ---------------------------------------------------------------------------- start_response


def test_start_response_twice(serve):
    """PEP 3333: start_response may be called again only with exc_info."""
    raised = []

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        try:
            start_response("201 Created", TEXT)
        except Exception as error:
            raised.append(error)
        return [b"body"]

    response = serve(application).request()
    assert (response.status, response.body, len(raised)) == (200, b"body", 1)


def test_start_response_twice_with_exc_info(serve):
    """PEP 3333: with exc_info, before the header went out, status and headers are replaced."""

    def application(environ, start_response):
        start_response("200 OK", [("X-First", "1"), ("Content-Length", "1")])
        try:
            raise RuntimeError("on purpose")
        except RuntimeError:
            start_response("418 Teapot", [("X-Second", "2")], sys.exc_info())
        return [b"body", b""]

    response = serve(application).request()
    assert (response.status, response.headers) == (418, [("X-Second", "2")])
    assert response.body == b"body"


def test_start_response_with_exc_info_after_the_header(serve):
    """PEP 3333: after the header went out, exc_info is raised again."""
    raised = []

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        yield b"body"
        try:
            raise KeyError("on purpose")
        except KeyError as error:
            try:
                start_response("500 Oops", TEXT, sys.exc_info())
            except KeyError as again:
                raised.append(again is error)
                raise
        yield b"never"

    response = serve(application).request()
    assert raised == [True]
    assert (response.status, response.body, response.ended) == (200, b"body", False)


def test_start_response_is_called_late(serve):
    """PEP 3333: start_response may be called as late as with the first block."""

    def application(environ, start_response):
        yield b""
        start_response("201 Created", TEXT)
        yield b"body"

    response = serve(application).request()
    assert (response.status, response.body) == (201, b"body")


@pytest.mark.parametrize("blocks", [[b"body"], [b"body", b"more"], []])
def test_start_response_is_never_called(serve, blocks):
    """PEP 3333: there is no response without start_response: that is an error of the
    application."""
    assert serve(lambda environ, start_response: blocks).request().status == 500


def test_write(serve):
    """PEP 3333: what write() is given comes before what the iterable gives."""

    def application(environ, start_response):
        write = start_response("200 OK", TEXT)
        write(b"one ")
        write(b"")
        write(b"two ")
        return [b"three ", b"four"]

    response = serve(application).request()
    assert (response.status, response.body) == (200, b"one two three four")


# ----------------------------------------------------------------------------------- blocks


def test_header_is_sent_with_the_first_block_that_is_not_empty(serve):
    """PEP 3333: the header waits for the first non-empty block, and goes out with it."""
    gate = Gate()

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        yield b""
        yield b""
        gate.wait()
        start_response("201 Created", TEXT, (None, None, None))  # still possible
        yield b"body"

    peer = serve(application).connect()
    peer.send(wire.request())
    gate.wait_reached()
    peer.assert_silent(0)
    gate.open()
    assert peer.receive_end().status == 201
    assert peer.records[0].content == b"Status: 201 Created\r\nContent-Type: text/plain\r\n\r\nbody"


@pytest.mark.parametrize("blocks", [[], [b""], [b"", b""], (), iter([])])
def test_header_is_sent_at_the_end(serve, blocks):
    """PEP 3333: when all blocks are empty the header is sent at the end."""
    response = serve(returning(blocks, "202 Accepted")).request()
    assert (response.status, response.body, response.ended) == (202, b"", True)


@pytest.mark.parametrize("size", [1, 100_000])
def test_each_block_is_sent_before_the_next_is_asked_for(serve, size):
    """PEP 3333: a block is sent on, and not kept back, before the application goes on."""
    gates = [Gate() for _ in range(3)]
    blocks = [bytes([number]) * size for number in range(4)]

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        for gate, block in zip(gates, blocks, strict=False):
            yield block
            gate.wait()
        yield blocks[-1]

    peer = serve(application).connect()
    peer.send(wire.request())
    for number, gate in enumerate(gates):
        peer.receive_stdout(b"".join(blocks[: number + 1]))
        gate.wait_reached()
        gate.open()
    assert peer.receive_end().body == b"".join(blocks)


def test_what_is_written_is_sent_at_once(serve):
    """PEP 3333: write() sends as the iterable does: nothing is kept back when it returns."""
    gate = Gate()

    def application(environ, start_response):
        write = start_response("200 OK", TEXT)
        write(b"one")
        gate.wait()
        return [b"two"]

    peer = serve(application).connect()
    peer.send(wire.request())
    peer.receive_stdout(b"\r\n\r\none")
    gate.wait_reached()
    gate.open()
    assert peer.receive_end().body == b"onetwo"


@pytest.mark.parametrize("block_size", [(), (8192,)])
def test_file_wrapper(serve, block_size):
    """PEP 3333: wsgi.file_wrapper(file, block_size) is an iterable of the file's blocks; its
    close() is the file's."""
    content = bytes(i % 251 for i in range(300_000))
    files = []

    def application(environ, start_response):
        files.append(io.BytesIO(content))
        files[-1].seek(5)
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"](files[-1], *block_size)

    assert serve(application).request().body == content[5:]
    wait_until(lambda: files[-1].closed, "close() of the file")


def test_file_wrapper_needs_no_more_than_read(serve):
    """PEP 3333: a file-like object has read(); it may have nothing else."""

    class Filelike:
        read = staticmethod(io.BytesIO(b"content").read)

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"](Filelike(), 3)

    assert serve(application).request().body == b"content"


# ------------------------------------------------------------------- answers without a body


@pytest.mark.parametrize("blocks", [[b"body"], [b"bo", b"dy"], (b"", b"body", b"")])
def test_head_has_no_body(serve, blocks):
    """RFC 9110 9.3.2: the answer to HEAD is the header, Content-Length and all, and no body."""
    application = returning(iter(blocks), headers=[("X-A", "1"), ("Content-Length", "4")])
    peer = serve(application).connect()
    response = peer.request(wire.cgi_params("HEAD"))
    assert peer.stdout() == b"Status: 200 OK\r\nX-A: 1\r\nContent-Length: 4\r\n\r\n"
    assert response.ended


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified", "204", "304"])
def test_no_body_for_204_and_304(serve, status):
    """RFC 9110 15.3.5, 15.4.5: answers with 204 and 304 have no body."""
    for blocks in [b"body"], [b"bo", b"dy"], []:
        response = serve(returning(blocks, status)).request()
        assert (response.status, response.body) == (int(status[:3]), b"")
        assert response.header("Content-Length") is None and response.ended


def test_write_of_a_head_has_no_body(serve):
    """RFC 9110 9.3.2: nor does what is given to write() get through."""

    def application(environ, start_response):
        start_response("200 OK", TEXT)(b"body")
        return []

    response = serve(application).request(wire.cgi_params("HEAD"))
    assert (response.status, response.body, response.ended) == (200, b"", True)
