"""What real web servers sent decodes to what captures/manifest.json says, however it is cut."""

import functools
import hashlib
import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import reference_codec

from fastfcgi import constants
from fastfcgi._codec import ParamsDecoder, RecordReader, decode_begin_request, decode_pairs
from fastfcgi.connection import Connection
from fastfcgi.events import InputEnded, InputReceived, RequestAborted, RequestReceived

CAPTURES = Path(__file__).parent / "captures"
MANIFEST = {
    entry["file"]: entry
    for entry in json.loads((CAPTURES / "manifest.json").read_text(encoding="utf-8"))
}
RECORD_TYPES = {name: number for number, name in constants.RECORD_NAMES.items()}
# Files up to this size are cut at every offset.
SMALL = 8192


def captured(file):
    return (CAPTURES / file).read_bytes()


# ------------------------------------------------------------------------ two decoders


@dataclass
class Decoded:
    """What one request came to."""

    request_id: int
    role: int
    keep_conn: bool
    params: dict | None = None
    stdin: bytes = b""
    stdin_ended: bool = False
    aborted: bool = False


@dataclass
class ByCodec:
    """Requests out of the codec alone."""

    requests: list = field(default_factory=list)
    get_values: list = field(default_factory=list)

    def __post_init__(self):
        self.reader = RecordReader()
        self.active = {}
        self.decoders = {}

    def feed(self, data):
        for type, request_id, content in self.reader.feed(data):
            if type == constants.GET_VALUES:
                self.get_values.append([name.decode() for name, _ in decode_pairs(content)])
            elif type == constants.BEGIN_REQUEST:
                role, flags = decode_begin_request(content)
                request = Decoded(request_id, role, bool(flags & constants.KEEP_CONN))
                self.requests.append(request)
                self.active[request_id] = request
                self.decoders[request_id] = ParamsDecoder()
            else:
                self.feed_request(type, self.active[request_id], content)

    def feed_request(self, type, request, content):
        if type == constants.ABORT_REQUEST:
            request.aborted = True
        elif type == constants.PARAMS and content:
            self.decoders[request.request_id].feed(content)
        elif type == constants.PARAMS:
            request.params = self.decoders[request.request_id].finish()
        else:
            assert type == constants.STDIN
            request.stdin += bytes(content)
            request.stdin_ended |= not content

    def finish(self):
        return self.requests, self.get_values, self.reader.at_border


class ByConnection:
    """Requests out of the events of a connection; each is answered when its STDIN ends."""

    def __init__(self):
        values = {constants.MAX_REQS: "9", constants.MPXS_CONNS: "1"}
        self.connection = Connection(values=values, reserved=b"wsgi.")
        self.requests = []
        self.active = {}
        self.output = []

    def feed(self, data):
        for event in self.connection.receive_data(data):
            if isinstance(event, RequestReceived):
                request = Decoded(*event)
                self.requests.append(request)
                self.active[event.request_id] = request
            elif isinstance(event, InputReceived):
                assert event.stream == constants.STDIN
                self.active[event.request_id].stdin += bytes(event.data)
                self.connection.acknowledge(event.request_id, len(event.data))
            elif isinstance(event, InputEnded):
                self.active[event.request_id].stdin_ended = True
                self.connection.send_stdout(event.request_id, b"ok")
                self.connection.end_request(event.request_id)
            else:
                assert isinstance(event, RequestAborted)
                self.active[event.request_id].aborted = True
        self.output += self.connection.data_to_send()

    def finish(self):
        return self.requests, b"".join(self.output), self.connection.idle


DECODERS = pytest.mark.parametrize("decoder", [ByCodec, ByConnection], ids=["codec", "connection"])
FILES = pytest.mark.parametrize("file", MANIFEST)


def rounds(file, data):
    """Where a web server must have waited: an id is used again only after its END_REQUEST.

    Returns:
        The pieces of data that can arrive without waiting for an answer.
    """
    begun, borders, start = set(), [0], 0
    for type, request_id, content_length, padding_length in MANIFEST[file]["records"]:
        if type == "BEGIN_REQUEST":
            if request_id in begun:
                borders.append(start)
            begun.add(request_id)
        start += constants.HEADER_LEN + content_length + padding_length
    return [data[a:b] for a, b in zip(borders, [*borders[1:], len(data)], strict=True)]


def decode(decoder, *parts):
    decoding = decoder()
    for part in parts:
        decoding.feed(part)
    return decoding.finish()


# ---------------------------------------------------------------- what the manifest says


def params_streams(file):
    """The PARAMS of each request in the order of their BEGIN_REQUEST records."""
    streams, active = [], {}
    for type, request_id, content in reference_codec.RecordReader().feed(captured(file)):
        if type == constants.BEGIN_REQUEST:
            active[request_id] = bytearray()
            streams.append(active[request_id])
        elif type == constants.PARAMS:
            active[request_id] += content
    return streams


def is_what_was_said(value, said):
    """Compare with a value of the manifest, where a long one is its length and its hash."""
    if isinstance(said, str):
        return value == said
    octets = value.encode("latin-1")
    return said == {"length": len(octets), "sha256": hashlib.sha256(octets).hexdigest()}


