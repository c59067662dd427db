"""The settings of `fastfcgi serve`, from the command line, the environment and a file.

The command line goes before the environment, that before the file, and that before the defaults;
of an option that may be repeated, the whole list does. What is wrong is told in one line that
names where it stands.
"""

import difflib
import importlib
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any, Final

from fastfcgi.exceptions import ConfigurationError
from fastfcgi.settings import OPTIONS, Option
from fastfcgi.values import octal

PREFIX: Final = "FASTFCGI_"

# Variables of Kubernetes for a service that is called fastfcgi; nobody set them on purpose.
_OF_KUBERNETES = re.compile(r"FASTFCGI_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_\w+)?)\Z")


class SettingError(ConfigurationError):
    """A setting that is wrong as it stands: exit status 2."""


class Settings:
    """The value of every option, as an attribute.

    Its text shows no values, because they may be secret.
    """

    def __init__(self, given: Mapping[str, Any], where: Mapping[str, str]) -> None:
        self._given = dict(given)
        self._where = dict(where)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in OPTIONS:
            raise AttributeError(f"no option is called {name!r}")
        return self._given[name] if name in self._given else OPTIONS[name].value

    def __repr__(self) -> str:
        return f"<Settings: {', '.join(sorted(self._given))}>"

    def given(self, *names: str) -> dict[str, Any]:
        """Those of these options that somebody gave, with their values."""
        return {name: self._given[name] for name in names if name in self._given}

    def where(self, name: str) -> str:
        """How an error names it: "--threads", "FASTFCGI_THREADS", "site.toml: threads"."""
        return self._where.get(name, OPTIONS[name].typed)

    @property
    def wants_master(self) -> bool:
        """Whether any of them needs more than this process."""
        found = {name: value for name, value in self._given.items() if OPTIONS[name].master}
        if found.get("mode") == "static":
            del found["mode"]
        return any(found.values())


def read(typed: Mapping[str, Any], environ: Mapping[str, str], folder: str) -> Settings:
    """The settings from all three places.

    The file and a chdir are looked for in the folder where the command was started, a chdir in
    the file where that file is. All other paths are left as they are: they are relative to chdir.

    Args:
        typed: What the command line gives, by the names of options; None is not given.
        environ: The environment.
        folder: The working directory at the start; later there may be another one.

    Raises:
        SettingError: Something in them is wrong.
        OSError: The file cannot be read.
    """
    said = from_environment(environ)
    typed = {name: typed[name] for name in OPTIONS if typed.get(name) is not None}
    layers = [("", "variable", folder, said), ("", "typed", folder, typed)]
    path = typed.get("config", said.get("config"))
    if path is not None:
        path = os.path.join(folder, path)
        layers.insert(0, (f"{path}: ", "key", os.path.dirname(path), from_file(path)))
    given: dict[str, Any] = {}
    where: dict[str, str] = {}
    for prefix, called, place, found in layers:
        for name, value in found.items():
            given[name] = os.path.join(place, value) if name == "chdir" else value
            where[name] = prefix + getattr(OPTIONS[name], called)
    settings = Settings(given, where)
    _check_together(settings)
    return settings


# ---- the environment --------------------------------------------------------------------------


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """The options that FASTFCGI_... names; an empty value is none.

    Those that may be repeated are words as in a shell.

    Raises:
        SettingError: A name that no option has, or a wrong value.
    """
    known = {o.variable: o for o in OPTIONS.values() if not o.typed_only}
    found = {}
    for name, text in sorted(environ.items()):
        if not name.startswith(PREFIX) or _OF_KUBERNETES.match(name):
            continue
        if name not in known:
            raise SettingError(f"{name} in the environment: unknown{nearest(name, known)}")
        option = known[name]
        if text:
            texts = _words(text, name) if option.repeat else [text]
            found[option.name] = _parsed(option, texts, name)
    return found


