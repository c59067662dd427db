"""docs/migrating-from-*.md: the options of fastfcgi that they name exist, and so do the others'."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_docs import DOCS, blocks, rows

from fastfcgi import settings

UWSGI = DOCS / "migrating-from-uwsgi.md"
GUNICORN = DOCS / "migrating-from-gunicorn.md"
KEYS = {option.key for options in settings.SECTIONS.values() for option in options}

# Keys of plugins of uWSGI that are not compiled in everywhere.
ELSEWHERE = {"json", "asyncio", "route"}


def names(cell: str) -> list[str]:
    return re.findall("`([^`]+)`", cell)


@pytest.mark.parametrize("page", [UWSGI, GUNICORN], ids=["uwsgi", "gunicorn"])
def test_every_key_of_ours_exists(page: Path) -> None:
    heading = "Every key" if page == UWSGI else "Every setting"
    values = {"fd:3", "systemd", "dynamic", "ondemand", "scgi"}
    found = 0
    for theirs, ours, meaning in rows(page, heading):
        assert set(names(ours)) <= KEYS | values, theirs
        assert names(ours) or ours == "-", theirs
        assert ours != "-" or meaning, f"{theirs}: nothing is said"
        found += len(names(ours))
    assert found > 30


@pytest.mark.parametrize("page", sorted(DOCS.glob("migrating*.md")), ids=lambda page: page.stem)
def test_options_in_the_text_exist(page: Path) -> None:
    """Those that begin with dashes, outside of what is theirs."""
    text = re.sub(r"^gunicorn .*$", "", page.read_text(), flags=re.MULTILINE)
    for name in re.findall(r"(?<![\w-])--([a-z][a-z-]+)", text):
        assert name in KEYS, name


def test_keys_of_uwsgi_exist() -> None:
    program = shutil.which("uwsgi")
    if program is None:
        pytest.skip("uWSGI is not here")
    shown = subprocess.run([program, "--help"], capture_output=True, text=True).stdout
    known = set(re.findall(r"--([\w.-]+)", shown))
    said = [name for cells in rows(UWSGI, "Every key") for name in names(cells[0])]
    assert len(said) > 100
    assert {name for name in said if name not in known} <= ELSEWHERE


def test_settings_of_gunicorn_are_all_there() -> None:
    if importlib.util.find_spec("gunicorn") is None:
        pytest.skip("gunicorn is not here")
    from gunicorn import config

    said = [name for cells in rows(GUNICORN, "Every setting") for name in names(cells[0])]
    assert len(said) == len(set(said))
    assert {setting.name for setting in config.KNOWN_SETTINGS} <= set(said)


def test_file_in_the_place_of_uwsgi_ini(tmp_path: Path) -> None:
    """It is taken, with folders and users of this machine."""
    (text,) = blocks(UWSGI, "toml")
    text = re.sub("/srv/app|/run/app|/var/log/app", str(tmp_path), text)
    text = re.sub("^(user|group|socket-owner|socket-group) = .*\n", "", text, flags=re.MULTILINE)
    (tmp_path / "app.toml").write_text(text)
    (tmp_path / "myapp.py").write_text("def application(environ, start_response): ...\n")
    command = [sys.executable, "-m", "fastfcgi", "serve", "--config", "app.toml", "--check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no effect" not in done.stdout, done.stdout


def test_ini_and_file_say_the_same() -> None:
    """Each key of the ini is in the table; what takes its place is in the file, or a default."""
    (ini,) = blocks(UWSGI, "ini")
    (toml,) = blocks(UWSGI, "toml")
    table = {
        name: names(cells[1]) for cells in rows(UWSGI, "Every key") for name in names(cells[0])
    }
    written = set(re.findall(r"^([a-z-]+) =", toml, re.MULTILINE))
    defaults = {"listen", "buffer-size"}  # 1024, and more than was asked for
    for key in re.findall(r"^([a-z-]+) =", ini, re.MULTILINE):
        ours = set(table[key]) - {"dynamic"}
        assert ours <= written | {"min-spare", "max-spare"} or key in defaults, key
