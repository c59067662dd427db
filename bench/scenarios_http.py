"""Scenario 19: behind nginx, with wrk; FastCGI servers against HTTP servers."""

import http.client
import math
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from bench import meter
from bench.apps import HELLO
from bench.kinds import HTTP_KINDS, NOT_KEEPING, backlog, need
from bench.load import Failed
from bench.rounds import Contestant, Measures, Round, Scenario
from bench.running import Server

CLIENTS = 16
DEADLINE = 10.0

# One worker; connections to the server are kept wherever it keeps them.
CONFIG = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log crit;
{user}
events {{ worker_connections 512; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream server {{ server unix:{path}; keepalive 32; keepalive_requests 1000000000; }}
    server {{ listen 127.0.0.1:{port}; location / {{ {location} }} }}
}}
"""
HTTP = """
    proxy_pass http://server;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
"""
# What Debian's fastcgi_params says, and PATH_INFO.
FASTCGI = "".join(
    f"fastcgi_param {name} {value};\n"
    for name, value in {
        "QUERY_STRING": "$query_string",
        "REQUEST_METHOD": "$request_method",
        "CONTENT_TYPE": "$content_type",
        "CONTENT_LENGTH": "$content_length",
        "SCRIPT_NAME": '""',
        "PATH_INFO": "$fastcgi_script_name",
        "REQUEST_URI": "$request_uri",
        "DOCUMENT_URI": "$document_uri",
        "DOCUMENT_ROOT": "$document_root",
        "SERVER_PROTOCOL": "$server_protocol",
        "REQUEST_SCHEME": "$scheme",
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_SOFTWARE": "nginx/$nginx_version",
        "REMOTE_ADDR": "$remote_addr",
        "REMOTE_PORT": "$remote_port",
        "REMOTE_USER": "$remote_user",
        "SERVER_ADDR": "$server_addr",
        "SERVER_PORT": "$server_port",
        "SERVER_NAME": "$server_name",
        "REDIRECT_STATUS": "200",
    }.items()
)


def free_port() -> int:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def config_of(server: Server, port: int) -> str:
    if server.kind in HTTP_KINDS:
        location = HTTP
    else:
        keep = "off" if server.kind in NOT_KEEPING else "on"
        location = f"fastcgi_pass server;\nfastcgi_keep_conn {keep};\n{FASTCGI}"
    # Its worker would be somebody else, who may not use the socket.
    user = "user root;" if os.geteuid() == 0 else ""
    return CONFIG.format(
        folder=server.folder, path=server.path, port=port, location=location, user=user
    )


@contextmanager
def nginx(server: Server) -> Iterator[tuple[int, int]]:
    """(its process, its port on 127.0.0.1), in front of a server."""
    port = free_port()
    config = os.path.join(server.folder, "nginx.conf")
    with open(config, "w") as file:
        file.write(config_of(server, port))
    command = [need("nginx"), "-p", server.folder, "-c", config]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            end = time.monotonic() + DEADLINE
            while not answers(port):
                if process.poll() is not None or time.monotonic() > end:
                    raise Failed(f"no right answer through nginx: {server.log()}")
                time.sleep(0.05)
            yield process.pid, port
        finally:
            process.terminate()


def answers(port: int) -> bool:
    """Whether hello is answered rightly."""
    with suppress(OSError, http.client.HTTPException):
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)) as client:
            client.request("GET", "/hello")
            response = client.getresponse()
            return (response.status, response.read()) == (200, HELLO)
    return False


def parse_wrk(text: str) -> Measures:
    """What wrk --latency prints.

    Raises:
        Failed: Some of the responses were not right.
    """
    requests = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", text)
    if not requests or "Non-2xx" in text or "Socket errors" in text:
        raise Failed(f"wrk: {' '.join(text.split())[-300:]}")
    rate = re.search(r"Requests/sec:\s*([\d.]+)", text)
    measures = {"requests": float(requests[1]), "rate": float(rate[1]) if rate else 0.0}
    for percent in (50, 99):
        found = re.search(rf"^\s*{percent}%\s+([\d.]+)(us|ms|s)$", text, re.MULTILINE)
        if found:
            unit = {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]
            measures[f"p{percent}"] = float(found[1]) * unit
    return measures


@contextmanager
def behind_nginx(server: Server) -> Iterator[Round]:
    with nginx(server) as (front, port):

        def round(seconds: float) -> Measures:
            whole = math.ceil(seconds)  # for wrk
            pids, fronts = server.pids(), meter.group_of(front)
            cpu, front_cpu = meter.cpu_ns(pids), meter.cpu_ns(fronts)
            url = f"http://127.0.0.1:{port}/hello"
            wrk = [need("wrk"), "--latency", "-t1", f"-c{CLIENTS}", f"-d{whole}s", url]
            done = subprocess.run(wrk, capture_output=True, text=True, timeout=whole + DEADLINE)
            cpu, front_cpu = meter.cpu_ns(pids) - cpu, meter.cpu_ns(fronts) - front_cpu
            measures = parse_wrk(done.stdout + done.stderr)
            measures["cpu"] = cpu / 1000 / measures["requests"]
            measures["front_cpu"] = front_cpu / 1000 / measures["requests"]
            return measures

        yield round


def http_scenarios() -> Iterator[Scenario]:
    yield Scenario(
        "nginx",
        "hello behind nginx, wrk with 16 connections",
        behind_nginx,
        {
            "fastfcgi": Contestant("fastfcgi"),
            "uwsgi": Contestant("uwsgi", {"processes": 1, "listen": backlog()}),
            "bjoern": Contestant("bjoern"),
            # A worker of its default kind, sync, keeps no connections.
            "gunicorn": Contestant("gunicorn", {"worker-class": "gthread", "threads": 4}),
            "waitress": Contestant("waitress"),
        },
        ("rate", "cpu", "p99", "front_cpu"),
        needs=("nginx", "wrk"),
    )
