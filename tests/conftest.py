"""Fixtures of the tests with real processes.

Those need Linux; elsewhere their files are not collected.
"""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Their assertions are to tell as much as those of the tests.
pytest.register_assert_rewrite("master_process", "fake_crew")
pytest.register_assert_rewrite(
    "processes", "runtimes", "http_client", "webserver_checks", "load_server"
)

collect_ignore: list[str] = []
if sys.platform == "linux":
    from processes import left_running, server_folder
    from runtimes import Runtime, public_runtime

    @pytest.fixture
    def folder() -> Iterator[Path]:
        """An empty folder of the web servers' user, with a short name, gone after the test."""
        with server_folder() as path:
            yield path

    @pytest.fixture(scope="module")
    def module_folder() -> Iterator[Path]:
        """The same for all tests of a file."""
        with server_folder() as path:
            yield path

    @pytest.fixture(scope="session")
    def public_python() -> Iterator[Runtime]:
        """A Python with fastfcgi and apps.py that the web servers' user can run."""
        with server_folder() as path:
            yield public_runtime(path)

    @pytest.fixture(scope="session", autouse=True)
    def nothing_left_running() -> Iterator[None]:
        """At the end of everything no process that a test started is there any more."""
        yield
        left = left_running()
        assert not left, "left running:\n" + "\n".join(left)

else:
    collect_ignore += [
        "test_nginx.py",
        "test_lighttpd.py",
        "test_frontends.py",
        "test_mount_webservers.py",
        "test_scgi_webservers.py",
        "test_start_methods.py",
        "test_trac.py",
        "test_prefork.py",
        "test_reloader.py",
        *(path.name for path in Path(__file__).parent.glob("test_master*.py")),
    ]
    if not hasattr(socket, "AF_UNIX"):
        # They serve on unix sockets.
        collect_ignore += [path.name for path in Path(__file__).parent.glob("test_spec*.py")]
