"""The kinds of server that are compared: whether one is here, what starts it, what it is."""

import importlib.util
import json
import os
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

FCGI_KINDS = ("fastfcgi", "flup", "flipflop", "fcgisgi", "uwsgi", "floor")
HTTP_KINDS = ("bjoern", "gunicorn", "waitress")
KINDS = FCGI_KINDS + HTTP_KINDS

# They do not open the socket themselves.
INHERITING = ("flipflop", "floor")
# They answer FastCGI on new connections alone, whatever KEEP_CONN says.
NOT_KEEPING = ("uwsgi",)

# 4 KiB of params are uWSGI's default. What is not needed here is off.
UWSGI = ["--need-app", "--die-on-term", "--disable-logging", "--buffer-size=32768"]


class Missing(Exception):
    """A server or a tool is not on this machine; the message says what."""


def program_of(name: str) -> str | None:
    """The path of a program: beside Python, or on PATH."""
    folders = [os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]
    return shutil.which(name, path=os.pathsep.join([*folders, "/usr/sbin", "/usr/local/sbin"]))


def need(program: str) -> str:
    """The path of a program.

    Raises:
        Missing: It is not here.
    """
    path = program_of(program)
    if path is None:
        raise Missing(f"{program} is not installed")
    return path


def installed(kind: str) -> bool:
    """Whether that kind of server is here; the floor is where a C compiler is."""
    program = {"floor": "cc", "uwsgi": "uwsgi"}.get(kind)
    if program:
        return program_of(program) is not None
    return importlib.util.find_spec(kind) is not None


def version_of(kind: str) -> str:
    """Of the package; empty when it was not installed as one."""
    try:
        return metadata.version(kind)
    except metadata.PackageNotFoundError:
        return ""


def command_of(
    kind: str, path: str, name: str, options: dict[str, Any], python: str = sys.executable
) -> list[str]:
    """What starts that kind of server at the unix socket `path`, in the folder ROOT.

    Args:
        kind: One of KINDS but the floor, which has no options and no application.
        path: Empty when the listening socket is descriptor 0.
        name: The application's MODULE:NAME.
        options: Arguments by their names, as the server calls them; True is an option that
            stands alone.
        python: The interpreter, of the kinds that are one.
    """
    if kind == "uwsgi":
        here = [f"--virtualenv={sys.prefix}", f"--pythonpath={ROOT}", f"--module={name}"]
        return [need(kind), f"--fastcgi-socket={path}", *here, *UWSGI, *_flags(options)]
    if kind == "gunicorn":
        return [python, "-m", kind, f"--bind=unix:{path}", *_flags(options), name]
    return [python, "-m", "bench.serve", kind, name, path, json.dumps(options)]


def _flags(options: dict[str, Any]) -> list[str]:
    return [
        f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()
    ]


def backlog() -> int:
    """Connections that the kernel lets wait at most; uWSGI does not start with more."""
    return int(Path("/proc/sys/net/core/somaxconn").read_text())
