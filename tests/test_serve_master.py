"""`fastfcgi serve` with a master and workers, as real processes."""

import contextlib
import logging
import os
import pwd
import re
import signal
import socket
import stat
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if sys.platform == "win32":
    pytest.skip("signals and unix sockets", allow_module_level=True)

from processes import DEADLINE, Process, children, free_ports, wait_until
from test_cli import COMMAND, Running, child_environment, error_of, fetch, http_get, run
from test_cli import folder as folder  # a fixture
from test_serve import APP, asked, ready, serving
from test_serve import site as site  # a fixture

from fastfcgi.config import Settings
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.log_files import LogFiles
from fastfcgi.sockets import SocketOptions
from fastfcgi.under_master import Reloading

AS_ROOT = os.geteuid() == 0


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """Ours, as it was before."""
    found = logging.getLogger("fastfcgi")
    before = (found.handlers[:], found.level, found.propagate)
    yield found
    found.handlers[:], found.level, found.propagate = before


@pytest.fixture
def given(folder: Path) -> dict[str, Any]:
    """Settings for a master."""
    return {
        "application": "site_app",
        "workers": 12,
        "max_workers": 20,
        "max_memory": 5,
        "threads": 3,
        "user": str(os.getuid()),
        "bind": ["./s", "@abstract", ":9000"],
        "pidfile": "pid",
        "umask": 0o27,
        "backlog": 7,
        "socket_mode": 0o600,
        "socket_owner": "0",
        "socket_group": "0",
        "chdir": str(folder),
        "environ": [("A", "b")],
        "error_log": "log",
        "max_params_pairs": 9,
        "debug": True,
    }


@pytest.fixture
def reloading(given: dict[str, Any], logger: logging.Logger) -> Iterator[Reloading]:
    """What reads them anew; they may be changed."""
    with contextlib.closing(LogFiles()) as files:
        first = Settings(given, {})
        yield Reloading(first, files, lambda: Settings(given, {}), ["cmd"], ["@x"])


def test_what_the_master_is_told(
    folder: Path, reloading: Reloading, logger: logging.Logger
) -> None:
    """Paths are absolute, as chdir is for workers alone."""
    told = reloading.reread()
    assert (told.workers, told.start_workers) == (12, None)
    assert told.bind == [f"unix:{folder}/./s", "@abstract", ":9000", "@x"]
    assert told.socket_options == SocketOptions(7, 0o27, 0o600, "0", "0")
    assert (told.pidfile, told.chdir) == (f"{folder}/pid", str(folder))
    assert (told.max_memory, told.umask, told.command) == (5, 0o27, ["cmd"])
    options = {"environ": {"A": "b"}, "threads": 3, "max_params_pairs": 9, "debug": True}
    assert told.server_options == options
    assert (folder / "log").exists() and logger.level == logging.DEBUG


def test_what_a_master_is_told_in_other_modes(given: dict[str, Any], reloading: Reloading) -> None:
    given["mode"] = "dynamic"
    assert reloading.reread().start_workers == 12
    del given["workers"], given["bind"]
    told = reloading.reread()
    assert (told.start_workers, told.bind) == (1, ["@x"])
    with contextlib.closing(LogFiles()) as files:
        settings = Settings({"application": "site_app"}, {})
        assert Reloading(settings, files, lambda: settings, None).reread().bind is None


def test_settings_that_are_wrong_change_nothing(
    folder: Path, given: dict[str, Any], reloading: Reloading, logger: logging.Logger
) -> None:
    """Not even where messages go."""
    reloading.reread()
    given.update(error_log="log2", mode="dynamic", max_workers=3)
    with pytest.raises(ConfigurationError):
        reloading.reread()
    logger.warning("still there")
    assert "still there" in (folder / "log").read_text()
    given.update(max_workers=20)
    reloading.reread()
    logger.warning("elsewhere")
    assert "elsewhere" in (folder / "log2").read_text()


@pytest.mark.skipif(not AS_ROOT, reason="only root runs workers as somebody else")
def test_logs_stay_whose_the_workers_are(
    folder: Path, given: dict[str, Any], reloading: Reloading
) -> None:
    """A reload does not change the user."""
    given["user"] = "nobody"
    reloading.reread()
    reloading.reopen()
    assert (folder / "log").stat().st_uid == os.getuid()


