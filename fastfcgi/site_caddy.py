"""Caddy 2: reverse_proxy with its FastCGI transport."""

from fastfcgi.site import Quoting, Site, indent

# A brace begins a placeholder or a variable of the environment, inside quotes too.
_quoted = Quoting("Caddy", "{}\\", {'"': '\\"'}, bare=True)


def snippet(site: Site) -> list[str]:
    """A site block."""
    return [
        "# Debian: to be added to /etc/caddy/Caddyfile, then: systemctl reload caddy",
        *site.application(),
        *_block(site),
    ]


def complete(site: Site) -> list[str]:
    """All of the Caddyfile."""
    settings = []
    if site.state_dir:
        settings += [
            "admin off # no port for orders: `caddy reload` does not work",
            f"storage file_system {_quoted(site.state_dir)}",
        ]
    if site.tls and site.listen[1] != 443:
        settings.append("auto_https disable_redirects # nothing listens at port 80")
    return [
        "# Caddy. Test it: caddy validate --adapter caddyfile --config FILE",
        "# Start it: caddy run --adapter caddyfile --config FILE",
        "# Debian: /etc/caddy/Caddyfile, then: systemctl reload caddy",
        *site.application(),
        *(["{", *indent(settings, "\t"), "}", ""] if settings else []),
        *_block(site),
    ]


def _address(site: Site) -> str:
    host, port = site.listen
    if site.tls:
        return f"https://{site.host}:{port}"
    if site.host and not host and port == 80:
        return site.host
    return f"http://{site.host}:{port}"


def _block(site: Site) -> list[str]:
    address = _address(site)
    lines = []
    if "//" not in address:
        lines.append("# with a name and without http:// Caddy gets a certificate by itself")
    if site.listen[0]:
        lines.append(f"bind {site.listen[0]}")
    if site.tls:
        lines.append(f"tls {_quoted(site.tls[0])} {_quoted(site.tls[1])}")
    for url, folder in site.static:
        lines += _handle(f"{url}/*", [f"uri strip_prefix {url}", *_files(folder)])
    proxy = _proxy(site)
    if site.mount:
        lines.append(f"@app path {site.mount} {site.mount}/*")
        lines += [*_handle("@app", proxy), *_handle("", _files(site.root))]
    elif site.static:
        lines += _handle("", proxy)
    else:
        lines += proxy
    return [f"{address} {{", *indent(lines, "\t"), "}"]


def _handle(matcher: str, lines: list[str]) -> list[str]:
    return [f"handle {matcher}".rstrip() + " {", *indent(lines, "\t"), "}"]


def _files(folder: str) -> list[str]:
    return [f"root * {_quoted(folder)}", "file_server"]


def _proxy(site: Site) -> list[str]:
    where = f"unix/{site.address.path}" if site.address.path else site.address.host_port
    lines = [
        "header_up -Proxy # httpoxy: it would arrive as HTTP_PROXY",
        "header_down -Status # which is FastCGI's; the status line has it",
    ]
    if site.stream:
        lines.append("flush_interval -1 # what the application sends goes on at once")
    transport = [f"root {_quoted(site.root)}"]
    if site.mount:
        transport.append(f"split {site.mount} # SCRIPT_NAME ends here, PATH_INFO begins")
    lines += ["transport fastcgi {", *indent(transport, "\t"), "}"]
    return [f"reverse_proxy {_quoted(where)} {{", *indent(lines, "\t"), "}"]
