# cython: language_level=3, freethreading_compatible=True
"""The codec: record headers and the memory to receive into. Name-value pairs are in _pairs,
_shapes and _params; what Python uses of them has its name here, too.

No policy lives here: no request, no role, no socket. The rules of this file:

* A stream is read, not a record: what is cut by a record or by a read goes on where it stopped.
* A raw pointer is used only while the buffer it points into is held, and never after a call that
  can run Python code.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE,
    PyBuffer_FillInfo,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from fastfcgi._pairs cimport drop, keep

from fastfcgi._pairs import decode_pairs, encode_pairs
from fastfcgi._params import ParamsDecoder
from fastfcgi._shapes import ValueCache
from fastfcgi.exceptions import RemoteProtocolError

__all__ = [
    "Block",
    "ParamsDecoder",
    "ReceiveBuffer",
    "RecordReader",
    "ValueCache",
    "decode_begin_request",
    "decode_end_request",
    "decode_pairs",
    "encode_begin_request",
    "encode_end_request",
    "encode_header",
    "encode_pairs",
    "encode_record",
    "encode_stream",
]


# ---------------------------------------------------------------------------------------------
# Memory to receive into
# ---------------------------------------------------------------------------------------------

@cython.final
cdef class Block:
    """Writable memory of a fixed size; knows how many views of it are alive."""

    cdef uint8_t* memory
    cdef Py_ssize_t size
    cdef Py_ssize_t views

    def __cinit__(self, Py_ssize_t size):
        if size < 1:
            raise ValueError("a block has at least one byte")
        self.memory = <uint8_t*>PyMem_Malloc(size)
        if self.memory == NULL:
            raise MemoryError()
        self.size = size

    def __dealloc__(self):
        PyMem_Free(self.memory)

    def __len__(self):
        return self.size

    @property
    def exports(self):
        """How many views of this memory are alive."""
        return self.views

    def __getbuffer__(self, Py_buffer* view, int flags):
        # Fill first, count then: a refused export must not count.
        PyBuffer_FillInfo(view, self, self.memory, self.size, 0, flags)
        with cython.critical_section(self):
            self.views += 1

    def __releasebuffer__(self, Py_buffer* view):
        with cython.critical_section(self):
            self.views -= 1


@cython.final
cdef class ReceiveBuffer:
    """Memory to receive into, used again as soon as nobody looks at it any more.

    Args:
        size: Bytes of one block, the most that one receive call brings.

    One receive buffer serves any number of connections of one thread in turn: what a
    RecordReader gives out are views, and a block with live views is never handed out again.
    """

    cdef Block block
    cdef Py_ssize_t size

    def __init__(self, Py_ssize_t size=65536):
        self.size = size
        self.block = Block(size)

    @cython.critical_section
    def writable(self):
        """A block that nobody holds a view of: the last one, or a fresh one in its place."""
        if self.block.views != 0:
            self.block = Block(self.size)
        return self.block


# ---------------------------------------------------------------------------------------------
# Records in
# ---------------------------------------------------------------------------------------------

cdef inline bint is_stream(int type, int request_id) noexcept nogil:
    """PARAMS, STDIN, STDOUT, STDERR and DATA are streams (spec 8), but there is none on
    request_id 0: management records are discrete (spec 3.3)."""
    return TYPE_PARAMS <= type <= TYPE_DATA and request_id != 0


@cython.final
cdef class RecordReader:
    """Reads records from bytes that may be cut anywhere (spec 3.3).

    Discrete records are given whole. Of stream records each part is given as it arrives, as a
    view into the data that was fed: record borders mean nothing in a stream, and a reader that
    waits for none of them holds no memory for a peer that drips. What it keeps is at most a
    header and the content of one discrete record.
    """

    def __dealloc__(self):
        drop(&self.discrete)

    @property
    def at_border(self):
        """Whether no part of a record is pending."""
        return self.is_at_border()

    cdef bint is_at_border(self) noexcept:
        return self.header_have == 0 and self.content_left == 0 and self.padding_left == 0

    @cython.critical_section
    def feed(self, data, Py_ssize_t size=-1):
        """Read the first `size` bytes of data (all when -1).

        Returns:
            A list of (type, request_id, content) in the order of arrival. content is bytes for
            a discrete record, a memoryview into data for a part of a stream, and b"" for the
            empty record that ends a stream.

        Raises:
            RemoteProtocolError: The version of a record is not 1; the connection is of no
                further use and the reader refuses to go on.
            BufferError: data is not contiguous.
            ValueError: size is more than data holds.
        """
        cdef Py_buffer view
        cdef const uint8_t* p
        cdef Py_ssize_t pos = 0, start
        cdef Part part
        cdef object whole = None
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if size < 0:
                size = view.len
            elif size > view.len:
                raise ValueError("size is more than the data holds")
            p = <const uint8_t*>view.buf
            records = []
            while self.next_part(p, size, &pos, &part):
                if part.length and is_stream(part.type, part.request_id):
                    if whole is None:
                        whole = bytes_of(data)
                    start = part.content - p
                    content = whole[start:start + part.length]
                else:
                    content = PyBytes_FromStringAndSize(<const char*>part.content, part.length)
                records.append((part.type, part.request_id, content))
            return records
        finally:
            PyBuffer_Release(&view)

    cdef int next_part(
        self, const uint8_t* p, Py_ssize_t size, Py_ssize_t* pos, Part* part
    ) except -1:
        """Read on at p[pos].

        Returns:
            1: *part is the next part, pos is behind it. 0: nothing more; what is cut is kept.

        Raises:
            RemoteProtocolError: As feed().
        """
        cdef const uint8_t* header = p + pos[0]
        cdef Py_ssize_t length, whole, skipped
        if self.failed:
            raise RemoteProtocolError("the stream of records was broken before")
        if self.discrete.memory != NULL and self.content_left == 0:
            drop(&self.discrete)
        # Most records are whole; only of one that is cut is anything noted.
        if self.is_at_border() and size - pos[0] >= HEADER_LEN and header[0] == VERSION_1:
            length = (header[4] << 8) | header[5]
            whole = HEADER_LEN + length + header[6]
            if whole <= size - pos[0]:
                part.type = header[1]
                part.request_id = (header[2] << 8) | header[3]
                part.content = header + HEADER_LEN
                part.length = length
                pos[0] += whole
                self.offset += whole
                return 1
        while pos[0] < size:
            if self.content_left:
                if self.take_content(p, size, pos, part):
                    return 1
            elif self.padding_left:
                skipped = min(self.padding_left, size - pos[0])
                self.padding_left -= skipped
                pos[0] += skipped
                self.offset += skipped
            elif self.begin_record(p, size, pos) and self.content_left == 0:
                part.type = self.type
                part.request_id = self.request_id
                part.content = p
                part.length = 0
                return 1
        return 0

    cdef int begin_record(self, const uint8_t* p, Py_ssize_t size, Py_ssize_t* pos) except -1:
        """Take in a header, or what there is of it; returns whether it is whole."""
        cdef const uint8_t* header = p + pos[0]
        cdef Py_ssize_t taken = min(<Py_ssize_t>(HEADER_LEN - self.header_have), size - pos[0])
        if self.header_have == 0 and header[0] != VERSION_1:
            self.failed = True
            raise RemoteProtocolError(
                f"version {header[0]} instead of 1 in a record header (spec 3.3)", self.offset
            )
        pos[0] += taken
        self.offset += taken
        if taken < HEADER_LEN:
            memcpy(self.header + self.header_have, header, taken)
            self.header_have += <int>taken
            if self.header_have < HEADER_LEN:
                return 0
            header = self.header
            self.header_have = 0
        self.type = header[1]
        self.request_id = (header[2] << 8) | header[3]
        self.content_left = (header[4] << 8) | header[5]
        self.padding_left = header[6]
        return 1

    cdef int take_content(
        self, const uint8_t* p, Py_ssize_t size, Py_ssize_t* pos, Part* part
    ) except -1:
        """Take in content; returns whether it is a part to be given out."""
        cdef const uint8_t* content = p + pos[0]
        cdef Py_ssize_t taken = min(self.content_left, size - pos[0])
        part.type = self.type
        part.request_id = self.request_id
        part.content = content
        part.length = taken
        if not is_stream(self.type, self.request_id):
            if self.discrete.length or taken < self.content_left:
                keep(&self.discrete, content, taken, MAX_CONTENT)
                part.content = self.discrete.memory
                part.length = self.discrete.length
        self.content_left -= taken
        pos[0] += taken
        self.offset += taken
        return self.content_left == 0 or part.content == content


# ---------------------------------------------------------------------------------------------
# Out
# ---------------------------------------------------------------------------------------------

cdef int check_header(int type, int request_id, Py_ssize_t content_length, int padding) except -1:
    if not 0 <= type <= 255:
        raise ValueError("type is one byte")
    if not 0 <= request_id <= 65535:
        raise ValueError("request_id is two bytes")
    if not 0 <= content_length <= MAX_CONTENT:
        raise ValueError("content_length is 0 to 65535")
    if not 0 <= padding <= 255:
        raise ValueError("padding_length is one byte")
    return 0


cdef bytes new_bytes(Py_ssize_t size):
    return PyBytes_FromStringAndSize(NULL, size)


cdef int copy_body(object content, uint8_t* out, str record, str section) except -1:
    """The 8 bytes of a discrete record's content."""
    cdef Py_buffer view
    PyObject_GetBuffer(content, &view, PyBUF_SIMPLE)
    try:
        if view.len != 8:
            raise RemoteProtocolError(f"{record} of {view.len} bytes, not 8 (spec {section})")
        memcpy(out, view.buf, 8)
    finally:
        PyBuffer_Release(&view)
    return 0


