"""The development HTTP front: what it makes of requests, and how it listens."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterable, Iterator

import pytest
import reference_codec as codec
import wire
from scripted import (
    END,
    HEADER,
    NOBODY,
    Peer,
    answering,
    connected,
    exchange,
    front_of,
    front_of_script,
    get,
    read_all,
    status_of,
    stdout,
)

from fastfcgi import WSGIServer, constants
from fastfcgi.http_front import BadRequest, HTTPFront, header_params, split_target


@contextlib.contextmanager
def front_of_app(application: Callable[..., Iterable[bytes]]) -> Iterator[HTTPFront]:
    """A front before a WSGIServer."""
    server = WSGIServer(application, bind="127.0.0.1:0")
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert server.wait_ready(wire.DEADLINE)
        with front_of(server.addresses[0]) as front:
            yield front
    finally:
        server.stop()
        thread.join()


def received(request: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """The params and the body that a FastCGI server gets for an HTTP request."""
    peers: list[Peer] = []

    def script(peer: Peer) -> None:
        peers.append(peer)
        answering(stdout(HEADER), END)(peer)

    with front_of_script(script) as front:
        response = exchange(front, request)
    assert status_of(response) == 200, response
    params = dict(codec.decode_pairs(peers[0].stream(constants.PARAMS)))
    return params, peers[0].stream(constants.STDIN)


# --------------------------------------------------------------------------------- requests


def test_params() -> None:
    peers: list[Peer] = []

    def script(peer: Peer) -> None:
        peers.append(peer)
        answering(stdout(HEADER), END)(peer)

    request = get("/a%20b/%C3%BC%FF%2F?x=%20&y", "X-A: 1", "x-a: 2", "Content-Type: t/x; a=b")
    with front_of_script(script) as front, connected(front) as sock:
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        read_all(sock)
        port, remote = front.server_address[1], sock.getsockname()[1]
    params = {k.decode(): v for k, v in codec.decode_pairs(peers[0].stream(constants.PARAMS))}
    assert params == {
        "GATEWAY_INTERFACE": b"CGI/1.1",
        "SERVER_SOFTWARE": b"fastfcgi-http-front",
        "SERVER_PROTOCOL": b"HTTP/1.1",
        "SERVER_NAME": b"127.0.0.1",
        "SERVER_ADDR": b"127.0.0.1",
        "SERVER_PORT": str(port).encode(),
        "REMOTE_ADDR": b"127.0.0.1",
        "REMOTE_PORT": str(remote).encode(),
        "REQUEST_SCHEME": b"http",
        "REQUEST_METHOD": b"GET",
        "REQUEST_URI": b"/a%20b/%C3%BC%FF%2F?x=%20&y",
        "SCRIPT_NAME": b"",
        "PATH_INFO": b"/a b/\xc3\xbc\xff/",
        "QUERY_STRING": b"x=%20&y",
        "CONTENT_TYPE": b"t/x; a=b",
        "HTTP_HOST": b"x",
        "HTTP_X_A": b"1, 2",
    }


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/", (b"/", b"/", b"")),
        ("/?", (b"/?", b"/", b"")),
        ("/a?b?c", (b"/a?b?c", b"/a", b"b?c")),
        ("/%2525", (b"/%2525", b"/%25", b"")),
        ("/%zz%", (b"/%zz%", b"/%zz%", b"")),
        ("/a+b", (b"/a+b", b"/a+b", b"")),
        ("//a//b", (b"//a//b", b"//a//b", b"")),
        ("/../a", (b"/../a", b"/../a", b"")),
        ("/\xe9", (b"/\xe9", b"/\xe9", b"")),
        ("http://host:1/a?b", (b"/a?b", b"/a", b"b")),
        ("HTTP://host", (b"/", b"/", b"")),
        ("http://host?x", (b"/?x", b"/", b"x")),
        ("*", (b"*", b"/*", b"")),
    ],
)
def test_targets(target: str, expected: tuple[bytes, bytes, bytes]) -> None:
    assert split_target(target) == expected


@pytest.mark.parametrize("target", ["a", "host:443", "?x", "/a%00b", "ftp://h/"])
def test_targets_that_are_refused(target: str) -> None:
    with pytest.raises(BadRequest):
        split_target(target)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("Accept", "a"), ("accept", "b")], {"HTTP_ACCEPT": "a, b"}),
        ([("Cookie", "a=1"), ("Cookie", "b=2")], {"HTTP_COOKIE": "a=1; b=2"}),
        ([("Proxy", "evil"), ("PROXY", "evil")], {}),
        ([("X_Forwarded_For", "spoof"), ("X-Forwarded-For", "r")], {"HTTP_X_FORWARDED_FOR": "r"}),
        ([("Content-Length", "1"), ("Content-Type", "t"), ("Transfer-Encoding", "chunked")], {}),
        ([("A", "x\r\n\t y")], {"HTTP_A": "x y"}),
        ([("A", "")], {"HTTP_A": ""}),
    ],
)
def test_headers(headers: list[tuple[str, str]], expected: dict[str, str]) -> None:
    assert header_params(headers) == expected


@pytest.mark.parametrize("header", [("A B", "x"), ("A@", "x"), ("", "x"), ("A", "x\0y")])
def test_headers_that_are_refused(header: tuple[str, str]) -> None:
    with pytest.raises(BadRequest):
        header_params([header])


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (get("/", "Host: y"), 400),
        (get("x"), 400),
        (get("h:443", method="CONNECT"), 400),
        (get("/", "no colon"), 400),
        (get("/", "A : b"), 400),
        (get("/", "Content-Length: x"), 400),
        (get("/", "Content-Length: -1"), 400),
        (get("/", "Content-Length: 1", "Content-Length: 2"), 400),
        (get("/", "Transfer-Encoding: gzip, chunked"), 501),
        (get("/" + "x" * 70000), 414),
        (get("/", "A: " + "x" * 70000), 431),
        (b"nonsense\r\n\r\n", 400),
        (get("/", version="2.0"), 505),
    ],
)
def test_requests_that_are_refused(request_bytes: bytes, status: int) -> None:
    # Nobody serves there: a request that were passed on would be a 502.
    with front_of(NOBODY) as front:
        assert status_of(exchange(front, request_bytes)) == status


@pytest.mark.parametrize("method", ["GET", "PUT", "PROPFIND", "M-SEARCH", "whatever"])
def test_any_method(method: str) -> None:
    params, body = received(get(method=method))
    assert params[b"REQUEST_METHOD"] == method.encode()
    assert body == b""


def test_options_for_the_whole_server() -> None:
    params, _ = received(get("*", method="OPTIONS"))
    assert (params[b"REQUEST_URI"], params[b"PATH_INFO"]) == (b"*", b"/*")


def test_slashes_stay_as_they_are() -> None:
    assert received(get("//a//b"))[0][b"PATH_INFO"] == b"//a//b"


def test_http_1_0() -> None:
    params, _ = received(b"GET / HTTP/1.0\r\n\r\n")
    assert params[b"SERVER_PROTOCOL"] == b"HTTP/1.0"
    assert b"HTTP_HOST" not in params


def test_body_with_its_length() -> None:
    body = bytes(range(256)) * 1000
    params, got = received(get("/", f"Content-Length: {len(body)}", method="POST") + body)
    assert got == body
    assert params[b"CONTENT_LENGTH"] == b"256000"
    assert b"HTTP_CONTENT_LENGTH" not in params


def test_chunked_body() -> None:
    chunks = b"3\r\nabc\r\n00A;ext=1\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
    for length in ([], ["Content-Length: 3"]):  # chunks count for more (RFC 9112, 6.3)
        request = get("/", "Transfer-Encoding: Chunked", *length, method="POST")
        params, body = received(request + chunks)
        assert body == b"abc0123456789"
        assert {b"CONTENT_LENGTH", b"HTTP_TRANSFER_ENCODING"}.isdisjoint(params)


@pytest.mark.parametrize(
    "chunks",
    [
        b"x\r\nabc\r\n0\r\n\r\n",
        b"-1\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"\r\n",
        b"3\r\nab",
        b"3",
        b"0\r\n",
        b"0\r\n" + b"T: x\r\n" * 200 + b"\r\n",
        b"1" * 2000 + b"\r\n",
    ],
)
def test_bad_chunks(chunks: bytes) -> None:
    whole: list[bool] = []

    def script(peer: Peer) -> None:
        peer.receive_close()
        whole.append(peer.has_request())

    with front_of_script(script) as front:
        request = get("/", "Transfer-Encoding: chunked", method="POST")
        assert status_of(exchange(front, request + chunks)) == 400
    assert whole == [False]


def test_a_body_that_the_browser_cuts() -> None:
    whole: list[bool] = []

    def script(peer: Peer) -> None:
        peer.receive_close()
        whole.append(peer.has_request())

    with front_of_script(script) as front:
        exchange(front, get("/", "Content-Length: 10", method="POST") + b"12345")
    assert whole == [False]


def test_expect_100_continue() -> None:
    with front_of_script(answering(stdout(HEADER + b"x"), END)) as front, connected(front) as sock:
        sock.sendall(get("/", "Content-Length: 3", "Expect: 100-continue", method="PUT"))
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc")
        sock.shutdown(socket.SHUT_WR)
        assert status_of(read_all(sock)) == 200


def test_expect_100_continue_and_nobody_there() -> None:
    with front_of(NOBODY) as front, connected(front) as sock:
        sock.sendall(get("/", "Content-Length: 3", "Expect: 100-continue", method="PUT"))
        sock.shutdown(socket.SHUT_WR)
        assert status_of(read_all(sock)) == 502


# ------------------------------------------------------------------------- the listening side


def echo(environ: dict, start_response: Callable[..., object]) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("X-Path", environ["PATH_INFO"])])
    return [body]


def test_requests_on_one_connection() -> None:
    with front_of_app(echo) as front:
        connection = http.client.HTTPConnection(*front.server_address[:2], timeout=wire.DEADLINE)
        with contextlib.closing(connection):
            for number in range(5):
                body = b"x" * 10000 * number
                connection.request("POST", f"/{number}", body)
                sock = connection.sock
                response = connection.getresponse()
                assert response.getheader("X-Path") == f"/{number}"
                assert response.read() == body
                assert connection.sock is sock
            connection.request("PUT", "/c", iter([b"ab", b"c"]), encode_chunked=True)
            assert connection.getresponse().read() == b"abc"


def test_pipelined_requests() -> None:
    post = get("/b", "Content-Length: 2", method="POST") + b"hi"
    with front_of_app(echo) as front:
        response = exchange(front, get("/a") + post + get("/c"))
    paths = [line for line in response.split(b"\r\n") if line.startswith(b"X-Path")]
    assert paths == [b"X-Path: /a", b"X-Path: /b", b"X-Path: /c"]


def test_many_connections() -> None:
    bodies: list[bytes] = []

    def fetch(number: int) -> None:
        body = bytes([number]) * 100_000
        connection = http.client.HTTPConnection(*front.server_address[:2], timeout=wire.DEADLINE)
        with contextlib.closing(connection):
            connection.request("POST", "/", body)
            if connection.getresponse().read() == body:
                bodies.append(body)

    with front_of_app(echo) as front:
        threads = [threading.Thread(target=fetch, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(bodies) == 20


def test_stop_lets_a_running_response_end() -> None:
    began, go = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.receive_request()
        began.set()
        assert go.wait(wire.DEADLINE)
        peer.send(stdout(HEADER + b"all") + END)

    with front_of_script(script) as front, connected(front) as idle, connected(front) as sock:
        sock.sendall(get())
        assert began.wait(wire.DEADLINE)
        stopper = threading.Thread(target=front.stop)
        stopper.start()
        stopper.join(0.3)
        assert stopper.is_alive()
        go.set()
        response = read_all(sock)
        assert b"\r\nConnection: close\r\n" in response
        assert response.endswith(b"all\r\n0\r\n\r\n")
        stopper.join()
        assert idle.recv(1) == b""
        with pytest.raises(OSError):
            socket.create_connection(front.server_address[:2]).close()


def test_stop_before_start() -> None:
    HTTPFront(("127.0.0.1", 0), NOBODY).stop()


def test_an_address_in_use() -> None:
    with front_of(NOBODY) as front, pytest.raises(OSError):
        HTTPFront(front.server_address[:2], NOBODY)


def test_the_name_of_the_host_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda name="": 1 / 0)
    with front_of(NOBODY) as front:
        assert front.url == f"http://127.0.0.1:{front.server_address[1]}/"


def test_ipv6() -> None:
    try:
        front = HTTPFront(("::1", 0), NOBODY)
    except OSError:
        pytest.skip("no IPv6 here")
    with contextlib.closing(front.socket):
        assert front.url == f"http://[::1]:{front.server_address[1]}/"
    front.stop()
