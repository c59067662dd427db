"""`fastfcgi serve --check`: one line, an exit status, and nothing else."""

import os
import pwd
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("unix sockets and users", allow_module_level=True)

from test_cli import COMMAND, child_environment, error_of, run
from test_cli import folder as folder  # a fixture

AS_ROOT = os.geteuid() == 0

# Reports whatever opens a socket or writes.
WATCH = """
    import os, sys

    def look(event, arguments):
        if event == "open":
            flags = arguments[2]
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event.split(".")[0] != "socket" and event not in (
            *("os.mkdir", "os.remove", "os.rename", "os.chmod", "os.chown", "os.truncate"),
            *("os.fork", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.link", "os.symlink"),
        ):
            return
        print("WATCHED", event, arguments, file=sys.__stderr__)

    from fastfcgi import cli
    sys.addaudithook(look)
    sys.exit(cli.main(["serve", *sys.argv[1:], "--check"]))
"""


def line_of(arguments: list[str], folder: Path, **env: str) -> str:
    """What a check says that finds nothing wrong."""
    done = run(["serve", *arguments, "--check"], folder, env=child_environment(**env))
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"fastfcgi: [^\n]+\n", done.stdout)
    return done.stdout.removeprefix("fastfcgi: ").rstrip()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "webapp can be served at what it is started with by one process of 64 threads"),
        (["--bind=./s", "--bind=:0", "--threads=2"], "at ./s, :0 by one process of 2 threads"),
        (["--bind=@" + "x" * 107], "at @xxx"),
        (["--workers=1"], "by 1 worker of 64 threads"),
        (["--workers=3", "--bind=@x"], "at @x by 3 workers of 64 threads"),
        (["--http=127.0.0.1:9"], "webapp can be served at http://127.0.0.1:9/ by one process"),
        (["--http=[::1]:9", "--bind=./s"], "at ./s, http://[::1]:9/ by one process"),
        (["--mode=ondemand"], "by up to 10 workers of 64 threads"),
        (["--min-spare=1"], "64 threads; --min-spare has no effect: mode is not dynamic"),
        (["--access-log=log", "--access-format=%h %%", "--slow-log=s", "--timeout=1"], "webapp"),
    ],
)
def test_all_is_well(arguments: list[str], said: str, folder: Path) -> None:
    assert said in line_of(["webapp", *arguments], folder)
    assert {path.name for path in folder.iterdir()} == {"webapp.py", "site.cfg"}


