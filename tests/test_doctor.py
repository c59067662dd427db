"""`fastfcgi doctor`: its arguments, its report, and the probe in an application's place."""

import contextlib
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("needs Linux, as all tests with real processes", allow_module_level=True)

import doctored
from doctored import COMMAND, PACKAGE, doctor, examine
from helpers import hello, serving
from http_client import HOST
from processes import Process, connect, environment, free_ports, give_to_server, wait_until
from runtimes import Runtime

from fastfcgi import cli, probe
from fastfcgi.doctor_http import Site
from fastfcgi.findings import Report, note, ok, wrong

APP = [sys.executable, "-m", "fastfcgi"]
TOKEN = "gegeben für €"


def text_of(*arguments: object, **extra: str) -> "subprocess.CompletedProcess[str]":
    """The command as a person calls it."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=environment({"PYTHONPATH": PACKAGE, **extra}),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


@contextlib.contextmanager
def fastfcgi_serve(folder: Path, *options: str) -> Iterator[str]:
    """The probe served by `fastfcgi serve` at FOLDER/app.sock; yields its token."""
    where = ["--bind", f"unix:{folder}/app.sock", "--socket-mode", "666"]
    command = [*APP, "serve", *where, *options, "fastfcgi.probe:application"]
    with Process(command, folder, "probe", env={"PYTHONPATH": PACKAGE}) as process:
        process.wait_for(f"{folder}/app.sock")
        said = re.search(r"fastfcgi doctor URL --token (\w+)", process.log())
        assert said, process.log()
        yield said[1]


# -------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["ftp://x"],
        ["ftp://x:21/a"],
        ["tcp://127.0.0.1:9000"],
        ["fcgi://127.0.0.1:9000/"],
        ["://x"],
        ["fd:3"],
        ["systemd"],
        ["a..b:80"],
        ["HTTP://user@host/"],
        ["http://a..b/"],
        [f"https://{'x' * 64}.org/"],
        ["http://\udcff/"],
        ["http://host/\udcff"],
        ["http://"],
        ["http://host:99999/"],
        ["http://host/?query"],
        ["http://user@host/"],
        ["http://host/", "--request", "/"],
        ["http://host/", "--ping-path", "/ping"],
        ["http://host/", "--config", "x.toml"],
        ["http://host/a", "--mount", "/b", "--bind", "./s"],
        ["./s", "--bind", "./t"],
        ["./s", "--mount", "/a"],
        ["./s", "--token", "a"],
        ["./s", "--config", "x.toml"],
        ["./s", "--timeout", "0"],
        ["./s", "--request", "no-slash"],
        ["http://host/", "--bind", "systemd"],
    ],
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: object = cli.main(["doctor", *arguments])
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    assert re.fullmatch(r"fastfcgi: error: [^\n]+\n", err), err
    assert (status, out) == (2, "")


@pytest.mark.parametrize("place", ["./a://b", "unix:a://b", "unix:///a/b"])
def test_a_path_that_only_looks_like_a_url(place: str, folder: Path) -> None:
    done = text_of(place)
    assert (done.returncode, done.stderr) == (1, "")
    assert "WRONG there is no " in done.stdout


def test_a_url_that_is_not_an_address() -> None:
    done = text_of("ftp://host/")
    assert "neither an ADDRESS (unix:/path, " in done.stderr
    assert "nor a URL (http://host/, https://host/): 'ftp://host/'" in done.stderr


def test_a_scheme_in_capitals() -> None:
    (port,) = free_ports(1)
    assert doctor(f"HTTP://127.0.0.1:{port}/").wrong == ["web-server"]


def test_alone() -> None:
    """It says what it is for."""
    done = text_of()
    assert (done.returncode, done.stderr) == (2, "")
    assert "fastfcgi doctor unix:/run/app/app.sock\n" in done.stdout


@pytest.mark.parametrize("place", ["file", "environment"])
def test_addresses_of_a_configuration(place: str, folder: Path) -> None:
    """Each of them; a relative path is one below chdir."""
    names = ["./a.sock", f"{folder}/b.sock"]
    if place == "file":
        (folder / "site.toml").write_text(f'chdir = "."\nbind = {names}\n')
        done = text_of("--config", folder / "site.toml")
    else:
        # A variable holds the words that a shell would have.
        extra = {"FASTFCGI_BIND": " ".join(names), "FASTFCGI_CHDIR": str(folder)}
        done = text_of(**extra)
    assert done.returncode == 1, done
    lines = done.stdout.splitlines()
    for name in ("a.sock", "b.sock"):
        assert lines.count(f"unix:{folder}/{name}") == 1, done
        missing = f"WRONG there is no {folder}/{name}, but its directory is there"
        assert lines.count(missing) == 1
    assert lines[-1] == "2 things are wrong."


# ----------------------------------------------------------------------------------- report


def test_report(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.take([ok("a", "all is well"), note("b", "by the way", "try this")])
    assert report.close() == 0
    report.take([wrong("c", "a \x1b[31mcolour", "change this", "  and that")])
    assert report.close() == 1
    assert capsys.readouterr().out == (
        "ok    all is well\n"
        "note  by the way\n"
        "      try this\n"
        "Nothing is wrong.\n"
        "WRONG a \\x1b[31mcolour\n"
        "      change this\n"
        "        and that\n"
        "1 thing is wrong.\n"
    )


def test_text(folder: Path) -> None:
    """A server that is well, as a person sees it."""
    with serving(hello, bind=f"unix:{folder}/s", socket_mode=0o666):
        done = text_of(f"unix:{folder}/s", "--web-user", "root")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"unix:{folder}/s"
    assert lines[1] == "ok    root may connect to it"
    assert lines[-1] == "Nothing is wrong."


# -------------------------------------------------------- the probe in an application's place


@pytest.fixture(scope="module")
def place(module_folder: Path) -> Iterator[tuple[Path, int]]:
    """nginx before FOLDER/app.sock; yields the folder and its port."""
    with doctored.nginx(module_folder) as port:
        yield module_folder, port


webserver = pytest.mark.webserver


@webserver
def test_probe_under_serve(place: tuple[Path, int]) -> None:
    folder, port = place
    with fastfcgi_serve(folder) as token:
        found = doctor(f"http://{HOST}:{port}", "--token", token)
        assert found.wrong == []
        assert {"paths", "body", "request-buffering", "buffering"} <= {
            one["key"] for one in found.findings
        }
        found = doctor(f"http://{HOST}:{port}", "--token", "another")
        assert found.wrong == ["token"]


@webserver
def test_probe_under_flup(place: tuple[Path, int]) -> None:
    """It tells of flup what fastfcgi does not do: to take the client's Proxy for its own."""
    pytest.importorskip("flup.server.fcgi")
    folder, port = place
    code = (
        "from flup.server.fcgi import WSGIServer; from fastfcgi.probe import application;"
        f"WSGIServer(application, bindAddress='{folder}/app.sock', umask=0).run()"
    )
    env = {"PYTHONPATH": os.pathsep.join([PACKAGE, *filter(None, sys.path)])}
    env[probe.TOKEN_VARIABLE] = TOKEN
    with Process([sys.executable, "-c", code], folder, "flup", env=env) as process:
        process.wait_for(f"{folder}/app.sock")
        found = doctor(f"http://{HOST}:{port}", "--token", TOKEN)
        process.stop()
        assert "httpoxy" in found.wrong
        assert 'fastcgi_param HTTP_PROXY "";' in found.advice("httpoxy")