def test_master(folder: Path) -> None:
    """Its workers, its files, and that nothing is left."""
    arguments = ["--workers=2", "--pidfile=pid", "--chdir=sub", "--umask=077", "--pythonpath=.."]
    (folder / "sub").mkdir()
    with serving([*arguments, "--error-log=log", "--no-path"], folder) as command:
        wait_until((folder / "sub" / "s").exists, "the socket")
        found = asked(folder / "sub")
        pids = children(command.popen.pid)
        assert len(pids) == 2 and found["pid"] in pids
        assert (found["umask"], found["multiprocess"]) == (0o77, True)
        assert found["cwd"] == str((folder / "sub").resolve())
        assert (folder / "sub" / "pid").read_text() == f"{command.popen.pid}\n"
        assert stat.S_IMODE((folder / "sub" / "s").stat().st_mode) & 0o77 == 0
        assert command.stop() == 0
    assert [path.name for path in (folder / "sub").iterdir()] == ["log"]
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_directory_that_is_not_there(folder: Path) -> None:
    arguments = ["serve", "site_app", "--bind=./s", "--workers=1", "--chdir=missing"]
    line = error_of(arguments, folder, 1)
    assert line == f"{folder.resolve()}/missing: No such file or directory\n"


def test_descriptor_0_with_a_master(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()
        with Running(["serve", "site_app", "--workers=1"], folder, stdin=listener) as command:
            assert asked(folder)["pid"] in children(command.popen.pid)
            assert command.stop() == 0
    assert (folder / "s").exists()


def test_hup_reads_the_file_anew(folder: Path) -> None:
    """Application, environ and log; a file that is wrong changes nothing but the log."""
    file = folder / "site.toml"
    text = 'application="site_app"\nbind="./s"\nworkers=1\nerror-log="log"\n'
    file.write_text(text + 'environ={A="1"}')
    with Running(["serve", "--config=site.toml"], folder) as command:
        ready(command, folder)
        assert asked(folder)["a"] == "1"
        file.write_text(text + 'environ={A="2"}\nworker=1')
        command.popen.send_signal(signal.SIGHUP)
        log = folder / "log"
        wait_until(lambda: "did you mean workers?" in log.read_text(), "the complaint")
        assert asked(folder)["a"] == "1"
        file.write_text(text.replace('"log"', '"log2"') + 'environ={A="2"}')
        command.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: asked(folder)["a"] == "2", "the new environ")
        assert "log2" in {path.name for path in folder.iterdir()}
        file.write_text(text.replace("site_app", "site_app:other"))
        command.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: fetch(str(folder / "s")) == b"other", "the other application")
        assert command.stop() == 0


def test_hup_does_not_change_the_protocol(folder: Path) -> None:
    """New workers get the connections that web servers keep with old ones."""
    file = folder / "site.toml"
    text = 'application="site_app"\nbind="./s"\nworkers=1\nerror-log="log"\n'
    file.write_text(text)
    with Running(["serve", "--config=site.toml"], folder) as command:
        ready(command, folder)
        file.write_text(text + 'protocol="scgi"\n')
        command.popen.send_signal(signal.SIGHUP)
        complaint = "protocol is not changed by a reload"
        wait_until(lambda: complaint in (folder / "log").read_text(), "the complaint")
        assert asked(folder)["pid"]
        assert command.stop() == 0


def test_usr2_with_relative_paths(folder: Path) -> None:
    (folder / "etc").mkdir()
    (folder / "etc" / "site.toml").write_text('application="site_app"\nbind="./s"\nworkers=1')
    (folder / "sub").mkdir()
    (folder / "site_app.py").rename(folder / "sub" / "site_app.py")
    arguments = ["serve", "--config=etc/site.toml", "--chdir=sub"]
    with Running(arguments, folder) as command:
        ready(command, folder / "sub")
        before = asked(folder / "sub")["pid"]
        command.popen.send_signal(signal.SIGUSR2)
        wait_until(lambda: asked(folder / "sub")["pid"] != before, "a new worker")
        assert command.stop() == 0
    assert not (folder / "sub" / "s").exists()


