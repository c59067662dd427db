"""Ways in which public programs use flup's servers, beyond how they call them (test_flup_patterns).

Each is written anew here, from what such programs do. It runs with fastfcgi.WSGIServer, to which a
program has changed its import, and with flup's names.
"""

import html
import os
import select
import socket
import sys
import threading
import warnings

import pytest

if not hasattr(socket, "AF_UNIX") or not hasattr(select, "poll"):
    pytest.skip("flup runs on POSIX alone", allow_module_level=True)

import wire
from helpers import DEADLINE, Serving, hello

import fastfcgi
from fastfcgi.flup.server import fcgi, fcgi_base

TCP = ("127.0.0.1", 0)

SERVERS = pytest.mark.parametrize(
    "base", [fastfcgi.WSGIServer, fcgi.WSGIServer], ids=["ours", "flup"]
)
FLUP = pytest.mark.parametrize("base", [fcgi.WSGIServer], ids=["flup"])


class Broken(Exception):
    """What applications here raise."""


def failing(environ, start_response):
    raise Broken("a secret")


def posted(web, body, **params):
    """The response to a form."""
    form = {"CONTENT_TYPE": "application/x-www-form-urlencoded", "CONTENT_LENGTH": str(len(body))}
    with web.peer() as peer:
        response = peer.request(wire.cgi_params("POST", "/form", **form, **params), body)
    assert response.ended
    return response


# ------------------------------------------------------------------------------------ error()


@SERVERS
def test_a_page_in_pieces_by_a_class_that_a_function_makes(base):
    """An old framework: its own status and headers, each written by itself."""

    def with_pages(server):
        class Own(server):
            def error(self, req):
                write = req.stdout.write
                write("Status: 503 Busy\r\n")
                for name, value in (("X-One", "1"), ("Content-Type", "text/html")):
                    write(name + ": " + value + "\r\n")
                write("\r\n" + "<p>busy</p>")

        return Own

    with Serving(with_pages(base)(failing, multiplexed=True, bindAddress=TCP)) as web:
        response = web.get()
        assert (response.status, response.header("X-One")) == (503, "1")
        assert response.body == b"<p>busy</p>"


@SERVERS
@pytest.mark.parametrize("debug", ["off", "web", "external"])
def test_a_wikis_pages(base, debug):
    """debug is a word of its own, the page has no Status, or the exception is to go on."""

    class Own(base):
        def error(self, req):
            if self.debug == "external":
                raise  # noqa: PLE0704
            page = html.escape(repr(sys.exc_info()[1])) if self.debug == "web" else "Unhandled"
            req.stdout.write("Content-Type: text/html\r\n\r\n" + page)

    with Serving(Own(failing, debug=debug, bindAddress=TCP)) as web:
        response = web.get()
        if debug == "external":
            assert (response.ended, response.closed) == (False, True)
        else:
            shown = "Broken" if debug == "web" else "Unhandled"
            assert (response.ended, response.status) == (True, 200)
            assert shown in response.body.decode()


@SERVERS
def test_who_is_told_first(base):
    """The exception is mailed to somebody; the page is the server's own."""
    told = []

    class Own(base):
        def error(self, req):
            told.append((sys.exc_info()[0], req.params["PATH_INFO"]))
            super().error(req)

    with Serving(Own(failing, bindAddress=TCP)) as web:
        response = web.get("/here")
    assert (response.status, response.ended, told) == (500, True, [(Broken, "/here")])
    assert b"secret" not in response.body and b"secret" in response.stderr


@SERVERS
def test_a_page_that_begins_as_in_http(base):
    """Such a line goes on as it is, as under flup: what it means is the web server's affair."""

    class Own(base):
        def error(self, req):
            req.stdout.write("HTTP/1.1 500 INTERNAL SERVER ERROR\r\n")
            req.stdout.write("Content-Type: text/html\r\n\r\n500 Error")

    with Serving(Own(failing, bindAddress=TCP)) as web, web.peer() as peer:
        peer.send(wire.request(1, wire.cgi_params()))
        stdout = bytes(peer.receive()[1].stdout)
    assert stdout.startswith(b"HTTP/1.1 500 INTERNAL SERVER ERROR\r\nContent-Type: text/html\r\n")
    assert stdout.endswith(b"\r\n\r\n500 Error")


