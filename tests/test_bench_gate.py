"""bench/gate.py: it fails for what is slower and lets pass what is not."""

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_layers

if sys.platform != "linux":
    pytest.skip("needs Linux, as all tests with real processes", allow_module_level=True)

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "bench" / "gate.py").exists():
    pytest.skip("the benchmarks are not here", allow_module_level=True)
sys.path.append(str(ROOT))

from processes import require  # noqa: E402

from bench import gate, gate_trees, instructions  # noqa: E402
from bench import gate_verdict as verdict  # noqa: E402

TIMEOUT = 600


def noisy(seed: int, middle: float, noise: float, turns: int = 5) -> list[float]:
    """Figures of so many turns, spread evenly by so large a part."""
    draw = random.Random(seed)
    return [middle * (1 + draw.uniform(-noise, noise)) for _ in range(turns)]


# ---- bands and verdicts -----------------------------------------------------------------------


def test_band_of_quiet_figures_is_the_floor() -> None:
    assert verdict.noise_band([1.0] * 5, [2.0] * 5) == 0.05
    assert verdict.noise_band([1.0] * 5, [2.0] * 5, floor=0.2) == 0.2


@pytest.mark.parametrize("side", [0, 1])
def test_band_grows_with_the_noise_of_either_side(side: int) -> None:
    bands = []
    for noise in (0.05, 0.2, 0.5):
        sides = [[1.0] * 5, [1.0] * 5]
        sides[side] = noisy(1, 1.0, noise)
        bands.append(verdict.noise_band(*sides, floor=0))
    assert bands == sorted(bands)
    assert bands[0] > 0


def test_band_is_that_of_the_figures() -> None:
    base, head = noisy(1, 1e-6, 0.1), noisy(2, 1e-6, 0.1)
    assert verdict.noise_band(base, head) == verdict.noise_band(base, head)
    scaled = [figure * 1e6 for figure in base]
    assert verdict.noise_band(scaled, head) == pytest.approx(verdict.noise_band(base, head))


@pytest.mark.parametrize("seed", range(5))
def test_one_slow_turn_widens_no_band(seed: int) -> None:
    base, head = noisy(seed, 1.0, 0.02), noisy(seed + 100, 1.0, 0.02)
    head[seed] = 2.0
    assert verdict.noise_band(base, head) < 0.06


def test_noise_alone_seldom_looks_slower() -> None:
    """Of 300 benchmarks that did not change, on a machine whose figures differ by 20 %."""
    base = {str(n): noisy(n, 1.0, 0.1) for n in range(300)}
    head = {str(n): noisy(1000 + n, 1.0, 0.1) for n in range(300)}
    assert len(verdict.failing(verdict.compare(base, head))) <= 9  # and each is measured again


def test_slower_is_seen_in_noise() -> None:
    base = {str(n): noisy(n, 1.0, 0.1) for n in range(100)}
    head = {str(n): noisy(1000 + n, 1.5, 0.1) for n in range(100)}
    assert len(verdict.failing(verdict.compare(base, head))) == 100


@pytest.mark.parametrize(
    ("head", "expected"),
    [(1.04, "same"), (1.06, "slower"), (0.96, "same"), (0.94, "faster"), (1.0, "same")],
)
def test_verdict_of_quiet_figures(head: float, expected: str) -> None:
    (line,) = verdict.compare({"x": [1.0] * 5}, {"x": [head] * 5})
    assert line.verdict == expected
    assert line.change == pytest.approx(head - 1)


def test_one_slow_turn_changes_nothing() -> None:
    (line,) = verdict.compare({"x": [1.0] * 5}, {"x": [1.0, 1.0, 9.0, 1.0, 1.0]})
    assert line.verdict == "same"


def test_what_base_lacks_is_new_and_fails_nothing() -> None:
    (line,) = verdict.compare({"y": [1.0] * 5}, {"x": [1.0] * 5})
    assert (line.verdict, line.change) == ("new", None)
    assert verdict.failing([line]) == []


def test_what_is_gone_fails() -> None:
    assert verdict.failing(verdict.gone(["x"])) == ["x"]