@pytest.mark.skipif(AS_ROOT, reason="root may write anywhere")
@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGUSR2])
def test_what_the_master_holds_need_not_be_made_again(folder: Path, signum: int) -> None:
    """With --preload and --user the master may not write where its own files are."""
    arguments = ["--workers=1", "--preload", "--bind=run/s", "--pidfile=run/pid"]
    (folder / "run").mkdir()
    with Running(["serve", "site_app", *arguments], folder) as command:
        ready(command, folder / "run")
        before = asked(folder / "run")["pid"]
        (folder / "run" / "pid").chmod(0o400)
        (folder / "run").chmod(0o500)
        command.popen.send_signal(signum)
        wait_until(lambda: asked(folder / "run")["pid"] != before, "a new worker")
        (folder / "run").chmod(0o700)
        assert command.stop() == 0
    assert not list((folder / "run").iterdir())


def test_usr1_with_a_master(folder: Path) -> None:
    arguments = ["--workers=2", "--error-log=log", "--access-log=access", "--access-format=%U"]
    with serving(arguments, folder) as command:
        ready(command, folder)
        for name in ("log", "access"):
            (folder / name).rename(folder / f"{name}.1")
        command.popen.send_signal(signal.SIGUSR1)

        def in_the_new_ones() -> bool:
            fetch(str(folder / "s"), "/error")
            names = [folder / "log", folder / "access"]
            return all(path.exists() and "rror" in path.read_text() for path in names)

        wait_until(in_the_new_ones, "new log files")
        assert command.stop() == 0


def test_workers_at_the_start(folder: Path) -> None:
    arguments = ["--mode=dynamic", "--workers=2", "--max-workers=3", "--max-spare=2"]
    with serving(arguments, folder) as command:
        ready(command, folder)
        wait_until(lambda: len(children(command.popen.pid)) == 2, "two workers")
        assert command.stop() == 0


def test_hooks(folder: Path) -> None:
    (folder / "lib").mkdir()
    (folder / "lib" / "hooks.py").write_text(
        "import os\n"
        "def begun(): open(f'begun.{os.getpid()}', 'w').close()\n"
        "def ended(): open(f'ended.{os.getpid()}', 'w').close()\n"
    )
    arguments = ["--workers=1", "--post-fork=hooks:begun", "--worker-exit=hooks:ended"]
    arguments.append("--pythonpath=lib")
    with serving(arguments, folder) as command:
        ready(command, folder)
        pid = asked(folder)["pid"]
        assert (folder / f"begun.{pid}").exists()
        assert command.stop() == 0
    assert (folder / f"ended.{pid}").exists()


def test_an_application_that_fails(folder: Path) -> None:
    """In a worker: its traceback without our frames before the cause, in the log. Preloaded:
    the master ends as one process does."""
    (folder / "broken.py").write_text("def f():\n    return 1 / 0\nf()\n")
    arguments = ["serve", "broken", "--bind=./s", "--workers=1"]
    with Running(arguments, folder) as command:
        command.wait_for("^ZeroDivisionError: division by zero")
        assert "return 1 / 0" in command.output()
        assert "LoadError" not in command.output()
        assert "During handling" not in command.output()
    done = run([*arguments, "--preload"], folder)
    assert done.returncode == 1
    assert done.stderr.endswith("importing 'broken' failed: ZeroDivisionError: division by zero\n")
    assert not (folder / "s").exists()


def test_http_with_a_master(folder: Path) -> None:
    """The front is a process of its own, and ends with the master, however that ends."""
    env = child_environment(TMPDIR=str(folder))
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        with serving(["--workers=1", "--http=0"], folder, env=env) as command:
            url = command.url()
            assert http_get(url)[0] == 200
            before = children(command.popen.pid)
            command.popen.send_signal(signal.SIGHUP)
            wait_until(lambda b=before, c=command: new_worker(b, c.popen.pid), "a new worker")
            pids = children(command.popen.pid)
            (front,) = set(pids) & set(before)
            os.kill(front, signal.SIGINT)  # as the terminal does; it is the master's business
            assert http_get(url)[0] == 200
            status = command.stop(signum)
            assert status == (-signum if signum == signal.SIGKILL else 0)
            wait_until(lambda p=pids: not any(map(lives, p)), "all to end")
        assert not list(folder.glob("fastfcgi-*"))  # the front took it away before its end
        (folder / "s").unlink(missing_ok=True)


