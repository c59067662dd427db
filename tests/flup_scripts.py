"""Scripts that use flup, run by `python -m fastfcgi.flup`, and requests to them."""

import importlib.util
import json
import signal
import sys

import wire
from processes import Process, missing
from runtimes import own_runtime

# Tells what it saw of a request.
APP = """
import json, os, sys
import flup

def app(environ, start_response):
    body = environ["wsgi.input"].read().decode()
    seen = {"pid": os.getpid(), "path": environ["PATH_INFO"], "body": body,
            "threads": environ["wsgi.multithread"], "flup": flup.__spec__.name}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(seen).encode()]
"""


def need(*modules):
    """Skip the test, or fail it in CI, without these modules."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            missing(f"the module {module}")


def starter(folder):
    """A function that starts a script, with ADDRESS in it for a unix socket, and waits until that
    listens."""
    address = f"{folder}/s"

    def start(text, *arguments, at=None, env=None, **options):
        path = folder / "site.py"
        path.write_text(text.replace("ADDRESS", repr(address)))
        command = [sys.executable, "-m", "fastfcgi.flup", str(path), *arguments]
        process = Process(command, folder, "site", {**own_runtime().env, **(env or {})}, **options)
        try:
            process.wait_for(at or address)
        except BaseException:
            with process:
                raise
        process.address = at or address
        return process

    return start


def ask(process, path="/x y", body=b"some"):
    params = wire.cgi_params("POST", path, CONTENT_LENGTH=str(len(body)))
    with wire.Peer(process.address) as peer:
        response = peer.request(params, body)
    assert (response.status, response.ended) == (200, True), (response, process.log())
    return response.body


def seen(process):
    """What APP saw of a request: ours."""
    answer = json.loads(ask(process))
    assert (answer["path"], answer["body"], answer["flup"]) == ("/x y", "some", "fastfcgi.flup")
    return answer


def end(process, signum=signal.SIGTERM, status=0):
    assert process.stop(signum) == status, process.log()
    assert "Traceback" not in process.log()
