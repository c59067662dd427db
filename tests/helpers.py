"""What several test files need: requests in memory, servers in threads and processes."""

import contextlib
import functools
import io
import select
import socket
import sys
import threading
import time

import wire

from fastfcgi import WSGIServer
from fastfcgi.channel import Channel, Service
from fastfcgi.connection import ConnectionSettings
from fastfcgi.constants import RESPONDER
from fastfcgi.engine import READ, WRITE, Engine
from fastfcgi.exceptions import RequestAborted
from fastfcgi.file_wrapper import FilePart
from fastfcgi.limits import Limits
from fastfcgi.poller import SelectorPoller
from fastfcgi.wsgi import Exchange, Gateway

# A loaded machine is slow; a deadline only has to end a test that hangs.
DEADLINE = 30.0

TEXT = [("Content-Type", "text/plain")]
ANSWER = b"Status: 200 OK\r\n\r\nfine"


class FakeRequest(Exchange):
    """Records what the gateway does.

    Args:
        aborted_after: Writes that are taken before RequestAborted; None for all.
    """

    def __init__(self, method="GET", body=b"", role=RESPONDER, data=b"", aborted_after=None):
        super().__init__(wire.cgi_params(method), role)
        self.abandoned = False
        self.writes = []
        self.blocks = []
        self.lasts = []
        self.errors = b""
        self._aborted_after = aborted_after
        self._streams = (io.BytesIO(body), io.BytesIO(data))

    def input_stream(self):
        return self._streams[0]

    def data_stream(self):
        return self._streams[1]

    def write(self, head, data, last=False):
        if len(self.writes) == self._aborted_after:
            self.aborted = True
            raise RequestAborted("gone")
        blocks = [block for block in (head, data) if block is not None]
        assert blocks and all(blocks)
        assert head is None or type(head) is bytes
        assert type(data) in (bytes, type(None), FilePart)
        blocks = [b"".join(b.blocks()) if isinstance(b, FilePart) else b for b in blocks]
        self.blocks += blocks
        self.writes.append(b"".join(blocks))
        self.lasts.append(last)

    def write_error(self, data):
        self.errors += data

    def abandon(self):
        self.abandoned = True

    @property
    def output(self):
        return b"".join(self.writes)

    @property
    def status(self):
        return wire.parse_cgi(self.output)[0]

    @property
    def headers(self):
        return wire.parse_cgi(self.output)[1]

    @property
    def body(self):
        return wire.parse_cgi(self.output)[2]


def handled(app, request=None, **options):
    """The request after the application ran."""
    request = request or FakeRequest()
    Gateway(app, **options).handle(request)
    return request


def answering(result, status="200 OK", headers=TEXT):
    """An application that returns `result`."""

    def app(environ, start_response):
        start_response(status, list(headers))
        return result

    return app


# -------------------------------------------------- channels of an engine that has no threads


class FakeServer:
    """Notes what it is told; serves nothing."""

    checks_peers = False

    def __init__(self):
        self.calls = []

    def resume_accepting(self):
        self.calls.append("resume_accepting")


def still_engine(threads=1000, queue_size=0, **options):
    """An engine that has finished: it watches and queues, and starts no thread. The requests
    that would run are had from take()."""
    engine = Engine(threads, queue_size, **options)
    engine.finish()
    return engine


def new_service(
    engine, server, app=None, roles=(RESPONDER,), values=None, max_connections=1000, **limits
):
    """What the channels of an engine share."""
    limits = Limits(**limits)
    settings = ConnectionSettings(
        roles=roles,
        max_params_bytes=limits.max_params_bytes,
        max_requests=limits.max_requests_per_connection,
        max_unread_stdin=limits.max_unread_stdin,
        max_unread_total=limits.max_unread_total,
        values=values,
    )
    gateway = Gateway(app or hello)
    overridden = hasattr(server, "handler")
    return Service(server, engine, gateway, limits, settings, max_connections, overridden)


# The kinds of engine that there are, whatever this system would choose.
ENGINES = {
    "parallel": functools.partial(Engine, parallel=True),
    "selector, parallel": lambda *args, **more: Engine(
        *args, parallel=True, poller=SelectorPoller(True), **more
    ),
}
if getattr(sys, "_is_gil_enabled", lambda: True)():
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


