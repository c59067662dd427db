"""The access log: one line for each request, in Apache's notation or as JSON.

docs/monitoring.md has the table of fields; a test compares it with the code.

What is logged comes from anybody. A value is therefore written as Apache writes it: quotes,
backslashes and all that is no printable ASCII become escapes, so that nobody can end a line or a
quoted field, begin one of his own, or talk to the terminal of who reads the log.
"""

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from fastfcgi.exceptions import ConfigurationError
from fastfcgi.log_files import LogFile
from fastfcgi.reports import AccessRecord

logger: Final = logging.getLogger("fastfcgi")

Format: TypeAlias = Callable[[AccessRecord], str]

COMMON: Final = '%h %l %u %t "%r" %>s %b'
COMBINED: Final = COMMON + ' "%{Referer}i" "%{User-Agent}i"'
NAMES: Final = ("combined", "common", "json")

# Of one value; the rest is cut off. Web servers take lines of 8 KiB, but params may have a
# mebibyte, with which one client could fill the disk of a log.
MAX_VALUE: Final = 8192

# A log holds addresses and URLs: not for everybody on the machine.
FILE_MODE: Final = 0o640

MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_FIELD = re.compile(r"%(?:\{(?P<name>[^}\n]*)\})?(?P<letter>>s|[%a-zA-Z])")
_ESCAPES: Final = {'"': r"\"", "\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"}


# ---------------------------------------------------------------------------------- values


def escaped(value: object) -> str:
    """A value as it may stand in a line; "-" for None and nothing.

    A str counts as latin-1, as in an environ, and is escaped byte by byte (Apache does so, too).
    """
    text = value if isinstance(value, str) else "" if value is None else str(value)
    if len(text) > MAX_VALUE:
        text = text[:MAX_VALUE] + "..."
    return re.sub(r'[^ -~]|["\\]', _escape, text) or "-"


def _escape(found: "re.Match[str]") -> str:
    character = found[0]
    if character in _ESCAPES:
        return _ESCAPES[character]
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _text(environ: dict[str, Any], name: str) -> str:
    value = environ.get(name)
    return value if isinstance(value, str) else ""


def _path(environ: dict[str, Any]) -> str:
    """The path that was asked for, decoded."""
    return _text(environ, "SCRIPT_NAME") + _text(environ, "PATH_INFO")


def _uri(environ: dict[str, Any]) -> str:
    """Path and query as they came, or as near to it as the web server lets us."""
    query = _text(environ, "QUERY_STRING")
    return _text(environ, "REQUEST_URI") or _path(environ) + (query and f"?{query}")


def _request_line(record: AccessRecord) -> str:
    environ = record.environ
    parts = (_text(environ, "REQUEST_METHOD"), _uri(environ), _text(environ, "SERVER_PROTOCOL"))
    return " ".join(part for part in parts if part)


def _param(*names: str) -> Format:
    """The first of these params that is not empty."""
    return lambda record: escaped(next(filter(None, map(record.environ.get, names)), None))


def _status(record: AccessRecord) -> str:
    return record.status[:3] if re.match("[0-9]{3}", record.status) else "-"


def _query(record: AccessRecord) -> str:
    query = _text(record.environ, "QUERY_STRING")
    return escaped(f"?{query}") if query else ""


