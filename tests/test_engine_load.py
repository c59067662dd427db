"""Many requests at once, of all sorts: none is lost, none run twice, none held up."""

import collections
import contextlib
import select
import threading
import time

import pytest
import wire
from helpers import DEADLINE, ENGINES, ask, hello, serving, wait_until

pytestmark = pytest.mark.skipif(not hasattr(select, "poll"), reason="only tried with poll()")


@pytest.fixture(params=ENGINES)
def kind(request, monkeypatch):
    """Every kind of engine serves."""
    monkeypatch.setattr("fastfcgi.server.Engine", ENGINES[request.param])


def test_no_request_is_lost_or_run_twice(kind):
    """From clients in several threads, on kept connections and new ones."""
    count, clients = 300, 6
    seen = collections.Counter()
    lock = threading.Lock()
    failures = []

    def app(environ, start_response):
        path = environ["PATH_INFO"]
        with lock:
            seen[path] += 1
        if path.endswith("7"):
            time.sleep(0.0005)
        return hello(environ, start_response)

    def client(web, name):
        try:
            with web.peer() as peer:
                for number in range(count):
                    path = f"/{name}/{number}"
                    if number % 10 == 0:
                        assert web.get(path).body == b"hello " + path.encode()
                    else:
                        assert ask(peer, path) == b"hello " + path.encode()
                        peer.answers.outputs.clear()
        except BaseException as error:
            failures.append(error)

    with serving(app, threads=4) as web:
        threads = [threading.Thread(target=client, args=(web, name)) for name in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
    assert failures == []
    assert len(seen) == count * clients and set(seen.values()) == {1}


class Load:
    """One thread that keeps many connections busy, each with one request after another.

    Args:
        web: What serves.
        paths: One connection for each, which asks for it again and again.

    Attributes:
        answered: How often each was answered.
    """

    def __init__(self, web, paths):
        self.web = web
        self.paths = paths
        self.answered = [0] * len(paths)

    def run(self, seconds):
        """Ask until the time is over, then take the last answers."""
        end = time.monotonic() + seconds
        with contextlib.ExitStack() as stack:
            peers = [stack.enter_context(self.web.peer()) for _ in self.paths]
            poll = select.poll()
            for number, peer in enumerate(peers):
                poll.register(peer.sock, select.POLLIN)
                self.ask(peer, number)
            numbers = {peer.sock.fileno(): number for number, peer in enumerate(peers)}
            waiting = set(numbers.values())
            while waiting:
                ready = poll.poll(1000 * DEADLINE)
                assert ready, f"no answers to {len(waiting)} requests"
                for fd, _ in ready:
                    number = numbers[fd]
                    if self.take(peers[number], number):
                        if time.monotonic() < end:
                            self.ask(peers[number], number)
                        else:
                            waiting.discard(number)

    def ask(self, peer, number):
        path = f"{self.paths[number]}/{self.answered[number]}"
        peer.sock.sendall(wire.request(1, wire.cgi_params("GET", path), keep_conn=True))

    def take(self, peer, number):
        """Whether the answer is complete; it is checked then."""
        data = peer.sock.recv(65536)
        assert data, "closed"
        peer.answers.feed(data)
        output = peer.answers[1]
        if not output.ended:
            return False
        path = f"{self.paths[number]}/{self.answered[number]}"
        assert bytes(output.stdout).endswith(b"\r\n\r\nhello " + path.encode())
        peer.answers.outputs.clear()
        self.answered[number] += 1
        return True


def test_many_connections_beside_requests_that_sleep(kind):
    def app(environ, start_response):
        if environ["PATH_INFO"].startswith("/sleep"):
            time.sleep(0.01)
        return hello(environ, start_response)

    with serving(app, threads=8) as web:
        load = Load(web, [f"/quick{n % 3}/{n}" for n in range(110)] + ["/sleep"] * 12)
        load.run(2)
        wait_until(lambda: web.server.engine.busy == 0)
        assert web.server.engine.pending == 0
    assert min(load.answered) >= 1
    assert sum(load.answered[:110]) > sum(load.answered[110:])
