"""What has to hold behind every web server: checks that the tests of each server inherit.

A test file gives the fixtures: ``running`` (the WebServer and the application's Process, for all
tests of the file), ``site`` (each site of the server in turn) and ``big_site`` (those to send large
bodies through).
"""

import concurrent.futures
import contextlib
import hashlib
import http.client
import json
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apps import pattern_sha256
from http_client import HOST, Client, Site, blocks, fetch
from processes import DEADLINE, TESTS, Process, descriptors, wait_until
from runtimes import own_runtime
from webservers import WebServer

KILOBYTE = 1024
MEGABYTE = 1024 * 1024


@contextlib.contextmanager
def running_app(folder: Path, flup: bool = False, **options: Any) -> Iterator[tuple[Process, str]]:
    """apps.py served at a unix socket that everybody may use: the process, and the socket's path.

    At the end TERM has to end it with exit status 0, whatever the web server still holds open.

    Args:
        folder: where the socket and the log go.
        flup: say it to WSGIServer in flup's words.
        options: more for WSGIServer.
    """
    address = str(folder / "app.sock")
    runtime = own_runtime()
    listen: dict[str, object] = {"bind": f"unix:{address}", "socket_mode": 0o666}
    if flup:
        listen = {"bindAddress": address, "umask": 0}
    arguments = json.dumps({**listen, **options})
    command = [runtime.python, str(TESTS / "apps.py"), arguments]
    with Process(command, folder, "app", env=runtime.env) as process:
        process.wait_for(address)
        yield process, address
        assert process.stop() == 0, process.log()
        assert not os.path.exists(address), "the socket file is still there"


def sha256(data: bytes) -> str:
    """The checksum of some bytes."""
    return hashlib.sha256(data).hexdigest()


def as_environ(text: str) -> str:
    """A text as it stands in an environ: its UTF-8 bytes, each a latin-1 character (PEP 3333)."""
    return text.encode().decode("latin-1")


class PathChecks:
    """SCRIPT_NAME, PATH_INFO and QUERY_STRING."""

    @pytest.mark.parametrize(
        ("target", "path_info"),
        [
            ("/env/plain", "/env/plain"),
            ("/env/a/", "/env/a/"),
            ("/env/a%20b", "/env/a b"),
            ("/env/a+b;c=1,2", "/env/a+b;c=1,2"),
            ("/env/%E2%82%AC/%C3%A9", as_environ("/env/€/é")),
            ("/env/100%25", "/env/100%"),
            ("/env/%2541", "/env/%41"),
            ("/env/a%2Fb", "/env/a/b"),
            ("/", "/"),
        ],
    )
    def test_path(self, site: Site, target: str, path_info: str) -> None:
        environ = fetch(site, target).json()
        assert environ["SCRIPT_NAME"] == site.prefix
        assert environ["PATH_INFO"] == path_info
        assert environ["QUERY_STRING"] == ""
        assert environ["REQUEST_URI"] == site.prefix + target

    @pytest.mark.parametrize(
        ("target", "cleaned"), [("/env//a///b", "/env/a/b"), ("/env/x/../a", "/env/a")]
    )
    def test_path_to_clean(self, site: Site, server: WebServer, target: str, cleaned: str) -> None:
        environ = fetch(site, target).json()
        assert environ["SCRIPT_NAME"] == site.prefix
        assert environ["PATH_INFO"] == (cleaned if server.cleans_paths else target)
        assert environ["REQUEST_URI"] == site.prefix + target

    def test_bare_mount(self, site: Site) -> None:
        environ = fetch(site, "").json()
        assert environ["SCRIPT_NAME"] == site.prefix
        assert environ["PATH_INFO"] == ("" if site.prefix else "/")

    @pytest.mark.parametrize("query", ["a=1", "a=%20b&c=%C3%A9", "x=//../y", "a?b", "%26=%3D", ""])
    def test_query(self, site: Site, query: str) -> None:
        environ = fetch(site, "/env/q%20q?" + query).json()
        assert environ["QUERY_STRING"] == query
        assert environ["PATH_INFO"] == "/env/q q"


