# cython: language_level=3, freethreading_compatible=True
"""The head of a response: status and headers of an application, checked and written as bytes.

Each str is looked at once, where it lies: a str of one byte a character is its own latin-1.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.unicode cimport (
    PyUnicode_1BYTE_DATA,
    PyUnicode_1BYTE_KIND,
    PyUnicode_AsEncodedString,
    PyUnicode_Check,
    PyUnicode_GET_LENGTH,
    PyUnicode_KIND,
)
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memmove

import logging

cdef object logger = logging.getLogger("fastfcgi")

cdef enum:
    USUAL_HEAD = 1024       # bytes of a head that need no memory of their own
    MAX_LENGTH_DIGITS = 18  # a Content-Length of more is beyond any body

cdef uint8_t is_token[256]  # of RFC 9110 section 5.6.2: what the name of a header is made of


cdef int fill_token() except -1:
    cdef uint8_t c
    for c in b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
        is_token[c] = True
    return 0


fill_token()


# ---------------------------------------------------------------------------------------------
# Helpers in C
# ---------------------------------------------------------------------------------------------

cdef struct Text:
    const uint8_t* p
    Py_ssize_t length


cdef struct Buffer:
    uint8_t* p
    Py_ssize_t length
    Py_ssize_t size
    bint has_location
    uint8_t usual[USUAL_HEAD]


cdef int reserve(Buffer* out, Py_ssize_t size) except -1:
    """Have room for `size` more bytes."""
    cdef uint8_t* grown
    if out.length + size <= out.size:
        return 0
    size = 2 * (out.length + size)
    if out.p == out.usual:
        grown = <uint8_t*>PyMem_Malloc(size)
        if grown != NULL:
            memcpy(grown, out.p, out.length)
    else:
        grown = <uint8_t*>PyMem_Realloc(out.p, size)
    if grown == NULL:
        raise MemoryError()
    out.p = grown
    out.size = size
    return 0


cdef inline void put(Buffer* out, const void* p, Py_ssize_t length) noexcept nogil:
    memcpy(out.p + out.length, p, length)
    out.length += length


cdef bint has_line_end(const uint8_t* p, Py_ssize_t length) noexcept nogil:
    """Whether CR, LF or NUL is among the bytes."""
    cdef Py_ssize_t i = 0
    cdef uint64_t eight
    cdef uint8_t c
    while i < length:
        if length - i >= 8:
            memcpy(&eight, p + i, 8)
            # Sets the top bit of each byte below 14, and of nothing when there is none.
            if ((eight - 0x0E0E0E0E0E0E0E0EULL) & ~eight & 0x8080808080808080ULL) == 0:
                i += 8
                continue
        c = p[i]
        if c == c'\r' or c == c'\n' or c == 0:
            return True
        i += 1
    return False


cdef bint is_name(const uint8_t* p, Py_ssize_t length) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint8_t good = length > 0
    for i in range(length):
        good &= is_token[p[i]]
    return good


cdef bint is_status(const uint8_t* p, Py_ssize_t length) noexcept nogil:
    """Three digits and no more, or a space and a reason behind them (RFC 3875 section 6.3.3)."""
    if length < 3 or not (c'1' <= p[0] <= c'9' and c'0' <= p[1] <= c'9' and c'0' <= p[2] <= c'9'):
        return False
    return length == 3 or (p[3] == c' ' and not has_line_end(p + 4, length - 4))


cdef bint is_same(const uint8_t* p, Py_ssize_t length, const char* lower) noexcept nogil:
    """Whether a name is `lower`, of the same length and in small letters, but for their size."""
    cdef Py_ssize_t i
    cdef uint8_t c
    for i in range(length):
        c = p[i]
        if c'A' <= c <= c'Z':
            c += 32
        if c != <uint8_t>lower[i]:
            return False
    return True


cdef bint is_content_length(const uint8_t* p, Py_ssize_t length) noexcept nogil:
    return length == 14 and is_same(p, length, b"content-length")


cdef bint is_passed_on(const uint8_t* p, Py_ssize_t length) noexcept nogil:
    """Not so what is of the connection between the web server and its client, of which an
    application knows nothing (PEP 3333, "Other HTTP Features"), and the gateway's "Status".
    Most names have a length that none of these has."""
    if length == 2:
        return not is_same(p, length, b"te")
    if length == 6:
        return not is_same(p, length, b"status")
    if length == 7:
        return not (is_same(p, length, b"trailer") or is_same(p, length, b"upgrade"))
    if length == 8:
        return not is_same(p, length, b"trailers")
    if length == 10:
        return not (is_same(p, length, b"connection") or is_same(p, length, b"keep-alive"))
    if length == 17:
        return not is_same(p, length, b"transfer-encoding")
    if length == 18:
        return not is_same(p, length, b"proxy-authenticate")
    if length == 19:
        return not is_same(p, length, b"proxy-authorization")
    return True


# ---------------------------------------------------------------------------------------------
# Python
# ---------------------------------------------------------------------------------------------

cdef bytes bytes_of(object text, Text* out):
    """Where the latin-1 of a str lies. Other characters become "?", which is like them no part
    of a name, a number or a line end; the bytes are returned then, and hold it in place."""
    cdef bytes encoded
    if PyUnicode_KIND(text) == PyUnicode_1BYTE_KIND:
        out.p = <const uint8_t*>PyUnicode_1BYTE_DATA(text)
        out.length = PyUnicode_GET_LENGTH(text)
        return None
    encoded = PyUnicode_AsEncodedString(text, "latin-1", "replace")
    out.p = <const uint8_t*>PyBytes_AS_STRING(encoded)
    out.length = PyBytes_GET_SIZE(encoded)
    return encoded


cdef bytes make_head(object status, object headers, HeadFacts* facts):
    """The head, and what it says of the body.

    Raises:
        ValueError: A status or header that cannot be sent: CR, LF or NUL, characters outside
            latin-1, a Content-Length that is no number.
        TypeError: A status, name or value that is not str.
    """
    cdef Buffer out
    out.p = out.usual
    out.length = 0
    out.size = USUAL_HEAD
    try:
        write_head(&out, status, headers, facts)
        return PyBytes_FromStringAndSize(<const char*>out.p, out.length)
    finally:
        if out.p != out.usual:
            PyMem_Free(out.p)


cdef int write_head(Buffer* out, object status, object headers, HeadFacts* facts) except -1:
    cdef Text text
    cdef object name, value, wide = None
    if not PyUnicode_Check(status):
        raise TypeError(f"the status is a {type(status).__name__}, not a str (PEP 3333)")
    held = bytes_of(status, &text)
    if held is not None:
        wide = status
    if not is_status(text.p, text.length):
        raise ValueError(f"not a status line: {status!r}")
    facts.content_length = -1
    facts.never_body = text.p[0] == c'1' or (
        (text.p[0] == c'2' or text.p[0] == c'3') and text.p[1] == c'0' and text.p[2] == c'4'
    )
    out.has_location = False
    reserve(out, text.length + 10)
    put(out, b"Status: ", 8)
    put(out, text.p, text.length)
    put(out, b"\r\n", 2)
    for name, value in headers:
        if write_header(out, name, value, facts) and wide is None:
            wide = value
    if wide is not None:
        # All else is in order: this is what is wrong.
        PyUnicode_AsEncodedString(wide, "latin-1", "strict")
    if out.has_location:
        move_status(out, text.length + 10)
    return 0


cdef int move_status(Buffer* out, Py_ssize_t size) except -1:
    """Put the first line, of `size` bytes, behind all others. To HAProxy a Location means 302,
    whatever status stands before it, and 201, 301, 307 are lost."""
    reserve(out, size)
    memcpy(out.p + out.length, out.p, size)
    memmove(out.p, out.p + size, out.length)
    return 0


cdef int write_header(Buffer* out, object name, object value, HeadFacts* facts) except -1:
    """Write a header; returns 1 when its value is beyond latin-1."""
    cdef Text key, text
    if not PyUnicode_Check(name) or not PyUnicode_Check(value):
        raise TypeError(f"a header that is not of str: {name!r}: {value!r} (PEP 3333)")
    _held_name = bytes_of(name, &key)
    if not is_name(key.p, key.length):
        raise ValueError(f"not a header name: {name!r}")
    held = bytes_of(value, &text)
    if has_line_end(text.p, text.length):
        raise ValueError(f"CR, LF or NUL in the header {name}: {value!r}")
    if is_content_length(key.p, key.length):
        add_length(facts, value, &text)
    elif not is_passed_on(key.p, key.length):
        logger.warning("the response header %r is not an application's to set", name)
        return 0
    elif key.length == 8 and is_same(key.p, 8, b"location"):
        out.has_location = True
    reserve(out, key.length + text.length + 4)
    put(out, key.p, key.length)
    put(out, b": ", 2)
    put(out, text.p, text.length)
    put(out, b"\r\n", 2)
    return held is not None


cdef int add_length(HeadFacts* facts, object value, Text* text) except -1:
    """A Content-Length: digits, and spaces around them."""
    cdef int64_t length = 0
    cdef Py_ssize_t i
    if not 0 < text.length <= MAX_LENGTH_DIGITS:
        length = -1
    else:
        for i in range(text.length):
            if not c'0' <= text.p[i] <= c'9':
                length = -1
                break
            length = 10 * length + (text.p[i] - c'0')
    if length < 0:
        value = value.strip()
        if not (value.isascii() and value.isdigit()):
            raise ValueError(f"not a Content-Length: {value!r}")
        length = min(int(value), INT64_MAX)
    if facts.content_length >= 0 and (length != facts.content_length or length == INT64_MAX):
        raise ValueError("two different Content-Length headers")
    facts.content_length = length
    return 0


cdef bytes end_head(bytes head, int64_t content_length):
    cdef uint8_t digits[20]
    cdef int count = 0, i
    cdef Py_ssize_t length = PyBytes_GET_SIZE(head)
    cdef uint8_t* p
    cdef bytes whole
    if content_length < 0:
        whole = PyBytes_FromStringAndSize(NULL, length + 2)
    else:
        while count == 0 or content_length:
            digits[count] = <uint8_t>(c'0' + content_length % 10)
            content_length //= 10
            count += 1
        whole = PyBytes_FromStringAndSize(NULL, length + 16 + count + 4)
    p = <uint8_t*>PyBytes_AS_STRING(whole)
    memcpy(p, PyBytes_AS_STRING(head), length)
    p += length
    if count:
        memcpy(p, b"Content-Length: ", 16)
        p += 16
        for i in range(count):
            p[i] = digits[count - 1 - i]
        p += count
        memcpy(p, b"\r\n", 2)
        p += 2
    memcpy(p, b"\r\n", 2)
    return whole
