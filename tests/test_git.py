"""klaus and dulwich as docs/applications/git.md says; the client is the real git."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from application_sites import (
    MEGABYTE,
    WAYS,
    Application,
    application_python,
    behind_web_servers,
    documented_script,
    links_of,
)
from http_client import HOST, Client, Site
from processes import DEADLINE, SERVER_USER, environment, require
from runtimes import Runtime
from test_docs import DOCS

pytestmark = pytest.mark.webserver

PAGE = DOCS / "applications" / "git.md"

KINDS = ["klaus", "dulwich"]  # in the order of the page's scripts


def run_git(folder: Path, *arguments: str, user: str | None = None, trace: str = "") -> str:
    """Run git in a folder, with no configuration but this; returns what it prints."""
    env = {
        "HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_AUTHOR_NAME": "tester",
        "GIT_AUTHOR_EMAIL": "tester@example.org",
        "GIT_COMMITTER_NAME": "tester",
        "GIT_COMMITTER_EMAIL": "tester@example.org",
        **({"GIT_TRACE_CURL": trace} if trace else {}),
    }
    done = subprocess.run(
        [require("git"), "-c", "init.defaultBranch=main", *arguments],
        cwd=folder,
        env=environment(env),
        user=user,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=4 * DEADLINE,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def python(module_folder: Path) -> Runtime:
    return application_python(module_folder, "klaus")


@pytest.fixture(scope="module", params=KINDS)
def running(
    request: pytest.FixtureRequest, module_folder: Path, python: Runtime
) -> Iterator[Application]:
    """Either server, running, with a repository for each way."""
    script = documented_script(PAGE, KINDS.index(request.param), module_folder, python)
    for way in WAYS:
        repository = f"repos/{request.param}-{way}.git"
        run_git(module_folder, "init", "--quiet", "--bare", repository, user=SERVER_USER)
    with behind_web_servers(module_folder, [script], request.param, python.env) as application:
        yield application


def repository(running: Application, way: str) -> str:
    """The path of the repository of a way in URLs."""
    kind = running.process.name
    suffix = "" if kind == "klaus" else ".git"
    return f"{running.sites[way].prefix}/{kind}-{way}{suffix}"


@pytest.mark.parametrize("way", WAYS)
def test_push_and_clone(running: Application, way: str, tmp_path: Path) -> None:
    site = running.sites[way]
    url = f"http://{HOST}:{site.port}{repository(running, way)}"
    work = tmp_path / "work"
    work.mkdir()
    content = os.urandom(3 * MEGABYTE)
    (work / "big.bin").write_bytes(content)
    (work / "Ä.txt").write_text("small")
    run_git(work, "init", "--quiet")
    run_git(work, "add", ".")
    run_git(work, "commit", "--quiet", "-m", "first")
    trace = tmp_path / "trace"
    run_git(work, "push", url, "main", trace=str(trace))
    assert "Transfer-Encoding: chunked" in trace.read_text(errors="replace")
    run_git(tmp_path, "clone", "--quiet", "--branch", "main", url, "clone")
    assert (tmp_path / "clone" / "big.bin").read_bytes() == content
    assert (tmp_path / "clone" / "Ä.txt").read_text() == "small"

    site = running.sites[way]
    with Client(Site(site.name, site.port, "")) as client:
        path = repository(running, way)
        missing = client.fetch(f"{site.prefix}/missing/info/refs?service=git-upload-pack")
        assert missing.status == 404
        if running.process.name == "klaus":
            page = client.fetch(f"{path}/").body.decode()
            assert "big.bin" in page
            links = links_of(page)
            assert [link for link in links if not link.startswith(f"{site.prefix}/")] == []
            raw = client.fetch(f"{path}/raw/main/big.bin")
            assert raw.body == content
