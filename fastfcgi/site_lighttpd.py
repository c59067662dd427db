"""lighttpd 1.4: mod_fastcgi or mod_scgi, for an application that runs or one that it starts."""

from fastfcgi.site import Quoting, Site, indent, pattern

# A backslash stays one, except before a quote.
_quoted = Quoting("lighttpd", "\\", {'"': '\\"'})

# A command line, which lighttpd divides at spaces.
_command = Quoting("lighttpd's bin-path", " \\\"'")


def snippet(site: Site) -> list[str]:
    """The file in conf-available, for an application that runs."""
    return _snippet(site, _running(site), site.application())


def complete(site: Site) -> list[str]:
    """All of lighttpd.conf, for an application that runs."""
    return _complete(site, _running(site), site.application())


def snippet_bin_path(site: Site) -> list[str]:
    """The file in conf-available, for a script that lighttpd starts."""
    return _snippet(site, _bin_path(site), _started(site))


def complete_bin_path(site: Site) -> list[str]:
    """All of lighttpd.conf, for a script that lighttpd starts."""
    return _complete(site, _bin_path(site), _started(site))


def _started(site: Site) -> list[str]:
    spoken = "" if site.protocol == "fastcgi" else "; it has to speak SCGI"
    return [f"# The application: {site.script} (lighttpd starts it{spoken})"]


def _snippet(site: Site, backend: list[str], application: list[str]) -> list[str]:
    modules = [f'"mod_{site.protocol}"']
    if site.static:
        modules.append('"mod_alias"')
    lines = [
        "# Debian: /etc/lighttpd/conf-available/50-app.conf, then: lighttpd-enable-mod app &&",
        "#   systemctl reload lighttpd",
        *application,
        f"server.modules += ( {', '.join(modules)} )",
    ]
    if site.tls:
        lines += [
            'server.modules += ( "mod_openssl" )  # of the package lighttpd-mod-openssl',
            *(line for socket in _sockets(site) for line in _socket(socket, _tls(site))),
        ]
    return [*lines, *_fields(), *_named(site, [*_streamed(site), *_paths(site, backend)])]


def _complete(site: Site, backend: list[str], application: list[str]) -> list[str]:
    modules = [*(['"mod_openssl"'] if site.tls else []), '"mod_alias"', f'"mod_{site.protocol}"']
    host, port = site.listen
    files = {
        "server.errorlog": site.state("error.log", "/var/log/lighttpd/error.log"),
        "server.pid-file": site.state("lighttpd.pid", "/run/lighttpd.pid"),
    }
    uploads = site.state_dir or "/var/cache/lighttpd/uploads"
    tls = _tls(site) if site.tls else []
    return [
        "# lighttpd. Test it: lighttpd -tt -f FILE   Start it: lighttpd -D -f FILE",
        "# Debian has most of this already; the rest is a file in /etc/lighttpd/conf-available",
        "# (--snippet prints it).",
        *application,
        f"server.modules = ( {', '.join(modules)} )",
        *([f'server.bind = "{site.listen_text.rpartition(":")[0]}"'] if host else []),
        f"server.port = {port}",
        *tls,
        *([] if host else _socket(f"[::]:{port}", tls)),
        f'server.username = "{site.user[0]}"',
        f'server.groupname = "{site.user[1]}"',
        f"server.document-root = {_quoted(site.root)}",
        f"server.upload-dirs = ( {_quoted(uploads)} )",
        site.log_comment,
        f"server.errorlog = {_quoted(files['server.errorlog'])}",
        f"server.pid-file = {_quoted(files['server.pid-file'])}",
        'include_shell "/usr/share/lighttpd/create-mime.conf.pl"  # Content-Type of files',
        *_fields(),
        "",
        *_named(site, [*_streamed(site), *_paths(site, backend)]),
    ]


def _sockets(site: Site) -> list[str]:
    host, port = site.listen
    return [site.listen_text] if host else [f":{port}", f"[::]:{port}"]


def _socket(socket: str, settings: list[str]) -> list[str]:
    if not settings:
        return [f'$SERVER["socket"] == "{socket}" {{ }}  # IPv6 as well']
    return [f'$SERVER["socket"] == "{socket}" {{', *indent(settings), "}"]


def _tls(site: Site) -> list[str]:
    assert site.tls is not None
    certificate, key = site.tls
    return [
        'ssl.engine = "enable"',
        f"ssl.pemfile = {_quoted(certificate)}",
        f"ssl.privkey = {_quoted(key)}",
    ]


def _fields() -> list[str]:
    return ["server.max-request-field-size = 32768  # of all headers together; 8192 by default"]


def _streamed(site: Site) -> list[str]:
    if not site.stream:
        return []
    return [
        "# bodies go on as they come; chunked ones that do not come at once are a 411",
        "server.stream-request-body = 2",
        "server.stream-response-body = 2",
    ]


def _named(site: Site, lines: list[str]) -> list[str]:
    if not site.host:
        return lines
    return [f'$HTTP["host"] == "{site.host}" {{', *indent(lines), "}"]


def _paths(site: Site, backend: list[str]) -> list[str]:
    """Static files and the application, whichever the path belongs to."""
    lines: list[str] = []
    for url, folder in site.static:
        lines += [
            f'{"} else " if lines else ""}$HTTP["url"] =~ "^{pattern(url)}/" {{',
            f'    alias.url = ( "{url}/" => {_quoted(folder + "/")} )',
        ]
    application = _application(site, backend)
    if not (lines or site.mount):
        return application
    # The name of a mount point alone would match /wsgi-other too.
    where = f"^{pattern(site.mount)}(/|$)"
    head = f'{"} else " if lines else ""}$HTTP["url"] =~ "{where}" {{'
    return [*lines, head, *indent(application), "}"]


def _application(site: Site, backend: list[str]) -> list[str]:
    lines = [*backend, '"check-local" => "disable",  # paths are no files']
    if not site.mount:
        lines += [
            "# the whole path is PATH_INFO; its first segment would be SCRIPT_NAME otherwise",
            '"fix-root-scriptname" => "enable",',
        ]
    return [
        "# ranges are the application's: those that lighttpd makes of a large response are empty",
        'server.range-requests = "disable"',
        f'{site.protocol}.server = ( "{site.path}" => ((',
        *indent(lines),
        ")) )",
    ]


def _running(site: Site) -> list[str]:
    if site.address.path:
        return [f'"socket" => {_quoted(site.address.path)},']
    return [f'"host" => "{site.address.host}",', f'"port" => {site.address.port},']


def _bin_path(site: Site) -> list[str]:
    lines = [
        f'"bin-path" => {_command(site.script)},',
        *_running(site),
        '"max-procs" => 1,  # processes; each has a socket of its own',
    ]
    if site.env:
        pairs = ", ".join(f'"{name}" => {_quoted(value)}' for name, value in site.env)
        lines.append(f'"bin-environment" => ( {pairs} ),')
    return lines
