"""Real web servers in front of a FastCGI application, on free ports of 127.0.0.1.

Each function starts one server with a configuration written into the given folder and returns it
listening; use it in a with block. Its sites are the ways the application is mounted there: "root"
at /, "path" at /wsgi.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from http_client import HOST, Site
from processes import SERVER_USER, Process, free_ports, missing, require

MOUNT = "/wsgi"  # where the application is in the sites named "path..."


class WebServer(Process):
    """A running web server, its sites by name, and what is special about it."""

    sites: Mapping[str, Site]
    cleans_paths = True  # makes one slash of two, resolves dots
    logs_stderr = True  # FCGI_STDERR reaches its log
    cuts_unfinished = False  # no END_REQUEST: the client's answer is cut without a length too
    clients = 50  # how many at once it takes without errors of its own


def _start(
    folder: Path,
    command: Sequence[str],
    site_names: Iterable[str],
    configure: Callable[[Mapping[str, Site]], str],
    env: Mapping[str, str] | None = None,
    mount: str = MOUNT,
) -> WebServer:
    """Write the configuration, start the server (CONFIG in its command is that file), wait for it.

    Another process may take one of the free ports first: then the server ends, and gets other ones.
    """
    name = Path(command[0]).name
    config = folder / f"{name}.conf"
    names = list(site_names)
    for attempt in range(3):
        ports = free_ports(len(names))
        sites = {
            site: Site(site, port, mount if site.startswith("path") else "")
            for site, port in zip(names, ports, strict=True)
        }
        config.write_text(configure(sites))
        arguments = [str(config) if word == "CONFIG" else word for word in command]
        server = WebServer(arguments, folder, name, env=env, user=SERVER_USER)
        server.sites = sites
        try:
            for port in ports:
                server.wait_for((HOST, port))
        except BaseException:
            server.popen.kill()
            server.popen.wait()
            if attempt < 2 and "in use" in server.log().lower():
                continue
            raise
        return server
    raise AssertionError("not reached")


def _each(sites: Mapping[str, Site], text: Callable[[Site], str]) -> str:
    return "\n".join(text(site) for site in sites.values())


# nginx --------------------------------------------------------------------------------------------

NGINX_SITES = [
    "root-kept",
    "path-kept",
    "root-unkept",
    "path-unkept",
    "root-streamed",
    "path-streamed",
]


def _nginx_server(site: Site) -> str:
    kept = "unkept" not in site.name
    buffering = "off" if "streamed" in site.name else "on"
    if site.prefix:
        paths = """fastcgi_split_path_info ^(/wsgi)(.*)$;
            include /etc/nginx/fastcgi_params;
            fastcgi_param PATH_INFO $fastcgi_path_info;"""
    else:
        paths = """include /etc/nginx/fastcgi_params;
            fastcgi_param SCRIPT_NAME "";
            fastcgi_param PATH_INFO $fastcgi_script_name;"""
    return f"""
    server {{
        listen {HOST}:{site.port};
        location {site.prefix or "/"} {{
            {paths}
            fastcgi_keep_conn {"on" if kept else "off"};
            fastcgi_request_buffering {buffering};
            fastcgi_buffering {buffering};
            fastcgi_read_timeout 20s;
            fastcgi_pass {"kept" if kept else "unkept"};
        }}
    }}"""


def nginx(folder: Path, socket: str) -> WebServer:
    """nginx with NGINX_SITES: FastCGI connections kept or not, bodies buffered or streamed."""
    temporary = "\n    ".join(
        f"{kind}_temp_path {folder}/nginx-{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )

    def configure(sites: Mapping[str, Site]) -> str:
        return f"""
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_max_body_size 64m;
    {temporary}
    upstream kept {{
        server unix:{socket};
        keepalive 8;
        keepalive_requests 1000000;
    }}
    upstream unkept {{
        server unix:{socket};
    }}
    {_each(sites, _nginx_server)}
}}
"""

    # -e: before it has read its configuration it would write into a log folder of root's
    command = [require("nginx"), "-e", "stderr", "-p", str(folder), "-c", "CONFIG"]
    return _start(folder, command, NGINX_SITES, configure)


# lighttpd 1.4 -------------------------------------------------------------------------------------

LIGHTTPD_SITES = ["root", "path", "root-streamed", "path-streamed"]


def _lighttpd_fastcgi(site: Site, backend: str) -> str:
    streamed = 2 if "streamed" in site.name else 0
    # only valid at the root: SCRIPT_NAME "" instead of the first path segment
    fix = "" if site.prefix else ', "fix-root-scriptname" => "enable"'
    return f"""
