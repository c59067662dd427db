"""Real web servers in front of a FastCGI application, on what `fastfcgi config` prints for them.

start() begins one of WEB_SERVERS on a free port of 127.0.0.1, in a folder of its own. Of what is
printed it changes only what a kind names in `changed`.
"""

import contextlib
import grp
import io
import os
import pwd
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from http_client import HOST, Site
from processes import SERVER_USER, Process, free_ports, give_to_server, missing, require

from fastfcgi import cli


@dataclass(frozen=True)
class WebServerKind:
    """A web server and what is special about it.

    Attributes:
        server: What `fastfcgi config` calls it.
        command: How it is started in the foreground; CONFIG is the file, FOLDER its folder.
        options: More options of `fastfcgi config`.
        changed: Printed text -> what tests need in its place.
        starts_application: It needs a script instead of an address.
        needs_mount: Below a path, the application has to be told where (SCRIPT_NAME is empty).
        cleans_paths: It makes one slash of two and resolves dots.
        logs_stderr: FCGI_STDERR reaches its log.
        cuts_unfinished: Without END_REQUEST the client's answer is cut, without a length too.
        keeps_connections: It keeps connections to the application.
        sends_http_proxy: A header named Proxy arrives as HTTP_PROXY.
        clients: How many at once it takes without errors of its own.
    """

    server: str
    command: Sequence[str]
    options: Sequence[str] = ()
    changed: Mapping[str, str] = field(default_factory=dict)
    starts_application: bool = False
    needs_mount: bool = False
    cleans_paths: bool = True
    logs_stderr: bool = True
    cuts_unfinished: bool = False
    keeps_connections: bool = False
    sends_http_proxy: bool = False
    clients: int = 50

    @property
    def program(self) -> str:
        """What has to be installed."""
        return self.command[0]


# -e: before it has read its configuration it would write into a log folder of root's.
_NGINX = ["nginx", "-e", "stderr", "-p", "FOLDER", "-g", "daemon off;", "-c", "CONFIG"]

# Kept client connections are cut when a process has no thread left, or is one too many.
_THREADS = {
    "StartServers": 2,
    "ServerLimit": 2,
    "ThreadsPerChild": 64,
    "MaxRequestWorkers": 128,
    "MinSpareThreads": 1,
    "MaxSpareThreads": 128,
}
_APACHE = [
    *("apache2", "-DFOREGROUND", "-f", "CONFIG"),
    *(word for name, number in _THREADS.items() for word in ("-c", f"{name} {number}")),
]
_HAPROXY = ["haproxy", "-db", "-f", "CONFIG"]
_LIGHTTPD = ["lighttpd", "-D", "-f", "CONFIG"]

# Tests count descriptors; idle connections would be kept for 5 seconds.
_PURGED = {" proto fcgi\n": " proto fcgi pool-purge-delay 1s\n"}
# Each thread has connections of its own, and one connection is to carry all.
_ONE_THREAD = {"global\n    user": "global\n    nbthread 1\n    user", **_PURGED}
_FIXED = "    option mpxs-conns  # many requests at once on a connection\n    option max-reqs 32\n"


def _haproxy(*options: str, changed: Mapping[str, str], clients: int = 50) -> WebServerKind:
    return WebServerKind(
        "haproxy",
        _HAPROXY,
        options,
        changed,
        cleans_paths=False,
        cuts_unfinished=True,
        keeps_connections=True,
        clients=clients,
    )


WEB_SERVERS = {
    "nginx": WebServerKind(
        "nginx",
        _NGINX,
        # Each worker process keeps connections of its own.
        changed={"worker_processes auto;": "worker_processes 1;"},
        keeps_connections=True,
    ),
    "lighttpd": WebServerKind("lighttpd", _LIGHTTPD),
    "lighttpd-bin-path": WebServerKind("lighttpd-bin-path", _LIGHTTPD, starts_application=True),
    "apache": WebServerKind("apache", _APACHE, cuts_unfinished=True, keeps_connections=True),
    "apache-fcgid": WebServerKind(
        "apache-fcgid", _APACHE, cuts_unfinished=True, starts_application=True
    ),
    "haproxy": _haproxy(changed=_PURGED),
    # 2.6 answers 500 ("IH" in its log) when many bodies at once fill a shared connection's buffer.
    "haproxy-mpxs": _haproxy("--multiplex", changed=_ONE_THREAD, clients=8),
    "haproxy-get-values": _haproxy(
        "--multiplex", changed={**_ONE_THREAD, _FIXED: "    option get-values\n"}, clients=8
    ),
    "caddy": WebServerKind(
        "caddy",
        ["caddy", "run", "--config", "CONFIG", "--adapter", "caddyfile"],
        cleans_paths=False,
        logs_stderr=False,
    ),
    "h2o": WebServerKind(
        "h2o",
        ["h2o", "-m", "worker", "-c", "CONFIG"],
        cleans_paths=False,
        needs_mount=True,
        keeps_connections=True,
        sends_http_proxy=True,
    ),
}


