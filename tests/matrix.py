"""The matrix of checks and web servers: what its rows and columns are, and where one refuses.

A check is a method marked ``@row``; the class of tests of every web server inherits all of them. A
class overrides a check where its web server itself refuses what is asked for: the override asserts
that refusal, and ``@refused`` tells the reason, which becomes a footnote of the table.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

# Where the application is mounted, by the name that test ids have for it.
MOUNTS = {"root": "", "path": "/wsgi"}

Check = TypeVar("Check", bound=Callable[..., object])


def row(text: str) -> Callable[[Check], Check]:
    """Mark a check. Several with one text make one row of the table.

    Args:
        text: what is checked, the first cell of the row; its group is the docstring of the class.
    """

    def mark(check: Check) -> Check:
        check.row = text  # type: ignore[attr-defined]
        return check

    return mark


def refused(reason: str) -> Callable[[Check], Check]:
    """Mark an override of a check: what the web server does instead, in a few words."""

    def mark(check: Check) -> Check:
        check.refused = reason  # type: ignore[attr-defined]
        return check

    return mark


def row_of(tests: type, name: str) -> str | None:
    """The row that a test belongs to; None: to none.

    Args:
        tests: the class, which may override a check of the class that it inherits.
        name: of the method, without parameters.
    """
    found = (getattr(vars(owner).get(name), "row", None) for owner in tests.__mro__)
    return next(filter(None, found), None)


def refusal_of(tests: type, name: str) -> str:
    """Why the web server refuses what the test asks for; empty: it does not."""
    reason: str = getattr(getattr(tests, name), "refused", "")
    return reason


def checks_of(tests: type) -> Iterator[tuple[str, str, str]]:
    """Group, row and method of every check, in the order in which they are written."""
    for owner in reversed(tests.__mro__):
        for name, value in vars(owner).items():
            if hasattr(value, "row"):
                yield (owner.__doc__ or "").split("\n")[0].rstrip("."), value.row, name


def refusals(tests: type) -> dict[str, str]:
    """Row -> why the web server of these tests refuses it.

    Raises:
        ValueError: of the checks of one row some are refused and some are not.
    """
    found: dict[str, str] = {}
    for _, text, name in checks_of(tests):
        reason = refusal_of(tests, name)
        if found.setdefault(text, reason) != reason:
            raise ValueError(f"{tests.__name__} refuses only a part of {text!r}")
    return {text: reason for text, reason in found.items() if reason}
