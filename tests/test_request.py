"""A request between the loop that feeds it and the thread that runs its application."""

import contextlib
import errno
import io

import pytest
import wire
from helpers import blocked
from wired import ANSWER, Wired, answer, get, post

from fastfcgi.constants import AUTHORIZER, DATA, FILTER, OVERLOADED, RESPONDER
from fastfcgi.engine import READ
from fastfcgi.exceptions import RequestAborted

KIB = 1024


@pytest.fixture
def wired():
    with contextlib.ExitStack() as stack:

        def make(**options):
            made = Wired(**options)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def streaming(wired):
    """A request that runs while its body is still arriving: b"abc" has come."""

    def make(length=None, keep_conn=True, **options):
        web = wired(body_start=1, **options)
        web.deliver(post(body=b"abc", length=length, keep_conn=keep_conn, end=False))
        return web, web.requests[0]

    return make


# --------------------------------------------------------------------------------- its body


def test_a_whole_body_is_read_from_memory(wired):
    web = wired()
    web.deliver(post(body=b"a\nb\nc"))
    stream = web.requests[0].input_stream()
    assert type(stream) is io.BytesIO
    assert web.channel.connection.unread == 0
    assert stream.readlines() == [b"a\n", b"b\n", b"c"]


@pytest.mark.parametrize("length", [None, 0])
def test_an_empty_body(wired, length):
    web = wired()
    web.deliver(post(length=length))
    assert web.requests[0].input_stream().read() == b""


@pytest.mark.parametrize(
    "read",
    [
        lambda stream: stream.read(),
        lambda stream: b"".join(iter(lambda: stream.read(7), b"")),
        lambda stream: b"".join(stream),
        lambda stream: b"".join(iter(lambda: stream.readline(5), b"")),
        lambda stream: b"".join(stream.readlines()),
    ],
)
def test_a_body_is_read_while_it_arrives(streaming, read):
    web, request = streaming()
    stream = request.input_stream()
    rest = b"d\nef\n" * 1000 + b"end"
    with blocked(read, stream) as reader:
        assert reader.waiting()
        for i in range(0, len(rest), 1000):
            web.deliver(wire.stdin(1, rest[i : i + 1000], end=False))
        assert reader.waiting()
        web.deliver(wire.stdin(1))
        assert reader.result() == b"abc" + rest
    assert stream.read() == b""


def test_reading_takes_what_is_there_without_waiting_for_more(streaming):
    _, request = streaming()
    assert request.input_stream().read1(100) == b"abc"


def test_content_length_bytes_are_the_whole_body(streaming):
    web, request = streaming(length=5)
    web.deliver(wire.stdin(1, b"defgh", end=False))
    assert request.input_stream().read() == b"abcde"


def test_reading_ends_in_request_aborted_when_the_rest_never_comes(streaming):
    web, request = streaming()
    stream = request.input_stream()
    web.half_close()
    assert stream.read1(100) == b"abc"
    with pytest.raises(RequestAborted):
        stream.read(1)
    with pytest.raises(OSError):
        stream.read(1)


def test_reading_is_woken_by_an_abort(streaming):
    web, request = streaming()
    stream = request.input_stream()
    with blocked(stream.read) as reader:
        assert reader.waiting()
        web.deliver(wire.abort(1))
        with pytest.raises(RequestAborted):
            reader.result()


def test_a_body_that_was_whole_can_be_read_after_an_abort(wired):
    web = wired()
    web.deliver(post(body=b"abc"))
    web.deliver(wire.abort(1))
    assert web.requests[0].input_stream().read() == b"abc"


@pytest.mark.parametrize("multiplexed", [False, True])
def test_a_body_too_long_for_its_file_fails_the_reader(wired, multiplexed):
    web = wired(max_unread_stdin=KIB, max_body_memory=1, max_body_file=10 * KIB)
    if multiplexed:
        web.deliver(get(2))
    web.deliver(post(1, b"x" * 100 * KIB, end=False))
    if multiplexed:
        web.deliver(wire.stdin(1))
    else:
        with blocked(web.requests[0].write, None, ANSWER) as write:  # which takes it in
            assert write.waiting()
            web.deliver(wire.stdin(1))
            write.result()
    (request,) = (request for request in web.requests if request.request_id == 1)
    with pytest.raises(OSError) as caught:
        request.input_stream().read()
    assert caught.value.errno == errno.EFBIG


def test_an_authorizer_has_no_body(wired):
    web = wired(roles=(AUTHORIZER,))
    web.deliver(wire.begin_request(1, AUTHORIZER, True), wire.params(1, wire.cgi_params()))
    (request,) = web.requests
    assert request.input_stream().read() == b""
    answer(request)
    assert web.response() == (ANSWER, True)


