"""The documentation as a site: it is built without a warning, is whole, and loads nothing else."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from test_docs import DOCS, ROOT

pytestmark = pytest.mark.packaging

# What a page loads by itself, as opposed to what a reader may click on.
LOADING = {"src", "srcset", "poster", "data", "action", "background"}


class Page(HTMLParser):
    """What an HTML page names: anchors of its own, links, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id":
                self.anchors.add(value or "")
            elif name == "href":
                (self.links if tag == "a" else self.loads).append(value or "")
            elif name in LOADING:
                self.loads.append(value or "")


def build(source: Path, site: Path) -> "subprocess.CompletedProcess[str]":
    """Build the documentation of a folder that has a mkdocs.yml."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module", autouse=True)
def mkdocs() -> None:
    if importlib.util.find_spec("mkdocs") is None:
        if os.environ.get("CI"):
            pytest.fail("mkdocs is missing, and CI must not skip what needs it")
        pytest.skip("mkdocs is missing")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder


def pages(site: Path) -> dict[Path, Page]:
    """All but the page for what is not there, whose links are for the root of a host."""
    found = [path.resolve() for path in site.rglob("*.html") if path.name != "404.html"]
    return {path: Page(path.read_text()) for path in found}


def test_every_page_is_there(site: Path) -> None:
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS).with_suffix(".html")).is_file(), page


def test_lists_and_tables_are_such(site: Path) -> None:
    """GitHub takes a list that begins without an empty line before it; Python-Markdown does not."""
    for path in pages(site):
        for paragraph in re.findall("<p>(.*?)</p>", path.read_text(), re.DOTALL):
            assert not re.search(r"^(?:- |\d\. |\||```)", paragraph, re.MULTILINE), (
                path,
                paragraph,
            )


def test_nothing_comes_from_elsewhere(site: Path) -> None:
    """No page loads anything over the network, nor does a style sheet."""
    found = 0
    for path, page in pages(site).items():
        for target in page.loads:
            parts = urlsplit(target)
            assert parts.scheme in ("", "data"), (path.name, target)
            assert not parts.netloc, (path.name, target)
            found += 1
    assert found > 100
    for path in site.rglob("*.css"):
        for target in re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')]+)", path.read_text()):
            assert not urlsplit(target).netloc, (path.name, target)


def test_links_lead_somewhere(site: Path) -> None:
    """Of the built pages, with their anchors."""
    built = pages(site)
    for path, page in built.items():
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), (path.name, link)
            if parts.fragment and target in built:
                assert unquote(parts.fragment) in built[target].anchors, (path.name, link)


def test_it_can_be_searched(site: Path) -> None:
    """The index is in the site, and knows its pages."""
    index = (site / "search" / "search_index.json").read_text()
    assert "FCGI_WEB_SERVER_ADDRS" in index


@pytest.mark.parametrize(
    ("page", "line", "named"),
    [
        ("start.md", "[gone](gone.md)", "gone.md"),
        ("start.md", "[gone](options.md#gone)", "#gone"),
        ("lost.md", "# A page outside of the navigation", "lost.md"),
    ],
    ids=["page", "anchor", "navigation"],
)
def test_a_warning_is_an_error(tmp_path: Path, page: str, line: str, named: str) -> None:
    for path in [ROOT / "mkdocs.yml", *DOCS.rglob("*.*")]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    with (tmp_path / "docs" / page).open("a") as file:
        file.write(f"\n{line}\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    assert named in done.stderr
