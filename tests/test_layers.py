"""Imports in fastfcgi/ point down: to floors below and the standard library, to nothing else."""

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

# From the bottom up. Modules of one floor may use each other, but not in a circle.
FLOORS = {
    "ground": ["constants", "exceptions"],
    "codec": ["_codec"],
    "core": ["events", "states", "connection"],
    "gateway": ["environ", "body", "wsgi"],
    "server": [
        *["limits", "sockets", "engine", "outbox", "request", "channel"],
        *["acceptor", "cgi", "drop_in", "server"],
    ],
    "front door": ["__init__"],
    "tools": ["client", "_load", "load", "http_front", "demo", "bench", "cli", "__main__"],
}
LEVEL = {name: level for level, names in enumerate(FLOORS.values()) for name in names}

# What Cython brings along at compile time; nothing of it is imported when the module runs.
CYTHON = {"cython", "cpython", "libc"}
IN_CYTHON = {"_codec", "_load"}

# Known to type checkers; allowed where only they look, under TYPE_CHECKING.
TYPE_CHECKERS = {"_typeshed", "typing_extensions"}


def _package() -> Path:
    """The folder of fastfcgi as it is imported here, without importing it."""
    spec = importlib.util.find_spec("fastfcgi")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def _sources() -> dict[str, str]:
    """Module name -> source text of every .py and .pyx of the package."""
    paths = [path for path in _package().iterdir() if path.suffix in (".py", ".pyx")]
    return {path.stem: path.read_text(encoding="utf-8") for path in paths}


def _for_checkers_only(tree: ast.Module) -> set[ast.AST]:
    """What stands in "if TYPE_CHECKING:" and never runs."""
    return {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for statement in block.body
        for node in ast.walk(statement)
    }


def _python_imports(text: str, run: bool) -> Iterator[tuple[str, list[str]]]:
    """(module, imported names) of every import statement, relative ones spelled out."""
    tree = ast.parse(text)
    left_out = _for_checkers_only(tree) if run else set()
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = ["fastfcgi"] if node.level else []
            module = ".".join(parts + ([node.module] if node.module else []))
            yield module, [alias.name for alias in node.names]


def _cython_imports(text: str) -> Iterator[tuple[str, list[str]]]:
    """The same for Cython, whose import and cimport statements ast cannot read."""
    for match in re.finditer(r"^[ \t]*c?import[ \t]+([^#\n]+)", text, re.MULTILINE):
        yield from ((part.split()[0], []) for part in match[1].split(","))
    statement = r"^[ \t]*from[ \t]+([\w.]+)[ \t]+c?import[ \t]+(\([^)]*\)|[^#\n]+)"
    for match in re.finditer(statement, text, re.MULTILINE):
        module = re.sub(r"^\.+", "fastfcgi.", match[1]).rstrip(".")
        yield module, re.findall(r"\w+", match[2])
    for match in re.finditer(r"^[ \t]*include[ \t]", text, re.MULTILINE):
        raise AssertionError(f"a pyx that includes another cannot be checked: {match[0]}")


def _imports(name: str, text: str, run: bool = False) -> Iterator[str]:
    """Top-level modules from outside, and "fastfcgi.X" for modules of the package.

    Args:
        run: only what is imported when the module runs, not what only type checkers read.
    """
    found = _cython_imports(text) if name in IN_CYTHON else _python_imports(text, run)
    for module, names in found:
        head, _, rest = module.partition(".")
        if head != "fastfcgi":
            yield head
        elif rest:
            yield f"fastfcgi.{rest.partition('.')[0]}"
        else:  # from fastfcgi import X: a module X, or a name of __init__
            modules = [f"fastfcgi.{X if X in LEVEL else '__init__'}" for X in names]
            yield from modules or ["fastfcgi.__init__"]


def _uses(name: str, text: str, run: bool = False) -> list[str]:
    """The modules of the package that a module imports."""
    found = _imports(name, text, run)
    return [module.partition(".")[2] for module in found if module.startswith("fastfcgi.")]


