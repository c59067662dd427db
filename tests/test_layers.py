"""Imports in fastfcgi/ point down: to floors below and the standard library, to nothing else."""

import ast
import importlib.util
import itertools
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

# From the bottom up. Modules of one floor may use each other, but not in a circle.
FLOORS = {
    "ground": ["constants", "exceptions"],
    "codec": ["_pairs", "_shapes", "_params", "_codec", "_scgi"],
    "core": [
        *["events", "states", "active_request", "connection_settings", "endpoint", "connection"],
        "scgi_connection",
    ],
    "gateway": ["environ", "body", "head", "file_wrapper", "exchange", "wsgi"],
    "server": [
        *["board", "reports", "limits", "listen_errors", "sockets", "handoff", "poller", "scores"],
        *["handler", "loop", "desk", "engine"],
        *["outbox", "service", "line", "timeouts", "log_ids", "request", "channel"],
        *["scgi_channel", "acceptor"],
        *["cgi", "drop_in"],
        *["status", "pages", "slow_watch", "hooks", "server"],
    ],
    "operations": [
        *["log_files", "access_log", "slow_log", "values", "settings", "config", "signals"],
        *["notify", "privileges", "pidfile", "policy", "master_settings", "scoreboard", "crew"],
        *["overseer", "reloader", "orders", "worker", "guard", "holdings", "reexec", "estate"],
        "master",
        *["prefork", "single"],
    ],
    "front door": ["__init__"],
    "tools": [
        *["request_body", "client", "_load_answer", "_load_lane", "_load_loop", "_load", "load"],
        *["http_front", "demo", "bench", "ask", "top", "loading", "assembly", "dev_front"],
        *["under_master", "check", "serve"],
        *["findings", "probe", "socket_access", "doctor_address", "doctor_http", "doctor_serve"],
        *["doctor_advice", "doctor_visit", "doctor_paths", "doctor_requests", "doctor_bodies"],
        *["doctor_responses", "doctor_reach", "doctor"],
        *["site", "site_nginx", "site_lighttpd", "site_lighttpd2", "site_apache", "site_haproxy"],
        *["site_caddy", "site_h2o", "site_process", "site_command"],
        *["streams", "cli", "__main__"],
    ],
    "flup's names": [
        *["flup._version", "flup.server", "flup.server.threadpool", "flup.server.threadedserver"],
        *["flup.server.singleserver", "flup.server.record", "flup.server.blocking"],
        *["flup.server.common", "flup.server.fcgi_base", "flup.server.fcgi"],
        *["flup.server.fcgi_fork", "flup.server.fcgi_single", "flup.server.scgi_base"],
        *["flup.server.scgi", "flup.server.scgi_fork", "flup.server.cgi"],
        *["flup.server.paste_factory", "flup.client", "flup.client.forwarding"],
        *["flup.client.fcgi_app", "flup.client.scgi_app", "flup", "flup.__main__"],
    ],
}
LEVEL = {name: level for level, names in enumerate(FLOORS.values()) for name in names}

# A file that is part of a module of another name; and what the system offers to C, which is no
# module when it runs.
PARTS = {"_load.h": "_load_loop"}
DECLARATIONS = ("_sys.pxd", "_sys.h")
LEVEL["_sys"] = LEVEL["poller"]

# What Cython brings along at compile time, for modules in Cython; nothing of it is imported when
# the module runs.
CYTHON = {"cython", "cpython", "libc"}

# Of an extra of pyproject.toml; the module says so where it is missing.
EXTRAS = {"top.py": {"rich"}}

# Known to type checkers; allowed where only they look, under TYPE_CHECKING.
TYPE_CHECKERS = {"_typeshed", "typing_extensions"}


