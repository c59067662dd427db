"""The FastCGI client: responses that are cut, both directions at once, addresses."""

import contextlib
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import wire
from scripted import END, HEADER, PARAMS, Peer, answering, fetch, scripted, stdout

from fastfcgi import client, constants
from fastfcgi.client import (
    Client,
    ConnectFailed,
    RequestTimeout,
    ResponseCut,
)
from fastfcgi.exceptions import ConfigurationError

needs_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


# ------------------------------------------------------------------------------ cut answers


@pytest.mark.parametrize(
    "answer", [b"", stdout(b"Status: 2"), stdout(HEADER)[:-3]], ids=["nothing", "half", "record"]
)
def test_cut_before_the_body(answer: bytes) -> None:
    with pytest.raises(ResponseCut):
        fetch(answering(answer))


@pytest.mark.parametrize(
    "rest",
    [b"", stdout(b"more")[:-2], wire.stream(constants.STDOUT, 1, b""), END[:-1]],
    ids=["between records", "in a record", "after the end of STDOUT", "in END_REQUEST"],
)
def test_cut_in_the_body(rest: bytes) -> None:
    with scripted(answering(stdout(HEADER), stdout(b"block"), rest)) as address:
        response = Client(address).request(PARAMS)
        assert next(response) == b"block"
        with pytest.raises(ResponseCut):
            list(response)
        with pytest.raises(ResponseCut):  # and it stays so
            next(response)
        assert response.app_status is None


def test_reset() -> None:
    def script(peer: Peer) -> None:
        peer.receive_request()
        peer.sock.setsockopt(
            socket.SOL_SOCKET,
            socket.SO_LINGER,
            b"\1\0\0\0" if sys.platform == "win32" else b"\1\0\0\0\0\0\0\0",
        )

    with pytest.raises(ResponseCut):
        fetch(script)


def test_timeout() -> None:
    with scripted(Peer.receive_close) as address, pytest.raises(RequestTimeout):
        Client(address, timeout=0.1).request(PARAMS)


def test_timeout_in_the_body() -> None:
    def script(peer: Peer) -> None:
        peer.receive_request()
        peer.send(stdout(HEADER + b"x"))
        peer.receive_close()

    with scripted(script) as address:
        response = Client(address, timeout=0.1).request(PARAMS)
        with pytest.raises(RequestTimeout):
            response.read()


@pytest.mark.parametrize("timeout", [None, 10.0])
def test_timeout_of_the_whole_request(timeout: float | None) -> None:
    """Neither silence nor a peer that sends something all the time makes it longer."""

    def drips(peer: Peer) -> None:
        peer.receive_request()
        peer.send(stdout(HEADER))
        with contextlib.suppress(ConnectionError):
            while True:
                peer.send(stdout(b"."))
                time.sleep(0.005)

    for script in (drips, Peer.receive_close):
        with scripted(script) as address:
            client = Client(address, timeout=timeout, total_timeout=0.2)
            began = time.monotonic()
            with pytest.raises(RequestTimeout, match=r"complete answer within 0\.2 seconds"):
                client.request(PARAMS).read()
            assert 0.2 <= time.monotonic() - began < wire.DEADLINE


def test_the_shorter_timeout_counts() -> None:
    with scripted(Peer.receive_close) as address:
        client = Client(address, timeout=0.1, total_timeout=60)
        with pytest.raises(RequestTimeout, match=r"nothing moved for 0\.1 seconds"):
            client.request(PARAMS)


def test_closing_early_hangs_up() -> None:
    def script(peer: Peer) -> None:
        peer.receive_request()
        peer.send(stdout(HEADER + b"x"))
        peer.receive_close()
        assert peer.eof

    with scripted(script) as address:
        with Client(address).request(PARAMS) as response:
            assert next(response) == b"x"
        with pytest.raises(ResponseCut):
            next(response)


# ------------------------------------------------------------------- both directions at once


def test_an_answer_before_the_body_is_read() -> None:
    body = random.Random(2).randbytes(8 << 20)

    def script(peer: Peer) -> None:
        peer.send(stdout(HEADER) + stdout(body))  # more than any socket buffer holds
        peer.receive_request()
        assert peer.stream(constants.STDIN) == body
        peer.send(END)

    assert fetch(script, body)[1] == body


