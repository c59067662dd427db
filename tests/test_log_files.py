"""Log files: whole lines from everywhere, reopened under whoever is writing."""

import errno
import logging
import logging.config
import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastfcgi import log_files
from fastfcgi.log_files import LogFile, LogFiles, keep_logging, set_up_logging

if sys.platform == "win32":
    pytest.skip("descriptors that append, and users", allow_module_level=True)

AS_ROOT = os.geteuid() == 0
logger = logging.getLogger("fastfcgi")


@pytest.fixture
def files() -> Iterator[LogFiles]:
    opened = LogFiles()
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def same_logging() -> Iterator[None]:
    """Of our loggers: as it was before."""
    before = (logger.handlers[:], logger.level, logger.propagate, logger.disabled)
    yield
    logger.handlers[:], logger.level, logger.propagate, logger.disabled = before


def test_lines_are_appended(tmp_path: Path, files: LogFiles) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    file = files.open(str(path))
    file.write("one")
    file.write("\udcff ü")
    assert path.read_bytes() == "before\none\n\\udcff ü\n".encode()


def test_others_may_not_read_it(tmp_path: Path, files: LogFiles) -> None:
    before = os.umask(0)
    try:
        files.open(str(tmp_path / "log"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o640


def test_no_child_gets_it(tmp_path: Path, files: LogFiles) -> None:
    file = files.open(str(tmp_path / "log"))
    assert not os.get_inheritable(file._fd)
    file.reopen()
    assert not os.get_inheritable(file._fd)


def test_reopen(tmp_path: Path, files: LogFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path counts as it was at the start, whatever the directory is by now."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "log"
    file = files.open("log")
    file.write("old")
    path.rename(tmp_path / "log.1")
    file.write("still old")
    monkeypatch.chdir("/")
    count = len(os.listdir("/dev/fd"))
    files.reopen()
    assert len(os.listdir("/dev/fd")) == count
    file.write("new")
    assert (tmp_path / "log.1").read_text() == "old\nstill old\n"
    assert path.read_text() == "new\n"


def test_reopen_while_others_write(tmp_path: Path, files: LogFiles) -> None:
    """Each line is in one file, whole."""
    file = files.open(str(tmp_path / "log"))

    def write(name: int) -> None:
        for number in range(2000):
            file.write(f"{name} {number} " + "x" * 100)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for number in range(20):
        (tmp_path / "log").rename(tmp_path / f"log.{number}")
        files.reopen()
    for thread in threads:
        thread.join()
    lines = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    wanted = [f"{name} {number} " + "x" * 100 for name in range(4) for number in range(2000)]
    assert sorted(lines) == sorted(wanted)


def test_what_cannot_be_reopened_stays(
    tmp_path: Path, files: LogFiles, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    kept = files.open(str(folder / "log"))
    other = files.open(str(tmp_path / "other"))
    folder.rename(tmp_path / "moved")
    (tmp_path / "other").unlink()
    logger.propagate = True
    files.reopen()
    assert caplog.messages == [f"{folder}/log stays as it is: No such file or directory"]
    kept.write("kept")
    other.write("new")
    assert (tmp_path / "moved" / "log").read_text() == "kept\n"
    assert (tmp_path / "other").read_text() == "new\n"


@pytest.mark.parametrize(
    ("path", "standard", "number"),
    [("-", 1, 1), ("-", 2, 2), ("/dev/stdout", 2, 1), ("/dev/stderr", 1, 2)],
)
def test_standard_ones(
    path: str, standard: int, number: int, files: LogFiles, capfd: pytest.CaptureFixture[str]
) -> None:
    """They are not opened, not reopened, not given away and not closed."""
    file = files.open(path, standard)
    assert not files.are_files
    files.reopen()
    files.give_to(1)
    file.write("a line")
    files.close()
    os.fstat(number)
    assert capfd.readouterr()[number - 1] == "a line\n"


def test_the_same_path_is_opened_once(tmp_path: Path, files: LogFiles) -> None:
    path = str(tmp_path / "log")
    assert files.open(path) is files.open(path)
    assert files.open("-", 1) is not files.open("-", 2)
    assert files.are_files


def test_renewed(tmp_path: Path, files: LogFiles) -> None:
    """A file that is wanted no more is closed, the others go on."""
    first, second = files.open(str(tmp_path / "a")), files.open(str(tmp_path / "b"))
    with files.renewed():
        assert files.open(str(tmp_path / "a")) is first
        files.open(str(tmp_path / "c"))
    first.append("x")
    with pytest.raises(OSError):
        os.fstat(second._fd)
    with pytest.raises(ZeroDivisionError), files.renewed():
        raise ZeroDivisionError  # new settings that are wrong: the old ones stay
    first.append("x")


def test_a_full_disk_is_told_once(
    files: LogFiles, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    logger.propagate = True
    file = files.open("/dev/full")
    for _ in range(3):
        file.write("a line")
    no_room = os.strerror(errno.ENOSPC)
    assert caplog.messages == [f"cannot write to /dev/full: {no_room}"]
    with pytest.raises(OSError, match=no_room):
        file.append("a line")
    with monkeypatch.context() as patch:
        patch.setattr(file, "append", lambda record: None)
        file.write("there is room again")
    file.write("a line")
    assert len(caplog.messages) == 2


def test_a_long_record_into_a_pipe() -> None:
    """What a write leaves is written after it."""
    reading, writing = os.pipe()
    received = []

    def read() -> None:
        while data := os.read(reading, 65536):
            received.append(data)

    thread = threading.Thread(target=read)
    thread.start()
    file = LogFile(f"/dev/fd/{writing}")
    os.close(writing)
    file.append("x" * 1_000_000)
    file.close()
    thread.join()
    os.close(reading)
    assert b"".join(received) == b"x" * 1_000_000 + b"\n"


# ---- owners -----------------------------------------------------------------------------------


@pytest.mark.skipif(not AS_ROOT, reason="only root gives files away")
def test_given_to_a_user(tmp_path: Path, files: LogFiles) -> None:
    (tmp_path / "linked").touch()
    os.link(tmp_path / "linked", tmp_path / "link")
    os.chown(tmp_path / "linked", -1, 7)
    (tmp_path / "mine").touch()
    os.chown(tmp_path / "mine", -1, 7)
    for name in ("mine", "linked"):
        files.open(str(tmp_path / name))
    # In the place of /dev/null, which a test must not put at risk.
    os.mkfifo(tmp_path / "fifo")
    reading = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    files.open(str(tmp_path / "fifo"))
    files.give_to(12345)
    status = (tmp_path / "mine").stat()
    assert (status.st_uid, status.st_gid) == (12345, 7)
    assert (tmp_path / "linked").stat().st_uid == 0
    assert (tmp_path / "fifo").stat().st_uid == 0
    os.close(reading)


def test_links(tmp_path: Path, files: LogFiles) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    files.open(str(tmp_path / "link")).write("x")
    assert (tmp_path / "target").read_text() == "x\n"
    if AS_ROOT:
        (tmp_path / "theirs").symlink_to(tmp_path / "elsewhere")
        os.lchown(tmp_path / "theirs", 12345, -1)
        with pytest.raises(OSError, match="and not root's"):
            files.open(str(tmp_path / "theirs"))
        assert not (tmp_path / "elsewhere").exists()


# ---- logging ----------------------------------------------------------------------------------


def test_messages_go_to_the_file_alone(
    tmp_path: Path, files: LogFiles, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log"
    set_up_logging(files.open(str(tmp_path / "old")), "debug")
    set_up_logging(files.open(str(path)), "warning")  # as a reload does
    logging.getLogger("fastfcgi.http_front").warning("a %s", "b")
    logger.info("not this")
    assert caplog.messages == []
    line = path.read_text()
    assert line.endswith(f" [{os.getpid()}] WARNING: a b\n") and line.count("\n") == 1
    assert (tmp_path / "old").read_text() == ""


def test_a_message_that_cannot_be_written_harms_nobody(
    files: LogFiles, capfd: pytest.CaptureFixture[str]
) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    set_up_logging(files.open("/dev/full"), "info")
    logger.warning("nobody reads this")
    assert "nobody reads this" in capfd.readouterr().err


def test_what_the_application_configures_does_not_silence_us(
    tmp_path: Path, files: LogFiles
) -> None:
    front = logging.getLogger("fastfcgi.http_front")
    other = logging.getLogger("fastfcgi_other")
    before = front.disabled, other.disabled
    set_up_logging(files.open(str(tmp_path / "log")), "info")
    root = logging.getLogger()
    handlers = root.handlers[:]
    try:
        logging.config.dictConfig({"version": 1})
        assert logger.disabled and front.disabled and other.disabled
        keep_logging()
        assert (logger.disabled, front.disabled, other.disabled) == (False, False, True)
    finally:
        root.handlers[:] = handlers
        front.disabled, other.disabled = before
    front.info("still here")  # though logging.config has closed all handlers
    assert (tmp_path / "log").read_text().endswith("still here\n")
    assert log_files.MODE == 0o640
