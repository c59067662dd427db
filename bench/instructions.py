"""How many instructions the codec and one whole request take, counted by valgrind's callgrind.

    valgrind --tool=callgrind --dump-before=getppid python -m bench.instructions

runs every section a number of times; count() does that and reads what was counted. A count says
nothing of time, but it is the same in every run: what differs between two commits is what they
differ in. bench/gate.py compares them.
"""

import gc
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Section = Callable[[], object]

TIMES = 100  # how often a section runs between two dumps
DUMPS = 5
WARM_UP = 200  # runs before the first: caches, specialised bytecode, free lists
TIMEOUT = 900

# The dump comes before the call, so what lies between two of them is what is counted, from one
# process and without its start. Nothing else here calls it, and libc's symbols are always there:
# one of these two.
mark = os.getppid
MARKS = ("getppid", "__getppid")


# ---- what is counted --------------------------------------------------------------------------


@contextmanager
def parse_get_nginx() -> Iterator[Section]:
    """The bytes of a GET to a dict: records and PARAMS."""
    from bench import corpus
    from fastfcgi._codec import ParamsDecoder, RecordReader
    from fastfcgi.constants import PARAMS

    def section() -> dict[str, str]:
        decoder = ParamsDecoder(1 << 20, 1024, b"wsgi.")
        for type_, _, content in RecordReader().feed(corpus.GET_NGINX):
            if type_ == PARAMS:
                decoder.feed(content)
        return decoder.finish()

    assert len(section()) == 24
    yield section


@contextmanager
def encode_page_8k() -> Iterator[Section]:
    """A response to records."""
    from bench import corpus
    from fastfcgi._codec import encode_end_request, encode_record, encode_stream
    from fastfcgi.constants import STDOUT

    def section() -> int:
        buffers = [
            *encode_stream(STDOUT, 1, corpus.PAGE_8K),
            encode_record(STDOUT, 1),
            encode_end_request(1, 0, 0),
        ]
        return sum(map(len, buffers))

    assert section() == 8232
    yield section


@contextmanager
def exchange_page_8k() -> Iterator[Section]:
    """A GET and its response through a connection without its socket."""
    from bench import corpus
    from bench.test_connection import exchange, new_connection

    connection = new_connection()
    yield lambda: exchange(connection, [corpus.HEADER, corpus.PAGE_8K])


@contextmanager
def whole_request() -> Iterator[Section]:
    """A GET on a kept connection through a server with a WSGI application, and its client."""
    from bench import corpus
    from bench.in_process import InProcess

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/html")])
        return [corpus.PAGE_8K]

    # Threads change when one waits, not in the middle after 5 ms, which are few instructions here.
    sys.setswitchinterval(1000)
    with InProcess(application, corpus.GET_KEPT) as server:
        yield server.request


SECTIONS = {
    section.__name__: section
    for section in (parse_get_nginx, encode_page_8k, exchange_page_8k, whole_request)
}


def main(names: Iterable[str]) -> None:
    """Run sections; a line with the name of each one that could be run."""
    gc.disable()
    for name in names:
        try:
            with SECTIONS[name]() as section:
                for _ in range(WARM_UP):
                    section()
                for _ in range(DUMPS):
                    mark()
                    for _ in range(TIMES):
                        section()
                mark()
        except Exception as error:  # an older commit need not have what is used here
            print(f"{name} cannot be counted: {error!r}", file=sys.stderr)
            continue
        print(name, flush=True)


# ---- counting ---------------------------------------------------------------------------------


class CountError(Exception):
    """valgrind or what runs under it failed."""


def count(
    environment: Mapping[str, str], folder: Path, names: Iterable[str] = SECTIONS
) -> dict[str, float]:
    """Instructions of one run of each section, in user space, over all threads.

    Args:
        environment: In which the fastfcgi to count is imported.
        folder: Holds the folder bench.

    Returns:
        Name -> count, the least of several measurements; without those that this fastfcgi cannot
        run.

    Raises:
        CountError: There is no valgrind, or it fails.
    """
    with tempfile.TemporaryDirectory(prefix="callgrind-") as out:
        command = ["valgrind", "--tool=callgrind", "--quiet", "--fair-sched=try"]
        command += [f"--callgrind-out-file={out}/out", *(f"--dump-before={name}" for name in MARKS)]
        command += [sys.executable, "-m", "bench.instructions", *names]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env={**environment, "PYTHONHASHSEED": "0"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CountError(f"valgrind: {error}") from error
        if done.returncode != 0:
            raise CountError(f"valgrind ended with {done.returncode}:\n{done.stderr[-4000:]}")
        sys.stderr.write(done.stderr)
        counted = done.stdout.split()
        sums = list(read_dumps(Path(out)))
    # Each section begins with a dump of what was before it.
    if len(sums) != len(counted) * (DUMPS + 1):
        raise CountError(f"{len(sums)} dumps of {len(counted)} sections")
    sections = zip(counted, range(0, len(sums), DUMPS + 1), strict=True)
    return {name: min(sums[at + 1 : at + 1 + DUMPS]) / TIMES for name, at in sections}


def read_dumps(folder: Path) -> Iterator[int]:
    """The instructions of each dump that a mark made, in their order."""
    dumps = [path for path in folder.iterdir() if path.suffix[1:].isdigit()]
    for path in sorted(dumps, key=lambda path: int(path.suffix[1:])):
        text = path.read_text(errors="replace")
        if re.search(r"^desc: Trigger: --dump-before=_*getppid$", text, re.MULTILINE):
            found = re.search(r"^totals: (\d+)$", text, re.MULTILINE)
            if found is None:
                raise CountError(f"no totals in {path.name}")
            yield int(found[1])


if __name__ == "__main__":
    main(sys.argv[1:] or SECTIONS)
