"""The file of an access log: shared, reopened, full."""

import contextlib
import logging
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_access_log import EMPTY, RECORD

from fastfcgi.access_log import AccessLog
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.log_files import LogFile


def test_a_line_for_each_record(tmp_path: Path) -> None:
    path = tmp_path / "access"
    path.write_text("before\n")
    log = AccessLog(str(path), "%m %s")
    log(RECORD)
    log(EMPTY)
    log.close()
    assert path.read_text() == "before\nPOST 201\n- -\n"


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_others_may_not_read_it(tmp_path: Path) -> None:
    path = tmp_path / "access"
    previous = os.umask(0)
    try:
        AccessLog(str(path)).close()
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_no_file(tmp_path: Path) -> None:
    path = str(tmp_path / "none" / "access")
    with pytest.raises(FileNotFoundError, match="none"):
        AccessLog(path)
    with pytest.raises(ConfigurationError):
        AccessLog(str(tmp_path / "access"), "%Z")
    assert not (tmp_path / "access").exists()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_reopened(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile(str(path))
    before = descriptors()
    log.write("one")
    path.rename(tmp_path / "log.1")
    log.write("two")
    log.reopen()
    log.write("three")
    assert (tmp_path / "log.1").read_text() == "one\ntwo\n"
    assert path.read_text() == "three\n"
    assert descriptors() == before
    assert not os.get_inheritable(log._fd)
    path.unlink()
    tmp_path.joinpath("log").mkdir()
    with pytest.raises(IsADirectoryError):
        log.reopen()
    log.write("four")  # into the old one, which nobody can see any more
    assert descriptors() == before
    log.close()
    log.close()
    assert descriptors() == before - 1


@pytest.mark.skipif(os.name != "posix", reason="needs dup2 while others write")
def test_reopened_while_others_write(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile(str(path))
    count, writers = 2000, 4

    def write(name: str) -> None:
        for number in range(count):
            log.write(f"{name} {number} " + "x" * 200)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"[:writers]]
    for thread in threads:
        thread.start()
    times = 0
    while any(thread.is_alive() for thread in threads):
        path.rename(tmp_path / f"log.{times}")
        log.reopen()
        times += 1
    log.close()
    lines = [line for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    expected = {f"{name} {number} " + "x" * 200 for name in "abcd" for number in range(count)}
    assert times > 1 and len(lines) == count * writers and set(lines) == expected


PROCESS = """
import sys
from fastfcgi.log_files import LogFile
log = LogFile(sys.argv[1])
for number in range(2000):
    log.write(f"{sys.argv[2]} {number} " + "x" * 500)
"""


def test_several_processes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    command = [sys.executable, "-c", PROCESS, str(path)]
    running = [subprocess.Popen([*command, name]) for name in "ab"]
    assert [one.wait(60) for one in running] == [0, 0]
    lines = path.read_text().splitlines()
    expected = {f"{name} {number} " + "x" * 500 for name in "ab" for number in range(2000)}
    assert len(lines) == 4000 and set(lines) == expected


@contextlib.contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """Reading and writing end of a pipe that takes nothing."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(65536))
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.skipif(os.name != "posix", reason="needs pipes that do not block")
def test_what_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is told once, not for each request, and again after it went well for a while."""
    log = LogFile(str(tmp_path / "log"))
    with full_pipe() as (reading, writing), caplog.at_level(logging.ERROR, "fastfcgi"):
        os.dup2(writing, log._fd)
        for _ in range(3):
            log.write("lost")
        (message,) = caplog.messages
        assert re.fullmatch(r"cannot write to \S+log: [A-Z][a-z ]+", message)
        os.set_blocking(reading, False)
        with contextlib.suppress(BlockingIOError):
            while os.read(reading, 65536):
                pass
        log.write("there")
        assert os.read(reading, 100) == b"there\n"
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, bytes(65536))
        log.write("lost")
        assert len(caplog.messages) == 2
    log.close()


def test_what_is_written_in_two_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is just full takes part of a line; the rest is tried once more."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
    log = LogFile(str(tmp_path / "log"))
    log.write("one two three")
    log.close()
    assert (tmp_path / "log").read_text() == "one two three\n"


def test_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    log = AccessLog("-", "%m é")
    log(RECORD)
    log.reopen()
    log.close()
    os.write(1, b"still open\n")
    assert capfd.readouterr().out == "POST é\nstill open\n"
