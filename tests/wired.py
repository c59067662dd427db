"""Channels of an engine that has no threads, and the web server's end of their connections."""

import contextlib
import select
import socket

import wire
from helpers import DEADLINE, hello

from fastfcgi.channel import Channel
from fastfcgi.connection import ConnectionSettings
from fastfcgi.constants import RESPONDER
from fastfcgi.engine import READ, WRITE, Engine
from fastfcgi.limits import Limits
from fastfcgi.scgi_channel import ScgiChannel
from fastfcgi.service import Service
from fastfcgi.wsgi import Gateway

ANSWER = b"Status: 200 OK\r\n\r\nfine"


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
    engine,
    server,
    app=None,
    roles=(RESPONDER,),
    values=None,
    max_connections=1000,
    scgi=False,
    **limits,
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
    return Service(
        server, engine, gateway, limits, settings, max_connections, overridden, scgi=scgi
    )


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
        kind = ScgiChannel if self.service.scgi else Channel
        self.channel = kind(self.service, end.detach(), is_inet)
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
            # A thread in `blocked` that wants more may take it in before us, or all by itself.
            if not self.ready(0.01 if rest else 0.2) and not (self.mask or 0) & READ:
                if self.closed or not (rest and select.select([], [self.sock], [], 0.2)[1]):
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
