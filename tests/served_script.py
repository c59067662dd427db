"""A front-end script as a process: what it says, what it ends with, requests to it."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading

import wire
from processes import DEADLINE, environment

# The application: /sleep/N begins with a line on stdout, /pid is the process.
SCRIPT = """
import os, signal, sys, threading, time
from fastfcgi import WSGIServer

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/sleep/"):
        say("sleeps")
        time.sleep(float(path[7:]))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]

def serve(server):
    thread = threading.Thread(target=lambda: server.wait_ready() and say("ready"), daemon=True)
    thread.start()
    result = server.run()
    say("ended", result)
    return result
"""
SERVE = "serve(WSGIServer(app, {options}))"
SERVE_ANOTHER = "while serve(WSGIServer(app, {options})): pass"
SERVE_AGAIN = "server = WSGIServer(app, {options})\nwhile serve(server): pass"


class Script:
    """A process with SCRIPT and more; killed at the end of the with block if it still runs.

    Args:
        more: What follows SCRIPT; {options} in it is replaced.
        sock: Its descriptor 0.
        options: Arguments of WSGIServer, as they are written.
    """

    def __init__(self, more=SERVE, sock=None, options="", **env):
        self.lines = []
        self.silent = False  # it closed its output, most likely by ending
        self.errors = tempfile.TemporaryFile()
        self.popen = subprocess.Popen(
            [sys.executable, "-c", SCRIPT + more.replace("{options}", options)],
            stdin=subprocess.DEVNULL if sock is None else sock,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment({"PYTHONPATH": os.pathsep.join(sys.path), **env}),
        )
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.popen.stdout:
            with self._changed:
                self.lines.append(line.decode().rstrip())
                self._changed.notify_all()
        with self._changed:
            self.silent = True
            self._changed.notify_all()

    def expect(self, line, times=1):
        """Wait until it has said something."""

        def said():
            return self.lines.count(line) >= times

        with self._changed:
            self._changed.wait_for(lambda: said() or self.silent, DEADLINE)
        assert said(), (line, self.lines, self.log())

    def kill(self, signum=signal.SIGTERM):
        self.popen.send_signal(signum)

    def wait(self):
        self.popen.wait(DEADLINE)
        self._reader.join(DEADLINE)
        return self.popen.returncode

    def end(self, signum=signal.SIGTERM):
        self.kill(signum)
        return self.wait()

    def log(self):
        self.errors.seek(0)
        return self.errors.read().decode()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if self.popen.poll() is None:
            self.popen.kill()
        self.wait()
        self.popen.stdout.close()
        self.errors.close()


def get(address, path="/pid", **options):
    with wire.Peer(address) as peer:
        return peer.request(wire.cgi_params("GET", path), **options)


@contextlib.contextmanager
def sleeping(script, address, seconds, keep_conn=False):
    """A peer whose request is being served."""
    count = script.lines.count("sleeps")
    with wire.Peer(address) as peer:
        params = wire.cgi_params("GET", f"/sleep/{seconds}")
        peer.send(wire.request(1, params, keep_conn=keep_conn))
        script.expect("sleeps", count + 1)
        yield peer


@contextlib.contextmanager
def stuck(script, address):
    """An idle kept connection, beside one whose request will not end."""
    with sleeping(script, address, 1000), wire.Peer(address) as idle:
        assert idle.request(keep_conn=True).status == 200
        yield idle
