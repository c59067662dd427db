"""The WSGI gateway on a request in memory: environ, response head, wsgi.errors (PEP 3333)."""

import io
import logging
import sys
from wsgiref.validate import validator

import pytest
from fake_request import FakeRequest, answering, handled
from helpers import TEXT

from fastfcgi.constants import AUTHORIZER, FILTER
from fastfcgi.wsgi import ErrorStream, FileWrapper, Gateway


def environ_of(request=None, **options):
    seen = {}

    def app(environ, start_response):
        seen.update(environ)
        start_response("200 OK", list(TEXT))
        return []

    handled(app, request, **options)
    return seen


# --------------------------------------------------------------------------------- environ


def test_environ_has_what_pep_3333_asks_for():
    environ = environ_of(FakeRequest("POST", b"body"))
    assert type(environ) is dict
    assert environ["wsgi.version"] == (1, 0)
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["wsgi.input"].read() == b"body"
    assert environ["wsgi.multithread"] is True
    assert environ["wsgi.multiprocess"] is False
    assert environ["wsgi.run_once"] is False
    assert environ["wsgi.file_wrapper"] is FileWrapper
    assert environ["wsgi.input_terminated"] is True
    assert environ["PATH_INFO"] == "/"


def test_flags_of_the_environ():
    environ = environ_of(multithread=False, multiprocess=True, run_once=True)
    assert environ["wsgi.multithread"] is False
    assert environ["wsgi.multiprocess"] is True
    assert environ["wsgi.run_once"] is True


def test_environ_override():
    environ = environ_of(environ={"SERVER_NAME": "mine", "app.config": 1})
    assert environ["SERVER_NAME"] == "mine"
    assert environ["app.config"] == 1


def test_the_keys_of_wsgi_are_the_gateways():
    assert environ_of(environ={"wsgi.version": (9, 9)})["wsgi.version"] == (1, 0)


@pytest.mark.parametrize("environ", [None, {"app.config": 1}, {"wsgi.version": (9, 9)}])
def test_params_that_begin_with_the_base_give_the_same_environ(environ):
    options = {"environ": environ, "multiprocess": True}
    base = Gateway(answering(b""), **options).base
    assert bool(base) == (environ is None or "wsgi.version" not in environ)
    request = FakeRequest()
    request.params = {**base, **request.params}
    with_base, without = environ_of(request, **options), environ_of(**options)
    assert with_base.keys() == without.keys()
    differing = {name for name in without if with_base[name] != without[name]}
    assert differing == {"wsgi.input", "wsgi.errors", "fastfcgi.aborted"}


def test_the_base_is_each_callers_own():
    gateway = Gateway(answering(b""))
    gateway.base.clear()
    assert gateway.base["wsgi.version"] == (1, 0)


def test_a_responder_has_no_role_and_no_data():
    environ = environ_of()
    assert "FCGI_ROLE" not in environ and "fastfcgi.data" not in environ


def test_an_authorizer_and_a_filter_are_told_their_role():
    assert environ_of(FakeRequest(role=AUTHORIZER))["FCGI_ROLE"] == "AUTHORIZER"
    environ = environ_of(FakeRequest(role=FILTER, data=b"file"))
    assert environ["FCGI_ROLE"] == "FILTER"
    assert environ["fastfcgi.data"].read() == b"file"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_wsgiref_validator_finds_nothing(method):
    def app(environ, start_response):
        environ["wsgi.errors"].write("seen\n")
        body = environ["wsgi.input"].read(10)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body, b"x"]

    request = handled(validator(app), FakeRequest(method, b"body"))
    assert (request.status, request.errors) == (200, b"seen\n")


# -------------------------------------------------------------------------- the response head


def test_status_and_headers_go_out_in_their_order():
    headers = [("Set-Cookie", "a=1"), ("X-Any", "b"), ("Set-Cookie", "a=2")]
    request = handled(answering([b"x"], "201 Created", headers))
    head, _, body = request.output.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"Status: 201 Created",
        b"Set-Cookie: a=1",
        b"X-Any: b",
        b"Set-Cookie: a=2",
        b"Content-Length: 1",
    ]
    assert body == b"x"


def test_header_values_are_latin_1():
    request = handled(answering([b""], headers=[("X-Name", "caf\xe9")]))
    assert b"X-Name: caf\xe9\r\n" in request.output