@pytest.mark.parametrize(
    ("head", "expected"), [(1019.0, "same"), (1021.0, "slower"), (900.0, "faster")]
)
def test_verdict_of_counts(head: float, expected: str) -> None:
    line, new = verdict.compare_counts({"x": 1000.0}, {"x": head, "y": 5.0})
    assert line.verdict == expected
    assert new.verdict == "new"


@pytest.mark.parametrize("pattern", ["test_a.py::test_x", "test_x", "test_*", "*"])
def test_what_is_named_is_allowed(pattern: str) -> None:
    lines = verdict.gone(["test_a.py::test_x", "other"])
    allowed = verdict.allow(lines, [pattern])
    assert allowed[0].verdict == "slower, allowed"
    assert verdict.failing(allowed) == ([] if pattern == "*" else ["other"])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(7.31e-7, "731 ns"), (1.094e-6, "1.09 µs"), (12.34e-6, "12.3 µs"), (170.4e-6, "170 µs")],
        *[(2.5e-3, "2.50 ms"), (3.0, "3.00 s"), (4.5e-8, "45.0 ns")],
    ],
)
def test_seconds(value: float, text: str) -> None:
    assert verdict.seconds(value) == text


def test_table() -> None:
    base = {"a": [1e-6] * 5, "b": [1e-6] * 5}
    head = {"a": [1.5e-6] * 5, "b": [1e-6] * 5, "c": [2e-3] * 5}
    lines = verdict.compare(base, head) + verdict.gone(["d"])
    assert verdict.table("Benchmark", lines, "time").splitlines() == [
        "| Benchmark | base | head | change | band | |",
        "|---|--:|--:|--:|--:|---|",
        "| a | 1.00 µs | 1.50 µs | +50.0% | 5.0% | **slower** |",
        "| b | 1.00 µs | 1.00 µs | +0.0% | 5.0% | same |",
        "| c |  | 2.00 ms |  |  | new |",
        "| d |  |  |  |  | **gone** |",
    ]
    counted = verdict.compare_counts({"x": 12345.6}, {"x": 12345.6})
    assert "| x | 12,346 | 12,346 |" in verdict.table("Counted", counted, "instructions")


# ---- turns ------------------------------------------------------------------------------------


class Scripted:
    """In the place of run_benchmarks: figures from a function of side, name and the run."""

    def __init__(self, figure, names=("t.py::test_x", "t.py::test_y")):
        self.figure = figure
        self.names = names
        self.runs = []

    def __call__(self, work, side, tests):
        self.runs.append((side, tuple(tests)))
        found = {}
        for name in tests if "::" in tests[0] else self.names:
            figure = self.figure(side, name, len(self.runs))
            if figure is not None:
                found[name] = figure
        return found


def compared(monkeypatch: pytest.MonkeyPatch, scripted: Scripted) -> dict[str, str]:
    monkeypatch.setattr(gate, "run_benchmarks", scripted)
    lines = gate.compare_times(Path(), 3, ["t.py"], 0.05)
    return {line.name.rpartition("_")[2]: line.verdict for line in lines}


def test_sides_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Scripted(lambda side, name, run: 1.0)
    assert compared(monkeypatch, scripted) == {"x": "same", "y": "same"}
    sides = ["base", "head", "head", "base", "base", "head"]
    assert scripted.runs == [(side, ("t.py",)) for side in sides]


def test_what_is_slower_each_time_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = ("head", "t.py::test_x")
    scripted = Scripted(lambda side, name, run: 2.0 if (side, name) == slow else 1.0)
    assert compared(monkeypatch, scripted) == {"x": "slower", "y": "same"}
    assert {tests for _, tests in scripted.runs[6:]} == {("t.py::test_x",)}
    assert len(scripted.runs) == 18


@pytest.mark.parametrize("runs", [6, 12])
def test_what_is_slower_once_or_twice_is_not(monkeypatch: pytest.MonkeyPatch, runs: int) -> None:
    scripted = Scripted(lambda side, name, run: 2.0 if side == "head" and run <= runs else 1.0)
    assert compared(monkeypatch, scripted) == {"x": "same", "y": "same"}
    assert len(scripted.runs) == runs + 6