def encode_header(int type, int request_id, int content_length, int padding_length=0):
    """The 8 bytes of a record header (spec 3.3).

    Raises:
        ValueError, OverflowError: A number does not fit its field.
    """
    check_header(type, request_id, content_length, padding_length)
    return new_header(type, request_id, content_length, padding_length)


cdef bytes new_header(int type, int request_id, int content_length, int padding_length):
    cdef bytes out = new_bytes(HEADER_LEN)
    write_header(
        <uint8_t*>PyBytes_AS_STRING(out), type, request_id, content_length, padding_length
    )
    return out


def encode_record(int type, int request_id, content=b""):
    """One whole record, padded to a multiple of 8 bytes (spec 3.3).

    Raises:
        ValueError, OverflowError: content has more than 65535 bytes, or a number does not fit
            its field.
    """
    cdef Py_buffer view
    cdef uint8_t* p
    cdef int padding
    cdef bytes out
    PyObject_GetBuffer(content, &view, PyBUF_SIMPLE)
    try:
        check_header(type, request_id, view.len, 0)
        padding = padding_of(view.len, 0)
        out = new_bytes(HEADER_LEN + view.len + padding)
        p = <uint8_t*>PyBytes_AS_STRING(out)
        write_header(p, type, request_id, <int>view.len, padding)
        memcpy(p + HEADER_LEN, view.buf, view.len)
        for i in range(padding):
            p[HEADER_LEN + view.len + i] = 0
        return out
    finally:
        PyBuffer_Release(&view)


