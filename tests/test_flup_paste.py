"""Paste Deploy: the servers as `use = egg:fastfcgi#fcgi_thread`, and what flup's own names give."""

import glob
import importlib.metadata
import os
import sys

import pytest

if sys.platform != "linux":
    pytest.skip("looks at processes in Linux's way", allow_module_level=True)

import wire
from flup_scripts import APP, need, seen, starter
from processes import free_ports

import fastfcgi

INI = """
[DEFAULT]
debug = {debug}

[app:main]
use = call:site_app:make

[server:main]
use = egg:{egg}
{options}
"""

SITE_APP = (
    APP
    + """
def make(global_conf, **options):
    def run(environ, start_response):
        if environ["PATH_INFO"] == "/fails":
            raise RuntimeError("secret")
        return app(environ, start_response)
    return run
"""
)

SERVE = """
import sys
from paste.deploy import loadapp, loadserver
ini = "config:" + sys.argv[1]
loadserver(ini)(loadapp(ini))
"""


def pyproject():
    try:
        import tomllib
    except ImportError:
        import tomli as tomllib
    path = os.path.join(os.path.dirname(__file__), os.pardir, "pyproject.toml")
    with open(path, "rb") as file:
        return tomllib.load(file)


def entry_points():
    """Those of pyproject.toml, as an installed package has them."""
    return pyproject()["project"]["entry-points"]


def test_every_package_is_installed():
    """Whatever folder of fastfcgi has modules is a package that setuptools finds."""
    setuptools = pytest.importorskip("setuptools")
    root = os.path.dirname(os.path.dirname(fastfcgi.__file__))
    include = pyproject()["tool"]["setuptools"]["packages"]["find"]["include"]
    modules = glob.glob("fastfcgi/**/*.py", root_dir=root, recursive=True)
    folders = {os.path.dirname(module).replace(os.sep, ".") for module in modules}
    assert set(setuptools.find_packages(root, include=include)) == folders
    assert "fastfcgi.flup.server" in folders


def test_entry_points_lead_to_functions():
    """Each name of flup's but those of AJP, for the function of the same name."""
    runners = entry_points()["paste.server_runner"]
    assert set(runners) == {
        f"{protocol}{kind}" for protocol in ("fcgi", "scgi") for kind in ("", "_thread", "_fork")
    }
    for name, value in runners.items():
        point = importlib.metadata.EntryPoint(name, value, "paste.server_runner")
        function = point.load()
        assert function.__name__ == f"run_{name}" or function.__name__ == f"run_{name}_thread"


@pytest.fixture
def paste(folder):
    """Serves an ini by Paste Deploy; the metadata of fastfcgi are those of pyproject.toml."""
    need("paste.deploy")
    info = folder / "fastfcgi-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fastfcgi\nVersion: 0\n")
    lines = [f"{k} = {v}" for k, v in entry_points()["paste.server_runner"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[paste.server_runner]", *lines]))
    (folder / "site_app.py").write_text(SITE_APP)

    def start(egg, options, debug="false", **more):
        ini = folder / "site.ini"
        ini.write_text(INI.format(egg=egg, options="\n".join(options), debug=debug))
        return starter(folder)(SERVE, str(ini), **more)

    return start


NUMBERS = {
    "fcgi": ["minSpare = 2", "maxSpare = 4", "maxThreads = 10"],
    "fcgi_fork": ["minSpare = 2", "maxSpare = 4", "maxChildren = 10", "maxRequests = 100"],
}


@pytest.mark.parametrize("name", ["fcgi", "fcgi_thread", "fcgi_fork"])
def test_paste_deploy(paste, folder, name):
    """umask 63 is 077: the number is decimal, as flup's."""
    numbers = NUMBERS["fcgi_fork" if name == "fcgi_fork" else "fcgi"]
    options = [f"socket = {folder}/s", "umask = 63", "multiplexed = yes", *numbers]
    with paste(f"fastfcgi#{name}", options) as process:
        assert os.stat(f"{folder}/s").st_mode & 0o777 == 0o700
        answer = seen(process)
        assert (answer["pid"] == process.pid) == (name != "fcgi_fork")
        with wire.Peer(process.address) as peer:
            response = peer.request(wire.cgi_params("GET", "/fails"))
            assert response.status == 500 and b"secret" not in response.body
        process.stop()


def test_paste_deploy_with_an_ini_for_flup(paste, folder):
    """egg:Flup with flup installed: its entry point leads to flup's module, which is ours."""
    need("flup")
    [port] = free_ports(1)
    options = ["host = 127.0.0.1", f"port = {port}"]
    with paste("Flup#fcgi_thread", options, "true", at=("127.0.0.1", port)) as process:
        seen(process)
        with wire.Peer(process.address) as peer:
            # debug is that of [DEFAULT]
            assert b"secret" in peer.request(wire.cgi_params("GET", "/fails")).body
        process.stop()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["host = 127.0.0.1"], "host and port belong together"),
        (["port = 9000"], "host and port belong together"),
        (["socket = s", "host = 127.0.0.1", "port = 9000"], "either socket or host and port"),
        (["socket = s", "maxThreads = many"], "maxThreads is a number, not 'many'"),
        (["socket = s", "umask = 0x1"], "umask is a number, not '0x1'"),
        (["socket = s", "debug = perhaps"], "debug is true or false, not 'perhaps'"),
        (["socket = s", "maxChildren = 3"], "maxChildren"),
        (["socket = s", "nonsense = 3"], "nonsense"),
    ],
)
def test_options_that_do_not_fit(options, message):
    from fastfcgi.flup.server import paste_factory

    given = dict(option.split(" = ") for option in options)
    with pytest.raises((fastfcgi.ConfigurationError, TypeError), match=message):
        paste_factory.run_fcgi_thread(lambda environ, start_response: [], {}, **given)
