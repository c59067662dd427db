"""Requests that are like earlier ones: the result is what it would be without them, nothing of one
shows in another, and nothing stays that must not."""

import gc
import sys
import threading

import pytest
import reference_codec
from gil import needs_gil
from hypothesis import given, settings
from hypothesis import strategies as st

from fastfcgi import _codec, _shapes
from fastfcgi.exceptions import RemoteProtocolError

relaxed = settings(deadline=None)

with_shapes = needs_gil  # there are none without

BASE = {"wsgi.version": (1, 0), "wsgi.multithread": True, "wsgi.file_wrapper": list}
PAIRS = [
    (b"QUERY_STRING", b"a=1"),
    (b"REQUEST_METHOD", b"GET"),
    (b"CONTENT_LENGTH", b""),
    (b"REQUEST_URI", b"/page?a=1"),
    (b"DOCUMENT_URI", b"/page"),
    (b"PATH_INFO", b"/page"),
    (b"SCRIPT_NAME", b"/page"),
    (b"REMOTE_ADDR", b"192.0.2.1"),
    (b"SERVER_NAME", b"www.example"),
    (b"SCRIPT_NAME", b""),
    (b"HTTP_HOST", b"www.example"),
    (b"HTTP_COOKIE", b"id=7"),
    (b"HTTP_USER_AGENT", b"agent"),
    (b"HTTP_X_OF_ITS_OWN", b"1"),
]
NAMES = [name for name, _ in PAIRS]


def changed(pairs, **values):
    return [(name, values.get(name.decode(), value)) for name, value in pairs]


def decode(pairs, cache=None, base=None, parts=None, **limits):
    """The items of a dict, or the error there is."""
    wire = pairs if isinstance(pairs, bytes) else reference_codec.encode_pairs(pairs)
    decoder = _codec.ParamsDecoder(cache=cache, base=base, **limits)
    return outcome(decoder, [wire] if parts is None else parts)


def outcome(decoder, parts):
    step = 0
    try:
        for step, part in enumerate(parts):  # noqa: B007 - used after the loop
            decoder.feed(part)
        step = "finish"
        params = decoder.finish()
    except RemoteProtocolError as error:
        return step, type(error), str(error)
    return list(params.items()), decoder.received


def reference(pairs, base=None, **limits):
    wire = pairs if isinstance(pairs, bytes) else reference_codec.encode_pairs(pairs)
    decoder = reference_codec.ParamsDecoder(**limits)
    decoder.feed(wire)
    return list({**(base or {}), **decoder.finish()}.items()), len(wire)


def taught(*shapes, cache=None, **options):
    """A cache that has seen each of these often enough."""
    cache = cache or _codec.ValueCache()
    for pairs in shapes:
        for _ in range(3):
            decode(pairs, cache, **options)
    return cache


def reachable(*roots):
    """All that is kept by some objects."""
    seen, rest = {}, list(roots)
    while rest:
        held = rest.pop()
        if id(held) not in seen and not isinstance(held, type):
            seen[id(held)] = held
            rest += gc.get_referents(held)
    return list(seen.values())


def shapes_of(cache):
    return [held for held in reachable(cache) if type(held) is _shapes.Shape]


# ------------------------------------------------------------------------- the same as without

some_names = st.one_of(
    st.sampled_from(NAMES),
    st.sampled_from([b"", b"HTTP_", b"HTTP_ACCEPT", b"HTTPS", b"A", b"B", b"\xe9\xff"]),
    st.sampled_from([b"wsgi.version", b"wsgi.x"]),
    st.sampled_from([b"n" * 127, b"m" * 127, b"n" * 128, b"HTTP_" + b"N" * 122]),
    st.binary(max_size=3),
)
some_values = st.one_of(
    st.sampled_from([b"", b"1", b"2", b"\xe9", b"www.example", b"v" * 127, b"w" * 127, b"v" * 128]),
    st.sampled_from([b"v" * 256, b"w" * 256, b"v" * 257, b"v" * 5000]),
    st.binary(max_size=3),
)
pair_lists = st.lists(st.tuples(some_names, some_values), max_size=14)


@st.composite
def mutated(draw, pairs):
    """Pairs with one thing changed."""
    pairs = list(pairs)
    kind = draw(st.integers(0, 6))
    if not pairs or kind == 0:
        return pairs
    one = st.integers(0, len(pairs) - 1)
    i, j = draw(one), draw(one)
    if kind == 1:
        pairs[i] = pairs[i][0], draw(some_values)
    elif kind == 2:
        pairs[i] = draw(some_names), pairs[i][1]
    elif kind == 3:
        pairs[i], pairs[j] = pairs[j], pairs[i]
    elif kind == 4:
        pairs.insert(i, pairs[j])
    elif kind == 5:
        del pairs[i]
    else:  # another name of the same length
        name = pairs[i][0]
        pairs[i] = name[:-1] + bytes([draw(st.integers(0, 255))]) if name else b"", pairs[i][1]
    return pairs


