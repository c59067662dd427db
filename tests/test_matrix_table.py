"""README's table of web servers: it is what the checks say, and only a whole run can write it."""

import shutil
from pathlib import Path
from typing import ClassVar

import matrix_table
import pytest
from matrix import MOUNTS, checks_of, refusal_of, refusals, refused, row, row_of
from matrix_table import BEGIN, END, absent, block, columns, passed, table
from webserver_checks import WebServerChecks
from webservers import WEB_SERVERS

README = Path(__file__).resolve().parent.parent / "README.md"
TESTS = columns()


def test_readme_has_the_rows_columns_and_cells_of_the_checks() -> None:
    written = block(README.read_text())
    assert written.split("\nLast run with ")[0].strip() == table(TESTS).strip(), "make matrix"


def test_every_web_server_is_a_column() -> None:
    # bin-path is another way to start the application: test_start_methods.py has it.
    kinds = WEB_SERVERS.keys() - {"lighttpd-bin-path"}
    assert sorted(tests.kind for tests in TESTS) == sorted(kinds)
    assert len({tests.column for tests in TESTS}) == len(TESTS)


def test_every_check_has_a_row() -> None:
    rows = {name for _, _, name in checks_of(WebServerChecks)}
    methods = {name for name in dir(WebServerChecks) if name.startswith("test_")}
    assert methods - rows == {"test_validator_is_content"}


@pytest.mark.parametrize("tests", TESTS, ids=[tests.__name__ for tests in TESTS])
def test_what_a_web_server_overrides_is_a_refusal(tests: type[WebServerChecks]) -> None:
    """No column makes a check easier for itself without saying so in the table."""
    for _, _, name in checks_of(tests):
        if getattr(tests, name) is not getattr(WebServerChecks, name):
            assert refusal_of(tests, name), f"{tests.__name__}.{name}"
    refusals(tests)  # of a whole row, or of none


class Base:
    """Some checks."""

    @row("first")
    def test_one(self) -> None: ...

    @row("second")
    def test_two(self) -> None: ...

    @row("second")
    def test_three(self) -> None: ...


class Column(Base):
    column: ClassVar[str] = "A server"

    @refused("says no")
    def test_one(self) -> None: ...


def report(path: Path, *results: tuple[str, str, str]) -> Path:
    """A report of pytest with tests of (row, mount, result)."""
    cases = [
        f"""<testcase classname="test_x.Column" name="test_{number}"><properties>
        <property name="row" value="{text}"/><property name="column" value="A server"/>
        <property name="mount" value="{mount}"/></properties>{result}</testcase>"""
        for number, (text, mount, result) in enumerate(results)
    ]
    path.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return path


ALL = [(text, mount or "/", "") for text in ("first", "second") for mount in MOUNTS.values()]


def test_rows_of_overridden_checks() -> None:
    assert row_of(Column, "test_one") == "first"
    assert row_of(Column, "missing") is None
    assert refusals(Column) == {"first": "says no"}  # type: ignore[arg-type]
    assert refusals(Base) == {}


def test_a_row_is_refused_as_a_whole() -> None:
    class Half(Base):
        test_three = Column.test_one

    with pytest.raises(ValueError, match="only a part of 'second'"):
        refusals(Half)


@pytest.mark.parametrize("result", ["<failure/>", "<error/>", "<skipped/>"])
def test_a_cell_needs_all_its_tests(tmp_path: Path, result: str) -> None:
    cells, failed = passed(report(tmp_path / "all.xml", *ALL))
    assert (absent([Column], cells), failed) == ([], [])  # type: ignore[list-item]
    cells, failed = passed(report(tmp_path / "bad.xml", *ALL, ("second", "/", result)))
    assert absent([Column], cells) == ["A server: second at /"]  # type: ignore[list-item]
    assert failed == ["test_x.Column::test_4"]


@pytest.mark.parametrize("left_out", ALL)
def test_a_cell_needs_both_mounts(tmp_path: Path, left_out: tuple[str, str, str]) -> None:
    cells, _ = passed(report(tmp_path / "x.xml", *(case for case in ALL if case != left_out)))
    missing = absent([Column], cells)  # type: ignore[list-item]
    assert missing == [f"A server: {left_out[0]} at {left_out[1]}"]


def test_an_incomplete_run_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    shutil.copy(README, page)
    run = report(tmp_path / "x.xml", *ALL)
    assert matrix_table.main([str(run), str(page)]) == 1
    assert page.read_text() == README.read_text()
    assert f"{page} is left as it was" in capsys.readouterr().err


WRITTEN = f"""before
{BEGIN}

| | A server |
|---|---|
| **Some checks** | |
| first | (1) |
| second | ✓ |

1. It says no.

Last run with a server.
{END}
after
"""


def test_a_whole_run_writes_the_table_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix_table, "columns", lambda: [Column])
    monkeypatch.setattr(matrix_table, "versions", lambda: "Last run with a server.\n")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    run = report(tmp_path / "x.xml", *ALL)
    for _ in range(2):  # in place of nothing, and in place of itself
        assert matrix_table.main([str(run), str(page)]) == 0
        assert page.read_text() == WRITTEN


def test_the_block_of_a_page() -> None:
    page = f"before\n\n{BEGIN}\n\n| a |\n{END}\n\nafter\n"
    assert block(page) == "\n| a |\n"
    for bad in ("", page + page):
        with pytest.raises(ValueError, match="not once"):
            block(bad)
