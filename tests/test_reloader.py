"""Workers are replaced when the source of the application changes."""

import importlib
import os
import sys
import threading
import types

import pytest

if os.name != "posix":
    pytest.skip("the master is POSIX only", allow_module_level=True)

from master_process import Served
from processes import wait_until

from fastfcgi import reloader
from fastfcgi.reloader import Reloader, module_files


@pytest.fixture
def source(tmp_path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "watched_module.py"
    path.write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("watched_module")
    yield path
    sys.modules.pop("watched_module", None)


def touch(path) -> None:
    """Change a file so that it can be seen, however coarse the clock of its file system is."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


class FakeLibrary(types.ModuleType):
    """In the place of watchfiles: tells what it is asked to watch."""

    def __init__(self) -> None:
        super().__init__("watchfiles")
        self.folders: list[str] = []
        self.go = threading.Event()

    def watch(self, *folders, **options):
        self.folders = list(folders)
        assert options["recursive"] is False
        while not self.go.wait(0.01):
            if options["stop_event"].is_set():
                return
        yield {("modified", "some")}


def test_files_of_modules(source) -> None:
    files = module_files()
    assert str(source) in files
    assert os.__file__ in files
    assert not any(name.endswith(".pyc") for name in files)


def test_a_change_is_seen_once(source) -> None:
    watched = Reloader(lambda: None)
    assert watched.changed() is None
    assert watched.changed() is None
    touch(source)
    assert watched.changed() == str(source)


def test_a_file_that_is_away_for_a_moment(source) -> None:
    watched = Reloader(lambda: None)
    watched.changed()
    text = source.read_text()
    source.unlink()
    assert watched.changed() is None
    source.write_text(text)
    touch(source)
    assert watched.changed() == str(source)


def test_modules_that_come_later_and_other_files(source, tmp_path) -> None:
    other = tmp_path / "settings.txt"
    other.write_text("")
    watched = Reloader(lambda: None, [str(other)])
    assert watched.changed() is None
    (tmp_path / "later_module.py").write_text("")
    importlib.import_module("later_module")
    try:
        assert watched.changed() is None
        touch(tmp_path / "later_module.py")
        assert watched.changed() == str(tmp_path / "later_module.py")
    finally:
        del sys.modules["later_module"]
    touch(other)
    assert str(other) in {watched.changed() for _ in range(50)} | {watched.changed()}


@pytest.mark.parametrize("library", [False, True])
def test_it_calls_once_and_ends(source, monkeypatch: pytest.MonkeyPatch, library: bool) -> None:
    fake = FakeLibrary()
    monkeypatch.setattr(reloader, "_library", lambda: fake if library else None)
    called = []
    watched = Reloader(lambda: called.append(1), interval=0.01)
    watched.start()
    wait_until(lambda: str(source) in watched._known, "the first look")
    if library:
        wait_until(lambda: str(source.parent) in fake.folders, "the library to be asked")
        assert not any(name.startswith(sys.base_prefix + "/lib") for name in fake.folders)
    touch(source)
    fake.go.set()
    watched.join(30)
    assert called == [1]


def test_what_changes_before_its_thread_has_begun_counts(source) -> None:
    called = []
    watched = Reloader(lambda: called.append(1), interval=0.01)
    touch(source)
    watched.start()
    watched.join(30)
    assert called == [1]


@pytest.mark.parametrize("library", [False, True])
def test_it_can_be_stopped(source, monkeypatch: pytest.MonkeyPatch, library: bool) -> None:
    monkeypatch.setattr(reloader, "_library", lambda: FakeLibrary() if library else None)
    called = []
    watched = Reloader(lambda: called.append(1))
    watched.start()
    watched.stop()
    watched.join(30)
    assert not watched.is_alive()
    assert called == []


def test_a_worker_is_replaced_when_its_source_changes(folder) -> None:
    code = folder / "changing.py"
    code.write_text("text = b'one'\n")
    more = """
def load():
    sys.path.insert(0, os.getcwd())
    import changing
    return lambda environ, start_response: (start_response("200 OK", []), [changing.text])[1]
"""
    with Served(folder, "workers=2, reload=True", more, begin=2) as served:
        # What changes in the moment between its import and the first look is not seen.
        wait_until(lambda: "2 serving" in served.running(), "both to serve")
        assert served.get().body == b"one"
        code.write_text("text = b'two'\n")
        touch(code)
        wait_until(lambda: {served.get().body for _ in range(9)} == {b"two"}, "the new code")
        # A mistake leaves what there is; the next version heals it.
        code.write_text("text = \n")
        touch(code)
        served.wait_for_log("SyntaxError")
        assert served.get().body == b"two"
        code.write_text("text = b'three'\n")
        touch(code)
        touch(code)
        wait_until(lambda: {served.get().body for _ in range(9)} == {b"three"}, "the newest code")
        assert "has changed" in served.log()
        code.unlink()
        assert served.end() == 0


def test_what_cannot_be_loaded_is_tried_again_when_it_changes(folder) -> None:
    code = folder / "changing.py"
    code.write_text("text = \n")
    more = """
def load():
    sys.path.insert(0, os.getcwd())
    import changing
    return lambda environ, start_response: (start_response("200 OK", []), [changing.text])[1]
"""
    with Served(folder, "workers=1, reload=True", more) as served:
        served.wait_for_log("again in 4 s")
        assert served.get().status == 500
        code.write_text("text = b'one'\n")
        touch(code)
        wait_until(lambda: served.get().body == b"one", "it to heal")
        assert "again in 8 s" not in served.log()
        code.unlink()
        assert served.end() == 0
