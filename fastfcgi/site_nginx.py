"""nginx: fastcgi_pass or scgi_pass."""

from fastfcgi.site import Quoting, Site, indent, pattern

# A $ begins a variable, wherever it stands, and nothing escapes it.
_quoted = Quoting("nginx", "$", {"\\": "\\\\", '"': '\\"'}, bare=True)


def snippet(site: Site) -> list[str]:
    """The file in sites-available."""
    return [
        "# Debian: /etc/nginx/sites-available/app, with a link to it in sites-enabled, then:",
        "#   systemctl reload nginx",
        "# For a server block that is there already take upstream and the location blocks.",
        *_without_name(site),
        *site.application(),
        *_upstream(site),
        *_server(site),
    ]


def complete(site: Site) -> list[str]:
    """All of nginx.conf."""
    state = "/var/lib/nginx" if not site.state_dir else site.state_dir
    names = ["client_body", *(["fastcgi"] if site.protocol == "fastcgi" else ["scgi"])]
    kinds = [*names, *(kind for kind in ("proxy", "fastcgi", "uwsgi", "scgi") if kind not in names)]
    temporary = [f"{kind}_temp_path {_quoted(f'{state}/{kind}')};" for kind in kinds]
    access_log = "off" if site.state_dir else "/var/log/nginx/access.log"
    return [
        "# nginx. Test it: nginx -t -c FILE   Start it: nginx -c FILE   (FILE: its whole path)",
        "# Debian has all but upstream and server already; they are a file in",
        "# /etc/nginx/sites-available, with a link to it in sites-enabled (--snippet prints it).",
        *site.application(),
        f"user {site.user[0]} {site.user[1]};",
        "worker_processes auto;",
        f"pid {_quoted(site.state('nginx.pid', '/run/nginx.pid'))};",
        site.log_comment,
        f"error_log {_quoted(site.state('error.log', '/var/log/nginx/error.log'))};",
        "events {}",
        "http {",
        "    include /etc/nginx/mime.types;",
        f"    access_log {access_log};",
        *(indent(temporary) if site.state_dir else []),
        "",
        *indent(_upstream(site)),
        *indent(_server(site)),
        "}",
    ]


def _without_name(site: Site) -> list[str]:
    if site.host:
        return []
    return [
        "# It has no server_name: sites-enabled/default, a default_server, would come before it;",
        "#   remove that, or name yours by --host.",
    ]


def _peer(site: Site) -> str:
    return _quoted(str(site.address)) if site.address.path else str(site.address)


def _upstream(site: Site) -> list[str]:
    if not _keeps(site):
        return []
    return [
        "upstream app {",
        f"    server {_peer(site)};",
        "    keepalive 8;  # idle connections that each worker process keeps",
        "}",
        "",
    ]


def _keeps(site: Site) -> bool:
    return site.keep_alive and site.protocol == "fastcgi"


def _server(site: Site) -> list[str]:
    host, port = site.listen
    tls = " ssl" if site.tls else ""
    listens = [site.listen_text] if host else [str(port), f"[::]:{port}"]
    lines = [f"listen {listen}{tls};" for listen in listens]
    if site.host:
        lines.append(f"server_name {site.host};")
    if site.tls:
        lines.append(f"ssl_certificate {_quoted(site.tls[0])};")
        lines.append(f"ssl_certificate_key {_quoted(site.tls[1])};")
    lines += [
        f"root {_quoted(site.root)};",
        "client_max_body_size 64m;  # of uploads; 1m without this line, and 413 for more",
        "",
    ]
    for url, folder in site.static:
        lines += [
            f"location ^~ {url}/ {{",
            f"    alias {_quoted(folder + '/')};",
            "}",
        ]
    return ["server {", *indent([*lines, *_location(site)]), "}"]


def _location(site: Site) -> list[str]:
    kind = site.protocol
    if site.mount:
        # A prefix would match /wsgi-other too. (?s): a path may have line feeds in it.
        head = f"location ~ ^{pattern(site.mount)}(?<path_info>(?s)/.*)?$ {{"
        paths = [
            f"{kind}_param SCRIPT_NAME {site.mount};",
            f"{kind}_param PATH_INFO $path_info;",
        ]
    else:
        head = "location / {"
        paths = [f'{kind}_param SCRIPT_NAME "";', f"{kind}_param PATH_INFO $uri;"]
    lines = [f"include /etc/nginx/{kind}_params;"]
    if kind == "fastcgi":
        lines.append("# that file has another SCRIPT_NAME; the later one counts")
    lines += paths
    if site.listen[1] not in (80, 443):
        # Debian's file has it without the port, and redirects would lead elsewhere.
        lines.append(f"{kind}_param HTTP_HOST $host:$server_port;  # $host has no port")
    lines.append(
        f'{kind}_param HTTP_PROXY "" if_not_empty;  # a header named Proxy is not passed on'
    )
    if site.stream:
        lines += [
            f"{kind}_request_buffering off;  # bodies go on as they come, in both directions",
            f"{kind}_buffering off;",
        ]
    if _keeps(site):
        lines.append("fastcgi_keep_conn on;  # without it the application closes each connection")
    lines.append(f"{kind}_pass {'app' if _keeps(site) else _peer(site)};")
    return [head, *indent(lines), "}"]
