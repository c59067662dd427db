"""Web servers that run on what `fastfcgi config` prints: static files, mounts, names with quotes.

That requests arrive right is what the matrix of all web servers tests, on the same configurations.
"""

import concurrent.futures
import contextlib
import http.client
import os
import shutil
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_client import HOST, Client, Site
from processes import AS_ROOT, DEADLINE, Process, require
from runtimes import Runtime
from webservers import WEB_SERVERS, WebServer, printed, start, user_and_group

from fastfcgi import WSGIServer, ask, cli
from fastfcgi.site_command import SERVERS

pytestmark = pytest.mark.webserver

WITH_FILES = [
    name for name in WEB_SERVERS if "static" not in SERVERS[WEB_SERVERS[name].server].cannot
]

PASSING_ON = [name for name, kind in WEB_SERVERS.items() if not kind.starts_application]


class Application:
    """An application in a thread of ours, at a socket, and the paths that it was asked for."""

    def __init__(self, address: str) -> None:
        self.asked: list[str] = []
        self.server = WSGIServer(self, bind=address, socket_mode=0o666)

    def __call__(self, environ: dict, start_response: object) -> list[bytes]:
        self.asked.append(environ["SCRIPT_NAME"] + environ["PATH_INFO"])
        start_response("200 OK", [("Content-Type", "text/plain")])  # type: ignore[operator]
        return [b"the application"]


@contextlib.contextmanager
def served(address: str) -> Iterator[Application]:
    running = Application(address)
    thread = threading.Thread(target=running.server.run)
    thread.start()
    try:
        assert running.server.wait_ready(DEADLINE)
        (running.address,) = running.server.addresses
        yield running
    finally:
        running.server.stop()
        thread.join()


@pytest.fixture(scope="module")
def application(module_folder: Path) -> Iterator[Application]:
    with served(f"unix:{module_folder}/app.sock") as running:
        yield running


@pytest.fixture(scope="module")
def script(module_folder: Path, public_python: Runtime) -> Path:
    """A front-end script for the web servers that start one."""
    place = module_folder / "script"
    place.mkdir()
    place.chmod(0o755)
    text = "from apps import application\nfrom fastfcgi import WSGIServer\n"
    return public_python.script(place / "app.fcgi", text + "WSGIServer(application).run()\n")


@pytest.fixture(scope="module")
def files(module_folder: Path) -> Path:
    """A folder of files, with another in it, and a file beside it that nobody is to get."""
    place = module_folder / "files"
    (place / "inside").mkdir(parents=True)
    (place / "page.css").write_text("body {}")
    (place / "inside" / "page.css").write_text("inside {}")
    (module_folder / "secret.css").write_text("secret")
    return place


def ask_for(server: WebServer, path: str) -> tuple[int, str | None, bytes]:
    """Status, type and body for a path of the whole site."""
    root = Site("whole", server.site.port, "", server.site.tls)
    with Client(root) as client:
        answer = client.fetch(path)
    return answer.status, (answer.all("Content-Type") or [None])[0], answer.body


def assert_sends_files(server: WebServer, url: str) -> None:
    """The files of `files`, with their types; no list of a folder, and nothing from outside."""
    for path, body in {"/page.css": b"body {}", "/inside/page.css": b"inside {}"}.items():
        code, kind, content = ask_for(server, url + path)
        assert (code, content) == (200, body)
        assert kind is not None and kind.startswith("text/css")
    assert ask_for(server, f"{url}/missing")[0] == 404
    for folder in ("/", "/inside/"):
        code, _, content = ask_for(server, url + folder)
        assert code in (403, 404)
        assert b"page.css" not in content
    for path in ("/../secret.css", "/%2e%2e/secret.css", "/..%2fsecret.css"):
        assert b"secret" != ask_for(server, url + path)[2]


