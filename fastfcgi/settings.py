"""Every option of `fastfcgi serve` in one table.

From it come the command line with its help, the keys of the configuration file, the names in the
environment and the table in docs/options.md. A default is a text like any other value, so that
there is one way for a text to become a value.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Final

from fastfcgi import values
from fastfcgi.drop_in import DEFAULT_THREADS
from fastfcgi.limits import Limits
from fastfcgi.server import PROTOCOLS
from fastfcgi.sockets import DEFAULT_BACKLOG


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: With underscores, as in Python.
        metavar: What stands for its value in the help; None: it is yes or no.
        parse: From text to value.
        help: One line, without its default.
        default: As text; "" is no value: None, False or an empty list.
        repeat: It may be given several times, and its value is a list.
        master: Whoever gives it wants the master.
        demo: `fastfcgi demo` has it, too.
        typed_only: It is an option of the command line only.
    """

    name: str
    metavar: str | None
    parse: values.Parser
    help: str
    default: str = ""
    repeat: bool = False
    master: bool = False
    demo: bool = False
    typed_only: bool = False

    @property
    def typed(self) -> str:
        """As it is typed; the application has no name there."""
        return "MODULE:APP" if self.name == "application" else f"--{self.key}"

    @property
    def key(self) -> str:
        """Its name in the configuration file."""
        return self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return "FASTFCGI_" + self.name.upper()

    @property
    def value(self) -> Any:
        """What it is where nobody gives it."""
        if self.default:
            return self.parse(self.default)
        return [] if self.repeat else (False if self.metavar is None else None)


def _switch(name: str, help: str, **more: Any) -> Option:
    return Option(name, None, values.flag, help, **more)


_LIMIT_HELP: Final = {
    "max_params_bytes": "size of the params of one request",
    "max_params_pairs": "number of the params of one request",
    "max_requests_per_connection": "requests at once on one connection",
    "max_unread_stdin": "body that the application has not read",
    "max_unread_total": "the same for a whole connection",
    "body_start": "body that has to be there before the application starts",
    "max_body_memory": "body in memory; more goes to a file",
    "max_body_file": "body in that file",
    "max_unsent": "response that the web server has not taken",
    "max_connections": "connections of one process",
    "queue_size": "requests that wait for a thread; more get a 503",
    "header_timeout": "time for the params of a request",
    "body_timeout": "time between two parts of a body",
    "send_timeout": "time without progress in sending",
    "keep_alive_timeout": "time that a kept connection may be idle",
    "linger_timeout": "time for what comes after the last answer",
    "linger_bytes": "bytes that are thrown away in that time",
}
_COUNTED: Final = ("max_params_pairs", "max_requests_per_connection", "max_connections")


def _limits() -> Iterator[Option]:
    """The fields of Limits; graceful_timeout stands elsewhere."""
    for field in fields(Limits):
        if field.name not in _LIMIT_HELP:
            continue
        text = _LIMIT_HELP[field.name]
        default: Any = field.default
        if field.name.endswith("_timeout"):
            yield Option(field.name, "SECONDS", values.seconds, text, f"{default:g}")
        elif field.name in _COUNTED:
            yield Option(field.name, "N", values.count(1), text, str(default))
        elif field.name == "queue_size":
            yield Option(field.name, "N", values.count(0), text, str(default))
        else:
            yield Option(field.name, "BYTES", values.size, text, values.as_size(default))


