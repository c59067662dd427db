"""The scripts and configurations of README and docs/, run as they stand there but for the paths."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("needs Linux, as all tests with real processes", allow_module_level=True)

from http_client import HOST, Site, fetch
from processes import (
    DEADLINE,
    SERVER_USER,
    Process,
    environment,
    free_ports,
    give_to_server,
    require,
    wait_until,
)
from runtimes import Runtime, own_runtime
from test_docs import DOCS, ROOT, blocks
from wire import Peer, cgi_params

pytestmark = pytest.mark.webserver

README = ROOT / "README.md"
START = DOCS / "start.md"


def localised(text: str, folder: Path) -> str:
    """A block with the folder in the place of those that it names."""
    for place in ("/srv/app", "/run/app", "/run/lighttpd"):
        text = text.replace(place + "/", f"{folder}/")
    return text


@pytest.fixture
def place(folder: Path) -> Path:
    """The folder, with docs/start.md's application in it."""
    (folder / "myapp.py").write_text(blocks(START, "python")[0])
    return folder


def write_script(place: Path, block: str, runtime: Runtime) -> Path:
    """A front-end script beside the application; only its first line is ours."""
    first, _, rest = localised(block, place).partition("\n")
    assert first.startswith("#!")
    return runtime.script(place / "app.fcgi", rest)


def start(place: Path, *command: str, **options: object) -> Process:
    return Process(command, place, "app", env=own_runtime().env, **options)


def is_answered(address: str) -> bool:
    with Peer(address) as peer:
        response = peer.request(cgi_params(path="/x"))
    return (response.status, response.body) == (200, b"Hello from '' + '/x'\n")


@contextmanager
def given_socket(place: Path) -> Iterator[socket.socket]:
    """A listening socket such as spawn-fcgi leaves at descriptor 0; its path is PLACE/s."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{place}/s")
        sock.listen()
        yield sock


# ---- scripts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [README, START], ids=["README", "start"])
def test_front_end_script(place: Path, page: Path) -> None:
    block = next(block for block in blocks(page, "python") if block.startswith("#!"))
    script = write_script(place, block, own_runtime())
    with given_socket(place) as sock, start(place, str(script), stdin=sock) as process:
        assert is_answered(f"{place}/s")
        assert process.stop() == 0, process.log()


def test_script_with_a_socket_of_its_own(place: Path) -> None:
    block = blocks(README, "python")[1].replace('"www-data"', str(os.getgid()))
    script = write_script(place, block, own_runtime())
    with start(place, str(script)) as process:
        process.wait_for(f"{place}/app.sock")
        assert is_answered(f"{place}/app.sock")
        assert (place / "app.sock").stat().st_mode & 0o777 == 0o660
        assert process.stop() == 0, process.log()


def test_script_in_the_place_of_flipflops(place: Path) -> None:
    (code,) = blocks(DOCS / "migrating-from-flipflop.md", "python")
    with given_socket(place) as sock:
        with start(place, sys.executable, "-c", code, stdin=sock) as process:
            assert is_answered(f"{place}/s")
            assert process.stop() == 0, process.log()


def test_python_interface(place: Path) -> None:
    """A server with an access log, and a client that asks it."""
    server, client = [localised(block, place) for block in blocks(DOCS / "api.md", "python")]
    server = server.replace('"127.0.0.1:9000"', f'"unix:{place}/app.sock"')
    with start(place, sys.executable, "-c", server) as process:
        process.wait_for(f"{place}/app.sock")
        env = environment(own_runtime().env)
        command = [sys.executable, "-c", client]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=DEADLINE)
        assert done.stdout == "200 text/plain\n", done.stderr
        wait_until(lambda: re.search(r"^\S+ 200 OK \d\.\d+ s$", process.log(), re.M), "the log")
        assert process.stop() == 0, process.log()


TELLS_WHEN_IT_BEGINS = """
from fastfcgi import WSGIServer
run = WSGIServer.run
WSGIServer.run = lambda self: print("begins") or run(self)
"""


def test_beginning_anew(place: Path) -> None:
    code = TELLS_WHEN_IT_BEGINS + blocks(START, "python")[2]
    with given_socket(place) as sock:
        with start(place, sys.executable, "-c", code, stdin=sock) as process:
            for times in (1, 2, 3):
                wait_until(lambda t=times: process.log().count("begins") == t, "a new beginning")
                assert is_answered(f"{place}/s")
                process.popen.send_signal(signal.SIGHUP if times < 3 else signal.SIGTERM)
            assert process.wait() == 0, process.log()


def test_in_a_thread(place: Path) -> None:
    code = blocks(DOCS / "start" / "own-socket.md", "python")[1]
    with start(place, sys.executable, "-c", code) as process:
        assert process.wait() == 0, process.log()
        assert re.fullmatch(r"\[\('127\.0\.0\.1', \d+\)\]\n", process.log())


def test_plain_cgi_by_hand(place: Path) -> None:
    write_script(place, blocks(START, "python")[1], own_runtime())
    (command,) = blocks(DOCS / "start" / "cgi.md", "sh")
    done = subprocess.run(
        localised(command, place),
        shell=True,
        env=environment(own_runtime().env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=DEADLINE,
    )
    assert done.stdout.startswith(b"Status: 200 OK\r\n")
    assert done.stdout.endswith(b"\r\n\r\nHello from '' + '/x'\n")


def test_without_a_script(place: Path) -> None:
    """The first `fastfcgi serve` of README."""
    line = next(line for line in README.read_text().splitlines() if line.startswith("fastfcgi s"))
    words = localised(line, place).split()
    with start(place, sys.executable, "-m", *words) as process:
        process.wait_for(f"{place}/app.sock")
        assert is_answered(f"{place}/app.sock")
        assert process.stop() == 0, process.log()


# ---- web servers ------------------------------------------------------------------------------


def is_served(port: int, *prefixes: str) -> None:
    """The application answers at these prefixes, and is told so."""
    for prefix in prefixes:
        answer = fetch(Site("site", port, prefix), "/a%20b/c")
        assert answer.body.decode() == f"Hello from {prefix!r} + '/a b/c'\n", answer


@contextmanager
def web_server(place: Path, config: str, *command: str) -> Iterator[int]:
    """A web server with that configuration, PORT in it filled in; yields the port."""
    (port,) = free_ports(1)
    path = place / "web.conf"
    path.write_text(localised(config, place).replace("PORT", str(port)))
    words = [require(command[0]), *command[1:], str(path)]
    with Process(words, place, command[0], user=SERVER_USER) as server:
        server.wait_for((HOST, port))
        yield port


@contextmanager
def own_socket(place: Path) -> Iterator[None]:
    """The application where the configurations of README look for it."""
    options = f"bind='unix:{place}/app.sock', socket_mode=0o666"
    code = f"import fastfcgi, myapp; fastfcgi.WSGIServer(myapp.application, {options}).run()"
    with start(place, sys.executable, "-c", code) as process:
        process.wait_for(f"{place}/app.sock")
        yield


WITH_NGINX = [
    (README, ["", "/wsgi"]),
    (START, [""]),
    (DOCS / "migrating-from-uwsgi.md", [""]),
    (DOCS / "migrating-from-gunicorn.md", [""]),
]


@pytest.mark.parametrize(("page", "prefixes"), WITH_NGINX, ids=[p.stem for p, _ in WITH_NGINX])
def test_nginx(place: Path, page: Path, prefixes: list[str]) -> None:
    (block,) = blocks(page, "nginx")
    block = block.replace("include fastcgi_params", "include /etc/nginx/fastcgi_params")
    paths = "\n".join(
        f"{kind}_temp_path {place}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = f"""daemon off; pid {place}/nginx.pid; error_log stderr; events {{}}