def _package() -> Path:
    """The folder of fastfcgi as it is imported here, without importing it."""
    spec = importlib.util.find_spec("fastfcgi")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def _files() -> dict[str, Path]:
    """Every file of the package and its sub-packages, by its path there."""
    found = [path for path in _package().rglob("*") if path.is_file()]
    names = {path.relative_to(_package()).as_posix(): path for path in found}
    return {name: path for name, path in names.items() if "__pycache__" not in name}


def _sources() -> dict[str, str]:
    """File name -> source text of every .py, .pyx, .pxd and .pxi of the package."""
    kinds = (".py", ".pyx", ".pxd", ".pxi")
    files = _files().items()
    return {name: path.read_text(encoding="utf-8") for name, path in files if path.suffix in kinds}


def _in_cython(file: str) -> bool:
    return file.endswith((".pyx", ".pxd", ".pxi"))


def _module(file: str) -> str:
    """The module that a file is, or is part of; a sub-package is its own __init__."""
    name = file.rpartition(".")[0].replace("/", ".")
    return PARTS.get(file, name.removesuffix(".__init__"))


def _known(name: str) -> str:
    """The module that an import means: its longest beginning that is one."""
    parts = name.split(".")
    beginnings = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    return next((one for one in beginnings if one in LEVEL), parts[0])


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
    for match in re.finditer(r"^[ \t]*include[ \t]+(\S+)", text, re.MULTILINE):
        assert match[1].strip("\"'") in PARTS, f"not known: {match[0]}"


def _imports(file: str, text: str, run: bool = False) -> Iterator[str]:
    """Top-level modules from outside, and "fastfcgi.X" for modules of the package. What Cython
    cimports counts: its module is loaded, too, when the importing one is.

    Args:
        run: only what is imported when the module runs, not what only type checkers read.
    """
    found = _cython_imports(text) if _in_cython(file) else _python_imports(text, run)
    for module, names in found:
        head, _, rest = module.partition(".")
        if head != "fastfcgi":
            yield head
        elif rest:  # from fastfcgi.A import X: a module A.X, or a name of A
            yield from {f"fastfcgi.{_known(f'{rest}.{X}')}" for X in names or [""]}
        else:  # from fastfcgi import X: a module X, or a name of __init__
            modules = [f"fastfcgi.{X if X in LEVEL else '__init__'}" for X in names]
            yield from modules or ["fastfcgi.__init__"]


def _uses(file: str, text: str, run: bool = False) -> list[str]:
    """The modules of the package that a file imports."""
    found = _imports(file, text, run)
    return [module.partition(".")[2] for module in found if module.startswith("fastfcgi.")]


def _outside(file: str, text: str, run: bool = False) -> set[str]:
    """What a file imports from outside the package."""
    return {module for module in _imports(file, text, run) if not module.startswith("fastfcgi.")}


def broken_rules(sources: Mapping[str, str]) -> list[str]:
    """One line for every import that is not allowed, and for every module on no floor."""
    wrong = [f"{file} is on no floor" for file in sources if _module(file) not in LEVEL]
    for file, text in sources.items():
        for other in _uses(file, text):
            if other not in LEVEL:
                wrong.append(f"{file} imports fastfcgi.{other}, which is on no floor")
            elif LEVEL[other] > LEVEL.get(_module(file), len(FLOORS)):
                wrong.append(f"{file} imports {other}, which is above it")
        allowed = sys.stdlib_module_names | (CYTHON if _in_cython(file) else set())
        allowed |= EXTRAS.get(file, set())
        strangers = _outside(file, text, run=True) - allowed
        strangers |= _outside(file, text) - allowed - TYPE_CHECKERS
        wrong += [f"{file} imports {module}, not of the standard library" for module in strangers]
    return wrong


def circle(sources: Mapping[str, str]) -> list[str]:
    """Modules that import each other in a circle when they run, or an empty list."""
    uses: dict[str, list[str]] = {}
    for file, text in sources.items():
        uses.setdefault(_module(file), []).extend(_uses(file, text, run=True))
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

    return next((found for name in uses if (found := walk(name, []))), [])


