"""What people install: the sdist, the wheel built from it, and the workflows that publish both."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import NoReturn

import pytest

pytestmark = pytest.mark.packaging

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = ROOT / ".github" / "workflows"

# What is compiled, and the sources that go with it.
EXTENSIONS = sorted(path.stem for path in ROOT.glob("fastfcgi/*.pyx"))
KINDS = (".h", ".pyx", ".pxd", ".pxi", ".pyi")
CYTHON_FILES = sorted(path.name for path in ROOT.glob("fastfcgi/*") if path.suffix in KINDS)

# What a clean clone holds; what else lies about (environments, builds, caches) is not copied.
CLONED = ["fastfcgi", "tests", "bench", "docs", ".github", ".ci"]
DEBRIS = shutil.ignore_patterns("*.c", "*.so", "*.pyd", "__pycache__", ".*_cache")

# Generous: one compile takes some ten seconds on a quiet machine.
TIMEOUT = 600

SERVE_ONE_REQUEST = """
import importlib.machinery, socket, sys, threading
from fastfcgi import WSGIServer, __version__
from fastfcgi import _codec, _pairs, _params, connection, constants

for module in (_codec, _pairs, _params, connection):
    assert module.__file__.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)), module
    assert module.__file__.startswith(sys.prefix), module

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"got " + environ["QUERY_STRING"].encode()]

server = WSGIServer(application, bind=("127.0.0.1", 0))
thread = threading.Thread(target=server.run)
thread.start()
assert server.wait_ready(60)
with socket.create_connection(server.addresses[0][:2], timeout=60) as sock:
    params = [(b"REQUEST_METHOD", b"GET"), (b"QUERY_STRING", b"a=1")]
    sock.sendall(
        _codec.encode_begin_request(1, constants.RESPONDER, 0)
        + _codec.encode_record(constants.PARAMS, 1, _codec.encode_pairs(params))
        + _codec.encode_record(constants.PARAMS, 1)
        + _codec.encode_record(constants.STDIN, 1)
    )
    answer = b"".join(iter(lambda: sock.recv(65536), b""))
server.stop()
thread.join(60)
assert b"got a=1" in answer, answer
print(__version__)
"""


def _missing(what: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI must not skip what needs it")
    pytest.skip(f"{what} is missing")


def _tool(name: str) -> str:
    """A program of the Python that runs the tests, or else of the PATH."""
    folders = [sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]
    return shutil.which(name, path=os.pathsep.join(folders)) or _missing(name)


def _run(
    command: Sequence[str | Path], folder: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run to the end with stdout and stderr in one; env is the whole environment, None: ours."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
    )


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources as a clone has them, with leftovers of a build put among them."""
    if not (ROOT / "setup.py").exists():
        pytest.skip("the sources are not here")
    folder = tmp_path_factory.mktemp("clone")
    for name in CLONED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=DEBRIS)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    # None of these may get into a distribution, or be compiled in place of the pyx.
    for name in EXTENSIONS:
        for ending in ["c", "so", "pyd", "cpython-31-x.so"]:
            (folder / f"fastfcgi/{name}.{ending}").write_text("#error not made from the pyx\n")
    (folder / "tests" / "__pycache__").mkdir()
    (folder / "tests" / "__pycache__" / "x.cpython-311.pyc").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def dist(clone: Path) -> Path:
    """The folder with the sdist, and the wheel that was built from the sdist."""
    for module in ("build", "Cython", "setuptools"):
        if importlib.util.find_spec(module) is None:
            _missing(module)
    if os.name == "posix":
        _tool(sysconfig.get_config_var("CC").split()[0])
    done = _run([sys.executable, "-m", "build", "--no-isolation"], clone)
    assert done.returncode == 0, done.stdout
    return clone / "dist"


