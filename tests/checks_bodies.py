"""Checks behind every web server: bodies up and down, of all lengths."""

import hashlib
import os

import pytest
from apps import pattern, pattern_sha256
from http_client import Client, Site, blocks, fetch
from matrix import row

KILOBYTE = 1024
MEGABYTE = 1024 * 1024


def sha256(data: bytes) -> str:
    """The checksum of some bytes."""
    return hashlib.sha256(data).hexdigest()


class BodyChecks:
    """Request bodies."""

    @row("0 B to 20 MB, read")
    @pytest.mark.parametrize("size", [0, 1, KILOBYTE, 70_000, MEGABYTE])
    def test_digest(self, site: Site, size: int) -> None:
        body = os.urandom(size)
        answer = fetch(site, "/digest", "POST", body).json()
        assert answer == {"length": size, "sha256": sha256(body)}

    @row("0 B to 20 MB, read")
    def test_no_body_at_all(self, site: Site) -> None:
        answer = fetch(site, "/digest", "GET").json()
        assert answer == {"length": 0, "sha256": sha256(b"")}

    @row("0 B to 20 MB, read")
    def test_by_lines(self, site: Site) -> None:
        body = b"".join(b"%d\n" % n for n in range(20_000)) + b"no newline"
        answer = fetch(site, "/digest?by=lines", "PUT", body).json()
        assert answer == {"length": len(body), "sha256": sha256(body)}

    @row("0 B to 20 MB, echoed while being read")
    @pytest.mark.parametrize("size", [0, KILOBYTE, MEGABYTE])
    def test_echo(self, site: Site, size: int) -> None:
        body = os.urandom(size)
        answer = fetch(site, "/echo", "POST", body)
        assert (answer.status, sha256(answer.body)) == (200, sha256(body))

    @row("0 B to 20 MB, not read")
    @pytest.mark.parametrize("size", [0, KILOBYTE, MEGABYTE])
    def test_ignored(self, site: Site, size: int) -> None:
        with Client(site) as client:
            for _ in range(2):
                answer = client.fetch("/ignore", "POST", bytes(size))
                assert (answer.status, answer.body) == (200, b"ignored")
            assert client.fetch("/env").json()["PATH_INFO"] == "/env"

    @row("0 B to 20 MB, read")
    def test_digest_20_megabytes(self, site: Site) -> None:
        body = os.urandom(MEGABYTE) * 20
        answer = fetch(site, "/digest", "POST", body).json()
        assert answer == {"length": len(body), "sha256": sha256(body)}

    @row("0 B to 20 MB, echoed while being read")
    def test_echo_20_megabytes(self, site: Site) -> None:
        body = os.urandom(MEGABYTE) * 20
        answer = fetch(site, "/echo", "POST", body)
        assert len(answer.body) == len(body)
        assert sha256(answer.body) == sha256(body)

    @row("0 B to 20 MB, not read")
    def test_ignored_20_megabytes(self, site: Site) -> None:
        with Client(site) as client:
            answer = client.fetch("/ignore", "POST", bytes(20 * MEGABYTE))
            assert (answer.status, answer.body) == (200, b"ignored")
            assert client.fetch("/env").status == 200

    @row("chunked, 0 B and 3 KB")
    def test_chunked_empty(self, site: Site) -> None:
        self.check_chunked(site, 0)

    @row("chunked, 0 B and 3 KB")
    def test_chunked(self, site: Site) -> None:
        self.check_chunked(site, 3000)

    @row("chunked, 3 MB")
    def test_chunked_3_megabytes(self, site: Site) -> None:
        self.check_chunked(site, 3 * MEGABYTE)

    def check_chunked(self, site: Site, size: int) -> None:
        body = os.urandom(size)
        block = 1000 if size < KILOBYTE * 100 else 50_000
        with Client(site) as client:
            answer = client.fetch("/digest", "POST", blocks(body, block)).json()
            assert answer == {"length": size, "sha256": sha256(body)}
            environ = client.fetch("/env", "POST", blocks(body, block)).json()
        assert environ.get("CONTENT_LENGTH", "") in ("", str(size))
        assert "HTTP_TRANSFER_ENCODING" not in environ