@pytest.mark.parametrize("mount", ["", "/wsgi"])
@pytest.mark.parametrize("name", [name for name in PASSING_ON if name in WITH_FILES])
def test_static_files(
    module_folder: Path, application: Application, files: Path, name: str, mount: str
) -> None:
    """They come from the web server, below the mount point and beside it, and nothing else does."""
    require(WEB_SERVERS[name].program)
    urls = ["/static", f"{mount}/files"]
    static = dict.fromkeys(urls, files)
    with start(name, module_folder, application.address, mount, static=static) as server:
        application.asked.clear()
        for url in urls:
            assert_sends_files(server, url)
        # Caddy leaves dots in what it passes on
        asked = [path for path in application.asked if "/../" not in path]
        assert not [path for path in asked if path.startswith(("/static/", f"{mount}/files/"))]
        # what only begins like it is no file; it is the application's, if that is there
        path = f"/static../{files.name}/page.css"
        assert ask_for(server, path)[2] != b"body {}"
        assert mount or application.asked[-1:] == [path]


@pytest.mark.parametrize("mount", ["", "/wsgi"])
@pytest.mark.parametrize("name", [name for name in WITH_FILES if name not in PASSING_ON])
def test_static_files_inside_the_folder_of_the_script(
    module_folder: Path, script: Path, files: Path, name: str, mount: str
) -> None:
    """They are files there too, and no scripts."""
    require(WEB_SERVERS[name].program)
    inside = script.parent / "files"
    shutil.copytree(files, inside, dirs_exist_ok=True)
    (script.parent / "secret.css").write_text("secret")
    urls = ["/static", f"{mount}/files"]
    static = dict.fromkeys(urls, inside)
    with start(name, module_folder, mount=mount, script=script, static=static) as server:
        for url in urls:
            assert_sends_files(server, url)


@pytest.mark.parametrize("mount", ["/wsgi", "/a/b.c"])
@pytest.mark.parametrize("name", PASSING_ON)
def test_mount(module_folder: Path, application: Application, name: str, mount: str) -> None:
    """What is at the mount point and below it is the application's, what only begins like it not.

    The dot in a name is no pattern for any character.
    """
    require(WEB_SERVERS[name].program)
    with start(name, module_folder, application.address, mount) as server:
        page = server.log_path.parent / "www" / "page.txt"
        page.write_text("a page")
        page.chmod(0o644)
        for path in (mount, f"{mount}/", f"{mount}/x"):
            assert ask_for(server, path)[2] == b"the application", path
        application.asked.clear()
        for path in ("/", f"{mount}x", f"{mount}x/y", mount[:-1], mount.replace(".", "x") + "/x/y"):
            if path != f"{mount}/x/y":
                status, _, content = ask_for(server, path)
                assert content != b"the application", path
                assert status in (403, 404, 503)
        assert not application.asked
        if name in WITH_FILES:
            assert ask_for(server, "/page.txt")[2] == b"a page"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
@pytest.mark.parametrize("name", [name for name in PASSING_ON if name in SERVERS])
def test_tcp(module_folder: Path, name: str, host: str) -> None:
    require(WEB_SERVERS[name].program)
    if host == "[::1]" and not has_ipv6():
        pytest.skip("this machine has no address ::1")
    with served(f"{host}:0") as running, start(name, module_folder, running.address) as server:
        assert ask_for(server, "/x")[2] == b"the application"