def encode(pairs, long):
    """With lengths of four bytes where `long` says so, by its bits."""
    out = []
    for i, (name, value) in enumerate(pairs):
        for number, part in ((2 * i, name), (2 * i + 1, value)):
            size = len(part)
            four = size > 127 or long >> number & 1
            out.append((size | 1 << 31).to_bytes(4, "big") if four else bytes([size]))
        out += [name, value]
    return b"".join(out)


@st.composite
def traffic(draw):
    """Streams one after the other, most like others, as the parts in which they come."""
    kinds = [PAIRS, *draw(st.lists(pair_lists, min_size=1, max_size=3))]
    streams = []
    for _ in range(draw(st.integers(1, 12))):
        pairs = draw(st.sampled_from(kinds))
        streams += [[encode(pairs, 0)]] * draw(st.integers(0, 3))
        data = encode(
            draw(mutated(pairs)), draw(st.one_of(st.just(0), st.integers(0, (1 << 28) - 1)))
        )
        if draw(st.integers(0, 4)) == 0:
            data = data[: draw(st.integers(0, len(data)))]
        cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=2)))
        streams.append([data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)])
    return streams


@relaxed
@given(traffic(), st.sampled_from([b"", b"wsgi.", b"HTTP_X"]), st.booleans(), st.booleans())
def test_earlier_requests_change_nothing(streams, reserved, has_base, one_decoder):
    base = BASE if has_base else None
    cache = _codec.ValueCache()
    shared = _codec.ParamsDecoder(reserved=reserved, cache=cache, base=base)
    for parts in streams:
        decoder = shared
        if not one_decoder:
            decoder = _codec.ParamsDecoder(reserved=reserved, cache=cache)
        own_base = base if one_decoder else None
        found = outcome(decoder, parts)
        assert found == decode(b"", None, own_base, parts, reserved=reserved)
        if type(found[0]) is list:
            assert found == reference(b"".join(parts), own_base, reserved=reserved)
        else:
            shared = _codec.ParamsDecoder(reserved=reserved, cache=cache, base=base)


@relaxed
@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 16)), min_size=1, max_size=5),
    st.lists(pair_lists.flatmap(mutated), max_size=3),
)
def test_limits_strike_where_they_do_without_earlier_requests(limits, others):
    cache = taught(PAIRS, *others)
    for max_bytes, max_pairs in limits:
        for pairs in (PAIRS, *others):
            options = {"max_bytes": max_bytes, "max_pairs": max_pairs}
            assert decode(pairs, cache, **options) == decode(pairs, **options)


def test_every_cut_of_a_known_stream():
    cache = taught(PAIRS)
    whole = reference_codec.encode_pairs(PAIRS)
    for cut in range(len(whole) + 1):
        for parts in ([whole[:cut]], [whole[:cut], whole[cut:]], [whole, whole[:cut]]):
            assert decode(b"", cache, parts=parts) == decode(b"", parts=parts)
    assert decode(PAIRS, cache) == reference(PAIRS)


def test_a_known_stream_that_goes_on():
    """Its pairs count, for limits as for header fields that come again."""
    cache = taught(PAIRS)
    whole = reference_codec.encode_pairs(PAIRS)
    more = [(b"HTTP_COOKIE", b"b=8"), (b"HTTP_HOST", b"other"), (b"PATH_INFO", b"/other")]
    parts = [whole, reference_codec.encode_pairs(more)]
    assert decode(b"", cache, parts=parts) == reference([*PAIRS, *more])
    assert dict(decode(b"", cache, parts=parts)[0])["HTTP_COOKIE"] == "id=7; b=8"
    for limits in ({"max_pairs": len(PAIRS) + 2}, {"max_bytes": len(whole) + 8}):
        found = decode(b"", cache, parts=parts, **limits)
        assert found == decode(b"", parts=parts, **limits) and found[0] == 1
    # A pair that is announced and cannot fit is refused before it comes.
    parts, limits = [whole, b"\x01\x08A"], {"max_bytes": len(whole) + 8}
    found = decode(b"", cache, parts=parts, **limits)
    assert found == decode(b"", parts=parts, **limits) and found[0] == 1


@pytest.mark.parametrize("name", [name.decode() for name in dict.fromkeys(NAMES)])
def test_each_value_is_the_one_sent(name):
    cache = taught(PAIRS)
    values = [b"", b"x", b"y", b"xy", b"\xe9", b"x" * 127, b"x" * 128, b"y" * 128, b"x" * 256]
    for value in [*values, b"x" * 257, b"x", *reversed(values), b"z" * 70000, b"x"]:
        for _ in range(2):
            pairs = changed(PAIRS, **{name: value})
            assert decode(pairs, cache) == reference(pairs)


