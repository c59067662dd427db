"""What fastfcgi, flup, flipflop and uWSGI do in the same situation, each of them really run.

    python -m bench.compare [KIND ...]

prints the rows of the table in README.md for those that are installed. fastfcgi, flup and flipflop
run with their defaults, uWSGI with a master and 16 threads. Linux only.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import wire

from bench import corpus
from bench.kinds import ROOT, command_of, installed
from bench.load import Failed, Load
from bench.running import Server, running
from fastfcgi.constants import GET_VALUES_RESULT

KINDS = ("fastfcgi", "flup", "flipflop", "uwsgi")
OPTIONS: dict[str, dict[str, Any]] = {"uwsgi": {"master": True, "threads": 16}}
APPLICATION = "bench.compare:application"
TIMEOUT = 10.0
MANY = 20  # requests or connections at once
ROUNDS, REQUESTS = 20, 2000


# ---- the application --------------------------------------------------------------------------


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Does what PATH_INFO says."""
    return ROUTES[environ["PATH_INFO"]](environ, start_response)


def show(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """The environ's strings."""
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({k: v for k, v in environ.items() if isinstance(v, str)}).encode()]


def late(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterator[bytes]:
    """Fails after its first block."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"x" * 1000
    raise RuntimeError("as asked")


def inject(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Has a header of two lines."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-A", "a\r\nX-Smuggled: yes")])
    return [b"sent"]


def sleep(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Takes a second."""
    time.sleep(1)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"slept"]


def read(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Reads its body."""
    size = len(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % size]


ROUTES = {"/": show, "/late": late, "/inject": inject, "/sleep": sleep, "/read": read}


# ---- the questions ----------------------------------------------------------------------------


def threads(server: Server) -> int:
    """Threads of the server's processes."""
    pids = [server.process.pid]
    for pid in pids:
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            pids += [int(child) for child in children.split()]
    return sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids)


def get(server: Server, path: str = "/", **more: str) -> wire.Response:
    with wire.Peer(server.path, TIMEOUT) as peer:
        return peer.request(wire.cgi_params("GET", path, **more))


def params_cut_inside_a_pair(server: Server) -> str:
    """H2O cuts PARAMS at 65,535 bytes, wherever that is."""
    pairs = wire.cgi_params(HTTP_X_LONG="x" * 1000)
    with wire.Peer(server.path, TIMEOUT) as peer:
        peer.send(wire.begin_request(1) + wire.params(1, pairs, 300) + wire.stdin(1))
        body = peer.receive_end().body
    if not body:
        return "no response"
    whole = json.loads(body).get("HTTP_X_LONG") == "x" * 1000
    return "arrive whole" if whole else "are lost"


def header_that_comes_twice(server: Server) -> str:
    """nginx, HAProxy and H2O send a pair for each."""
    pairs = [*wire.cgi_params().items(), ("HTTP_X_A", "1"), ("HTTP_X_A", "2")]
    with wire.Peer(server.path, TIMEOUT) as peer:
        value = json.loads(peer.request(pairs).body)["HTTP_X_A"]
    return "joined" if value == "1, 2" else f"only {value!r}"


def proxy_header(server: Server) -> str:
    """httpoxy."""
    arrived = "HTTP_PROXY" in json.loads(get(server, HTTP_PROXY="http://evil/").body)
    return "reaches the application" if arrived else "dropped"


def header_with_crlf(server: Server) -> str:
    answer = get(server, "/inject")
    if answer.header("X-Smuggled"):
        return "a header is injected"
    return f"{answer.status}"


def failure_after_the_first_block(server: Server) -> str:
    return "looks complete" if get(server, "/late").ended else "is seen to be cut"


def head(server: Server) -> str:
    pairs = wire.cgi_params("HEAD")
    with wire.Peer(server.path, TIMEOUT) as peer:
        return "is sent" if peer.request(pairs).body else "is left out"


