"""docs/monitoring.md says what is true: the status page, its metrics, the fields of the logs."""

import json
import re
from typing import Any

import pytest
from asking import parser
from test_access_log import RECORD
from test_docs import DOCS, blocks
from test_status import SNAPSHOT

from fastfcgi import access_log, ask, slow_log, status, top

PAGE = DOCS / "monitoring.md"
TEXT = PAGE.read_text(encoding="utf-8")


def table(head: str) -> list[list[str]]:
    """The rows of the table whose first column has that name."""
    found = re.search(rf"^\| {head} \|.*\n\|[-|]+\|\n((?:\|.*\|\n)+)", TEXT, re.MULTILINE)
    assert found, head
    return [[cell.strip() for cell in row[1:-1].split(" |")] for row in found[1].splitlines()]


def names(head: str) -> list[str]:
    """What stands in the first column, in its order; a cell may hold several."""
    return [name for row in table(head) for name in re.findall("`([^`]+)`", row[0])]


def test_json() -> None:
    found = status.as_dict(SNAPSHOT, full=True)
    assert names("Server") == list(found)
    assert names("Worker") == list(found["workers"][0])
    (totals,) = [row[1] for row in table("Server") if row[0] == "`totals`"]
    assert re.findall("`(.*?)`", totals) == list(found["totals"])
    (running,) = [row[1] for row in table("Worker") if row[0] == "`running`"]
    assert re.findall("`(.*?)`", running)[1:3] == list(found["workers"][0]["running"][0])


@pytest.mark.parametrize("head", ["Worker", "the text"])
def test_states(head: str) -> None:
    if head == "Worker":
        (text,) = [row[1] for row in table(head) if row[0] == "`state`"]
    else:
        text = TEXT.partition("A worker is ")[2].partition("\n\n")[0]
    assert tuple(re.findall("`(.*?)`", text)) == status.STATES


def test_openmetrics() -> None:
    labels = {"server": [], "state": ["state"], "worker": ["pid"]}
    said = [[row[0].strip("`"), row[1], re.findall("`(.*?)`", row[2])] for row in table("Metric")]
    assert said == [
        [one.sample, one.kind, ["version", "mode"] if one.kind == "info" else labels[one.per]]
        for one in status.METRICS
    ]
    for name in re.findall(r"fastfcgi_\w+", TEXT):
        assert name in [row[0] for row in said], name


def test_fields() -> None:
    """Every field stands there, and nothing that is none."""
    said = names("Field")
    known = {f"%{letter}" for letter in access_log.FIELDS}
    plain = {name for name in said if "{" not in name}
    assert plain == known | {"%%"}
    assert {name[-1] for name in said if "{" in name} == set(access_log.NAMED)
    assert len(set(said)) == len(said)
    for name in said:
        example = name.replace("NAME", "X").replace("UNIT", "ms").replace("FORMAT", "%Y")
        assert access_log.compile_format(f"%m{example}")(RECORD)


def test_units() -> None:
    """What may stand in braces is taken."""
    for letter in "Tt":
        (row,) = [row for row in table("Field") if re.fullmatch(rf"`%{{[A-Z]+}}{letter}`", row[0])]
        for unit in re.findall("`(.*?)`", row[1]):
            access_log.compile_format(f"%{{{unit}}}{letter}")


def test_named_formats() -> None:
    assert f"`common` is `{access_log.COMMON}`" in TEXT
    added = access_log.COMBINED.removeprefix(access_log.COMMON).strip()
    assert f"`combined` adds `{added}`" in TEXT
    assert f"cut off after {access_log.MAX_VALUE} characters" in TEXT
    assert f"mode {access_log.FILE_MODE:o}" in TEXT


def test_json_lines() -> None:
    found: dict[str, Any] = json.loads(access_log.as_json(RECORD))
    assert names("JSON") == list(found)


def test_numbers() -> None:
    assert f"more than {slow_log.MAX_LINES} lines" in TEXT
    assert f"`--timeout` seconds, {ask.PAGE_TIMEOUT:g} without it" in TEXT.replace("\n", " ")
    assert f"{ask.REQUEST_TIMEOUT:g} seconds without it" in TEXT
    assert f"(`{ask.PING_PATH}` without it)" in TEXT
    assert top.DEFAULT_INTERVAL == 1 and "each second (`--interval`)" in TEXT


def test_commands_are_taken() -> None:
    import shlex

    found = set()
    for line in "".join(blocks(PAGE, "sh")).replace("\\\n", " ").splitlines():
        words = shlex.split(line.partition(" < ")[0])
        if words[1] != "serve":
            parser().parse_args(words[1:])
        found.add(words[1])
    assert found == {"serve", "ping", "status", "request"} - {"status"}


def test_options_are_there() -> None:
    """Those that the text names beside the commands."""
    for option in set(re.findall(r"`(--(?:json|full|openmetrics|once|interval|mount)\b)", TEXT)):
        assert any(
            option in command.format_help() for command in parser()._actions[-1].choices.values()
        ), option


def test_the_example_is_what_is_printed() -> None:
    """Its lines and columns are those of the page."""
    (example, _) = blocks(PAGE, "text")
    shown = status.as_text(SNAPSHOT, full=False)
    assert re.findall(r"^[a-z]+", example, re.M) == re.findall(r"^[a-z]+", shown, re.M)
    heads = [text.split() for text in re.findall(r"^ *PID .*", example + shown, re.M)]
    assert heads[0] == heads[1] == list(status.COLUMNS)
