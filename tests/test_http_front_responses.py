"""The development HTTP front: what it makes of FastCGI responses, and of trouble."""

import contextlib
import http.client
import logging
import socket
import struct
import sys
import threading

import pytest
import reference_codec as codec
import wire
from scripted import (
    END,
    HEADER,
    Peer,
    Script,
    answering,
    connected,
    exchange,
    front_of,
    front_of_script,
    get,
    status_of,
    stdout,
)

from fastfcgi import constants

# -------------------------------------------------------------------------------- responses


def relayed(answer: bytes, request: bytes = b"", script: Script | None = None) -> bytes:
    """What the browser gets for a FastCGI response."""
    with front_of_script(script or answering(answer)) as front:
        return exchange(front, request or get())


def test_a_response_with_its_length() -> None:
    header = b"Status: 299 So So\r\nContent-Length: 3\r\nX: 1\r\nX: 2\r\nDate: now\r\n\r\n"
    response = relayed(stdout(header + b"abc") + END)
    assert response == (
        b"HTTP/1.1 299 So So\r\nX: 1\r\nX: 2\r\nDate: now\r\nContent-Length: 3\r\n\r\nabc"
    )


def test_a_response_without_a_length_is_chunked() -> None:
    response = relayed(stdout(HEADER + b"abc") + stdout(b"x" * 20) + END)
    header, _, body = response.partition(b"\r\n\r\n")
    assert b"\r\nTransfer-Encoding: chunked" in header
    assert b"\r\nContent-Length" not in header
    assert body == b"3\r\nabc\r\n14\r\n" + b"x" * 20 + b"\r\n0\r\n\r\n"


def test_a_response_to_http_1_0_ends_with_the_connection() -> None:
    response = relayed(stdout(HEADER + b"abc") + END, b"GET / HTTP/1.0\r\n\r\n")
    header, _, body = response.partition(b"\r\n\r\n")
    assert b"\r\nConnection: close" in header
    assert b"chunked" not in header
    assert body == b"abc"
    answer = stdout(b"Content-Length: 3\r\n\r\nabc") + END
    assert b"\r\nConnection: close" in relayed(answer, b"GET / HTTP/1.0\r\n\r\n")


@pytest.mark.parametrize(
    ("method", "status", "kept"),
    [("HEAD", b"200", True), ("GET", b"204", False), ("GET", b"304", True)],
)
def test_responses_without_a_body(method: str, status: bytes, kept: bool) -> None:
    answer = stdout(b"Status: " + status + b" X\r\nContent-Length: 5\r\n\r\nwrong") + END
    header, _, body = relayed(answer, get(method=method)).partition(b"\r\n\r\n")
    assert body == b""
    assert (b"\r\nContent-Length: 5" in header) is kept
    assert b"chunked" not in header


def test_headers_of_the_connection_are_not_the_applications() -> None:
    header = b"Connection: x\r\nTransfer-Encoding: gzip\r\nKeep-Alive: 1\r\nA: b\r\n\r\n"
    response = relayed(stdout(header) + END).partition(b"\r\n\r\n")[0]
    assert b"\r\nA: b" in response
    for word in (b"Connection:", b"gzip", b"Keep-Alive"):
        assert word not in response


@pytest.mark.parametrize("length", [b"x", b"-1", b"1\r\nContent-Length: 2", b""])
def test_an_unusable_length_is_left_out(length: bytes) -> None:
    response = relayed(stdout(b"Content-Length: " + length + b"\r\n\r\nabc") + END)
    assert b"Content-Length" not in response
    assert response.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")


def test_a_body_longer_than_its_length(caplog: pytest.LogCaptureFixture) -> None:
    answer = stdout(b"Content-Length: 4\r\n\r\nabc") + stdout(b"def") + stdout(b"ghi") + END
    assert relayed(answer).endswith(b"\r\n\r\nabcd")
    assert "longer than its Content-Length" in caplog.text


def test_a_body_shorter_than_its_length() -> None:
    with front_of_script(answering(stdout(b"Content-Length: 4\r\n\r\nabc"), END)) as front:
        connection = http.client.HTTPConnection(*front.server_address[:2], timeout=wire.DEADLINE)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            with pytest.raises(http.client.IncompleteRead):
                connection.getresponse().read()


