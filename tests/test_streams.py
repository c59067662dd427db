"""The standard streams of a command: closed, full, or with a reader that went away."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("a shell and /dev/full", allow_module_level=True)

from processes import DEADLINE, children, wait_until
from test_cli import COMMAND, Running, child_environment
from test_cli import folder as folder  # a fixture

# Each writes to stdout; the last four ask a server.
COMMANDS = {
    "help": ["--help"],
    "serve --help": ["serve", "--help"],
    "version": ["--version"],
    "check": ["serve", "webapp:app", "--check"],
    "config": ["config", "nginx"],
    "list": ["config"],
    "doctor alone": ["doctor"],
    "doctor": ["doctor", "unix:./nobody"],
    "doctor --json": ["doctor", "unix:./nobody", "--json"],
    "ping": ["ping", "./s", "--path=/ping"],
    "status": ["status", "./s"],
    "request": ["request", "./s", "/"],
    "bench": ["bench", "./s", "--requests=1"],
    "top": ["top", "./s", "--once"],
}
# Without a reader.
STATUS = 1


@pytest.fixture
def served(folder: Path):
    (folder / "output").touch()
    arguments = ["serve", "webapp", "--bind=./s", "--ping-path=/ping", "--status-path=/status"]
    with Running(arguments, folder) as command:
        command.wait_for("serving")
        yield folder


def shell(
    words: list[str], redirection: str, folder: Path, **env: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command with streams as the shell makes them."""
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", *COMMAND, *words],
        cwd=folder,
        env=child_environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def without_reader(
    words: list[str], folder: Path, stream: str = "stdout", **env: str
) -> tuple[int, str]:
    """Status and other output of a command that has a pipe that nobody reads for a stream."""
    other = "stderr" if stream == "stdout" else "stdout"
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as nobody:
        done = subprocess.run(
            [*COMMAND, *words],
            cwd=folder,
            env=child_environment(**env),
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=60,
            **{stream: nobody, other: subprocess.PIPE},
        )
    return done.returncode, getattr(done, other)


def test_nobody_reads(served: Path) -> None:
    """Buffered or not, each command ends quietly and in the same way."""
    pytest.importorskip("rich")
    for (name, words), unbuffered in itertools.product(COMMANDS.items(), ["", "1"]):
        found = without_reader(words, served, PYTHONUNBUFFERED=unbuffered)
        assert found == (STATUS, ""), (name, unbuffered)


def test_a_connection_that_breaks_is_not_taken_for_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastfcgi import cli, site_command

    def breaks(options: object) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(site_command, "run", breaks)
    assert cli.main(["config", "nginx"]) == 1
    assert capsys.readouterr().err == "fastfcgi: error: Broken pipe\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_told(unbuffered: str, folder: Path) -> None:
    for name in ("config", "doctor", "version"):
        done = shell(COMMANDS[name], ">/dev/full", folder, PYTHONUNBUFFERED=unbuffered)
        assert done.returncode == 1
        assert done.stderr.startswith("fastfcgi: error: ")
        assert done.stderr.endswith("No space left on device\n")
        assert done.stderr.count("\n") == 1


def test_stdout_is_closed(served: Path) -> None:
    """As if it were /dev/null: the status is that of the command."""
    pytest.importorskip("rich")
    for name, words in COMMANDS.items():
        done = shell(words, ">&-", served)
        status = {"doctor": 1, "doctor --json": 1, "doctor alone": 2}.get(name, 0)
        assert (done.returncode, done.stderr) == (status, ""), name


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["serve", "missing"], 1),
        (["serve", "--bind"], 2),
        (["serve", "webapp", "--bind=./no/s"], 1),
        (["ping", "./s"], 1),
        (["doctor", "./s", "--mount=/a"], 2),
        (["config", "nginx"], 0),
    ],
)
def test_stderr_is_closed(words: list[str], status: int, folder: Path) -> None:
    """What is for stderr does not go to stdout, which may be a file that is used."""
    done = shell(words, "2>&-", folder)
    assert done.returncode == status
    assert "fastfcgi: error" not in done.stdout
    assert without_reader(words, folder, "stderr")[0] == status
    assert shell(words, "<&- >&- 2>&-", folder).returncode == status


def test_a_server_without_streams(folder: Path) -> None:
    """Nothing of it, no socket above all, becomes a standard stream."""
    words = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *COMMAND]
    arguments = ["serve", "webapp", "--bind=./s", "--http=0", "--workers=1", "--error-log=log"]
    with subprocess.Popen([*words, *arguments], cwd=folder, env=child_environment()) as process:
        try:
            wait_until((folder / "s").exists, "the socket")
            wait_until(lambda: children(process.pid)[1:], "front and worker")
            for pid in [process.pid, *children(process.pid)]:
                for fd in range(3):
                    assert os.readlink(f"/proc/{pid}/fd/{fd}") == "/dev/null"
        finally:
            process.terminate()
        assert process.wait(DEADLINE) == 0


@pytest.mark.parametrize("env", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "utf-8"}, {}])
def test_names_that_are_no_text(env: dict[str, str], folder: Path) -> None:
    """They come back as they came."""
    odd = os.fsdecode(b"./\xff\xe9")
    for words, status in [
        (["serve", "webapp", "--check", f"--bind={odd}/s"], 1),
        (["serve", "webapp", f"--config={odd}"], 1),
        (["serve", "webapp", f"--chdir={odd}"], 1),
        (["doctor", odd], 1),
        (["ping", odd], 1),
        (["serve", odd], 2),
    ]:
        done = shell(words, "", folder, **env)
        assert done.returncode == status, done
        assert "Traceback" not in done.stderr, done
        assert (done.stdout + done.stderr).strip()
    words = ["serve", "webapp", "--check", f"--bind={odd}"]
    done = shell(words, "| od -An -tx1", folder, **env)
    assert " 61 74 20 2e 2f ff e9 20 62 79 " in " ".join(done.stdout.split()), done
    done = shell(words, "", folder, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "at ./\\udcff\\udce9 by" in done.stdout
