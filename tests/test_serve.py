"""`fastfcgi serve` from its settings on, as a real process."""

import json
import signal
import socket
import stat
import sys
import textwrap
from pathlib import Path

import pytest
import wire

if sys.platform == "win32":
    pytest.skip("signals and unix sockets", allow_module_level=True)

from processes import wait_until
from test_cli import Running, child_environment, error_of, fetch, run
from test_cli import folder as folder  # a fixture

APP = """
    import json, logging, os, sys, time

    def application(environ, start_response):
        path = environ["PATH_INFO"]
        if path == "/error":
            raise LookupError("of the application")
        if path == "/sleep":
            time.sleep(float(environ["QUERY_STRING"]))
        start_response("200 OK", [("Content-Type", "application/json")])
        mask = os.umask(0)
        os.umask(mask)
        return [json.dumps({
            "pid": os.getpid(), "uid": os.getuid(), "gid": os.getgid(), "umask": mask,
            "cwd": os.getcwd(), "path": sys.path, "multiprocess": environ["wsgi.multiprocess"],
            "script": environ.get("SCRIPT_NAME"), "a": environ.get("A"),
            "systemd": os.environ.get("NOTIFY_SOCKET"),
        }).encode()]

    def other(environ, start_response):
        start_response("200 OK", [])
        return [b"other"]
"""


@pytest.fixture(autouse=True)
def site(folder: Path) -> Path:
    (folder / "site_app.py").write_text(textwrap.dedent(APP))
    return folder


def asked(folder: Path, path: str = "/", query: str = "") -> dict[str, object]:
    found: dict[str, object] = json.loads(fetch(str(folder / "s"), path, query))
    return found


def serving(arguments: list[str], folder: Path, **options: object) -> Running:
    return Running(["serve", "site_app", "--bind=./s", *arguments], folder, **options)


def ready(command: Running, folder: Path) -> None:
    """Wait until it is answered, under a master too."""

    def answers() -> bool:
        assert command.popen.poll() is None, command.output()
        try:
            fetch(str(folder / "s"), "/other")
        except OSError:
            return False
        return True

    wait_until(answers, "an answer")


# ---- where settings come from -----------------------------------------------------------------


def test_all_of_it_from_a_file(folder: Path) -> None:
    """Nothing but the file's name on the command line; its folder is not the working directory."""
    (folder / "lib").mkdir()
    (folder / "site_app.py").rename(folder / "lib" / "site_app.py")
    (folder / "site.toml").write_text(
        'application = "site_app"\nbind = "./s"\nchdir = "."\npythonpath = "lib"\n'
        'threads = 1\numask = "027"\nerror-log = "log"\nenviron = { SCRIPT_NAME = "/x" }\n'
    )
    with Running(["serve", "--config", f"{folder}/site.toml"], folder) as command:
        command.wait_for("serving site_app at unix:./s")
        found = asked(folder)
        assert found["umask"] == 0o27
        assert found["cwd"] == str(folder.resolve())
        assert found["path"][:2] == [f"{folder.resolve()}/lib", str(folder.resolve())]  # type: ignore[index]
        assert found["script"] == "/x"
        assert not stat.S_IMODE((folder / "s").stat().st_mode) & 0o27
        assert (folder / "log").exists()


def test_all_of_it_from_the_environment(folder: Path) -> None:
    env = child_environment(
        FASTFCGI_APPLICATION="site_app:other",
        FASTFCGI_BIND="./s unix:./t",
        FASTFCGI_THREADS="2",
        FASTFCGI_UMASK="",
    )
    with Running(["serve"], folder, env=env) as command:
        command.wait_for(r"serving site_app:other at unix:./s, unix:./t$")
        assert fetch(str(folder / "t")) == b"other"


def test_secrets_do_not_show(folder: Path) -> None:
    for more in ([], ["--workers=1"]):
        with serving(["--debug", "--environ=A=hunter2", "--environ=B=x", *more], folder) as command:
            ready(command, folder)
            assert asked(folder)["a"] == "hunter2"
            command.stop(signal.SIGHUP if not more else signal.SIGTERM)
        assert "hunter2" not in command.output()


# ---- one process ------------------------------------------------------------------------------


def test_the_error_log_is_reopened(folder: Path) -> None:
    with serving(["--error-log=log"], folder) as command:
        command.wait_for("serving")
        fetch(str(folder / "s"), "/error")
        assert "LookupError: of the application" in (folder / "log").read_text()
        (folder / "log").rename(folder / "log.1")
        command.popen.send_signal(signal.SIGUSR1)
        wait_until((folder / "log").exists, "the new log")
        fetch(str(folder / "s"), "/error")
        assert "LookupError: of the application" in (folder / "log").read_text()
        assert command.stop() == 0
    assert "LookupError" not in command.output()