# Letter -> value. What may follow in braces is below.
FIELDS: Final[dict[str, Format]] = {
    "a": _param("REMOTE_ADDR"),
    "A": _param("SERVER_ADDR"),
    "b": lambda record: str(record.sent or "-"),
    "B": lambda record: str(record.sent),
    "D": lambda record: str(round(record.seconds * 1e6)),
    "h": _param("REMOTE_HOST", "REMOTE_ADDR"),
    "H": _param("SERVER_PROTOCOL"),
    "l": _param("REMOTE_IDENT"),
    "L": lambda record: escaped(record.request_id),
    "m": _param("REQUEST_METHOD"),
    "M": lambda record: str(round(record.seconds * 1e3)),
    "p": _param("SERVER_PORT"),
    "P": lambda record: str(os.getpid()),
    "q": _query,
    "r": lambda record: escaped(_request_line(record)),
    "s": _status,
    ">s": _status,
    "t": lambda record: f"[{clock(record.started)}]",
    "T": lambda record: str(int(record.seconds)),
    "u": _param("REMOTE_USER"),
    "U": lambda record: escaped(_path(record.environ)),
    "v": _param("SERVER_NAME"),
    "V": _param("HTTP_HOST", "SERVER_NAME"),
    "X": lambda record: "X" if record.aborted else "-",
}


# --------------------------------------------------------------------- values with a name


def _header(name: str) -> Format | None:
    if not re.fullmatch(r"[A-Za-z0-9-]+", name):
        return None
    param = name.upper().replace("-", "_")
    return _param(param if param in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{param}")


def _time_in(unit: str) -> Format | None:
    per_second = {"s": 1, "ms": 1e3, "us": 1e6}.get(unit)
    if per_second is None:
        return None
    # Of a second whole ones are counted, as Apache does it.
    return lambda record: str(int(record.seconds * per_second))


def _clock_in(pattern: str) -> Format | None:
    units: dict[str, Format] = {
        "sec": lambda record: str(int(record.started)),
        "msec": lambda record: str(int(record.started * 1e3)),
        "usec": lambda record: str(int(record.started * 1e6)),
        "msec_frac": lambda record: f"{int(record.started % 1 * 1e3):03}",
        "usec_frac": lambda record: f"{int(record.started % 1 * 1e6):06}",
    }
    if pattern in units:
        return units[pattern]
    if "%" not in pattern:
        return None
    return lambda record: escaped(time.strftime(pattern, time.localtime(record.started)))


def _id_of(what: str) -> Format | None:
    ids: dict[str, Format] = {
        "pid": lambda record: str(os.getpid()),
        "tid": lambda record: str(threading.get_native_id()),
    }
    return ids.get(what)


# Letter -> what makes a value of the text in braces; None where that makes no sense.
NAMED: Final[dict[str, Callable[[str], "Format | None"]]] = {
    "e": lambda name: _param(name) if name else None,
    "i": _header,
    "P": _id_of,
    "t": _clock_in,
    "T": _time_in,
}

_WHY_NOT: Final = {
    "o": "response headers are not kept",
    "n": "there are no notes",
    "C": "use %{Cookie}i",
    "I": "bytes are not counted before the web server's",
    "O": "use %b or %B: the web server adds headers of its own",
}


_clock_of: tuple[int, str] = (0, "")


def clock(moment: float) -> str:
    """Apache's notation of a time: 10/Oct/2000:13:55:36 -0700."""
    global _clock_of
    second = int(moment)
    known = _clock_of  # one tuple, so that threads see either the old or the new one
    if known[0] != second:
        parts = time.localtime(second)
        minutes = (parts.tm_gmtoff or 0) // 60
        zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}{abs(minutes) % 60:02}"
        # Not strftime: the names of months are those of no locale.
        date = f"{parts.tm_mday:02}/{MONTHS[parts.tm_mon - 1]}/{parts.tm_year}"
        _clock_of = known = (second, f"{date}:{time.strftime('%H:%M:%S', parts)} {zone}")
    return known[1]


# --------------------------------------------------------------------------------- formats


