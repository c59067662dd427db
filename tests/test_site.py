"""Values of `fastfcgi config`: what is taken, refused, and how it is written."""

import re
import shlex
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastfcgi import cli, site
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.site import Address, Quoting, SiteError
from fastfcgi.site_command import SERVERS

# What would end a line, a string or a comment in one of the languages, or confuse a reader.
NEVER = ["\n", "\r", "\0", "\t", "\x1b", "\x7f", "\x85", "\u2028", "\u2029", "\udc80", "\u202e"]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["config", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that says why; the exit status is 2 and nothing is printed."""
    try:
        status = cli.main(["config", *arguments])
    except SystemExit as end:
        status = end.code  # type: ignore[assignment]
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("fastfcgi: error: ")
    assert err.count("\n") == 1 and err.endswith("\n")
    return err


# ---- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mount"),
    [("/", ""), ("/wsgi", "/wsgi"), ("/a/b", "/a/b"), ("/v1.0/~me+you", "/v1.0/~me+you")],
)
def test_mount(text: str, mount: str) -> None:
    assert site.mount_path(text) == mount


@pytest.mark.parametrize(
    "text",
    ["", "wsgi", "/wsgi/", "//wsgi", "/a//b", "/..", "/a/../b", "/.", "/a b", "/a%20b", "/ü"]
    + ["/a;b", '/a"b', "/a'b", "/a\\b", "/a$b", "/a{b}", "/a(b)", "/a*", "/a?b", "/a#b", "/a|b"]
    + ["/a" + char for char in NEVER],
)
def test_mount_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="not a path such as /wsgi"):
        site.mount_path(text)


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("/static=/srv/static", ("/static", "/srv/static")),
        ("/static/=/srv/static/", ("/static", "/srv/static")),
        ("/a/b=/x=y z", ("/a/b", "/x=y z")),
    ],
)
def test_static(text: str, files: tuple[str, str]) -> None:
    assert site.static_files(text) == files


@pytest.mark.parametrize("text", ["/static", "/static=", "=/srv", "/=/srv", "/static=srv", "/s=~"])
def test_static_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        site.static_files(text)


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("unix:/run/a.sock", Address(path="/run/a.sock"), "unix:/run/a.sock"),
        ("/run/a.sock", Address(path="/run/a.sock"), "unix:/run/a.sock"),
        ("127.0.0.1:9000", Address(host="127.0.0.1", port=9000), "127.0.0.1:9000"),
        ("[::1]:9000", Address(host="::1", port=9000), "[::1]:9000"),
        ("app-1.example.org:9000", Address(host="app-1.example.org", port=9000), None),
    ],
)
def test_address(text: str, address: Address, shown: str | None) -> None:
    assert site.backend(text) == address
    assert str(address) == (shown or text)


@pytest.mark.parametrize(
    "text",
    [
        *(":9000", "host:0", "host", "unix:@app", "@app", "fd:3", "systemd", "./app.sock"),
        *("a b:9000", "a;b:9000", "-a:9000", '"a":9000', "[::1;]:9000", "unix:/a\nb", "a\n:1"),
        *("unix:x", "unix:/" + "x" * 107),
    ],
)
def test_address_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        site.backend(text)


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("80", ("", 80)),
        (":8080", ("", 8080)),
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:8443", ("::1", 8443)),
        ("www.example.org:80", ("www.example.org", 80)),
    ],
)
def test_listen(text: str, listen: tuple[str, int]) -> None:
    assert site.listen_address(text) == listen


@pytest.mark.parametrize("text", ["", "0", ":0", "unix:/x", "80 ", "a b:80", "80;", "70000", "٣"])
def test_listen_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        site.listen_address(text)


@pytest.mark.parametrize(
    "text", ["", "a b", "-a", "a-", "a_b", "*", "a;b", "a\n", "ü.example", '"']
)
def test_host_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        site.host_name(text)


@pytest.mark.parametrize(
    ("text", "both"), [("www-data", ("www-data", "www-data")), ("a:b.c", ("a", "b.c"))]
)
def test_user(text: str, both: tuple[str, str]) -> None:
    assert site.user_and_group(text) == both


@pytest.mark.parametrize("text", ["", ":", "a:", ":b", "a b", "-u", "a;b", "a\n", "ü", "a:b:c"])
def test_user_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        site.user_and_group(text)


@pytest.mark.parametrize("text", ["hidden", "=hidden", "1A=hidden", "A-B=hidden", "A=hidden\n"])
def test_env_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        site.env_pair(text)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("char", NEVER)
def test_what_is_not_printable_is_refused(char: str) -> None:
    with pytest.raises(ConfigurationError, match="not a text of one line"):
        site.absolute_path(f"/srv/a{char}b")
    with pytest.raises(ConfigurationError):
        site.env_pair(f"NAME=a{char}b")


# ---- quoting ------------------------------------------------------------------------------------


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"])))
def test_quotes_are_closed_by_ours_alone(text: str) -> None:
    """With backslashes and quotes escaped, the text cannot end the string that it is in."""
    written = Quoting("x", "", {"\\": "\\\\", '"': '\\"'})(text)
    assert written[0] == written[-1] == '"'
    inner = written[1:-1].replace("\\\\", "").replace('\\"', "")
    assert '"' not in inner and "\\" not in inner


def test_never() -> None:
    with pytest.raises(SiteError, match=r"nginx cannot take \$ in /a\$b"):
        Quoting("nginx", "$")("/a$b")


def test_yaml_has_no_pairs_of_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON writes one character as two there, at which H2O stops."""
    assert '"/a/\U0001f600ü"' in printed(capsys, "h2o", "--root", "/a/\U0001f600ü")


def test_bare() -> None:
    quoting = Quoting("x", bare=True)
    assert quoting("/srv/app-1/x.y_z:1@2") == "/srv/app-1/x.y_z:1@2"
    for char in set(string.printable + "ü") - set(string.ascii_letters + string.digits + "/._:@-"):
        assert quoting(f"/a{char}") == f'"/a{char}"'
    assert quoting("-x") == '"-x"'
    assert quoting("") == '""'


# ---- the command --------------------------------------------------------------------------------


def test_without_a_server_it_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    listed = [line.split()[0] for line in printed(capsys).splitlines()[1:]]
    assert listed == list(SERVERS)


def test_help_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["config", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name:18} {server.about}\n" in text for name, server in SERVERS.items())


def test_unknown_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert "invalid choice: 'iis'" in refused(capsys, "iis")


PROCESSES = ("systemd", "spawn-fcgi")
VALUES = {
    "address": "127.0.0.1:9000",
    "listen": "127.0.0.1:8080",
    "host": "example.org",
    "static": "/static=/srv/static",
    "root": "/srv",
    "tls_cert": "/c.pem",
    "tls_key": "/k.pem",
    "script": "/srv/app.fcgi",
    "app": "myapp:app",
    "env": "A=b",
    "user": "me",
    "state_dir": "/srv/state",
    "protocol": "scgi",
}


@pytest.mark.parametrize(
    ("server", "option"), [(name, option) for name in SERVERS for option in SERVERS[name].cannot]
)
def test_what_a_server_cannot(capsys: pytest.CaptureFixture[str], server: str, option: str) -> None:
    """One line names the option and the reason."""
    name = "--" + option.replace("_", "-")
    arguments = [f"{name}={VALUES[option]}"] if option in VALUES else [name]
    line = refused(capsys, server, *arguments)
    assert line == f"fastfcgi: error: no {name} for {server}: {SERVERS[server].cannot[option]}\n"


@pytest.mark.parametrize("server", SERVERS)
def test_what_a_server_can(capsys: pytest.CaptureFixture[str], server: str) -> None:
    """Every other option changes what is printed, or the server does it anyway."""
    anyway = {
        "lighttpd": {"no_keep_alive"},
        "lighttpd-bin-path": {"no_keep_alive"},
        "lighttpd2": {"no_keep_alive"},
        "caddy": {"no_keep_alive"},
        "haproxy": {"stream"},
    }
    plain = printed(capsys, server)
    options = {*VALUES, "stream", "no_keep_alive", "multiplex", "snippet", "mount"}
    for option in options - set(SERVERS[server].cannot) - {"tls_key"}:
        name = "--" + option.replace("_", "-")
        value = {**VALUES, "mount": "/wsgi"}.get(option)
        more = ["--app=a:b"] if server in PROCESSES and option in ("mount", "protocol") else []
        changed = printed(capsys, server, f"{name}={value}" if value else name, *more)
        assert (changed == plain) == (option in anyway.get(server, set())), option


@pytest.mark.parametrize("server", PROCESSES)
def test_a_script_says_these_itself(capsys: pytest.CaptureFixture[str], server: str) -> None:
    for option in ("--mount=/wsgi", "--protocol=scgi"):
        assert "the script itself says" in refused(capsys, server, option)
        told = printed(capsys, server, option, "--app=myapp:app")
        assert option.replace("=", " ") in told and told.rstrip().count("myapp:app") == 1


def test_tls_key_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--tls-key needs --tls-cert" in refused(capsys, "nginx", "--tls-key", "/k")


def test_haproxy_wants_the_key_beside_the_certificate(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "haproxy", "--tls-cert", "/c.pem", "--tls-key", "/k.pem")
    assert "not /k.pem" in line
    for key in ("/c.pem", "/c.pem.key"):
        assert "ssl crt /c.pem" in printed(
            capsys, "haproxy", "--tls-cert", "/c.pem", "--tls-key", key
        )


def test_key_is_in_the_certificate_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "nginx", "--tls-cert", "/c.pem")
    assert "ssl_certificate_key /c.pem;" in text
    assert "listen 443 ssl;" in text and "listen [::]:443 ssl;" in text