def _words(text: str, where: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise SettingError(f"{where}: {error}") from None


# ---- the file ---------------------------------------------------------------------------------


def from_file(path: str) -> dict[str, Any]:
    """The options that a TOML file names, with dashes or underscores.

    Raises:
        SettingError: It is no TOML, a key that no option has, or a wrong value.
        OSError: It cannot be read.
    """
    toml = _toml_parser()
    try:
        with open(path, encoding="utf-8") as opened:
            content = toml.loads(opened.read())
    except (ValueError, RecursionError) as error:  # of which TOMLDecodeError is one
        raise SettingError(f"{path}: {error}") from None
    known = {o.key: o for o in OPTIONS.values() if not o.typed_only and o.name != "config"}
    found: dict[str, Any] = {}
    for key, value in content.items():
        option = known.get(key.replace("_", "-"))
        if option is None:
            kind = "table" if isinstance(value, dict) else "key"
            raise SettingError(f"{path}: unknown {kind} {key!r}{nearest(key, known)}")
        if option.name in found:
            raise SettingError(f"{path}: {option.key} stands there twice")
        found[option.name] = _from_toml(option, value, f"{path}: {key}")
    return found


def _toml_parser() -> Any:
    """A module with loads()."""
    for name in ("tomllib", "tomli"):  # the first is there from Python 3.11 on
        try:
            return importlib.import_module(name)
        except ImportError:
            pass
    raise SettingError(
        "--config needs the package tomli before Python 3.11: pip install 'fastfcgi[toml]'"
    )


def _from_toml(option: Option, value: Any, where: str) -> Any:
    if option.metavar is None:
        if not isinstance(value, bool):
            raise SettingError(f"{where}: not true or false")
        return value
    if option.name == "environ" and isinstance(value, dict):
        value = [f"{name}={_toml_text(option, text, where)}" for name, text in value.items()]
    if not option.repeat and isinstance(value, list):
        raise SettingError(f"{where}: one value, not a list")
    listed = value if isinstance(value, list) else [value]
    return _parsed(option, [_toml_text(option, one, where) for one in listed], where)


def _toml_text(option: Option, value: Any, where: str) -> str:
    """As it would be typed."""
    if isinstance(value, str):
        return value
    # 0o660 in TOML is 432, and 660 is 660: which one is meant cannot be told.
    numeric = option.name != "environ" and option.parse is not octal
    if isinstance(value, int) and abs(value) >= 1 << 63:  # some cannot even be shown
        raise SettingError(f"{where}: too large")
    if numeric and isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:f}".rstrip("0") if isinstance(value, float) else str(value)
    raise SettingError(f'{where}: has to be in quotes, as in {option.key} = "..."')


def _parsed(option: Option, texts: Iterable[str], where: str) -> Any:
    try:
        found = [option.parse(text) for text in texts]
    except ConfigurationError as error:
        raise SettingError(f"{where}: {error}") from None
    return found if option.repeat else found[0]


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: which one was meant, perhaps."""
    close = difflib.get_close_matches(name.replace("_", "-") if name.islower() else name, known, 1)
    return f"; did you mean {close[0]}?" if close else ""


# ---- together ---------------------------------------------------------------------------------


def _check_together(settings: Settings) -> None:
    """What is right by itself and wrong beside something else."""

    def refuse(name: str, text: str) -> None:
        raise SettingError(f"{settings.where(name)}: {text}")

    if settings.mode == "dynamic":
        for name, more in (("min_spare", "max_spare"), ("max_spare", "max_workers")):
            low, high = getattr(settings, name), getattr(settings, more)
            if low > high:
                wrong = name if settings.given(name) else more
                refuse(wrong, f"{OPTIONS[name].key} {low} is more than {OPTIONS[more].key} {high}")
    if settings.mode == "dynamic" and settings.workers > settings.max_workers:
        refuse("workers", f"{settings.workers} is more than max-workers {settings.max_workers}")
    if settings.mount is not None and {"SCRIPT_NAME", "PATH_INFO"} & dict(settings.environ).keys():
        refuse("mount", "cannot be together with environ SCRIPT_NAME or PATH_INFO, which it sets")
    if settings.http and settings.protocol != "fastcgi":
        refuse("http", f"speaks FastCGI, and cannot be together with protocol {settings.protocol}")
    if settings.reload and settings.preload:
        refuse("reload", "cannot be together with preload, which loads the application but once")
    if settings.given("hard_timeout", "timeout").keys() == {"hard_timeout", "timeout"}:
        if settings.hard_timeout <= settings.timeout:
            refuse("hard_timeout", f"not longer than timeout, {settings.timeout:g}")


def without_effect(settings: Settings) -> list[str]:
    """One line for each setting that another one makes useless; they harm nobody."""
    mode = settings.mode
    needs = {
        "min_spare": (mode == "dynamic", "mode is not dynamic"),
        "max_spare": (mode == "dynamic", "mode is not dynamic"),
        "max_workers": (mode != "static", "mode is static"),
        "idle_timeout": (mode != "static", "mode is static"),
        "max_requests_jitter": (settings.max_requests, "there is no max-requests"),
        "access_format": (settings.access_log, "there is no access-log"),
        "slow_log": (settings.timeout, "there is no timeout"),
    }
    return [
        f"{settings.where(name)} has no effect: {reason}"
        for name, (useful, reason) in needs.items()
        if settings.given(name) and not useful
    ]
