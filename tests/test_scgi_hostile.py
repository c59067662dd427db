"""SCGI connections that mean ill, to a real server process: what it holds comes back."""

import contextlib
import random
import sys
import time
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("what a process holds is read from /proc", allow_module_level=True)

import scgi_wire
import wire
from hostile import KIB, MIB, QUICK, Target, push
from processes import DEADLINE, descriptors, wait_until

pytestmark = pytest.mark.hostile


class ScgiTarget(Target):
    """The same over SCGI; the watcher of others speaks FastCGI, so there is none."""

    def __init__(self, folder: Any, **options: Any) -> None:
        super().__init__(folder, watched=False, **{"protocol": "scgi", **options})

    def _warm_up(self) -> None:
        count = self.options["threads"]
        with contextlib.ExitStack() as stack:
            peers = [stack.enter_context(scgi_wire.Peer(self.address)) for _ in range(count)]
            for peer in peers:
                peer.send(request(f"/together/{count}"))
            for peer in peers:
                assert peer.read().body == b"together"
        self._descriptors = wait_until(self._settled, "its descriptors to settle")
        self._threads = self.threads
        self._memory = self._status("VmRSS")
        with open(f"/proc/{self.process.pid}/clear_refs", "w") as file:
            file.write("5")

    def is_well(self) -> None:
        """It answers somebody else."""
        output = scgi_wire.ask(self.address, scgi_wire.cgi_params(path="/hello"))
        assert output.body == b"hello" and not output.reset


def request(path: str, body: bytes = b"", length: int | None = None) -> bytes:
    return scgi_wire.request(scgi_wire.cgi_params("POST", path), body, length)


def closed(sock: Any) -> bool:
    sock.setblocking(False)
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def test_a_slow_drip_ends_at_header_timeout(folder):
    data = request("/hello")
    with ScgiTarget(folder, header_timeout=0.5) as target, contextlib.ExitStack() as stack:
        drips = [stack.enter_context(target.socket()) for _ in range(50)]
        end, pos = time.monotonic() + DEADLINE, 0
        while left := [sock for sock in drips if not closed(sock)]:
            for sock in left:
                with contextlib.suppress(ConnectionError):
                    sock.send(data[pos : pos + 1])
            pos = min(pos + 1, len(data) - 2)
            assert time.monotonic() < end, f"{len(left)} are still open"
            time.sleep(0.02)
            drips = left
        assert target.log().count("no whole header in header_timeout=0.5 s") == 50
        target.is_well()


def test_a_body_that_never_comes(folder):
    with ScgiTarget(folder, **QUICK) as target, contextlib.ExitStack() as stack:
        for length in (1, 10**17):
            sock = stack.enter_context(target.socket())
            sock.sendall(request("/hello", b"", length))
            wait_until(lambda sock=sock: closed(sock), "the end of the connection")
        target.expect_log("no more of a body in body_timeout=0.5 s")
        target.is_well()


@pytest.mark.parametrize("digits", [b"9" * 100_000, b"1048577:", b"1073741824:CONTENT_LENGTH"])
def test_giant_lengths(folder, digits):
    with ScgiTarget(folder) as target:
        for _ in range(20):
            with contextlib.suppress(ConnectionError), target.socket() as sock:
                sock.sendall(digits)
                wait_until(lambda sock=sock: closed(sock), "the end of the connection")
        target.expect_log("more than max_params_bytes=1048576 bytes")
        target.is_well()


def test_the_largest_headers_that_are_never_complete(folder):
    """What a peer sends is what it costs; and header_timeout ends it."""
    with (
        ScgiTarget(folder, memory=20 * 2 * MIB, header_timeout=1.0) as target,
        contextlib.ExitStack() as stack,
    ):
        socks = [stack.enter_context(target.socket()) for _ in range(20)]
        for sock in socks:
            sock.sendall(b"1048576:CONTENT_LENGTH\0000\0SCGI\0001\0X\0" + b"x" * 1000 * KIB)
        wait_until(lambda: all(map(closed, socks)), "all of them to be closed")
        target.is_well()


def test_garbage(folder):
    source = random.Random(1)
    whole = request("/hello", b"some body")
    with ScgiTarget(folder, **QUICK) as target:
        for _ in range(300):
            data = bytearray(whole)
            for _ in range(source.randrange(1, 4)):
                data[source.randrange(len(data))] = source.randrange(256)
            with contextlib.suppress(ConnectionError), target.socket() as sock:
                sock.sendall(data[: source.randrange(1, len(data) + 20)])
        target.is_well()
        wait_until(lambda: target.connections() == 0, "all of them to be closed")


@pytest.mark.parametrize("tcp", [False, True])
def test_1000_connections_closed_early(folder, tcp):
    """Before, within and behind a request, its response unread."""
    whole = request("/hello", b"some body")
    with ScgiTarget(folder, tcp=tcp, **QUICK) as target:
        for number in range(1000):
            with contextlib.suppress(ConnectionError), target.socket() as sock:
                sock.sendall(whole[: number % (len(whole) + 1)])
        target.is_well()
        wait_until(lambda: target.connections() == 0, "all of them to be closed")


def test_more_than_the_body_without_end(folder):
    with ScgiTarget(folder, **QUICK) as target:
        with contextlib.suppress(ConnectionError), target.socket() as sock:
            sock.sendall(request("/hello", b"body"))
            assert push(sock, bytes(65536), 64 * MIB) < 64 * MIB
        target.is_well()


def test_a_response_that_nobody_reads(folder):
    with ScgiTarget(folder, memory=20 * MIB, **QUICK) as target, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(target.socket()) for _ in range(8)]
        for sock in socks:
            sock.sendall(request("/stream/1000"))
        target.expect_log("it took no response for send_timeout=0.5 s")
        target.is_well()


def test_strangers_beside_each_other(folder):
    with ScgiTarget(folder) as target:
        with contextlib.suppress(ConnectionError), target.socket() as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        target.expect_log("looks like HTTP, but SCGI is spoken here")
        with contextlib.suppress(ConnectionError), target.socket() as sock:
            sock.sendall(wire.request(1, wire.cgi_params()))
        target.expect_log("looks like FastCGI, but SCGI is spoken here")
        target.is_well()
        assert len(descriptors(target.process.pid))
