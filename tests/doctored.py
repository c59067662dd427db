"""Web servers for the tests of `fastfcgi doctor`, each with one site, right or wrong on purpose.

Their configurations are written here in full, so that each mistake stands where it is tested.
"""

import contextlib
import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from http_client import HOST
from processes import (
    SERVER_USER,
    Process,
    environment,
    free_ports,
    give_to_server,
    missing,
    require,
)

import fastfcgi
from fastfcgi import doctor as doctor_module
from fastfcgi.doctor_http import Site
from fastfcgi.doctor_serve import ProbeServer
from fastfcgi.doctor_visit import Visit
from fastfcgi.findings import Report
from fastfcgi.probe import Probe

PACKAGE = str(Path(fastfcgi.__file__).parents[1])
COMMAND = [sys.executable, "-m", "fastfcgi", "doctor"]

MODULES = Path("/usr/lib/apache2/modules")


class Found(NamedTuple):
    """What the doctor has said."""

    status: int
    findings: list[dict[str, Any]]

    @property
    def wrong(self) -> list[str]:
        """Keys of what is wrong, in their order."""
        return [one["key"] for one in self.findings if one["level"] == "WRONG"]

    def one(self, key: str, level: str = "WRONG") -> dict[str, Any]:
        """The finding of that key and level; there has to be one."""
        found = [one for one in self.findings if (one["key"], one["level"]) == (key, level)]
        assert len(found) == 1, (key, level, self)
        return found[0]

    def advice(self, key: str, level: str = "WRONG") -> str:
        """Its advice as one text."""
        return "\n".join(self.one(key, level)["advice"])


def doctor(*arguments: object, **extra: str) -> Found:
    """Run the command in a process of its own."""
    words = [*COMMAND, *map(str, arguments), "--json"]
    done = subprocess.run(
        words,
        env=environment({"PYTHONPATH": PACKAGE, **extra}),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=180,
    )
    assert done.stdout and not done.stderr, (done.stdout, done.stderr)
    found = Found(done.returncode, json.loads(done.stdout))
    assert found.status == (1 if found.wrong else 0)
    return found


# What takes a moment each; asked for by name where it is of interest.
SLOW = ("check_request_buffering", "check_streaming", "check_bodies", "check_chunked")


def examine(
    folder: Path,
    port: int,
    mount: str = "",
    *names: str,
    scheme: str = "http",
    wait: float = 30.0,
    token: str = "",
) -> Found:
    """What the doctor finds through a web server, in this process; it serves FOLDER/app.sock.

    Args:
        names: The checks to make; without any, all but SLOW.
        token: Of a probe that somebody else serves.
    """
    served = not token
    token = token or secrets.token_hex(8)
    visit = Visit(Site(f"{scheme}://{HOST}:{port}{mount}", token, wait))
    visit.address = f"unix:{folder}/app.sock"
    report = Report(as_json=True)
    with contextlib.ExitStack() as stack:
        if served:
            probe_server = ProbeServer(Probe(token), visit.address)
            visit.served = stack.enter_context(probe_server.running())
        checks = [c for c in doctor_module._CHECKS if c.__name__ in names or not names]
        if not names:
            checks = [check for check in checks if check.__name__ not in SLOW]
        with pytest.MonkeyPatch.context() as context:
            context.setattr(doctor_module, "_CHECKS", checks)
            doctor_module._examine(visit, report, SERVER_USER)
    findings = [asdict(finding) for finding in report.findings]
    return Found(1 if any(one.level == "WRONG" for one in report.findings) else 0, findings)


@contextlib.contextmanager
def server(
    folder: Path, config: str | Callable[[int], str], *command: str, user: str | None = SERVER_USER
) -> Iterator[int]:
    """A web server with that configuration, PORT and FOLDER in it filled in; yields the port.

    CONFIG in its command is the file. A port that somebody else takes first is tried anew.
    """
    path = folder / "web.conf"
    for attempt in range(3):
        (port,) = free_ports(1)
        text = config(port) if callable(config) else config
        path.write_text(text.replace("PORT", str(port)).replace("FOLDER", str(folder)))
        words = [str(path) if word == "CONFIG" else word for word in command]
        process = Process([require(words[0]), *words[1:]], folder, words[0], user=user)
        try:
            process.wait_for((HOST, port))
        except BaseException:
            process.popen.kill()
            process.popen.wait()
            if attempt < 2 and "in use" in process.log().lower():
                continue
            raise
        with process:
            yield port
        return


# ------------------------------------------------------------------------------------ nginx

# Debian's file has "HTTP_HOST $host", without the port.
HOST_LINE = "fastcgi_param HTTP_HOST $host:$server_port;"
NGINX_ROOT = f"""include /etc/nginx/fastcgi_params; {HOST_LINE}
    fastcgi_param SCRIPT_NAME "";
    fastcgi_param PATH_INFO $fastcgi_script_name;"""
NGINX_WSGI = """fastcgi_split_path_info ^(/wsgi)(.*)$;
    include /etc/nginx/fastcgi_params;
    fastcgi_param HTTP_HOST $host:$server_port;
    fastcgi_param PATH_INFO $fastcgi_path_info;"""
TO_SOCKET = "fastcgi_pass unix:FOLDER/app.sock;"


