"""The table of options: each from the command line, a file and the environment, right and wrong."""

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import fastfcgi
from fastfcgi import cli, config, settings, values
from fastfcgi.config import SettingError
from fastfcgi.drop_in import DEFAULT_THREADS
from fastfcgi.limits import Limits
from fastfcgi.master_settings import MOST_WORKERS, MasterSettings
from fastfcgi.settings import OPTIONS
from fastfcgi.sockets import DEFAULT_BACKLOG

DOCS = Path(__file__).resolve().parent.parent / "docs"

# Option -> a value as text, what it is, a wrong text, and what the line says then.
SECONDS = ("2.5", 2.5, "1 s", "not a number of seconds")
BYTES = ("3M", 3 << 20, "3MB", "not a number of bytes")
NUMBER = ("7", 7, "-7", "not a number from 1")
FROM_0 = ("0", 0, "1.5", "not a number from 0")
WORKERS = ("3", 3, "2001", "more than 2000")
TEXT = ("a b", "a b", "", "not a text")
PATH = ("/x", "/x", "x", "not a path such as /ping")
MODE = ("027", 0o27, "89", "not an octal mode")
HOOK = ("a.b:c.d", "a.b:c.d", "a.b", "not MODULE:FUNCTION")
EXAMPLES: dict[str, tuple[str, Any, str, str]] = {
    "application": ("a.b:c()", "a.b:c()", "a-b", "not MODULE:APP"),
    "chdir": ("/x", "/x", "", "not a text"),
    "pythonpath": ("lib", ["lib"], "", "not a text"),
    "environ": ("A=b=c", [("A", "b=c")], "A", "not NAME=VALUE"),
    "bind": ("./s", ["./s"], "nonsense", "not an address"),
    "protocol": ("scgi", "scgi", "http", "not one of fastcgi, scgi"),
    "http": ("[::1]:80", ("::1", 80), "host", "not HOST:PORT"),
    "socket_mode": ("660", 0o660, "rw", "not an octal mode"),
    "backlog": NUMBER,
    "workers": ("12", 12, "some", "not a number from 1"),
    "threads": ("12", 12, "0", "not a number from 1"),
    "mode": ("dynamic", "dynamic", "fast", "not one of static, dynamic, ondemand"),
    **dict.fromkeys(("min_spare", "max_spare", "max_workers"), WORKERS),
    **dict.fromkeys(("post_fork", "worker_exit"), HOOK),
    "umask": MODE,
    **dict.fromkeys(("idle_timeout", "timeout", "hard_timeout"), SECONDS),
    "graceful_timeout": ("0", 0.0, "nan", "not a number of seconds"),
    **dict.fromkeys(("max_requests", "max_requests_jitter", "queue_size"), FROM_0),
    "max_memory": BYTES,
    "log_level": ("error", "error", "loud", "not one of debug, info"),
    "access_format": ("%h %%", "%h %%", "%y", "'%y'"),
    **dict.fromkeys(("ping_path", "status_path"), PATH),
    "mount": ("/a/b", "/a/b", "a", "is not a path such as /app"),
    **dict.fromkeys(("socket_owner", "socket_group", "user", "group", "pidfile", "config"), TEXT),
    **dict.fromkeys(("error_log", "access_log", "slow_log"), TEXT),
    **dict.fromkeys(("max_params_pairs", "max_requests_per_connection", "max_connections"), NUMBER),
    **{
        field.name: SECONDS if field.name.endswith("_timeout") else BYTES
        for field in fields(Limits)
        if field.name not in ("graceful_timeout", "queue_size", "max_params_pairs")
        and field.name not in ("max_requests_per_connection", "max_connections")
    },
}
SWITCHES = ["no_path", "debug", "preload", "reload", "check"]
# What is typed only, and what only the other two places can name.
TYPED_ONLY = ["check"]
NO_KEY = [*TYPED_ONLY, "config"]


def typed(*arguments: str) -> dict[str, Any]:
    return vars(cli._parser().parse_args(["serve", *arguments]))


def read(
    arguments: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    folder: str = "/start",
) -> config.Settings:
    return config.read(arguments or {}, environ or {}, folder)


