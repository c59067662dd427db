"""docs/migrating-from-flup.md says what differs: both columns of its table, by running both.

The same script runs twice, by Python with flup and by `python -m fastfcgi.flup`.
"""

import ast
import contextlib
import importlib
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("looks at processes in Linux's way", allow_module_level=True)

import wire
from helpers import serving
from processes import DEADLINE, Process, accepts, environment, missing, server_folder, wait_until
from runtimes import own_runtime

import fastfcgi
from fastfcgi.drop_in import DEFAULT_THREADS
from fastfcgi.flup.server import fcgi
from fastfcgi.limits import Limits

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "migrating-from-flup.md"

SCRIPT = """
import os, sys, threading
from flup.server.fcgi import WSGIServer

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/fails":
        raise RuntimeError("secret")
    if path == "/bytes":
        start_response(b"201 Made", [(b"X-Name", b"value")])
        return [b"body"]
    headers = [("Content-Type", "text/plain")]
    if path == "/split":
        headers.append(("X-One", "1\\r\\nX-Two: 2"))
    write = start_response("200 OK", headers)
    if path == "/late":
        write(b"begun")
        raise RuntimeError
    if path == "/together":
        inside.append(path)
        with gate:
            gate.notify_all()
            both = gate.wait_for(lambda: len(inside) > 1, 1)
        return [str(both).encode()]
    return [repr(environ.get(environ["QUERY_STRING"])).encode()]

inside, gate = [], threading.Condition()
kind, options = sys.argv[1], eval(sys.argv[2])
server = WSGIServer(app, bindAddress="s", **options)
if kind == "thread":
    def run():
        try:
            server.run()
        except ValueError:
            os._exit(3)
    threading.Thread(target=run).start()
else:
    server.run()
"""

NAMES = ("flup", "fastfcgi")


@contextlib.contextmanager
def started(name, kind="main", options="{}", listens=True, text=SCRIPT):
    """The script, by one of them."""
    if importlib.util.find_spec("flup") is None:
        missing("flup")
    with server_folder() as folder:
        path = folder / "site.py"
        path.write_text(text)
        module = ["-m", "fastfcgi.flup"] if name == "fastfcgi" else []
        command = [sys.executable, "-W", "ignore", *module, str(path), kind, options]
        process = Process(command, folder, name, own_runtime().env)
        process.address = f"{folder}/s"
        with ended(process):
            if listens:
                process.wait_for(process.address)
            yield process


@contextlib.contextmanager
def ended(process):
    """At the end of the block it is no more, whatever it did: some of these have ended by then,
    and some cannot be ended."""
    try:
        yield
    finally:
        process.popen.kill()
        process.popen.wait(DEADLINE)


@pytest.fixture(scope="module")
def running():
    """Both, as they are by default."""
    with started("flup") as flup, started("fastfcgi") as ours:
        yield {"flup": flup, "fastfcgi": ours}


@pytest.fixture
def answers(running):
    """The responses of flup and of fastfcgi to a request."""

    def ask(path="/", **params):
        found = []
        for name in NAMES:
            with wire.Peer(running[name].address) as peer:
                found.append(peer.request(wire.cgi_params("GET", path, **params)))
        return found

    return ask


# ----------------------------------------------------------------- requests and responses


def test_path_info_from_request_uri(answers):
    flup, ours = answers("", REQUEST_URI="/a%20b", QUERY_STRING="PATH_INFO")
    assert (flup.body, ours.body) == (b"'/a%20b'", b"'/a b'")


def test_a_header_that_comes_twice(running):
    found = []
    for name in NAMES:
        pairs = [*wire.cgi_params("GET", "/", "HTTP_X_A").items(), ("HTTP_X_A", "1")]
        with wire.Peer(running[name].address) as peer:
            found.append(peer.request([*pairs, ("HTTP_X_A", "2")]).body)
    assert found == [b"'2'", b"'1, 2'"]


def test_proxy_of_the_client(answers):
    flup, ours = answers("/", QUERY_STRING="HTTP_PROXY", HTTP_PROXY="evil")
    assert (flup.body, ours.body) == (b"'evil'", b"None")


def test_cr_lf_in_a_response_header(answers):
    flup, ours = answers("/split")
    assert flup.header("X-Two") == "2"
    assert (ours.status, ours.header("X-Two")) == (500, None)


def test_an_exception_late_in_a_response(answers):
    flup, ours = answers("/late")
    assert (flup.body, flup.ended) == (b"begun", True)
    assert (ours.body, ours.ended, ours.closed) == (b"begun", False, True)


def test_bytes(answers):
    for response in answers("/bytes"):
        assert (response.status, response.header("X-Name")) == (201, "value")

    def app(environ, start_response):
        start_response(b"201 Made", [])

    with serving(app) as web:
        assert web.get().status == 500