http {{ access_log off; {paths} server {{ listen {HOST}:PORT; {block} }} }}"""
    command = ["nginx", "-e", "stderr", "-p", str(place), "-c"]
    with own_socket(place), web_server(place, config, *command) as port:
        is_served(port, *prefixes)


LIGHTTPD = f"""server.bind = "{HOST}"
server.port = PORT
server.document-root = "/srv/app/"
"""


@pytest.mark.parametrize(
    ("page", "prefixes"), [(README, ["", "/wsgi"]), (START, [""])], ids=["README", "start"]
)
def test_lighttpd(place: Path, page: Path, prefixes: list[str]) -> None:
    (block,) = blocks(page, "lighttpd")
    with own_socket(place), web_server(place, LIGHTTPD + block, "lighttpd", "-D", "-f") as port:
        is_served(port, *prefixes)


@pytest.mark.parametrize(("page", "prefix"), [("lighttpd-bin-path", ""), ("cgi", "/app")])
def test_lighttpd_starts_it(place: Path, public_python: Runtime, page: str, prefix: str) -> None:
    (block,) = blocks(DOCS / "start" / f"{page}.md", "lighttpd")
    give_to_server(write_script(place, blocks(START, "python")[1], public_python))
    with web_server(place, LIGHTTPD + block, "lighttpd", "-D", "-f") as port:
        is_served(port, prefix)


def test_mod_fcgid(place: Path, public_python: Runtime) -> None:
    modules = Path("/usr/lib/apache2/modules")
    if not (modules / "mod_fcgid.so").exists():
        require("mod_fcgid")
    (block,) = blocks(DOCS / "start" / "mod_fcgid.md", "apache")
    give_to_server(write_script(place, blocks(START, "python")[1], public_python))
    loads = "\n".join(
        f"LoadModule {name}_module {modules}/mod_{name}.so"
        for name in ("mpm_event", "authz_core", "alias", "fcgid")
    )
    config = f"""{loads}
ServerRoot {place}
ServerName www.example.org
DefaultRuntimeDir {place}
PidFile {place}/apache.pid
Mutex file:{place} default
ErrorLog {place}/apache2.log
Listen {HOST}:PORT
FcgidIPCDir {place}/ipc
FcgidProcessTableFile {place}/fcgid_shm
{block.replace('"/srv/app"', f'"{place}"')}"""
    with web_server(place, config, "apache2", "-DFOREGROUND", "-f") as port:
        is_served(port, "/app")