class EnvironChecks:
    """The rest of the environ."""

    def test_always_there(self, site: Site) -> None:
        environ = fetch(site, "/env").json()
        assert environ["REQUEST_METHOD"] == "GET"
        assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
        assert environ["SERVER_NAME"]
        assert environ["SERVER_PORT"] == str(site.port)
        # The fastcgi_params of Debian's nginx leave the port out.
        assert environ["HTTP_HOST"] in (HOST, f"{HOST}:{site.port}")
        assert environ["wsgi.version"] == [1, 0]
        assert environ["wsgi.url_scheme"] == "http"
        assert environ["wsgi.multithread"] is True
        assert environ["wsgi.run_once"] is False
        assert environ["wsgi.input_terminated"] is True
        assert environ["CONTENT_LENGTH"] in ("", "0") if "CONTENT_LENGTH" in environ else True

    def test_body_headers(self, site: Site) -> None:
        environ = fetch(site, "/env", "POST", b"{}", [("Content-Type", "text/x-test")]).json()
        assert environ["CONTENT_LENGTH"] == "2"
        assert environ["CONTENT_TYPE"] == "text/x-test"
        assert not {"HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE"} & set(environ)

    def test_repeated_header(self, site: Site) -> None:
        sent = [("X-Name", "a"), ("X-Other", "z"), ("X-Name", "b")]
        environ = fetch(site, "/env", headers=sent).json()
        assert environ["HTTP_X_NAME"].replace(", ", ",") == "a,b"
        assert environ["HTTP_X_OTHER"] == "z"

    def test_cookies(self, site: Site) -> None:
        environ = fetch(site, "/env", headers=[("Cookie", "a=1"), ("Cookie", "b=2")]).json()
        assert environ["HTTP_COOKIE"] in ("a=1; b=2", "a=1, b=2")  # some servers join by a comma

    def test_proxy_header_is_dropped(self, site: Site) -> None:
        environ = fetch(site, "/env", headers=[("Proxy", "http://evil.example")]).json()
        assert "HTTP_PROXY" not in environ

    def test_many_headers(self, site: Site) -> None:
        sent = [(f"X-Number-{n}", "v" * 50) for n in range(60)]
        environ = fetch(site, "/env", headers=sent).json()
        assert all(environ[f"HTTP_X_NUMBER_{n}"] == "v" * 50 for n in range(60))

    def test_kept_client_connection(self, site: Site) -> None:
        with Client(site) as client:
            for n in range(20):
                environ = client.fetch(f"/env?{n}").json()
                assert environ["QUERY_STRING"] == str(n)


class BodyChecks:
    """Request bodies: with a length, chunked, read or not."""

    @pytest.mark.parametrize("size", [0, 1, KILOBYTE, 70_000, MEGABYTE])
    def test_digest(self, site: Site, size: int) -> None:
        body = os.urandom(size)
        answer = fetch(site, "/digest", "POST", body).json()
        assert answer == {"length": size, "sha256": sha256(body)}

    def test_no_body_at_all(self, site: Site) -> None:
        answer = fetch(site, "/digest", "GET").json()
        assert answer == {"length": 0, "sha256": sha256(b"")}

    def test_by_lines(self, site: Site) -> None:
        body = b"".join(b"%d\n" % n for n in range(20_000)) + b"no newline"
        answer = fetch(site, "/digest?by=lines", "PUT", body).json()
        assert answer == {"length": len(body), "sha256": sha256(body)}

    @pytest.fixture
    def chunked_site(self, site: Site) -> Site:
        """The sites that take chunked bodies."""
        return site

    @pytest.mark.parametrize("size", [0, 3000])
    def test_chunked(self, chunked_site: Site, size: int) -> None:
        body = os.urandom(size)
        with Client(chunked_site) as client:
            answer = client.fetch("/digest", "POST", blocks(body, 1000)).json()
            assert answer == {"length": size, "sha256": sha256(body)}
            environ = client.fetch("/env", "POST", blocks(b"12345", 2)).json()
        assert environ.get("CONTENT_LENGTH", "") in ("", "5")
        assert "HTTP_TRANSFER_ENCODING" not in environ

    @pytest.mark.parametrize("size", [0, KILOBYTE, MEGABYTE])
    def test_echo(self, site: Site, size: int) -> None:
        body = os.urandom(size)
        answer = fetch(site, "/echo", "POST", body)
        assert (answer.status, sha256(answer.body)) == (200, sha256(body))

    @pytest.mark.parametrize("size", [KILOBYTE, MEGABYTE])
    def test_ignored(self, site: Site, size: int) -> None:
        with Client(site) as client:
            for _ in range(2):
                answer = client.fetch("/ignore", "POST", bytes(size))
                assert (answer.status, answer.body) == (200, b"ignored")
            assert client.fetch("/env").json()["PATH_INFO"] == "/env"