@pytest.mark.parametrize(
    ("server", "option", "value"),
    [
        ("nginx", "root", "/a$b"),
        ("lighttpd", "root", "/a\\b"),
        ("lighttpd-bin-path", "script", "/a b"),
        ("apache", "root", "/a*b"),
        ("apache", "root", "/a${b}"),
        ("apache", "address", "/a|b"),
        ("apache", "address", "/a#b"),
        ("haproxy", "address", "/a$b"),
        ("apache-fcgid", "script", "/a/b*"),
        ("caddy", "root", "/a{b}"),
        ("caddy", "root", "/a\\b"),
        ("lighttpd2", "root", "/a$1"),
        ("systemd", "address", "/a\\"),
        ("systemd", "address", "/a "),
    ],
)
def test_what_a_language_cannot_hold(
    capsys: pytest.CaptureFixture[str], server: str, option: str, value: str
) -> None:
    assert "cannot take" in refused(capsys, server, f"--{option}={value}")


@pytest.mark.parametrize(
    ("option", "known"),
    [("listen", "HOST:PORT, :PORT or PORT"), ("address", "unix:/path or HOST:PORT")],
)
@pytest.mark.parametrize("value", ["foo", "127.0.0.1:99999", "fd:3"])
def test_an_error_names_what_is_known(
    capsys: pytest.CaptureFixture[str], option: str, known: str, value: str
) -> None:
    """Not what --bind takes beyond that."""
    assert f"--{option}: not {known}: {value!r} (" in refused(capsys, "nginx", f"--{option}", value)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("option", ["root", "static", "state-dir", "script", "address", "tls-cert"])
