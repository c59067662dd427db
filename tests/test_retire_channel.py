"""A channel of a server that retires: what is served here, and when another process gets it."""

import contextlib
import os
import socket

import pytest
import wire
from wired import Wired, answer, get, post

from fastfcgi.engine import READ
from fastfcgi.handoff import Giver

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "send_fds"), reason="this system sends no descriptors"
)


@pytest.fixture
def wired():
    with contextlib.ExitStack() as stack:

        def make(**options):
            made = Wired(**options)
            stack.callback(made.close)
            made.given = []
            made.service.retiring = True
            made.service.giver = lambda fd, served: made.given.append((os.dup(fd), served)) or True
            stack.callback(lambda: [os.close(fd) for fd, _ in made.given])
            return made

        yield make


def test_an_idle_one_is_given_at_once(wired):
    web = wired()
    fd = web.channel.fd
    web.channel.on_retire()
    assert web.closed and [served for _, served in web.given] == [False]
    with pytest.raises(OSError):
        os.fstat(fd)
    assert web.service.channels == set()
    web.channel.on_retire()
    assert len(web.given) == 1


def test_a_request_that_is_there_already_is_served_here(wired):
    web = wired()
    web.sock.sendall(get())
    web.channel.on_retire()
    assert not web.closed and web.mask == READ
    (request,) = web.requests
    web.channel.on_retire()
    assert web.given == []
    answer(request)
    assert web.response()[1] and not web.saw_end
    assert web.closed and [served for _, served in web.given] == [True]


def test_what_comes_later_goes_with_it(wired):
    web = wired()
    web.channel.on_retire()
    web.sock.sendall(get())
    fd, _ = web.given[0]
    assert os.read(fd, 1000) == get()


def test_the_next_request_is_there_when_one_ends(wired):
    web = wired()
    web.deliver(get(1))
    (first,) = web.requests
    web.channel.on_retire()
    web.sock.sendall(get(2))
    answer(first)
    assert web.given == [] and not web.closed
    answer(web.requests[1])
    assert web.response(2)[1] and web.closed and len(web.given) == 1


def test_a_part_of_a_request_is_waited_for(wired):
    wire_bytes = get()
    for cut in (1, 8, 16, len(wire_bytes) - 1):
        web = wired()
        web.sock.sendall(wire_bytes[:cut])
        for _ in range(2):
            web.channel.on_retire()
        assert web.given == [] and web.mask == READ
        web.channel.on_tick(web.channel.idle_since + 5)  # no more haste than usual
        assert not web.closed
        web.deliver(wire_bytes[cut:])
        web.channel.on_retire()
        answer(web.requests[0])
        assert web.closed and len(web.given) == 1


def test_a_body_is_waited_for(wired):
    web = wired(body_start=1)
    web.deliver(post(body=b"abc", length=6, end=False))
    web.channel.on_retire()
    web.deliver(wire.stdin(1, b"def"))
    web.channel.on_retire()
    assert web.given == []
    assert web.requests[0].input_stream().read() == b"abcdef"
    answer(web.requests[0])
    assert web.closed and len(web.given) == 1


def test_what_is_unsent_is_waited_for(wired):
    web = wired(max_unsent=1 << 30)
    web.deliver(get())
    request = web.requests[0]
    request.write(None, b"x" * (4 << 20), last=True)
    request.end()
    for _ in range(2):
        web.channel.on_retire()
    assert web.given == [] and web.channel.unsent
    web.read_all()
    assert not web.channel.unsent
    web.channel.on_retire()
    assert web.closed and len(web.given) == 1
    assert web.response()[1] and not web.saw_end


def test_requests_side_by_side_are_all_waited_for(wired):
    web = wired()
    web.deliver(get(1), get(2))
    web.channel.on_retire()
    first, second = web.requests
    answer(first)
    assert web.given == []
    answer(second)
    assert web.closed and len(web.given) == 1


def test_a_question_of_the_web_servers_is_answered_first(wired):
    web = wired(values={"FCGI_MAX_CONNS": "1"})
    web.sock.sendall(wire.get_values("FCGI_MAX_CONNS"))
    web.channel.on_retire()
    web.channel.on_retire()
    assert len(web.read().management) == 1
    assert web.closed and len(web.given) == 1


def test_one_that_the_web_server_has_closed_is_not_given(wired):
    web = wired()
    web.sock.close()
    web.channel.on_retire()
    assert web.closed and web.given == []


def test_one_that_is_to_be_closed_is_not_given(wired):
    web = wired(is_inet=True)
    web.deliver(get(keep_conn=False))
    answer(web.requests[0])
    web.channel.on_retire()
    assert web.given == []


def test_one_that_nobody_takes_stays_and_is_served(wired):
    web = wired()
    web.service.giver = lambda fd, served: False
    web.channel.on_retire()
    assert not web.closed and web.mask == READ
    web.deliver(get())
    answer(web.requests[0])
    assert web.response()[1] and web.mask == READ
    # No more haste than usual: it is not to be closed.
    web.channel.on_tick(web.channel.idle_since + 5)
    assert not web.closed
    web.service.retiring = False
    web.channel.on_stop()
    assert web.closed


def test_a_ping_is_answered_first(wired):
    web = wired()
    web.service.pages = {"/": lambda params: b"Status: 200 OK\r\n\r\npong"}
    web.sock.sendall(get())
    web.channel.on_retire()
    web.channel.on_retire()
    assert web.response()[1] and web.closed and len(web.given) == 1


def test_giver_and_channel_agree():
    """What a channel calls is what a Giver has."""
    give, take = socket.socketpair()
    with give, take, contextlib.closing(Wired()) as web:
        web.service.giver = Giver(give).give
        web.service.retiring = True
        web.channel.on_retire()
        assert web.closed
        _, fds, _, _ = socket.recv_fds(take, 1, 1)
        os.close(fds[0])
