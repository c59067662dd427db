"""docs/trac-behind-lighttpd.md, followed to the letter: each file written, each line run by bash.

What differs is said here: folders lie below the test's, the port is free, whoever runs the tests
takes the part of root, and there are stand-ins for what changes a whole machine (STAND_INS).
"""

import contextlib
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from application_sites import application_python
from http_client import HOST
from processes import (
    AS_ROOT,
    SERVER_USER,
    Process,
    free_ports,
    give_to_server,
    missing,
    orphans_adopted,
    require,
    wait_until,
)
from test_docs import DOCS

pytestmark = pytest.mark.webserver

PAGE = DOCS / "trac-behind-lighttpd.md"
DEBIANS = Path("/etc/lighttpd/lighttpd.conf")

# The page's user of its own is another than the web server's here, too.
USER = "nobody" if AS_ROOT and SERVER_USER != "nobody" else SERVER_USER

# Programs that would change the machine. All tell CALLS what they were asked to do.
CALLS = 'echo "$(basename "$0") $*" >> ROOT/calls\n'
STAND_INS = {
    "apt-get": "",
    "adduser": "",
    "systemctl": "",  # the test starts what the units and lighttpd's package would start
    "python3": "",  # makes the virtual environment, which is there already
    "lighty-enable-mod": "ln -s ../conf-available/50-$1.conf ROOT/etc/lighttpd/conf-enabled/\n",
}
NOT_AS_ROOT = {"runuser": 'shift 3; exec "$@"\n', "chown": ""}


def steps() -> Iterator[tuple[str, str, str]]:
    """The blocks of the numbered sections: a path or "", the language, the text."""
    for section in re.findall(r"^## \d\. .*?(?=^## )", PAGE.read_text(), re.M | re.S):
        yield from re.findall(r"(?:^`(/[^`]+)`:\n\n)?^```(\w+)\n(.*?)^```$", section, re.M | re.S)


class Machine:
    """The folder that takes the place of /, and the shell in it."""

    def __init__(self, root: Path, shell: Process, port: int) -> None:
        self.root = root
        self.shell = shell
        self.port = port
        self.lines = 0
        self.stack = contextlib.ExitStack()
        self.lighttpd: Process | None = None

    def localised(self, text: str) -> str:
        """A text of the page with our folders, users and port in it."""
        for place in ("/srv/trac", "/etc/", "/run/trac", "/tmp/trac"):
            text = text.replace(place, f"{self.root}{place}")
        text = text.replace(f"http://{HOST}/", f"http://{HOST}:{self.port}/")
        if USER:
            text = text.replace("-u trac", f"-u {USER}").replace("www-data", str(SERVER_USER))
        return text

    def path(self, path: str) -> Path:
        return Path(f"{self.root}{path}")

    def write(self, path: str, text: str) -> None:
        self.path(path).write_text(self.localised(text))

    def run(self, line: str) -> str:
        """Have the shell run a line, which must succeed; returns what it prints."""
        self.lines += 1
        before = len(self.shell.log())
        mark = f"== line {self.lines} ended with "
        answer = "secret é\n" if line.startswith("read ") else ""
        self.shell.popen.stdin.write(
            f"{self.localised(line)}\n{answer}printf '\\n{mark}%s\\n' $?\n"
        )
        self.shell.popen.stdin.flush()

        def ended() -> bool:
            self.reap()
            return re.search(rf"{mark}\d+\n", self.shell.log()) is not None

        wait_until(ended, f"the end of: {line}")
        printed = self.shell.log()[before:]
        assert printed.endswith(f"{mark}0\n"), f"{line}\n{printed}"
        return printed

    def reap(self) -> None:
        """Take the exit status of the daemon, as init does: nobody waits for it otherwise."""
        with contextlib.suppress(OSError, ValueError):
            os.waitpid(int(self.path("/run/trac.pid").read_text()), os.WNOHANG)

    def serve(self) -> None:
        """What `systemctl restart lighttpd` does."""
        if self.lighttpd:
            assert self.lighttpd.stop() == 0, self.lighttpd.log()
        command = [require("lighttpd"), "-D", "-f", str(self.path("/etc/lighttpd/lighttpd.conf"))]
        self.lighttpd = Process(command, self.root, "lighttpd", user=SERVER_USER)
        self.lighttpd.wait_for((HOST, self.port))

    def start_unit(self) -> None:
        """What `systemctl enable --now trac.service` does."""
        unit = self.path("/etc/systemd/system/trac.service").read_text()
        (command,) = re.findall("^ExecStart=(.*)$", unit, re.M)
        words = shlex.split(command)
        assert words[0] == "/usr/bin/spawn-fcgi"
        process = Process([require("spawn-fcgi"), *words[1:]], self.root, "unit")
        self.stack.enter_context(process)

    def close(self) -> None:
        """End what is still running, whatever happened."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(self.path("/run/trac.pid").read_text()), 9)
        self.reap()
        self.stack.close()
        if self.lighttpd:
            self.lighttpd.stop()


def debians_configuration(machine: Machine) -> str:
    """lighttpd.conf as Debian's package has it, but for folders, the port and the user."""
    if not DEBIANS.exists():
        missing("lighttpd.conf of Debian's package")
    text = DEBIANS.read_text()
    for place in ("/var/www/html", "/var/cache/lighttpd/uploads", "/var/log/lighttpd", "/run"):
        text = text.replace(f'"{place}', f'"{machine.root}/var')
    text = text.replace("/etc/lighttpd/conf-enabled", f"{machine.root}/etc/lighttpd/conf-enabled")
    text, ports = re.subn(
        r"^server\.port .*$",
        f'server.port = {machine.port}\nserver.bind = "{HOST}"',
        text,
        flags=re.M,
    )
    assert ports == 1
    # lighttpd is started as its user, and IPv6 would be for all addresses.
    return re.sub(r"^(server\.(user|group)name|include_shell.*ipv6).*$", "", text, flags=re.M)


