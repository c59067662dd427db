"""docs/troubleshooting.md: what it quotes is said so, and its keys are the doctor's."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_docs import DOCS, ROOT, blocks

PAGE = DOCS / "troubleshooting.md"
TEXT = PAGE.read_text(encoding="utf-8")
PACKAGE = ROOT / "fastfcgi"

# What fastfcgi itself says, quoted there.
MESSAGES = [
    "that looks like HTTP, but FastCGI is spoken here",
    "another server is listening there",
    "there is a file that is no socket",
    "there is nothing to serve: file descriptor 0 is not a listening socket",
    "more than max_body_file",
    "Retry-After: 1",
]


def wrong_keys() -> set[str]:
    """The keys of all findings that can be WRONG, by the source."""
    found = set()
    for path in [*PACKAGE.glob("doctor*.py"), PACKAGE / "socket_access.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                key = node.args[0]
                if node.func.id in ("wrong", "level") and isinstance(key, ast.Constant):
                    found.add(key.value)
        # Those that are chosen among several.
        pattern = r'key = "([a-z-]+)" if .* else "([a-z-]+)"'
        found |= {one for pair in re.findall(pattern, path.read_text()) for one in pair}
        found |= set(re.findall(r'return "([a-z-]+)", f?"', path.read_text()))
    return {*found, "request", "ping"}


def test_keys() -> None:
    table = TEXT.partition("## What the doctor calls wrong")[2]
    said = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    keys = [key for cell in said for key in re.findall("`([^`]+)`", cell)]
    assert len(keys) == len(set(keys))
    assert set(keys) == wrong_keys()


@pytest.mark.parametrize("message", MESSAGES)
def test_messages(message: str) -> None:
    """They are said so: the strings of the source, joined as Python joins them."""
    assert message in TEXT
    sources = [*PACKAGE.glob("*.py"), *PACKAGE.glob("*.pyx")]
    joined = (re.sub(r'"\s*\n\s*f?"', "", path.read_text()) for path in sources)
    assert any(message in text for text in joined)


def test_lines_are_those_of_the_doctor() -> None:
    """What the page has for nginx and others, the doctor advises, too."""
    advice = (PACKAGE / "doctor_advice.py").read_text()
    lines = [
        "fastcgi_buffer_size 32k;",
        "fastcgi_buffers 8 32k;",
        "client_max_body_size",
        "fastcgi_buffering off",
        "X-Accel-Buffering: no",
        "server.stream-response-body = 2",
        "server.max-request-size",
        "flushpackets=on",
        "flush_interval -1",
        "AllowEncodedSlashes On",
        "CGIPassAuth On",
        "pass-header Authorization",
        "FcgidMaxRequestLen",
        "FcgidIOTimeout",
        "fastcgi_param HTTP_HOST $host:$server_port;",
        '"check-local" => "disable"',
    ]
    for line in lines:
        assert line in TEXT, line
        assert line in advice, line


def test_probe_script(tmp_path: Path) -> None:
    """The script of the page runs; started with nothing to serve, as here, it says so."""
    (block,) = (one for one in blocks(PAGE, "python") if "fastfcgi.probe" in one)
    path = tmp_path / "app.fcgi"
    path.write_text(block.partition("\n")[2])
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for name in ("GATEWAY_INTERFACE", "REQUEST_METHOD", "LISTEN_FDS"):
        environ.pop(name, None)
    done = subprocess.run(
        [sys.executable, str(path)],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert "fastfcgi doctor URL --token " in done.stderr
    assert "there is nothing to serve" in done.stderr
