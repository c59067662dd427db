"""`fastfcgi ping`, `status`, `request` and `top`, in this process and in one of their own."""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import fastfcgi
from fastfcgi import ask, cli, top

PACKAGE = str(Path(fastfcgi.__file__).parents[1])

# A process that runs one of the commands.
COMMAND = [sys.executable, "-c", "import sys, asking; sys.exit(asking.main(sys.argv[1:]))"]


def parser() -> argparse.ArgumentParser:
    """The command line with these commands."""
    found = cli._Parser(prog="fastfcgi")
    commands = found.add_subparsers(required=True)
    ask.add_ping_options(commands.add_parser("ping"))
    ask.add_status_options(commands.add_parser("status"))
    ask.add_request_options(commands.add_parser("request"))
    top.add_options(commands.add_parser("top"))
    return found


def main(arguments: list[str]) -> int:
    cli._parser = parser  # type: ignore[assignment]
    return cli.main(arguments)


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


class Runner:
    """Runs commands in this process; what they print is latin-1."""

    def __init__(self, capture: pytest.CaptureFixture[bytes]) -> None:
        self._capture = capture

    def __call__(self, *arguments: object) -> Done:
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = (text.decode("latin-1") for text in self._capture.readouterr())
        return Done(status, out, err)

    def error(self, *arguments: object, status: int = 1) -> str:
        """The error that a command ends with, which has to be one line."""
        done = self(*arguments)
        assert (done.status, done.out) == (status, ""), done
        start, _, rest = done.err.partition("fastfcgi: error: ")
        assert start == "" and rest.endswith("\n") and rest.count("\n") == 1, done.err
        return rest[:-1]


@pytest.fixture
def run(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Runner]:
    with monkeypatch.context() as context:
        context.setattr(cli, "_parser", cli._parser)  # put back at the end
        yield Runner(capfdbinary)


def environment(**extra: str) -> dict[str, str]:
    from processes import environment  # Linux only

    paths = [PACKAGE, str(Path(__file__).parent), *filter(None, sys.path)]
    return environment({"PYTHONPATH": ":".join(paths), **extra})


def process(*arguments: object, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    """The command in a process of its own, to its end."""
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 60, **options}
    words = [*COMMAND, *map(str, arguments)]
    return subprocess.run(words, env=environment(), **options)