def test_what_base_cannot_run_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = ("base", "t.py::test_y")
    scripted = Scripted(lambda side, name, run: None if (side, name) == lacking else 1.0)
    assert compared(monkeypatch, scripted) == {"x": "same", "y": "new"}


def test_nothing_to_compare_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Scripted(lambda side, name, run: 1.0 if side == "head" else None)
    with pytest.raises(gate.GateError, match="no benchmark"):
        compared(monkeypatch, scripted)


# ---- counts -----------------------------------------------------------------------------------


def test_dumps_are_read_in_order(tmp_path: Path) -> None:
    for number, name, total in [
        *[(1, "getppid", 11), (2, "__getppid", 22), (10, "getppid", 33), (3, "other", 44)]
    ]:
        text = f"version: 1\ndesc: Trigger: --dump-before={name}\n\ntotals: {total}\n"
        (tmp_path / f"out.{number}").write_text(text)
    (tmp_path / "out").write_text("desc: Trigger: Program termination\ntotals: 5\n")
    assert list(instructions.read_dumps(tmp_path)) == [11, 22, 33]


def test_dumps_that_are_missing_are_noticed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = subprocess.CompletedProcess([], 0, "parse_get_nginx\n", "")
    monkeypatch.setattr(instructions.subprocess, "run", lambda *args, **options: done)
    with pytest.raises(instructions.CountError, match="0 dumps of 1 sections"):
        instructions.count({}, tmp_path)


def test_without_valgrind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "suite").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(gate.GateError, match=r"'valgrind'\n.*--no-instructions"):
        gate.compare_counts(tmp_path, ["parse_get_nginx"])


# ---- the command ------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing is built or run: test_x is slower, and so is the count x; the summary's file."""
    slow = [verdict.Line("t.py::test_x", 1.0, 2.0, 0.05, verdict.SLOWER)]
    monkeypatch.setattr(gate, "prepare", lambda *args: [])
    monkeypatch.setattr(gate, "compare_times", lambda *args: slow)
    monkeypatch.setattr(gate, "compare_counts", lambda *args: verdict.compare_counts({}, {"x": 1}))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    return tmp_path / "summary"


def test_status_and_summary(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate.main(["--base", "HEAD"]) == 1
    text = capsys.readouterr().out
    assert "Slower, or gone: t.py::test_x.\n" in text
    assert text.strip() == measured.read_text().strip()
    assert gate.main(["--base", "HEAD", "--allow", "test_x"]) == 0
    assert "Nothing is slower.\n" in capsys.readouterr().out


@pytest.mark.parametrize("error", [gate.GateError, KeyError])
def test_status_of_what_could_not_be_told(
    error: type[Exception],
    measured: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*args: object) -> None:
        raise error("it does not compile")

    monkeypatch.setattr(gate, "prepare", fail)
    assert gate.main(["--base", "HEAD"]) == 2
    assert "it does not compile" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--base", "HEAD", "--turns", "2"]])
def test_status_of_wrong_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gate.main(words)
    assert ended.value.code == 2


def test_every_suite_is_there() -> None:
    names = gate_trees.names_of(ROOT, gate_trees.SUITES)
    assert {name.partition("::")[0] for name in names} == set(gate_trees.SUITES)
    assert not [name for name in names if name.endswith("_in_python")]


# ---- for real ---------------------------------------------------------------------------------

# Of the package only the codec is built, and each benchmark gets less time than it has otherwise.
PACKAGE = [*test_layers.FLOORS["ground"], *test_layers.FLOORS["codec"]]
SOURCES = (".py", ".pyx", ".pxd", ".pyi", ".h")
SETUP = f"""
from Cython.Build import cythonize
from setuptools import Extension, setup

names = {test_layers.FLOORS["codec"]}
codec = [Extension(f"fastfcgi.{{name}}", [f"fastfcgi/{{name}}.pyx"]) for name in names]
setup(ext_modules=cythonize(codec, build_dir="build/cython"))
"""
# For every stream of PARAMS, several times what reading one takes.
NEEDLESS = """
        global needless
        cdef int step
        for step in range(10000):
            needless = needless * 31 + step
"""


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    command = [require("git"), *identity, *words]
    return subprocess.run(
        command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT
    ).stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository of one commit with the codec, its benchmarks and the gate."""
    folder = tmp_path_factory.mktemp("gate") / "tree"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("bench", "tests/captures"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("tests/reference_codec.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "fastfcgi").mkdir()
    for path in (ROOT / "fastfcgi").iterdir():
        if path.stem in PACKAGE and path.suffix in SOURCES:
            shutil.copy(path, folder / "fastfcgi")
    (folder / "fastfcgi" / "__init__.py").write_text("")
    (folder / "setup.py").write_text(SETUP)
    benchmarks = folder / "bench" / "test_codec.py"
    text, changed = re.subn(r"max_time=[0-9.]+", "max_time=0.05", benchmarks.read_text())
    assert changed == 1
    benchmarks.write_text(text)
    (folder / ".gitignore").write_text("__pycache__/\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "x")
    yield folder
    shutil.rmtree(folder.parent)  # the wheels, and two trees


def run_gate(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The codec's part of the gate, the work tree against the commit."""
    require("valgrind")
    command = [sys.executable, "-m", "bench.gate", "--base", "HEAD"]
    command += ["--work", str(tree.parent / "work"), "--suite", "test_codec.py", "--turns", "3"]
    command += ["--count", "parse_get_nginx", "--count", "encode_page_8k"]
    # What is planted takes several times as long; other tests may run beside this one.
    command += ["--floor", "0.5", *words]
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "GITHUB_STEP_SUMMARY")}
    return subprocess.run(
        command,
        cwd=tree,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
    )