def test_error(answers):
    flup, ours = answers("/fails")
    assert (flup.status, ours.status) == (500, 500)
    assert flup.header("Content-Type") == "text/html"
    assert ours.header("Content-Type").startswith("text/plain")
    with started("flup", options="{'debug': True}") as debugging:
        with wire.Peer(debugging.address) as peer:
            response = peer.request(wire.cgi_params("GET", "/fails"))
    # By cgitb, which is gone since Python 3.13: then there is no page at all.
    assert b"secret" in response.body or sys.version_info >= (3, 13)


def test_multiplexed_false(running):
    """Two requests on one connection that wait for each other."""
    found = []
    for name in NAMES:
        with wire.Peer(running[name].address) as peer:
            params = wire.cgi_params("GET", "/together")
            peer.send(wire.request(1, params, keep_conn=True))
            peer.send(wire.request(2, params, keep_conn=True))
            found.append(peer.receive_end(1).body)
    assert found == [b"False", b"True"]


# ---------------------------------------------------------------------- threads and the end


def test_threads():
    """A kept connection that does nothing: with one thread, flup has none left."""
    assert f"| {DEFAULT_THREADS}, or `maxThreads`; " in row_of("threads")
    for name in NAMES:
        with started(name, options="{'maxSpare': 1, 'maxThreads': 1}") as process:
            with wire.Peer(process.address) as idle:
                assert idle.request(keep_conn=True).status == 200
                with wire.Peer(process.address) as other:
                    if name == "flup":
                        other.receive_close()
                    else:
                        assert other.request().status == 200


def test_when_all_are_busy():
    """Flup's side is in the test above, that of a full queue in tests/test_server.py."""
    text = row_of("when all are busy")
    assert f"| {Limits().queue_size} requests wait, then `Status: 503` |" in text


def test_term():
    """With a kept connection open."""
    assert f"`graceful_timeout`, {Limits().graceful_timeout:g} s;" in row_of("TERM")
    for name in NAMES:
        with started(name) as process, wire.Peer(process.address) as idle:
            assert idle.request(keep_conn=True).status == 200
            process.popen.send_signal(signal.SIGTERM)
            if name == "flup":
                wait_until(lambda p=process: not accepts(p.address), "the socket to be closed")
                assert idle.request(request_id=2, keep_conn=True).status == 200
                assert process.popen.poll() is None
            else:
                assert process.wait() == 0


def test_a_path_in_use(running):
    found = []
    for name in NAMES:
        with started(name) as process:
            before = os.stat(process.address).st_ino
            folder = os.path.dirname(process.address)
            second = Process(process.popen.args, Path(folder), "second", own_runtime().env)
            with ended(second):
                if name == "flup":
                    wait_until(lambda p=process, b=before: inode(p.address) not in (b, 0), "a new")
                    found.append("taken")
                else:
                    assert second.wait() == 1
                    assert "another server is listening there" in second.log()
                    found.append("refused")
    assert found == ["taken", "refused"]


def inode(path):
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0


def test_the_path_afterwards():
    found = []
    for name in NAMES:
        with started(name) as process:
            assert process.stop() == 0
            found.append(os.path.exists(process.address))
    assert found == [True, False]


def test_run_off_the_main_thread():
    with started("flup", "thread", listens=False) as process:
        assert process.wait() == 3
    with started("fastfcgi", "thread") as process, wire.Peer(process.address) as peer:
        assert peer.request().status == 200


def test_plain_cgi(tmp_path):
    """Flup finds it out by a call that Python 3 does not let fail as it expects."""
    path = tmp_path / "site.py"
    path.write_text(SCRIPT.replace('bindAddress="s", ', ""))
    env = {**own_runtime().env, "GATEWAY_INTERFACE": "CGI/1.1", **wire.cgi_params("GET", "/")}
    codes = []
    for module in ([], ["-m", "fastfcgi.flup"]):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *module, str(path), "main", "{}"],
            env=environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE,
        )
        codes.append(done.returncode)
    assert codes == [1, 0]
    assert wire.parse_cgi(done.stdout)[0] == 200


# ---------------------------------------------------------------------------------- names


def test_setup_socket():
    server = fcgi.WSGIServer(lambda *given: [], bindAddress=("127.0.0.1", 0))
    listeners = server._setupSocket()
    try:
        assert isinstance(listeners, list)
        with (
            socket.create_connection(listeners.getsockname()),
            contextlib.closing(listeners.accept()[0]),
        ):
            pass
    finally:
        server._cleanupSocket(listeners)


def test_thread_pool():
    server = fcgi.WSGIServer(lambda *given: [])
    assert type(server._threadPool).__module__ == "fastfcgi.drop_in"


