"""Checks behind every web server: many clients, clients that go away, kept connections."""

import concurrent.futures
import contextlib
import itertools
import socket
from collections.abc import Iterator

from apps import pattern_sha256
from checks_bodies import MEGABYTE, sha256
from fronts import App
from http_client import HOST, Client, Site, fetch
from matrix import row
from processes import DEADLINE, wait_until


@contextlib.contextmanager
def requests_held(site: Site, count: int) -> Iterator[None]:
    """So many requests are with the application at the same time while the block runs.

    They answer when one more has come, which is sent at the end of the block.
    """
    with concurrent.futures.ThreadPoolExecutor(count) as pool, Client(site) as client:
        held = [pool.submit(fetch, site, f"/together/{count + 1}") for _ in range(count)]
        waiting = f"/waiting/{count + 1}"
        wait_until(lambda: client.fetch(waiting).body == b"%d" % count, f"{count} to be waiting")
        try:
            yield
        finally:
            assert client.fetch(f"/together/{count + 1}").body == b"together"
        for done in held:
            assert done.result().body == b"together"


def connections_used(site: Site, requests: int) -> int:
    """How many FastCGI connections so many requests took, one after the other, beyond the first.

    The application tells what sockets it has open while it answers, so that none is missed. Its
    answer is a list of one block, which travels together with END_REQUEST: HAProxy 2.6 sometimes
    closes a connection where the Content-Length has been reached before that.
    """
    with Client(site) as client:
        seen = [set(client.fetch("/bare/process").json()["sockets"]) for _ in range(requests + 1)]
    return len(set.union(*seen) - seen[0])


class LoadChecks:
    """Many clients, and clients that go away."""

    @row("50 clients at once, up and down")
    def test_parallel_clients(self, site: Site) -> None:
        self.check_clients(site, 50)

    @staticmethod
    def check_clients(site: Site, at_once: int) -> None:
        def work(number: int) -> None:
            body = bytes([number]) * 10_000
            with Client(site) as client:
                assert client.fetch("/digest", "POST", body).json()["sha256"] == sha256(body)
                size = 100_000 + number
                assert client.download(f"/size/{size}") == (size, pattern_sha256(size))
                assert client.fetch(f"/env?{number}").json()["QUERY_STRING"] == str(number)

        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            for done in [pool.submit(work, number) for number in range(50)]:
                done.result()

    @row("32 slow requests at once")
    def test_slow_requests_at_once(self, site: Site, app: App) -> None:
        """None of them is answered before all are there."""
        with requests_held(site, 32):
            assert fetch(site, "/env").status == 200

    @row("32 requests at once share connections (multiplexing)")
    def test_multiplexed(self, site: Site, app: App) -> None:
        assert fetch(site, "/bare/env").status == 200  # now there is a connection to share
        before = app.sockets()
        with requests_held(site, 32):
            # Not one: it may open some before it knows that the first can be shared, and each of
            # its threads has its own.
            assert len(app.sockets() - before) <= 8

    def check_not_multiplexed(self, site: Site, app: App) -> None:
        with requests_held(site, 32):
            assert len(app.sockets()) > 32

    @row("connections are kept")
    def test_connections_are_kept(self, site: Site) -> None:
        # One more may be that of another thread of the web server.
        assert connections_used(site, 30) <= 2

    def check_one_at_a_time(self, site: Site) -> None:
        """No process has two requests at once."""
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            done = pool.map(lambda _: fetch(site, "/span/200").json(), range(4))
        spans: dict[int, list[list[float]]] = {}
        for answer in done:
            spans.setdefault(answer["pid"], []).append(answer["span"])
        for one in map(sorted, spans.values()):
            assert all(before[1] <= after[0] for before, after in itertools.pairwise(one))

    def check_connection_per_request(self, site: Site) -> None:
        assert connections_used(site, 30) >= 30

    @row("clients gone in mid-download and mid-upload: no descriptor is lost")
    def test_client_gone_in_mid_download(self, site: Site, app: App) -> None:
        before = self.settled_descriptors(site, app)
        for _ in range(5):
            with self.sent(site, "GET", f"/size/{50 * MEGABYTE}") as sock:
                assert sock.recv(20_000).startswith(b"HTTP/1.1 200")
        self.assert_recovers(site, app, before)

    @row("clients gone in mid-download and mid-upload: no descriptor is lost")
    def test_client_gone_in_mid_upload(self, site: Site, app: App) -> None:
        before = self.settled_descriptors(site, app)
        for _ in range(5):
            with self.sent(site, "POST", "/digest", 3 * MEGABYTE) as sock:
                sock.sendall(bytes(2 * MEGABYTE))  # enough for the application to start
        self.assert_recovers(site, app, before)

    @staticmethod
    @contextlib.contextmanager
    def sent(site: Site, method: str, target: str, length: int = 0) -> Iterator[socket.socket]:
        """A raw connection with a request's header sent; closed with all that is still to come."""
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
            sock.settimeout(DEADLINE)
            sock.connect((HOST, site.port))
            head = f"{method} {site.prefix}{target} HTTP/1.1\r\nHost: x\r\n"
            sock.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode())
            yield sock

    @staticmethod
    def settled_descriptors(site: Site, app: App) -> int:
        """How many descriptors the application holds when it has nothing to do."""
        assert fetch(site, "/env").status == 200
        counts = [-1, -2]

        def settled() -> bool:
            counts.append(len(app.descriptors()))
            return len(set(counts[-10:])) == 1

        wait_until(settled, "the application's descriptors to settle")
        return counts[-1]

    @staticmethod
    def assert_recovers(site: Site, app: App, before: int) -> None:
        """The application goes on, and has closed what it had opened for clients that are gone."""
        assert fetch(site, "/env").status == 200
        # One more may be a connection that the web server keeps now and did not before; what is
        # to be found is one descriptor lost with each of the five clients, who may have been
        # served by four processes.
        wait_until(
            lambda: len(app.descriptors()) <= before + 1,
            f"{before} descriptors again, there are {app.descriptors()}",
        )
