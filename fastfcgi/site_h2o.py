"""H2O 2.2: fastcgi.connect."""

import json

from fastfcgi.site import Site, indent


def _quoted(text: str) -> str:
    """YAML's double-quoted strings are a superset of JSON's, but for a character in two escapes."""
    return json.dumps(text, ensure_ascii=False)


def snippet(site: Site) -> list[str]:
    """What is added below "hosts:" (with TLS: and to "listen:")."""
    return [
        '# Debian: to be added below "hosts:" in /etc/h2o/h2o.conf, then: systemctl reload h2o',
        *_application(site),
        *(_listen(site) if site.tls else []),
        *_hosts(site),
    ]


def complete(site: Site) -> list[str]:
    """All of h2o.conf."""
    return [
        "# H2O. Test it: h2o -t -c FILE   Start it: h2o -c FILE",
        "# Debian: /etc/h2o/h2o.conf, then: systemctl reload h2o",
        *_application(site),
        f"user: {site.user[0]}  # to be left out where H2O is not started as root",
        f"pid-file: {_quoted(site.state('h2o.pid', '/run/h2o.pid'))}",
        "# wsgi.errors and tracebacks arrive here",
        f"error-log: {_quoted(site.state('error.log', '/var/log/h2o/error.log'))}",
        *_listen(site),
        *_hosts(site),
    ]


def _application(site: Site) -> list[str]:
    lines = site.application(site.mount)
    if site.mount:
        lines.append("# It has to be told its mount: H2O sends the whole path as PATH_INFO.")
    return lines


def _listen(site: Site) -> list[str]:
    host, port = site.listen
    lines = ["listen:", *([f"  host: {_quoted(host)}"] if host else []), f"  port: {port}"]
    if site.tls:
        certificate, key = site.tls
        lines += [
            "  ssl:",
            f"    certificate-file: {_quoted(certificate)}",
            f"    key-file: {_quoted(key)}",
        ]
    return lines


def _hosts(site: Site) -> list[str]:
    lines = ["hosts:", f"  {_quoted(site.host or 'default')}:", "    paths:"]
    for url, folder in site.static:
        lines += [f"      {_quoted(url + '/')}:", f"        file.dir: {_quoted(folder)}"]
    lines += [f"      {_quoted(site.path)}:", *indent(_connect(site), "        ")]
    if site.mount:
        lines += ['      "/":', f"        file.dir: {_quoted(site.root)}"]
    return lines


def _connect(site: Site) -> list[str]:
    keep = 5000 if site.keep_alive else 0
    return [
        "fastcgi.connect:",
        *(
            [f"  port: {_quoted(site.address.path)}", "  type: unix"]
            if site.address.path
            else [f"  host: {_quoted(site.address.host)}", f"  port: {site.address.port}"]
        ),
        f"fastcgi.timeout.keepalive: {keep}  # ms that an idle connection is kept; 0 closes each",
        f"fastcgi.document_root: {_quoted(site.root)}",
    ]