def test_the_header_waits_for_the_first_block_that_is_not_empty():
    request = FakeRequest()
    written = []

    def app(environ, start_response):
        start_response("200 OK", list(TEXT))
        for block in (b"", b"", b"x", b"", b"y"):
            written.append(len(request.writes))
            yield block

    handled(app, request)
    assert written == [0, 0, 0, 1, 1]
    assert request.body == b"xy"


def test_each_block_is_sent_before_the_next_is_asked_for():
    request = FakeRequest()
    seen = []

    def app(environ, start_response):
        start_response("200 OK", list(TEXT))
        for block in (b"1", b"2", b"3"):
            yield block
            seen.append(request.body)

    handled(app, request)
    assert seen == [b"1", b"12", b"123"]


def test_start_response_may_be_called_by_the_first_step_of_the_iterator():
    def app(environ, start_response):
        start_response("200 OK", list(TEXT))
        yield b"x"

    assert handled(app).body == b"x"


def test_a_small_block_goes_out_with_the_header():
    request = handled(answering([b"x" * 1000]))
    assert len(request.writes) == 1
    assert request.blocks[1] == b"x" * 1000


def test_a_large_block_is_not_copied():
    block = bytes(range(256)) * 1000
    request = handled(answering([block]))
    assert request.body == block
    assert len(request.writes) == 1
    assert request.blocks[1] is block


def test_the_last_block_is_known_as_such():
    """It can go out in one write with the end of the request."""
    assert handled(answering([b"x"])).lasts == [True]
    assert handled(answering([])).lasts == [True]
    assert handled(answering([b"x", b"y"])).lasts == [False, False]


def test_headers_of_the_connection_are_not_an_applications_to_set(caplog):
    names = "Connection Keep-Alive Proxy-Authenticate Proxy-Authorization TE Trailer Trailers"
    names = [*names.split(), "Transfer-Encoding", "Upgrade", "Status"]
    request = handled(answering([b"x"], headers=[(name, "500 x") for name in names]))
    assert request.status == 200
    assert request.headers == [("Content-Length", "1")]
    assert len(caplog.records) == len(names)


# ------------------------------------------------------------------ heads that are refused


@pytest.mark.parametrize(
    "status",
    ["200 OK\r\nX-Evil: 1", "200 OK\nX: 1", "200 O\0K", "", "OK", "20 OK", "2000 OK", "099 No"],
)
def test_a_status_that_cannot_be_sent_is_a_500(status, caplog):
    request = handled(answering([b"x"], status))
    assert request.status == 500
    assert b"Evil" not in request.output
    assert "not a status line" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "a\r\nX-Evil: 1"),
        ("X-A", "a\nX-Evil: 1"),
        ("X-A", "a\rX-Evil: 1"),
        ("X-A", "a\0"),
        ("X-A\r\nX-Evil", "1"),
        ("X-A: 1\nX-Evil", "1"),
        ("X A", "1"),
        ("X-A:", "1"),
        ("", "1"),
        ("X-\xe9", "1"),
        ("X-A", "\u20ac"),
        (b"X-A", "1"),
        ("X-A", b"1"),
        ("X-A", 1),
        ("Content-Length", "1x"),
        ("Content-Length", "-1"),
    ],
)
def test_a_header_that_cannot_be_sent_is_a_500(name, value, caplog):
    request = handled(answering([b"x"], headers=[(name, value)]))
    assert request.status == 500
    assert b"Evil" not in request.output
    assert caplog.records[-1].levelno == logging.ERROR


def test_two_different_content_lengths_are_a_500():
    headers = [("Content-Length", "1"), ("Content-Length", "2")]
    assert handled(answering([b"x"], headers=headers)).status == 500
    assert handled(answering([b"x"], headers=headers[:1] * 2)).status == 200


def test_a_status_that_is_no_str_is_a_500():
    assert handled(answering([b"x"], b"200 OK")).status == 500


def test_a_status_without_a_reason_is_sent():
    assert b"Status: 204\r\n" in handled(answering([], "204")).output


# --------------------------------------------------------------------------- start_response


def test_start_response_twice_is_an_error():
    def app(environ, start_response):
        start_response("200 OK", list(TEXT))
        start_response("201 Created", list(TEXT))
        return [b"x"]

    request = handled(app)
    assert request.status == 500
    assert b"start_response called again" in request.errors