class WebServer(Process):
    """A running web server with one site; the attributes of its kind are its own too."""

    name_of_kind: str
    kind: WebServerKind
    site: Site

    def __getattr__(self, name: str) -> object:
        if name.startswith("_") or "kind" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.kind, name)

    def log(self) -> str:
        """What it has written to stdout, stderr and its error log."""
        error_log = self.log_path.parent / "error.log"
        more = error_log.read_text(errors="replace") if error_log.exists() else ""
        return super().log() + more


def printed(*arguments: str) -> str:
    """What `fastfcgi config` prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main(["config", *arguments]) == 0
    return out.getvalue()


def start(
    name: str,
    folder: Path,
    address: str | tuple[Any, ...] | None = None,
    mount: str = "",
    *,
    tls: bool = False,
    changed: Mapping[str | re.Pattern[str], str] | None = None,
    **options: Any,
) -> WebServer:
    """A web server in front of an application, listening; use it in a with block.

    Args:
        name: of WEB_SERVERS.
        folder: where it gets a folder of its own.
        address: of the application: the path of a unix socket, or host and port.
        mount: its path, "" for all of the site.
        tls: whether the site has TLS, with a certificate that it signed itself.
        changed: printed text, or a pattern of it -> what is needed in its place.
        options: script, env, static, host, stream, keep_alive, protocol; see _arguments().
    """
    kind, place = WEB_SERVERS[name], _place(folder, name)
    words = _arguments(kind, place, address, mount, **options)
    for option, path in zip(("cert", "key"), certificate(place) if tls else (), strict=False):
        words.append(f"--tls-{option}={path}")
    replaced: dict[str | re.Pattern[str], str] = {**kind.changed, **(changed or {})}
    if kind.server == "h2o" and SERVER_USER:
        replaced["user: "] = "# user: "  # it runs as that user already

    def configure(port: int) -> str:
        text = printed(*words, "--listen", f"{HOST}:{port}")
        for old, new in replaced.items():
            pattern = re.compile(re.escape(old)) if isinstance(old, str) else old
            assert pattern.search(text), f"{old!r} is not in:\n{text}"
            text = pattern.sub(lambda _, new=new: new, text)
        return text

    server = _run(kind, place, configure, mount, tls)
    server.name_of_kind = name
    return server


def _arguments(
    kind: WebServerKind,
    place: Path,
    address: str | tuple[Any, ...] | None,
    mount: str,
    *,
    script: Path | None = None,
    env: Mapping[str, str] | None = None,
    static: Mapping[str, Path] | None = None,
    host: str = "",
    stream: bool = False,
    keep_alive: bool = True,
    protocol: str = "fastcgi",
) -> list[str]:
    """What `fastfcgi config` is given.

    Args:
        script: what the web server starts, in place of an address.
        env: environment of the script.
        static: URL path -> folder of files.
        host: name of the site, "" for any.
        stream, keep_alive, protocol: as they are called there.
    """
    words = [kind.server, "--state-dir", str(place), "--root", str(place / "www"), *kind.options]
    words += ["--mount", mount or "/"]
    if not kind.starts_application:
        assert address is not None
        words += ["--address", _text(address)]
    elif kind.server == "lighttpd-bin-path":
        words += ["--address", str(place / "bin.sock")]
    words += ["--script", str(script)] if script else []
    words += [word for key, value in (env or {}).items() for word in ("--env", f"{key}={value}")]
    # Caddy runs as whoever starts it.
    words += ["--user", user_and_group()] if kind.server != "caddy" else []
    words += [f"--static={url}={path}" for url, path in (static or {}).items()]
    words += ["--host", host] if host else []
    words += ["--stream"] if stream else []
    words += [] if keep_alive else ["--no-keep-alive"]
    return [*words, *([] if protocol == "fastcgi" else ["--protocol", protocol])]


def require_modules(text: str) -> None:
    """Skip the test (in CI: fail it) where a module that a configuration loads is not installed."""
    modules = re.findall(r"^ *LoadModule \S+ (/\S+)$", text, re.MULTILINE)
    if '"mod_openssl"' in text:
        modules.append("/usr/lib/lighttpd/mod_openssl.so")
    for module in modules:
        if not Path(module).exists():
            missing(module)


def _place(folder: Path, name: str) -> Path:
    """A folder of its own, of the user that web servers run as."""
    place = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder))
    for path in (place, place / "www"):
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
        give_to_server(path)
    return place


def _text(address: str | tuple[Any, ...]) -> str:
    if isinstance(address, str):
        return address
    host, port = address[:2]  # of IPv6 there are more
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def user_and_group() -> str:
    """Whom web servers run as: USER:GROUP."""
    entry = pwd.getpwnam(SERVER_USER) if SERVER_USER else pwd.getpwuid(os.geteuid())
    return f"{entry.pw_name}:{grp.getgrgid(entry.pw_gid).gr_name}"


def certificate(folder: Path) -> tuple[Path, Path]:
    """Files with a certificate for localhost, signed by itself, and its key."""
    files = folder / "site.pem", folder / "site.pem.key"  # the names that HAProxy wants
    if not files[0].exists():
        command = [require("openssl"), "req", "-x509", "-nodes", "-days", "2", "-subj"]
        command += ["/CN=localhost", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        command += ["-out", str(files[0]), "-keyout", str(files[1])]
        subprocess.run(command, check=True, capture_output=True)
        for path in files:
            give_to_server(path)
    return files


def _run(
    kind: WebServerKind, place: Path, configure: Callable[[int], str], mount: str, tls: bool
) -> WebServer:
    """Write the configuration, start the server and wait for it.

    Another process may take the free port first: then the server ends, and gets another one.
    """
    config = place / "server.conf"
    words = {"CONFIG": str(config), "FOLDER": str(place)}
    command = [words.get(word, word) for word in kind.command]
    command[0] = require(command[0])
    for attempt in range(3):
        (port,) = free_ports(1)
        text = configure(port)
        require_modules(text)
        config.write_text(text)
        server = WebServer(command, place, kind.program, user=SERVER_USER)
        server.kind = kind
        server.site = Site("path" if mount else "root", port, mount, tls)
        try:
            server.wait_for((HOST, port))
        except BaseException:
            server.popen.kill()
            server.popen.wait()
            if attempt < 2 and "in use" in server.log().lower():
                continue
            raise
        return server
    raise AssertionError("not reached")


# ---- a script as plain CGI ----------------------------------------------------------------------

_CGI = {
    "lighttpd": WebServerKind("lighttpd", _LIGHTTPD),
    "apache": WebServerKind("apache", _APACHE),
}


def start_cgi(name: str, folder: Path, script: Path, env: Mapping[str, str]) -> WebServer:
    """lighttpd or Apache that runs a script as plain CGI, at /app: one process for each request.

    (`fastfcgi config` has nothing for it; docs/start/cgi.md has.)
    """
    place = _place(folder, f"{name}-cgi")
    write = {"lighttpd": _lighttpd_cgi, "apache": _apache_cgi}[name]
    server = _run(_CGI[name], place, lambda port: write(place, port, script, env), "/app", False)
    server.name_of_kind = f"{name}-cgi"
    return server


def _lighttpd_cgi(place: Path, port: int, script: Path, env: Mapping[str, str]) -> str:
    variables = ", ".join(f'"{name}" => "{value}"' for name, value in env.items())
    return f"""
