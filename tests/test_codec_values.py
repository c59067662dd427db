"""A decoder of PARAMS that is used again, and values that requests share."""

import gc
import itertools
import threading

import pytest

from fastfcgi import _codec
from fastfcgi.exceptions import LimitExceeded, RemoteProtocolError


def pairs_of(*pairs):
    return _codec.encode_pairs([(name.encode(), value.encode()) for name, value in pairs])


def params_of(wire, **options):
    decoder = _codec.ParamsDecoder(**options)
    decoder.feed(wire)
    return decoder.finish()


# ------------------------------------------------------------- a decoder that is used again


def test_a_decoder_serves_for_one_stream_after_the_other():
    decoder = _codec.ParamsDecoder()
    first = pairs_of(("A", "1"), ("HTTP_B", "2"), ("HTTP_B", "3"))
    for wire, expected in [
        (first, {"A": "1", "HTTP_B": "2, 3"}),
        (pairs_of(("HTTP_B", "4")), {"HTTP_B": "4"}),
        (b"", {}),
        (first, {"A": "1", "HTTP_B": "2, 3"}),
    ]:
        for octet in wire:
            decoder.feed(bytes([octet]))
        assert decoder.finish() == expected
    assert decoder.finish() == {}


def test_each_stream_has_the_limits_to_itself():
    wire = pairs_of(("A", "1"), ("B", "2"))
    decoder = _codec.ParamsDecoder(max_bytes=len(wire), max_pairs=2)
    for _ in range(3):
        decoder.feed(wire)
        assert decoder.received == len(wire)
        assert decoder.finish() == {"A": "1", "B": "2"}
    with pytest.raises(LimitExceeded):
        decoder.feed(wire + b"x")
    for refused in (lambda: decoder.feed(b""), decoder.finish):
        with pytest.raises(RemoteProtocolError):
            refused()


# -------------------------------------------------------------------- values of earlier requests

STEADY = ["HTTP_HOST", "HTTP_USER_AGENT", "REMOTE_ADDR", "SERVER_NAME", "DOCUMENT_ROOT", "HTTPS"]


def cached(cache, params, **limits):
    """Params as a decoder with a cache gives them, cut at every byte and whole."""
    wire = pairs_of(*params.items())
    decoder = _codec.ParamsDecoder(cache=cache, **limits)
    for octet in wire:
        decoder.feed(bytes([octet]))
    assert decoder.finish() == params
    return params_of(wire, cache=cache, **limits)


def kept(value):
    """Whether something but the dict of its request holds a value."""
    return any(isinstance(holder, list) for holder in gc.get_referrers(value))


def test_values_that_stay_the_same_are_the_same_objects():
    cache = _codec.ValueCache()
    params = {name: f"value of {name}" for name in STEADY}
    first, second = cached(cache, params), cached(cache, params)
    assert first == second == params
    for name in STEADY:
        assert first[name] is second[name] and kept(first[name])


def test_without_a_cache_nothing_is_kept():
    wire = pairs_of(("HTTP_HOST", "a.example"))
    first, second = (params_of(wire, cache=None)["HTTP_HOST"] for _ in range(2))
    assert first == second and first is not second and not kept(first)


@pytest.mark.parametrize("name", STEADY)
def test_a_value_is_what_was_sent_whatever_was_sent_before(name):
    """Of the same length or not, ASCII or not, the beginning or the end of each other."""
    values = [b"", b"a", b"b", b"ab", b"ba", b"abc", b"abd", b"bbc", b"\xe9bc", b"ab\xe9", b"\0bc"]
    values += [b"ab\0", b"abc\0", b"\xc3\xa9", b"\xff" * 3, b"\xff\xfe\xff", bytes(3), b"abc"]
    values += [bytes(range(256)), bytes(range(255, -1, -1))]
    cache = _codec.ValueCache()
    for first, second in itertools.product(values, repeat=2):
        for value in (first, second):
            params = params_of(_codec.encode_pairs([(name.encode(), value)]), cache=cache)
            assert params == {name: value.decode("latin-1")}


def test_each_name_has_a_value_of_its_own():
    cache = _codec.ValueCache()
    for shift in range(len(STEADY) + 1):
        params = {name: str(i + shift)[-1] * 9 for i, name in enumerate(STEADY)}
        assert cached(cache, params) == params


def test_repeated_header_fields_are_joined_and_their_list_is_not_taken_for_one():
    cache = _codec.ValueCache()
    for values in (["text/a", "text/b"], ["text/a"], ["text/b"], ["text/a, text/b"], ["text/b"]):
        wire = pairs_of(*(("HTTP_ACCEPT", value) for value in values))
        assert params_of(wire, cache=cache) == {"HTTP_ACCEPT": ", ".join(values)}
    wire = pairs_of(("HTTP_HOST", "one"), ("HTTP_HOST", "two"))
    assert params_of(wire, cache=cache) == {"HTTP_HOST": "two"}


@pytest.mark.parametrize(
    "name",
    [
        *["HTTP_COOKIE", "HTTP_AUTHORIZATION", "REMOTE_USER", "HTTP_PROXY_AUTHORIZATION"],
        *["QUERY_STRING", "REQUEST_URI", "PATH_INFO", "SCRIPT_NAME", "SCRIPT_FILENAME"],
        *["DOCUMENT_URI", "PATH_TRANSLATED", "REDIRECT_URL", "HTTP_REFERER"],
        *["HTTP_X_TOKEN", "HTTP_X_API_KEY", "SSL_CLIENT_CERT", "UNIQUE_ID", "SECRET"],
    ],
)
def test_secrets_and_urls_do_not_outlive_their_request(name):
    cache = _codec.ValueCache()
    secret = "of one request only"
    first, second = cached(cache, {name: secret})[name], cached(cache, {name: secret})[name]
    assert first == second == secret
    assert first is not second
    assert not kept(first) and not kept(second)


def test_a_decoder_holds_nothing_of_a_stream_that_has_ended():
    """Of a list of cookies, for one, it held the parts."""
    decoder = _codec.ParamsDecoder()
    decoder.feed(pairs_of(("HTTP_COOKIE", "the first"), ("HTTP_COOKIE", "the second")))
    lists = [held for held in gc.get_objects() if type(held) is list]
    (parts,) = [held for held in lists if held[:1] == ["the first"]]
    lists.clear()
    holders = len(gc.get_referrers(parts))
    assert decoder.finish() == {"HTTP_COOKIE": "the first; the second"}
    assert len(gc.get_referrers(parts)) == holders - 1


def test_long_values_are_not_kept():
    cache = _codec.ValueCache()
    for length, keeps in ((256, True), (257, False), (300000, False)):
        params = {"HTTP_USER_AGENT": "x" * length}
        assert kept(cached(cache, params)["HTTP_USER_AGENT"]) == keeps


def test_one_cache_in_several_threads():
    cache = _codec.ValueCache()
    wrong = []

    def decode(octet):
        wire = pairs_of(*((name, octet * 40) for name in STEADY))
        for _ in range(3000):
            params = params_of(wire, cache=cache)
            if params != dict.fromkeys(STEADY, octet * 40):
                wrong.append(params)

    threads = [threading.Thread(target=decode, args=(octet,)) for octet in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