$SERVER["socket"] == "{HOST}:{site.port}" {{
    server.stream-request-body = {streamed}
    server.stream-response-body = {streamed}
    fastcgi.server = ( "{site.prefix or "/"}" => (( {backend}, "check-local" => "disable"{fix} )) )
}}"""


def _lighttpd(
    folder: Path,
    site_names: Sequence[str],
    modules: str,
    settings: Callable[[Site], str],
    env: Mapping[str, str] | None = None,
    mount: str = MOUNT,
) -> WebServer:
    def configure(sites: Mapping[str, Site]) -> str:
        return f"""
server.modules = ( {modules} )
server.bind = "{HOST}"
server.port = {next(iter(sites.values())).port}
server.document-root = "{folder}"
server.upload-dirs = ( "{folder}" )
server.max-request-field-size = 32768
{_each(sites, settings)}
"""

    command = [require("lighttpd"), "-D", "-f", "CONFIG"]
    return _start(folder, command, site_names, configure, env, mount)


def lighttpd(folder: Path, socket: str, mount: str = MOUNT) -> WebServer:
    """lighttpd with LIGHTTPD_SITES; it opens a FastCGI connection for each request."""

    def settings(site: Site) -> str:
        return _lighttpd_fastcgi(site, f'"socket" => "{socket}"')

    return _lighttpd(folder, LIGHTTPD_SITES, '"mod_fastcgi"', settings, mount=mount)


def lighttpd_bin_path(folder: Path, script: Path, env: Mapping[str, str]) -> WebServer:
    """lighttpd that starts two processes of a front-end script itself; one site, "root"."""
    backend = f'"bin-path" => "{script}", "socket" => "{folder}/bin.sock", "max-procs" => 2'

    def settings(site: Site) -> str:
        return _lighttpd_fastcgi(site, backend)

    return _lighttpd(folder, ["root"], '"mod_fastcgi"', settings, env)


def lighttpd_cgi(folder: Path, script: Path, env: Mapping[str, str]) -> WebServer:
    """lighttpd that runs a front-end script in its folder as plain CGI; one site, "root"."""

    def settings(_: Site) -> str:
        return f'cgi.assign = ( "{script.suffix}" => "" )'

    return _lighttpd(folder, ["root"], '"mod_cgi"', settings, env)


# Apache -------------------------------------------------------------------------------------------


def _apache(
    folder: Path, modules: Sequence[str], settings: str, virtual_host: Callable[[Site], str]
) -> WebServer:
    places = [Path("/usr/lib/apache2/modules"), Path("/usr/lib64/httpd/modules")]
    place = next((p for p in places if p.is_dir()), None) or missing("Apache's modules folder")
    for module in modules:
        if not (place / f"mod_{module}.so").exists():
            missing(f"Apache's mod_{module}")
    loads = "\n".join(
        f"LoadModule {module}_module {place}/mod_{module}.so"
        for module in ("mpm_event", "authz_core", *modules)
    )

    def host(site: Site) -> str:
        return f"""
Listen {HOST}:{site.port}
<VirtualHost {HOST}:{site.port}>
    AllowEncodedSlashes On
    {virtual_host(site)}