@contextlib.contextmanager
def nginx(
    folder: Path,
    location: str = f"{NGINX_ROOT} {TO_SOCKET}",
    *,
    path: str = "/",
    of_server: str = "client_max_body_size 64m; fastcgi_buffer_size 32k; fastcgi_buffers 8 32k;",
    of_http: str = "",
    tls: bool = False,
    user: str | None = SERVER_USER,
) -> Iterator[int]:
    """nginx with one location."""
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/nginx-{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    listen = "listen 127.0.0.1:PORT"
    if tls:
        certificate(folder)
        listen += " ssl; ssl_certificate FOLDER/cert.pem; ssl_certificate_key FOLDER/key.pem"
    config = f"""daemon off; worker_processes 1; pid FOLDER/nginx.pid; error_log stderr; events {{}}
http {{ access_log off; {temporary} {of_http}
server {{ {listen}; {of_server}
location {path} {{
    {location}
}} }} }}
"""
    command = ["nginx", "-e", "stderr", "-p", str(folder), "-c", "CONFIG"]
    with server(folder, config, *command, user=user) as port:
        yield port


def certificate(folder: Path) -> None:
    """A self-signed certificate for 127.0.0.1."""
    command = [require("openssl"), "req", "-x509", "-newkey", "ec", "-nodes", "-days", "1"]
    options = ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=127.0.0.1"]
    out = ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    subprocess.run([*command, *options, *out], check=True, capture_output=True)
    for name in ("key.pem", "cert.pem"):
        give_to_server(folder / name)


# --------------------------------------------------------------------------------- lighttpd

FIX_ROOT = '"fix-root-scriptname" => "enable",'


@contextlib.contextmanager
def lighttpd(
    folder: Path, options: str = FIX_ROOT, path: str = "/", more: str = ""
) -> Iterator[int]:
    """lighttpd 1.4 with one entry in fastcgi.server."""
    config = f"""server.modules = ( "mod_fastcgi" )
server.bind = "127.0.0.1"
server.port = PORT
server.document-root = "FOLDER"
server.upload-dirs = ( "FOLDER" )
{more}
fastcgi.server = ( "{path}" => (( {options} "socket" => "FOLDER/app.sock",
    "check-local" => "disable" )) )
"""
    with server(folder, config, "lighttpd", "-D", "-f", "CONFIG") as port:
        yield port


# ----------------------------------------------------------------------------------- Apache


@contextlib.contextmanager
def apache(
    folder: Path,
    host: str,
    modules: Sequence[str] = ("proxy", "proxy_fcgi"),
    of_all: str = "",
) -> Iterator[int]:
    """Apache with one virtual host."""
    for module in modules:
        if not (MODULES / f"mod_{module}.so").exists():
            missing(f"Apache's mod_{module}")
    loads = "\n".join(
        f"LoadModule {module}_module {MODULES}/mod_{module}.so"
        for module in ("mpm_event", "authz_core", *modules)
    )
    config = f"""{loads}
ServerRoot FOLDER
ServerName www.example.org
DefaultRuntimeDir FOLDER
PidFile FOLDER/apache.pid
Mutex file:FOLDER default
ErrorLog FOLDER/apache2.log
DocumentRoot FOLDER
{of_all}
Listen 127.0.0.1:PORT
<VirtualHost 127.0.0.1:PORT>
{host}
</VirtualHost>
"""
    with server(folder, config, "apache2", "-DFOREGROUND", "-f", "CONFIG") as port:
        yield port


APACHE_ROOT = """AllowEncodedSlashes On
ProxyPass "/" "unix:FOLDER/app.sock|fcgi://app/" enablereuse=on
ProxyFCGISetEnvIf "true" PATH_INFO "%{reqenv:SCRIPT_NAME}"
ProxyFCGISetEnvIf "true" SCRIPT_NAME ""
"""
CGI_PASS_AUTH = """<Location "/">
    CGIPassAuth On
</Location>
"""
APACHE_WSGI = """AllowEncodedSlashes On
<Location "/wsgi">
    SetHandler "proxy:unix:FOLDER/app.sock|fcgi://app/"
    CGIPassAuth On
</Location>
"""


# --------------------------------------------------------------------- HAProxy, Caddy, H2O


@contextlib.contextmanager
def haproxy(folder: Path, app: str, line: str = "proto fcgi", more: str = "") -> Iterator[int]:
    """HAProxy with one application."""
    config = f"""global
    log stderr format raw local0
    nbthread 1
defaults
    mode http
    log global
    timeout connect 10s
    timeout client 60s
    timeout server 60s
fcgi-app app
    docroot FOLDER
    {app}
frontend front
    bind 127.0.0.1:PORT
    default_backend back
backend back
    {more or "use-fcgi-app app"}
    server app unix@FOLDER/app.sock {line}
"""
    with server(folder, config, "haproxy", "-db", "-f", "CONFIG") as port:
        yield port


@contextlib.contextmanager
def caddy(folder: Path, transport: str, matcher: str = "") -> Iterator[int]:
    """Caddy with one reverse_proxy."""
    config = f"""{{
    admin off
    auto_https off
}}
http://:PORT {{
    bind 127.0.0.1
    reverse_proxy {matcher} unix/FOLDER/app.sock {{
        {transport}
    }}
}}
"""
    command = ["caddy", "run", "--config", "CONFIG", "--adapter", "caddyfile"]
    with server(folder, config, *command) as port:
        yield port


@contextlib.contextmanager
def h2o(folder: Path, path: str = "/") -> Iterator[int]:
    """H2O with one fastcgi.connect."""
    config = f"""pid-file: FOLDER/h2o.pid
error-log: /dev/stderr
num-threads: 1
fastcgi.document_root: FOLDER
hosts:
  "default":
    listen:
      host: 127.0.0.1
      port: PORT
    paths:
      "{path}":
        fastcgi.connect:
          port: FOLDER/app.sock
          type: unix
"""
    with server(folder, config, "h2o", "-m", "worker", "-c", "CONFIG") as port:
        yield port
