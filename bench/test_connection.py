"""How fast the core is: a connection's bytes to events, and responses to records.

Through the public calls of `Connection` alone, with fixed names and no parameters. There is no
counterpart in plain Python: bench/gate.py compares these with an earlier commit.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from bench import corpus
from fastfcgi import constants
from fastfcgi.connection import Connection
from fastfcgi.events import InputReceived, RequestReceived

pytestmark = pytest.mark.benchmark(min_time=0.001, max_time=0.3, min_rounds=5)

Benchmark = Callable[..., Any]

# As a server answers GET_VALUES.
VALUES = {constants.MAX_CONNS: "1000", constants.MAX_REQS: "128", constants.MPXS_CONNS: "1"}


def new_connection() -> Connection:
    return Connection(reserved=b"wsgi.", values=VALUES)


def receive(chunks: Sequence[bytes]) -> int:
    """A connection's bytes as events, bodies read at once; returns params and bytes of bodies."""
    connection = new_connection()
    found = 0
    for chunk in chunks:
        for event in connection.receive_data(chunk):
            if isinstance(event, RequestReceived):
                found += len(event.params)
            elif isinstance(event, InputReceived):
                size = len(event.data)
                connection.acknowledge(event.request_id, size)
                found += size
    return found


def ask(connection: Connection) -> int:
    """A management record and its answer; returns the bytes of that."""
    connection.receive_data(corpus.GET_VALUES)
    return sum(map(len, connection.data_to_send()))


def exchange(connection: Connection, blocks: Sequence[bytes]) -> int:
    """A request on a kept connection and its response; returns the bytes on the wire."""
    connection.receive_data(corpus.GET_KEPT)
    for block in blocks:
        connection.send_stdout(1, block)
    connection.end_request(1)
    return sum(map(len, connection.data_to_send()))


def block_by_block(connection: Connection, blocks: Sequence[bytes]) -> int:
    """The same with every block sent before the next one comes."""
    connection.receive_data(corpus.GET_KEPT)
    size = 0
    for block in blocks:
        connection.send_stdout(1, block)
        size += sum(map(len, connection.data_to_send()))
    connection.end_request(1)
    return size + sum(map(len, connection.data_to_send()))


def test_new_connection(benchmark: Benchmark) -> None:
    assert benchmark(new_connection).idle


def test_receive_get_nginx(benchmark: Benchmark) -> None:
    assert benchmark(receive, [corpus.GET_NGINX]) == 24


def test_receive_get_lighttpd(benchmark: Benchmark) -> None:
    assert benchmark(receive, [corpus.GET_LIGHTTPD]) == 23


def test_receive_get_large(benchmark: Benchmark) -> None:
    assert benchmark(receive, [corpus.GET_LARGE]) == 66


def test_receive_post_40k(benchmark: Benchmark) -> None:
    assert benchmark(receive, [corpus.POST_40K]) == 40026


def test_receive_multiplexed(benchmark: Benchmark) -> None:
    assert benchmark(receive, [corpus.MULTIPLEXED]) == 80030


def test_receive_upload_1m(benchmark: Benchmark) -> None:
    assert benchmark(receive, corpus.UPLOAD_1M) == 1048602


def test_receive_byte_by_byte(benchmark: Benchmark) -> None:
    assert benchmark(receive, corpus.GET_IN_BYTES) == 24


def test_get_values(benchmark: Benchmark) -> None:
    assert benchmark(ask, new_connection()) == 48


def test_exchange_page_8k(benchmark: Benchmark) -> None:
    assert benchmark(exchange, new_connection(), [corpus.HEADER, corpus.PAGE_8K]) == 8312


def test_exchange_block_1m(benchmark: Benchmark) -> None:
    assert benchmark(exchange, new_connection(), [corpus.HEADER, corpus.BLOCK_1M]) == 1048816


def test_exchange_100_blocks(benchmark: Benchmark) -> None:
    assert benchmark(exchange, new_connection(), [corpus.BLOCK_1K] * 100) == 103224


def test_exchange_100_blocks_sent_one_by_one(benchmark: Benchmark) -> None:
    assert benchmark(block_by_block, new_connection(), [corpus.BLOCK_1K] * 100) == 103224
