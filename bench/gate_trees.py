"""What the gate measures: two trees, the wheels that are built from them, and head's benchmarks."""

import hashlib
import importlib.metadata
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKTREE = "worktree"
SUITES = ("test_codec.py", "test_connection.py", "test_wsgi.py")
SIDES = ("base", "head")  # names of one length: a path's length is no difference either

BUILD_TIMEOUT = 1200


class GateError(Exception):
    """Something that the gate needs could not be had."""


def run(command: Sequence[str], folder: Path, env: dict[str, str] | None = None) -> bytes:
    """Run to the end; stdout.

    Raises:
        GateError: It failed; with what it said.
    """
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=BUILD_TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GateError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode(errors="replace")
        raise GateError(f"{' '.join(command)} ended with {done.returncode}:\n{said[-8000:]}")
    return done.stdout


def export(revision: str, folder: Path) -> None:
    """Put the files of a commit, or of the work tree without what git ignores, into a folder."""
    folder.mkdir(parents=True)
    if revision == WORKTREE:
        listed = run(["git", "ls-files", "-z", "-co", "--exclude-standard"], ROOT)
        for name in listed.decode().split("\0"):
            if name and (ROOT / name).is_file():  # not if it was deleted
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        return
    named = f"{revision}^{{commit}}"
    commit = run(["git", "rev-parse", "--verify", "--end-of-options", named], ROOT)
    archive = run(["git", "archive", commit.decode().strip()], ROOT)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        if hasattr(tarfile, "data_filter"):  # Pythons without security updates lack it
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(folder)


def environment(package: Path | None = None) -> dict[str, str]:
    """Ours, without what would change the build or the interpreter, for that installed package."""
    left_out = ("PYTHON", "PYTEST", "FASTFCGI", "PIP_TARGET")
    env = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    env["PYTHONUTF8"] = "1"
    env["PYTHONHASHSEED"] = "0"
    if package is not None:
        env["PYTHONPATH"] = str(package)
    return env


def build(trees: Sequence[Path], wheels: Path) -> list[Path]:
    """The wheel of each tree, at once; the same sources are built once."""
    digests = {tree: digest(tree) for tree in trees}
    needed = {digest: tree for tree, digest in digests.items()}
    with ThreadPoolExecutor() as pool:
        jobs = {
            digest: pool.submit(build_wheel, tree, wheels / digest)
            for digest, tree in needed.items()
        }
    return [jobs[digests[tree]].result() for tree in trees]


def digest(tree: Path) -> str:
    """Of everything that a wheel is made from, and with."""
    cython = importlib.util.find_spec("Cython") and importlib.metadata.version("cython")
    found = hashlib.sha256(f"{sys.version}\0{cython}\0{os.environ.get('CFLAGS')}\0".encode())
    paths = [path for path in (tree / "fastfcgi").rglob("*") if path.is_file()]
    paths += [path for path in tree.iterdir() if path.is_file()]
    for path in sorted(paths):
        found.update(f"{path.relative_to(tree)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def build_wheel(tree: Path, folder: Path) -> Path:
    """Build the wheel of a tree, unless it is there."""
    if not list(folder.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
        command += ["--no-deps", "--wheel-dir", str(folder)]
        if all(importlib.util.find_spec(name) for name in ("Cython", "setuptools")):
            command.append("--no-build-isolation")
        run([*command, str(tree.resolve())], tree, environment())
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> None:
    """Install a wheel into a folder of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    command += ["--no-index", "--no-deps", "--target", str(folder), str(wheel)]
    run(command, folder.parent, environment())


def copy_suite(tree: Path, folder: Path) -> None:
    """The benchmarks of a tree and what they use, without the package that lies beside them."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("bench", "tests"):
        shutil.copytree(tree / name, folder / name)
    shutil.copy(tree / "pyproject.toml", folder)


def check_import(package: Path, suite: Path) -> None:
    """Make sure that the package is what benchmarks import: an installed one is not to win."""
    code = "import fastfcgi; print(fastfcgi.__file__)"
    found = run([sys.executable, "-c", code], suite, environment(package)).decode().strip()
    if not Path(found).is_relative_to(package):
        raise GateError(f"{found} is imported instead of that in {package}")


def names_of(tree: Path, suites: Sequence[str]) -> list[str]:
    """The benchmarks of a tree, as the gate calls them."""
    found = []
    for suite in suites:
        path = tree / "bench" / suite
        if path.exists():
            tests = re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
            found += [f"{suite}::{test}" for test in tests if not test.endswith("_in_python")]
    return found


def prepare(base: str, head: str, work: Path, suites: Sequence[str]) -> list[str]:
    """Have the wheels of two revisions in work/base and work/head, head's benchmarks in work/suite.

    Returns:
        The benchmarks of base that head has no more.

    Raises:
        GateError: There is no such revision, or it cannot be built or imported.
    """
    trees = [work / "trees" / side for side in SIDES]
    shutil.rmtree(work / "trees", ignore_errors=True)
    for revision, tree in zip((base, head), trees, strict=True):
        export(revision, tree)
    for wheel, side in zip(build(trees, work / "wheels"), SIDES, strict=True):
        install(wheel, work / side)
    copy_suite(trees[1], work / "suite")
    for side in SIDES:
        check_import(work / side, work / "suite")
    here = set(names_of(trees[1], suites))
    return [name for name in names_of(trees[0], suites) if name not in here]
