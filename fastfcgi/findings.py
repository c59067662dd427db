"""What `fastfcgi doctor` finds, and how it is told."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Final

from fastfcgi.status import printable

OK: Final = "ok"
NOTE: Final = "note"
WRONG: Final = "WRONG"

_INDENT: Final = " " * 6


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: OK, NOTE (worth to know, or nobody can tell) or WRONG.
        key: A short name of it that stays the same, for programs.
        text: One sentence.
        advice: What to change, line by line.
    """

    level: str
    key: str
    text: str
    advice: tuple[str, ...] = ()


def ok(key: str, text: str) -> Finding:
    """A finding that all is well."""
    return Finding(OK, key, text)


def note(key: str, text: str, *advice: str) -> Finding:
    """A finding that need not be wrong."""
    return Finding(NOTE, key, text, advice)


def wrong(key: str, text: str, *advice: str) -> Finding:
    """A finding that has to be put right."""
    return Finding(WRONG, key, text, advice)


class Report:
    """Takes findings as they come: prints each at once, or all of them as JSON at the end."""

    def __init__(self, as_json: bool = False) -> None:
        self.findings: list[Finding] = []
        self._as_json = as_json

    def take(self, findings: Iterable[Finding]) -> None:
        """Print them."""
        for finding in findings:
            self.findings.append(finding)
            if not self._as_json:
                _print(finding)

    def heading(self, text: str) -> None:
        """A line that says what is looked at."""
        if not self._as_json:
            print(printable(text), flush=True)

    def close(self) -> int:
        """Print the summary; returns the exit status: 1 if anything is wrong."""
        count = sum(finding.level == WRONG for finding in self.findings)
        if self._as_json:
            print(json.dumps([asdict(finding) for finding in self.findings], indent=2))
        elif count:
            print(f"{count} thing{'s are' if count > 1 else ' is'} wrong.")
        else:
            print("Nothing is wrong.")
        return 1 if count else 0


def _print(finding: Finding) -> None:
    # What a server said may be anything: a terminal is to get no control characters of it.
    print(f"{finding.level:{len(_INDENT)}}{printable(finding.text)}", flush=True)
    for line in finding.advice:
        print(f"{_INDENT}{printable(line)}".rstrip(), flush=True)