@needs_unix
def test_an_answer_to_a_body_that_is_never_read(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "s"))
    listener.listen()

    def script(peer: Peer) -> None:
        peer.send(stdout(HEADER.replace(b"200 OK", b"413 Too Large")) + stdout(b"x" * 1000) + END)

    with scripted(script, listener):
        response = Client(f"unix:{tmp_path}/s").request(PARAMS, bytes(8 << 20))
        assert response.status == 413
        assert response.read() == b"x" * 1000


def test_an_answer_ends_a_body_without_an_end() -> None:
    def script(peer: Peer) -> None:
        peer.receive(lambda peer: constants.STDIN in [kind for kind, _, _ in peer.records])
        peer.send(stdout(HEADER + b"enough") + END)
        peer.receive_close()

    def body() -> Iterator[bytes]:
        while True:
            yield b"x" * 10000

    assert fetch(script, body())[1] == b"enough"


@needs_unix
def test_a_peer_that_closes_while_it_is_sent_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def writes_first(reads: list[int], writes: list[int], timeout: float) -> object:
        return (set(), set(writes)) if writes else (set(reads), set())

    monkeypatch.setattr(client, "_wait", writes_first)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    with scripted(lambda peer: peer.send(stdout(HEADER + b"x") + END), listener):
        assert Client(str(tmp_path / "s")).request(PARAMS, bytes(8 << 20)).read() == b"x"


class SlowBody:
    """A body from a socket: waiting for it must not delay the response."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.next: bytes | None = None

    def fileno(self) -> int:
        return self.sock.fileno()

    def ready(self) -> bool:
        if self.next is None:
            with contextlib.suppress(BlockingIOError):
                self.next = self.sock.recv(100)
        return self.next is not None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        assert self.ready(), "asked for more than there is"
        block, self.next = self.next, None
        if not block:
            raise StopIteration
        return block


def test_a_body_that_is_slow_in_coming() -> None:
    def script(peer: Peer) -> None:
        peer.send(stdout(HEADER + b"early"))
        peer.receive_request()
        peer.send(stdout(peer.stream(constants.STDIN)) + END)

    ours, theirs = socket.socketpair()
    with ours, theirs, scripted(script) as address:
        response = Client(address).request(PARAMS, SlowBody(ours))
        assert next(response) == b"early"
        theirs.sendall(b"a" * 250)
        theirs.shutdown(socket.SHUT_WR)
        assert response.read() == b"a" * 250


def test_where_there_is_no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(client.select, "poll", raising=False)
    test_an_answer_before_the_body_is_read()
    test_a_body_that_is_slow_in_coming()


# -------------------------------------------------------------------------------- addresses


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for address in (("127.0.0.1", port), f"127.0.0.1:{port}"):
        with pytest.raises(ConnectFailed, match=str(port)) as caught:
            Client(address).request(PARAMS)
        assert isinstance(caught.value, ConnectionError)


@pytest.mark.parametrize("address", ["fd:0", "systemd"])
def test_no_address_for_a_client(address: str) -> None:
    with pytest.raises(ConnectFailed):
        Client(address).request(PARAMS)


def test_not_an_address() -> None:
    with pytest.raises(ConfigurationError):
        Client("nonsense").request(PARAMS)


@needs_unix
def test_a_unix_path(tmp_path: Path) -> None:
    with pytest.raises(ConnectFailed, match="none"):
        Client(str(tmp_path / "none")).request(PARAMS)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    with scripted(answering(stdout(HEADER + b"x"), END), listener):
        assert Client(str(tmp_path / "s")).request(PARAMS).read() == b"x"


@needs_linux
def test_an_abstract_socket() -> None:
    name = f"fastfcgi-test-{random.SystemRandom().randrange(1 << 60)}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind("\0" + name)
    listener.listen()
    with scripted(answering(stdout(HEADER + b"x"), END), listener):
        assert Client(f"unix:@{name}").request(PARAMS).read() == b"x"


@needs_linux
def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
            first.connect(path)  # now the queue is full
            with pytest.raises(ConnectFailed, match="its queue of connections is full"):
                Client(path, connect_timeout=0.1).request(PARAMS)
            threading.Timer(0.1, lambda: listener.accept()[0].close()).start()
            with pytest.raises((ConnectFailed, ResponseCut, RequestTimeout)) as caught:
                Client(path, timeout=0.5).request(PARAMS)
            assert not isinstance(caught.value, ConnectFailed)