def test_a_cut_chunked_response() -> None:
    response = relayed(stdout(HEADER + b"abc"))
    assert response.endswith(b"\r\n\r\n3\r\nabc\r\n")


def test_a_cut_response_that_ends_with_the_connection() -> None:
    go = threading.Event()

    def script(peer: Peer) -> None:
        answering(stdout(HEADER + b"abc"))(peer)
        assert go.wait(wire.DEADLINE)

    with front_of_script(script) as front, connected(front) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        data = b""
        while not data.endswith(b"abc"):
            data += sock.recv(1000)
        go.set()
        with pytest.raises(ConnectionResetError):
            sock.recv(1000)


def test_blocks_pass_at_once() -> None:
    go = threading.Event()

    def script(peer: Peer) -> None:
        answering(stdout(HEADER))(peer)
        for _ in range(3):
            peer.send(stdout(b"block"))
            assert go.wait(wire.DEADLINE)
            go.clear()
        peer.send(END)

    with front_of_script(script) as front, connected(front) as sock:
        sock.sendall(get())
        data = b""
        for _ in range(3):
            while not data.endswith(b"block\r\n"):
                data += sock.recv(1000)
            data = b""
            go.set()
        assert sock.recv(1000) == b"0\r\n\r\n"


# ----------------------------------------------------------------------------------- trouble


def test_nobody_there() -> None:
    with front_of("/no<where>/socket") as front:
        response = exchange(front, get())
    assert status_of(response) == 502
    assert b"\r\nConnection: close" in response
    assert b"/no&lt;where&gt;/socket" in response


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"", 502),
        (END, 502),
        (stdout(b"nonsense\r\n\r\n") + END, 502),
        (stdout(b"Status: 100 Continue\r\n\r\n") + END, 502),
        (b"HTTP/1.1 200 OK\r\n\r\n", 502),
        (codec.encode_end_request(1, 0, constants.CANT_MPX_CONN), 502),
        (codec.encode_end_request(1, 0, constants.OVERLOADED), 503),
    ],
)
def test_no_usable_response(answer: bytes, status: int) -> None:
    assert status_of(relayed(answer)) == status


def test_a_silent_server() -> None:
    with front_of_script(Peer.receive_close, fastcgi_timeout=0.1) as front:
        assert status_of(exchange(front, get())) == 504


def test_an_early_answer_to_a_long_upload() -> None:
    go = threading.Event()

    def script(peer: Peer) -> None:
        peer.receive(lambda peer: constants.STDIN in [kind for kind, _, _ in peer.records])
        peer.send(stdout(b"Status: 413 Too Large\r\nContent-Length: 2\r\n\r\nno") + END)
        assert go.wait(wire.DEADLINE)

    size = 20 << 20
    with front_of_script(script) as front:
        response = exchange(front, get("/", f"Content-Length: {size}", method="PUT") + bytes(size))
        go.set()
    assert status_of(response) == 413
    assert response.endswith(b"no")


def test_a_browser_that_goes_away() -> None:
    gone = threading.Event()

    def script(peer: Peer) -> None:
        peer.receive_request()
        peer.send(stdout(HEADER))
        with contextlib.suppress(ConnectionError):
            while True:
                peer.send(stdout(b"x" * 60000))
        gone.set()

    with front_of_script(script) as front:
        with connected(front) as sock:
            sock.sendall(get())
            sock.recv(1000)
            if sys.platform != "win32":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert gone.wait(wire.DEADLINE)


def test_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastfcgi.http_front")
    stderr = wire.stream(constants.STDERR, 1, b"first\nse\x1bcond \xc3\xbc\n")
    relayed(stderr + stdout(HEADER + b"abc") + END, get("/\x1b"))
    assert "stderr: first" in caplog.text
    assert "stderr: se\\x1bcond ü" in caplog.text
    assert '"GET /\\x1b HTTP/1.1" 200 3' in caplog.text
    caplog.clear()
    with front_of_script(answering(stderr, stdout(HEADER), END), log_stderr=False) as front:
        exchange(front, get())
    assert "stderr" not in caplog.text
