"""Who starts the application: units of systemd, or spawn-fcgi."""

import shlex

from fastfcgi.site import DEFAULT_USER, Quoting, Site, SiteError

# systemd replaces % everywhere and $ in command lines.
_escapes = {"\\": "\\\\", '"': '\\"', "%": "%%"}
_word = Quoting("systemd", "", {**_escapes, "$": "$$"}, bare=True)
_env = Quoting("systemd", "", _escapes)

_UNITS = "/etc/systemd/system"


def systemd(site: Site) -> list[str]:
    """The two units; a line that begins with "# ----" begins each."""
    listen = _listen(site.address.path or site.address.host_port)
    user, group = site.user
    owner = [f"SocketUser={user}", f"SocketGroup={_socket_group(site)}", "SocketMode=0660"]
    return [
        "# Two units of systemd: each goes to the file that is named above it. Then:",
        "#   systemctl daemon-reload && systemctl enable --now app.socket",
        "# The application starts at the first request, or by: systemctl start app.service",
        "",
        f"# ---- {_UNITS}/app.socket",
        "[Unit]",
        "Description=Socket of a FastCGI application",
        "",
        "[Socket]",
        f"ListenStream={listen}",
        *(["# the web server has to be in this group, or this user"] if site.address.path else []),
        *(owner if site.address.path else []),
        "",
        "[Install]",
        "WantedBy=sockets.target",
        "",
        f"# ---- {_UNITS}/app.service",
        "[Unit]",
        "Description=A FastCGI application",
        "Requires=app.socket",
        "After=network.target",
        "",
        "[Service]",
        f"ExecStart={' '.join(map(_argument, _started(site)))}",
        f"User={user}",
        f"Group={group}",
        *(f"Environment={_env(f'{name}={value}')}" for name, value in site.env),
        "# after a crash; its sockets stay open meanwhile",
        "Restart=on-failure",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]


def _socket_group(site: Site) -> str:
    """Whom the socket is for, beside its owner: the group that was named, else the web server's. A
    user's own group, which has the user's name, would let nobody else in."""
    user, group = site.user
    return DEFAULT_USER if group == user else group


def _listen(address: str) -> str:
    """ListenStream knows no quotes: its line ends the value, unless a backslash continues it."""
    if address.endswith(("\\", " ")):
        raise SiteError(f"systemd cannot take a backslash or a space at the end of {address!r}")
    return address.replace("%", "%%")


def _argument(word: str) -> str:
    return word if word.startswith("--") else _word(word)


def _started(site: Site) -> list[str]:
    """The command line of ExecStart."""
    folder = site.script.rpartition("/")[0] or "/"
    if site.app:
        program = f"{folder}/venv/bin/fastfcgi"
        words = [program, "serve", "--chdir", folder]
        if site.protocol != "fastcgi":
            words += ["--protocol", site.protocol]
        return [*words, *(["--mount", site.mount] if site.mount else []), site.app]
    if site.mount or site.protocol != "fastcgi":
        raise SiteError(
            "the script itself says where it is mounted and what it speaks; --mount and --protocol"
            " are for --app"
        )
    return [site.script]  # absolute, so that systemd finds no flag at its beginning


def spawn_fcgi(site: Site) -> list[str]:
    """A shell script."""
    where = f"-s {shlex.quote(site.address.path)}"
    if not site.address.path:
        where = f"-a {site.address.host} -p {site.address.port}"
    user, group = site.user
    owner = f" -U {user} -G {_socket_group(site)} -M 0660" if site.address.path else ""
    program = " ".join(shlex.quote(word) for word in _started(site))
    state = "" if not site.state_dir else f" -P {shlex.quote(site.state_dir + '/app.pid')}"
    mode = " -n" if not site.state_dir else state
    return [
        "#!/bin/sh",
        "# Starts the application by spawn-fcgi, as root, in the foreground (-n): for runit,",
        "# daemontools, systemd's ExecStart. With -P FILE instead of -n it goes to the background.",
        "# -u and -g: whom the application runs as; -U and -G: who owns its socket. The web server",
        "# has to be in that group.",
        *(f"export {name}={shlex.quote(value)}" for name, value in site.env),
        f"exec spawn-fcgi{mode} {where} -u {user} -g {group}{owner} -- \\",
        f"    {program}",
    ]