@webserver
def test_probe_under_mod_fcgid(folder: Path, public_python: Runtime) -> None:
    """Apache starts it, and each of its processes: one, so that it remembers."""
    script = public_python.script(
        folder / "app.fcgi",
        "from fastfcgi import WSGIServer\n"
        "from fastfcgi.probe import application\n"
        "WSGIServer(application).run()\n",
    )
    give_to_server(script)
    variables = {**public_python.env, probe.TOKEN_VARIABLE: "given"}
    lines = "\n".join(f"FcgidInitialEnv {name} {value}" for name, value in variables.items())
    host = f"""{lines}
FcgidMaxProcessesPerClass 1
<Directory FOLDER>
    Require all granted
    Options +ExecCGI
    SetHandler fcgid-script
    OPTIONS
</Directory>
ScriptAlias "/" "{script}/"
"""
    of_all = "FcgidIPCDir FOLDER/ipc\nFcgidProcessTableFile FOLDER/shm"
    modules = ("alias", "fcgid")
    with doctored.apache(folder, host.replace("OPTIONS", ""), modules, of_all) as port:
        found = doctor(f"http://{HOST}:{port}", "--token", "given")
    assert found.wrong == ["authorization-withheld", "body-limit"]
    assert "In the <Directory> of the script:" in found.advice("authorization-withheld")
    assert "FcgidMaxRequestLen 67108864" in found.advice("body-limit")
    found.one("slash", "note")
    advised = host.replace("OPTIONS", "CGIPassAuth On") + "AllowEncodedSlashes On\n"
    advised += "FcgidMaxRequestLen 67108864"
    with doctored.apache(folder, advised, modules, of_all) as port:
        names = ("check_paths", "check_authorization", "check_bodies")
        found = examine(folder, port, "", *names, token="given")
    assert found.wrong == []
    assert not [one for one in found.findings if one["key"] == "slash"]


