"""Named inputs of the benchmarks: bytes that real web servers sent (tests/captures), and shapes
that they send.

The names and what they hold never change, so that numbers of different days can be compared; a
new question gets a new name.
"""

import reference_codec

from bench import TESTS
from fastfcgi.constants import KEEP_CONN, PARAMS, STDIN


def captured(name: str) -> bytes:
    """What a web server sent over one connection."""
    return (TESTS / "captures" / name).read_bytes()


def params_of(connection: bytes) -> bytes:
    """The PARAMS stream of the first request of a connection, without its records."""
    records = reference_codec.RecordReader().feed(connection)
    return b"".join(content for type, id, content in records if (type, id) == (PARAMS, 1))


def kept(connection: bytes) -> bytes:
    """The same with KEEP_CONN in the flags of its first record, BEGIN_REQUEST (spec 5.1)."""
    return connection[:10] + bytes([connection[10] | KEEP_CONN]) + connection[11:]


def before_stdin(connection: bytes) -> bytes:
    """A request up to the first record of its body."""
    header = reference_codec.encode_record(STDIN, 1)[:4]
    return connection[: connection.index(header)]


# A GET with a query: 24 params in 608 bytes, padded; 23 in 592 bytes from lighttpd.
GET_NGINX = captured("nginx-1.22.1/get-query.request.bin")
GET_LIGHTTPD = captured("lighttpd-1.4.69/get-query.request.bin")
# A POST of 40,000 bytes in two STDIN records.
POST_40K = captured("nginx-1.22.1/post-40k.request.bin")
# Two POSTs with their STDIN records interleaved, 80 KB.
MULTIPLEXED = captured("haproxy-2.6.12/mpx-posts-2.request.bin")
# A GET with 6 KB of headers.
GET_LARGE = captured("nginx-1.22.1/large-headers.request.bin")
# What nginx sends with fastcgi_keep_conn on.
GET_KEPT = kept(GET_NGINX)
POST_KEPT = kept(POST_40K)
# Asks for FCGI_MAX_REQS and FCGI_MPXS_CONNS.
GET_VALUES = captured("haproxy-2.6.12/mpx-pair-get-values.request.bin")[:40]
# A body as nginx sends it from its buffer: 64 KiB in records of 32 KiB.
STDIN_64K = b"".join(
    reference_codec.encode_record(STDIN, 1, bytes(range(256)) * 128) for _ in range(2)
)
# A body of 1 MiB in 32 STDIN records, as it is received 64 KiB at a time.
UPLOAD_1M = [before_stdin(POST_40K), *[STDIN_64K] * 16, reference_codec.encode_record(STDIN, 1)]
# The worst case of a slow sender: every byte arrives alone.
GET_IN_BYTES = [bytes([octet]) for octet in GET_NGINX]

PARAMS_NGINX = params_of(GET_NGINX)
PARAMS_LIGHTTPD = params_of(GET_LIGHTTPD)
PAIRS_NGINX = reference_codec.decode_pairs(PARAMS_NGINX)

# What applications send back: a header, a page, and a download by the block.
HEADER = b"Status: 200 OK\r\nContent-Type: text/html\r\nContent-Length: 8200\r\n\r\n"
PAGE_8K = b"<p>Hello, world.</p>" * 410
BLOCK_1K = bytes(1024)
BLOCK_1M = bytes(1024 * 1024)