@functools.cache
def expected_requests(file):
    """The requests of a file as its manifest entry has them.

    The manifest keeps the last value of a name that came twice and lists the name under
    "repeated"; all values are in the records, here decoded by the reference codec.
    """
    requests = []
    for said, stream in zip(MANIFEST[file]["requests"], params_streams(file), strict=True):
        pairs = reference_codec.decode_pairs(stream)
        values = {}
        for name, value in pairs:
            values.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        params = {name: every[-1] for name, every in values.items()}
        assert params.keys() == said["params"].keys()
        assert all(is_what_was_said(params[name], said["params"][name]) for name in params)
        assert sorted(n for n, every in values.items() if len(every) > 1) == said["repeated"]
        for name in said["repeated"]:
            if name.startswith("HTTP_") and name != "HTTP_HOST":
                params[name] = ("; " if name == "HTTP_COOKIE" else ", ").join(values[name])
        requests.append((said, params))
    return requests


def check_requests(file, requests, expected):
    # With several requests at once, PARAMS may be complete in another order than they began.
    requests = sorted(requests, key=lambda request: request.request_id)
    expected = sorted(expected, key=lambda pair: pair[0]["id"])
    for request, (said, params) in zip(requests, expected, strict=True):
        assert request.request_id == said["id"]
        assert request.role == said["role"]
        assert request.keep_conn == bool(said["flags"] & constants.KEEP_CONN)
        assert request.params == (params if said["params_records"] else None)
        assert len(request.stdin) == said["stdin_length"]
        assert hashlib.sha256(request.stdin).hexdigest() == said["stdin_sha256"]
        assert request.stdin_ended == said["stdin_ended"]
        assert request.aborted == said["aborted"]


def check(file, decoder, *parts):
    """Decode the parts and compare all that came of them with the manifest."""
    requests, answers, at_border = result = decode(decoder, *parts)
    entry = MANIFEST[file]
    assert at_border == (entry["left_over_bytes"] == 0)
    expected = expected_requests(file)
    if decoder is ByCodec:
        check_requests(file, requests, expected)
        assert answers == entry["get_values"]
    else:
        # What was aborted before its PARAMS were complete is answered and never reported.
        check_requests(file, requests, [pair for pair in expected if pair[0]["params_records"]])
        check_answers(entry, answers)
    return result


def check_answers(entry, answers):
    records = reference_codec.RecordReader().feed(answers)
    ended = [i for type, i, _ in records if type == constants.END_REQUEST]
    finished = [
        said["id"]
        for said in entry["requests"]
        if said["stdin_ended"] or (said["aborted"] and not said["params_records"])
    ]
    assert sorted(ended) == sorted(finished)
    results = [bytes(c) for type, _, c in records if type == constants.GET_VALUES_RESULT]
    values = {constants.MAX_REQS: b"9", constants.MPXS_CONNS: b"1"}
    assert [reference_codec.decode_pairs(result) for result in results] == [
        [(name.encode(), values[name]) for name in names if name in values]
        for names in entry["get_values"]
    ]


# ------------------------------------------------------------------------------- the tests


def test_every_file_is_in_the_manifest():
    files = {path.relative_to(CAPTURES).as_posix() for path in CAPTURES.rglob("*.bin")}
    assert files == set(MANIFEST) and len(files) > 100


@FILES
def test_records(file):
    """Type, request_id, content_length and padding of every record, from at_border."""
    entry, data = MANIFEST[file], captured(file)
    assert len(data) == entry["size"]
    reader, records, start = RecordReader(), [], 0
    type = request_id = content_length = 0
    for i in range(len(data)):
        for type, request_id, content in reader.feed(data[i : i + 1]):  # noqa: B007
            content_length += len(content)
        if reader.at_border:
            padding_length = i + 1 - start - constants.HEADER_LEN - content_length
            records.append([type, request_id, content_length, padding_length])
            start, content_length = i + 1, 0
    assert records == [[RECORD_TYPES[name], *rest] for name, *rest in entry["records"]]
    assert len(data) - start == entry["left_over_bytes"]


@FILES
def test_records_of_each_request(file):
    entry, active, found = MANIFEST[file], {}, []
    for name, request_id, content_length, _ in entry["records"]:
        if name == "BEGIN_REQUEST":
            active[request_id] = {"PARAMS": [], "STDIN": []}
            found.append(active[request_id])
        elif name in ("PARAMS", "STDIN"):
            active[request_id][name].append(content_length)
    said = [{"PARAMS": r["params_records"], "STDIN": r["stdin_records"]} for r in entry["requests"]]
    assert found == said


@DECODERS
@FILES
def test_whole(file, decoder):
    check(file, decoder, *rounds(file, captured(file)))


@DECODERS
@FILES
def test_byte_by_byte(file, decoder):
    check(file, decoder, *(bytes([octet]) for octet in captured(file)))


def cuts(file, size):
    """Every offset; for a large file those around each border of a record, and random ones."""
    if size <= SMALL:
        return range(1, size)
    chosen, start = set(random.Random(file).sample(range(1, size), 200)), 0
    for _, _, content_length, padding_length in MANIFEST[file]["records"]:
        content = start + constants.HEADER_LEN
        padding = content + content_length
        chosen.update(range(start - 2, content + 3))
        chosen.update(range(padding - 2, padding + padding_length + 3))
        start = padding + padding_length
    return sorted(cut for cut in chosen if 0 < cut < size)


def cut_at(pieces, offset):
    """The pieces, with the one that spans the offset cut there."""
    out, start = [], 0
    for piece in pieces:
        inside = offset - start
        out += [piece[:inside], piece[inside:]] if 0 < inside < len(piece) else [piece]
        start += len(piece)
    return out


@DECODERS
@FILES
def test_cut_in_two(file, decoder):
    data = captured(file)
    pieces = rounds(file, data)
    expected = check(file, decoder, *pieces)
    for offset in cuts(file, len(data)):
        assert decode(decoder, *cut_at(pieces, offset)) == expected, f"cut at {offset}"
