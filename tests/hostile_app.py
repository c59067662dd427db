"""What the processes of tests/hostile.py run: the application that is attacked, and the client
that looks meanwhile how well others are served.

    hostile_app.py serve JSON       options for WSGIServer
    hostile_app.py watch JSON       the server's address
"""

import errno
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import wire

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]

BLOCK = b"x" * 65536
WATCH_EVERY = 0.05  # seconds between two questions of the watcher

_released = threading.Event()
_barriers: dict[int, threading.Barrier] = {}
_lock = threading.Lock()
_server: list[Any] = []
_holding: list[Environ] = []


def hello(environ: Environ, number: int) -> Iterable[bytes]:
    """Answers at once and looks at nothing."""
    return [b"hello"]


def together(environ: Environ, number: int) -> Iterable[bytes]:
    """/together/N: answers when N of these run at the same time."""
    with _lock:
        barrier = _barriers.setdefault(number, threading.Barrier(number))
    barrier.wait(30)
    return [b"together"]


def hold(environ: Environ, number: int) -> Iterable[bytes]:
    """Neither reads nor writes before somebody asks for /release."""
    _holding.append(environ)
    released = _released.wait(60)
    _holding.pop()
    return [b"released" if released else b"forgotten"]


def nap(environ: Environ, number: int) -> Iterable[bytes]:
    """/nap/N: answers after N milliseconds."""
    time.sleep(number / 1000)
    return [b"awake"]


def stop(environ: Environ, number: int) -> Iterable[bytes]:
    """Has the server stop, from a thread of its pool."""
    _server[0].stop()
    return [b"stopping"]


def release(environ: Environ, number: int) -> Iterable[bytes]:
    """Lets every /hold go, now and until /retain; tells how many there still are."""
    _released.set()
    return [str(len(_holding)).encode()]


def retain(environ: Environ, number: int) -> Iterable[bytes]:
    """From now on /hold holds again."""
    _released.clear()
    return [b"retained"]


def read(environ: Environ, number: int) -> Iterable[bytes]:
    """Tells how long the body is."""
    source, length = environ["wsgi.input"], 0
    try:
        while block := source.read(65536):
            length += len(block)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        return [b"too long"]
    return [str(length).encode()]


def early(environ: Environ, number: int) -> Iterator[bytes]:
    """Writes first and reads then."""
    yield b"early "
    yield from read(environ, number)


def late(environ: Environ, number: int) -> Iterable[bytes]:
    """/late/N: reads after N milliseconds, or without N after /release."""
    nap(environ, number) if number else hold(environ, number)
    return read(environ, number)


def stream(environ: Environ, number: int) -> Iterator[bytes]:
    """/stream/N: N blocks of 64 KiB, one after another, each an object of its own."""
    for i in range(number):
        yield b"%08d" % i * 8192


def whole(environ: Environ, number: int) -> Iterable[bytes]:
    """/whole/N: the same in one piece."""
    return [BLOCK * number]


def complain(environ: Environ, number: int) -> Iterable[bytes]:
    """/complain/N: N blocks of 64 KiB to wsgi.errors."""
    for _ in range(number):
        environ["wsgi.errors"].write(BLOCK.decode())
    return [b"complained"]


ROUTES = {
    route.__name__: route
    for route in (
        hello,
        together,
        hold,
        release,
        retain,
        nap,
        stop,
        read,
        early,
        late,
        stream,
        whole,
        complain,
    )
}


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """/ROUTE or /ROUTE/NUMBER; anything else is read if it is a POST, and greeted."""
    route, _, number = environ["PATH_INFO"].strip("/").partition("/")
    start_response("200 OK", [("Content-Type", "text/plain")])
    default = read if environ["REQUEST_METHOD"] == "POST" else hello
    return ROUTES.get(route, default)(environ, int(number) if number.isdigit() else 0)


def serve(options: dict[str, Any]) -> None:
    from fastfcgi import WSGIServer

    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    descriptors = options.pop("descriptors", None)
    server = WSGIServer(application, **options)
    _server.append(server)
    if descriptors is not None:
        import resource

        # Only now: a server that knows of it takes no more connections than fit.
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    server.run()


def ask(address: Any) -> float:
    """Ask for /hello on a connection of its own; the seconds it took."""
    begin = time.monotonic()
    with wire.Peer(address) as peer:
        answer = peer.request(wire.cgi_params(path="/hello"))
    assert answer.ended and answer.body == b"hello", answer
    return time.monotonic() - begin


def watch(address: Any) -> None:
    """Ask again and again; for each answer a line of JSON: [seconds it took, or what went wrong,
    seconds that the machine kept this process from running]."""
    while True:
        try:
            answer: float | str = ask(address)
        except (OSError, AssertionError) as error:
            answer = f"{type(error).__name__}: {error}"
        begin = time.monotonic()
        time.sleep(WATCH_EVERY)
        lag = time.monotonic() - begin - WATCH_EVERY
        print(json.dumps([answer, lag]), flush=True)


def main() -> None:
    what, argument = sys.argv[1], json.loads(sys.argv[2])
    if what == "serve":
        serve(argument)
    else:
        watch(tuple(argument) if isinstance(argument, list) else argument)


if __name__ == "__main__":
    main()
