"""The gateway and memory: what one request leaves behind, and who keeps whom alive."""

import gc
import io
import logging
import sys
import threading
import tracemalloc
import weakref

import pytest
from fake_request import FakeRequest, answering, handled
from helpers import TEXT

from fastfcgi.constants import FILTER
from fastfcgi.exchange import Exchange
from fastfcgi.wsgi import ErrorStream, Gateway, Response


def raising(error):
    def app(environ, start_response):
        start_response("200 OK", list(TEXT))
        raise error

    return app


def late(environ, start_response):
    start_response("200 OK", list(TEXT))
    yield b"x"
    raise RuntimeError("late")


def writing(environ, start_response):
    write = start_response("200 OK", [("Content-Length", "3")])
    write(b"a")
    write("b")
    environ["wsgi.errors"].write("x" * 9000)
    return [bytearray(b"cd")]


def again(environ, start_response):
    start_response("200 OK", [("X-A", "a" * 5000)])
    try:
        raise KeyError("first")
    except KeyError:
        start_response("500 Sorry", list(TEXT), sys.exc_info())
    return iter([b"sorry", b""])


def sending_itself(environ, start_response):
    start_response("200 OK", list(TEXT))
    return environ["wsgi.file_wrapper"](open(__file__, "rb"))


ROUNDS = {
    "one block": lambda: handled(answering([b"x"])),
    "blocks": lambda: handled(answering(iter([b"x", b"y", "z"]))),
    "nothing": lambda: handled(answering([])),
    "head": lambda: handled(answering(iter([b"x"])), FakeRequest("HEAD")),
    "too short": lambda: handled(answering([b"x"], headers=[("Content-Length", "5")])),
    "not passed on": lambda: handled(answering([b"x"], headers=[("TE", "5")])),
    "no status": lambda: handled(answering([b"x"], "200 \u20ac")),
    "no name": lambda: handled(answering([b"x"], headers=[("X-A", "a" * 5000), ("", "")])),
    "no value": lambda: handled(answering([b"x"], headers=[("X-A", "\u20ac")])),
    "no length": lambda: handled(answering([b"x"], headers=[("Content-Length", "x")])),
    "no headers": lambda: handled(answering([b"x"], headers=[("a", "b", "c")])),
    "no block": lambda: handled(answering([b"x", None])),
    "no result": lambda: handled(answering(None)),
    "no start": lambda: handled(lambda environ, start_response: [b"x"]),
    "failure": lambda: handled(raising(RuntimeError("early"))),
    "exit": lambda: handled(raising(SystemExit())),
    "late": lambda: handled(late),
    "aborted": lambda: handled(late, FakeRequest(aborted_after=0)),
    "aborted later": lambda: handled(answering(iter([b"x"] * 3)), FakeRequest(aborted_after=2)),
    "writing": lambda: handled(writing),
    "again": lambda: handled(again),
    "a file": lambda: handled(sending_itself),
    "a filter": lambda: handled(answering([b"x"]), FakeRequest(role=FILTER)),
    "an environ": lambda: handled(answering([b"x"]), environ={"SCRIPT_NAME": "/", "X": "1"}),
}


@pytest.mark.parametrize("name", ROUNDS)
def test_nothing_leaks(name, monkeypatch):
    logger = logging.getLogger("fastfcgi")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [logging.NullHandler()])
    # What Python itself remembers of the sources it shows would be counted, too.
    monkeypatch.setattr("traceback.format_exc", lambda: "Traceback")
    run, rounds = ROUNDS[name], 200

    def allocated():
        for _ in range(rounds):
            run()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        allocated()  # fills what is kept for the next
        before = allocated()
        # Less than the smallest object for each round.
        assert allocated() - before < 16 * rounds
    finally:
        tracemalloc.stop()


def test_a_request_goes_with_its_last_reference():
    """Its environ is the only way in a circle: who serves it takes that from it at its end."""

    class Result:
        def __iter__(self):
            return iter([b"x", b"y"])

        def close(self):
            pass

    def app(environ, start_response):
        start_response("200 OK", list(TEXT))(b"w")
        environ["wsgi.errors"].write("x")
        return Result()

    request = FakeRequest()
    gc.disable()
    try:
        handled(app, request)
        assert request.body == b"wxy"
        gone = weakref.ref(request)
        request.params = {}
        del request
        assert gone() is None
    finally:
        gc.enable()


def test_write_from_several_threads():
    """An application that does so gets an order that nobody promised, and nothing worse."""
    request, threads, blocks = FakeRequest(), 4, 500

    def app(environ, start_response):
        write = start_response("200 OK", [("Content-Length", str(threads * blocks * 3 - 1))])

        def work():
            for _ in range(blocks):
                write(b"abc")
                environ["wsgi.errors"].write("e")

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return []

    handled(app, request)
    assert request.output.count(b"Status: ") == 1
    assert sum(map(len, request.blocks)) == request.output.index(b"\r\n\r\n") + 4 + (
        threads * blocks * 3 - 1
    )
    assert request.errors == b"e" * threads * blocks


# -------------------------------------------------------------------------------- Exchange


def test_an_exchange_is_to_be_made_into_something():
    exchange = Exchange({"A": "1"}, FILTER)
    assert (exchange.params, exchange.role, exchange.aborted) == ({"A": "1"}, FILTER, False)
    assert (exchange.request_id, exchange.keep_conn) == (0, False)
    for name, args in {
        "input_stream": (),
        "data_stream": (),
        "write": (b"", b""),
        "write_error": (b"",),
        "abandon": (),
    }.items():
        with pytest.raises(NotImplementedError):
            getattr(exchange, name)(*args)


def test_the_environ_of_an_exchange_is_a_dict_of_its_own():
    assert Exchange().params == {} and Exchange().params is not Exchange().params
    with pytest.raises(TypeError):
        Exchange([("A", "1")])


def test_the_gateway_and_the_response_take_an_exchange_only():
    class Other:
        role = 1

    with pytest.raises(TypeError):
        Gateway(answering([])).handle(Other())
    with pytest.raises(TypeError):
        Response(Other(), False)
    with pytest.raises(TypeError):
        Response(None, False)


def test_what_methods_of_a_subclass_return_means_nothing():
    class Chatty(FakeRequest):
        def write(self, head, data, last=False):
            super().write(head, data, last)
            return "nothing"

        def abandon(self):
            super().abandon()
            return object()

        def write_error(self, data):
            super().write_error(data)
            return -1

    request = handled(late, Chatty())
    assert request.body == b"x" and request.abandoned and b"late" in request.errors


def test_a_request_without_streams_is_a_500():
    class Streamless(FakeRequest):
        input_stream = Exchange.input_stream

    request = handled(answering([b"x"]), Streamless())
    assert request.status == 500
    assert b"NotImplementedError" in request.errors


def test_input_stream_is_asked_for_once():
    class Counting(FakeRequest):
        asked = 0

        def input_stream(self):
            self.asked += 1
            return io.BytesIO()

    assert handled(answering([b"x"]), Counting()).asked == 1


def test_what_was_never_made_into_something_does_not_crash():
    """Nor what the garbage collector took apart: that is the same state."""
    errors = ErrorStream.__new__(ErrorStream)
    errors.write("x")
    with pytest.raises(AttributeError):
        errors.flush()
    response = Response.__new__(Response)
    response.start_response("200 OK", [])
    with pytest.raises(AttributeError):
        response(b"x")
    request = FakeRequest()
    Gateway.__new__(Gateway).handle(request)
    assert request.status == 500
    request.params = None
    with pytest.raises(AttributeError):
        Gateway(answering([])).handle(request)
