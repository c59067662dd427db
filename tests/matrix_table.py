"""Writes the table of web servers into README.md, from the report of a run of the matrix.

    pytest tests/test_matrix_*.py --junitxml=build/matrix.xml -o junit_family=xunit1
    python tests/matrix_table.py build/matrix.xml README.md

``make matrix`` is both. Nothing is written, and the exit status is 1, unless every cell has passed
at both mounts: in a cell that a web server refuses, the test of that refusal.
"""

import importlib
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from matrix import MOUNTS, checks_of, refusals
from processes import require
from webserver_checks import WebServerChecks

BEGIN = "<!-- matrix: written by `make matrix` -->"
END = "<!-- end of matrix -->"

Cell = tuple[str, str, str]  # row, column, mount

# How each program tells its version, and where in that it stands.
VERSIONS = {
    "nginx": (["nginx", "-v"], r"nginx/(\S+)"),
    "lighttpd": (["lighttpd", "-v"], r"lighttpd/(\S+)"),
    "Apache": (["apache2", "-v"], r"Apache/(\S+)"),
    "HAProxy": (["haproxy", "-v"], r"version (\d[\d.]*)"),
    "Caddy": (["caddy", "version"], r"v?(\d[\d.]*)"),
    "H2O": (["h2o", "--version"], r"h2o version (\S+)"),
}


def columns() -> list[type[WebServerChecks]]:
    """The classes of tests that are columns, in the order of their files and in these."""
    found: list[type[WebServerChecks]] = []
    for path in sorted(Path(__file__).parent.glob("test_matrix_*.py")):
        if path.stem == "test_matrix_table":
            continue
        module = importlib.import_module(path.stem)
        found += [
            tests
            for name, tests in vars(module).items()
            if name.startswith("Test") and "column" in getattr(tests, "__dict__", {})
        ]
    return found


def passed(report: Path) -> tuple[set[Cell], list[str]]:
    """The cells whose tests have all passed, and the names of the tests that have not."""
    cells: dict[Cell, bool] = {}
    failed = []
    for case in ET.parse(report).iter("testcase"):
        properties = {p.get("name"): p.get("value") or "" for p in case.iter("property")}
        good = not any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))
        if not good:
            failed.append(f"{case.get('classname')}::{case.get('name')}")
        if "row" in properties:
            cell = (properties["row"], properties["column"], properties["mount"])
            cells[cell] = cells.get(cell, True) and good
    return {cell for cell, good in cells.items() if good}, failed


def absent(tests: Iterable[type[WebServerChecks]], cells: Collection[Cell]) -> list[str]:
    """The cells that the table has and that are not among those given."""
    return [
        f"{each.column}: {row} at {prefix or '/'}"
        for each in tests
        for row in dict.fromkeys(row for _, row, _ in checks_of(each))
        for prefix in MOUNTS.values()
        if (row, each.column, prefix or "/") not in cells
    ]


def table(tests: Sequence[type[WebServerChecks]]) -> str:
    """The table of these columns and its footnotes, as Markdown."""
    titles = [each.column for each in tests]
    refused = {each.column: refusals(each) for each in tests}
    notes: dict[str, int] = {}

    def cell(column: str, row: str) -> str:
        reason = refused[column].get(row)
        return f"({notes.setdefault(reason, len(notes) + 1)})" if reason else "✓"

    lines = [f"| | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    group = ""
    for owner, row in dict.fromkeys((g, r) for g, r, _ in checks_of(tests[0])):
        if owner != group:
            group = owner
            lines.append(f"| **{group}** |" + " |" * len(titles))
        cells = [cell(title, row) for title in titles]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    lines.append("")
    lines += [f"{number}. It {reason}." for reason, number in notes.items()]
    return "\n".join(lines) + "\n"


def versions() -> str:
    """The versions of the web servers on this machine, as a line of Markdown."""
    found = []
    for name, (command, pattern) in VERSIONS.items():
        done = subprocess.run(
            [require(command[0]), *command[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
        match = re.search(pattern, done.stdout)
        found.append(f"{name} {match[1] if match else '?'}")
    return f"Last run with {', '.join(found)}.\n"


def block(page: str) -> str:
    """What stands between the markers of a page.

    Raises:
        ValueError: there are no markers, or more than one pair.
    """
    match = re.findall(f"^{re.escape(BEGIN)}\n(.*?)^{re.escape(END)}$", page, re.M | re.S)
    if len(match) != 1:
        raise ValueError(f"{BEGIN} ... {END} stands there {len(match)} times, not once")
    found: str = match[0]
    return found


def main(arguments: list[str]) -> int:
    """Write the table; returns the exit status."""
    report, page = map(Path, arguments)
    tests = columns()
    cells, failed = passed(report)
    problems = [f"did not pass: {name}" for name in failed]
    problems += [f"not in this run, or not passed: {name}" for name in absent(tests, cells)]
    if problems:
        print(*problems, f"{page} is left as it was", sep="\n", file=sys.stderr)
        return 1
    text = page.read_text()
    old, new = block(text), f"\n{table(tests)}\n{versions()}"
    page.write_text(text.replace(f"{BEGIN}\n{old}{END}", f"{BEGIN}\n{new}{END}"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
