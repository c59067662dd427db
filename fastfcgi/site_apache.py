"""Apache httpd 2.4: mod_proxy_fcgi or mod_proxy_scgi, or mod_fcgid, which starts a script."""

from collections.abc import Iterable

from fastfcgi.site import Quoting, Site, SiteError, indent, pattern

_quoted = Quoting("Apache", "", {"\\": "\\\\", '"': '\\"'})
# <Directory> takes patterns.
_quoted_folder = Quoting("Apache's <Directory>", "*?[]", {"\\": "\\\\", '"': '\\"'})

# It is part of a URL.
_quoted_socket = Quoting("Apache", "|?#")

_MODULES = "/usr/lib/apache2/modules"

# Of a script that mod_fcgid starts: as many as a small machine has memory for.
_PROCESSES = 20


def snippet(site: Site) -> list[str]:
    """The file in sites-available, for an application that runs."""
    return _snippet(site, _proxy_modules(site), _proxied(site), _told(site))


def complete(site: Site) -> list[str]:
    """All of apache2.conf, for an application that runs."""
    return _complete(site, _proxy_modules(site), _proxied(site), _told(site))


def snippet_fcgid(site: Site) -> list[str]:
    """The file in sites-available, for a script that mod_fcgid starts."""
    return _snippet(site, ["fcgid", "alias"], _fcgid(site), _started(site))


def complete_fcgid(site: Site) -> list[str]:
    """All of apache2.conf, for a script that mod_fcgid starts."""
    files = []
    if site.state_dir:
        files = [
            f"FcgidIPCDir {_word(site.state_dir + '/fcgid')}",
            f"FcgidProcessTableFile {_word(site.state_dir + '/fcgid_shm')}",
        ]
    return _complete(site, ["fcgid", "alias"], _fcgid(site), _started(site), files)


def _started(site: Site) -> list[str]:
    return [f"# The application: {site.script} (Apache starts it)"]


def _told(site: Site) -> list[str]:
    if site.protocol == "fastcgi":
        return site.application()
    why = "# It has to be told its mount: mod_proxy_scgi sends the whole path as SCRIPT_NAME."
    return [*site.application(site.path), why]


def _word(text: str) -> str:
    if "${" in text:
        raise SiteError(f"Apache cannot take ${{ in {text}")
    return _quoted(text)


def _folder(text: str) -> str:
    _word(text)
    return _quoted_folder(text)


def _proxy_modules(site: Site) -> list[str]:
    aliases = ["alias"] if site.static else []
    return ["proxy", f"proxy_{'fcgi' if site.protocol == 'fastcgi' else 'scgi'}", *aliases]


def _snippet(
    site: Site, modules: list[str], settings: list[str], application: list[str]
) -> list[str]:
    enabled = [*(["ssl"] if site.tls else []), *modules]
    return [
        "# Debian: /etc/apache2/sites-available/app.conf, then:",
        f"#   a2enmod {' '.join(enabled)}; a2ensite app; systemctl restart apache2",
        "# With a port other than 80 and 443 it needs a line Listen in ports.conf.",
        *(
            []
            if site.host
            else ["# It has no ServerName: the site 000-default would come before it;"]
        ),
        *([] if site.host else ["#   a2dissite 000-default, or name yours by --host."]),
        *application,
        *_virtual_host(site, settings),
    ]


def _complete(
    site: Site,
    modules: list[str],
    settings: list[str],
    application: list[str],
    files: Iterable[str] = (),
) -> list[str]:
    loaded = ["mpm_event", "authz_core", "mime", *(["ssl"] if site.tls else []), *modules]
    run = site.state_dir or "/run/apache2"
    return [
        "# Apache. Test it: apache2 -t -f FILE   Start it: apache2 -DFOREGROUND -f FILE",
        "# (FILE: its whole path.) Debian has all but VirtualHost already; that goes to",
        "# /etc/apache2/sites-available/app.conf (--snippet prints that file).",
        *application,
        *(f"LoadModule {name}_module {_MODULES}/mod_{name}.so" for name in loaded),
        f"ServerRoot {_word(site.state_dir or '/etc/apache2')}",
        f"ServerName {site.host or 'localhost'}",
        f"User {site.user[0]}",
        f"Group {site.user[1]}",
        f"DefaultRuntimeDir {_word(run)}",
        f"PidFile {_word(run + '/apache2.pid')}",
        f"Mutex {_word('file:' + site.state('', '/var/lock/apache2').rstrip('/'))} default",
        site.log_comment,
        f"ErrorLog {_word(site.state('error.log', '/var/log/apache2/error.log'))}",
        *files,
        "TypesConfig /etc/mime.types",
        f"Listen {site.listen_text if site.listen[0] else site.listen[1]}",
        '<Directory "/">',
        "    AllowOverride None",
        "    Require all denied",
        "</Directory>",
        "",
        *_virtual_host(site, settings),
    ]