# Section -> its options, in the order of the help.
SECTIONS: Final[dict[str, list[Option]]] = {
    "the application": [
        Option(
            "application",
            "MODULE:APP",
            values.target,
            "APP may be dotted, or a factory: module:create_app(); without it: application or app",
        ),
        Option("chdir", "DIR", values.string, "change to this directory first"),
        Option(
            "pythonpath",
            "DIR",
            values.string,
            "look for modules there first; may be repeated",
            repeat=True,
        ),
        _switch("no_path", "do not look for modules in the current directory"),
        Option(
            "environ",
            "NAME=VALUE",
            values.environ_pair,
            "put this into the environ of every request; may be repeated",
            repeat=True,
        ),
        Option(
            "mount",
            "PATH",
            values.mount,
            "where the application is mounted: / or a path such as /app; else where the web server"
            " says",
        ),
        _switch("debug", "show tracebacks in the browser, log more", demo=True),
    ],
    "where it listens": [
        Option(
            "bind",
            "ADDRESS",
            values.address,
            "unix:/path, unix:@abstract, host:port, [::1]:port, fd:3 or systemd; may be repeated",
            repeat=True,
            demo=True,
        ),
        Option(
            "protocol",
            "NAME",
            values.choice(*PROTOCOLS),
            "what web servers speak there: fastcgi or scgi",
            "fastcgi",
        ),
        Option(
            "http",
            "HOST:PORT",
            values.host_port,
            "put an HTTP server for development before it; port 0 takes a free one",
            demo=True,
        ),
        Option("socket_mode", "MODE", values.octal, "mode of a unix socket, octal: 660"),
        Option("socket_owner", "USER", values.string, "owner of a unix socket"),
        Option("socket_group", "GROUP", values.string, "group of a unix socket"),
        Option(
            "backlog",
            "N",
            values.count(1),
            "connections that the kernel lets wait",
            str(DEFAULT_BACKLOG),
        ),
    ],
    "workers": [
        Option(
            "workers",
            "N",
            values.workers,
            "worker processes; auto: one for each CPU; in mode dynamic, those at the start",
            "1",
            master=True,
        ),
        Option(
            "threads",
            "N",
            values.count(1, 999_999),
            "threads of a worker that run requests",
            str(DEFAULT_THREADS),
            demo=True,
        ),
        Option(
            "mode",
            "MODE",
            values.choice(*values.MODES),
            "static: so many; dynamic: as needed; ondemand: none while idle (php-fpm's pm)",
            "static",
            master=True,
        ),
        Option(
            "min_spare", "N", values.processes, "dynamic: the fewest workers without a request", "1"
        ),
        Option(
            "max_spare", "N", values.processes, "dynamic: the most workers without a request", "3"
        ),
        Option("max_workers", "N", values.processes, "dynamic, ondemand: the most workers", "10"),
        Option(
            "idle_timeout",
            "SECONDS",
            values.seconds,
            "dynamic, ondemand: end a worker that was not needed for so long",
            "10",
        ),
        _switch("preload", "load the application once, before workers start", master=True),
        Option(
            "post_fork",
            "MODULE:FUNC",
            values.hook,
            "a function to call in each new worker",
            master=True,
        ),
        Option(
            "worker_exit",
            "MODULE:FUNC",
            values.hook,
            "a function to call when a worker ends",
            master=True,
        ),
        _switch(
            "reload", "for development: start workers anew when a source file changes", master=True
        ),
    ],
    "the process": [
        Option(
            "user",
            "USER",
            values.string,
            "whom workers run as, by name or number; the socket is opened before",
            master=True,
        ),
        Option(
            "group",
            "GROUP",
            values.string,
            "their group; without it, that of the user",
            master=True,
        ),
        Option("umask", "MODE", values.octal, "file mode creation mask, octal: 027"),
        Option(
            "pidfile", "FILE", values.string, "put the process id of the master there", master=True
        ),
    ],
    "when a worker is replaced, and how long things may take": [
        Option(
            "timeout",
            "SECONDS",
            values.seconds,
            "log the Python stack of a request that runs longer",
        ),
        Option(
            "hard_timeout",
            "SECONDS",
            values.seconds,
            "replace the worker of a request that runs longer",
            master=True,
        ),
        Option(
            "graceful_timeout",
            "SECONDS",
            values.seconds_or_none,
            "how long running requests may take to finish at the end",
            f"{Limits.graceful_timeout:g}",
            demo=True,
        ),
        Option(
            "max_requests",
            "N",
            values.count(0),
            "replace a worker after so many requests; 0: never",
            "0",
            master=True,
        ),
        Option(
            "max_requests_jitter", "N", values.count(0), "and up to so many more, by chance", "0"
        ),
        Option(
            "max_memory",
            "BYTES",
            values.size,
            "replace a worker with more memory than this: 500M",
            master=True,
        ),
    ],
    "logs and status": [
        Option(
            "error_log",
            "FILE",
            values.string,
            "put messages and tracebacks there; - is stderr",
            "-",
        ),
        Option(
            "log_level",
            "LEVEL",
            values.choice(*values.LOG_LEVELS),
            f"the least that is logged: {', '.join(values.LOG_LEVELS)}",
            "info",
        ),
        Option(
            "access_log", "FILE", values.string, "put a line for each request there; - is stdout"
        ),
        Option(
            "access_format",
            "FORMAT",
            values.access_format,
            "combined, common, json, or fields as Apache has them: '%h %r %>s'",
            "combined",
        ),
        Option(
            "slow_log",
            "FILE",
            values.string,
            "put what --timeout finds there; without it, into the error log",
        ),
        Option(
            "ping_path",
            "PATH",
            values.url_path,
            "answer pong at this path, even when all threads are busy",
        ),
        Option("status_path", "PATH", values.url_path, "the same with the status of all workers"),
    ],
    "limits (1K is 1024 bytes)": list(_limits()),
    "configuration": [
        Option("config", "FILE", values.string, "a TOML file with these names, without the dashes"),
        _switch("check", "load the application, check all this, and end", typed_only=True),
    ],
}

OPTIONS: Final[dict[str, Option]] = {
    option.name: option for options in SECTIONS.values() for option in options
}


def docs_table() -> str:
    """The tables of docs/options.md, in Markdown."""
    lines: list[str] = []
    for section, options in SECTIONS.items():
        lines += [f"### {section[0].upper()}{section[1:]}", ""]
        lines += ["| Option | Command | Default | Meaning |", "|---|---|---|---|"]
        for option in options:
            shown = option.typed
            if option.metavar not in (None, shown):
                shown += f" {option.metavar}"
            commands = "serve, demo" if option.demo else "serve"
            default = f"`{option.default}`" if option.default else ""
            lines.append(f"| `{shown}` | {commands} | {default} | {option.help} |")
        lines.append("")
    return "\n".join(lines)