class Wired:
    """A channel, and the web server's end of its connection.

    The test is leader, web server and application in one thread; what waits runs in `blocked`.

    Args:
        threads, queue_size: So many requests may wait before others are refused.
        engine: One that runs, which takes the part of leader and application.
        is_inet: The channel takes its socket, a unix one, for TCP.
        kind: SOCK_SEQPACKET keeps the borders of what is written.
        **options: Of new_service.
    """

    def __init__(
        self,
        threads=1000,
        queue_size=0,
        is_inet=False,
        kind=socket.SOCK_STREAM,
        engine=None,
        **options,
    ):
        self.server = FakeServer()
        self._own_engine = engine is None
        self.engine = still_engine(threads, queue_size) if engine is None else engine
        self.service = new_service(self.engine, self.server, **options)
        self.sock, end = socket.socketpair(type=kind)
        self.sock.settimeout(DEADLINE)
        end.setblocking(False)
        self.channel = Channel(self.service, end.detach(), is_inet)
        self.channel.on_ready(READ)
        self.answers = wire.Answers()
        self.saw_end = False
        self._requests = []

    def close(self):
        running = self.requests if self._own_engine else []
        self.sock.close()
        self.channel.on_failure()
        for request in running:
            request.end()
        if self._own_engine:
            self.engine.close()

    @property
    def requests(self):
        """All that were started."""
        while taken := self.engine.take():
            assert taken[0] is self.channel
            self._requests.append(taken[1])
        return self._requests

    @property
    def mask(self):
        """What the channel is watched for, None when it was closed."""
        return None if self.closed else max(self.channel.mask, 0)

    @property
    def closed(self):
        return self.channel.closed

    def deliver(self, *parts):
        """Send bytes and have the channel take them in, as far as it wants them."""
        rest = memoryview(b"".join(parts))
        while rest:
            self.sock.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                rest = rest[self.sock.send(rest[:65536]) :]
            self.sock.settimeout(DEADLINE)
            # A thread in `blocked` that wants more may take it in before us.
            if not self.ready(0.01 if rest else 0.2) and not (self.mask or 0) & READ:
                return
        while self.ready(0):
            pass

    def ready(self, timeout=DEADLINE):
        """One round of polling, if the channel is to receive and something is there."""
        if self.closed or not self.mask & READ:
            return False
        if not select.select([self.channel.fd], [], [], timeout)[0]:
            return False
        self.channel.on_ready(READ)
        return not self.closed

    def hang_up(self):
        """Close the web server's end."""
        self.sock.close()
        self.ready()

    def half_close(self):
        self.sock.shutdown(socket.SHUT_WR)
        self.ready()

    def read(self):
        """What the web server has got so far (see wire.Answers)."""
        # A pair of unix sockets hands over at once.
        self.sock.settimeout(0 if hasattr(socket, "AF_UNIX") else 0.2)
        with contextlib.suppress(TimeoutError, BlockingIOError):
            while data := self.sock.recv(1 << 18):
                self.answers.feed(data)
            self.saw_end = True
        return self.answers

    def response(self, request_id=1):
        output = self.read().outputs.get(request_id, wire.Output())
        return bytes(output.stdout), output.ended

    def read_all(self):
        """Read on while the channel sends on."""
        while self.mask is not None and self.mask & WRITE:
            self.read()
            self.channel.on_ready(WRITE)
        return self.read()


def get(request_id=1, keep_conn=True):
    return wire.request(request_id, wire.cgi_params(), keep_conn=keep_conn)


def post(request_id=1, body=b"", length=None, keep_conn=True, end=True):
    """A request whose body may lack its end; CONTENT_LENGTH only if given."""
    more = {} if length is None else {"CONTENT_LENGTH": str(length)}
    return (
        wire.begin_request(request_id, RESPONDER, keep_conn)
        + wire.params(request_id, wire.cgi_params("POST", **more))
        + wire.stdin(request_id, body, end=end)
    )


def answer(request, data=ANSWER):
    request.write(None, data)
    request.end()


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
