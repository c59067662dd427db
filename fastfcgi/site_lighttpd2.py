"""lighttpd 2: its core.wsgi, which divides the path, around fastcgi or scgi."""

from fastfcgi.site import Quoting, Site, indent

_quoted = Quoting("lighttpd2", "", {"\\": "\\\\", '"': '\\"'})
# What follows $ and % there comes from the request.
_quoted_folder = Quoting("lighttpd2", "$%", {"\\": "\\\\", '"': '\\"'})


def snippet(site: Site) -> list[str]:
    """Lines for lighttpd.conf."""
    return [
        "# To be added to /etc/lighttpd2/lighttpd.conf, before other actions.",
        *site.application(),
        *_setup(site, []),
        *_actions(site),
    ]


def complete(site: Site) -> list[str]:
    """All of lighttpd.conf."""
    host, port = site.listen
    addresses = [site.listen_text] if host else [f"0.0.0.0:{port}", f"[::]:{port}"]
    log = site.state("error.log", "/var/log/lighttpd2/error.log")
    if site.tls:
        setup = ["openssl [", *(f'    "listen" => "{address}",' for address in addresses)]
        setup += [f'    "pemfile" => {_quoted(site.tls[0])},  # certificate and key', "];"]
    else:
        setup = [f'listen "{address}";' for address in addresses]
    setup.append(f"log [ default => {_quoted(log)} ];  # wsgi.errors arrives here: fcgi-stderr")
    return [
        "# lighttpd2. Test it: lighttpd2-worker -t -c FILE   Start it: lighttpd2-worker -c FILE",
        "# (--snippet prints the part for a configuration that is there already.)",
        *site.application(),
        *_setup(site, setup),
        "",
        f"docroot {_quoted_folder(site.root)};",
        *_actions(site),
    ]


def _setup(site: Site, more: list[str]) -> list[str]:
    modules = [f'"mod_{site.protocol}"', '"mod_lua"', *(['"mod_openssl"'] if site.tls else [])]
    lines = [
        f"module_load ( {', '.join(modules)} );",
        'lua.plugin "core.lua";  # it has core.wsgi',
        *more,
    ]
    return ["setup {", *indent(lines), "}"]


def _actions(site: Site) -> list[str]:
    lines: list[str] = []
    for url, folder in site.static:
        lines += [
            f'{"} else " if lines else ""}if req.path =^ "{url}/" {{',
            f'    alias "{url}/" => {_quoted_folder(folder)};',
            "    static;",
        ]
    application = f"{site.protocol} {_quoted(str(site.address))};"
    wsgi = [f'core.wsgi ( "{site.mount}", {{ {application} }} );']
    if site.mount:
        # core.wsgi would take /wsgi-other too.
        where = f'req.path == "{site.mount}" or req.path =^ "{site.mount}/"'
        lines += [f"{'} else ' if lines else ''}if {where} {{", *indent(wsgi), "}"]
    elif lines:
        lines += ["} else {", *indent(wsgi), "}"]
    else:
        lines = wsgi
    if site.host:
        lines = [f'if req.host == "{site.host}" {{', *indent(lines), "}"]
    return lines
