"""How fast the codec is, and how much faster than the same in plain Python.

Every operation stands here twice, with fixed names and no parameters. `_in_python` is the
reference codec of the tests: written for the reader, so the ratio says what Cython buys and not
how good Python could be.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest
import reference_codec

from bench import corpus
from fastfcgi import _codec
from fastfcgi.constants import STDOUT

pytestmark = pytest.mark.benchmark(min_time=0.0002, max_time=0.3, min_rounds=5)

Benchmark = Callable[..., Any]


def read(codec: ModuleType, chunks: Sequence[bytes]) -> int:
    """Take a connection's bytes apart; returns the bytes of content."""
    reader = codec.RecordReader()
    size = 0
    for chunk in chunks:
        for _, _, content in reader.feed(chunk):
            size += len(content)
    return size


def decode(codec: ModuleType, stream: bytes) -> dict[str, str]:
    """A PARAMS stream as environ entries."""
    decoder = codec.ParamsDecoder(1 << 20, 1024, b"wsgi.")
    decoder.feed(stream)
    params: dict[str, str] = decoder.finish()
    return params


def encode(codec: ModuleType, data: bytes) -> int:
    """A response as records and what ends it; returns the bytes on the wire."""
    buffers = [
        *codec.encode_stream(STDOUT, 1, data),
        codec.encode_record(STDOUT, 1),
        codec.encode_end_request(1, 0, 0),
    ]
    return sum(map(len, buffers))


def encode_pairs(codec: ModuleType, pairs: list[tuple[bytes, bytes]]) -> bytes:
    encoded: bytes = codec.encode_pairs(pairs)
    return encoded


def test_read_get_nginx(benchmark: Benchmark) -> None:
    assert benchmark(read, _codec, [corpus.GET_NGINX]) == 570


def test_read_get_nginx_in_python(benchmark: Benchmark) -> None:
    assert benchmark(read, reference_codec, [corpus.GET_NGINX]) == 570


def test_read_get_lighttpd(benchmark: Benchmark) -> None:
    assert benchmark(read, _codec, [corpus.GET_LIGHTTPD]) == 560


def test_read_get_lighttpd_in_python(benchmark: Benchmark) -> None:
    assert benchmark(read, reference_codec, [corpus.GET_LIGHTTPD]) == 560


def test_read_post_40k(benchmark: Benchmark) -> None:
    assert benchmark(read, _codec, [corpus.POST_40K]) == 40632


def test_read_post_40k_in_python(benchmark: Benchmark) -> None:
    assert benchmark(read, reference_codec, [corpus.POST_40K]) == 40632


def test_read_multiplexed(benchmark: Benchmark) -> None:
    assert benchmark(read, _codec, [corpus.MULTIPLEXED]) == 80742


def test_read_multiplexed_in_python(benchmark: Benchmark) -> None:
    assert benchmark(read, reference_codec, [corpus.MULTIPLEXED]) == 80742


def test_read_stdin_64k(benchmark: Benchmark) -> None:
    assert benchmark(read, _codec, [corpus.STDIN_64K]) == 65536


def test_read_stdin_64k_in_python(benchmark: Benchmark) -> None:
    assert benchmark(read, reference_codec, [corpus.STDIN_64K]) == 65536


def test_read_byte_by_byte(benchmark: Benchmark) -> None:
    assert benchmark(read, _codec, corpus.GET_IN_BYTES) == 570


def test_read_byte_by_byte_in_python(benchmark: Benchmark) -> None:
    assert benchmark(read, reference_codec, corpus.GET_IN_BYTES) == 570


def test_params_nginx(benchmark: Benchmark) -> None:
    assert len(benchmark(decode, _codec, corpus.PARAMS_NGINX)) == 24


def test_params_nginx_in_python(benchmark: Benchmark) -> None:
    assert len(benchmark(decode, reference_codec, corpus.PARAMS_NGINX)) == 24


def test_params_lighttpd(benchmark: Benchmark) -> None:
    assert len(benchmark(decode, _codec, corpus.PARAMS_LIGHTTPD)) == 23


def test_params_lighttpd_in_python(benchmark: Benchmark) -> None:
    assert len(benchmark(decode, reference_codec, corpus.PARAMS_LIGHTTPD)) == 23


def test_encode_page_8k(benchmark: Benchmark) -> None:
    assert benchmark(encode, _codec, corpus.PAGE_8K) == 8232


def test_encode_page_8k_in_python(benchmark: Benchmark) -> None:
    assert benchmark(encode, reference_codec, corpus.PAGE_8K) == 8232


def test_encode_block_1m(benchmark: Benchmark) -> None:
    assert benchmark(encode, _codec, corpus.BLOCK_1M) == 1048736


def test_encode_block_1m_in_python(benchmark: Benchmark) -> None:
    assert benchmark(encode, reference_codec, corpus.BLOCK_1M) == 1048736


def test_encode_pairs(benchmark: Benchmark) -> None:
    assert benchmark(encode_pairs, _codec, corpus.PAIRS_NGINX) == corpus.PARAMS_NGINX


def test_encode_pairs_in_python(benchmark: Benchmark) -> None:
    assert benchmark(encode_pairs, reference_codec, corpus.PAIRS_NGINX) == corpus.PARAMS_NGINX
