"""Scripts as public programs have them, run by `python -m fastfcgi.flup`: names that they import,
servers that fork, signals, plain CGI.

Each is written anew here, from what such programs do.
"""

import os
import signal
import subprocess
import sys

import pytest
import scgi_wire

if not hasattr(os, "fork"):
    pytest.skip("flup runs on POSIX alone", allow_module_level=True)

from flup_scripts import APP, ask, end, seen, starter
from processes import DEADLINE, server_folder, wait_until
from runtimes import own_runtime


@pytest.fixture
def folder():
    with server_folder() as place:
        yield place


@pytest.fixture
def run(folder):
    return starter(folder)


def printed(folder, code, **options):
    """What a script prints that serves nothing."""
    path = folder / "names.py"
    path.write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "fastfcgi.flup", str(path)],
        env={**own_runtime().env, **options.pop("env", {})},
        capture_output=True,
        timeout=DEADLINE,
        **options,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


# ------------------------------------------------------------------------------------- names

# One line: what a program imports, and what it makes of it.
NAMES = """
import importlib, sys
assert not any(name.startswith("flup.server.") for name in sys.modules)
servers = {"threaded": "flup.server.fcgi", "forking": "flup.server.fcgi_fork"}
for name in servers.values():
    assert __import__(name, globals(), locals(), ["WSGIServer"]).WSGIServer.run
assert importlib.import_module(".server.fcgi_fork", "flup").WSGIServer
assert importlib.import_module(".%s" % "server.scgi", "flup").WSGIServer
assert "flup.server.fcgi" in sys.modules and "flup.server.cgi" not in sys.modules
from flup.server import fcgi, fcgi_fork, fcgi_single, scgi, scgi_fork, singleserver, threadpool
from flup.server.fcgi import WSGIServer, __version__ as flupver
assert flupver.split(".")
from flup.server.fcgi_fork import WSGIServer as _PreFork, __version__ as of_fork

Record = Request = "mine"
from flup.server.fcgi_base import *
from flup.server.fcgi import *
from flup.server.threadedserver import *
assert WSGIServer is fcgi.WSGIServer and issubclass(WSGIServer, ThreadedServer)
assert issubclass(WSGIServer, BaseFCGIServer) and (Record, Request) == ("mine", "mine")

import flup.server.fcgi_base
flup.server.fcgi_base.DEBUG = 10
assert __debug__
from flup.server.fcgi_base import _debug
_debug(1, "told nowhere")
from flup.server.fcgi_base import Record, Connection, FCGI_AUTHORIZER, FCGI_RESPONDER
from flup.server.fcgi_base import (
    FCGI_HEADER_LEN, FCGI_Header, FCGI_NULL_REQUEST_ID,
    FCGI_ABORT_REQUEST, FCGI_BEGIN_REQUEST, FCGI_DATA, FCGI_PARAMS,
    FCGI_STDIN, FCGI_GET_VALUES, FCGI_REQUEST_COMPLETE,
)
from flup.client.fcgi_app import Record, FCGI_BEGIN_REQUEST, struct, \
    FCGI_BeginRequestBody, FCGI_RESPONDER, FCGI_BeginRequestBody_LEN, FCGI_STDIN, \
    FCGI_DATA, FCGI_STDOUT, FCGI_STDERR, FCGI_END_REQUEST, FCGIApp
assert struct.calcsize(FCGI_BeginRequestBody) == FCGI_BeginRequestBody_LEN == 8
assert Record is flup.server.fcgi_base.Record

from flup.server.fcgi_base import Request
before = Request._end
def end(self, *args):
    before(self, *args)
    self.__dict__.clear()
Request._end = end

for name in ("flup.middleware.session", "flup.server.ajp", "flup.server.preforkserver"):
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(error.name)
"""


def test_names(folder):
    """Those that are there, and that the others are missed in the way that programs expect."""
    missing = ["flup.middleware", "flup.server.ajp", "flup.server.preforkserver"]
    assert printed(folder, NAMES).splitlines() == missing


# --------------------------------------------------------------------------- servers that fork