def _virtual_host(site: Site, settings: list[str]) -> list[str]:
    host, port = site.listen
    lines = [
        *([f"ServerName {site.host}"] if site.host else []),
        f"DocumentRoot {_word(site.root)}",
        f"<Directory {_folder(site.root)}>",
        "    Options FollowSymLinks",
        "    Require all granted",
        "</Directory>",
    ]
    if site.tls:
        certificate, key = site.tls
        lines += [
            "SSLEngine on",
            f"SSLCertificateFile {_word(certificate)}",
            f"SSLCertificateKeyFile {_word(key)}",
        ]
    lines += ["# a %2F in a path is a 404 otherwise", "AllowEncodedSlashes On"]
    for url, folder in site.static:
        lines += [
            f'Alias "{url}/" {_word(folder + "/")}',
            f"<Directory {_folder(folder)}>",
            "    Options FollowSymLinks",
            "    SetHandler none",
            "    Require all granted",
            "</Directory>",
        ]
    where = site.listen_text if host else f"*:{port}"
    return [f"<VirtualHost {where}>", *indent([*lines, *settings]), "</VirtualHost>"]


# ---- an application that runs -------------------------------------------------------------------


def _proxied(site: Site) -> list[str]:
    scheme = "fcgi" if site.protocol == "fastcgi" else "scgi"
    url = f"{scheme}://{'app' if site.address.path else site.address.host_port}{site.path}"
    if site.address.path:
        _quoted_socket(site.address.path)
        url = f"unix:{site.address.path}|{url}"
    options, about = "", []
    if site.keep_alive and scheme == "fcgi":
        options, about = " enablereuse=on", ["    # enablereuse: each thread keeps its connection"]
    if site.stream:
        options += " flushpackets=on"
    lines = [
        f'<Location "{site.path}">',
        *about,
        f"    ProxyPass {_word(url)}{options}",
        *indent(_proxy_paths(site, scheme)),
        "    # passes the header Authorization on",
        "    CGIPassAuth On",
        "</Location>",
    ]
    for static, _ in site.static:
        lines += [f'<Location "{static}/">', '    ProxyPass "!"', "</Location>"]
    return lines


def _proxy_paths(site: Site, scheme: str) -> list[str]:
    if scheme == "scgi":
        return []
    if site.mount:
        match = f"reqenv('SCRIPT_NAME') =~ m#^{pattern(site.mount)}((?s)/.*)?$#"
        path = f'ProxyFCGISetEnvIf "{match}" PATH_INFO "$1"'
    else:
        path = 'ProxyFCGISetEnvIf "true" PATH_INFO "%{reqenv:SCRIPT_NAME}"'
    return [
        "# Apache itself sends the whole path as SCRIPT_NAME",
        path,
        f'ProxyFCGISetEnvIf "true" SCRIPT_NAME "{site.mount}"',
    ]


# ---- a script that mod_fcgid starts -------------------------------------------------------------


def _fcgid(site: Site) -> list[str]:
    folder, _, name = site.script.rpartition("/")
    if any(char in name for char in "*?[]"):
        raise SiteError(f"Apache's <Files> cannot take *, ?, [ and ] in {name}")
    # Both slashes or none: at / the script's own path would be part of PATH_INFO otherwise.
    target = site.script if site.mount else site.script + "/"
    lines = [
        f'ScriptAlias "{site.path}" {_word(target)}',
        f"<Directory {_folder(folder or '/')}>",
        f"    <Files {_word(name)}>",
        "        Require all granted",
        "    </Files>",
        "    Options +ExecCGI",
        "    SetHandler fcgid-script",
        "    # passes the header Authorization on",
        "    CGIPassAuth On",
        "</Directory>",
        "# of uploads; 128 KiB without this line, and 500 for more",
        "FcgidMaxRequestLen 67108864",
        "# processes, one request at a time in each; up to 100 without this line",
        f"FcgidMaxProcessesPerClass {_PROCESSES}",
        "# that stay when there is nothing to do; 3 without this line",
        "FcgidMinProcessesPerClass 1",
    ]
    if site.stream:
        lines.append("# what the application sends goes on at once; uploads are taken in first")
        lines.append("FcgidOutputBufferSize 0")
    if site.env:
        lines.append("# the script sees no other variables, except PATH")
        lines += [f"FcgidInitialEnv {name} {_word(value)}" for name, value in site.env]
    return lines
