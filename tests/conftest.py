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
    "processes", "runtimes", "http_client", "fronts", "starting", "load_server", "webserver_checks"
)
pytest.register_assert_rewrite("checks_bodies", "checks_environ", "checks_failures", "checks_load")
pytest.register_assert_rewrite("application_sites", "cluster", "network")

collect_ignore: list[str] = []
if sys.platform == "linux":
    from matrix import MOUNTS
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

    @pytest.fixture(scope="class", params=MOUNTS.values(), ids=MOUNTS)
    def front(request: pytest.FixtureRequest) -> Iterator[object]:
        """The web server of the class of tests, with the checking application at the mount."""
        assert request.cls is not None
        with server_folder() as path, request.cls.run(request, path, request.param) as started:
            yield started

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
        "test_mount_webservers.py",
        "test_scgi_webservers.py",
        "test_start_methods.py",
        "test_start_cgi.py",
        "test_trac.py",
        "test_prefork.py",
        "test_reloader.py",
        *(path.name for path in Path(__file__).parent.glob("test_master*.py")),
        *(path.name for path in Path(__file__).parent.glob("test_matrix*.py")),
        *("test_site_running.py", "test_site_syntax.py", "test_site_docs.py", "test_site_scgi.py"),
    ]
    if not hasattr(socket, "AF_UNIX"):
        # They serve on unix sockets.
        collect_ignore += [path.name for path in Path(__file__).parent.glob("test_spec*.py")]