def in_file(folder: Path, text: str) -> config.Settings:
    (folder / "site.toml").write_text(text, encoding="utf-8")
    return config.read({"config": "site.toml"}, {}, str(folder))


def arguments_for(name: str, text: str) -> list[str]:
    return [text] if name == "application" else [f"{OPTIONS[name].typed}={text}"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- every option -----------------------------------------------------------------------------


def test_every_option_has_an_example() -> None:
    assert {*EXAMPLES, *SWITCHES} == set(OPTIONS)
    assert {field.name for field in fields(Limits)} <= set(OPTIONS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_same_value_from_everywhere(name: str, folder: Path) -> None:
    text, value, _, _ = EXAMPLES[name]
    option = OPTIONS[name]
    if name == "config":
        Path("a b").touch()
    found = read(typed(*arguments_for(name, text)), folder=str(folder))
    assert getattr(found, name) == value
    assert list(found.given(*OPTIONS)) == [name]
    assert getattr(read(environ={option.variable: text}, folder=str(folder)), name) == value
    if name not in NO_KEY:
        for key in (option.key, name):
            quoted = f'"{text}"' if not option.repeat else f'["{text}"]'
            assert getattr(in_file(folder, f"{key} = {quoted}"), name) == value


@pytest.mark.parametrize("name", [n for n, e in EXAMPLES.items() if isinstance(e[1], (int, float))])
def test_numbers_in_a_file(name: str, folder: Path) -> None:
    value = EXAMPLES[name][1]
    if OPTIONS[name].parse is values.octal:
        # 0o660 would come as 432, which is an octal number, too.
        for number in ("660", "0o660"):
            with pytest.raises(SettingError, match=f"{OPTIONS[name].key} = "):
                in_file(folder, f"{name} = {number}")
    else:
        number = str(value)
        assert getattr(in_file(folder, f"{name} = {number}"), name) == value


@pytest.mark.parametrize("name", SWITCHES)
def test_switches(name: str, folder: Path) -> None:
    option = OPTIONS[name]
    back = "--path" if name == "no_path" else f"--no-{option.key}"
    assert getattr(read(typed(option.typed)), name) is True
    assert getattr(read(typed(option.typed, back)), name) is False
    assert getattr(read(), name) is False
    if name in TYPED_ONLY:
        with pytest.raises(SettingError, match=f"{option.variable} in the environment: unknown"):
            read(environ={option.variable: "1"})
        return
    for text, value in {"1": True, "Yes": True, "on": True, "false": False, "0": False}.items():
        assert getattr(read(environ={option.variable: text}), name) is value
    assert getattr(in_file(folder, f"{option.key} = true"), name) is True
    assert getattr(read(typed(back), {option.variable: "1"}), name) is False


@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in NO_KEY])
def test_a_wrong_value(name: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One line that names the place, and exit status 2."""
    option = OPTIONS[name]
    wrong, said = ("maybe", "not true or false")
    if name in EXAMPLES:
        _, _, wrong, said = EXAMPLES[name]
        with pytest.raises(SystemExit) as ended:
            cli.main(["serve", *arguments_for(name, wrong)])
        assert ended.value.code == 2
        line = capfd.readouterr().err
        assert re.fullmatch(r"fastfcgi: error: argument [^\n]+ shows the options\)\n", line), line
        assert option.metavar in line if name == "application" else option.typed in line
        assert said in line
    (folder / "bad.toml").write_text(f"{option.key} = '{wrong}'")
    assert cli.main(["serve", "--config=bad.toml"]) == 2
    line = capfd.readouterr().err
    assert re.fullmatch(rf"fastfcgi: error: \S*bad.toml: {option.key}: [^\n]+\n", line), line
    assert said in line
    if wrong:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(option.variable, wrong)
            assert cli.main(["serve", "webapp"]) == 2
        line = capfd.readouterr().err
        assert re.fullmatch(rf"fastfcgi: error: {option.variable}: [^\n]+\n", line), line
        assert said in line


@pytest.mark.parametrize("name", OPTIONS)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole, with its default, and a percent sign as it is."""
    with pytest.raises(SystemExit):
        cli.main(["serve", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    option = OPTIONS[name]
    text = option.help + (f"; default: {option.default}" if option.default else "")
    assert f"{option.metavar or option.typed} {text}" in shown
    assert len(option.help) < 100 and "\n" not in option.help and not option.help.endswith(".")


# ---- defaults ---------------------------------------------------------------------------------


def test_defaults_are_those_of_the_code() -> None:
    found = read()
    for field in fields(Limits):
        assert getattr(found, field.name) == field.default, field.name
    assert (found.threads, found.backlog) == (DEFAULT_THREADS, DEFAULT_BACKLOG)
    for field in fields(MasterSettings):
        # 0 is "no limit" there; addresses and options of sockets are made of several.
        if field.name in OPTIONS and field.name != "bind":
            value = getattr(found, field.name)
            assert (value or field.default) == field.default, field.name
    assert values.MODES == MasterSettings.__init__.__globals__["MODES"]
    with pytest.raises(fastfcgi.ConfigurationError, match="more than"):
        values.processes(str(MOST_WORKERS + 1))
    assert values.processes(str(MOST_WORKERS)) == MOST_WORKERS


def test_the_least_of_limits() -> None:
    """What Limits refuses is refused before."""
    for field in fields(Limits):
        parse = OPTIONS[field.name].parse
        if field.name in ("queue_size", "graceful_timeout"):
            assert parse("0") == 0
        else:
            with pytest.raises(fastfcgi.ConfigurationError):
                parse("0")


def test_no_other_attributes() -> None:
    with pytest.raises(AttributeError, match="no option"):
        _ = read().thread


# ---- values -----------------------------------------------------------------------------------


def test_auto_is_the_number_of_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(values, "_CPU_QUOTA", str(quota))
    monkeypatch.setattr(values.os, "sched_getaffinity", lambda pid: range(6), raising=False)
    assert values.workers("auto") == 6
    for text, cpus in (("max 100000", 6), ("250000 100000", 3), ("100 100000", 1), ("x", 6)):
        quota.write_text(text)
        assert values.workers("auto") == cpus
    monkeypatch.delattr(values.os, "sched_getaffinity")
    monkeypatch.setattr(values.os, "cpu_count", lambda: None)
    assert values.workers("auto") == 1


@pytest.mark.parametrize("number", [1, 1023, 1024, 1536, 1 << 20, 3 << 30, 1 << 40])
def test_sizes_there_and_back(number: int) -> None:
    assert values.size(values.as_size(number)) == number


# ---- documentation and imports ----------------------------------------------------------------


def test_documentation() -> None:
    """docs/options.md has the tables that settings.docs_table() makes."""
    page = DOCS / "options.md"
    if not page.exists():
        pytest.skip("the documentation is not here")
    assert settings.docs_table() in page.read_text()


def test_every_variable_is_documented() -> None:
    page = DOCS / "configuration.md"
    if not page.exists():
        pytest.skip("the documentation is not here")
    for name in re.findall("FASTFCGI_[A-Z_]+", page.read_text()):
        assert name in {option.variable for option in OPTIONS.values()}


def test_examples_of_the_documentation(folder: Path) -> None:
    """What configuration.md shows in TOML is taken."""
    page = DOCS / "configuration.md"
    if not page.exists():
        pytest.skip("the documentation is not here")
    found = re.findall(r"^```toml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    for text in found:
        assert in_file(folder, text).given(*OPTIONS)


def test_little_is_imported_by_the_command_line() -> None:
    heavy = [
        "http.server",
        "ssl",
        "tomllib",
        "subprocess",
        "json",
        "rich",
        "fastfcgi.load",
    ]
    heavy += ["fastfcgi.serve", "fastfcgi.http_front", "fastfcgi.bench", "fastfcgi.master"]
    code = f"import fastfcgi.cli, sys; print(*[n for n in {heavy} if n in sys.modules])"
    folder = str(Path(fastfcgi.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {folder!r}); {code}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout.split(), done.stderr) == ([], "")