ANSWERS = {
    "no JSON": b"<html>",
    "nothing": b"",
    "no report": b"{}",
    "another shape": b'{"environ": [], "body": 5}',
    "numbers": json.dumps(
        {"environ": {"PATH_INFO": 5}, "body": {"length": 0, "sha256": "", "error": ""}}
    ).encode(),
    "a list": b"[1]",
    "half a report": b'{"environ": {}, "body": {"length": 0, "sha256": "", "error": ""}}',
    "escapes": b'{"environ": {"SCRIPT_NAME": "\\u001b[2J"}, "authorization": null, "proxy": 0,'
    b' "proxied": 0, "body": {"length": 0, "sha256": "", "error": ""}}',
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_probe_that_is_none(answer: bytes) -> None:
    """Whoever says that it is one may say anything; that is told, in characters that print."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header(probe.SIGN, "1")
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_PUT = do_GET

        def log_message(self, *ignored: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((HOST, 0), Handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            done = text_of(f"http://{HOST}:{web.server_port}", "--timeout", "5")
        finally:
            web.shutdown()
            thread.join()
    assert (done.returncode, done.stderr) == (1, "")
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines()[-1].endswith("wrong.")


def test_an_early_refusal() -> None:
    """Who does not want a body may say so and close, while it is being sent."""
    with socket.create_server((HOST, 0)) as listener:

        def refuse() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(100)
                peer.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        site = Site(f"http://{HOST}:{listener.getsockname()[1]}", "token", 30)
        answer = site.ask("/", method="POST", body=bytes(20 * 1024 * 1024))
        thread.join()
    assert answer.status == 413


@webserver
def test_another_application_answers(place: tuple[Path, int]) -> None:
    """It says how to go on."""
    folder, port = place
    with serving(hello, bind=f"unix:{folder}/app.sock", socket_mode=0o666):
        found = doctor(f"http://{HOST}:{port}")
        assert found.wrong == []
        assert "answered with 200" in found.one("status", "ok")["text"]
        assert "from fastfcgi.probe import application" in found.advice("no-probe", "note")
        # It is not disturbed when the doctor wants its address.
        found = doctor(f"http://{HOST}:{port}", "--bind", f"unix:{folder}/app.sock")
        assert found.wrong == ["in-use"]
        assert f"fastfcgi doctor http://{HOST}:{port} --token TOKEN" in found.advice("in-use")
        connect(f"{folder}/app.sock").close()


@webserver
def test_nobody_answers(place: tuple[Path, int]) -> None:
    found = doctor(f"http://{HOST}:{place[1]}")
    assert found.wrong == ["status"]
    assert "502 Bad Gateway: the web server cannot connect" in found.one("status")["text"]


@webserver
@pytest.mark.parametrize("loop", [True, False])
def test_redirects(loop: bool, folder: Path) -> None:
    with doctored.nginx(folder, f"return 301 $scheme://$http_host{'/' if loop else '/x'};") as port:
        found = doctor(f"http://{HOST}:{port}/")
    if loop:
        assert found.wrong == ["redirect-loop"]
    else:
        assert found.wrong == []
        target = f"fastfcgi doctor http://{HOST}:{port}/x"
        assert found.advice("redirect", "note") == f"Ask for that: {target}"


@webserver
def test_mount(folder: Path) -> None:
    """A URL may name a page below the mount."""
    location = doctored.NGINX_WSGI + doctored.TO_SOCKET
    bind = ["--bind", f"unix:{folder}/app.sock"]
    with doctored.nginx(folder, location, path="/wsgi") as port:
        url = f"http://{HOST}:{port}/wsgi/a%20page/"
        below = examine(folder, port, "/wsgi/a%20page", "check_paths")
        assert below.wrong == ["split-elsewhere"]
        assert doctor(url, *bind, "--mount", "/wsgi").wrong == []


def test_bind_fails(folder: Path) -> None:
    found = doctor("http://127.0.0.1:9/", "--bind", f"unix:{folder}/none/app.sock")
    assert found.wrong == ["bind"]


@webserver
def test_a_signal_ends_it_tidily(folder: Path) -> None:
    """The socket goes with it."""
    with doctored.nginx(folder, "proxy_pass http://unix:FOLDER/mute.sock;") as port:
        with socket.socket(socket.AF_UNIX) as mute:
            mute.bind(f"{folder}/mute.sock")
            os.chmod(f"{folder}/mute.sock", 0o666)
            mute.listen()
            words = [*COMMAND, f"http://{HOST}:{port}", "--bind", f"unix:{folder}/app.sock"]
            words += ["--timeout", "100"]
            with Process(words, folder, "doctor", env={"PYTHONPATH": PACKAGE}) as process:
                mute.settimeout(30)
                peer, _ = mute.accept()
                with peer:
                    wait_until(lambda: (folder / "app.sock").exists(), "the probe's socket")
                    assert process.stop() == 0
                assert not (folder / "app.sock").exists()