@pytest.mark.packaging
def test_an_unchanged_tree_passes(tree: Path) -> None:
    done = run_gate(tree)
    assert done.returncode == 0, done.stdout
    assert "Nothing is slower." in done.stdout


@pytest.mark.packaging
def test_a_planted_slow_down_is_caught(tree: Path) -> None:
    """By the time of what decodes params, and by the count of that; nothing else is blamed."""
    params = tree / "fastfcgi" / "_params.pyx"
    text, changed = re.subn(
        r'^    cdef int feed_bytes\([^)]*\)[^\n]*:\n        """.*?"""\n',
        lambda match: match[0] + NEEDLESS,
        params.read_text(),
        flags=re.MULTILINE | re.DOTALL,
    )
    assert changed == 1
    params.write_text(text + "\n\ncdef unsigned long long needless = 0\n")
    try:
        done = run_gate(tree)
    finally:
        git(tree, "checkout", "--quiet", ".")
    assert done.returncode == 1, done.stdout
    slower = re.findall(r"^\| (\S+) \|.*\*\*slower\*\* \|$", done.stdout, re.MULTILINE)
    assert {"test_codec.py::test_params_nginx", "test_codec.py::test_params_lighttpd"} <= {*slower}
    assert "parse_get_nginx" in slower
    assert "encode_page_8k" not in slower


@pytest.mark.packaging
def test_a_tree_that_does_not_compile(tree: Path) -> None:
    codec = tree / "fastfcgi" / "_codec.pyx"
    codec.write_text("cdef int x = undeclared_name(\n")
    try:
        done = run_gate(tree)
    finally:
        git(tree, "checkout", "--quiet", ".")
    assert done.returncode == 2, done.stdout
    assert "undeclared_name" in done.stdout


def test_an_unknown_commit(tree: Path) -> None:
    done = run_gate(tree, "--base", "no-such-commit")
    assert done.returncode == 2, done.stdout
    assert "no-such-commit" in done.stdout


def test_the_work_tree_is_taken_without_what_git_ignores(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_trees, "ROOT", tree)
    (tree / "__pycache__").mkdir(exist_ok=True)
    (tree / "__pycache__" / "x.pyc").write_bytes(b"")
    (tree / "added").write_text("not committed")
    (tree / "LICENSE").unlink()
    try:
        gate_trees.export("worktree", tmp_path / "work")
        gate_trees.export("HEAD", tmp_path / "commit")
    finally:
        (tree / "added").unlink()
        git(tree, "checkout", "--quiet", ".")
    work = {path.name for path in (tmp_path / "work").iterdir()}
    commit = {path.name for path in (tmp_path / "commit").iterdir()}
    assert work - commit == {"added"}
    assert commit - work == {"LICENSE"}
    assert "setup.py" in work & commit