def flups(name):
    """A module of flup itself."""
    if importlib.util.find_spec("flup") is None:
        missing("flup")
    return importlib.import_module(f"flup.{name}")


def hello(environ, start_response):
    start_response("200 OK", [])
    return []


def test_the_version():
    assert flups("server.fcgi").__version__ == "$Revision$"
    assert fcgi.__version__ == fastfcgi.__version__


def test_fcgi_app():
    """It asks whether its address is of a type that Python 3 does not have."""
    app = flups("client.fcgi_app").FCGIApp(connect=("127.0.0.1", 1))
    with pytest.raises(AttributeError, match="StringTypes"):
        app({}, None)


def test_pastes_options():
    """It asks whether they are of a type that Python 3 does not have."""
    with pytest.raises(NameError, match="unicode"):
        flups("server.paste_factory").run_fcgi_thread(hello, {"debug": "false"})


def test_an_address_that_scgi_cannot_have():
    """In a process of its own: it leaves the socket open."""
    flups("server.scgi")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = f"""
from flup.server.scgi import WSGIServer
try:
    WSGIServer(None, bindAddress={taken.getsockname()!r}).run()
except TypeError:
    print("TypeError")
"""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", text],
            env=environment(own_runtime().env),
            capture_output=True,
            timeout=DEADLINE,
        )
    assert done.stdout == b"TypeError\n"


@pytest.mark.filterwarnings("ignore:setDaemon|notifyAll:DeprecationWarning")
def test_logging_level():
    server = flups("server.scgi").WSGIServer(hello, loggingLevel=7)
    server.shutdown()
    assert server.logger.name == "scgi-wsgi" and server.logger.level == 7


def test_timeout_of_fcgi_fork():
    """An exception in the application, here; there the request's worker goes."""
    fork = SCRIPT.replace("flup.server.fcgi ", "flup.server.fcgi_fork ")
    fork = fork.replace('if path == "/fails":', 'if path == "/slow":\n        time.sleep(1000)')
    found = []
    for name in NAMES:
        more = {} if name == "flup" else {"graceful_timeout": 0.3}
        options = repr({"timeout": 1, **more})
        with started(name, options=options, text="import time\n" + fork) as process:
            with wire.Peer(process.address) as peer:
                found.append(peer.request(wire.cgi_params("GET", "/slow")))
            with wire.Peer(process.address) as peer:
                assert peer.request().status == 200
            assert process.stop() == 0
    assert (found[0].status, found[0].ended) == (500, True)
    assert (found[1].status, found[1].ended, found[1].closed) == (None, False, True)


# ---------------------------------------------------------------------------------- the page


def lines():
    """First cell -> line of the table of what differs."""
    if not PAGE.exists():
        pytest.skip("the documentation is not here")
    section = PAGE.read_text().split("\n## What differs\n")[1].split("\n## ")[0]
    found = re.findall(r"^\|.*\|$", section, re.MULTILINE)[2:]
    return {line.split("|")[1].strip(): line for line in found}


def row_of(name):
    return lines()[name]


# What stands in the table -> the test of it: here, or in another file.
TESTED = {
    "threads": "test_threads",
    "when all are busy": "test_when_all_are_busy",
    "TERM": "test_term",
    "a path in use": "test_a_path_in_use",
    "the path afterwards": "test_the_path_afterwards",
    "`multiplexed=False`": "test_multiplexed_false",
    "`run()` off the main thread": "test_run_off_the_main_thread",
    "plain CGI": "test_plain_cgi",
    "PATH_INFO from REQUEST_URI": "test_path_info_from_request_uri",
    "a header that comes twice": "test_a_header_that_comes_twice",
    "`Proxy:` of the client": "test_proxy_of_the_client",
    "CR, LF in a response header": "test_cr_lf_in_a_response_header",
    "an exception late in a response": "test_an_exception_late_in_a_response",
    "status and headers of bytes": "test_bytes",
    "`error(req)`": "test_error",
    "`_setupSocket()`": "test_setup_socket",
    "`_threadPool`": "test_thread_pool",
    "`timeout` of `fcgi_fork`": "test_timeout_of_fcgi_fork",
    "`FCGIApp`, `SCGIApp`": "test_fcgi_app",
    "Paste's options": "test_pastes_options",
    "an address that `scgi` cannot have": "test_an_address_that_scgi_cannot_have",
    "`loggingLevel`": "test_logging_level",
    "`__version__`": "test_the_version",
}


def test_every_line_of_the_table_is_tested():
    assert list(lines()) == list(TESTED)
    for test in TESTED.values():
        file, _, name = test.rpartition("::")
        tree = ast.parse((TESTS / (file or Path(__file__).name)).read_text())
        assert name in [one.name for one in tree.body if isinstance(one, ast.FunctionDef)], test