@pytest.fixture
def machine(folder: Path) -> Iterator[Machine]:
    """An empty machine, but for the virtual environment."""
    for program in ("spawn-fcgi", "lighttpd", "curl", "openssl"):
        require(program)
    for name in (
        "bin srv/trac/venv/bin run tmp var etc/systemd/system etc/lighttpd/conf-available "
        "etc/lighttpd/conf-enabled"
    ).split():
        (folder / name).mkdir(parents=True)
    give_to_server(folder / "var")
    if USER:
        subprocess.run(["chown", USER, str(folder / "srv/trac")], check=True)
    stand_ins = STAND_INS if AS_ROOT else {**STAND_INS, **NOT_AS_ROOT}
    scripts = {f"bin/{name}": "#!/bin/bash\n" + CALLS + text for name, text in stand_ins.items()}

    # The programs of a virtual environment, as pip would have made them.
    python = application_python(folder, "Trac")
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in python.env.items())
    real = f"#!/bin/sh\nexec env {variables} {shlex.quote(python.python)}"
    run_admin = "import sys; from trac.admin.console import run; sys.exit(run())"
    scripts["srv/trac/venv/bin/python"] = f'{real} "$@"\n'
    scripts["srv/trac/venv/bin/trac-admin"] = f'{real} -c {shlex.quote(run_admin)} "$@"\n'
    scripts["srv/trac/venv/bin/fastfcgi"] = f'{real} -m fastfcgi "$@"\n'
    scripts["srv/trac/venv/bin/pip"] = "#!/bin/bash\n" + CALLS
    for name, text in scripts.items():
        (folder / name).write_text(text.replace("ROOT", str(folder)))
        (folder / name).chmod(0o755)

    path = f"{folder}/bin:{os.environ['PATH']}:/usr/sbin:/sbin"
    command = [require("bash"), "--norc"]
    with (
        orphans_adopted(),
        Process(
            command, folder, "shell", {"PATH": path}, stdin=subprocess.PIPE, text=True
        ) as shell,
    ):
        (port,) = free_ports(1)
        machine = Machine(folder, shell, port)
        text = debians_configuration(machine)
        machine.path("/etc/lighttpd/lighttpd.conf").write_text(text)
        try:
            yield machine
        finally:
            machine.close()
            shell.popen.stdin.close()
            shell.popen.wait()
            shell.popen.returncode = 0


def follow(machine: Machine) -> None:
    """Do all that the numbered sections say."""
    for path, language, text in steps():
        if path:
            machine.write(path, text)
            continue
        assert language == "sh", text
        for line in text.replace("\\\n", " ").splitlines():
            machine.run(line)
            if line == "systemctl restart lighttpd":
                machine.serve()
            if line == "systemctl enable --now trac.service":
                machine.start_unit()


def test_the_page(machine: Machine) -> None:
    follow(machine)
    calls = machine.path("/calls").read_text()
    packages = re.search("apt-get install -y (.*)", calls)[1].split()
    assert {"lighttpd", "spawn-fcgi", "curl", "openssl", "gcc", "python3-dev"} <= set(packages)
    assert "pip install setuptools<82 trac" in calls
    machine.run(f"curl -sS http://{HOST}/login -o /dev/null -w '%{{http_code}}' | grep 401")
    # Debian's 403 for such names is gone: Trac itself answers.
    machine.run(f"curl -sS http://{HOST}/wiki/name~ -o /dev/null -w '%{{http_code}}' | grep 404")

    # "At a path instead"
    (block,) = re.findall(
        "^## At a path instead$.*?^```lighttpd\n(.*?)^```$", PAGE.read_text(), re.M | re.S
    )
    machine.write("/etc/lighttpd/conf-available/50-trac.conf", block)
    machine.serve()
    machine.run(f'curl -sSf http://{HOST}/trac/wiki | grep "Welcome to Trac"')
    machine.run(f"curl -sS http://{HOST}/trac/login -o /dev/null -w '%{{http_code}}' | grep 401")
    machine.run(
        f'curl -sSf -L -c /tmp/trac.cookies -u "admin:$password" http://{HOST}/trac/login '
        '| grep "logged in as"'
    )
    machine.run(
        f"curl -sS http://{HOST}/trac/wiki/name~ -o /dev/null -w '%{{http_code}}' | grep 404"
    )
    machine.run(f"curl -sS http://{HOST}/wiki -o /dev/null -w '%{{http_code}}' | grep 404")
