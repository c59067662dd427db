"""README and docs/ say what is true: names, defaults, limits, tables, links, commands, code."""

import inspect
import itertools
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import pytest
import test_layers

from fastfcgi import WSGIServer, cli, constants, load
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.limits import Limits
from fastfcgi.states import RECEIVING, SENDING

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
if not (DOCS / "index.md").exists():
    pytest.skip("the documentation is not here", allow_module_level=True)

PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def rows(page: Path, heading: str) -> list[list[str]]:
    """The cells of all tables of a section, without the lines that head them."""
    text = page.read_text()
    section = re.split(rf"^## {re.escape(heading)}$", text, flags=re.MULTILINE)[1]
    section = re.split(r"^## ", section, flags=re.MULTILINE)[0]
    tables = re.findall(r"^\|[-|]+\|\n((?:\|.*\|\n)+)", section, re.MULTILINE)
    lines = "".join(tables).splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def documented(heading: str) -> dict[str, str]:
    """Name -> second cell of a section of docs/options.md; a first cell may hold several names."""
    found = {}
    for cells in rows(DOCS / "options.md", heading):
        for name in re.findall("`([^`]+)`", cells[0]):
            assert name not in found, f"{name} stands there twice"
            found[name] = cells[1]
    return found


# ---- docs/options.md --------------------------------------------------------------------------


def test_limits() -> None:
    """Every limit stands there with its default, and nothing else does."""
    said = documented("Limits")
    assert set(said) == {field.name for field in fields(Limits)}
    for field in fields(Limits):
        number, _, unit = said[field.name].partition(" ")
        assert float(number) * UNITS[unit] == field.default, field.name


@pytest.mark.parametrize("limit", [field.name for field in fields(Limits)])
def test_limits_may_be_zero_where_it_is_said(limit: str) -> None:
    if limit in ("queue_size", "graceful_timeout"):
        assert getattr(Limits(**{limit: 0}), limit) == 0
    else:
        with pytest.raises(ConfigurationError, match=limit):
            Limits(**{limit: 0})


def test_arguments() -> None:
    """Every argument stands there with its default; flup's that are gone are taken."""
    said = documented("Arguments of WSGIServer")
    parameters = dict(inspect.signature(WSGIServer).parameters)
    assert parameters.pop("options").kind is inspect.Parameter.VAR_KEYWORD
    only_said = set(said) - set(parameters)
    assert only_said == {"maxThreads", "minSpare", "maxSpare", "jobClass", "jobArgs"}
    assert set(parameters) <= set(said)
    for name, parameter in parameters.items():
        required = parameter.default is inspect.Parameter.empty
        expected = "required" if required else f"`{parameter.default!r}`"
        assert said[name] == expected, name


def test_threads_by_default() -> None:
    server = WSGIServer(lambda environ, start_response: [])
    arguments = rows(DOCS / "options.md", "Arguments of WSGIServer")
    (text,) = [cells[2] for cells in arguments if cells[0] == "`threads`"]
    assert f"None is {server._threads}." in text


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    return capsys.readouterr().out


