"""The access log: fields, formats, JSON, and what hostile values come to."""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastfcgi import access_log
from fastfcgi.access_log import compile_format, escaped
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.reports import AccessRecord

STARTED = 1_700_000_000.123456
ENVIRON: dict[str, Any] = {
    "REQUEST_METHOD": "POST",
    "REQUEST_URI": "/app/a%20b?x=1&y=%22",
    "SCRIPT_NAME": "/app",
    "PATH_INFO": "/a b",
    "QUERY_STRING": "x=1&y=%22",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "SERVER_NAME": "example.org",
    "SERVER_ADDR": "192.0.2.1",
    "SERVER_PORT": "8080",
    "REMOTE_ADDR": "198.51.100.7",
    "REMOTE_USER": "ann",
    "CONTENT_TYPE": "text/plain",
    "CONTENT_LENGTH": "12",
    "HTTP_HOST": "www.example.org",
    "HTTP_REFERER": "http://example.org/",
    "HTTP_USER_AGENT": 'Agent "7"',
}
RECORD = AccessRecord("4711-12", STARTED, 1.2345678, ENVIRON, "201 Created", 345, False, False)
EMPTY = AccessRecord("", 0.0, 0.0, {}, "", 0, True, True)


@pytest.fixture
def timezone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the local time of this process."""
    if not hasattr(time, "tzset"):
        pytest.skip("local time cannot be set here")

    def to(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()
        monkeypatch.setattr(access_log, "_clock_of", (0, ""))

    to("UTC")
    with monkeypatch.context():
        yield to
    monkeypatch.undo()
    time.tzset()


def line(format: str, record: AccessRecord = RECORD, **environ: Any) -> str:
    return compile_format(format)(record._replace(environ={**record.environ, **environ}))


# ---------------------------------------------------------------------------------- fields

# Field -> what it is of the record above, and of one of which nothing is known.
VALUES = {
    "%%": ("%", "%"),
    "%a": ("198.51.100.7", "-"),
    "%A": ("192.0.2.1", "-"),
    "%b": ("345", "-"),
    "%B": ("345", "0"),
    "%D": ("1234568", "0"),
    "%h": ("198.51.100.7", "-"),
    "%H": ("HTTP/1.1", "-"),
    "%l": ("-", "-"),
    "%L": ("4711-12", "-"),
    "%m": ("POST", "-"),
    "%M": ("1235", "0"),
    "%p": ("8080", "-"),
    "%P": (str(os.getpid()), str(os.getpid())),
    "%q": ("?x=1&y=%22", ""),
    "%r": ("POST /app/a%20b?x=1&y=%22 HTTP/1.1", "-"),
    "%s": ("201", "-"),
    "%>s": ("201", "-"),
    "%t": ("[14/Nov/2023:22:13:20 +0000]", "[01/Jan/1970:00:00:00 +0000]"),
    "%T": ("1", "0"),
    "%u": ("ann", "-"),
    "%U": ("/app/a b", "-"),
    "%v": ("example.org", "-"),
    "%V": ("www.example.org", "-"),
    "%X": ("-", "X"),
    "%{REMOTE_ADDR}e": ("198.51.100.7", "-"),
    "%{wsgi.nothing}e": ("-", "-"),
    "%{User-Agent}i": (r"Agent \"7\"", "-"),
    "%{content-type}i": ("text/plain", "-"),
    "%{Content-Length}i": ("12", "-"),
    "%{pid}P": (str(os.getpid()), str(os.getpid())),
    "%{tid}P": (str(threading.get_native_id()), str(threading.get_native_id())),
    "%{s}T": ("1", "0"),
    "%{ms}T": ("1234", "0"),
    "%{us}T": ("1234567", "0"),
    "%{sec}t": ("1700000000", "0"),
    "%{msec}t": ("1700000000123", "0"),
    "%{usec}t": ("1700000000123456", "0"),
    "%{msec_frac}t": ("123", "000"),
    "%{usec_frac}t": ("123456", "000000"),
    "%{%Y-%m-%d %H:%M}t": ("2023-11-14 22:13", "1970-01-01 00:00"),
}


@pytest.mark.parametrize("field", VALUES)
def test_fields(field: str, timezone: Callable[[str], None]) -> None:
    full, empty = VALUES[field]
    assert line(f"<{field}>%m") == f"<{full}>POST"
    assert line(f"<{field}>%m", EMPTY) == f"<{empty}>-"


def test_every_field_is_tested() -> None:
    tested = {re.sub(r"%(\{.*\})?", "", field) for field in VALUES}
    assert tested == {*access_log.FIELDS, *access_log.NAMED, ""}


def test_fields_from_elsewhere() -> None:
    assert line("%h %a", REMOTE_HOST="client.example") == "client.example 198.51.100.7"
    assert line("%l %V", REMOTE_IDENT="x", HTTP_HOST="") == "x example.org"
    # Web servers that send no REQUEST_URI.
    assert line("%r", REQUEST_URI="") == "POST /app/a b?x=1&y=%22 HTTP/1.1"
    assert line("%r", REQUEST_URI=None, QUERY_STRING="") == "POST /app/a b HTTP/1.1"


def test_seconds_are_those_that_are_over() -> None:
    record = RECORD._replace(seconds=1.9999)
    assert line("%T %{s}T %{ms}T %M", record) == "1 1 1999 2000"


def test_a_time_of_several_lines() -> None:
    assert re.fullmatch(r"[0-9]{4}\\n[0-9]{4} POST", line("%{%Y%n%Y}t %m"))


@pytest.mark.parametrize("status", ["", "2", "abc", "²00", "\n\n\n"])
def test_no_status(status: str) -> None:
    record = RECORD._replace(status=status)
    assert line("%s", record) == "-"
    assert json.loads(line("json", record))["status"] is None


def test_what_an_application_leaves_in_its_environ() -> None:
    class Odd:
        def __str__(self) -> str:
            return 'odd\n"'

    odd = {"REMOTE_USER": Odd(), "SCRIPT_NAME": None, "QUERY_STRING": 7, "REQUEST_METHOD": b"x"}
    assert line("%u|%U|%q|%r", **odd) == r"odd\n\"|/a b||/app/a%20b?x=1&y=%22 HTTP/1.1"
    assert json.loads(line("json", **odd))["user"] is None


ZONES = [("UTC0", "+0000"), ("AAA-05:30", "+0530"), ("BBB03:30", "-0330"), ("CCC+12", "-1200")]


@pytest.mark.parametrize(("name", "offset"), ZONES)
def test_time_zones(name: str, offset: str, timezone: Callable[[str], None]) -> None:
    timezone(name)
    text = line("%t")
    assert text.endswith(f" {offset}]")
    assert time.mktime(time.strptime(text[1:21], "%d/%b/%Y:%H:%M:%S")) == int(STARTED)


def test_the_clock_goes_on(timezone: Callable[[str], None]) -> None:
    seconds = [line("%t", RECORD._replace(started=STARTED + n))[19:21] for n in (0, 0.8, 1, 0)]
    assert seconds == ["20", "20", "21", "20"]


# --------------------------------------------------------------------------------- formats


def test_common_and_combined(timezone: Callable[[str], None]) -> None:
    common = (
        "198.51.100.7 - ann [14/Nov/2023:22:13:20 +0000]"
        ' "POST /app/a%20b?x=1&y=%22 HTTP/1.1" 201 345'
    )
    assert line("common") == common
    assert line("combined") == common + r' "http://example.org/" "Agent \"7\""'


def test_text_of_a_format() -> None:
    assert line(r'%m é%% \"%m\" \\ a\tb	c') == 'POST é% "POST" \\ a\tb\tc'


@pytest.mark.parametrize(
    ("format", "position", "said"),
    [
        ("%h %Z", 4, "'%Z': no field"),
        ("%", 1, "'%' is no field"),
        ("%h %", 4, "'%' is no field"),
        ("%h%{abc", 3, "'%{abc' is no field"),
        ("%400,501{Referer}i", 1, "is no field"),
        ("%<s", 1, "'%<s' is no field"),
        ("%{X}h", 1, "'%{X}h': no field"),
        ("%>h", 1, "'%>h' is no field"),
        ("%i", 1, "it needs a name: %{NAME}i"),
        ("%{}i", 1, "'%{}i'"),
        ("%{a b}i", 1, "'%{a b}i'"),
        ("%{}e", 1, "'%{}e'"),
        ("%{min}T", 1, "'%{min}T'"),
        ("%{hextid}P", 1, "'%{hextid}P'"),
        ("%{hour}t", 1, "'%{hour}t'"),
        ("%h %{Location}o", 4, "response headers are not kept"),
        ("%h\n%m", 3, "one line"),
        (r"%h\n%m", 4, "one line"),
        ("%h\\", 4, "one line"),
        ("%h \x1b[2J", 4, "one line"),
    ],
)
def test_wrong_formats(format: str, position: int, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        compile_format(format)
    text = str(caught.value)
    assert said in text
    assert f", character {position}: " in text
    assert "\n" not in text and "\x1b" not in text


@pytest.mark.parametrize("format", ["", "combind", "100%%", "Common"])
def test_formats_without_a_field(format: str) -> None:
    """A name that is written wrongly is not taken for a log without fields."""
    with pytest.raises(ConfigurationError, match="none of combined, common, json"):
        compile_format(format)


# ------------------------------------------------------------------------------- injection

HOSTILE = 'x" 200 5\r\n1.2.3.4 - - [] "\x00\x1b[2J\x7f\x9b\xe9\\\t\u2028\ud800'
ESCAPED = (
    r"x\" 200 5\r\n1.2.3.4 - - [] \"\x00\x1b[2J\x7f\x9b\xe9\\\t\u2028\ud800"  # as Apache does
)


def test_escapes() -> None:
    assert escaped(HOSTILE) == ESCAPED
    assert escaped(" az~é") == r" az~\xe9"
    assert escaped(None) == escaped("") == "-"


@pytest.mark.parametrize("field", [*list(VALUES)[1:], "json", "combined"])
def test_no_value_ends_its_line_or_field(field: str) -> None:
    """Whatever the client or the application put where, a line is one line of ASCII, and a
    quote that is not escaped is one of the format."""
    environ = dict.fromkeys([*ENVIRON, "REMOTE_HOST", "REMOTE_IDENT", "wsgi.nothing"], HOSTILE)
    record = AccessRecord(HOSTILE, STARTED, 1.0, environ, HOSTILE, 1, False, False)
    text = compile_format(field)(record)
    assert re.fullmatch("[ -~]*", text)
    if field != "json":
        quotes = len(re.findall(r'(?<!\\)(?:\\\\)*"', text))
        assert quotes == (6 if field == "combined" else 0)
    else:
        assert json.loads(text)["id"] == HOSTILE


def test_long_values_are_cut() -> None:
    """A client could fill the disk: params take a mebibyte."""
    text = line("%{User-Agent}i", HTTP_USER_AGENT="x" * 1_000_000)
    assert text == "x" * access_log.MAX_VALUE + "..."
    assert len(line("json", HTTP_USER_AGENT="x" * 10**6, REQUEST_URI="/" * 10**6)) < 20000
    assert len(line("%r", REQUEST_URI="/" * 1_000_000)) < 10000


# ------------------------------------------------------------------------------------ JSON


def test_json() -> None:
    text = line("json", REQUEST_URI="/caf\xc3\xa9?\xff")
    assert "\n" not in text
    assert json.loads(text) == {
        "time": "2023-11-14T22:13:20.123Z",
        "id": "4711-12",
        "pid": os.getpid(),
        "remote": "198.51.100.7",
        "user": "ann",
        "host": "www.example.org",
        "method": "POST",
        "uri": r"/café?\xff",
        "protocol": "HTTP/1.1",
        "status": 201,
        "sent": 345,
        "seconds": 1.234568,
        "referer": "http://example.org/",
        "user_agent": 'Agent "7"',
        "aborted": False,
        "failed": False,
    }


def test_json_of_nothing() -> None:
    found = json.loads(line("json", EMPTY))
    told = {name: value for name, value in found.items() if value is not None}
    assert told == {
        "time": "1970-01-01T00:00:00.000Z",
        "id": "",
        "pid": os.getpid(),
        "sent": 0,
        "seconds": 0.0,
        "aborted": True,
        "failed": True,
    }