def test_a_filter_has_two(wired):
    web = wired(roles=(FILTER,), body_start=1)
    web.deliver(
        wire.begin_request(1, FILTER, True),
        wire.params(1, wire.cgi_params()),
        wire.stdin(1, b"form"),
        wire.stream(DATA, 1, b"file, ", end=False),
    )
    (request,) = web.requests
    assert request.role == FILTER
    assert request.input_stream().read() == b"form"
    with blocked(request.data_stream().read) as reader:
        assert reader.waiting()
        web.deliver(wire.stream(DATA, 1, b"all of it"))
        assert reader.result() == b"file, all of it"


def test_a_filter_may_answer_before_it_has_its_data(wired):
    """Spec 6.4."""
    web = wired(roles=(FILTER, RESPONDER), max_unread_stdin=KIB)
    web.deliver(
        wire.begin_request(1, FILTER, True),
        wire.params(1, wire.cgi_params()),
        wire.stdin(1, b"x" * KIB),
    )
    answer(web.requests[0])
    assert web.response() == (ANSWER, True)
    web.deliver(wire.stream(DATA, 1, b"late"), get(2))
    assert len(web.requests) == 2


def test_bodies_are_told_apart_by_their_stream(wired):
    web = wired(roles=(FILTER,))
    web.deliver(wire.request(1, role=FILTER, keep_conn=True, body=b"in", data=b"data"))
    (request,) = web.requests
    assert request.data_stream().read(9) == b"data"
    assert request.input_stream().read(9) == b"in"


# ------------------------------------------------------------- first the body, then the output


def test_no_output_before_the_whole_body_has_arrived(streaming):
    """Web servers stall or fail when an answer comes while they are still sending."""
    web, request = streaming()
    with blocked(request.write, None, ANSWER) as write:
        assert write.waiting()
        assert web.response() == (b"", False)
        web.deliver(wire.stdin(1, b"def", end=False))
        assert write.waiting()
        web.deliver(wire.stdin(1))
        write.result()
    assert web.response() == (ANSWER, False)
    assert request.input_stream().read() == b"abcdef"
    request.end()


def test_a_large_body_taken_in_before_the_output_is_read_after_it(streaming):
    web, request = streaming(max_unread_stdin=100 * KIB, max_body_memory=50 * KIB)
    stream = request.input_stream()
    assert stream.read1(2) == b"ab"
    body = bytes(range(256)) * 4 * KIB
    with blocked(request.write, None, ANSWER) as write:
        assert write.waiting()
        web.deliver(wire.stdin(1, body))
        write.result()
    assert request.stdin_body.in_memory <= 200 * KIB
    assert stream.read() == b"c" + body
    request.end()


def test_the_end_of_a_body_known_by_its_length_is_waited_for_a_moment_only(streaming):
    """From some web servers it never comes."""
    web, request = streaming(length=3)
    with blocked(request.write, None, ANSWER) as write:
        write.result()
    assert web.response() == (ANSWER, False)
    request.end()
    web.deliver(wire.stdin(1), get(2))
    assert len(web.requests) == 2


def test_the_end_of_a_body_known_by_its_length_is_waited_for(streaming, monkeypatch):
    monkeypatch.setattr("fastfcgi.request.END_GRACE", 1000)
    web, request = streaming(length=3)
    with blocked(request.write, None, ANSWER) as write:
        assert write.waiting()
        web.deliver(wire.stdin(1))
        write.result()
    request.end()


def test_an_unread_body_is_thrown_away_with_the_last_output(streaming):
    web, request = streaming(max_unread_stdin=100 * KIB)
    with blocked(request.write, None, ANSWER, last=True) as write:
        assert write.waiting()
        web.deliver(wire.stdin(1, b"x" * 900 * KIB))
        write.result()
    assert request.stdin_body.available == 0
    request.end()
    assert web.response() == (ANSWER, True)


def test_nothing_of_the_body_is_left_when_an_application_writes_nothing(streaming):
    web, request = streaming()
    with blocked(request.end) as end:
        assert end.waiting()
        web.deliver(wire.stdin(1, b"x" * 900 * KIB))
        end.result()
    assert web.response() == (b"", True)
    assert web.mask == READ


# ---------------------------------------------------------------------------------- output


def test_the_last_output_waits_for_the_end(wired):
    web = wired()
    web.deliver(get())
    web.requests[0].write(ANSWER, None, last=True)
    assert web.response() == (b"", False)
    web.requests[0].end()
    assert web.response() == (ANSWER, True)


def test_end_request_carries_its_numbers(wired):
    web = wired()
    web.deliver(get())
    web.requests[0].end(protocol_status=OVERLOADED, app_status=77)
    output = web.read()[1]
    assert (output.protocol_status, output.app_status) == (OVERLOADED, 77)


