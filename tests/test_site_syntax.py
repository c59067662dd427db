"""What `fastfcgi config` prints is taken by the programs that it is for, which check it."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import missing, require
from webservers import certificate, printed, require_modules

from fastfcgi.site_command import SERVERS

pytestmark = pytest.mark.webserver

# Program and arguments that check the file CONFIG.
CHECKS = {
    "nginx": ["nginx", "-e", "stderr", "-t", "-c", "CONFIG"],
    "lighttpd": ["lighttpd", "-tt", "-f", "CONFIG"],
    "lighttpd-bin-path": ["lighttpd", "-tt", "-f", "CONFIG"],
    "apache": ["apache2", "-t", "-f", "CONFIG"],
    "apache-fcgid": ["apache2", "-t", "-f", "CONFIG"],
    "caddy": ["caddy", "validate", "--adapter", "caddyfile", "--config", "CONFIG"],
    "haproxy": ["haproxy", "-c", "-f", "CONFIG"],
    "h2o": ["h2o", "-t", "-c", "CONFIG"],
}

MODULES = "/usr/lib/apache2/modules"

# Warnings that are no fault of the configuration: nginx says to everybody but root that a line is
# for root, Caddy that a certificate of our own has no OCSP, and that what was ordered is so.
KNOWN = [
    'the "user" directive makes sense only',
    "no OCSP stapling",
    "redirects are disabled",
    "no automatic HTTPS will be applied",
]

DEFAULT_PLACES = [
    *("/var/log", "/var/lock", "/var/cache", "/var/www", "/run", "/srv/app", "/etc/apache2")
]

# The least that a part of a configuration needs around it; PART is its file.
AROUND = {
    "nginx": "events {{}} pid {folder}/pid; http {{ include {part}; }}",
    "lighttpd": 'server.document-root = "{folder}" server.port = {port}\ninclude "{part}"',
    "apache": "Listen 127.0.0.1:{port}\nServerName x\nServerRoot {folder}\n"
    "DefaultRuntimeDir {folder}\nPidFile {folder}/pid\nMutex file:{folder} default\n"
    "ErrorLog {folder}/log\n{modules}\nInclude {part}",
    "caddy": "{{\n\tadmin off\n}}\n\nimport {part}\n",
    "haproxy": "defaults\n    mode http\n    timeout connect 1s\n    timeout client 1s\n"
    "    timeout server 1s\n{text}",
    "h2o": "{listen}{text}",
}
LOADED = ["mpm_event", "authz_core", "ssl", "alias", "proxy", "proxy_fcgi", "proxy_scgi", "fcgid"]

# TCP in the form that is harder to write.
ADDRESSES = {"unix": "unix:/run/app/app.sock", "tcp": "[::1]:9000"}


def check(server: str, folder: Path, text: str) -> None:
    """The program takes it as it is, without a warning about it."""
    config = folder / "server.conf"
    config.write_text(text)
    command = [str(config) if word == "CONFIG" else word for word in CHECKS[server]]
    command[0] = require(command[0])
    require_modules(text)
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder)},
        timeout=60,
    )
    assert done.returncode == 0, f"{done.stdout}\n{text}"
    warnings = [line for line in done.stdout.splitlines() if "warn" in line.lower()]
    assert all(any(known in line for known in KNOWN) for line in warnings), f"{done.stdout}\n{text}"


def with_the_rest(server: str, folder: Path, text: str, port: int, tls: bool) -> str:
    """A part with what it needs around it."""
    part = folder / "part.conf"
    part.write_text(text)
    require_modules(text)
    loads = "".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so\n" for name in LOADED)
    return AROUND[server.partition("-")[0]].format(
        folder=folder,
        part=part,
        text=text,
        port=port,
        modules=loads,
        listen="" if tls else f"listen: {port}\n",
    )


@pytest.fixture(scope="module")
def files(module_folder: Path) -> Iterator[Path]:
    """A folder with a certificate and a folder of static files."""
    (module_folder / "static").mkdir()
    (module_folder / "app.fcgi").write_text("#!/bin/sh\n")
    (module_folder / "app.fcgi").chmod(0o755)
    certificate(module_folder)
    yield module_folder


def everything(server: str, files: Path, mount: str) -> list[str]:
    """All options that the server can honour, besides those that a test chooses."""
    options = {
        "host": "www.example.org",
        "static": f"{mount}/static={files}/static",
        "tls_cert": f"{files}/site.pem",
        "tls_key": f"{files}/site.pem.key",
        "env": "NAME=a value; with \"quotes' in # it",
        "stream": None,
        "no_keep_alive": None,
        "multiplex": None,
    }
    chosen = []
    for option in options.keys() - SERVERS[server].cannot.keys():
        name, value = "--" + option.replace("_", "-"), options[option]
        chosen.append(name if value is None else f"{name}={value}")
    return chosen


WAYS = [(server, way) for server in CHECKS for way in ("plain", "everything")]
WAYS += [(server, "scgi") for server in CHECKS if "protocol" not in SERVERS[server].cannot]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("mount", ["/", "/wsgi/v1.0+x"])
@pytest.mark.parametrize(("server", "way"), WAYS)
def test_syntax(files: Path, server: str, mount: str, address: str, way: str) -> None:
    """The whole, and the part in what it is put into."""
    cannot = SERVERS[server].cannot
    arguments = [server, f"--mount={mount}", "--listen=127.0.0.1:48480", f"--root={files}"]
    if "address" not in cannot:
        arguments.append(f"--address={ADDRESSES[address]}")
    if server in ("apache-fcgid", "lighttpd-bin-path"):
        arguments.append(f"--script={files}/app.fcgi")
    if way == "scgi":
        arguments.append("--protocol=scgi")
    if way == "everything":
        arguments += everything(server, files, "" if mount == "/" else mount)
    check(server, files, printed(*arguments, f"--state-dir={files}"))
    part = printed(*arguments, "--snippet")
    check(server, files, with_the_rest(server, files, part, 48481, way == "everything"))


@pytest.mark.parametrize("server", CHECKS)
def test_syntax_of_the_defaults(files: Path, server: str) -> None:
    """Without any option, except that our folders stand in for those that only root may use."""
    text = printed(server)
    for place in DEFAULT_PLACES:
        (files / place[1:]).mkdir(parents=True, exist_ok=True)
        text = text.replace(f"{place}/", f"{files}{place}/")
        text = text.replace(f'"{place}"', f'"{files}{place}"')
    for name in ("nginx", "lighttpd/uploads", "apache2", "h2o"):
        for parent in ("var/log", "var/lock", "var/cache", "run"):
            (files / parent / name).mkdir(parents=True, exist_ok=True)
    (files / "var/www/html").mkdir(exist_ok=True)
    shutil.copy(files / "app.fcgi", files / "srv/app")
    for port in ("listen 80;", "[::]:80", "server.port = 80", "Listen 80", ":::80 ", "port: 80"):
        text = text.replace(port, port.replace("80", "48482"))
    check(server, files, text)


# Debian's own file, and what in it has to be ours here: folder, port and where the part is.
DEBIAN = {
    "nginx": (
        "/etc/nginx/nginx.conf",
        {
            r"/etc/nginx/sites-enabled/\*": "{part}",
            r"pid [^;]+;": "pid {folder}/pid;",
            "/var/log/nginx": "{folder}",
            "/etc/nginx/modules-enabled/": "{folder}/none",
        },
    ),
    "lighttpd": (
        "/etc/lighttpd/lighttpd.conf",
        {
            r"/etc/lighttpd/conf-enabled/\*.conf": "{part}",
            r"\nserver.port .*": "\nserver.port = 48484",
            r"/var/log/lighttpd|/var/cache/lighttpd/uploads": "{folder}",
        },
    ),
    "haproxy": ("/etc/haproxy/haproxy.cfg", {r"\Z": "\n{text}"}),
}


@pytest.mark.parametrize("mount", ["/", "/wsgi"])
@pytest.mark.parametrize("server", DEBIAN)
def test_part_in_what_debian_has(files: Path, server: str, mount: str) -> None:
    require(CHECKS[server][0])
    origin, changes = DEBIAN[server]
    if not Path(origin).exists():
        missing(origin)
    arguments = [f"--mount={mount}", "--listen=127.0.0.1:48485"]
    arguments += ["--static=/static=/srv"] if server != "haproxy" else []
    text = printed(server, "--snippet", *arguments)
    part = files / "debian-part.conf"
    part.write_text(text)
    whole = Path(origin).read_text()
    for old, new in changes.items():
        filled = new.format(part=part, folder=files, text=text)
        whole, count = re.subn(old, lambda _, filled=filled: filled, whole)
        assert count, old
    check(server, files, whole)


# ---- what starts the application ----------------------------------------------------------------


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("started", ["script", "app"])
def test_systemd_units(files: Path, address: str, started: str) -> None:
    """systemd-analyze finds nothing in them to say anything about."""
    verify = require("systemd-analyze")
    place = files / "a b%c"
    (place / "venv" / "bin").mkdir(parents=True, exist_ok=True)
    for program in (place / "app.fcgi", place / "venv" / "bin" / "fastfcgi"):
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    arguments = ["systemd", f"--script={place}/app.fcgi", f"--address={ADDRESSES[address]}"]
    arguments += ["--env", 'NAME=a "b" 50% $HOME \\x', "--user", "daemon:daemon"]
    arguments += ["--app=myapp:make()", "--mount=/wsgi", "--protocol=scgi"] * (started == "app")
    text = printed(*arguments)
    head, *units = text.split("# ---- /etc/systemd/system/")
    assert head.startswith("# Two units")
    assert [unit.partition("\n")[0] for unit in units] == ["app.socket", "app.service"]
    for unit in units:
        name, _, content = unit.partition("\n")
        (files / name).write_text(content)
    done = subprocess.run(
        [verify, "verify", "--man=no", str(files / "app.socket"), str(files / "app.service")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + text


@pytest.mark.parametrize("address", ADDRESSES)
def test_spawn_fcgi_script(files: Path, address: str) -> None:
    """The shell finds no mistake in it, and keeps a name with all that is special as one word."""
    odd = files / "a 'b' \"c\" $d \\ ;e.fcgi"
    text = printed(
        "spawn-fcgi", f"--script={odd}", f"--address={ADDRESSES[address]}", "--env=A=$B'"
    )
    shown = text.replace("exec spawn-fcgi", "exec printf '%s\\n' spawn-fcgi")
    (files / "start.sh").write_text(shown)
    done = subprocess.run(["sh", str(files / "start.sh")], capture_output=True, text=True)
    words = done.stdout.splitlines()
    where = ["-s", "/run/app/app.sock"] if address == "unix" else ["-a", "::1", "-p", "9000"]
    assert (words[:2], words[2 : 2 + len(where)], words[-2:]) == (
        ["spawn-fcgi", "-n"],
        where,
        ["--", str(odd)],
    )
