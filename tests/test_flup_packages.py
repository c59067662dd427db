"""Real packages and their own ways to start flup, unchanged, by `python -m fastfcgi.flup`.

The numbers are those of test_flup_patterns.py.
"""

import importlib.util
import signal
import socket
import sys

import pytest

if sys.platform != "linux":
    pytest.skip("looks at processes in Linux's way", allow_module_level=True)

import wire
from flup_scripts import APP, ask, end, need, seen, starter
from processes import Process, children, free_ports, require
from runtimes import own_runtime


@pytest.fixture
def run(folder):
    return starter(folder)


# -------------------------------------------------------------------------- calls that fork

FORKS = {
    "2 Open Library": "multiplexed=True, bindAddress=ADDRESS, maxChildren=4",
    "9": "maxRequests=100, maxSpare=1, minSpare=1, maxChildren=1, bindAddress=ADDRESS",
    "10": "minSpare=3, maxSpare=7, maxChildren=50, maxRequests=500, bindAddress=ADDRESS",
    "15": "bindAddress=ADDRESS, roles=(FCGI_AUTHORIZER, FCGI_RESPONDER)",
}


@pytest.mark.parametrize("number", FORKS)
def test_a_call_that_forks(run, number):
    text = f"""
from flup.server.fcgi_fork import WSGIServer
from flup.server.fcgi_base import FCGI_AUTHORIZER, FCGI_RESPONDER
server = WSGIServer(app, {FORKS[number]})
server.debug = False
server.run()
"""
    with run(APP + text) as process:
        answer = seen(process)
        assert answer["pid"] in children(process.pid)
        assert answer["threads"] is False
        end(process)


def test_the_handlers_loop_of_toolforge(run, folder):
    """19: fcgi_fork with the socket that the web server passes, run again after HUP."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{folder}/s")
        sock.listen()
        text = APP + (
            "from flup.server.fcgi_fork import WSGIServer\nimport sys\n"
            "sys.exit(42 if WSGIServer(app).run() else 0)\n"
        )
        with run(text, stdin=sock) as process:
            assert seen(process)["pid"] in children(process.pid)
            end(process, signal.SIGHUP, status=42)


# ---------------------------------------------------------------------------- 1: web.py


def test_web_py(run):
    """By its own runfcgi, which imports flup when it is called."""
    need("web")
    text = APP + "import web.wsgi\nweb.wsgi.runfcgi(app, ADDRESS)\n"
    with run(text) as process:
        seen(process)
        end(process)


def test_web_py_started_by_a_web_server(run, folder):
    """1, 11: runwsgi looks at the environment and then takes descriptor 0."""
    need("web")
    text = """
import web
class index:
    def POST(self, name):
        return "web.py " + name + " " + web.data().decode()
web.application(("/(.*)", "index"), globals()).run()
"""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{folder}/s")
        sock.listen()
        with run(text, stdin=sock, env={"PHP_FCGI_CHILDREN": "1"}) as process:
            assert ask(process) == b"web.py x y some"
            end(process)


# ---------------------------------------------------------------------------- 3: Django

DJANGO = """
import importlib, sys
from django.conf import settings
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x")
import django
django.setup()
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse
from django.urls import re_path
import flup

def view(request):
    return HttpResponse("Django " + request.path + " " + request.body.decode())

urlpatterns = [re_path("", view)]

# What runfcgi did: the module by its name below the package, these options.
options = dict(word.split("=", 1) for word in sys.argv[1:])
numbers = {"maxSpare": 5, "minSpare": 2}
if options["method"] == "threaded":
    module, numbers["maxThreads"] = "server.fcgi", 50
else:
    module, numbers["maxChildren"], numbers["maxRequests"] = "server.fcgi_fork", 50, 0
server = importlib.import_module("." + module, "flup").WSGIServer
server(WSGIHandler(), debug=False, bindAddress=options["socket"], **numbers).run()
"""


@pytest.mark.parametrize("method", ["threaded", "prefork"])
def test_django(run, folder, method):
    need("django")
    with run(DJANGO, f"method={method}", f"socket={folder}/s") as process:
        assert ask(process) == b"Django /x y some"
        assert bool(children(process.pid)) == (method == "prefork")
        end(process)


# ------------------------------------------------------------------------------ 4: Trac


def test_trac(folder):
    """Its own fcgi_frontend.py, by its path, with TRAC_USE_FLUP; it takes descriptor 0."""
    need("trac", "pkg_resources")
    spawn_fcgi = require("spawn-fcgi")
    script = importlib.util.find_spec("trac.web").submodule_search_locations[0]
    address = f"{folder}/s"
    command = [spawn_fcgi, "-n", "-s", address, "--", sys.executable, "-W", "ignore"]
    command += ["-m", "fastfcgi.flup", f"{script}/fcgi_frontend.py"]
    env = {**own_runtime().env, "TRAC_USE_FLUP": "1", "TRAC_ENV": f"{folder}/none"}
    with Process(command, folder, "trac", env) as process:
        process.wait_for(address)
        with wire.Peer(address) as peer:
            response = peer.request(wire.cgi_params("GET", "/"))
        # It is Trac that finds no environment; with one, see test_trac.py.
        assert (response.status, response.ended) == (500, True)
        assert f"No Trac environment found at {folder}/none".encode() in response.body
        assert process.stop() == 0, process.log()


# --------------------------------------------------------------------------- 12: WsgiDAV


def test_wsgidav(run, folder):
    need("wsgidav")
    (folder / "shared").mkdir()
    (folder / "shared" / "file.txt").write_text("content")
    text = f"""
