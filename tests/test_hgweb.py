"""Mercurial's hgweb as docs/applications/mercurial.md says; the client is the real hg."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from application_sites import (
    MEGABYTE,
    WAYS,
    Application,
    application_python,
    as_server_user,
    behind_web_servers,
    documented_script,
    links_of,
    spawned,
)
from http_client import HOST, Client, Site
from processes import DEADLINE, environment, give_to_server, missing
from runtimes import Runtime
from test_docs import DOCS, blocks
from wire import Peer, cgi_params

pytestmark = pytest.mark.webserver

PAGE = DOCS / "applications" / "mercurial.md"

Hg = Callable[..., str]


@pytest.fixture
def hg(tmp_path: Path) -> Hg:
    """Runs hg in a folder: hg(folder, argument, ...) returns what it prints."""
    beside = Path(sys.executable).parent / "hg"
    program = str(beside) if beside.exists() else shutil.which("hg") or missing("hg")

    def run(folder: Path, *arguments: str) -> str:
        command = [sys.executable, program, *arguments]
        settings = {"HGRCPATH": "", "HGPLAIN": "1", "HGUSER": "tester", "HOME": str(tmp_path)}
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=4 * DEADLINE,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


@pytest.fixture(scope="module")
def python(module_folder: Path) -> Runtime:
    return application_python(module_folder, "mercurial")


# A repository for each way, so that pushes do not meet.
CREATE = """
import sys
from mercurial import hg, ui
for name in sys.argv[1:]:
    hg.repository(ui.ui.load(), b"repos/" + name.encode(), create=True)
"""


@pytest.fixture(scope="module")
def running(module_folder: Path, python: Runtime) -> Iterator[Application]:
    """hgweb, running."""
    (module_folder / "repos").mkdir()
    give_to_server(module_folder / "repos")
    as_server_user(python, module_folder, "create", CREATE, *WAYS, env={"HGRCPATH": ""})
    config = blocks(PAGE, "ini")[0].replace("/srv/app/", f"{module_folder}/")
    (module_folder / "hgweb.config").write_text(config)
    script = documented_script(PAGE, 0, module_folder, python)
    env = {**python.env, "HGRCPATH": ""}
    with behind_web_servers(module_folder, [script], "hgweb", env) as application:
        yield application


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def site(running: Application, way: str) -> Site:
    return running.sites[way]


def url(site: Site, repository: str) -> str:
    """The address of a repository."""
    return f"http://{HOST}:{site.port}{site.prefix}/{repository}"


def test_push_and_clone(site: Site, way: str, hg: Hg, tmp_path: Path) -> None:
    hg(tmp_path, "clone", url(site, way), "work")
    work = tmp_path / "work"
    content = os.urandom(3 * MEGABYTE)  # cannot be compressed
    (work / "big.bin").write_bytes(content)
    (work / "Ä.txt").write_text("small")
    hg(work, "commit", "--addremove", "-m", "first")
    assert "added 1 changesets with 2 changes to 2 files" in hg(work, "push")

    said = hg(tmp_path, "clone", url(site, way), "cloned")
    assert "added 1 changesets with 2 changes to 2 files" in said
    said = hg(tmp_path, "clone", "--stream", url(site, way), "streamed")
    assert "streaming all changes" in said
    for name in ("cloned", "streamed"):
        assert (tmp_path / name / "big.bin").read_bytes() == content
        assert (tmp_path / name / "Ä.txt").read_text() == "small"


def test_pages(site: Site, way: str) -> None:
    with Client(site) as client:
        front = client.fetch("/").body.decode()
        assert set(WAYS) <= set(re.findall(r'<a href="[^"]*/([^"/]+)/">', front)), front
        answer = client.fetch(f"/{way}/file/tip")
        # The path at the top of the page begins with the host's own front page.
        links = set(links_of(answer.body.decode())) - {"/", site.prefix}
        assert answer.status == 200 and links
        assert [link for link in links if not link.startswith(f"{site.prefix}/")] == []
        static = client.fetch(f"/{way}/static/style-paper.css")
        assert (static.status, static.all("Content-Type")) == (200, ["text/css"])
        assert client.fetch(f"/{way}/rev/0123456789ab").status == 404
        assert client.fetch("/no-such-repository").status == 404


def test_script_that_imports_flup(
    running: Application, module_folder: Path, python: Runtime
) -> None:
    """Mercurial's demandimport, which puts imports off, does not get in the way."""
    script = documented_script(PAGE, 1, module_folder, python, "flup.fcgi")
    command = [python.python, "-m", "fastfcgi.flup", script]
    with spawned(module_folder, command, "flup", {**python.env, "HGRCPATH": ""}) as (_, address):
        with Peer(address) as peer:
            response = peer.request(cgi_params(path="/"))
            assert (response.status, WAYS[0].encode() in response.body) == (200, True)
        with Peer(address) as peer:
            query = cgi_params(path=f"/{WAYS[0]}", query="cmd=capabilities")
            assert b"unbundle=" in peer.request(query).body
