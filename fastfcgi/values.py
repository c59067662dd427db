"""What the text of an option means, whether it was typed, in a file or in the environment.

Each function takes the text and returns the value, or raises ConfigurationError with one line that
says what was expected. These lines show the text, so a text that may be secret is not shown.
"""

import math
import os
import re
from collections.abc import Callable
from typing import Any, Final

from fastfcgi.environ import checked_mount
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.sockets import parse_address

Parser = Callable[[str], Any]

DEFAULT_HTTP: Final = ("127.0.0.1", 8000)
LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical")
MODES: Final = ("static", "dynamic", "ondemand")

# More than this is a slip of the finger, and less than what C's long takes.
_MOST_BYTES: Final = 1 << 50
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

_NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_TARGET = re.compile(rf"(?P<module>{_NAME})(:(?P<name>{_NAME})(?P<call>\(\))?)?\Z")
_HOOK = re.compile(rf"{_NAME}:{_NAME}\Z")

_CPU_QUOTA: Final = "/sys/fs/cgroup/cpu.max"


def target(text: str) -> str:
    """MODULE, MODULE:APP or MODULE:FACTORY()."""
    if _TARGET.match(text) is None:
        raise ConfigurationError(f"not MODULE:APP: {text!r}")
    return text


def parts_of(text: str) -> tuple[str, str | None, bool]:
    """Module, name (dotted, or None) and whether the name is to be called, of a target()."""
    found = _TARGET.match(text)
    assert found is not None
    return found["module"], found["name"], found["call"] is not None


def hook(text: str) -> str:
    """MODULE:FUNCTION."""
    if _HOOK.match(text) is None:
        raise ConfigurationError(f"not MODULE:FUNCTION: {text!r}")
    return text


def string(text: str) -> str:
    """Any text but none."""
    if not text or "\0" in text:
        raise ConfigurationError(f"not a text: {text!r}")
    return text


def address(text: str) -> str:
    """What --bind takes."""
    parse_address(text)
    return text


def host_port(text: str) -> tuple[str, int]:
    """HOST:PORT or PORT."""
    found = re.fullmatch(r"(?:(?:\[([0-9A-Fa-f:.%\w]+)\]|([^:\[\]]*)):)?([0-9]{1,5})", text)
    if found is None or int(found[3]) > 65535:
        raise ConfigurationError(f"not HOST:PORT: {text!r}")
    return (found[1] or found[2] or DEFAULT_HTTP[0], int(found[3]))


def octal(text: str) -> int:
    """A mode of three or four octal digits."""
    if not re.fullmatch("(0o?)?[0-7]{3,4}", text):
        raise ConfigurationError(f"not an octal mode such as 660: {text!r}")
    return int(text, 8)


def count(least: int, most: int = 999_999_999) -> Parser:
    """A whole number between these."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or int(text) < least:
            raise ConfigurationError(f"not a number from {least}: {text!r}")
        if int(text) > most:
            raise ConfigurationError(f"more than {most}: {text!r}")
        return int(text)

    return parse


def workers(text: str) -> int:
    """A number of processes; "auto" is the number of CPUs that this process may use."""
    return usable_cpus() if text == "auto" else int(processes(text))


# All of them cost at least a process; more than this is a mistake in typing.
processes: Final = count(1, 2000)


def usable_cpus() -> int:
    """The CPUs that the process may use: its affinity, and a container's share of them."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cpus = os.cpu_count() or 1
    try:
        with open(_CPU_QUOTA, encoding="ascii") as file:
            quota, period = file.read().split()
        cpus = min(cpus, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        pass  # no such file, or "max" in it
    return max(1, cpus)


def seconds(text: str) -> float:
    """A time, from 1 ms."""
    if _time(text) < 0.001:
        raise ConfigurationError(f"not a number of seconds from 0.001: {text!r}")
    return float(text)


def seconds_or_none(text: str) -> float:
    """A time; 0 is one."""
    return _time(text)


def _time(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", text):
        raise ConfigurationError(f"not a number of seconds: {text!r}")
    return float(text)


def size(text: str) -> int:
    """A number of bytes from 1; K, M and G are 1024 and its powers."""
    found = re.fullmatch("([0-9]{1,16})([KMG]?)", text)
    number = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < number <= _MOST_BYTES:
        raise ConfigurationError(f"not a number of bytes such as 65536, 64K or 1G: {text!r}")
    return number


def choice(*names: str) -> Parser:
    """One of these."""

    def parse(text: str) -> str:
        if text not in names:
            raise ConfigurationError(f"not one of {', '.join(names)}: {text!r}")
        return text

    return parse


def flag(text: str) -> bool:
    """Yes or no, as it is written in the environment."""
    word = text.lower()
    if word not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        raise ConfigurationError(f"not true or false: {text!r}")
    return word in ("1", "true", "yes", "on")


def url_path(text: str) -> str:
    """A path that requests ask for."""
    if not re.fullmatch("/[!-~]*", text) or "?" in text or "#" in text:
        raise ConfigurationError(f"not a path such as /ping: {text!r}")
    return text


def mount(text: str) -> str:
    """What WSGIServer takes as mount."""
    checked_mount(text)
    return text


def environ_pair(text: str) -> tuple[str, str]:
    """NAME=VALUE; an error does not show it, because values may be secret."""
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch("[!-~]+", name):
        raise ConfigurationError("not NAME=VALUE (not shown, it may be secret)")
    if "\0" in value:
        raise ConfigurationError(f"a NUL in the value of {name}")
    return name, value


def access_format(text: str) -> str:
    """What access_log.compile_format takes."""
    from fastfcgi.access_log import compile_format  # seldom needed

    compile_format(text)
    return text


def as_size(number: int) -> str:
    """A number of bytes as size() takes it, in the largest unit that fits."""
    for unit in ("G", "M", "K"):
        if number and number % _UNITS[unit] == 0:
            return f"{number // _UNITS[unit]}{unit}"
    return str(number)