# ---------------------------------------------------------------------------------- handler()


class Restart(Exception):
    """An application's wish."""


def wishes(environ, start_response):
    if environ["PATH_INFO"] == "/restart":
        raise Restart("once more")
    if environ["PATH_INFO"] == "/exit":
        sys.exit("enough")
    if environ["PATH_INFO"] == "/fails":
        raise Broken("a secret")
    if environ["PATH_INFO"] == "/begun":
        start_response("200 OK", [])(b"begun")
        raise Restart("too late")
    return hello(environ, start_response)


class Catching:
    """Answers in the place of an application that wants something else."""

    def handler(self, req):
        try:
            return super().handler(req)
        except Restart as wish:
            req.stdout.write(f"Status: 200 OK\r\nRefresh: 1\r\n\r\n{wish}")
        except SystemExit as wish:
            req.stdout.write(f"Status: 200 OK\r\n\r\nended: {wish}")
        return fcgi_base.FCGI_REQUEST_COMPLETE, 0


@FLUP
def test_what_an_application_raises_goes_through_handler(base):
    class Own(Catching, base):
        pass

    with Serving(Own(wishes, bindAddress=TCP)) as web:
        assert web.get("/x").body == b"hello /x"
        response = web.get("/restart")
        assert (response.status, response.header("Refresh")) == (200, "1")
        assert response.body == b"once more"
        assert web.get("/exit").body == b"ended: enough"
        # what it does not catch has error()'s page
        response = web.get("/fails")
        assert (response.status, response.ended) == (500, True)
        response = web.get("/begun")
        assert (response.body, response.ended, response.closed) == (b"begun", False, True)


@FLUP
def test_a_handler_and_a_page_of_ones_own(base):
    """The exception is still there for the page; a page that fails is none."""

    class Own(Catching, base):
        def error(self, req):
            if self.debug:
                raise RuntimeError
            req.stdout.write(f"Status: 501 X\r\n\r\n{sys.exc_info()[0].__name__}")

    with Serving(Own(wishes, bindAddress=TCP)) as web:
        response = web.get("/fails")
        assert (response.status, response.body, response.ended) == (501, b"Broken", True)
        web.server.debug = True
        response = web.get("/fails")
        assert (response.ended, response.closed) == (False, True)


# ------------------------------------------------------------------------- when it is to end


@SERVERS
@pytest.mark.parametrize("way", ["keep going", "exit"])
def test_it_ends_when_a_file_is_touched(base, way, tmp_path):
    """A class with arguments of its own that looks at the script's time."""

    class Restarting(base):
        def __init__(self, app, watched, **kwargs):
            kwargs.setdefault("minSpare", 1)
            kwargs.setdefault("maxThreads", 50)
            base.__init__(self, app, **kwargs)
            self.file = watched
            self.begun = os.stat(watched).st_mtime

        def _mainloopPeriodic(self):
            base._mainloopPeriodic(self)
            if os.stat(self.file).st_mtime > self.begun:
                if way == "exit":
                    self._exit()
                else:
                    self._keepGoing = False

    script = tmp_path / "site.fcgi"
    script.write_text("")
    os.utime(script, (1, 1))
    with Serving(Restarting(hello, script, bindAddress=TCP)) as web:
        assert web.get("/x").body == b"hello /x"
        os.utime(script)
        assert web.wait() is False


@SERVERS
def test_it_is_tried_again_until_it_ends_by_itself(base, tmp_path, monkeypatch):
    """`while True: try run(), break, except log` around a server that is made each time."""
    monkeypatch.chdir(tmp_path)
    failures, ended = [], threading.Event()

    class Own(base):
        def _setupSocket(self):
            if not failures:
                raise Broken
            return super()._setupSocket()

    running = []

    def main():
        while True:
            try:
                running.append(Own(hello, bindAddress="./app.sock"))
                running[-1].run()
                break
            except Exception as error:
                failures.append(type(error))
        ended.set()

    thread = threading.Thread(target=main, daemon=True)
    thread.start()
    try:
        while len(running) < 2:
            thread.join(0.01)
        assert running[-1].wait_ready(DEADLINE)
        with wire.Peer("app.sock") as peer:
            assert peer.request().status == 200
    finally:
        running[-1].stop()
        thread.join(DEADLINE)
    assert ended.is_set() and failures == [Broken]


