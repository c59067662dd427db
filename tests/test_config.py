"""Settings from three places: which goes before, what contradicts itself, what is wrong where."""

import re
import sys
import types
from pathlib import Path

import pytest
from test_settings import folder as folder  # a fixture
from test_settings import in_file, read, typed

from fastfcgi import cli, config
from fastfcgi.config import SettingError
from fastfcgi.settings import OPTIONS

# ---- together ---------------------------------------------------------------------------------


def test_priorities(folder: Path) -> None:
    (folder / "site.toml").write_text('threads = 1\nbacklog = 1\nmode = "ondemand"\nbind = ["./a"]')
    environ = {"FASTFCGI_CONFIG": "site.toml", "FASTFCGI_THREADS": "2", "FASTFCGI_BACKLOG": "2"}
    found = read(typed("--threads=3", "--bind=./b", "--bind=./c"), environ, str(folder))
    assert (found.threads, found.backlog, found.mode) == (3, 2, "ondemand")
    assert found.bind == ["./b", "./c"]  # in the place of the file's, not beside them
    assert found.where("threads") == "--threads"
    assert found.where("backlog") == "FASTFCGI_BACKLOG"
    assert found.where("mode") == f"{folder}/site.toml: mode"
    (folder / "other.toml").touch()
    assert read(typed("--config=other.toml"), environ, str(folder)).mode == "static"


def test_lists(folder: Path) -> None:
    wanted = ["/a b/s", ":9000"]
    assert read(typed("--bind=/a b/s", "--bind=:9000")).bind == wanted
    assert read(environ={"FASTFCGI_BIND": "'/a b/s' :9000"}).bind == wanted
    assert in_file(folder, "bind = ['/a b/s', ':9000']").bind == wanted
    assert in_file(folder, "bind = ':9000'").bind == [":9000"]
    with pytest.raises(SettingError, match="FASTFCGI_BIND: No closing quotation"):
        read(environ={"FASTFCGI_BIND": "'a"})
    with pytest.raises(SettingError, match="threads: one value, not a list"):
        in_file(folder, "threads = [1]")


def test_kinds_of_values_in_a_file(folder: Path) -> None:
    assert in_file(folder, "user = 33").user == "33"
    for text in ("chdir = true", "threads = true", "user = 1979-05-27", "bind = [['./s']]"):
        with pytest.raises(SettingError, match="has to be in quotes"):
            in_file(folder, text)


def test_environ_in_a_file(folder: Path) -> None:
    wanted = [("SCRIPT_NAME", "/app"), ("x.y", "a=b c")]
    table = '[environ]\nSCRIPT_NAME = "/app"\n"x.y" = "a=b c"'
    assert in_file(folder, table).environ == wanted
    assert in_file(folder, 'environ = ["SCRIPT_NAME=/app", "x.y=a=b c"]').environ == wanted
    assert read(environ={"FASTFCGI_ENVIRON": "SCRIPT_NAME=/app 'x.y=a=b c'"}).environ == wanted


def test_empty_variables_are_none() -> None:
    assert not read(environ={"FASTFCGI_THREADS": "", "FASTFCGI_BIND": ""}).given(*OPTIONS)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("min-spare = 4", "min-spare: min-spare 4 is more than max-spare 3"),
        ("max-spare = 11", "max-spare: max-spare 11 is more than max-workers 10"),
        ("max-workers = 2", "max-workers: max-spare 3 is more than max-workers 2"),
        ("workers = 11", "workers: 11 is more than max-workers 10"),
        ("preload = true\nreload = true", "reload: cannot be together with preload"),
        ("timeout = 9\nhard-timeout = 9", "hard-timeout: not longer than timeout, 9"),
    ],
)
def test_what_contradicts_itself(given: str, said: str, folder: Path) -> None:
    with pytest.raises(SettingError, match=re.escape(f"{folder}/site.toml: {said}")):
        in_file(folder, f"mode = 'dynamic'\n{given}")
    if "spare" in given or "workers" in given:
        in_file(folder, given)  # static: it has no effect


def test_what_has_no_effect(folder: Path) -> None:
    given = "min-spare=1\nmax-spare=1\nmax-workers=1\nidle-timeout=1\nmax-requests-jitter=1\n"
    given += "access-format='%h'\nslow-log='x'\n"
    useful = "mode='dynamic'\nmax-requests=1\naccess-log='-'\ntimeout=1\n"
    assert config.without_effect(in_file(folder, given + useful)) == []
    said = config.without_effect(in_file(folder, given))
    assert len(said) == 7
    assert said[0] == f"{folder}/site.toml: min-spare has no effect: mode is not dynamic"
    assert len(config.without_effect(in_file(folder, given + "mode='ondemand'"))) == 5
    assert config.without_effect(read()) == []


@pytest.mark.parametrize(
    ("arguments", "master"),
    [
        ([], False),
        (["--threads=2", "--timeout=1", "--umask=022", "--status-path=/s", "--min-spare=1"], False),
        (["--mode=static", "--max-requests=0", "--no-preload"], False),
        (["--workers=1"], True),
        *(
            ([option], True)
            for option in [
                *("--mode=ondemand", "--user=x", "--group=x", "--pidfile=x", "--preload"),
                *("--post-fork=a:b", "--worker-exit=a:b", "--reload", "--max-requests=1"),
                *("--max-memory=1G", "--hard-timeout=1"),
            ]
        ),
    ],
)
def test_who_wants_a_master(arguments: list[str], master: bool) -> None:
    assert read(typed(*arguments)).wants_master is master


