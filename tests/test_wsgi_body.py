"""The WSGI gateway on a request in memory: the body of the response, and failures (PEP 3333)."""

import io
import itertools
import logging
import sys

import pytest
from fake_request import FakeRequest, answering, handled
from helpers import TEXT

from fastfcgi.wsgi import FileWrapper


class Closing:
    """An iterable whose close() is counted."""

    def __init__(self, blocks, fail_at=None, fail_close=None):
        self.blocks = list(blocks)
        self.fail_at = fail_at
        self.fail_close = fail_close
        self.closed = 0
        self.given = 0

    def __iter__(self):
        for index, block in enumerate(self.blocks):
            if index == self.fail_at:
                raise RuntimeError("failed as asked")
            self.given += 1
            yield block

    def close(self):
        self.closed += 1
        if self.fail_close:
            raise self.fail_close


# --------------------------------------------------------------- what the application returns


@pytest.mark.parametrize(
    ("result", "body"),
    [
        ([b"a", b"b"], b"ab"),
        ((b"a",), b"a"),
        (iter([b"a", b"b"]), b"ab"),
        ({b"a": 1}, b"a"),
        ([bytearray(b"a"), memoryview(b"b")], b"ab"),
        (["caf\xe9", "!"], b"caf\xe9!"),
        (["caf\xe9"], b"caf\xe9"),
    ],
)
def test_blocks(result, body):
    assert handled(answering(result)).body == body


def test_a_view_of_wider_items_is_sent_whole():
    request = handled(answering([memoryview(b"12345678").cast("I")]))
    assert request.body == b"12345678"
    assert ("Content-Length", "8") in request.headers


@pytest.mark.parametrize("result", [None, 1, [None], [1], [b"x", None], ["\u20ac"]])
def test_what_is_no_body_fails(result, caplog):
    request = handled(answering(result))
    assert request.status == 500 or request.abandoned
    assert "the application failed" in caplog.text


def test_content_length_is_added_to_a_single_block():
    assert ("Content-Length", "3") in handled(answering([b"abc"])).headers
    assert ("Content-Length", "0") in handled(answering([b""])).headers
    assert ("Content-Length", "0") in handled(answering([])).headers


def test_content_length_is_not_made_up():
    for result in ([b"a", b"b"], iter([b"a"]), iter([])):
        assert handled(answering(result)).headers == TEXT


def test_a_content_length_that_was_given_stays():
    request = handled(answering([b"abc"], headers=[("content-length", " 3 ")]))
    assert [name for name, _ in request.headers] == ["content-length"]
    assert request.body == b"abc"


# ---------------------------------------------------------------------- length of the body


def test_too_long_is_cut_and_logged_once(caplog):
    result = Closing([b"01234", b"56789abc", b"more", b"and more"])
    request = handled(answering(result, headers=[("Content-Length", "10")]))
    assert request.body == b"0123456789"
    assert not request.abandoned
    assert caplog.text.count("longer than its Content-Length") == 1
    assert result.given < 4 and result.closed == 1


@pytest.mark.parametrize("result", [[b"x"], [b"x", b"y"], [], iter([b"x"])])
def test_too_short_does_not_look_complete(result, caplog):
    request = handled(answering(result, headers=[("Content-Length", "10")]))
    assert request.status == 200
    assert request.abandoned
    assert "shorter than its Content-Length" in caplog.text


def test_exactly_the_content_length():
    request = handled(answering([b"01234", b"56789"], headers=[("Content-Length", "10")]))
    assert request.body == b"0123456789"
    assert not request.abandoned


# ------------------------------------------------------------------------------ without a body


@pytest.mark.parametrize("result", [[b"abc"], [b"a", b"bc"], iter([b"abc"])])
def test_no_body_to_head(result):
    headers = [("Content-Length", "3")]
    request = handled(answering(result, headers=headers), FakeRequest("HEAD"))
    assert (request.headers, request.body) == (headers, b"")
    assert not request.abandoned


def test_head_of_a_single_block_has_its_length():
    request = handled(answering([b"abc"]), FakeRequest("HEAD"))
    assert ("Content-Length", "3") in request.headers


def test_head_of_nothing_has_no_length():
    """An application may leave the body of HEAD out itself: 0 would be a wrong length."""
    for result in ([], [b""]):
        assert handled(answering(result), FakeRequest("HEAD")).headers == TEXT


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified", "100 Continue"])
def test_no_body_and_no_length_where_the_status_has_none(status):
    request = handled(answering([b"abc"], status, []))
    assert (request.headers, request.body) == ([], b"")
    assert handled(answering([], status, [])).headers == []


def test_the_body_of_head_is_not_computed_to_its_end():
    result = Closing([b"x"] * 100)
    handled(answering(result), FakeRequest("HEAD"))
    assert result.given == 1 and result.closed == 1


# ----------------------------------------------------------------------------------- close()