class BigBodyChecks:
    """20 MB up, 50 MB down."""

    def test_digest_20_megabytes(self, big_site: Site) -> None:
        body = os.urandom(MEGABYTE) * 20
        answer = fetch(big_site, "/digest", "POST", body).json()
        assert answer == {"length": len(body), "sha256": sha256(body)}

    def test_echo_20_megabytes(self, big_site: Site) -> None:
        body = os.urandom(MEGABYTE) * 20
        answer = fetch(big_site, "/echo", "POST", body)
        assert len(answer.body) == len(body)
        assert sha256(answer.body) == sha256(body)

    def test_ignored_20_megabytes(self, big_site: Site) -> None:
        with Client(big_site) as client:
            answer = client.fetch("/ignore", "POST", bytes(20 * MEGABYTE))
            assert (answer.status, answer.body) == (200, b"ignored")
            assert client.fetch("/env").status == 200

    def test_download_50_megabytes(self, big_site: Site) -> None:
        size = 50 * MEGABYTE
        with Client(big_site) as client:
            assert client.download(f"/size/{size}") == (size, pattern_sha256(size))


class ResponseChecks:
    """Status, headers, bodies of all lengths."""

    @pytest.mark.parametrize("target", ["/size/{}", "/size/{}/open", "/bare/filewrapper/{}"])
    @pytest.mark.parametrize("size", [0, 1, 65535, 3 * MEGABYTE])
    def test_download(self, site: Site, target: str, size: int) -> None:
        with Client(site) as client:
            assert client.download(target.format(size)) == (size, pattern_sha256(size))

    def test_validated_file_wrapper(self, site: Site) -> None:
        with Client(site) as client:
            size = 100_000
            assert client.download(f"/filewrapper/{size}") == (size, pattern_sha256(size))

    @pytest.mark.parametrize("target", ["/size/1000", "/size/100000/open", "/headers", "/write"])
    def test_head(self, site: Site, target: str) -> None:
        with Client(site) as client:
            for _ in range(3):
                answer = client.fetch(target, "HEAD")
                assert (answer.status, answer.body) == (200, b"")
                assert answer.all("Content-Length") in ([], ["1000"])
            # A body that went out after all would stand here in the place of the answer.
            assert client.fetch("/env").json()["PATH_INFO"] == "/env"

    @pytest.mark.parametrize("status", [204, 304])
    def test_no_body(self, site: Site, status: int) -> None:
        with Client(site) as client:
            for _ in range(2):
                answer = client.fetch(f"/status/{status}")
                assert (answer.status, answer.body) == (status, b"")
                assert answer.all("X-Kept") == ["yes"]
            assert client.fetch("/env").status == 200

    @pytest.mark.parametrize("status", [200, 201, 301, 404, 418, 500, 503])
    def test_status(self, site: Site, status: int) -> None:
        answer = fetch(site, f"/status/{status}")
        assert (answer.status, answer.body) == (status, f"status {status}".encode())

    def test_repeated_headers(self, site: Site) -> None:
        answer = fetch(site, "/headers")
        assert answer.all("Set-Cookie") == ["a=1", "b=2; Path=/", "a=3"]

    def test_write(self, site: Site) -> None:
        assert fetch(site, "/write").body == b"written, written again, returned"

    @pytest.mark.parametrize("method", ["DELETE", "OPTIONS", "PATCH", "PROPFIND"])
    def test_method(self, site: Site, method: str) -> None:
        assert fetch(site, "/env", method).json()["REQUEST_METHOD"] == method


class ErrorChecks:
    """Applications that go wrong."""

    def test_exception_is_a_500(self, site: Site, app: Process) -> None:
        text = uuid.uuid4().hex
        answer = fetch(site, f"/error?text={text}")
        assert answer.status == 500
        assert text.encode() not in answer.body, "the traceback is shown to the world"
        app.wait_for_log(text)

    @pytest.mark.parametrize("target", ["/error-late", "/short"])
    def test_incomplete_body_is_cut(self, site: Site, app: Process, target: str) -> None:
        text = uuid.uuid4().hex
        # A client that keeps its connection would have to wait for nginx's keepalive_timeout.
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            fetch(site, f"{target}?text={text}", headers=[("Connection", "close")])
        assert fetch(site, "/env").status == 200
        if target == "/error-late":
            app.wait_for_log(text)

    def test_long_body_is_limited(self, site: Site) -> None:
        with Client(site) as client:
            assert client.fetch("/long").body == b"0123456789"
            assert client.fetch("/env").status == 200

    @pytest.mark.parametrize("where", ["status", "name", "value", "newline", "nul"])
    def test_header_injection_is_refused(self, site: Site, where: str) -> None:
        answer = fetch(site, f"/bare/inject/{where}")
        assert answer.status == 500
        assert answer.all("X-Smuggled") == []

    def test_errors_reach_the_log(self, site: Site, server: WebServer) -> None:
        text = uuid.uuid4().hex
        assert fetch(site, f"/errors-log?text={text}").body == b"written"
        if server.logs_stderr:
            server.wait_for_log(text)

    @pytest.mark.parametrize("length", [1, 8, 1024, 17_000, 100_000])
    def test_errors_of_any_length(self, site: Site, server: WebServer, length: int) -> None:
        """HAProxy 2.6.12 crashes on STDERR records without padding, and on those above 16 KB."""
        for _ in range(2):
            assert fetch(site, f"/errors-log?length={length}").body == b"written"
        assert fetch(site, "/env").status == 200
        assert server.popen.poll() is None, server.log()[-5000:]