@pytest.fixture(scope="module")
def sdist(dist: Path) -> Path:
    (path,) = dist.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_sdist_has_the_sources_and_nothing_generated(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for wanted in [
        *["LICENSE", "README.md", "CHANGELOG.md", "Makefile", "pyproject.toml", "setup.py"],
        *[f"fastfcgi/{name}" for name in CYTHON_FILES],
        *["fastfcgi/__init__.py", "fastfcgi/py.typed", "tests/test_packaging.py"],
    ]:
        assert wanted in names
    generated = (".c", ".so", ".pyd", ".pyc", "__pycache__", ".egg")
    assert [name for name in names if name.endswith(generated)] == []


def test_sdist_has_the_captures(sdist: Path) -> None:
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests/captures").rglob("*.*")}
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert here - names == set()


def test_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    built = [f"{name}{suffix}" for name in EXTENSIONS]
    for wanted in [*built, *CYTHON_FILES, "py.typed", "__init__.py"]:
        assert f"fastfcgi/{wanted}" in names
    assert [name for name in names if not name.startswith(("fastfcgi/", "fastfcgi-"))] == []
    package = [name for name in names if name.startswith("fastfcgi/")]
    endings = (".py", ".pyx", ".pxd", ".pyi", ".pxi", ".h", "/py.typed", suffix)
    assert [name for name in package if not name.endswith(endings)] == []


def test_metadata(wheel: Path) -> None:
    metadata = _metadata(wheel)
    assert metadata["Name"] == "fastfcgi"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"
    required = metadata.get_all("Requires-Dist", [])
    assert [line for line in required if "extra ==" not in line] == []
    assert str(metadata.get_payload()).strip()  # the README, for the project's page


def test_wheel_serves_where_there_is_no_compiler(wheel: Path, tmp_path: Path) -> None:
    assert _run([sys.executable, "-m", "venv", tmp_path / "venv"], tmp_path).returncode == 0
    programs = tmp_path / "venv" / ("bin" if os.name == "posix" else "Scripts")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "FASTFCGI"))}
    env |= {"PATH": str(programs), "CC": "/nonexistent/cc", "CXX": "/nonexistent/c++"}
    for name in ("cc", "gcc", "clang", "cython"):
        assert shutil.which(name, path=env["PATH"]) is None
    done = _run([programs / "pip", "install", "--no-index", "--no-deps", wheel], tmp_path, env)
    assert done.returncode == 0, done.stdout
    done = _run([programs / "python", "-I", "-c", SERVE_ONE_REQUEST], tmp_path, env)
    assert done.returncode == 0, done.stdout
    assert done.stdout.strip() == _metadata(wheel)["Version"]
    done = _run([programs / "fastfcgi", "--version"], tmp_path, env)
    assert done.returncode == 0, done.stdout
    assert _metadata(wheel)["Version"] in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="CC names the compiler only there")
def test_a_compile_that_fails_fails_the_install(sdist: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
    command += ["--no-cache-dir", "--target", str(tmp_path / "target"), str(sdist)]
    done = _run(command, tmp_path, {**os.environ, "CC": "false", "CXX": "false"})
    assert done.returncode != 0, done.stdout
    assert "false' failed" in done.stdout
    assert not (tmp_path / "target" / "fastfcgi").exists()


def test_a_pyx_that_does_not_translate_fails_the_install(sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        if hasattr(tarfile, "data_filter"):  # Pythons without security updates lack it
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(tmp_path)
    (source,) = tmp_path.glob("fastfcgi-*")
    (source / "fastfcgi" / "_codec.pyx").write_text("cdef int x = undeclared_name(\n")
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
    command += ["--no-cache-dir", "--target", str(tmp_path / "target"), str(source)]
    done = _run(command, tmp_path)
    assert done.returncode != 0, done.stdout
    assert "_codec.pyx" in done.stdout
    assert not (tmp_path / "target" / "fastfcgi").exists()


def test_no_generated_file_is_tracked() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    done = _run([_tool("git"), "-c", "safe.directory=*", "ls-files"], ROOT)
    assert done.returncode == 0, done.stdout
    generated = re.compile(r"\.(c|cpp|so|pyd|pyc|whl)$|\.egg-info/|^(build|dist)/")
    assert [name for name in done.stdout.splitlines() if generated.search(name)] == []


def _workflows() -> list[Path]:
    if not WORKFLOWS.is_dir():
        pytest.skip("an sdist has no workflows")
    found = sorted(WORKFLOWS.glob("*.yml"))
    assert [path.name for path in found] == ["bench.yml", "ci.yml", "wheels.yml"]
    return found


def test_workflows_keep_githubs_schema() -> None:
    files = _workflows()
    check = [_tool("check-jsonschema"), "--builtin-schema"]
    done = _run([*check, "vendor.github-workflows", *files], ROOT)
    assert done.returncode == 0, done.stdout
    done = _run([*check, "vendor.dependabot", ROOT / ".github" / "dependabot.yml"], ROOT)
    assert done.returncode == 0, done.stdout


def test_workflows_are_safe() -> None:
    _workflows()
    done = _run([_tool("zizmor"), "--offline", "--no-progress", ROOT / ".github"], ROOT)
    assert done.returncode == 0, done.stdout


def test_workflows_call_the_targets_that_people_call() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = {word for line in re.findall(r"^([\w -]+):", makefile, re.M) for word in line.split()}
    called = set()
    for path in _workflows():
        text = path.read_text()
        called |= set(re.findall(r"make ([a-z-]+)", text))
        for listed in re.findall(r"target: \[(.*)\]", text):
            called |= set(listed.split(", "))
    assert called >= {"lint", "types", "test", "sdist", "bench-gate"}
    assert called <= targets
