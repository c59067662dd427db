"""`import flup` after fastfcgi.flup.install(): which modules that gives, and when it refuses."""

import contextlib
import importlib.util
import inspect
import os
import subprocess
import sys

import pytest

if os.name != "posix":
    pytest.skip("flup runs on POSIX alone", allow_module_level=True)

from helpers import hello
from processes import DEADLINE, environment, missing

import fastfcgi
from fastfcgi.flup.server import fcgi, fcgi_base, fcgi_fork, fcgi_single, threadedserver

INSTALL = "import sys, fastfcgi.flup\nfastfcgi.flup.install()\n"


def run(code: str, *options: str) -> str:
    """What a Python of its own prints; without an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *options, "-c", code],
        env=environment({"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()


def need_flup() -> None:
    """Skip the test, or fail it in CI, without flup itself."""
    if importlib.util.find_spec("flup") is None:
        missing("flup")


# --------------------------------------------------------------------------------- install()


@pytest.mark.parametrize(
    "statement",
    [
        "from flup.server.fcgi import WSGIServer as X",
        "import flup.server.fcgi; X = flup.server.fcgi.WSGIServer",
        "import flup.server.fcgi as flups; X = flups.WSGIServer",
        "from flup.server import fcgi; X = fcgi.WSGIServer",
        "from flup import server; import flup.server.fcgi; X = server.fcgi.WSGIServer",
        "X = __import__('flup.server.fcgi').server.fcgi.WSGIServer",
        "import importlib; X = importlib.import_module('flup.server.fcgi').WSGIServer",
    ],
)
def test_the_ways_of_importing(statement):
    """All give the one class, which its own module has."""
    code = f"{statement}\nfrom fastfcgi.flup.server.fcgi import WSGIServer\nprint(X is WSGIServer)"
    assert run(INSTALL + code) == "True"


def test_a_module_is_one_under_both_names():
    """It stays what it was but for its name, which tools for flup ask for."""
    code = """
import fastfcgi.flup.server.fcgi as ours
before = ours.__spec__, ours.__loader__, ours.__package__
import flup.server.fcgi as theirs
print(ours is theirs, before == (ours.__spec__, ours.__loader__, ours.__package__))
print(ours.__name__, ours.WSGIServer.__module__)
import importlib, pickle
print(importlib.reload(theirs) is ours, pickle.loads(pickle.dumps(ours.WSGIServer)))
"""
    assert run(INSTALL + code).split() == [
        *["True", "True", "flup.server.fcgi", "fastfcgi.flup.server.fcgi", "True"],
        *["<class", "'fastfcgi.flup.server.fcgi.WSGIServer'>"],
    ]


def test_whoever_waits_for_an_import():
    """A finder before ours that wraps loaders, as agents have it, is told of each name once."""
    code = """
import importlib.util, sys
from importlib.abc import Loader, MetaPathFinder

class Wrapped(Loader):
    def __init__(self, loader):
        self.create_module, self.inner = loader.create_module, loader
    def exec_module(self, module):
        self.inner.exec_module(module)
        print(module.__name__)

class Waits(MetaPathFinder):
    busy = set()
    def find_spec(self, name, path=None, target=None):
        if name in self.busy or name.split(".")[0] != "flup":
            return None
        self.busy.add(name)
        spec = importlib.util.find_spec(name)
        spec.loader = Wrapped(spec.loader)
        return spec

sys.meta_path.insert(0, Waits())
import flup.server.fcgi_fork
"""
    told = run(INSTALL + code).split()
    assert sorted(told) == sorted(set(told))
    expected = ["flup", "flup.server", "flup.server.fcgi_base", "flup.server.fcgi_fork"]
    assert set(expected) <= set(told)


def test_modules_that_are_loaded_lazily():
    """As mercurial.demandimport does it, which hgweb.fcgi begins with: the loader's work is done
    when the module is first used."""
    code = """
import importlib.util, sys
from importlib.abc import MetaPathFinder

class Lazy(MetaPathFinder):
    busy = set()
    def find_spec(self, name, path=None, target=None):
        if name in self.busy or name.split(".")[0] != "flup":
            return None
        self.busy.add(name)
        spec = importlib.util.find_spec(name)
        spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec

sys.meta_path.insert(0, Lazy())
from flup.server.fcgi import WSGIServer
import flup.server.fcgi_fork
print(WSGIServer.__module__, flup.server.fcgi_fork.WSGIServer.__module__)
"""
    names = ["fastfcgi.flup.server.fcgi", "fastfcgi.flup.server.fcgi_fork"]
    assert run(INSTALL + code).split() == names


def test_without_it_there_is_no_alias():
    """Importing fastfcgi.flup alone changes nothing."""
    code = "import sys, fastfcgi.flup\nprint(len(sys.meta_path))"
    assert run("import sys, fastfcgi; print(len(sys.meta_path))") == run(code)
    assert run("import sys, fastfcgi; print('fastfcgi.flup' in sys.modules)") == "False"


def test_twice_is_once():
    twice = INSTALL + "import flup\nfastfcgi.flup.install()\nprint(len(sys.meta_path))"
    assert run(twice) == run(INSTALL + "print(len(sys.meta_path))")


def test_flup_itself_is_not_imported_any_more():
    need_flup()
    code = """