# ---- names that do not exist ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("treads = 1", "unknown key 'treads'; did you mean threads?"),
        ("min_spares = 1", "unknown key 'min_spares'; did you mean min-spare?"),
        ("zzz = 1", "unknown key 'zzz'"),
        ("config = 'x'", "unknown key 'config'"),
        ("check = true", "unknown key 'check'"),
        ("[serve]\nthreads = 1", "unknown table 'serve'"),
        ("min-spare = 1\nmin_spare = 1", "min-spare stands there twice"),
    ],
)
def test_unknown_keys(text: str, said: str, folder: Path) -> None:
    with pytest.raises(SettingError, match=re.escape(f"{folder}/site.toml: {said}")):
        in_file(folder, text)


def test_unknown_variables() -> None:
    said = "FASTFCGI_TREADS in the environment: unknown; did you mean FASTFCGI_THREADS?"
    with pytest.raises(SettingError, match=re.escape(said)):
        read(environ={"FASTFCGI_TREADS": ""})


def test_what_kubernetes_sets_is_no_option() -> None:
    service = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_FCGI", "PORT", "PORT_9000_TCP"]
    service += ["PORT_9000_TCP_PROTO", "PORT_9000_TCP_PORT", "PORT_9000_TCP_ADDR"]
    assert not read(environ={f"FASTFCGI_{name}": "x" for name in service}).given(*OPTIONS)
    with pytest.raises(SettingError):
        read(environ={"FASTFCGI_PORTS": "x"})


def test_unknown_options(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["serve", "--treads=1"], "--treads=1; did you mean --threads? (fastfcgi serve --help"),
        (["bench", "./s", "--conections", "1"], "did you mean --connections? (fastfcgi bench"),
        (["serve", "x", "y"], "unrecognized arguments: y (fastfcgi serve"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        line = capsys.readouterr().err
        assert ended.value.code == 2 and line.count("\n") == 1
        assert said in line


# ---- the file ---------------------------------------------------------------------------------


def test_a_file_that_is_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.toml").write_bytes(b"threads = ?")
    assert cli.main(["serve", "--config", "bad.toml"]) == 2
    assert re.fullmatch(
        rf"fastfcgi: error: {folder}/bad.toml: Invalid value [^\n]+\n", capsys.readouterr().err
    )
    (folder / "bad.toml").write_bytes(b"chdir = '\xff'")
    assert cli.main(["serve", "--config", "bad.toml"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    (folder / "bad.toml").write_bytes(b"threads = 0x" + b"f" * 10_000)
    assert cli.main(["serve", "--config", "bad.toml"]) == 2
    assert capsys.readouterr().err.endswith("threads: too large\n")
    (folder / "bad.toml").write_bytes(b"a=" + b"[" * 100_000)
    assert cli.main(["serve", "--config", "bad.toml"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert cli.main(["serve", "--config", "missing.toml"]) == 1
    assert "missing.toml: No such file" in capsys.readouterr().err


def test_before_python_3_11(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tomllib = pytest.importorskip("tomllib")
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", None)
    with pytest.raises(SettingError, match=r"pip install 'fastfcgi\[toml\]'"):
        in_file(folder, "threads = 1")
    monkeypatch.setitem(sys.modules, "tomli", types.SimpleNamespace(loads=tomllib.loads))
    assert in_file(folder, "threads = 1").threads == 1


def test_where_relative_paths_begin(folder: Path) -> None:
    (folder / "etc").mkdir()
    (folder / "etc" / "site.toml").write_text("chdir = '../lib'\nbind = './s'")
    found = read(typed("--config=etc/site.toml"), folder=str(folder))
    assert found.chdir == f"{folder}/etc/../lib"
    assert found.bind == ["./s"]  # to chdir, as everything else
    found = read(typed("--config=etc/site.toml", "--chdir=x"), folder=str(folder))
    assert found.chdir == f"{folder}/x"
    assert read(environ={"FASTFCGI_CHDIR": "x"}, folder=str(folder)).chdir == f"{folder}/x"


# ---- secrets ----------------------------------------------------------------------------------


def test_secrets_are_not_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = "hunter2"
    for wrong in (secret, f"A B={secret}", f"={secret}", f"A={secret}\0"):
        with pytest.raises(SystemExit):
            cli.main(["serve", f"--environ={wrong}"])
        assert secret not in capsys.readouterr().err
        with pytest.raises(SettingError) as raised:
            read(environ={"FASTFCGI_ENVIRON": f"'{wrong}'"})
        assert secret not in str(raised.value)
    for text in (f"environ = '{secret}'", f"[environ]\nA = ['{secret}']"):
        with pytest.raises(SettingError) as raised:
            in_file(folder, text)
        assert secret not in str(raised.value)
    found = read(typed(f"--environ=A={secret}"))
    assert repr(found) == "<Settings: environ>"
    assert found.environ == [("A", secret)]