def get_values(server: Server) -> str:
    with wire.Peer(server.path, 2) as peer:
        peer.send(wire.get_values("FCGI_MPXS_CONNS"))
        with contextlib.suppress(TimeoutError):
            peer.receive(lambda answers: answers.management)
        for type, content in peer.answers.management:
            if type == GET_VALUES_RESULT:
                return "answered" if content else "an empty answer"
        return "no answer"


def two_requests_on_one_connection(server: Server) -> str:
    """Each takes a second."""
    pairs = wire.cgi_params(path="/sleep")
    began = time.monotonic()
    with wire.Peer(server.path, TIMEOUT) as peer:
        peer.send(wire.request(1, pairs, keep_conn=True) + wire.request(3, pairs, keep_conn=True))
        with contextlib.suppress(TimeoutError):
            if peer.receive_end(1).ended and peer.receive_end(3).ended:
                return "at once" if time.monotonic() - began < 1.8 else "one after the other"
    return "not both answered"


def bodies_on_their_way(server: Server) -> str:
    """So many uploads of which the first half is there."""
    pairs = wire.cgi_params("POST", "/read", CONTENT_LENGTH="1000")
    half = wire.begin_request(1) + wire.params(1, pairs) + wire.stdin(1, b"x" * 500, end=False)
    return held(server, half, answered=False)


def idle_kept_connections(server: Server) -> str:
    return held(server, wire.request(1, keep_conn=True), answered=True)


def held(server: Server, sent: bytes, answered: bool) -> str:
    """What so many connections cost on which this was sent. They come one by one: see
    burst_of_kept_connections for those that do not."""
    get(server)  # threads that are started when they are needed are here then
    before = threads(server)
    with contextlib.ExitStack() as stack:
        for _ in range(MANY):
            peer = stack.enter_context(wire.Peer(server.path, TIMEOUT))
            peer.send(sent)
            if answered:
                peer.receive_end()
            else:
                time.sleep(0.05)
        if answered and is_closed(peer):
            return "are not kept"
        began = time.monotonic()
        more = threads(server) - before
        try:
            get(server)
        except TimeoutError:
            return "nobody else is served"
        spent = time.monotonic() - began
        return f"{more} more threads" + (f", others wait {spent:.0f} s" if spent > 1 else "")


def is_closed(peer: wire.Peer) -> bool:
    with contextlib.suppress(TimeoutError):
        peer.receive(timeout=0.5)
    return peer.closed


