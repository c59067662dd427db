"""flup's server.fcgi_fork and server.fcgi_single: names, and processes."""

import inspect
import os
import signal
import socket
import subprocess
import sys

import pytest

if os.name != "posix":
    pytest.skip("the master is POSIX only", allow_module_level=True)

import wire
from helpers import hello, serving
from master_process import Load, Served
from processes import alive, environment, wait_until

from fastfcgi import prefork, single

RUN = """
from fastfcgi import prefork

class Server(prefork.WSGIServer):
    def handler(self, req):
        logging.debug("handler in %d", os.getpid())
        return super().handler(req)

server = Server(app, bindAddress="app.sock", {options})
while server.run():
    logging.info("run() gave True")
logging.info("run() gave False")
"""


def test_signature() -> None:
    parameters = list(inspect.signature(prefork.WSGIServer.__init__).parameters.values())[1:]
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [(p.name, p.default) for p in positional] == [
        ("application", inspect.Parameter.empty),
        ("environ", None),
        ("bindAddress", None),
        ("umask", None),
        ("multiplexed", False),
        ("debug", False),
        ("roles", (1,)),
        ("forceCGI", False),
        ("timeout", None),
    ]
    named = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert named == {
        "minSpare": 1,
        "maxSpare": 5,
        "maxChildren": 50,
        "maxRequests": 0,
        "sockTimeout": 0,
    }


@pytest.mark.parametrize("wrong", [{"minSpare": 0}, {"minSpare": 6}, {"maxSpare": 0}])
def test_numbers_that_make_no_sense(wrong) -> None:
    with pytest.raises(ValueError, match="minSpare"):
        prefork.WSGIServer(hello, **wrong)


def test_options() -> None:
    server = prefork.WSGIServer(
        hello,
        {"a": "b"},
        multithreaded=True,
        multiprocess=False,
        jobClass=None,
        maxRequests=7,
        maxChildren=3,
        sockTimeout=5,
        timeout=4,
    )
    assert (server.multithreaded, server.multiprocess) == (False, True)
    assert server.environ == {"a": "b"}
    assert (server.limits.body_timeout, server.limits.send_timeout) == (5, 5)
    settings = server._settings
    assert (settings.max_requests, settings.max_workers, settings.hard_timeout) == (7, 3, 4)
    with pytest.raises(TypeError, match="nonsense"):
        prefork.WSGIServer(hello, nonsense=1)


def test_pattern_of_one_child() -> None:
    prefork.WSGIServer(hello, maxRequests=100, maxSpare=1, minSpare=1, maxChildren=1)
    prefork.WSGIServer(hello, minSpare=3, maxSpare=7, maxChildren=2)


def test_it_serves_and_ends(folder) -> None:
    with Served(folder, "minSpare=2, maxSpare=3", run=RUN, begin=2) as served:
        served.wait_for(served.address)
        pid = served.who()
        assert pid in served.workers()
        served.wait_for_log(f"handler in {pid}")
        assert served.end() == 0
        assert "run() gave False" in served.log()


def test_hup_makes_run_return_true(folder) -> None:
    with Served(folder, "minSpare=1", run=RUN, begin=1) as served:
        for count in (1, 2):
            old = served.workers()
            served.send(signal.SIGHUP)
            wait_until(lambda n=count: served.log().count("run() gave True") == n, "the end")
            served.wait_for_workers(1, without=old)
            assert served.get().status == 200
        assert served.end() == 0


def test_usr1_begins_with_new_children(folder) -> None:
    with Served(folder, "minSpare=2", run=RUN, begin=2) as served:
        old = served.workers()
        with Load(served.address) as load:
            served.send(signal.SIGUSR1)
            wait_until(lambda: not any(map(alive, old)), "the old ones to end")
            load.wait_for_more()
        assert not load.errors, (load.errors, load.examples)
        assert "run() gave" not in served.log()
        assert served.end() == 0


def test_usr2_is_not_available(folder) -> None:
    with Served(folder, "minSpare=1", run=RUN, begin=1) as served:
        served.send(signal.SIGUSR2)
        served.wait_for_log("USR2: not available")
        assert served.end() == 0


def test_it_grows_to_max_children(folder) -> None:
    options = "minSpare=1, maxSpare=1, maxChildren=3"
    with Served(folder, options, run=RUN, begin=1) as served:
        with served.holding("a"), served.holding("b"), served.holding("c"):
            served.wait_for_workers(3)
        assert served.end() == 0


def test_what_was_set_after_it_was_made_counts(folder) -> None:
    run = RUN.replace(
        "while server.run()",
        "server.environ['fix'] = 'ed'\nserver.debug = False\nwhile server.run()",
    ).replace("Server(app", "Server(lambda e, s: (s('200 OK', []), [e['fix'].encode()])[1]")
    with Served(folder, "minSpare=1, debug=True", run=run, begin=1) as served:
        assert served.get().body == b"ed"
        assert served.end() == 0


def test_descriptor_0_is_served(folder) -> None:
    run = RUN.replace('bindAddress="app.sock", ', "")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        with Served(folder, "minSpare=1", run=run, stdin=sock) as served:
            served.wait_for_workers(1)
            with wire.Peer(sock.getsockname()) as peer:
                assert peer.request().status == 200
            assert served.end() == 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_plain_cgi() -> None:
    code = "from fastfcgi.prefork import WSGIServer; from helpers import hello\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "WSGIServer(hello).run()"],
        env=environment(
            {
                "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path]),
                "REQUEST_METHOD": "GET",
                "GATEWAY_INTERFACE": "CGI/1.1",
                "PATH_INFO": "/x",
            }
        ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b"\r\n\r\nhello /x")


def test_single_signature() -> None:
    parameters = list(inspect.signature(single.WSGIServer.__init__).parameters)[1:]
    assert parameters == [
        *("application", "environ", "bindAddress", "umask", "multiplexed", "debug", "roles"),
        *("forceCGI", "options"),
    ]
    server = single.WSGIServer(hello, maxSpare=3, nonsense=1, queue_size=4)
    assert (server.multithreaded, server.multiprocess) == (False, False)
    assert server.limits.queue_size == 4


def test_single_serves_one_at_a_time(folder) -> None:
    path = str(folder / "single.sock")
    inside = []

    def app(environ, start_response):
        inside.append(1)
        assert len(inside) == 1
        start_response("200 OK", [])
        inside.pop()
        return [repr((environ["wsgi.multithread"], environ["wsgi.multiprocess"])).encode()]

    from helpers import Serving

    with Serving(single.WSGIServer(app, bindAddress=path)) as web:
        with Load(path, 2, 2):
            pass
        assert web.get().body == b"(False, False)"
    assert serving is not None