def test_start_response_again_with_exc_info_replaces_the_head():
    def app(environ, start_response):
        start_response("200 OK", [("X-First", "1")])
        try:
            raise RuntimeError("first")
        except RuntimeError:
            start_response("503 Sorry", list(TEXT), sys.exc_info())
        return [b"sorry"]

    request = handled(app)
    assert request.status == 503
    assert b"X-First" not in request.output


def test_start_response_with_exc_info_after_the_header_raises_it_again():
    caught = []

    def app(environ, start_response):
        start_response("200 OK", list(TEXT))
        yield b"x"
        try:
            raise RuntimeError("late")
        except RuntimeError:
            try:
                start_response("500 Late", list(TEXT), sys.exc_info())
            except RuntimeError as error:
                caught.append(str(error))
                raise

    request = handled(app)
    assert caught == ["late"]
    assert (request.body, request.abandoned) == (b"x", True)


@pytest.mark.parametrize("result", [[b"x"], [b"x", b"y"], [], iter([b"x"])])
def test_a_body_without_start_response_is_a_500(result):
    request = handled(lambda environ, start_response: result)
    assert request.status == 500
    assert b"before start_response" in request.errors


def test_the_applications_header_list_is_left_alone():
    headers = [("Content-Type", "text/plain")]

    def app(environ, start_response):
        start_response("200 OK", headers)
        return [b"x"]

    handled(app)
    assert headers == [("Content-Type", "text/plain")]


# ----------------------------------------------------------------------------------- write()


def test_write_comes_before_the_iterable():
    def app(environ, start_response):
        write = start_response("200 OK", list(TEXT))
        write(b"1")
        write(b"")
        write(b"2")
        return [b"3", b"4"]

    request = handled(app)
    assert request.body == b"1234"
    assert request.headers == TEXT


def test_write_sends_at_once():
    request = FakeRequest()

    def app(environ, start_response):
        start_response("200 OK", list(TEXT))(b"1")
        assert request.body == b"1"
        return []

    assert handled(app, request).body == b"1"


# ------------------------------------------------------------------------------ wsgi.errors


def test_errors_are_text_for_the_web_servers_log():
    def app(environ, start_response):
        errors = environ["wsgi.errors"]
        assert errors.write("caf\xe9 \u20ac \udc80\n") == 9
        errors.writelines(["a\n", "b\n"])
        assert errors.isatty() is False
        print("printed", file=errors)
        return answering([b"x"])(environ, start_response)

    assert handled(app).errors == "caf\xe9 \u20ac \\udc80\na\nb\nprinted\n".encode()


def test_errors_are_sent_when_flushed():
    request = FakeRequest()
    errors = ErrorStream(request)
    errors.write("a")
    assert request.errors == b""
    errors.flush()
    assert request.errors == b"a"
    errors.flush()
    assert request.errors == b"a"


def test_much_of_errors_is_sent_without_a_flush():
    request = FakeRequest()
    errors = ErrorStream(request)
    for _ in range(1000):
        errors.write("x" * 100)
    assert len(request.errors) > 90_000


def test_errors_are_sent_when_much_has_come_together():
    class Counting(FakeRequest):
        sent = 0

        def write_error(self, data):
            super().write_error(data)
            self.sent += 1

    request = Counting()
    errors = ErrorStream(request)
    for _ in range(1000):
        errors.write("x" * 100)
    errors.flush()
    assert len(request.errors) == 100_000
    assert request.sent == -(-100_000 // 8200)


def test_errors_are_sent_with_a_failure():
    def app(environ, start_response):
        environ["wsgi.errors"].write("before\n")
        raise RuntimeError("after")

    assert handled(app).errors.startswith(b"before\nTraceback")


def test_errors_go_to_stderr_too_when_asked(capsys):
    def app(environ, start_response):
        environ["wsgi.errors"].write("seen\n")
        environ["wsgi.errors"].flush()
        return answering([b"x"])(environ, start_response)

    handled(app)
    assert capsys.readouterr().err == ""
    assert handled(app, tee_errors=True).errors == b"seen\n"
    assert capsys.readouterr().err == "seen\n"


def test_flushing_errors_flushes_stderr_too():
    class Stderr(io.StringIO):
        flushed = ""

        def flush(self):
            self.flushed = self.getvalue()

    stderr = Stderr()
    errors = ErrorStream(FakeRequest(), stderr)
    errors.write("seen\n")
    errors.flush()
    assert stderr.flushed == "seen\n"


def test_errors_need_no_stderr(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert handled(answering([b"x"]), tee_errors=True).status == 200
