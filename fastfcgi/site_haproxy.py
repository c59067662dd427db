"""HAProxy 2.1 and later: an fcgi-app, which may carry many requests on one connection."""

from fastfcgi.site import Quoting, Site, SiteError, pattern

# Strong quotes hold anything but themselves; words that touch are one word.
_quoted = Quoting("HAProxy", "", {"'": "'\\''"}, "'", bare=True)
# In an address variables of the environment are replaced, in strong quotes too.
_quoted_address = Quoting("HAProxy", "$", {"'": "'\\''"}, "'", bare=True)


def snippet(site: Site) -> list[str]:
    """What is added to haproxy.cfg."""
    return [
        "# Debian: to be added to /etc/haproxy/haproxy.cfg, then: systemctl reload haproxy",
        *site.application(),
        *_sections(site),
    ]


def complete(site: Site) -> list[str]:
    """All of haproxy.cfg."""
    log = "stderr format raw local0" if site.state_dir else "/dev/log local0"
    return [
        "# HAProxy. Test it: haproxy -c -f FILE   Start it: haproxy -db -f FILE",
        "# Debian has global and defaults already; the rest is added to /etc/haproxy/haproxy.cfg",
        "# (--snippet prints it).",
        *site.application(),
        "global",
        f"    user {site.user[0]}",
        f"    group {site.user[1]}",
        f"    log {log}",
        "defaults",
        "    mode http",
        "    log global",
        "    option httplog",
        "    timeout connect 5s",
        "    timeout client 60s",
        "    timeout server 60s  # how long the application may be silent",
        "",
        *_sections(site),
    ]


def _sections(site: Site) -> list[str]:
    return [*_application(site), *_frontend(site), *_backend(site)]


def _application(site: Site) -> list[str]:
    paths = f"^({pattern(site.mount)})(/.*)?$" if site.mount else "^()(/.*)$"
    lines = [
        "fcgi-app app",
        "    log-stderr global  # wsgi.errors arrives in the log, nowhere without this",
        f"    docroot {_quoted(site.root)}",
        f"    path-info {paths}  # the first group is SCRIPT_NAME, the second PATH_INFO",
        "    pass-header Authorization  # withheld otherwise",
    ]
    if site.multiplex:
        lines += [
            "    option mpxs-conns  # many requests at once on a connection",
            "    option max-reqs 32",
        ]
    if not site.keep_alive:
        lines.append("    no option keep-conn")
    return lines


def _frontend(site: Site) -> list[str]:
    bind = site.listen_text if site.listen[0] else f":::{site.listen[1]} v4v6"
    lines = ["frontend app", f"    bind {bind}{_certificate(site)}"]
    rules = []
    if site.host:
        rules.append(f"{{ req.hdr(host),field(1,:) -i {site.host} }}")
    if site.mount:
        lines.append(f"    acl below_mount path {site.mount}")
        lines.append(f"    acl below_mount path_beg {site.mount}/")
        rules.append("below_mount")
    if not rules:
        return [*lines, "    default_backend app"]
    lines.append(f"    use_backend app if {' '.join(rules)}  # 503 for all others")
    return lines


def _certificate(site: Site) -> str:
    if not site.tls:
        return ""
    certificate, key = site.tls
    if key not in (certificate, f"{certificate}.key"):
        raise SiteError(
            "HAProxy wants the key in the file of the certificate or in one of the same name with"
            f" .key at its end: not {key}"
        )
    return f" ssl crt {_quoted(certificate)}"


def _backend(site: Site) -> list[str]:
    peer = (
        _quoted_address(f"unix@{site.address.path}")
        if site.address.path
        else site.address.host_port
    )
    lines = ["backend app", "    use-fcgi-app app"]
    if site.multiplex:
        lines.append("    http-reuse always")
    return [*lines, f"    server app {peer} proto fcgi"]
