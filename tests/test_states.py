"""The two tables of a request's states."""

import itertools

import pytest

from fastfcgi.constants import AUTHORIZER, DATA, FILTER, PARAMS, RESPONDER, STDIN
from fastfcgi.states import RECEIVING, SENDING, Receiving, Send, Sending

ROLES = (RESPONDER, AUTHORIZER, FILTER)


def received(role, *records):
    """The state after records, given as (type, whether it is empty)."""
    state = Receiving.PARAMS
    for type, ended in records:
        state = RECEIVING[role][state, type, ended]
    return state


def sent(*steps):
    state = Sending.OPEN
    for step in steps:
        state = SENDING[state, step]
    return state


@pytest.mark.parametrize("role", [RESPONDER, AUTHORIZER])
def test_params_then_stdin(role):
    assert received(role, (PARAMS, False), (PARAMS, False)) is Receiving.PARAMS
    assert received(role, (PARAMS, True)) is Receiving.STDIN
    assert received(role, (PARAMS, True), (STDIN, False)) is Receiving.STDIN
    assert received(role, (PARAMS, True), (STDIN, True)) is Receiving.DONE


def test_a_filter_gets_data_after_stdin():
    begin = ((PARAMS, True), (STDIN, False), (STDIN, True))
    assert received(FILTER, *begin) is Receiving.DATA
    assert received(FILTER, *begin, (DATA, False)) is Receiving.DATA
    assert received(FILTER, *begin, (DATA, False), (DATA, True)) is Receiving.DONE


@pytest.mark.parametrize(
    ("role", "records"),
    [
        (RESPONDER, [(STDIN, False)]),
        (RESPONDER, [(STDIN, True)]),
        (RESPONDER, [(PARAMS, True), (PARAMS, False)]),
        (RESPONDER, [(PARAMS, True), (PARAMS, True)]),
        (RESPONDER, [(PARAMS, True), (STDIN, True), (STDIN, False)]),
        (RESPONDER, [(PARAMS, True), (STDIN, True), (STDIN, True)]),
        (RESPONDER, [(PARAMS, True), (DATA, False)]),
        (RESPONDER, [(PARAMS, True), (STDIN, True), (DATA, False)]),
        (AUTHORIZER, [(PARAMS, True), (STDIN, True), (DATA, True)]),
        (FILTER, [(PARAMS, True), (DATA, False)]),
        (FILTER, [(PARAMS, True), (STDIN, True), (STDIN, False)]),
        (FILTER, [(PARAMS, True), (STDIN, True), (DATA, True), (DATA, False)]),
    ],
)
def test_out_of_order(role, records):
    *before, last = records
    state = received(role, *before)
    assert (state, *last) not in RECEIVING[role]


@pytest.mark.parametrize("role", ROLES)
def test_nothing_is_received_after_the_end(role):
    assert not [key for key in RECEIVING[role] if key[0] is Receiving.DONE]


@pytest.mark.parametrize("role", ROLES)
def test_only_the_empty_record_goes_on_to_the_next_stream(role):
    for (state, _, ended), after in RECEIVING[role].items():
        assert (state is not after) == ended


def test_output_in_every_order_until_the_end():
    assert sent(Send.STDERR, Send.STDOUT, Send.STDERR, Send.STDOUT) is Sending.OPEN
    assert sent(Send.STDOUT_END) is Sending.STDOUT_CLOSED
    assert sent(Send.STDOUT_END, Send.STDERR) is Sending.STDOUT_CLOSED
    assert sent(Send.STDOUT_END, Send.END_REQUEST) is Sending.ENDED
    assert sent(Send.END_REQUEST) is Sending.ENDED


def test_stdout_ends_once():
    assert (Sending.STDOUT_CLOSED, Send.STDOUT) not in SENDING
    assert (Sending.STDOUT_CLOSED, Send.STDOUT_END) not in SENDING


def test_nothing_is_sent_after_end_request():
    assert not [key for key in SENDING if key[0] is Sending.ENDED]


def test_sending_does_not_depend_on_what_was_received():
    """An application may answer early: the tables share no state."""
    assert all(isinstance(state, Sending) for state, _ in SENDING)
    tables = itertools.chain.from_iterable(RECEIVING.values())
    assert all(isinstance(key[0], Receiving) for key in tables)