@pytest.mark.skipif(not AS_ROOT, reason="only root becomes somebody else")
@pytest.mark.parametrize("ending", ["stopped", "killed", "loading", "failing"])
def test_nothing_of_the_front_is_left(ending: str, folder: Path) -> None:
    """The master made a directory as root, and may be somebody else by now."""
    folder.chmod(0o755)
    (folder / "tmp").mkdir()
    (folder / "slow.py").write_text("print('import', flush=True)\nimport time; time.sleep(60)")
    (folder / "fails.py").write_text("import os; os.chdir('/'); 1 / 0")
    name = {"loading": "slow", "failing": "fails"}.get(ending, "site_app")
    env = child_environment(TMPDIR=str(folder / "tmp"))
    arguments = ["serve", name, "--http=0", "--user=nobody", "--preload"]
    with Running(arguments, folder, env=env) as command:
        if ending == "failing":
            assert command.popen.wait(DEADLINE) == 1
        else:
            command.wait_for("import" if ending == "loading" else "Open")
            wait_until(lambda: list((folder / "tmp").iterdir()), "the directory")
            command.stop(signal.SIGKILL if ending == "killed" else signal.SIGTERM)
        wait_until(lambda: not list((folder / "tmp").iterdir()), "nothing to be left")


def test_a_front_goes_on_though_nobody_reads_where_it_is(folder: Path) -> None:
    (port,) = free_ports(1)
    for more in [], ["--workers=1"]:
        reading, writing = os.pipe()
        os.close(reading)
        env = child_environment(PYTHONUNBUFFERED="")
        with open(writing, "wb") as nobody:
            words = [*COMMAND, "serve", "site_app", f"--http={port}", *more]
            with Process(words, folder, "serve", env=env, stdout=nobody) as process:
                process.wait_for(("127.0.0.1", port))
                assert http_get(("127.0.0.1", port))[0] == 200
                assert process.popen.poll() is None
                assert process.stop() == 0


def test_usr2_with_http_is_refused(folder: Path) -> None:
    """The next master would not find the front."""
    with serving(["--workers=1", "--http=0"], folder) as command:
        url = command.url()
        command.popen.send_signal(signal.SIGUSR2)
        command.wait_for("USR2: not available")
        assert http_get(url)[0] == 200
        assert command.stop() == 0


def new_worker(before: list[int], master: int) -> bool:
    now = children(master)
    return len(now) == len(before) == 2 and now != before


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_reload(folder: Path) -> None:
    with serving(["--reload"], folder) as command:
        ready(command, folder)
        assert asked(folder)["a"] is None
        source = textwrap.dedent(APP).replace('environ.get("A")', '"changed"')

        def changed() -> bool:
            # Again and again: the first look at the files may be yet to come.
            (folder / "site_app.py").write_text(source)
            return asked(folder)["a"] == "changed"

        wait_until(changed, "the new source")
        assert command.stop() == 0


@pytest.mark.skipif(not AS_ROOT, reason="only root runs workers as somebody else")
def test_user(folder: Path) -> None:
    """Workers are the user's, logs too, so that they can be reopened."""
    user = pwd.getpwnam("nobody")
    folder.chmod(0o755)
    arguments = ["--user=nobody", "--error-log=log", "--socket-mode=666", "--access-log=access"]
    with serving(arguments, folder) as command:
        ready(command, folder)
        found = asked(folder)
        assert (found["uid"], found["gid"]) == (user.pw_uid, user.pw_gid)
        assert (folder / "log").stat().st_uid == user.pw_uid
        (folder / "access").rename(folder / "access.1")
        command.popen.send_signal(signal.SIGUSR1)
        wait_until((folder / "access").exists, "the new log")

        def logged() -> str:
            fetch(str(folder / "s"))
            return (folder / "access").read_text()

        assert re.search('"GET / ', wait_until(logged, "a line"))
        assert (folder / "access").stat().st_uid == user.pw_uid
        assert command.stop() == 0
