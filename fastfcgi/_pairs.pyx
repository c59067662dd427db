# cython: language_level=3, freethreading_compatible=True
"""Name-value pairs (spec 3.4) as bytes, and the names that are known beforehand.

The helpers of the first band, and those of _pairs.pxd, take (pointer, bytes available, out), touch
no Python object and return the bytes they consumed or NEED_MORE. Only what is below turns that into
exceptions.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t

import sys

from fastfcgi.exceptions import RemoteProtocolError


cdef inline Py_ssize_t write_length(uint8_t* p, Py_ssize_t length) noexcept nogil:
    if length < 0x80:
        p[0] = <uint8_t>length
        return 1
    p[0] = <uint8_t>(0x80 | (length >> 24))
    p[1] = <uint8_t>(length >> 16)
    p[2] = <uint8_t>(length >> 8)
    p[3] = <uint8_t>length
    return 4


def decode_pairs(data):
    """The name-value pairs of a complete buffer, as a list of (bytes, bytes) (spec 3.4).

    Raises:
        RemoteProtocolError: The last pair is cut; offset is where it begins.
    """
    cdef Py_buffer view
    cdef Py_ssize_t pos = 0, used
    cdef Pair pair
    pairs = []
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        while pos < view.len:
            used = read_pair(<const uint8_t*>view.buf + pos, view.len - pos, &pair)
            if used < 0:
                raise RemoteProtocolError("a name-value pair is cut (spec 3.4)", pos)
            pairs.append((
                PyBytes_FromStringAndSize(<const char*>pair.name, pair.name_length),
                PyBytes_FromStringAndSize(<const char*>pair.value, pair.value_length),
            ))
            pos += used
        return pairs
    finally:
        PyBuffer_Release(&view)


def encode_pairs(pairs):
    """Name-value pairs, an iterable of (bytes, bytes), as one bytes object (spec 3.4).

    Raises:
        ValueError: A name or value has 2 GiB or more.
    """
    cdef uint8_t lengths[8]
    cdef Py_ssize_t used
    cdef bytes name, value
    parts = []
    for name, value in pairs:
        if len(name) > 0x7FFFFFFF or len(value) > 0x7FFFFFFF:
            raise ValueError("a length of a pair has 31 bits")
        used = write_length(lengths, len(name))
        used += write_length(lengths + used, len(value))
        parts.append(PyBytes_FromStringAndSize(<const char*>lengths, used))
        parts.append(name)
        parts.append(value)
    return b"".join(parts)


# ---------------------------------------------------------------------------------------------
# Names
# ---------------------------------------------------------------------------------------------

# What web servers were seen to send and what browsers send: the same names come with every
# request, so their str objects are made once. Any other name works and costs a new str.
#
# Values of these are mostly the same from one request to the next, and nobody's secret:
_STEADY_NAMES = """
AUTH_TYPE CONTENT_TYPE CONTEXT_DOCUMENT_ROOT CONTEXT_PREFIX DOCUMENT_ROOT FCGI_ROLE
GATEWAY_INTERFACE HTTPS PATH REDIRECT_STATUS REMOTE_ADDR REMOTE_HOST REQUEST_METHOD
REQUEST_SCHEME SERVER_ADDR SERVER_ADMIN SERVER_NAME SERVER_PORT SERVER_PROTOCOL
SERVER_SIGNATURE SERVER_SOFTWARE SSL_CIPHER SSL_PROTOCOL SSL_TLS_SNI TZ
HTTP_ACCEPT HTTP_ACCEPT_CHARSET HTTP_ACCEPT_ENCODING HTTP_ACCEPT_LANGUAGE HTTP_CACHE_CONTROL
HTTP_CONNECTION HTTP_CONTENT_ENCODING HTTP_CONTENT_TYPE HTTP_DNT HTTP_EXPECT HTTP_HOST
HTTP_ORIGIN HTTP_PRAGMA HTTP_PRIORITY HTTP_SEC_CH_UA HTTP_SEC_CH_UA_MOBILE
HTTP_SEC_CH_UA_PLATFORM HTTP_SEC_FETCH_DEST HTTP_SEC_FETCH_MODE HTTP_SEC_FETCH_SITE
HTTP_SEC_FETCH_USER HTTP_TE HTTP_TRANSFER_ENCODING HTTP_UPGRADE
HTTP_UPGRADE_INSECURE_REQUESTS HTTP_USER_AGENT HTTP_VIA HTTP_X_FORWARDED_HOST
HTTP_X_FORWARDED_PORT HTTP_X_FORWARDED_PROTO HTTP_X_REQUESTED_WITH
""".split()

# These differ, or must not stay behind when their request is over: cookies, credentials, and all
# that has part of the URL, where tokens are put.
_OTHER_NAMES = """
CONTENT_LENGTH DOCUMENT_URI FCGI_MAX_CONNS FCGI_MAX_REQS FCGI_MPXS_CONNS FCGI_DATA_LENGTH
FCGI_DATA_LAST_MOD PATH_INFO PATH_TRANSLATED QUERY_STRING REDIRECT_URI REDIRECT_URL
REMOTE_IDENT REMOTE_PORT REMOTE_USER REQUEST_URI SCRIPT_FILENAME SCRIPT_NAME SCRIPT_URI
SCRIPT_URL UNIQUE_ID
HTTP_AUTHORIZATION HTTP_CONTENT_LENGTH HTTP_COOKIE HTTP_FORWARDED HTTP_FROM HTTP_IF_MATCH
HTTP_IF_MODIFIED_SINCE HTTP_IF_NONE_MATCH HTTP_IF_RANGE HTTP_IF_UNMODIFIED_SINCE HTTP_PROXY
HTTP_RANGE HTTP_REFERER HTTP_X_FORWARDED_FOR HTTP_X_REAL_IP HTTP_X_REQUEST_ID
""".split()


@cython.final
cdef class NameTable:
    """Bytes of a known name -> its interned str. Filled once at import, only read after it."""

    def __cinit__(self, steady, others):
        cdef uint32_t slot
        cdef bytes text
        cdef str name
        cdef int number
        self.steady_names = len(steady)
        self.names = [sys.intern(name) for name in (*steady, *others)]
        self.texts = [name.encode("ascii") for name in self.names]
        for number, (name, text) in enumerate(zip(self.names, self.texts)):
            slot = hash_name(<const uint8_t*>PyBytes_AS_STRING(text), len(text))
            while self.slots[slot].text != NULL:
                slot = (slot + 1) & (NAME_SLOTS - 1)
            self.slots[slot].text = <const uint8_t*>PyBytes_AS_STRING(text)
            self.slots[slot].length = len(text)
            self.slots[slot].name = <void*>name
            self.slots[slot].steady = number if number < len(steady) else -1
            self.slots[slot].is_header = name.startswith("HTTP_")


NAMES = NameTable(_STEADY_NAMES, _OTHER_NAMES)
