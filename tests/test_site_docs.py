"""docs/servers.md and docs/servers/: what they show is what `fastfcgi config` prints."""

import json
import re
import shlex
from pathlib import Path

import pytest
from server_pages import PAGES, commands, written
from webservers import printed

from fastfcgi.site_command import SERVERS

CAPTURES = Path(__file__).resolve().parent / "captures" / "manifest.json"
OVERVIEW = PAGES.with_suffix(".md")

if not OVERVIEW.exists():
    pytest.skip("the documentation is not here", allow_module_level=True)

PAGE_NAMES = [page.stem for page in sorted(PAGES.glob("*.md"))]


def test_a_page_for_each_web_server() -> None:
    assert set(PAGE_NAMES) == set(SERVERS) - {"lighttpd-bin-path", "systemd", "spawn-fcgi"}
    linked = re.findall(r"\]\(servers/([\w-]+)\.md\)", OVERVIEW.read_text())
    assert sorted(linked) == sorted(PAGE_NAMES)


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_blocks_are_what_is_printed(name: str) -> None:
    """`python tests/server_pages.py` writes them."""
    text = (PAGES / f"{name}.md").read_text()
    assert written(text) == text
    # one at the root of a site, one at a path
    mine = [command for command in commands(text) if shlex.split(command)[0] == name]
    assert [("--mount" in command) for command in mine][:2] == [False, True]


def test_written() -> None:
    """A block that is not what is printed is found, and only the block is changed."""
    page = PAGES / "nginx.md"
    text = page.read_text()
    spoilt = text.replace("fastcgi_pass app;", "fastcgi_pass other;").replace("listen 80;\n", "")
    assert spoilt != text
    assert written(spoilt) == text


def test_lighttpd2_as_captured_not_started() -> None:
    """lighttpd2 is in no package: its core.wsgi stands as in the configurations of the captures."""
    configurations = {
        entry["config"].partition(", ")[2]
        for entry in json.loads(CAPTURES.read_text())
        if entry["server"] == "lighttpd2" and "core.wsgi" in entry["config"]
    }
    assert configurations
    for mount in ("/", "/wsgi"):
        text = printed("lighttpd2", "--mount", mount, "--address", "unix:/run/app/app.sock")
        (action,) = re.findall(r"^ *(core\.wsgi .*?);$", text, re.MULTILINE)
        assert action.replace("/run/app/app.sock", "...") in configurations
    assert 'module_load ( "mod_fastcgi", "mod_lua" );' in text
    assert 'lua.plugin "core.lua";' in text