def test_usr1_ends_it_where_no_log_is_a_file(folder: Path) -> None:
    for log in ([], ["--error-log=/dev/stderr"]):
        with serving(log, folder) as command:
            command.wait_for("serving")
            assert command.stop(signal.SIGUSR1) == 0


def test_log_level(folder: Path) -> None:
    with serving(["--log-level=critical"], folder) as command:
        command.wait_for("serving")
        fetch(str(folder / "s"), "/error")
        assert command.stop() == 0
        assert "LookupError" not in command.output()


@pytest.mark.parametrize("more", [[], ["--workers=1"]])
def test_an_application_that_configures_logging(more: list[str], folder: Path) -> None:
    """As Django does: every logger that exists is disabled."""
    with (folder / "site_app.py").open("a") as file:
        file.write("\nimport logging.config\nlogging.config.dictConfig({'version': 1})\n")
    with serving(more, folder) as command:
        ready(command, folder)
        fetch(str(folder / "s"), "/error")
        command.wait_for("LookupError: of the application")


def test_a_log_that_cannot_be_opened(folder: Path) -> None:
    for option in ("--error-log=no/log", "--access-log=no/log", "--slow-log=no/log"):
        arguments = ["serve", "site_app", "--bind=./s", option, "--timeout=9"]
        for more in ([], ["--workers=1"]):
            line = error_of([*arguments, *more], folder, 1)
            assert line == f"{folder.resolve()}/no/log: No such file or directory\n"
    assert not (folder / "s").exists()


def test_what_has_no_effect_is_logged(folder: Path) -> None:
    for more in ([], ["--workers=1"]):
        with serving(["--min-spare=9", *more], folder) as command:
            command.wait_for("WARNING: --min-spare has no effect: mode is not dynamic$")


def test_access_log(folder: Path) -> None:
    """In a file, with a format that has percent signs; and as JSON on stdout."""
    for more in ([], ["--workers=1"]):
        with serving(["--access-log=access", '--access-format=%m "%U" %>s 100%%', *more], folder):
            wait_until((folder / "s").exists, "the socket")
            fetch(str(folder / "s"), "/a b")
            text = wait_until((folder / "access").read_text, "a line")
            assert text == 'GET "/a b" 200 100%\n'
            (folder / "access").unlink()
    with serving(["--access-log=-", "--access-format=json"], folder) as command:
        command.wait_for("serving")
        fetch(str(folder / "s"), "/b")
        assert json.loads(command.wait_for("^{.*}$")[0])["status"] == 200


def test_slow_log(folder: Path) -> None:
    with serving(["--timeout=0.1", "--slow-log=slow"], folder) as command:
        command.wait_for("serving")
        fetch(str(folder / "s"), "/sleep", "0.6")
        text = wait_until((folder / "slow").read_text, "an entry")
        assert "GET /sleep?0.6" in text and 'time.sleep(float(environ["QUERY_STRING"]))' in text
    with serving(["--timeout=0.1"], folder) as command:
        command.wait_for("serving")
        fetch(str(folder / "s"), "/sleep", "0.6")
        command.wait_for(r"GET /sleep\?0.6")


@pytest.mark.parametrize("more", [[], ["--workers=1"]])
def test_ping_and_status(more: list[str], folder: Path) -> None:
    with serving(["--ping-path=/ping", "--status-path=/status", *more], folder) as command:
        ready(command, folder)
        assert fetch(str(folder / "s"), "/ping") == b"pong\n"
        assert fetch(str(folder / "s"), "/status").startswith(b"fastfcgi")
        done = run(["ping", "./s"], folder)
        assert (done.returncode, done.stderr) == (0, "")
        done = run(["status", "./s", "--json"], folder)
        assert json.loads(done.stdout)["mode"] == ("static" if more else "single")
        done = run(["request", "./s", "/", "-i"], folder)
        assert done.stdout.startswith("Status: 200 OK") or " 200 " in done.stdout


def test_systemd_is_told(folder: Path) -> None:
    path = str(folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(wire.DEADLINE)
        env = child_environment(NOTIFY_SOCKET=path, WATCHDOG_USEC="200000")
        with serving([], folder, env=env) as command:
            assert systemd.recv(4096).startswith(b"READY=1\n")
            assert systemd.recv(4096) == b"WATCHDOG=1"
            assert asked(folder)["systemd"] is None  # not for what the application starts
            assert command.stop() == 0


def test_plain_cgi_whatever_the_file_says(folder: Path) -> None:
    (folder / "site.toml").write_text('application="site_app:other"\nworkers=4\npidfile="pid"')
    env = {**child_environment(), **wire.cgi_params()}
    done = run(["serve", "--config=site.toml"], folder, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n\nother")
    assert not (folder / "pid").exists()