def _outside(name: str, text: str, run: bool = False) -> set[str]:
    """What a module imports from outside the package."""
    return {module for module in _imports(name, text, run) if not module.startswith("fastfcgi.")}


def broken_rules(sources: Mapping[str, str]) -> list[str]:
    """One line for every import that is not allowed, and for every module on no floor."""
    wrong = [f"{name} is on no floor" for name in sources if name not in LEVEL]
    for name, text in sources.items():
        for other in _uses(name, text):
            if other not in LEVEL:
                wrong.append(f"{name} imports fastfcgi.{other}, which is on no floor")
            elif LEVEL[other] > LEVEL.get(name, len(FLOORS)):
                wrong.append(f"{name} imports {other}, which is above it")
        allowed = sys.stdlib_module_names | (CYTHON if name in IN_CYTHON else set())
        strangers = _outside(name, text, run=True) - allowed
        strangers |= _outside(name, text) - allowed - TYPE_CHECKERS
        wrong += [f"{name} imports {module}, not of the standard library" for module in strangers]
    return wrong


def circle(sources: Mapping[str, str]) -> list[str]:
    """Modules that import each other in a circle when they run, or an empty list."""
    uses = {name: _uses(name, text, run=True) for name, text in sources.items()}
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in uses.get(name, []):
            if found := walk(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sources if (found := walk(name, []))), [])


def test_every_import_points_down() -> None:
    sources = _sources()
    assert "_codec" in sources
    assert broken_rules(sources) == []


def test_no_imports_in_a_circle() -> None:
    assert circle(_sources()) == []


def test_every_file_is_known() -> None:
    others = {"py.typed", "_load.h"} | {
        f"{name}.{end}" for name in IN_CYTHON for end in ("pyi", "pyx")
    }
    extra = [
        path.name
        for path in _package().iterdir()
        if path.name not in others
        and path.name != "__pycache__"
        and path.suffix not in (".so", ".pyd")
        and not (path.suffix == ".py" and path.stem in LEVEL)
    ]
    assert extra == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("constants", "from fastfcgi.exceptions import X\nfrom fastfcgi._codec import Y"),
        ("connection", "def f():\n    import fastfcgi.wsgi"),
        ("connection", "from fastfcgi import wsgi"),
        ("connection", "from fastfcgi import WSGIServer"),
        ("connection", "import fastfcgi"),
        ("body", "from . import sockets"),
        ("body", "from .sockets import X"),
        ("body", "if TYPE_CHECKING:\n    from fastfcgi.server import WSGIServer"),
        ("__init__", "from fastfcgi.cli import main"),
        ("_codec", "from fastfcgi.events cimport X"),
        ("_codec", "def f():\n    from .connection import (\n        X,\n    )"),
        ("server", "import typing_extensions"),
        ("server", "try:\n    from numpy.core import x\nexcept ImportError: pass"),
        ("server", "if TYPE_CHECKING:\n    import numpy\nelse:\n    x = 1"),
        ("server", "if TYPE_CHECKING:\n    x = 1\nelse:\n    from typing_extensions import Buffer"),
        ("_codec", "cimport numpy as np"),
        ("server", "import cython"),
        ("server", "from fastfcgi.helpers import x"),
        ("helpers", "import os"),
    ],
)
def test_what_is_not_allowed_is_found(name: str, text: str) -> None:
    assert len(broken_rules({name: text})) == 1


def test_a_circle_is_found() -> None:
    sources = {"wsgi": "from .body import X", "body": "from fastfcgi import environ"}
    assert circle(sources) == []
    typed_only = "if typing.TYPE_CHECKING:\n    import fastfcgi.wsgi"
    assert circle({**sources, "environ": typed_only}) == []
    assert circle({**sources, "environ": "import fastfcgi.wsgi"}) == [
        "wsgi",
        "body",
        "environ",
        "wsgi",
    ]
