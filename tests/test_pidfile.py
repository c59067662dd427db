"""The pid file: written whole, refused where it must be, removed while it is ours."""

import os
import stat
import subprocess
import sys

import pytest

if os.name != "posix":
    pytest.skip("the master is POSIX only", allow_module_level=True)

from fastfcgi.exceptions import ConfigurationError
from fastfcgi.pidfile import PidFile


@pytest.fixture
def path(tmp_path):
    return tmp_path / "app.pid"


def gone() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_it_is_written_and_removed(path) -> None:
    umask = os.umask(0o077)
    try:
        pidfile = PidFile(str(path))
        pidfile.write()
    finally:
        os.umask(umask)
    assert path.read_text() == f"{os.getpid()}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(path.parent) == [path.name]
    pidfile.remove()
    assert os.listdir(path.parent) == []
    pidfile.remove()


@pytest.mark.parametrize("text", ["{gone}\n", "", "\n", "0"])
def test_a_stale_one_is_replaced(path, text: str) -> None:
    path.write_text(text.replace("{gone}", str(gone())))
    PidFile(str(path)).write()
    assert path.read_text() == f"{os.getpid()}\n"
    assert os.listdir(path.parent) == [path.name]


def test_that_of_a_live_process_is_refused(path) -> None:
    path.write_text(f"{os.getppid()}\n")
    with pytest.raises(ConfigurationError, match=f"{path}: process {os.getppid()} is running"):
        PidFile(str(path)).write()
    assert path.read_text() == f"{os.getppid()}\n"
    assert os.listdir(path.parent) == [path.name]


def test_that_of_one_who_starts_at_the_same_time(path, monkeypatch: pytest.MonkeyPatch) -> None:
    pidfile = PidFile(str(path))

    def read() -> None:
        path.write_text("1\n")  # right after we looked

    monkeypatch.setattr(pidfile, "_read", read)
    with pytest.raises(ConfigurationError, match="has just started"):
        pidfile.write()
    assert path.read_text() == "1\n"
    assert os.listdir(path.parent) == [path.name]


def test_our_own_stays_as_it_is(path) -> None:
    PidFile(str(path)).write()
    inode = path.stat().st_ino
    PidFile(str(path)).write()
    assert path.stat().st_ino == inode


@pytest.mark.parametrize("text", ["root:x:0:0\n", "12 34", "-1", "1" * 40, "\xb2"])
def test_another_file_is_left_alone(path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="no pid file"):
        PidFile(str(path)).write()
    assert path.read_text() == text


def test_a_number_that_no_process_can_have(path) -> None:
    path.write_text("99999999999999999999\n")
    PidFile(str(path)).write()
    assert path.read_text() == f"{os.getpid()}\n"


def test_that_of_another_is_not_removed(path, caplog: pytest.LogCaptureFixture) -> None:
    pidfile = PidFile(str(path))
    pidfile.write()
    path.write_text("1\n")
    pidfile.remove()
    assert path.read_text() == "1\n"
    path.write_text("something else")
    pidfile.remove()
    assert "stays" in caplog.text


def test_it_is_found_again_in_another_directory(path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    pidfile = PidFile("app.pid")
    pidfile.write()
    monkeypatch.chdir("/")
    pidfile.remove()
    assert not path.exists()


def test_a_link_in_its_place_is_not_followed(path, tmp_path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f"app.pid.{os.getpid()}").symlink_to(victim)
    PidFile(str(path)).write()
    assert victim.read_text() == "precious"


def test_a_folder_that_is_not_there(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        PidFile(str(tmp_path / "no" / "app.pid")).write()


FULL = """
import resource, sys
from fastfcgi.pidfile import PidFile
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    PidFile(sys.argv[1]).write()
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("room", [0, 1])
@pytest.mark.parametrize("stale", [False, True])
def test_a_full_disk_leaves_nothing_and_is_told_with_the_path(path, room: int, stale: bool) -> None:
    """No room at all, or less than it takes: a process that may not write more, in its place."""
    before = f"{gone()}\n"
    if stale:
        path.write_text(before)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FULL, str(path), str(room)]
    found = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)
    assert str(path) in found.stdout and not found.stderr, found
    assert os.listdir(path.parent) == ([path.name] if stale else [])
    assert not stale or path.read_text() == before