def test_close_is_called_once():
    result = Closing([b"a", b"b"])
    assert handled(answering(result)).body == b"ab"
    assert result.closed == 1


def test_close_is_called_once_after_a_failure():
    result = Closing([b"a", b"b"], fail_at=1)
    assert handled(answering(result)).abandoned
    assert result.closed == 1


def test_close_is_called_once_when_the_client_has_gone():
    result = Closing([b"a", b"b", b"c"])
    request = handled(answering(result), FakeRequest(aborted_after=1))
    assert request.abandoned
    assert (result.closed, result.given) == (1, 2)


def test_close_is_called_when_start_response_was_not():
    result = Closing([b"a"])
    handled(lambda environ, start_response: result)
    assert result.closed == 1


def test_a_close_that_fails_spoils_nothing(caplog):
    result = Closing([b"a"], fail_close=RuntimeError("no"))
    request = handled(answering(result))
    assert request.body == b"a"
    assert not request.abandoned
    assert "close() of the response failed" in caplog.text


# -------------------------------------------------------------------------------- failures


def failing(environ, start_response):
    raise RuntimeError("secret of the application")


def failing_late(environ, start_response):
    start_response("200 OK", list(TEXT))
    yield b"x"
    raise RuntimeError("secret of the application")


def test_a_failure_before_the_header_is_a_500(caplog):
    request = handled(failing)
    assert request.status == 500
    assert not request.abandoned
    assert b"secret" not in request.output
    assert b"secret of the application" in request.errors and b"Traceback" in request.errors
    assert "secret of the application" in caplog.text


def test_debug_shows_the_traceback():
    request = handled(failing, debug=True)
    assert request.status == 500
    assert b"secret of the application" in request.body


def test_the_page_of_a_failed_head_has_no_body():
    request = handled(failing, FakeRequest("HEAD"))
    assert (request.status, request.body) == (500, b"")


def test_a_failure_after_start_response_is_a_500():
    def app(environ, start_response):
        start_response("200 OK", [("X-Mine", "1")])
        raise RuntimeError

    request = handled(app)
    assert request.status == 500
    assert b"X-Mine" not in request.output


def test_a_failure_after_the_header_does_not_look_complete(caplog):
    request = handled(failing_late)
    assert (request.status, request.body) == (200, b"x")
    assert request.abandoned
    assert b"secret" in request.errors
    assert "secret" in caplog.text


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_an_application_does_not_end_the_server(kind):
    def app(environ, start_response):
        raise kind()

    assert handled(app).status == 500


def test_a_client_that_has_gone_is_no_failure(caplog):
    caplog.set_level(logging.INFO)
    request = handled(answering([b"a", b"b"]), FakeRequest(aborted_after=0))
    assert request.abandoned
    assert request.errors == b""
    assert [record.levelno for record in caplog.records] == [logging.INFO]


def test_a_failure_over_a_client_that_has_gone_is_no_error_either(caplog):
    request = FakeRequest(aborted_after=1)

    def app(environ, start_response):
        write = start_response("200 OK", list(TEXT))
        write(b"a")
        try:
            write(b"b")
        except OSError:
            raise ValueError("wrapped") from None

    handled(app, request)
    assert request.abandoned
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_the_error_page_can_be_replaced():
    def page(request):
        assert str(sys.exc_info()[1]) == "secret of the application"
        request.write(b"Status: 599 Mine\r\n\r\n", b"mine")

    request = handled(failing, error_page=page)
    assert (request.status, request.body) == (599, b"mine")


def test_a_log_line_shows_no_control_characters(caplog):
    request = FakeRequest()
    request.params["PATH_INFO"] = "/\n\x1b[31mfake"
    handled(failing, request)
    assert "\x1b" not in caplog.messages[0] and "\n" not in caplog.messages[0]


# -------------------------------------------------------------------------------- file_wrapper


def test_file_wrapper_sends_the_file_and_closes_it():
    file = io.BytesIO(b"0123456789")

    def app(environ, start_response):
        start_response("200 OK", list(TEXT))
        return environ["wsgi.file_wrapper"](file, 3)

    request = handled(app)
    assert request.body == b"0123456789"
    assert len(request.writes) == 4
    assert file.closed


def test_file_wrapper_of_something_that_cannot_be_closed():
    class Reader:
        def __init__(self):
            self.blocks = [b"ab", b"c"]

        def read(self, size):
            assert size == 64 * 1024
            return self.blocks.pop(0) if self.blocks else b""

    wrapped = FileWrapper(Reader())
    assert not hasattr(wrapped, "close")
    assert handled(answering(wrapped)).body == b"abc"


def test_file_wrapper_of_a_text_file_ends():
    """A mistake of the application, which must not become an endless loop."""
    assert list(itertools.islice(FileWrapper(io.StringIO("abc")), 3)) == ["abc"]