def burst_of_kept_connections(server: Server) -> str:
    """More than flup has spare threads by default."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(wire.Peer(server.path, 3)) for _ in range(2 * MANY)]
        for peer in peers:
            peer.send(wire.request(1, wire.cgi_params(), keep_conn=True))
        try:
            if not all(peer.receive_end().ended for peer in peers):
                return "not answered"
        except TimeoutError:
            return "some never answered"
        return "are not kept" if any(map(is_closed, peers)) else "all answered"


def term_with_a_kept_connection(server: Server) -> str:
    with wire.Peer(server.path, TIMEOUT) as peer:
        peer.request(keep_conn=True)
        server.process.terminate()
        try:
            return f"ends, status {server.process.wait(5)}"
        except subprocess.TimeoutExpired:
            return "does not end in 5 s"


def term_while_a_request_runs(server: Server) -> str:
    with wire.Peer(server.path, TIMEOUT) as peer:
        peer.send(wire.request(1, wire.cgi_params(path="/sleep")))
        time.sleep(0.3)
        server.process.terminate()
        with contextlib.suppress(TimeoutError):
            return "finished" if peer.receive_end().body == b"slept" else "cut"
        return "not answered"


def second_server_on_the_path(server: Server) -> str:
    """Started by mistake while the first one serves."""
    if server.kind == "flipflop":
        return "opens no socket"
    inode = os.stat(server.path).st_ino
    command = command_of(server.kind, server.path, APPLICATION, OPTIONS.get(server.kind, {}))
    quiet = {"stdin": -3, "stdout": -3, "stderr": -3}
    with subprocess.Popen(command, cwd=ROOT, **quiet) as second:
        with contextlib.suppress(subprocess.TimeoutExpired):
            second.wait(3)
        taken = not os.path.exists(server.path) or os.stat(server.path).st_ino != inode
        second.terminate()
    return "takes it over" if taken else "is refused"


def plain_cgi(server: Server) -> str:
    """Descriptor 0 is no socket: started by a web server's CGI module."""
    if server.kind == "uwsgi":
        return "no such mode"
    module = "flup.server.fcgi" if server.kind == "flup" else server.kind
    code = (
        f"from {module} import WSGIServer\n"
        "from bench.compare import application\n"
        "WSGIServer(application).run()"
    )
    env = {**os.environ, **wire.cgi_params(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, input=b"", capture_output=True, timeout=20
    )
    return "answers" if done.stdout.startswith(b"Status: 200") else "fails"


def speeds(kinds: list[str], at_once: int, keep_conn: bool) -> dict[str, float]:
    """Requests per second of each in its fastest round; the rounds take turns, so that other
    programs on the machine disturb all of them alike. 0 where connections are not kept, or some of
    them not served in most rounds."""
    best = dict.fromkeys(kinds, 0.0)
    starved = dict.fromkeys(kinds, 0)
    with contextlib.ExitStack() as stack:
        loads = {}
        for kind in kinds:
            # flup would leave some of 8 kept connections without an answer: it has 5 threads.
            spare = {"minSpare": 16, "maxSpare": 16} if kind == "flup" else OPTIONS.get(kind, {})
            server = stack.enter_context(running(kind, **spare))
            loads[kind] = Load(server.path, corpus.PARAMS_NGINX, at_once, keep_conn, timeout=3)
            loads[kind].check()
        for _ in range(ROUNDS):
            for kind in list(loads):
                began = time.perf_counter()
                try:
                    starved[kind] += loads[kind].run(REQUESTS)
                except (OSError, Failed):  # a timeout too
                    del loads[kind]
                    best[kind] = 0
                    continue
                best[kind] = max(best[kind], REQUESTS / (time.perf_counter() - began))
    return {kind: 0 if starved[kind] > ROUNDS / 2 else rate for kind, rate in best.items()}


QUESTIONS: list[Callable[[Server], str]] = [
    params_cut_inside_a_pair,
    header_that_comes_twice,
    proxy_header,
    header_with_crlf,
    failure_after_the_first_block,
    head,
    get_values,
    two_requests_on_one_connection,
    bodies_on_their_way,
    idle_kept_connections,
    burst_of_kept_connections,
    second_server_on_the_path,
    term_with_a_kept_connection,
    term_while_a_request_runs,
    plain_cgi,
]


def answers(kind: str) -> Iterator[str]:
    """What that kind of server does in each situation, asked of a fresh one each time."""
    for question in QUESTIONS:
        with running(kind, APPLICATION, **OPTIONS.get(kind, {})) as server:
            try:
                answer = question(server)
            except TimeoutError:
                answer = "no answer"
        print(f"{kind}: {question.__name__.replace('_', ' ')}: {answer}", file=sys.stderr)
        yield answer


def main(kinds: list[str]) -> None:
    kinds = [kind for kind in kinds or KINDS if installed(kind)]
    columns = {kind: list(answers(kind)) for kind in kinds}
    print("| |", " | ".join(kinds), "|")
    print("|---|" + "---|" * len(kinds))
    for number, question in enumerate(QUESTIONS):
        cells = [columns[kind][number] for kind in kinds]
        print("|", question.__name__.replace("_", " "), "|", " | ".join(cells), "|")
    for at_once, keep_conn in ((1, True), (8, True), (1, False), (8, False)):
        best = speeds(kinds, at_once, keep_conn)
        cells = [f"{best[kind] / best[kinds[0]]:.2f}" for kind in kinds]
        print(f"| requests/s, {at_once} at once, kept: {keep_conn} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main(sys.argv[1:])
