"""The blocks of docs/servers/ that are what `fastfcgi config` prints; run, it writes them anew.

A block that follows `fastfcgi config ...` in a shell block, after an empty line, is its output.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from webservers import printed

PAGES = Path(__file__).resolve().parent.parent / "docs" / "servers"

_BLOCK = re.compile(
    r"(^```sh\nfastfcgi config ([^\n]+)\n```\n\n```\w+\n)(.*?)(^```$)", re.MULTILINE | re.DOTALL
)


def commands(text: str) -> Iterator[str]:
    """What the shell blocks give to `fastfcgi config`."""
    return (found[2] for found in _BLOCK.finditer(text))


def written(text: str) -> str:
    """A page with the output of its commands in it."""

    def block(found: re.Match[str]) -> str:
        return found[1] + printed(*shlex.split(found[2])) + found[4]

    return _BLOCK.sub(block, text)


if __name__ == "__main__":
    for page in sorted(PAGES.glob("*.md")):
        page.write_text(written(page.read_text()))