def test_no_line_is_added(capsys: pytest.CaptureFixture[str], server: str, option: str) -> None:
    value = "/x\n#" if option != "static" else "/x=/x\n#"
    line = refused(capsys, server, f"--{option}", value)
    assert "not a text of one line" in line or "no --" in line


def test_first_line_says_how_to_start(capsys: pytest.CaptureFixture[str]) -> None:
    for server in set(SERVERS) - {"systemd", "spawn-fcgi"}:
        head = printed(capsys, server).split("\n")[:3]
        assert "Test it: " in head[0] and "Start it: " in " ".join(head[:2]), server
        assert all(line.startswith("# ") for line in head)


@pytest.mark.parametrize("server", sorted(set(SERVERS) - {*PROCESSES, "lighttpd-bin-path"}))
def test_how_the_application_is_started(capsys: pytest.CaptureFixture[str], server: str) -> None:
    """The command that the comments have is one that is taken, with what they say to add to it."""
    if server == "apache-fcgid":
        assert "# The application: /srv/app/app.fcgi (Apache starts it)\n" in printed(
            capsys, server
        )
        return
    text = printed(capsys, server, "--mount=/wsgi", "--address=unix:/run/a b.sock")
    (command,) = re.findall("^# The application: fastfcgi (.*)$", text, re.MULTILINE)
    (more,) = re.findall("^# .* to write to its socket: (.*)$", text, re.MULTILINE)
    options = cli._parser().parse_args(shlex.split(f"{command} {more}"))
    assert "unix:/run/a b.sock" in repr(vars(options))
    assert ("--mount /wsgi" in command) == (server == "h2o")