COMMANDS = ["serve", "demo", "ping", "status", "request", "top", "doctor", "config", "bench"]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help of a command lists the options that the page lists for it, once, and no others."""
    line = r"^  (?:-\w(?: [A-Z:=]+)?, )?(--[a-z-]+)"
    shown = re.findall(line, help_of(command, capsys), re.MULTILINE)
    said = [
        name.split()[0]
        for cells in rows(DOCS / "options.md", "Command line")
        for name in re.findall("`(--[^`]+)`", cells[0])
        if command in cells[1].split(", ")
    ]
    assert sorted([*said, "--help"]) == sorted(shown)


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = set(re.findall(r"^    ([a-z]+) ", capsys.readouterr().out, re.MULTILINE))
    assert shown == set(COMMANDS)
    assert shown == set(re.findall(r"`fastfcgi ([a-z]+)", (DOCS / "options.md").read_text()))


# ---- docs/benchmarking.md ---------------------------------------------------------------------

BENCHMARKING = DOCS / "benchmarking.md"


def test_reasons() -> None:
    """They are those that the load generator counts by."""
    _load = pytest.importorskip("fastfcgi._load", reason="the load generator needs POSIX")
    said = [cells[0].strip("`") for cells in rows(BENCHMARKING, "What is a right answer")]
    assert said == list(_load.REASONS[1:])


def test_sets_of_params() -> None:
    """They are those of load.py, with so many params."""
    said = {cells[0].strip("`"): cells[1] for cells in rows(BENCHMARKING, "What it does")}
    assert list(said) == list(load.PARAM_SETS)
    for name, text in said.items():
        numbers = re.findall(r"(\d+) params", text)
        assert numbers in ([str(len(load.params(name)))], []), name


# ---- all pages --------------------------------------------------------------------------------


def anchor(heading: str) -> str:
    """What a link to a heading ends with, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links(page: Path) -> None:
    """Every link within the repository leads somewhere."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_file(), target
        assert linked.is_relative_to(ROOT), target
        if fragment:
            headings = re.findall(r"^#+ (.*)$", prose(linked), re.MULTILINE)
            assert fragment in map(anchor, headings), target


def test_every_page_can_be_reached() -> None:
    """From docs/index.md, by links."""
    reached: set[Path] = set()
    ahead = [DOCS / "index.md"]
    while ahead:
        page = ahead.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            links = re.findall(r"\]\(([^)#:\s]+)[^)]*\)", prose(page))
            ahead += [(page.parent / link).resolve() for link in links]
    assert set(DOCS.rglob("*.md")) <= reached


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_compiles(page: Path) -> None:
    for number, block in enumerate(blocks(page, "python")):
        compile(block, f"{page.name}, block {number}", "exec")


def command_lines() -> Iterator[str]:
    """What the pages have one type or systemd start, each on one line."""
    for page in PAGES:
        shell = "".join(blocks(page, "sh")) + "".join(blocks(page, "ini"))
        yield from shell.replace("\\\n", " ").splitlines()


def test_fastfcgi_commands_are_taken() -> None:
    """Every `fastfcgi ...` has options that exist."""
    found = 0
    for line in command_lines():
        words = shlex.split(line.removeprefix("ExecStart="), comments=True)
        for position, word in enumerate(words):
            if word.rpartition("/")[2] == "fastfcgi":
                command = itertools.takewhile(
                    lambda word: word not in ("<", ">", "|", "||"), words[position + 1 :]
                )
                cli._parser().parse_args(list(command))
                found += 1
    assert found >= 4


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for line in command_lines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), line


# ---- docs/internals/design.md -----------------------------------------------------------------

DESIGN = DOCS / "internals" / "design.md"


def test_floors() -> None:
    """They are those of test_layers.py, from the top, with every module of the package."""
    said = [(cells[0], re.findall("`([^`]+)`", cells[1])) for cells in rows(DESIGN, "Floors")]
    assert said == list(reversed(test_layers.FLOORS.items()))
    for name in test_layers.LEVEL:
        assert name.startswith("__") or f"`{name}`" in DESIGN.read_text()


def table(head: str, lines: Iterator[tuple[str, str, str]]) -> str:
    """Three columns in Markdown."""
    return f"{head}\n|---|---|---|\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def receiving(role: int) -> str:
    def line(key: tuple, after: object) -> tuple[str, str, str]:
        state, record_type, ended = key
        name = constants.RECORD_NAMES[record_type]
        return state.value, f"empty {name}" if ended else name, after.value

    def order(key: tuple) -> tuple:
        return [*type(key[0])].index(key[0]), key[2]

    states: Mapping = RECEIVING[role]
    ordered = sorted(states, key=order)
    return table("| State | Record | Next state |", (line(key, states[key]) for key in ordered))


def test_state_tables() -> None:
    """They are those of states.py."""
    text = DESIGN.read_text()
    assert "responder and authorizer:\n\n" + receiving(constants.RESPONDER) + "\n" in text
    assert RECEIVING[constants.AUTHORIZER] == RECEIVING[constants.RESPONDER]
    assert "filter:\n\n" + receiving(constants.FILTER) + "\n" in text
    sent = ((state.value, what.value, after.value) for (state, what), after in SENDING.items())
    assert table("| State | Sent | Next state |", sent) + "\n" in text