server.modules = ( "mod_setenv", "mod_alias", "mod_cgi" )
server.bind = "{HOST}"
server.port = {port}
server.document-root = "{place}/www"
server.upload-dirs = ( "{place}" )
setenv.set-environment = ( {variables} )
alias.url = ( "/app" => "{script}" )
cgi.assign = ( "{script.name}" => "" )
"""


def _apache_cgi(place: Path, port: int, script: Path, env: Mapping[str, str]) -> str:
    modules = "/usr/lib/apache2/modules"
    names = ["mpm_event", "authz_core", "alias", "env", "cgid"]
    loads = "\n".join(f"LoadModule {name}_module {modules}/mod_{name}.so" for name in names)
    variables = "\n".join(f'SetEnv {name} "{value}"' for name, value in env.items())
    return f"""
{loads}
ServerRoot "{place}"
ServerName localhost
DefaultRuntimeDir "{place}"
PidFile "{place}/apache2.pid"
Mutex "file:{place}" default
ErrorLog "{place}/error.log"
ScriptSock "{place}/cgid.sock"
Listen {HOST}:{port}
AllowEncodedSlashes On
{variables}
ScriptAlias "/app" "{script}"
<Directory "{script.parent}">
    Require all granted
    CGIPassAuth On
</Directory>
"""