FORKS = (
    APP
    + """
import multiprocessing
from flup.server.MODULE import WSGIServer

def note(text):
    with open("notes", "a") as file:
        print(text, os.getpid(), file=file)

def fails(environ, start_response):
    if environ["PATH_INFO"] == "/fails":
        raise RuntimeError("a secret")
    environ["PATH_INFO"] = environ["X_PATH"]
    return app(environ, start_response)

class Site(WSGIServer):
    def error(self, req):
        note("error")
        super().error(req)

    def _sanitizeEnv(self, environ):
        super()._sanitizeEnv(environ)
        environ["X_PATH"] = environ["PATH_INFO"]

    def _child(self, sock, parent):
        note("begins")
        assert sock.fileno() >= 0
        result = super()._child(sock, parent)
        note("ends")
        return result

sys.stderr = open("errors", "a", 1)
numbers = {"minSpare": 1, "maxSpare": min(multiprocessing.cpu_count() * 2, 8),
           "maxChildren": 16, "maxRequests": 64}
sys.exit(42 if Site(fails, bindAddress=ADDRESS, **numbers).run() else 0)
"""
)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_class_that_looks_after_its_processes(run, folder, signum):
    """Each new one is prepared, and tidied up after; its errors are told."""

    def notes(text):
        lines = (folder / "notes").read_text().splitlines() if (folder / "notes").exists() else []
        return [int(line.split()[1]) for line in lines if line.startswith(text)]

    with run(FORKS.replace("MODULE", "fcgi_fork")) as process:
        worker = seen(process)["pid"]
        assert worker != process.pid and worker in notes("begins")
        with pytest.raises(AssertionError, match="500"):
            ask(process, "/fails")
        assert set(notes("error")) <= set(notes("begins")) and len(notes("error")) == 1
        end(process, signum, 42 if signum == signal.SIGHUP else 0)
        assert sorted(notes("ends")) == sorted(notes("begins"))


def test_the_same_over_scgi(run, folder):
    with run(FORKS.replace("MODULE", "scgi_fork")) as process:
        # One that does not serve yet is ended at once.
        assert scgi_wire.ask(process.address, scgi_wire.cgi_params("GET", "/x")).status == 200
        end(process)
    words = [line.split() for line in (folder / "notes").read_text().splitlines()]
    assert [w[1] for w in words if w[0] == "begins"] == [w[1] for w in words if w[0] == "ends"]


# ------------------------------------------------------------------------------------ signals

SIGNALS = (
    APP
    + """
from flup.server.fcgi import WSGIServer

class Site(WSGIServer):
    def _hupHandler(self, signum, frame):
        told.append("hup")
        WSGIServer._hupHandler(self, signum, frame)

    def _intHandler(self, signum, frame):
        told.append("int")
        WSGIServer._intHandler(self, signum, frame)

told = []
server = Site(app, bindAddress=ADDRESS, maxSpare=2, maxThreads=4)
while server.run():
    told.append("again")
    open("again", "w").close()
with open("told", "w") as file:
    file.write(" ".join(told))
"""
)


def test_handlers_of_signals_that_tell_others(run, folder):
    """A fetcher in the background is stopped, too; HUP begins again, TERM ends."""
    with run(SIGNALS) as process:
        before = seen(process)["pid"]
        process.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: (folder / "again").exists(), "run() to return")
        process.wait_for(process.address)
        assert seen(process)["pid"] == before
        end(process)
    assert (folder / "told").read_text() == "hup again int"


# ---------------------------------------------------------------------------------- plain CGI

CGI = """
import os, sys
sys.stderr = open("errors", "a")
from flup.server.{module} import WSGIServer

def app(environ, start_response):
    body = environ["wsgi.input"].read().decode()
    print("printed")
    print("noted", file=environ["wsgi.errors"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{{environ['PATH_INFO']}} {{body}}".encode()]

if __name__ == "__main__":
    try:
        os.environ["QUERY_STRING"]
    except KeyError:
        os.environ["QUERY_STRING"] = ""
    try:
        WSGIServer(app).run()
    except BaseException as error:
        assert isinstance(error, SystemExit) and not error.code
"""


@pytest.mark.parametrize("module", ["cgi", "fcgi", "fcgi_fork", "fcgi_single"])
def test_plain_cgi_with_a_log_of_its_own(folder, module):
    """stderr goes to a file, and whatever comes out of run() is caught."""
    env = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/x",
        "CONTENT_LENGTH": "4",
        "FCGI_FORCE_CGI": "Y",
    }
    text = printed(folder, CGI.format(module=module), env=env, input=b"some", cwd=folder)
    head, _, body = text.partition("\r\n\r\n")
    assert head.startswith("Status: 200 OK\r\n") and body == "/x some"
    assert "noted" in (folder / "errors").read_text()
