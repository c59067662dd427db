"""Requests in memory, for tests of the gateway."""

import io

import wire
from helpers import TEXT

from fastfcgi.constants import RESPONDER
from fastfcgi.exceptions import RequestAborted
from fastfcgi.exchange import Exchange
from fastfcgi.file_wrapper import FilePart
from fastfcgi.wsgi import Gateway


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