def compile_format(text: str) -> Format:
    """A function that makes a line, without its end, of an AccessRecord.

    Args:
        text: "combined", "common", "json", or a format in Apache's notation.

    Raises:
        ConfigurationError: A field that does not exist or is not known here; says where.
    """
    if text == "json":
        return as_json
    named = {"combined": COMBINED, "common": COMMON}.get(text, text)
    pieces: list[str] = []
    values: list[Format] = []
    position = 0
    while position < len(named):
        if named[position] == "%":
            found = _FIELD.match(named, position)
            if found is None or found[0] == "%%":
                pieces.append(_percent(named, position))
                position += 2
                continue
            values.append(_value(found, named))
            pieces.append("%s")
            position = found.end()
        else:
            piece, position = _literal(named, position)
            pieces.append(piece)
    if not values:
        raise ConfigurationError(
            f"access log format {text!r}: no field is in it, and it is none of {', '.join(NAMES)}"
        )
    template = "".join(pieces)
    return lambda record: template % tuple([value(record) for value in values])


def _wrong(named: str, position: int, what: str) -> ConfigurationError:
    return ConfigurationError(f"access log format {named!r}, character {position + 1}: {what}")


def _percent(named: str, position: int) -> str:
    if named[position : position + 2] == "%%":
        return "%%"
    field = re.match(r"%(\{[^}]*\}?)?[^a-zA-Z\s]*[a-zA-Z]?", named[position:])
    assert field is not None  # there is a %
    raise _wrong(named, position, f"{field[0]!r} is no field that is known here")


def _value(found: "re.Match[str]", named: str) -> Format:
    letter, name = found["letter"], found["name"]
    value = FIELDS.get(letter) if name is None else None
    if name is not None and letter in NAMED:
        value = NAMED[letter](name)
    if value is None:
        why = _WHY_NOT.get(letter, "no field that is known here")
        if name is None and letter in NAMED:
            why = f"it needs a name: %{{NAME}}{letter}"
        raise _wrong(named, found.start(), f"{found[0]!r}: {why}")
    return value


def _literal(named: str, position: int) -> tuple[str, int]:
    """One character of text, for the template, and where the next is."""
    character = named[position]
    if character == "\\":  # as it has to be written in Apache's configuration
        known = {"\\": "\\", '"': '"', "t": "\t"}
        character = known.get(named[position + 1 : position + 2], "")
        position += 1
    if not (character.isprintable() or character == "\t") or not character:
        raise _wrong(named, position, "a record is one line of printable text")
    return character, position + 1


def _decoded(value: object) -> str | None:
    """A value of an environ as text: UTF-8 where it is that; None for nothing."""
    if not isinstance(value, str) or not value:
        return None
    raw = value[:MAX_VALUE].encode("latin-1", "backslashreplace")
    return raw.decode("utf-8", "backslashreplace")


def as_json(record: AccessRecord) -> str:
    """The record as one JSON object on one line."""
    environ = record.environ
    status = _status(record)
    moment = time.gmtime(record.started)
    return json.dumps(
        {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{_milliseconds(record)}Z",
            "id": record.request_id,
            "pid": os.getpid(),
            "remote": _decoded(environ.get("REMOTE_ADDR")),
            "user": _decoded(environ.get("REMOTE_USER")),
            "host": _decoded(environ.get("HTTP_HOST")),
            "method": _decoded(environ.get("REQUEST_METHOD")),
            "uri": _decoded(_uri(environ)),
            "protocol": _decoded(environ.get("SERVER_PROTOCOL")),
            "status": None if status == "-" else int(status),
            "sent": record.sent,
            "seconds": round(record.seconds, 6),
            "referer": _decoded(environ.get("HTTP_REFERER")),
            "user_agent": _decoded(environ.get("HTTP_USER_AGENT")),
            "aborted": record.aborted,
            "failed": record.failed,
        }
    )


def _milliseconds(record: AccessRecord) -> str:
    return f"{int(record.started % 1 * 1e3):03}"


# ----------------------------------------------------------------------------------- files


class AccessLog(LogFile):
    """What WSGIServer takes as `access_log`: writes a line for each record.

    Args:
        path: "-" is stdout.
        format: See compile_format.
    """

    def __init__(self, path: str, format: str = "combined") -> None:
        self._format = compile_format(format)
        super().__init__(path, standard=1)

    def __call__(self, record: AccessRecord) -> None:
        self.write(self._format(record))