def has_ipv6() -> bool:
    """Whether somebody can listen at ::1."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False


@pytest.mark.parametrize("name", [name for name in PASSING_ON if name in SERVERS])
def test_host(module_folder: Path, application: Application, name: str) -> None:
    """The site has its name with and without the port, in any case."""
    require(WEB_SERVERS[name].program)
    with start(name, module_folder, application.address, "/wsgi", host="www.example.org") as server:
        for host in ("www.example.org", f"www.example.org:{server.site.port}", "WWW.Example.org"):
            connection = http.client.HTTPConnection(HOST, server.site.port, timeout=DEADLINE)
            with contextlib.closing(connection):
                connection.request("GET", "/wsgi/x", headers={"Host": host})
                assert connection.getresponse().read() == b"the application", host


# ---- names ---------------------------------------------------------------------------------------

ODD = [*" \"'\\$%;#*?[](){}|,&!`~=<>^@+", "é", "${x}", "{x}", "%n", "$1", " # ", "';", '";']
# What every language can write.
ALWAYS = {" ", "'", '"', ";", ",", "&", "!", "é", "';", '";', "(", ")", "=", "<"}


def taken(name: str, odd: str) -> bool:
    """Whether the web server is said to take it in all that can be named."""
    words = ["config", WEB_SERVERS[name].server, f"--address=unix:/x/a{odd}b"]
    words += [f"--{option}=/x/a{odd}b" for option in ("root", "state-dir", "tls-cert")]
    words += [f"--static=/static=/x/a{odd}b"] if name in WITH_FILES else []
    return cli.main(words) == 0


@pytest.mark.parametrize("name", [name for name in PASSING_ON if name in SERVERS])
def test_odd_names(module_folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A name with all that is special in it, as far as it is taken, is that name to the server.

    It is the name of the folder of the files, of the certificate, of the application's socket and
    of all that the server writes.
    """
    require(WEB_SERVERS[name].program)
    odd = [text for text in ODD if taken(name, text)]
    capsys.readouterr()
    assert set(odd) >= ALWAYS
    place = module_folder / f"{name[0]}{''.join(odd)}"
    (place / "files").mkdir(parents=True)
    (place / "files" / "page.css").write_text("body {}")
    files = {"/static": place / "files"} if name in WITH_FILES else None
    with (
        served(f"unix:{place}/app.sock") as running,
        start(name, place, running.address, tls=True, static=files) as server,
    ):
        assert ask_for(server, "/x")[2] == b"the application"
        if files:
            assert ask_for(server, "/static/page.css")[2] == b"body {}"


# ---- mod_fcgid's processes ----------------------------------------------------------------------

TELLS_ITS_PID = """
import os, time
from fastfcgi import WSGIServer

def app(environ, start_response):
    time.sleep(0.2)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]

WSGIServer(app).run()
"""


@pytest.mark.parametrize(("most", "fewest", "highest"), [("2", 1, 2), ("20", 3, 20)])
def test_mod_fcgid_heeds_the_number_of_processes(
    folder: Path, public_python: Runtime, most: str, fewest: int, highest: int
) -> None:
    """Where it stands, in the virtual host; requests that find none free wait."""
    require(WEB_SERVERS["apache-fcgid"].program)
    script = public_python.script(folder / "app.fcgi", TELLS_ITS_PID)
    line = "FcgidMaxProcessesPerClass "
    with start(
        "apache-fcgid", folder, script=script, changed={f"{line}20": f"{line}{most}"}
    ) as server:
        with concurrent.futures.ThreadPoolExecutor(6) as threads:
            answers = list(threads.map(lambda _: ask_for(server, "/"), range(24)))
    assert {status for status, _, _ in answers} == {200}
    assert fewest <= len({pid for _, _, pid in answers}) <= highest


# ---- spawn-fcgi ----------------------------------------------------------------------------------


@pytest.mark.skipif(not AS_ROOT, reason="what is printed gives up the rights of root")
def test_spawn_fcgi(folder: Path, script: Path, public_python: Runtime) -> None:
    """The script that is printed starts the application as that user, with a socket for it."""
    require("spawn-fcgi")
    address = folder / "app.sock"
    words = ["spawn-fcgi", f"--script={script}", f"--address={address}"]
    words += ["--user", user_and_group(), "--env", "X=1"]
    words += [f"--env={name}={value}" for name, value in public_python.env.items()]
    start_script = folder / "start.sh"
    start_script.write_text(printed(*words))
    with Process(["sh", str(start_script)], folder, "spawn-fcgi") as process:
        process.wait_for(str(address))
        response, _ = ask.fetch(f"unix:{address}", "/process", 30.0)
        assert response.status == 200
        mode = address.stat()
        assert stat.S_IMODE(mode.st_mode) == 0o660
        assert mode.st_uid == os.stat(f"/proc/{process.pid}").st_uid != 0
        assert process.stop() == 0, process.log()
