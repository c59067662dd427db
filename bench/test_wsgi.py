"""How fast the gateway is: whole requests through a server in this process, and the environ.

What is between the socket and the application has no other calls that stay: so the client, the
kernel and the change of threads are in these figures, the same for every commit. Nothing of it is
compared with other servers here (bench/test_server.py does that).
"""

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import reference_codec

from bench import corpus
from bench.in_process import END_REQUEST, Application, InProcess
from fastfcgi.environ import complete_environ

pytestmark = pytest.mark.benchmark(min_time=0.002, max_time=0.4, min_rounds=5)

Benchmark = Callable[..., Any]
StartResponse = Callable[..., Any]

HEADERS = [("Content-Type", "text/html")]
MANY_HEADERS = [
    *[("Content-Type", "text/html"), ("Cache-Control", "no-store"), ("ETag", '"5f3c-1a"')],
    *[("Set-Cookie", f"name{number}=value; Path=/; HttpOnly") for number in range(20)],
]


def page(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", list(HEADERS))
    return [corpus.PAGE_8K]


def many_headers(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", list(MANY_HEADERS))
    return [corpus.PAGE_8K]


def blocks(environ: dict[str, Any], start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", list(HEADERS))
    for _ in range(100):
        yield corpus.BLOCK_1K


def written(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    write = start_response("200 OK", list(HEADERS))
    for _ in range(100):
        write(corpus.BLOCK_1K)
    return []


def download(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", list(HEADERS))
    return [corpus.BLOCK_1M]


def file(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", list(HEADERS))
    result: Iterable[bytes] = environ["wsgi.file_wrapper"](io.BytesIO(corpus.BLOCK_1M))
    return result


def upload(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    size = len(environ["wsgi.input"].read())
    start_response("200 OK", list(HEADERS))
    return [b"%d" % size]


def errors(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    environ["wsgi.errors"].write("something to say\n")
    return page(environ, start_response)


def params_of(stream: bytes) -> dict[str, str]:
    pairs = reference_codec.decode_pairs(stream)
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}


def complete(params: dict[str, str]) -> int:
    """The CGI part of an environ; returns its entries."""
    environ = dict(params)
    complete_environ(environ)
    return len(environ)


def measure(benchmark: Benchmark, application: Application, request: bytes, least: int) -> None:
    """Requests on one kept connection, whose responses are of so many bytes at least."""
    with InProcess(application, request) as server:
        assert server.response >= least
        assert benchmark(server.request) == END_REQUEST


def test_complete_environ_nginx(benchmark: Benchmark) -> None:
    assert benchmark(complete, params_of(corpus.PARAMS_NGINX)) == 24


def test_complete_environ_lighttpd(benchmark: Benchmark) -> None:
    assert benchmark(complete, params_of(corpus.PARAMS_LIGHTTPD)) == 24


def test_request_page_8k(benchmark: Benchmark) -> None:
    measure(benchmark, page, corpus.GET_KEPT, 8200)


def test_request_on_its_own_connection(benchmark: Benchmark) -> None:
    with InProcess(page, corpus.GET_NGINX) as server:
        assert benchmark(server.request_alone) == END_REQUEST


def test_request_many_headers(benchmark: Benchmark) -> None:
    measure(benchmark, many_headers, corpus.GET_KEPT, 9000)


def test_request_100_blocks(benchmark: Benchmark) -> None:
    measure(benchmark, blocks, corpus.GET_KEPT, 100 * 1024)


def test_request_100_blocks_written(benchmark: Benchmark) -> None:
    measure(benchmark, written, corpus.GET_KEPT, 100 * 1024)


def test_request_block_1m(benchmark: Benchmark) -> None:
    measure(benchmark, download, corpus.GET_KEPT, 1 << 20)


def test_request_file_1m(benchmark: Benchmark) -> None:
    measure(benchmark, file, corpus.GET_KEPT, 1 << 20)


def test_request_post_40k(benchmark: Benchmark) -> None:
    measure(benchmark, upload, corpus.POST_KEPT, 40)


def test_request_errors(benchmark: Benchmark) -> None:
    measure(benchmark, errors, corpus.GET_KEPT, 8200)
