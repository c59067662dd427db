"""An unchanged script for flup, started in each of the ways there are, served by fastfcgi."""

import json
import os
import signal
import subprocess
import sys

import pytest

if sys.platform != "linux":
    pytest.skip("looks at processes in Linux's way", allow_module_level=True)

import wire
from processes import DEADLINE, Process, environment, require, wait_until
from runtimes import own_runtime

# What lies on servers since the days of flup.
SCRIPT = """
import json, os, sys
from flup.server.{module} import WSGIServer

def app(environ, start_response):
    server = WSGIServer.__module__
    seen = {{"server": server, "pid": os.getpid(), "file": __file__, "argv": sys.argv[1:],
            "path": environ["PATH_INFO"], "body": environ["wsgi.input"].read().decode()}}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(seen).encode()]

if __name__ == "__main__":
    WSGIServer(app{options}).run()
"""


@pytest.fixture
def script(folder):
    """Writes an executable script, whose first line alone names fastfcgi."""

    def write(module="fcgi", options=""):
        path = folder / "site.fcgi"
        text = SCRIPT.format(module=module, options=options)
        path.write_text(f"#!/usr/bin/env -S {sys.executable} -m fastfcgi.flup\n{text}")
        path.chmod(0o755)
        return path

    return write


def start(folder, *command):
    return Process(list(map(str, command)), folder, "site", own_runtime().env)


def ask(address, body=b"some"):
    params = wire.cgi_params("POST", "/x y", CONTENT_LENGTH=str(len(body)))
    with wire.Peer(address) as peer:
        response = peer.request(params, body)
    assert (response.status, response.ended) == (200, True), response
    seen = json.loads(response.body)
    assert (seen["path"], seen["body"]) == ("/x y", body.decode())
    return seen


@pytest.mark.webserver
@pytest.mark.parametrize("module", ["fcgi", "fcgi_fork", "fcgi_single"])
def test_by_spawn_fcgi(folder, script, module):
    address = f"{folder}/s"
    path = script(module)
    with start(folder, require("spawn-fcgi"), "-n", "-s", address, "--", path, "-v") as process:
        process.wait_for(address)
        seen = ask(address)
        assert seen["server"] == f"fastfcgi.flup.server.{module}"
        assert (seen["pid"] == process.pid) == (module != "fcgi_fork")
        assert (seen["file"], seen["argv"]) == (str(path), ["-v"])
        assert process.stop(signal.SIGTERM) == 0, process.log()
        assert process.log() == "" or module == "fcgi_fork"


@pytest.mark.parametrize("module", ["fcgi", "fcgi_fork", "fcgi_single"])
def test_with_its_own_socket(folder, script, module):
    path = script(module, ", bindAddress='s', umask=0o077")
    with start(folder, path) as process:
        process.wait_for(f"{folder}/s")
        assert os.stat(f"{folder}/s").st_mode & 0o777 == 0o700
        assert ask(f"{folder}/s")["server"] == f"fastfcgi.flup.server.{module}"
        process.popen.send_signal(signal.SIGHUP)  # run() returns True, and the script ends
        assert process.wait() == 0, process.log()
    wait_until(lambda: not os.path.exists(f"{folder}/s"), "the socket's file to go")


@pytest.mark.parametrize("module", ["fcgi", "fcgi_fork", "fcgi_single", "cgi"])
def test_as_plain_cgi(script, module):
    """Descriptor 0 is a pipe, so it is one request of CGI, and the process's end."""
    variables = {"GATEWAY_INTERFACE": "CGI/1.1", **wire.cgi_params("POST", "/x y")}
    done = subprocess.run(
        [script(module)],
        input=b"some",
        env=environment({**own_runtime().env, **variables, "CONTENT_LENGTH": "4"}),
        capture_output=True,
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    status, _, body = wire.parse_cgi(done.stdout)
    assert status == 200
    assert b'"body": "some"' in body and f"fastfcgi.flup.server.{module}".encode() in body