def test_nothing_is_opened_or_written(folder: Path) -> None:
    (folder / "watch.py").write_text(textwrap.dedent(WATCH))
    arguments = ["--bind=./s", "--bind=127.0.0.1:1", "--bind=fd:77", "--bind=systemd"]
    arguments += ["--pidfile=pid", "--access-log=a", "--error-log=e", "--slow-log=s", "--timeout=1"]
    arguments += ["--workers=2", "--http=0", "--ping-path=/p", "--status-path=/s"]
    done = subprocess.run(
        [sys.executable, "watch.py", "webapp:app", *arguments],
        cwd=folder,
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    # Looking addresses up is asking.
    watched = [line for line in done.stderr.splitlines() if "socket.getaddrinfo" not in line]
    assert watched == []
    assert {path.name for path in folder.iterdir()} == {"webapp.py", "site.cfg", "watch.py"}


def test_not_even_bytecode_is_written(folder: Path) -> None:
    line_of(["webapp"], folder, PYTHONDONTWRITEBYTECODE="")
    assert not (folder / "__pycache__").exists()


def test_beside_the_server_itself(folder: Path) -> None:
    """Its socket is there, and so is its pid file."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()
        (folder / "pid").write_text(f"{os.getpid()}\n")
        line_of(["webapp", "--bind=./s", "--pidfile=pid"], folder)
    assert (folder / "s").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["webapp", "--threads=x"], 2, "not a number"),
        (["webapp", "--timeout=5", "--hard-timeout=5"], 2, "--hard-timeout: not longer"),
        ([], 2, "there is no MODULE:APP"),
        (["missing"], 1, "No module named 'missing'"),
        (["webapp:missing"], 1, "has no attribute 'missing'"),
        (["webapp", "--post-fork=webapp:missing"], 1, "has no attribute 'missing'"),
        (["webapp", "--worker-exit=webapp:number"], 1, "'webapp:number' cannot be called"),
        (["webapp", "--chdir=missing"], 1, "missing: No such file"),
        (["webapp", "--bind=missing/s"], 1, "cannot listen on missing/s: there is no directory"),
        (["webapp", "--workers=1", "--bind=missing/s"], 1, "/missing/s: there is no directory"),
        (["webapp", "--bind=./webapp.py"], 1, "there is a file that is no socket"),
        (["webapp", f"--bind=/{'x' * 200}"], 1, "longer than"),
        (["webapp", "--bind=no.such.host.invalid:1"], 1, "no.such.host.invalid:1: "),
        (["webapp", "--http=no.such.host.invalid:1"], 1, "listen on no.such.host.invalid:1: "),
        (["webapp", "--http=a..b:1"], 1, "listen on a..b:1: this cannot be the name of a host"),
        (["webapp", "--socket-owner=no-such-user"], 1, "no such user"),
        (["webapp", "--socket-group=no-such-group"], 1, "no such group"),
        (["webapp", "--user=no-such-user"], 1, "no such user: 'no-such-user'"),
        (["webapp", "--group=no-such-group"], 1, "no such group: 'no-such-group'"),
        (["webapp", "--pidfile=missing/pid"], 1, "missing/pid: there is no directory"),
        (["webapp", "--error-log=missing/log"], 1, "missing/log: there is no directory"),
        (["webapp", "--access-log=missing/log"], 1, "missing/log: there is no directory"),
        (["webapp", "--slow-log=missing/log", "--timeout=1"], 1, "missing/log: there is no"),
        (["webapp", "--error-log=."], 1, "it is a directory"),
    ],
)
def test_what_is_wrong(arguments: list[str], status: int, said: str, folder: Path) -> None:
    assert said in error_of(["serve", *arguments, "--check"], folder, status)


@pytest.mark.parametrize("address", ["no/s", "./webapp.py", "webapp.py/s", "long", "host", "@long"])
@pytest.mark.parametrize("more", [[], ["--workers=1"]])
def test_a_check_and_a_server_say_the_same(address: str, more: list[str], folder: Path) -> None:
    known = {"long": "./" + "x" * 200, "@long": "@" + "x" * 108, "host": "no.such.host.invalid:1"}
    arguments = ["serve", "webapp", "--bind", known.get(address, address), *more]
    lines = [error_of([*arguments, "--check"], folder, 1)]
    done = run(arguments, folder)
    assert (done.returncode, done.stdout) == (1, "")
    lines.append(done.stderr.splitlines()[-1].removeprefix("fastfcgi: error: ") + "\n")
    assert lines[0] == lines[1]


@pytest.mark.skipif(not AS_ROOT, reason="only root becomes somebody else")
def test_a_check_and_a_server_say_the_same_to_another_user(folder: Path) -> None:
    folder.chmod(0o755)
    (folder / "closed").mkdir(mode=0o700)
    (folder / "read").mkdir(mode=0o755)
    # Imported before: another user may not be able to read where Python is.
    becoming = (
        "import os, pwd, sys; from fastfcgi import check, cli, config, serve;"
        " os.setuid(65534); sys.exit(cli.main())"
    )
    for place, said in [
        ("read/s", f"the directory {folder}/read may not be written to by nobody"),
        ("closed/s", f"the directory {folder}/closed may not be written to by nobody"),
        ("closed/in/s", f"the directory {folder}/closed may not be entered by nobody"),
    ]:
        lines = []
        for more in [], ["--check"]:
            done = subprocess.run(
                [sys.executable, "-c", becoming, "serve", "webapp", "--bind", place, *more],
                cwd=folder,
                env=child_environment(),
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert (done.returncode, done.stdout) == (1, "")
            lines.append(done.stderr)
        assert lines[0] == lines[1] == f"fastfcgi: error: cannot listen on {place}: {said}\n"


def test_what_the_application_raises_is_shown(folder: Path) -> None:
    (folder / "broken.py").write_text("x = 1 / 0")
    done = run(["serve", "broken", "--check"], folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Traceback") and "x = 1 / 0" in done.stderr
    assert done.stderr.endswith("importing 'broken' failed: ZeroDivisionError: division by zero\n")


@pytest.mark.skipif(AS_ROOT, reason="root may write anywhere")
def test_where_nobody_may_write(folder: Path) -> None:
    (folder / "closed").mkdir(mode=0o500)
    (folder / "log").touch(mode=0o400)
    for option in ("bind=closed/s", "pidfile=closed/pid", "error-log=closed/x", "access-log=log"):
        line = error_of(["serve", "webapp", f"--{option}", "--check"], folder, 1)
        assert "may not be written to" in line


@pytest.mark.skipif(not AS_ROOT, reason="only root becomes somebody else")
def test_the_application_is_loaded_as_its_user(folder: Path) -> None:
    user = pwd.getpwnam("nobody")
    folder.chmod(0o755)
    (folder / "who.py").write_text(
        f"import os; assert os.getresuid() == ({user.pw_uid},) * 3; from webapp import app"
    )
    assert "who can be served" in line_of(["who", "--user=nobody"], folder)
    (folder / "who.py").chmod(0o600)
    done = run(["serve", "who", "--user=nobody", "--check"], folder)
    assert done.returncode == 1 and "Permission" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep the current directory")
def test_the_current_directory_is_gone(folder: Path) -> None:
    for words in (["serve", "webapp", "--bind", "/s", "--check"], ["doctor", "./s"]):
        done = subprocess.run(
            ["sh", "-c", 'mkdir gone && cd gone && rmdir ../gone && "$@"', "sh", *COMMAND, *words],
            cwd=folder,
            env=child_environment(),
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == 1
        assert re.search(rb"error: the current directory: [^\n]*\n\Z", done.stderr), done
