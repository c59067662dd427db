"""Ways in which public programs use flup's FCGIApp: monitors, tests, one server in front of others.

Each is written anew here, from what such programs do.
"""

import io
import socket
import struct
import sys
import threading

import pytest

if not hasattr(socket, "AF_UNIX"):
    pytest.skip("flup runs on POSIX alone", allow_module_level=True)

from helpers import DEADLINE, Serving, hello
from test_flup_client import TCP, Call, environ_of, show

from fastfcgi import WSGIServer
from fastfcgi.client import RequestTimeout
from fastfcgi.flup.client import fcgi_app
from fastfcgi.flup.client.fcgi_app import FCGIApp
from fastfcgi.flup.server import fcgi


@pytest.fixture(scope="module")
def fcgi_server():
    with Serving(WSGIServer(show, bind="127.0.0.1:0")) as web:
        yield web.address


class Impatient(FCGIApp):
    """What a monitor has made of it: a connection of its own that waits for 0.2 seconds."""

    def _getConnection(self):
        sock = socket.create_connection(self._connect)
        sock.settimeout(0.2)
        return sock


def test_a_connection_of_ones_own(fcgi_server):
    assert b"PATH_INFO=/x\n" in Call(Impatient(connect=fcgi_server)).body
    with socket.create_server(TCP) as silent:
        # if nobody else does, this ends the wait: with another exception
        timer = threading.Timer(DEADLINE, silent.close)
        timer.start()
        try:
            with pytest.raises(RequestTimeout):
                Call(Impatient(connect=silent.getsockname()))
        finally:
            timer.cancel()
            timer.join()


class ByItself(FCGIApp):
    """A monitor that speaks to the server itself, with what it finds in the module."""

    def __call__(self, environ, start_response):
        names = sys.modules[FCGIApp.__module__]
        sock = self._getConnection()
        record = names.Record(names.FCGI_BEGIN_REQUEST, 1)
        record.contentData = names.struct.pack(
            names.FCGI_BeginRequestBody, names.FCGI_RESPONDER, 0
        )
        record.contentLength = names.FCGI_BeginRequestBody_LEN
        record.write(sock)
        self._fcgiParams(sock, 1, self._lightFilterEnviron(environ))
        self._fcgiParams(sock, 1, {})
        names.Record(names.FCGI_STDIN, 1).write(sock)
        result = []
        while record.type != names.FCGI_END_REQUEST:
            record = names.Record()
            record.read(sock)
            if record.type == names.FCGI_STDOUT:
                result.append(record.contentData)
        sock.close()
        return result


def test_records_by_a_subclass_itself(fcgi_server):
    environ = {**environ_of(), "LONG": "x" * 300}
    environ = {name: value for name, value in environ.items() if "." not in name}
    body = b"".join(ByItself(connect=fcgi_server)(environ, None))
    assert b"PATH_INFO=/x\n" in body and b"LONG=" + b"x" * 300 + b"\n" in body


def test_pairs():
    """As flup's, if that is there; and each reads what the other has written."""
    theirs = pytest.importorskip("flup.server.fcgi_base")
    pairs = [(b"", b""), (b"A", b"x" * 127), (b"N" * 128, b""), (b"N" * 300, b"y" * 70000)]
    for name, value in pairs:
        data = fcgi_app.encode_pair(name, value)
        assert data == theirs.encode_pair(name, value)
        for module in (fcgi_app, theirs):
            assert module.decode_pair(b"." + data, 1) == (len(data) + 1, (name, value))
    for cut in (b"", b"\x01", b"\x80\0"):
        with pytest.raises((IndexError, struct.error)):
            fcgi_app.decode_pair(cut)


@pytest.mark.parametrize("text", ["caf\xe9", "x" * 200_000])
def test_a_body_of_text(fcgi_server, text):
    """Monitors and tests make an environ with an io.StringIO."""
    environ = {**environ_of("POST", "/", text.encode("latin-1")), "wsgi.input": io.StringIO(text)}
    assert Call(FCGIApp(connect=fcgi_server), environ).body.endswith(b"\n" + text.encode("latin-1"))


def test_one_server_in_front_of_others():
    """/PORT/PATH is asked of the server at that port; where none is, that is told."""

    def forward(environ, start_response):
        _, port, path = environ["PATH_INFO"].split("/", 2)
        environ = {**environ, "PATH_INFO": "/" + path}
        try:
            return FCGIApp(connect=("127.0.0.1", int(port)))(environ, start_response)
        except OSError as error:
            start_response("502 Bad Gateway", [])
            return type(error).__name__

    with Serving(WSGIServer(hello, bind="127.0.0.1:0")) as inner:
        port = inner.address[1]
        with Serving(fcgi.WSGIServer(forward, bindAddress=TCP)) as web:
            assert web.get(f"/{port}/a b").body == b"hello /a b"
            inner.server.stop()
            inner.wait()
            response = web.get(f"/{port}/x")
            assert (response.status, response.body) == (502, b"ConnectFailed")
