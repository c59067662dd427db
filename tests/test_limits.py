"""Every limit: its default, what it refuses, and that it is an option of WSGIServer."""

import dataclasses

import pytest

from fastfcgi import ConfigurationError, WSGIServer
from fastfcgi.limits import LIMIT_NAMES, Limits

MIB = 1024 * 1024

# A default is a promise: who changes one changes it here and in the changelog.
DEFAULTS = {
    "max_params_bytes": 1 * MIB,
    "max_params_pairs": 1024,
    "max_requests_per_connection": 128,
    "max_unread_stdin": 1 * MIB,
    "max_unread_total": 16 * MIB,
    "body_start": 1 * MIB,
    "max_body_memory": 1 * MIB,
    "max_body_file": 1024 * MIB,
    "max_unsent": 1 * MIB,
    "max_connections": 1024,
    "queue_size": 512,
    "header_timeout": 30.0,
    "body_timeout": 90.0,
    "send_timeout": 90.0,
    "keep_alive_timeout": 600.0,
    "linger_timeout": 5.0,
    "linger_bytes": 16 * MIB,
    "graceful_timeout": 30.0,
}
MAY_BE_ZERO = ("queue_size", "graceful_timeout")
TIMES = [name for name in DEFAULTS if name.endswith("_timeout")]
NUMBERS = [name for name in DEFAULTS if name not in TIMES]


def test_defaults():
    assert dataclasses.asdict(Limits()) == DEFAULTS
    assert frozenset(DEFAULTS) == LIMIT_NAMES


@pytest.mark.parametrize("name", DEFAULTS)
def test_each_is_an_option_of_the_server(name):
    server = WSGIServer(lambda environ, start_response: [], **{name: 7})
    assert getattr(server.limits, name) == 7
    assert dataclasses.asdict(server.limits) == {**DEFAULTS, name: 7}


@pytest.mark.parametrize("name", DEFAULTS)
def test_too_small_is_refused(name):
    with pytest.raises(ConfigurationError, match=f"{name}=-1 is too small"):
        Limits(**{name: -1})
    if name in MAY_BE_ZERO:
        assert getattr(Limits(**{name: 0}), name) == 0
    else:
        with pytest.raises(ConfigurationError, match=f"{name}=0 is too small"):
            Limits(**{name: 0})


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("value", ["1", None, True, [1]])
def test_what_is_no_number_is_refused(name, value):
    with pytest.raises(ConfigurationError, match=rf"{name} is a (whole )?number, not"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_counted_is_a_whole_number(name):
    """A fraction would pass here and fail with every connection."""
    with pytest.raises(ConfigurationError, match=name):
        Limits(**{name: 1.5})


@pytest.mark.parametrize("name", TIMES)
def test_times_may_be_fractions_but_not_nan(name):
    assert getattr(Limits(**{name: 0.25}), name) == 0.25
    with pytest.raises(ConfigurationError, match=name):
        Limits(**{name: float("nan")})


def test_unknown_name():
    with pytest.raises(TypeError, match="max_params"):
        Limits(max_params=1)


def test_limits_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Limits().queue_size = 1
