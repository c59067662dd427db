"""All scenarios, and those of them in which no application waits."""

import functools
import hashlib
import os
from collections.abc import Iterator

from bench.apps import BLOCK, HELLO, LINE
from bench.floor import answer_of
from bench.load import Ask
from bench.rounds import HELLOS, Scenario, asking, counting, idling, moving, one_process
from bench.scenarios_http import http_scenarios
from bench.scenarios_threads import free_threaded_scenarios, thread_scenarios, worker_scenarios

BLOCKS = 1024
SIZE = BLOCKS * len(BLOCK)  # 64 MiB
LINES = Ask("/lines", LINE * 1000, query="1000")
HELLO_ANSWER = functools.partial(answer_of, HELLO)
LINES_ANSWER = functools.partial(answer_of, LINE, 1000)


def digest_of(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


@functools.cache
def large() -> bytes:
    return BLOCK * BLOCKS


@functools.cache
def large_file() -> str:
    """The path of a file of 64 MiB in memory, so that no disk is busy; gone with this process."""
    fd = os.memfd_create("64-mib")
    with open(fd, "wb", closefd=False) as file:
        file.write(large())
    return f"/proc/{os.getpid()}/fd/{fd}"


def hello_scenarios() -> Iterator[Scenario]:
    """1 to 6: small requests."""
    post = Ask("/digest", digest_of(LINE), body=LINE)
    cookie = Ask("/hello", HELLO, cookie="c" * 7500)  # 8 KiB with the others
    for name, title, enter, clients in (
        ("kept-1", "hello, 1 client, kept", asking(HELLOS, 1), 1),
        ("kept-16", "hello, 16 clients, kept", asking(HELLOS, 16), 16),
        ("new-16", "hello, 16 clients, a connection each", asking(HELLOS, 16, keep=False), 16),
        ("params-8k", "hello, 8 KiB of params, 1 client, kept", asking(cookie, 1), 1),
    ):
        yield Scenario(name, title, enter, one_process(clients), answer=HELLO_ANSWER)
    yield Scenario(
        "post-8",
        "sha256 of 1 KiB, 8 clients, kept",
        asking(post, 8),
        one_process(8),
        answer=functools.partial(answer_of, post.right),
    )
    yield Scenario(
        "kept-256",
        "hello, 256 clients, kept",
        asking(HELLOS, 256),
        one_process(256),
        ("rate", "cpu", "p99", "peak"),
        HELLO_ANSWER,
    )


def large_scenarios() -> Iterator[Scenario]:
    """7 to 10: large responses and requests. The floor sends blocks from memory where others read
    a file, and digests nothing."""
    shown = ("speed", "growth", "cpu_per_mb")
    servers = one_process(1)
    download = functools.partial(answer_of, BLOCK, BLOCKS)

    def up() -> Ask:
        return Ask("/digest", digest_of(large()), body=large())

    yield Scenario(
        "down-blocks",
        "64 MiB down, a generator of 64 KiB",
        moving(lambda: Ask("/down", large(), query=str(BLOCKS)), SIZE),
        servers,
        shown,
        download,
    )
    yield Scenario(
        "down-one",
        "64 MiB down, one block",
        moving(lambda: Ask("/", large()), SIZE, warm=None),
        servers,
        shown,
        functools.partial(answer_of, BLOCK * 16, BLOCKS // 16),  # 1 MiB for each send()
        application="bench.one_block:application",
    )
    yield Scenario(
        "file",
        "64 MiB down, wsgi.file_wrapper",
        moving(lambda: Ask("/file", large(), query=large_file()), SIZE),
        servers,
        shown,
        download,
    )
    yield Scenario(
        "up",
        "64 MiB up, sha256 by 64 KiB",
        moving(up, SIZE),
        servers,
        shown,
        lambda: answer_of(up().right),
    )
    yield Scenario("blocks", "1000 blocks of 1 KiB", asking(LINES, 1), servers, answer=LINES_ANSWER)


def cost_scenarios() -> Iterator[Scenario]:
    """17 and 18: what a server does for nothing, and what it asks of the kernel."""
    servers = one_process(16)
    yield Scenario(
        "idle",
        "2 s without a request, 16 kept connections",
        idling,
        servers,
        ("switches", "idle_cpu"),
        HELLO_ANSWER,
    )
    for name, title, enter, answer in (
        ("calls-kept", "hello, kept", counting(HELLOS, 1, True), HELLO_ANSWER),
        ("calls-kept-16", "hello, kept, 16 clients", counting(HELLOS, 16, True), HELLO_ANSWER),
        ("calls-new", "hello, a connection each", counting(HELLOS, 1, False), HELLO_ANSWER),
        ("calls-block", "each of 1000 blocks", counting(LINES, 1, True, 1000), LINES_ANSWER),
    ):
        yield Scenario(name, title, enter, servers, ("calls", "waits"), answer, needs=("strace",))


def all_scenarios(free_threaded: str | None = None) -> list[Scenario]:
    """All there are, with those for a Python without the GIL if one is given."""
    return [
        *hello_scenarios(),
        *large_scenarios(),
        *thread_scenarios(),
        *cost_scenarios(),
        *http_scenarios(),
        *worker_scenarios(),
        *(free_threaded_scenarios(free_threaded) if free_threaded else ()),
    ]