</VirtualHost>"""

    def configure(sites: Mapping[str, Site]) -> str:
        return f"""
{loads}
ServerRoot {folder}
ServerName www.example.org
DefaultRuntimeDir {folder}
PidFile {folder}/apache.pid
Mutex file:{folder} default
ErrorLog {folder}/apache2.log
DocumentRoot {folder}
# Kept client connections are cut when a process has no thread left, or is one too many.
StartServers 2
ServerLimit 2
ThreadsPerChild 64
MaxRequestWorkers 128
MinSpareThreads 1
MaxSpareThreads 128
{settings}
{_each(sites, host)}
"""

    command = [require("apache2"), "-DFOREGROUND", "-f", "CONFIG"]
    server = _start(folder, command, ["root", "path"], configure)
    server.cuts_unfinished = True
    return server


def apache(folder: Path, socket: str) -> WebServer:
    """Apache with mod_proxy_fcgi, FastCGI connections kept."""

    def virtual_host(site: Site) -> str:
        if site.prefix:
            return f"""<Location "{site.prefix}">
        SetHandler "proxy:unix:{socket}|fcgi://app/"
    </Location>"""
        return f"""ProxyPass "/" "unix:{socket}|fcgi://app/" enablereuse=on
    ProxyFCGISetEnvIf "true" PATH_INFO "%{{reqenv:SCRIPT_NAME}}"
    ProxyFCGISetEnvIf "true" SCRIPT_NAME "" """

    return _apache(folder, ["proxy", "proxy_fcgi"], "", virtual_host)


def apache_fcgid(folder: Path, script: Path, env: Mapping[str, str]) -> WebServer:
    """Apache with mod_fcgid, which starts the front-end script itself."""
    variables = "\n".join(f"FcgidInitialEnv {name} {value}" for name, value in env.items())
    settings = f"""FcgidIPCDir {folder}/ipc
FcgidProcessTableFile {folder}/fcgid_shm
FcgidMaxRequestLen 67108864
FcgidMaxProcessesPerClass 4
{variables}
<Directory {folder}>
    Require all granted
    Options +ExecCGI
    SetHandler fcgid-script
</Directory>"""

    def virtual_host(site: Site) -> str:
        if site.prefix:
            return f'ScriptAlias "{site.prefix}" "{script}"'
        return f'ScriptAlias "/" "{script}/"'

    return _apache(folder, ["alias", "fcgid"], settings, virtual_host)


# HAProxy ------------------------------------------------------------------------------------------


def _haproxy_site(folder: Path, socket: str, site: Site) -> str:
    if site.prefix:
        paths, options, reuse = f"^({site.prefix})(/.*)?$", "option get-values", "safe"
    else:
        options = "option mpxs-conns\n    option max-reqs 32"
        paths, reuse = "^()(/.*)$", "always"
    return f"""
fcgi-app app-{site.name}
    log-stderr global
    docroot {folder}
    path-info {paths}
    {options}
frontend front-{site.name}
    bind {HOST}:{site.port}
    default_backend back-{site.name}
backend back-{site.name}
    use-fcgi-app app-{site.name}
    http-reuse {reuse}
    server app unix@{socket} proto fcgi pool-purge-delay 1s
"""


def haproxy(folder: Path, socket: str) -> WebServer:
    """HAProxy: "root" multiplexes 32 requests on a connection, "path" asks by GET_VALUES."""

    def configure(sites: Mapping[str, Site]) -> str:
        # one thread: each has connections of its own, and one connection is to carry all
        return f"""
global
    log stderr format raw local0
    nbthread 1
defaults
    mode http
    log global
    timeout connect 10s
    timeout client 60s
    timeout server 60s
{_each(sites, lambda site: _haproxy_site(folder, socket, site))}
"""

    command = [require("haproxy"), "-db", "-f", "CONFIG"]
    server = _start(folder, command, ["root", "path"], configure)
    server.cleans_paths = False
    server.cuts_unfinished = True
    # 2.6 answers 500 ("IH" in its log) when many bodies at once fill a shared connection's buffer.
    server.clients = 8
    return server


# Caddy --------------------------------------------------------------------------------------------


def caddy(folder: Path, socket: str) -> WebServer:
    """Caddy 2; it opens a FastCGI connection for each request, and drops FCGI_STDERR."""

    def block(site: Site) -> str:
        matcher = f"{site.prefix}*" if site.prefix else ""
        split = f"split {site.prefix}" if site.prefix else ""
        return f"""
http://:{site.port} {{
    bind {HOST}
    reverse_proxy {matcher} unix/{socket} {{
        transport fastcgi {{
            root {folder}
            {split}
        }}
    }}
}}"""

    def configure(sites: Mapping[str, Site]) -> str:
        return "{\n    admin off\n    auto_https off\n}\n" + _each(sites, block)

    command = [require("caddy"), "run", "--config", "CONFIG", "--adapter", "caddyfile"]
    server = _start(folder, command, ["root", "path"], configure)
    server.cleans_paths = server.logs_stderr = False
    return server