def test_the_last_of_a_name_counts_whichever_of_them_changes():
    """A web server may send a name once by default and once as its administrator wants it."""
    for name in (b"SCRIPT_NAME", b"SERVER_NAME", b"X"):
        for count in (2, 3):
            cache = taught([(name, b"x"), (b"A", b"")] * count)
            for number in range(3**count):
                pairs = []
                for _ in range(count):
                    pairs += [(name, [b"", b"x", b"y"][number % 3]), (b"A", b"")]
                    number //= 3
                assert decode(pairs, cache) == reference(pairs)


def test_a_header_field_that_comes_again_is_joined_each_time():
    pairs = [*PAIRS, (b"HTTP_COOKIE", b"b=8"), (b"HTTP_HOST", b"other")]
    cache = taught(pairs)
    for value in (b"1", b"2", b"2"):
        pairs = changed(pairs, HTTP_COOKIE=value)
        assert decode(pairs, cache) == reference(pairs)


def test_decoders_with_other_rules_share_no_shapes():
    pairs = [*PAIRS, (b"wsgi.x", b"1")]
    rules = [{}, {"base": BASE, "reserved": b"wsgi."}, {"reserved": b"HTTP_X"}, {"base": {"b": 1}}]
    cache = _codec.ValueCache()
    decoders = [_codec.ParamsDecoder(cache=cache, **rule) for rule in rules]
    for _ in range(20):
        for decoder, rule in zip(decoders, rules, strict=True):
            for _ in range(3):
                wire = reference_codec.encode_pairs(pairs)
                assert outcome(decoder, [wire]) == reference(pairs, **rule)


def test_many_kinds_of_requests_in_turn():
    cache = _codec.ValueCache()
    kinds = [PAIRS[:i] + PAIRS[j:] for i in range(len(PAIRS)) for j in range(i, len(PAIRS))]
    for pairs in [*kinds, *(kinds[i * 7 % len(kinds)] for i in range(500))]:
        for _ in range(3):
            assert decode(pairs, cache) == reference(pairs)


# ---------------------------------------------------------------------------- what base is for


@pytest.mark.parametrize("pairs", [[], PAIRS], ids=["nothing sent", "params"])
def test_base_comes_first_whatever_is_sent(pairs):
    cache = _codec.ValueCache()
    decoder = _codec.ParamsDecoder(cache=cache, base=BASE, reserved=b"wsgi.")
    wire = reference_codec.encode_pairs(pairs)
    for parts in [[], [b""], [wire], [wire], [wire], [wire[:20], wire[20:]]]:
        expected = reference(b"".join(parts), BASE)
        assert outcome(decoder, parts) == expected


def test_base_is_as_it_was_when_it_was_given():
    base = {"wsgi.version": (1, 0)}
    decoder = _codec.ParamsDecoder(base=base)
    base["wsgi.more"] = True
    assert decoder.finish() == {"wsgi.version": (1, 0)}


def has_room(params):
    """For what a gateway adds: a dict that has to grow is slow."""
    before = sys.getsizeof(params)
    params.update({f"wsgi.{i}": i for i in range(8)})
    return sys.getsizeof(params) == before


def test_there_is_room_in_the_dict_of_a_first_request():
    for count in range(1, 31):
        decoder = _codec.ParamsDecoder(base=BASE)
        decoder.feed(reference_codec.encode_pairs([(b"N_%d" % i, b"") for i in range(count)]))
        assert has_room(decoder.finish())


@with_shapes
def test_there_is_room_in_the_dict_of_each_request_like_others():
    for count in range(8, 65):  # fewer is no request of a web server
        pairs = [(b"N_%d" % i, b"") for i in range(count)]
        decoder = _codec.ParamsDecoder(cache=_codec.ValueCache(), base=BASE)
        for _ in range(2):
            assert outcome(decoder, [reference_codec.encode_pairs(pairs)]) == reference(pairs, BASE)
        decoder.feed(reference_codec.encode_pairs(pairs))
        assert has_room(decoder.finish())


# ------------------------------------------------------------------- each dict is one's own