def test_every_import_points_down() -> None:
    sources = _sources()
    assert {"_codec.pyx", "_codec.pxd", "connection.pyx", "connection.pxd"} <= set(sources)
    assert broken_rules(sources) == []


def test_no_imports_in_a_circle() -> None:
    assert circle(_sources()) == []


def test_every_file_is_known() -> None:
    extra = [
        name
        for name, path in _files().items()
        if name not in ("py.typed", *PARTS, *DECLARATIONS)
        and path.suffix not in (".so", ".pyd")
        and not (path.suffix in (".py", ".pyx", ".pxd", ".pyi") and _module(name) in LEVEL)
    ]
    assert extra == []


def test_a_module_is_in_python_or_in_cython() -> None:
    """One in Cython has types for its users; what it is compiled with lies beside it."""
    files = {(_module(file), path.suffix) for file, path in _files().items()}
    for name in itertools.chain(*FLOORS.values()):
        in_cython = (name, ".pyx") in files
        assert in_cython != ((name, ".py") in files), name
        assert in_cython == ((name, ".pyi") in files), name
        assert in_cython or (name, ".pxd") not in files, name


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("constants.py", "from fastfcgi.exceptions import X\nfrom fastfcgi._codec import Y"),
        ("connection.py", "def f():\n    import fastfcgi.wsgi"),
        ("connection.py", "from fastfcgi import wsgi"),
        ("connection.py", "from fastfcgi import WSGIServer"),
        ("connection.py", "import fastfcgi"),
        ("body.py", "from . import sockets"),
        ("body.py", "from .sockets import X"),
        ("body.py", "if TYPE_CHECKING:\n    from fastfcgi.server import WSGIServer"),
        ("__init__.py", "from fastfcgi.cli import main"),
        ("_codec.pyx", "from fastfcgi.events cimport X"),
        ("_codec.pyx", "def f():\n    from .connection import (\n        X,\n    )"),
        ("server.py", "import typing_extensions"),
        ("server.py", "try:\n    from numpy.core import x\nexcept ImportError: pass"),
        ("server.py", "if TYPE_CHECKING:\n    import numpy\nelse:\n    x = 1"),
        ("server.py", "if TYPE_CHECKING:\n    x = 1\nelse:\n    import typing_extensions"),
        ("_codec.pyx", "cimport numpy as np"),
        ("_codec.pxd", "from fastfcgi.connection cimport Connection"),
        ("connection.pyx", "from fastfcgi.wsgi cimport (\n    Exchange,\n    Gateway,\n)"),
        ("connection.pxd", "from fastfcgi cimport wsgi"),
        ("connection.pxd", "cimport fastfcgi.helpers"),
        ("helpers.pxd", "cimport cython"),
        ("server.py", "import cython"),
        ("server.py", "import rich"),
        ("server.py", "from fastfcgi.helpers import x"),
        ("helpers.py", "import os"),
        ("prefork.py", "from fastfcgi.flup.server import fcgi_base"),
        ("server.py", "import fastfcgi.flup.server.fcgi"),
        ("flup/server/fcgi.py", "from fastfcgi.flup.server import fcgi\nimport numpy"),
        ("flup/server/nothing.py", "import os"),
    ],
)
def test_what_is_not_allowed_is_found(file: str, text: str) -> None:
    assert len(broken_rules({file: text})) == 1


def test_a_circle_is_found() -> None:
    sources = {"wsgi.py": "from .body import X", "body.py": "from fastfcgi import environ"}
    assert circle(sources) == []
    typed_only = "if typing.TYPE_CHECKING:\n    import fastfcgi.wsgi"
    assert circle({**sources, "environ.py": typed_only}) == []
    for file, text in [
        ("environ.py", "import fastfcgi.wsgi"),
        ("environ.pxd", "from fastfcgi.wsgi cimport X"),
    ]:
        assert circle({**sources, file: text}) == ["wsgi", "body", "environ", "wsgi"]