class LoadChecks:
    """Many clients, and clients that go away."""

    def test_parallel_clients(self, big_site: Site, server: WebServer) -> None:
        def work(number: int) -> None:
            body = bytes([number]) * 10_000
            with Client(big_site) as client:
                assert client.fetch("/digest", "POST", body).json()["sha256"] == sha256(body)
                size = 100_000 + number
                assert client.download(f"/size/{size}") == (size, pattern_sha256(size))
                assert client.fetch(f"/env?{number}").json()["QUERY_STRING"] == str(number)

        with concurrent.futures.ThreadPoolExecutor(server.clients) as pool:
            for done in [pool.submit(work, number) for number in range(50)]:
                done.result()

    def test_client_gone_in_mid_download(self, big_site: Site, app: Process) -> None:
        before = self.settled_descriptors(big_site, app)
        for _ in range(5):
            with self.sent(big_site, "GET", f"/size/{50 * MEGABYTE}") as sock:
                assert sock.recv(20_000).startswith(b"HTTP/1.1 200")
        self.assert_recovers(big_site, app, before)

    def test_client_gone_in_mid_upload(self, big_site: Site, app: Process) -> None:
        before = self.settled_descriptors(big_site, app)
        for _ in range(5):
            with self.sent(big_site, "POST", "/digest", 3 * MEGABYTE) as sock:
                sock.sendall(bytes(MEGABYTE))
        self.assert_recovers(big_site, app, before)

    @staticmethod
    @contextlib.contextmanager
    def sent(site: Site, method: str, target: str, length: int = 0) -> Iterator[socket.socket]:
        """A raw connection with a request's header sent; closed with all that is still to come."""
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
            sock.settimeout(DEADLINE)
            sock.connect((HOST, site.port))
            head = f"{method} {site.prefix}{target} HTTP/1.1\r\nHost: x\r\n"
            sock.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode())
            yield sock

    @staticmethod
    def settled_descriptors(site: Site, app: Process) -> int:
        """How many descriptors the application holds when it has nothing to do."""
        assert fetch(site, "/env").status == 200
        counts = [-1, -2]

        def settled() -> bool:
            counts.append(len(descriptors(app.pid)))
            return len(set(counts[-10:])) == 1

        wait_until(settled, "the application's descriptors to settle")
        return counts[-1]

    @staticmethod
    def assert_recovers(site: Site, app: Process, before: int) -> None:
        """The application goes on, and has closed what it had opened for clients that are gone."""
        assert fetch(site, "/env").status == 200
        # One more may be a connection that the web server keeps now and did not before; what is
        # to be found is one descriptor lost with each of the five clients.
        wait_until(
            lambda: len(descriptors(app.pid)) <= before + 1,
            f"{before} descriptors again, there are {descriptors(app.pid)}",
        )


class WebServerChecks(
    PathChecks,
    EnvironChecks,
    BodyChecks,
    BigBodyChecks,
    ResponseChecks,
    ErrorChecks,
    LoadChecks,
):
    """All of them."""

    @pytest.fixture
    def server(self, running: tuple[WebServer, Process]) -> WebServer:
        return running[0]

    @pytest.fixture
    def app(self, running: tuple[WebServer, Process]) -> Process:
        return running[1]

    def test_validator_is_content(self, server: WebServer, app: Process) -> None:
        """Nothing that ran before has broken a rule that wsgiref.validate watches."""
        for log in (app.log(), server.log()):
            assert "AssertionError" not in log
            assert "without being closed" not in log
