"""What several test files need: kinds of engines, threads that wait, servers in threads."""

import contextlib
import functools
import threading
import time

import wire
from gil import HAS_GIL

from fastfcgi import WSGIServer
from fastfcgi.engine import Engine
from fastfcgi.poller import SelectorPoller

# A loaded machine is slow; a deadline only has to end a test that hangs.
DEADLINE = 30.0

TEXT = [("Content-Type", "text/plain")]

# The kinds of engine that there are, whatever this system would choose.
ENGINES = {
    "parallel": functools.partial(Engine, parallel=True),
    "selector, parallel": lambda *args, **more: Engine(
        *args, parallel=True, poller=SelectorPoller(True), **more
    ),
}
if HAS_GIL:
    ENGINES["turns"] = functools.partial(Engine, parallel=False)
    ENGINES["selector"] = lambda *args, **more: Engine(
        *args, parallel=False, poller=SelectorPoller(False), **more
    )


def engine_threads():
    """The running threads of engines."""
    return [one for one in threading.enumerate() if one.name.startswith("fastfcgi-")]


def switches(thread):
    """How often a thread has given the processor up by itself, by waiting (Linux only)."""
    with open(f"/proc/self/task/{thread.native_id}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("voluntary"))


@contextlib.contextmanager
def blocked(call, *args, **kwargs):
    """Run a call that waits, in a thread; it has to have ended at the end of the block.

    Yields an object: `waiting()` tells whether it waits, `result()` gives what it returned or
    raises what it raised.
    """
    outcome = []

    def run():
        try:
            outcome.append((call(*args, **kwargs), None))
        except BaseException as error:
            outcome.append((None, error))

    class Waiter:
        def waiting(self):
            # Nothing can prove that a thread waits for ever; that it does for a moment has to do.
            thread.join(0.05)
            return thread.is_alive()

        def result(self):
            thread.join(DEADLINE)
            assert not thread.is_alive(), "still waiting"
            value, error = outcome[0]
            if error is not None:
                raise error
            return value

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield Waiter()
    thread.join(DEADLINE)
    assert not thread.is_alive(), "still waiting"


def wait_until(condition, what="it"):
    """Wait for a condition and return what it gave."""
    end = time.monotonic() + DEADLINE
    while not (result := condition()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.005)
    return result


# --------------------------------------------------------------------- a server in a thread


class Serving:
    """A server that runs in a thread; ends with the with block.

    Args:
        server: A WSGIServer.

    Attributes:
        result: What run() returned, or the exception that it raised.
    """

    def __init__(self, server):
        self.server = server
        self.result = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        try:
            self.result = self.server.run()
        except BaseException as error:
            self.result = error

    @property
    def address(self):
        return self.server.addresses[0]

    @property
    def running(self):
        return self._thread.is_alive()

    def peer(self, address=None):
        return wire.Peer(self.address if address is None else address)

    def get(self, path="/", **options):
        """The response to one request on a connection of its own."""
        with self.peer() as peer:
            return peer.request(wire.cgi_params("GET", path), **options)

    def wait(self):
        """Wait for the end of run(); what it returned or raised."""
        self._thread.join(DEADLINE)
        assert not self.running, "run() did not end"
        return self.result

    def __enter__(self):
        self._thread.start()
        wait_until(lambda: self.server.wait_ready(0.01) or not self.running, "the server to listen")
        return self

    def __exit__(self, kind, value, trace):
        if self.running:
            self.server.stop()
        self.wait()


def hello(environ, start_response):
    start_response("200 OK", list(TEXT))
    return [b"hello ", environ["PATH_INFO"].encode("latin-1")]


class Gate:
    """An application whose requests below /wait end when they are told to.

    Attributes:
        inside: How many are running, and the most that ever were.
    """

    def __init__(self):
        self.open = threading.Event()
        self.lock = threading.Lock()
        self.inside = self.most = 0

    def __call__(self, environ, start_response):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        if environ["PATH_INFO"].startswith("/wait"):
            assert self.open.wait(DEADLINE)
        with self.lock:
            self.inside -= 1
        return hello(environ, start_response)

    def wait_for(self, count):
        wait_until(lambda: self.inside == count, f"{count} running requests")


def serving(app=hello, **options):
    options.setdefault("bind", "127.0.0.1:0")
    return Serving(WSGIServer(app, **options))


@contextlib.contextmanager
def waiting(web, count, path="/wait"):
    """So many peers that have sent a request."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(web.peer()) for _ in range(count)]
        for peer in peers:
            peer.send(wire.request(1, wire.cgi_params("GET", path)))
        yield peers


def ask(peer, path="/"):
    """A request on a kept connection."""
    response = peer.request(wire.cgi_params("GET", path), keep_conn=True)
    assert response.status == 200
    return response.body


def make_quick(peer, *paths):
    """Ask so often that these paths, and others that are not known, are known to be quick."""
    for path in [*paths, *(f"/quick{number}/" for number in range(50))]:
        for _ in range(30):
            ask(peer, path)