class ResponseChecks:
    """Responses."""

    @row("0 B to 50 MB, with Content-Length and without")
    @pytest.mark.parametrize("target", ["/size/{}", "/size/{}/open"])
    @pytest.mark.parametrize("size", [0, 1, 65535, 3 * MEGABYTE])
    def test_download(self, site: Site, target: str, size: int) -> None:
        with Client(site) as client:
            assert client.download(target.format(size)) == (size, pattern_sha256(size))

    @row("0 B to 50 MB, with Content-Length and without")
    def test_download_50_megabytes(self, site: Site) -> None:
        size = 50 * MEGABYTE
        with Client(site) as client:
            assert client.download(f"/size/{size}") == (size, pattern_sha256(size))

    @row("0 B to 50 MB, with Content-Length and without")
    @pytest.mark.parametrize("target", ["/size/{}", "/size/{}/open", "/bare/filewrapper/{}"])
    def test_a_range_of_a_response_that_knows_none(self, site: Site, target: str) -> None:
        size = 3 * MEGABYTE
        answer = fetch(site, target.format(size), headers=[("Range", "bytes=70000-70099")])
        if answer.status == 206:  # the web server's own
            assert answer.body == b"".join(pattern(size))[70_000:70_100]
        else:
            assert (answer.status, sha256(answer.body)) == (200, pattern_sha256(size))

    @row("`wsgi.file_wrapper`, 0 B to 3 MB")
    @pytest.mark.parametrize("size", [0, 1, 65535, 3 * MEGABYTE])
    def test_file_wrapper(self, site: Site, size: int) -> None:
        with Client(site) as client:
            answer = client.download(f"/bare/filewrapper/{size}")
            assert answer == (size, pattern_sha256(size))

    @row("`wsgi.file_wrapper`, 0 B to 3 MB")
    def test_validated_file_wrapper(self, site: Site) -> None:
        with Client(site) as client:
            size = 100_000
            assert client.download(f"/filewrapper/{size}") == (size, pattern_sha256(size))

    @row("HEAD, 204, 304")
    @pytest.mark.parametrize("target", ["/size/1000", "/size/100000/open", "/headers", "/write"])
    def test_head(self, site: Site, target: str) -> None:
        with Client(site) as client:
            for _ in range(3):
                answer = client.fetch(target, "HEAD")
                assert (answer.status, answer.body) == (200, b"")
                assert answer.all("Content-Length") in ([], ["1000"])
            # A body that went out after all would stand here in the place of the answer.
            assert client.fetch("/env").json()["PATH_INFO"] == "/env"

    @row("HEAD, 204, 304")
    @pytest.mark.parametrize("status", [204, 304])
    def test_no_body(self, site: Site, status: int) -> None:
        with Client(site) as client:
            for _ in range(2):
                answer = client.fetch(f"/status/{status}")
                assert (answer.status, answer.body) == (status, b"")
                assert answer.all("X-Kept") == ["yes"]
            assert client.fetch("/env").status == 200

    @row("other statuses; `write()` of start_response")
    @pytest.mark.parametrize("status", [200, 201, 301, 404, 418, 500, 503])
    def test_status(self, site: Site, status: int) -> None:
        answer = fetch(site, f"/status/{status}")
        assert (answer.status, answer.body) == (status, f"status {status}".encode())
        assert answer.all("Status") == []  # that is FastCGI's

    @row("other statuses; `write()` of start_response")
    @pytest.mark.parametrize("status", [201, 301, 302, 303, 307, 308])
    def test_status_with_a_location(self, site: Site, status: int) -> None:
        answer = fetch(site, f"/status/{status}/location")
        assert (answer.status, answer.body) == (status, f"status {status}".encode())
        assert answer.all("Location") == ["http://www.example.org/there"]

    @row("repeated headers")
    def test_repeated_headers(self, site: Site) -> None:
        answer = fetch(site, "/headers")
        assert answer.all("Set-Cookie") == ["a=1", "b=2; Path=/", "a=3"]

    @row("other statuses; `write()` of start_response")
    def test_write(self, site: Site) -> None:
        assert fetch(site, "/write").body == b"written, written again, returned"