def encode_stream(
    int type, int request_id, data, Py_ssize_t max_content=ALIGNED_CONTENT, int min_padding=0
):
    """Part of a stream as buffers to be written one after another; nothing is copied.

    Args:
        max_content: The most content of one record, at most 65535 bytes.
        min_padding: The least padding of a record, 0 to 8 bytes.

    Returns:
        [header, data, padding] with data the very object given, or for more than max_content
        bytes [header, slice, padding, header, slice, ...] with memoryview slices of it. No
        padding where none is needed to end on 8 bytes and none is asked for; nothing at all for
        no data (an empty record ends a stream).
    """
    if not 0 < max_content <= MAX_CONTENT or not 0 <= min_padding <= 8:
        raise ValueError("a record has some content, and at least 0 to 8 bytes of padding")
    check_header(type, request_id, 0, 0)
    size_of(data)               # None is no buffer
    return stream_buffers(type, request_id, None, data, max_content, min_padding)


cdef list stream_buffers(
    int type, int request_id, bytes head, object data, Py_ssize_t max_content, int min_padding
):
    """encode_stream() of head followed by data, either of which may be None."""
    cdef Py_ssize_t first = 0 if head is None else len(head)
    cdef Py_ssize_t length = first + (0 if data is None else size_of(data))
    cdef Py_ssize_t pos = 0, end
    cdef int padding
    cdef object view = None     # of data, if it has to be cut
    cdef list buffers = []
    while pos < length:
        end = min(pos + max_content, length)
        padding = padding_of(end - pos, min_padding)
        buffers.append(new_header(type, request_id, <int>(end - pos), padding))
        if pos < first:
            buffers.append(head if first <= end - pos else bytes_of(head)[pos:min(end, first)])
        if pos <= first and end == length > first:
            buffers.append(data)
        elif end > first:
            if view is None:
                view = bytes_of(data)
            buffers.append(view[max(pos, first) - first:end - first])
        if padding:
            buffers.append(bytes(padding))
        pos = end
    return buffers


cdef Py_ssize_t size_of(object data) except -1:
    """Bytes of a contiguous buffer."""
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    PyBuffer_Release(&view)
    return view.len


cdef object bytes_of(object data):
    """A view of a buffer's bytes, whatever its items are."""
    return memoryview(data).cast("B")


def encode_begin_request(int request_id, int role, int flags):
    """A BEGIN_REQUEST record (spec 5.1)."""
    if not 0 <= role <= 65535 or not 0 <= flags <= 255:
        raise ValueError("role is two bytes, flags is one")
    return encode_record(
        TYPE_BEGIN_REQUEST, request_id, bytes((role >> 8, role & 255, flags, 0, 0, 0, 0, 0))
    )


def decode_begin_request(content):
    """(role, flags) of the content of a BEGIN_REQUEST record (spec 5.1).

    Raises:
        RemoteProtocolError: content has not 8 bytes.
    """
    cdef uint8_t p[8]
    copy_body(content, p, "BEGIN_REQUEST", "5.1")
    return (p[0] << 8) | p[1], p[2]


def encode_end_request(int request_id, uint32_t app_status, int protocol_status):
    """An END_REQUEST record (spec 5.5); app_status is four bytes, protocol_status one."""
    if not 0 <= protocol_status <= 255:
        raise ValueError("protocol_status is one byte")
    check_header(TYPE_END_REQUEST, request_id, 0, 0)
    cdef bytes out = new_bytes(END_REQUEST_LEN)
    write_end_request(<uint8_t*>PyBytes_AS_STRING(out), request_id, app_status, protocol_status)
    return out


def decode_end_request(content):
    """(app_status, protocol_status) of the content of an END_REQUEST record (spec 5.5).

    Raises:
        RemoteProtocolError: content has not 8 bytes.
    """
    cdef uint8_t p[8]
    copy_body(content, p, "END_REQUEST", "5.5")
    return (<uint32_t>p[0] << 24) | (p[1] << 16) | (p[2] << 8) | p[3], p[4]