def test_what_is_done_with_a_dict_shows_in_no_other():
    cache = _codec.ValueCache()
    expected = reference(PAIRS, BASE)[0]
    decoder = _codec.ParamsDecoder(cache=cache, base=BASE)
    wire = reference_codec.encode_pairs(PAIRS)
    given_out = []
    for round in range(12):
        decoder.feed(wire)
        params = decoder.finish()
        assert list(params.items()) == expected
        assert all(held is not params for held in reachable(cache, decoder))
        given_out.append(params)
        if round % 4 == 0:
            params.clear()
        elif round % 4 == 1:
            params.update(dict.fromkeys(params, "changed"))
        elif round % 4 == 2:
            del params["HTTP_HOST"], params["wsgi.version"], params["PATH_INFO"]
            params["more"] = params
        else:
            params.update({str(i): i for i in range(200)})
    assert given_out[0] == {} and len(given_out[11]) == len(expected) + 200


@with_shapes
def test_equal_values_and_names_are_the_same_objects():
    cache = taught(PAIRS)
    first, second = (dict(decode(PAIRS, cache)[0]) for _ in range(2))
    for name in ("HTTP_HOST", "SERVER_NAME", "REMOTE_ADDR", "REQUEST_METHOD"):
        assert first[name] is second[name]
    assert first["DOCUMENT_URI"] is first["PATH_INFO"]
    assert first["REQUEST_URI"] is not second["REQUEST_URI"]


# -------------------------------------------------------------------------------- what is kept


@with_shapes
def test_a_shape_is_kept_of_what_comes_again():
    cache = _codec.ValueCache()
    for i in range(40):
        decode([*PAIRS, (b"N_%d" % i * (i % 8 + 1), b"")], cache)
    assert shapes_of(cache) == []
    taught(PAIRS, cache=cache)
    assert len(shapes_of(cache)) == 1


@with_shapes
def test_what_comes_no_more_makes_room():
    """Each of these kinds of requests has some other outline, and a slot like one of the others."""
    cache = _codec.ValueCache()
    for i in range(500):
        taught([*PAIRS[: i % 13], (b"N" * (1 + i // 13) + b"_", b"")], cache=cache)
    kept = [shape for shape in reachable(cache) if type(shape) is str and shape.endswith("N_")]
    assert len(shapes_of(cache)) <= 32 and 10 < len(kept) <= 64
    assert max(map(len, kept)) > 36 and kept.count("N_") == 0


def test_long_values_do_not_stay():
    cache = taught(PAIRS)
    for length in (256, 257, 300, 70000):
        taught(changed(PAIRS, HTTP_USER_AGENT=b"v" * length), cache=cache)
        taught([(b"HTTP_USER_AGENT", b"w" * length)], cache=cache)
    kept = {held for held in reachable(cache) if type(held) is str and held[:1] in ("v", "w")}
    assert kept and max(map(len, kept)) == 256


def test_a_cache_is_bounded():
    """However long and many the names and values are."""
    cache = _codec.ValueCache()
    for i in range(300):
        for length, count in ((127, 64), (128, 2), (100, 65)):
            names = [b"%04d" % (i + j) * 50 for j in range(count)]
            pairs = [(name[:length], b"v" * 5000) for name in names]
            taught([*pairs[1:], (b"HTTP_HOST", b"v" * (i % 300))], cache=cache)
    assert sum(map(sys.getsizeof, reachable(cache))) < 2_000_000


@pytest.mark.parametrize(
    "name",
    [
        *["HTTP_COOKIE", "HTTP_AUTHORIZATION", "REMOTE_USER", "HTTP_PROXY_AUTHORIZATION"],
        *["QUERY_STRING", "REQUEST_URI", "PATH_INFO", "SCRIPT_NAME", "HTTP_REFERER", "HTTP_X_KEY"],
    ],
)
def test_secrets_and_urls_do_not_stay_in_a_cache(name):
    cache = _codec.ValueCache()
    secret = b"of one request only"
    streams = [
        [*PAIRS, (name.encode(), secret)],
        [(name.encode(), secret), *PAIRS],
        [(name.encode(), secret), (b"A", b""), (name.encode(), secret + b"!")],
        [(name.encode(), b""), *PAIRS],
        [(name.encode(), secret), *PAIRS],
    ]
    for pairs in streams:
        for count in range(3):
            decode([*pairs, (b"REMOTE_ADDR", b"%d" % count)], cache)
    texts = [held for held in reachable(cache) if isinstance(held, str | bytes)]
    assert "2" in texts  # the search finds what is kept
    assert [text for text in texts if ("only" if type(text) is str else b"only") in text] == []


def test_one_cache_in_several_threads():
    cache = _codec.ValueCache()
    wrong = []

    def run(octet):
        pairs = changed(PAIRS, REMOTE_ADDR=octet * 9, HTTP_USER_AGENT=octet * 40, PATH_INFO=octet)
        expected = reference(pairs)
        for _ in range(3000):
            found = decode(pairs, cache)
            if found != expected:
                wrong.append(found)

    threads = [threading.Thread(target=run, args=(octet,)) for octet in (b"a", b"b", b"c", b"d")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