@pytest.mark.parametrize("server", ["nginx", "lighttpd", "apache"])
def test_where_errors_are_told(capsys: pytest.CaptureFixture[str], server: str) -> None:
    """SCGI has no stream for them."""
    assert "wsgi.errors and tracebacks arrive here" in printed(capsys, server)
    text = printed(capsys, server, "--protocol=scgi")
    assert "arrive here" not in text
    assert "in the application's own log" in text


@pytest.mark.parametrize("server", PROCESSES)
def test_what_is_started(capsys: pytest.CaptureFixture[str], server: str) -> None:
    text = printed(capsys, server, "--app=myapp:application", "--mount=/wsgi")
    (command,) = re.findall(r"/srv/app/venv/bin/fastfcgi (serve .*)$", text, re.MULTILINE)
    options = cli._parser().parse_args(shlex.split(command))
    assert "myapp:application" in repr(vars(options))


@pytest.mark.parametrize(
    ("user", "owner", "runs_as"),
    [
        (None, ("www-data", "www-data"), ("www-data", "www-data")),
        ("app", ("app", "www-data"), ("app", "app")),
        ("app:nginx", ("app", "nginx"), ("app", "nginx")),
    ],
)
def test_whose_the_socket_is(
    capsys: pytest.CaptureFixture[str],
    user: str | None,
    owner: tuple[str, str],
    runs_as: tuple[str, str],
) -> None:
    """The web server may connect, and nobody else: the user's own group would keep it out."""
    options = ["--user", user] if user else []
    units = printed(capsys, "systemd", *options)
    for line in (f"SocketUser={owner[0]}", f"SocketGroup={owner[1]}", "SocketMode=0660"):
        assert f"{line}\n" in units
    assert f"\nUser={runs_as[0]}\nGroup={runs_as[1]}\n" in units
    script = printed(capsys, "spawn-fcgi", *options)
    of_process = f" -u {runs_as[0]} -g {runs_as[1]}"
    assert f"{of_process} -U {owner[0]} -G {owner[1]} -M 0660 -- " in script
    assert "Socket" not in printed(capsys, "systemd", *options, "--address=127.0.0.1:9000").replace(
        "Socket of", ""
    ).replace("[Socket]", "")


def test_mod_fcgid_has_few_processes(capsys: pytest.CaptureFixture[str]) -> None:
    """Without the line it starts up to 100. That Apache knows it, test_site_syntax tells; that it
    heeds it, test_site_running."""
    for form in ([], ["--snippet"]):
        text = printed(capsys, "apache-fcgid", *form)
        assert re.search(r"^ +FcgidMaxProcessesPerClass 20$", text, re.MULTILINE)
        assert re.search(r"^ +FcgidMinProcessesPerClass 1$", text, re.MULTILINE)
