# cython: language_level=3, freethreading_compatible=True, nonecheck=True
"""The header of an SCGI request -> the entries of an environ.

    "70:" "CONTENT_LENGTH" NUL "27" NUL "SCGI" NUL "1" NUL ... ","

A netstring of names and values, each of which ends with NUL; CONTENT_LENGTH comes first, and SCGI
is among them. The body follows, of so many bytes. (https://python.ca/scgi/protocol.txt)

* The length is compared with its limit while its digits come, before anything is kept.
* A raw pointer is used only while the buffer it points into is held, and never after a call that
  can run Python code.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memchr, memcmp

from fastfcgi._pairs cimport Pair, begins_with, drop, keep

from fastfcgi.exceptions import LimitExceeded, RemoteProtocolError

cdef enum:
    # Of "CONTENT_LENGTH" and its NUL.
    FIRST_LENGTH = 15
    # Longer than any body, and never too long for 64 bits.
    MAX_LENGTH_DIGITS = 18

cdef const uint8_t* FIRST = b"CONTENT_LENGTH\0"


cdef inline Py_ssize_t to_nul(const uint8_t* p, Py_ssize_t size) noexcept nogil:
    """Bytes before the next NUL, -1 if there is none."""
    cdef const uint8_t* found
    if size <= 0:
        return -1
    found = <const uint8_t*>memchr(p, 0, <size_t>size)
    return -1 if found == NULL else found - p


@cython.final
cdef class HeaderReader:
    """Reads the header of one request, cut anywhere.

    Args:
        decoder: Its max_bytes is the longest netstring taken in, its max_pairs the most pairs; what
            becomes of repeated and reserved names is as with PARAMS.

    Attributes:
        content_length: Bytes of the body, -1 before the header is complete.
    """

    def __cinit__(self):
        self.content_length = -1

    def __init__(self, ParamsDecoder decoder not None):
        self.decoder = decoder

    def __dealloc__(self):
        drop(&self.kept)

    @cython.critical_section
    def feed(self, data):
        """Take the next bytes, any contiguous buffer, as far as the header goes.

        Returns:
            How many of them belong to it, and its entries as a dict of str; None while more is to
            come.

        Raises:
            LimitExceeded: More than max_bytes or max_pairs are announced or there.
            RemoteProtocolError: It is no SCGI.
        """
        cdef Py_buffer view
        cdef Py_ssize_t used = 0
        cdef dict params
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            params = self.feed_bytes(<const uint8_t*>view.buf, view.len, &used)
            return used, params
        finally:
            PyBuffer_Release(&view)

    cdef dict feed_bytes(self, const uint8_t* p, Py_ssize_t size, Py_ssize_t* used):
        """feed() of bytes that stay where they are meanwhile."""
        cdef Py_ssize_t pos, part
        cdef dict params = None
        if self.failed or self.content_length >= 0:
            raise RemoteProtocolError("the header of the request was broken or is complete")
        self.failed = True  # until all has gone well
        pos = self.read_length(p, size)
        self.offset += pos
        if self.has_length:
            part = min(self.length + 1 - self.kept.length, size - pos)
            if part == self.length + 1:
                params = self.read_header(p + pos)
            else:
                keep(&self.kept, p + pos, part, self.length + 1)
                if self.kept.length == self.length + 1:
                    params = self.read_header(self.kept.memory)
                    drop(&self.kept)
            pos += part
        self.failed = False
        used[0] = pos
        return params

    cdef Py_ssize_t read_length(self, const uint8_t* p, Py_ssize_t size) except -1:
        """The digits and the colon, as far as they have come; returns their bytes."""
        cdef Py_ssize_t pos = 0, most = self.decoder.max_bytes
        while pos < size and not self.has_length:
            if p[pos] == c':' and self.digits:
                self.has_length = True
                if self.length == 0:
                    raise self.error("the header is empty: CONTENT_LENGTH is missing", pos)
            elif not c'0' <= p[pos] <= c'9':
                raise self.error("a request begins with the length of its header and a colon", pos)
            elif self.digits and self.length == 0:
                raise self.error("the length of the header begins with 0", pos)
            else:
                self.length = 10 * self.length + (p[pos] - c'0')
                self.digits += 1
                if self.length > most:
                    raise LimitExceeded(f"a header of more than max_params_bytes={most} bytes")
            pos += 1
        return pos

    cdef dict read_header(self, const uint8_t* p):
        """The whole of it, with its comma."""
        cdef ParamsDecoder decoder = self.decoder
        cdef dict params
        if p[self.length] != c',':
            raise self.error("no comma after the header, which has another length", self.length)
        if p[self.length - 1] != 0:
            raise self.error("the header does not end with NUL", self.length - 1)
        self.read_content_length(p)
        decoder.reset()
        decoder.environ = decoder.new_environ()
        if decoder.cache is None:
            self.read_pairs(p)
        else:
            with cython.critical_section(decoder.cache):
                self.read_pairs(p)
        params = decoder.take()
        if params.get("SCGI") != "1":
            raise self.error("SCGI is missing or not 1", self.length)
        return params

    cdef int read_content_length(self, const uint8_t* p) except -1:
        """CONTENT_LENGTH, which comes first."""
        cdef Py_ssize_t length, i
        cdef int64_t number = 0
        if self.length < FIRST_LENGTH or memcmp(p, FIRST, FIRST_LENGTH) != 0:
            raise self.error("CONTENT_LENGTH is not the first name", 0)
        p += FIRST_LENGTH
        length = to_nul(p, self.length - FIRST_LENGTH)
        if not 0 < length <= MAX_LENGTH_DIGITS:
            raise self.error("CONTENT_LENGTH is no number of bytes", FIRST_LENGTH)
        for i in range(length):
            if not c'0' <= p[i] <= c'9':
                raise self.error("CONTENT_LENGTH is no number of bytes", FIRST_LENGTH + i)
            number = 10 * number + (p[i] - c'0')
        self.content_length = number
        return 0

    cdef int read_pairs(self, const uint8_t* p) except -1:
        """All names and values."""
        cdef ParamsDecoder decoder = self.decoder
        cdef const uint8_t* prefix = <const uint8_t*>PyBytes_AS_STRING(decoder.reserved)
        cdef Py_ssize_t prefix_size = PyBytes_GET_SIZE(decoder.reserved)
        cdef Py_ssize_t pos = 0, name, value
        cdef Pair pair
        while pos < self.length:
            name = to_nul(p + pos, self.length - pos)
            if name == 0:
                raise self.error("an empty name", pos)
            value = to_nul(p + pos + name + 1, self.length - pos - name - 1)
            if value < 0:
                raise self.error("a name without a value", pos)
            if decoder.pairs >= decoder.max_pairs:
                raise LimitExceeded(f"more than max_params_pairs={decoder.max_pairs} params")
            decoder.pairs += 1
            pair.name, pair.name_length = p + pos, <uint32_t>name
            pair.value, pair.value_length = p + pos + name + 1, <uint32_t>value
            if pos and name == FIRST_LENGTH - 1 and memcmp(pair.name, FIRST, FIRST_LENGTH) == 0:
                # Who takes the first for the length and who the last would not mean the same body.
                if memcmp(pair.value, p + FIRST_LENGTH, value + 1) != 0:
                    raise self.error("CONTENT_LENGTH comes twice, as two lengths", pos)
            if not begins_with(pair.name, name, prefix, prefix_size):
                decoder.add(&pair)
            pos += name + value + 2
        return 0

    cdef object error(self, str text, Py_ssize_t pos):
        """An exception about the byte at `pos` behind what is taken in already."""
        return RemoteProtocolError(f"{text} (SCGI)", self.offset + pos)