def test_writing_fails_once_the_web_server_has_gone(wired):
    web = wired()
    web.deliver(get())
    (request,) = web.requests
    request.write(None, ANSWER)
    web.channel.on_failure()
    for _ in range(2):
        with pytest.raises(RequestAborted):
            request.write(None, b"more")
    request.end()


def test_the_first_write_into_a_closed_socket_is_the_loss(wired):
    """Nobody tells of it before."""
    web = wired()
    web.deliver(get())
    (request,) = web.requests
    web.sock.close()
    with pytest.raises(RequestAborted):
        for _ in range(10_000):
            request.write(None, b"x")
    request.end()
    assert web.closed


def test_a_write_that_waits_is_woken_by_the_loss(wired):
    web = wired(max_unsent=KIB)
    web.deliver(get())
    with blocked(web.requests[0].write, None, b"x" * 4_000_000) as write:
        assert write.waiting()
        web.channel.on_failure()
        with contextlib.suppress(RequestAborted):
            write.result()


def test_abandoned_the_response_does_not_look_complete(wired):
    web = wired()
    web.deliver(get(keep_conn=True))
    web.requests[0].write(None, ANSWER)
    web.requests[0].abandon()
    web.requests[0].end()
    assert web.response() == (ANSWER, False)
    assert web.saw_end


def test_abandoned_other_requests_of_the_connection_are_finished_first(wired):
    web = wired()
    web.deliver(get(1), get(2))
    web.requests[0].abandon()
    web.requests[0].end()
    assert not web.saw_end
    answer(web.requests[1])
    assert web.response(2) == (ANSWER, True)
    assert web.saw_end and not web.response(1)[1]


def test_abandoned_the_rest_of_the_body_is_not_waited_for(streaming):
    web, request = streaming()
    request.abandon()
    request.end()
    web.read()
    assert web.saw_end


def test_an_ended_request_cannot_write_into_the_next_of_its_id(wired):
    """Web servers use the same id again; an application may keep write() or wsgi.errors."""
    web = wired()
    web.deliver(get())
    answer(web.requests[0])
    assert web.response() == (ANSWER, True)
    web.answers.outputs.clear()
    web.deliver(get())
    old, new = web.requests
    with contextlib.suppress(RequestAborted):
        old.write(None, b"from the past")
    old.write_error(b"from the past")
    answer(new)
    assert web.response() == (ANSWER, True)
    assert web.answers[1].stderr == b""


def test_an_ended_request_that_writes_to_its_errors_does_no_harm(wired):
    web = wired()
    web.deliver(get())
    answer(web.requests[0])
    web.requests[0].write_error(b"late")
    assert web.response() == (ANSWER, True)


# ------------------------------------------------------------------------------- wsgi.errors


def test_errors_are_sent_at_once(wired):
    web = wired()
    web.deliver(get())
    web.requests[0].write_error(b"line\n")
    assert web.read()[1].stderr == b"line\n"
    answer(web.requests[0])
    assert web.response() == (ANSWER, True)
    assert web.answers[1].stderr_ended


def test_errors_wait_for_the_body_too(streaming):
    web, request = streaming()
    request.write_error(b"line\n")
    assert web.read().outputs == {}
    with blocked(answer, request) as done:
        assert done.waiting()
        web.deliver(wire.stdin(1))
        done.result()
    assert web.read()[1].stderr == b"line\n"


def test_errors_without_any_output_are_sent_at_the_end(streaming):
    web, request = streaming(length=3)
    request.write_error(b"line\n")
    request.end()
    assert web.read()[1].stderr == b"line\n"


def test_many_errors_wait_for_the_body_like_output(streaming):
    web, request = streaming()
    with blocked(lambda: [request.write_error(b"x" * KIB) for _ in range(100)]) as write:
        assert write.waiting()
        web.deliver(wire.stdin(1))
        write.result()
    assert len(web.read()[1].stderr) == 100 * KIB
    request.end()


def test_many_errors_wait_for_a_web_server_that_takes_nothing(wired):
    web = wired(max_unsent=100 * KIB)
    web.deliver(get())
    (request,) = web.requests
    with blocked(lambda: [request.write_error(b"x" * 10 * KIB) for _ in range(500)]) as write:
        assert write.waiting()
        assert web.channel.unsent < 200 * KIB
        while write.waiting():
            web.read_all()
    request.end()


def test_errors_to_a_web_server_that_has_gone_are_lost(wired):
    web = wired()
    web.deliver(get())
    web.channel.on_failure()
    web.requests[0].write_error(b"line\n")
    web.requests[0].end()