import flup.server.fcgi_fork
print(*[one.__spec__.name for name, one in sys.modules.items() if name.split(".")[0] == "flup"])
"""
    names = run(INSTALL + code).split()
    assert "fastfcgi.flup.server.fcgi_fork" in names
    assert [name for name in names if not name.startswith("fastfcgi.")] == []


def test_what_flup_loads_along_has_its_names_too():
    """Agents look for them in sys.modules, and wait for their import."""
    code = "import flup.server.{}\nprint(*sorted(n for n in sys.modules if n.startswith('flup.')))"
    for name in ("fcgi", "fcgi_fork", "fcgi_single"):
        loaded = run(INSTALL + code.format(name)).split()
        assert {f"flup.server.{name}", "flup.server.fcgi_base", "flup.server"} <= set(loaded)
    assert "flup.server.fcgi" not in loaded


def test_what_has_no_counterpart():
    """An ImportError as for any module that is not there; flup's own is not taken instead."""
    code = """
for name in ("flup.server.ajp", "flup.server.ajp_fork", "flup.server.nothing", "flup.nothing"):
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        print(error.name)
import importlib.util
print(importlib.util.find_spec("flup.server.ajp"), importlib.util.find_spec("fluppy"))
"""
    printed = run(INSTALL + code).splitlines()
    assert printed[:2] == ["flup.server.ajp", "flup.server.ajp_fork"]
    assert printed[2:4] == ["flup.server.nothing", "flup.nothing"]
    assert printed[4:] == ["None None"]


def test_flup_has_been_imported_already():
    need_flup()
    code = """
import sys, flup.server.fcgi, fastfcgi.flup
try:
    fastfcgi.flup.install()
except fastfcgi.ConfigurationError as error:
    print(error, len(sys.meta_path))
"""
    printed = run(code)
    assert "flup has been imported already, from " in printed
    assert printed.endswith(run("import sys, fastfcgi; print(len(sys.meta_path))"))


# ---------------------------------------------------------------------------------- modules

SERVERS = {"fcgi": fcgi, "fcgi_fork": fcgi_fork, "fcgi_single": fcgi_single}


def flups(name):
    """flup's own module."""
    need_flup()
    return importlib.import_module(f"flup.server.{name}")


@contextlib.contextmanager
def flups_server(name):
    """A server of it, which starts threads when it is made."""
    server = flups(name).WSGIServer(hello)
    try:
        yield server
    finally:
        getattr(server, "shutdown", lambda: None)()


@pytest.mark.filterwarnings("ignore:setDaemon|notifyAll:DeprecationWarning")
@pytest.mark.parametrize("name", SERVERS)
def test_a_server_is_as_flups(name):
    """Its arguments by position, its attributes, and whatever is public of it."""

    def positional(server):
        parameters = inspect.signature(server.__init__).parameters.values()
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return [(p.name, p.default) for p in parameters if p.kind is kind]

    module = SERVERS[name]
    ours = module.WSGIServer(hello)
    assert module.__all__ == flups(name).__all__
    with flups_server(name) as theirs:
        assert positional(ours) == positional(theirs)
        for attribute in dir(theirs):
            if not attribute.startswith("_"):
                assert hasattr(ours, attribute), attribute
        for attribute, value in vars(theirs).items():
            if not attribute.startswith("_") and attribute != "capability":
                assert getattr(ours, attribute) == value, attribute
        assert set(ours.capability) == set(theirs.capability)


@pytest.mark.parametrize("name", SERVERS)
def test_what_is_overridden_for_its_sake_costs_no_request_time(name):
    """Requests go by Gateway.handle itself, and no peer is asked about."""
    server = SERVERS[name].WSGIServer(hello)
    assert not any(map(server._overrides, ("handler", "_mainloopPeriodic")))
    assert not server.checks_peers


def test_the_version_is_fastfcgis():
    for module in (*SERVERS.values(), fcgi_base, threadedserver):
        assert module.__version__ == fastfcgi.__version__
        with pytest.raises(AttributeError, match="nothing"):
            _ = module.nothing


def test_the_numbers_of_fastcgi():
    """Every constant that flup's module has, with its value."""
    theirs = flups("fcgi_base")
    names = [name for name in vars(theirs) if name.startswith("FCGI_")]
    assert len(names) > 30
    for name in names:
        assert getattr(fcgi_base, name) == getattr(theirs, name), name


@pytest.mark.parametrize("name", SERVERS)
def test_an_unknown_keyword(name):
    """flup's fcgi_single takes anything."""
    options = {"nonsense": 1}
    if name == "fcgi_single":
        SERVERS[name].WSGIServer(hello, **options)
    else:
        with pytest.raises(TypeError, match="nonsense"):
            SERVERS[name].WSGIServer(hello, **options)


def test_threads_are_no_processes():
    """Each kind of server knows the numbers of its own."""
    with pytest.raises(TypeError, match="maxThreads"):
        fcgi_fork.WSGIServer(hello, maxThreads=5)
    with pytest.raises(TypeError, match="maxChildren"):
        fcgi.WSGIServer(hello, maxChildren=5)


def test_keywords_that_are_dropped():
    for module in SERVERS.values():
        module.WSGIServer(hello, jobClass=object, jobArgs=(1,))
    fcgi_fork.WSGIServer(hello, multithreaded=True, multiprocess=False)


def test_numbers_of_children_that_make_no_sense():
    for options in ({"minSpare": 0}, {"minSpare": 6}):
        with pytest.raises(ValueError, match="minSpare"):
            fcgi_fork.WSGIServer(hello, **options)


def test_set_close_on_exec():
    read, write = os.pipe()
    with os.fdopen(read, "rb") as file, os.fdopen(write, "wb"):
        os.set_inheritable(read, True)
        threadedserver.setCloseOnExec(file)
        assert not os.get_inheritable(read)