# ------------------------------------------------------------------------ what is handed over


@SERVERS
def test_environ_of_numbers(base):
    """environ={"SERVER_PORT": 8081}; applications get what was given."""

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [repr([environ["SERVER_PORT"], environ["SERVER_NAME"]]).encode()]

    given = {"SERVER_NAME": "WSGIServer", "SERVER_PORT": 8081, "SERVER_PROTOCOL": "wsgi"}
    config = {"environ": given, "bindAddress": TCP, "multiprocess": False}
    with Serving(base(app, **config)) as web:
        assert web.get().body == b"[8081, 'WSGIServer']"


class Site:
    """An application with several ways to be one."""

    def __init__(self, base):
        self.server = base(self._main, bindAddress=TCP, multiplexed=True, multithreaded=False)

    def _main(self, environ, start_response):
        assert environ["wsgi.multithread"] is False
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"from a "
        yield b"method"

    def __call__(self, environ, start_response):
        return self._main(environ, start_response)


@SERVERS
def test_applications_that_are_methods_and_objects(base):
    site = Site(base)
    with Serving(site.server) as web:
        assert web.get().body == b"from a method"
    with Serving(base(site, bindAddress=TCP, multithreaded=False)) as web:
        assert web.get().body == b"from a method"


@SERVERS
@pytest.mark.parametrize("result", ["not found", ["not ", "found"], ("not found",), [], [""]])
def test_results_of_str(base, result):
    """Python 2's applications return them, and one str in the place of a list."""

    def app(environ, start_response):
        start_response("404 Not Found", [])
        return result

    with Serving(base(app, bindAddress=TCP)) as web:
        response = web.get()
        assert (response.status, response.ended) == (404, True)
        assert response.body == "".join(result).encode()


@SERVERS
def test_forms(base):
    """Read by length, by lines, and by cgi.FieldStorage."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        cgi = sys.modules.get("cgi") or (__import__("cgi") if sys.version_info < (3, 13) else None)

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        way = environ["QUERY_STRING"]
        if way == "length":
            return [environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))]
        if way == "lines":
            return list(environ["wsgi.input"])
        form = cgi.FieldStorage(fp=environ["wsgi.input"], environ=environ, keep_blank_values=True)
        return [f"a={form['a'].value}&b={form.getfirst('b')}".encode()]

    with Serving(base(app, bindAddress=TCP)) as web:
        for way in ("length", "lines", *(["form"] if cgi else [])):
            assert posted(web, b"a=1&b=", QUERY_STRING=way).body == b"a=1&b="


@FLUP
def test_an_environ_that_is_put_right(base):
    """A framework has no SCRIPT_NAME, whatever the web server says."""

    class Own(base):
        def _sanitizeEnv(self, environ):
            super()._sanitizeEnv(environ)
            environ["SCRIPT_NAME"] = ""
            environ["X_PATH"] = environ["PATH_INFO"]

    def app(environ, start_response):
        start_response("200 OK", [])
        return [repr([environ["SCRIPT_NAME"], environ["X_PATH"]]).encode()]

    with Serving(Own(app, bindAddress=TCP)) as web:
        with web.peer() as peer:
            params = wire.cgi_params("GET", "/x", SCRIPT_NAME="/app.fcgi")
            assert peer.request(params).body == b"['', '/x']"


@SERVERS
def test_a_stderr_that_only_writes(base, monkeypatch):
    """Daemons put an object there that swallows all; wsgi.errors goes there, too."""

    class Nothing:
        def __init__(self):
            self.seen = []

        def write(self, text):
            self.seen.append(text)

    def app(environ, start_response):
        print("noted", file=environ["wsgi.errors"])
        return hello(environ, start_response)

    nothing = Nothing()
    monkeypatch.setattr(sys, "stderr", nothing)
    with Serving(base(app, bindAddress=TCP)) as web:
        response = web.get()
    assert (response.status, response.stderr) == (200, b"noted\n")
    assert "".join(nothing.seen) == "noted\n"
