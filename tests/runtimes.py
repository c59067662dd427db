"""A Python that the web servers' user can run, with fastfcgi and the tests' applications in it.

A developer's interpreter and checkout often lie in a home folder closed to others. So what
front-end scripts need is copied: the interpreter if it must be, a virtual environment on top, the
packages into that.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from processes import DEADLINE, SERVER_USER, TESTS, environment

# Parts of the standard library that no front-end script needs; they are most of its size.
_NOT_COPIED = ("site-packages", "test", "tests", "idlelib", "tkinter", "ensurepip", "lib2to3")
_NOT_COPIED_TOO = ("config-*", "turtledemo", "__pycache__")


@dataclass(frozen=True)
class Runtime:
    """An interpreter, and what has to be in the environment for it."""

    python: str
    env: Mapping[str, str] = field(default_factory=dict)

    def script(self, path: Path, text: str) -> Path:
        """Write an executable front-end script with this interpreter in its first line.

        PYTHONPATH goes into it: a web server that runs it as plain CGI does not hand that on.
        """
        folders = self.env.get("PYTHONPATH", "").split(os.pathsep)
        lines = f"import sys; sys.path[:0] = {folders}\n" if folders != [""] else ""
        path.write_text(f"#!{self.python}\n{lines}{text}")
        path.chmod(0o755)
        return path


def own_runtime() -> Runtime:
    """The interpreter that runs the tests, for scripts that run as the same user."""
    paths = [str(TESTS), os.environ.get("PYTHONPATH", "")]
    return Runtime(sys.executable, {"PYTHONPATH": os.pathsep.join(filter(None, paths))})


def public_runtime(folder: Path, distributions: Sequence[str] = ()) -> Runtime:
    """A runtime for SERVER_USER.

    Args:
        folder: where copies go; readable by everybody.
        distributions: what has to be importable beside fastfcgi and apps, by its name on PyPI.
    """
    if SERVER_USER is None:
        return own_runtime()
    base = os.path.realpath(sys.executable)
    env: dict[str, str] = {}
    if not _runs(base):
        base, env = _copy_interpreter(folder / "base")
    home = folder / "runtime"
    subprocess.run(
        [base, "-m", "venv", "--without-pip", str(home)],
        env=environment(env),
        check=True,
        timeout=DEADLINE,
    )
    python = str(home / "bin" / "python")
    packages = Path(next(home.glob("lib*/python*/site-packages")))
    shutil.copy(TESTS / "apps.py", packages)
    _copy_package("fastfcgi", packages)
    for distribution in distributions:
        _copy_distribution(distribution, packages)
    assert _runs(python, env, "import apps, fastfcgi"), f"{SERVER_USER} cannot run {python}"
    return Runtime(python, env)


def _runs(python: str, env: Mapping[str, str] | None = None, code: str = "") -> bool:
    command = [python, "-c", code]
    try:
        done = subprocess.run(
            command, user=SERVER_USER, env=environment(env), cwd="/", timeout=DEADLINE
        )
    except OSError:
        return False
    return done.returncode == 0


def _copy_interpreter(folder: Path) -> tuple[str, dict[str, str]]:
    """Copy the base interpreter: executable, standard library, shared library where it has one."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    library = folder / sys.platlibdir
    (folder / "bin").mkdir(parents=True)
    ignored = shutil.ignore_patterns(*_NOT_COPIED, *_NOT_COPIED_TOO)
    shutil.copytree(stdlib, library / stdlib.name, ignore=ignored, symlinks=True)
    python = shutil.copy(os.path.realpath(sys.executable), folder / "bin")
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return str(python), {}
    shared = Path(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME"))
    shutil.copy(shared, library)
    return str(python), {"LD_LIBRARY_PATH": str(library)}


def _copy_package(name: str, packages: Path) -> None:
    """Copy an importable package, wherever it comes from: installed, or built in the checkout."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.submodule_search_locations, f"no package {name}"
    for location in spec.submodule_search_locations:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(location, packages / name, ignore=ignored, dirs_exist_ok=True)


def _copy_distribution(name: str, packages: Path) -> None:
    """Copy what pip has installed for a distribution, its entry points too."""
    for file in importlib.metadata.files(name) or ():
        source = Path(str(file.locate()))
        if ".." in file.parts or "__pycache__" in file.parts or not source.is_file():
            continue  # scripts in bin/, and bytecode
        target = packages / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
