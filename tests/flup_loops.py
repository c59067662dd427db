"""Servers that programs compose of BaseFCGIServer and a loop that accepts connections."""

import select
import threading

import wire
from helpers import hello

from fastfcgi.flup.server import threadedserver, threadpool
from fastfcgi.flup.server.fcgi_base import BaseFCGIServer

TCP = ("127.0.0.1", 0)


class OwnLoop:
    """A thread for each connection, as a program of gevent's has a greenlet."""

    def __init__(self, jobClass=None, jobArgs=(), **kw):
        self._jobClass = jobClass
        self._jobArgs = jobArgs
        self._threadPool = threadpool.ThreadPool(**kw)

    def run(self, sock, timeout=0.05):
        self._keepGoing = True
        self._hupReceived = False
        threadedserver.setCloseOnExec(sock)
        while self._keepGoing:
            if select.select([sock], [], [], timeout)[0]:
                client, addr = sock.accept()
                threadedserver.setCloseOnExec(client)
                conn = self._jobClass(client, addr, *self._jobArgs)
                if not self._threadPool.addJob(conn, allowQueuing=False):
                    client.close()
            self._mainloopPeriodic()
        return self._hupReceived


OWN_OPTIONS = ("max_params_bytes", "max_body_memory", "max_body_file")


class Composed:
    """Starts and ends run() of a class made of BaseFCGIServer and a loop."""

    def __init__(self, base, **options):
        class Server(BaseFCGIServer, base):
            def __init__(self, application, **kw):
                names = ("bindAddress", "multithreaded", "roles", *OWN_OPTIONS)
                own = {name: kw.pop(name) for name in names if name in kw}
                BaseFCGIServer.__init__(self, application, **own)
                base.__init__(self, jobClass=self._connectionClass, jobArgs=(self,), **kw)

            def run(self):
                sock = self._setupSocket()
                self.bound = sock.getsockname()
                self.opened.set()
                try:
                    return base.run(self, sock)
                finally:
                    self._cleanupSocket(sock)
                    self._threadPool.shutdown()

        self.server = Server(**{"application": hello, "bindAddress": TCP, **options})
        self.server.opened = threading.Event()
        self.result = None

    def _run(self):
        self.result = self.server.run()

    def __enter__(self):
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self.server.opened.wait(wire.DEADLINE)
        return self

    def __exit__(self, *error):
        self.server._exit(True)
        self._thread.join(wire.DEADLINE)
        assert not self._thread.is_alive()
        assert self.result is True

    def peer(self):
        return wire.Peer(self.server.bound)


class OwnThreadedServer(threadedserver.ThreadedServer):
    """flup's loop, with its methods overridden."""

    periodic = 0

    def run(self, sock):
        return super().run(sock, timeout=0.05)

    def _installSignalHandlers(self):
        raise AssertionError("not off the main thread")

    def _mainloopPeriodic(self):
        self.periodic += 1