from wsgidav.wsgidav_app import WsgiDAVApp
from flup.server.fcgi import WSGIServer, __version__ as flup_version
assert flup_version[0].isdigit()
app = WsgiDAVApp({{
    "provider_mapping": {{"/": {str(folder / "shared")!r}}},
    "simple_dc": {{"user_mapping": {{"*": True}}}},
}})
WSGIServer(app, bindAddress=ADDRESS).run()
"""
    with run(text) as process:
        with wire.Peer(process.address) as peer:
            response = peer.request(wire.cgi_params("GET", "/file.txt"), keep_conn=True)
            assert (response.status, response.body) == (200, b"content")
            found = peer.request(wire.cgi_params("PROPFIND", "/", HTTP_DEPTH="1"), request_id=2)
            assert found.status == 207 and b"file.txt" in found.body
        with wire.Peer(process.address) as peer:
            params = wire.cgi_params("PUT", "/new.txt", CONTENT_LENGTH="3")
            assert peer.request(params, b"new").status == 201
        assert (folder / "shared" / "new.txt").read_text() == "new"
        end(process)


# -------------------------------------------------------------------------- 13: CherryPy


def test_cherrypy(run):
    """Its adapter runs flup in a thread of its engine, and stops it by private names."""
    need("cherrypy")
    text = (
        APP
        + """
import cherrypy
from cherrypy.process import servers
cherrypy.config.update({"engine.autoreload.on": False})
cherrypy.server.unsubscribe()
server = servers.FlupFCGIServer(application=app, bindAddress=ADDRESS)
servers.ServerAdapter(cherrypy.engine, httpserver=server, bind_addr=ADDRESS).subscribe()
cherrypy.engine.signals.subscribe()
cherrypy.engine.start()
cherrypy.engine.block()
"""
    )
    with run(text) as process:
        seen(process)
        process.wait_for_log("Bus STARTED")  # TERM before that ends it with another status
        end(process)
        assert "Bus EXITED" in process.log()


# ---------------------------------------------------------------------------- 14: Bottle

BOTTLE = """
import bottle, flup
@bottle.post("/<name>")
def page(name):
    return "Bottle " + name + " " + bottle.request.body.read().decode() + " " + flup.__spec__.name
"""


def test_bottle_at_a_port(run):
    need("bottle")
    [port] = free_ports(1)
    text = BOTTLE + f"bottle.run(server='flup', host='127.0.0.1', port={port}, quiet=True)\n"
    with run(text, at=("127.0.0.1", port)) as process:
        assert ask(process, "/x") == b"Bottle x some fastfcgi.flup"
        end(process)


def test_bottle_under_a_web_server(run, folder):
    """bindAddress=None: descriptor 0."""
    need("bottle")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{folder}/s")
        sock.listen()
        text = BOTTLE + "bottle.run(server='flup', bindAddress=None, quiet=True)\n"
        with run(text, stdin=sock) as process:
            assert ask(process, "/x") == b"Bottle x some fastfcgi.flup"
            end(process)


# ---------------------------------------------------------------------------- 16: gevent


def test_gevent(run):
    """A loop of greenlets: many slow requests at once in one thread."""
    need("gevent")
    text = """
import gevent.monkey
gevent.monkey.patch_socket()
import gevent, threading
from gevent import select
from flup.server.fcgi_base import BaseFCGIServer
from flup.server.threadedserver import setCloseOnExec

inside = []
def app(environ, start_response):
    inside.append(threading.get_ident())
    while len(inside) < 20:
        gevent.sleep(0.01)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(len(set(inside))).encode()]

class Server(BaseFCGIServer):
    def run(self):
        sock = self._setupSocket()
        setCloseOnExec(sock)
        self._keepGoing = True
        self._installSignalHandlers()
        while self._keepGoing:
            if select.select([sock], [], [], 0.1)[0]:
                client, addr = sock.accept()
                gevent.spawn(self._connectionClass(client, addr, self).run)
        self._cleanupSocket(sock)

Server(app, bindAddress=ADDRESS).run()
"""
    with run(text) as process:
        peers = [wire.Peer(process.address) for _ in range(20)]
        for peer in peers:
            peer.send(wire.request(1, wire.cgi_params()))
        assert {peer.receive_end().body for peer in peers} == {b"1"}
        for peer in peers:
            peer.close()
        end(process)


# ----------------------------------------------------------------------- 20: New Relic


@pytest.mark.parametrize("module", ["fcgi", "fcgi_fork", "fcgi_single"])
def test_new_relic(run, module):
    """Its agent waits for the import of flup.server.fcgi_base, and wraps the application."""
    need("newrelic")
    text = f"""
import newrelic.api.import_hook as hooks, newrelic.hooks.adapter_flup as adapter, sys
hooks.register_import_hook("flup.server.fcgi_base", adapter.instrument_flup_server_fcgi_base)
sys.meta_path.insert(0, hooks.ImportHookFinder())
from flup.server.{module} import WSGIServer
server = WSGIServer(app, bindAddress=ADDRESS)
assert server.application is not app and server.application.__wrapped__ is app
assert "flup.server.{module}" in sys.modules
server.run()
"""
    with run(APP + text) as process:
        seen(process)
        end(process)
