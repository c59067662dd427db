# cython: language_level=3, freethreading_compatible=True
"""The codec: record headers, name-value pairs and the memory to receive into.

No policy lives here: no request, no role, no socket. The rules of this file:

* The helpers of the first band take (pointer, bytes available, out), touch no Python object and
  return the bytes they consumed or NEED_MORE. Only the bands below turn that into exceptions.
* A stream is read, not a record: what is cut by a record or by a read goes on where it stopped.
* A length is compared with what may still come before anything is allocated for it.
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
from cpython.dict cimport PyDict_SetDefault, PyDict_SetItem, PyDict_Size
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.unicode cimport PyUnicode_DecodeLatin1
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove

from fastfcgi.exceptions import LimitExceeded, RemoteProtocolError

# The numbers that C needs, compared with constants.py by a test.
cdef enum:
    VERSION_1 = 1
    HEADER_LEN = 8
    MAX_CONTENT = 65535
    # The longest content of a stream record that needs no padding to end on 8 bytes (spec 3.3).
    ALIGNED_CONTENT = 65528
    TYPE_PARAMS = 4
    TYPE_DATA = 8
    TYPE_BEGIN_REQUEST = 1
    TYPE_END_REQUEST = 3
    NEED_MORE = -2
    NAME_SLOTS = 512


# ---------------------------------------------------------------------------------------------
# Helpers in C
# ---------------------------------------------------------------------------------------------

cdef struct Pair:
    const uint8_t* name
    const uint8_t* value
    uint32_t name_length
    uint32_t value_length
    uint64_t total          # bytes of the whole pair; 0 while the lengths are not all there


cdef inline Py_ssize_t read_length(
    const uint8_t* p, Py_ssize_t available, uint32_t* out
) noexcept nogil:
    """One length of a pair (spec 3.4): one byte below 128, else four with the top bit set."""
    if available < 1:
        return NEED_MORE
    if p[0] < 0x80:
        out[0] = p[0]
        return 1
    if available < 4:
        return NEED_MORE
    out[0] = (
        (<uint32_t>(p[0] & 0x7F) << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]
    )
    return 4


cdef Py_ssize_t read_pair(const uint8_t* p, Py_ssize_t available, Pair* out) noexcept nogil:
    """One name-value pair. `out.total` is set as soon as both lengths are known."""
    cdef Py_ssize_t used, pos
    out.total = 0
    used = read_length(p, available, &out.name_length)
    if used < 0:
        return NEED_MORE
    pos = used
    used = read_length(p + pos, available - pos, &out.value_length)
    if used < 0:
        return NEED_MORE
    pos += used
    # Two lengths of 31 bits and eight bytes: no overflow in 64 bits.
    out.total = <uint64_t>pos + out.name_length + out.value_length
    if out.total > <uint64_t>available:
        return NEED_MORE
    out.name = p + pos
    out.value = out.name + out.name_length
    return <Py_ssize_t>out.total


cdef inline Py_ssize_t write_length(uint8_t* p, Py_ssize_t length) noexcept nogil:
    if length < 0x80:
        p[0] = <uint8_t>length
        return 1
    p[0] = <uint8_t>(0x80 | (length >> 24))
    p[1] = <uint8_t>(length >> 16)
    p[2] = <uint8_t>(length >> 8)
    p[3] = <uint8_t>length
    return 4


cdef inline void write_header(
    uint8_t* p, int type, int request_id, int content_length, int padding_length
) noexcept nogil:
    p[0] = VERSION_1
    p[1] = <uint8_t>type
    p[2] = <uint8_t>(request_id >> 8)
    p[3] = <uint8_t>request_id
    p[4] = <uint8_t>(content_length >> 8)
    p[5] = <uint8_t>content_length
    p[6] = <uint8_t>padding_length
    p[7] = 0


cdef inline bint is_stream(int type, int request_id) noexcept nogil:
    """PARAMS, STDIN, STDOUT, STDERR and DATA are streams (spec 8), but there is none on
    request_id 0: management records are discrete (spec 3.3)."""
    return TYPE_PARAMS <= type <= TYPE_DATA and request_id != 0


cdef inline uint32_t hash_name(const uint8_t* p, Py_ssize_t length) noexcept nogil:
    """Tells the names of NAMES apart by their length and four bytes; length is at least 1."""
    cdef uint32_t h = <uint32_t>length * 0x9E3779B1u
    h ^= <uint32_t>p[length - 1] * 0x85EBCA6Bu
    h ^= <uint32_t>p[length >> 1] * 0xC2B2AE35u
    h ^= <uint32_t>p[length >> 2] * 0x27D4EB2Fu
    h ^= <uint32_t>p[length - 1 - (length >> 2)] * 0x165667B1u
    return (h ^ (h >> 15)) & (NAME_SLOTS - 1)


# ---------------------------------------------------------------------------------------------
# Names
# ---------------------------------------------------------------------------------------------

# What web servers were seen to send and what browsers send: the same names come with every
# request, so their str objects are made once. Any other name works and costs a new str.
_KNOWN_NAMES = """
AUTH_TYPE CONTENT_LENGTH CONTENT_TYPE CONTEXT_DOCUMENT_ROOT CONTEXT_PREFIX DOCUMENT_ROOT
DOCUMENT_URI FCGI_ROLE FCGI_MAX_CONNS FCGI_MAX_REQS FCGI_MPXS_CONNS FCGI_DATA_LENGTH
FCGI_DATA_LAST_MOD GATEWAY_INTERFACE HTTPS PATH PATH_INFO PATH_TRANSLATED QUERY_STRING
REDIRECT_STATUS REDIRECT_URI REDIRECT_URL REMOTE_ADDR REMOTE_HOST REMOTE_IDENT REMOTE_PORT
REMOTE_USER REQUEST_METHOD REQUEST_SCHEME REQUEST_URI SCRIPT_FILENAME SCRIPT_NAME SCRIPT_URI
SCRIPT_URL SERVER_ADDR SERVER_ADMIN SERVER_NAME SERVER_PORT SERVER_PROTOCOL SERVER_SIGNATURE
SERVER_SOFTWARE SSL_CIPHER SSL_PROTOCOL SSL_TLS_SNI TZ UNIQUE_ID
HTTP_ACCEPT HTTP_ACCEPT_CHARSET HTTP_ACCEPT_ENCODING HTTP_ACCEPT_LANGUAGE HTTP_AUTHORIZATION
HTTP_CACHE_CONTROL HTTP_CONNECTION HTTP_CONTENT_ENCODING HTTP_CONTENT_LENGTH HTTP_CONTENT_TYPE
HTTP_COOKIE HTTP_DNT HTTP_EXPECT HTTP_FORWARDED HTTP_FROM HTTP_HOST HTTP_IF_MATCH
HTTP_IF_MODIFIED_SINCE HTTP_IF_NONE_MATCH HTTP_IF_RANGE HTTP_IF_UNMODIFIED_SINCE HTTP_ORIGIN
HTTP_PRAGMA HTTP_PRIORITY HTTP_PROXY HTTP_RANGE HTTP_REFERER HTTP_SEC_CH_UA
HTTP_SEC_CH_UA_MOBILE HTTP_SEC_CH_UA_PLATFORM HTTP_SEC_FETCH_DEST HTTP_SEC_FETCH_MODE
HTTP_SEC_FETCH_SITE HTTP_SEC_FETCH_USER HTTP_TE HTTP_TRANSFER_ENCODING HTTP_UPGRADE
HTTP_UPGRADE_INSECURE_REQUESTS HTTP_USER_AGENT HTTP_VIA HTTP_X_FORWARDED_FOR
HTTP_X_FORWARDED_HOST HTTP_X_FORWARDED_PORT HTTP_X_FORWARDED_PROTO HTTP_X_REAL_IP
HTTP_X_REQUESTED_WITH HTTP_X_REQUEST_ID
""".split()


cdef struct NameSlot:
    const uint8_t* text
    Py_ssize_t length
    void* name              # borrowed: the str of the table's list


@cython.final
cdef class NameTable:
    """Bytes of a known name -> its interned str. Filled once at import, only read after it."""

    cdef NameSlot slots[NAME_SLOTS]
    cdef list names         # keeps the str objects alive
    cdef list texts         # and their bytes, which the slots point into

    def __cinit__(self, names):
        import sys
        cdef uint32_t slot
        cdef bytes text
        cdef str name
        self.names = [sys.intern(name) for name in names]
        self.texts = [name.encode("ascii") for name in names]
        for name, text in zip(self.names, self.texts):
            slot = hash_name(<const uint8_t*>PyBytes_AS_STRING(text), len(text))
            while self.slots[slot].text != NULL:
                slot = (slot + 1) & (NAME_SLOTS - 1)
            self.slots[slot].text = <const uint8_t*>PyBytes_AS_STRING(text)
            self.slots[slot].length = len(text)
            self.slots[slot].name = <void*>name

    cdef inline void* find(self, const uint8_t* p, Py_ssize_t length) noexcept:
        """The interned str (borrowed) or NULL."""
        cdef uint32_t slot
        if length == 0:
            return NULL
        slot = hash_name(p, length)
        while self.slots[slot].text != NULL:
            if self.slots[slot].length == length:
                if memcmp(self.slots[slot].text, p, length) == 0:
                    return self.slots[slot].name
            slot = (slot + 1) & (NAME_SLOTS - 1)
        return NULL


cdef NameTable NAMES = NameTable(_KNOWN_NAMES)


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

@cython.final
cdef class RecordReader:
    """Reads records from bytes that may be cut anywhere (spec 3.3).

    Discrete records are given whole. Of stream records each part is given as it arrives, as a
    view into the data that was fed: record borders mean nothing in a stream, and a reader that
    waits for none of them holds no memory for a peer that drips. What it keeps is at most a
    header and the content of one discrete record.
    """

    cdef uint8_t header[HEADER_LEN]
    cdef int header_have
    cdef int type
    cdef int request_id
    cdef Py_ssize_t content_left
    cdef Py_ssize_t padding_left
    cdef bytearray discrete     # content so far of a discrete record that was cut
    cdef uint64_t offset        # bytes of the connection before the present feed
    cdef bint failed

    def __init__(self):
        self.discrete = bytearray()

    @property
    def at_border(self):
        """Whether no part of a record is pending."""
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
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if size < 0:
                size = view.len
            elif size > view.len:
                raise ValueError("size is more than the data holds")
            if self.failed:
                raise RemoteProtocolError("the stream of records was broken before")
            records = []
            self.read_all(data, <const uint8_t*>view.buf, size, records)
            self.offset += size
            return records
        finally:
            PyBuffer_Release(&view)

    cdef int read_all(
        self, object data, const uint8_t* p, Py_ssize_t size, list records
    ) except -1:
        cdef Py_ssize_t pos = 0, part
        cdef object whole = None
        while pos < size:
            if self.content_left == 0:
                if self.padding_left:
                    part = min(self.padding_left, size - pos)
                    self.padding_left -= part
                    pos += part
                    continue
                part = min(<Py_ssize_t>(HEADER_LEN - self.header_have), size - pos)
                memcpy(self.header + self.header_have, p + pos, part)
                if self.header_have == 0:
                    self.check_version(self.header[0], pos)
                self.header_have += <int>part
                pos += part
                if self.header_have == HEADER_LEN:
                    self.begin_record(records)
                continue
            part = min(self.content_left, size - pos)
            self.content_left -= part
            if is_stream(self.type, self.request_id):
                if whole is None:
                    whole = memoryview(data).cast("B")
                records.append((self.type, self.request_id, whole[pos:pos + part]))
            elif self.content_left == 0 and not self.discrete:
                content = PyBytes_FromStringAndSize(<const char*>p + pos, part)
                records.append((self.type, self.request_id, content))
            else:
                self.discrete += PyBytes_FromStringAndSize(<const char*>p + pos, part)
                if self.content_left == 0:
                    records.append((self.type, self.request_id, bytes(self.discrete)))
                    self.discrete = bytearray()
            pos += part
        return 0

    cdef int check_version(self, int version, Py_ssize_t pos) except -1:
        if version != VERSION_1:
            self.failed = True
            raise RemoteProtocolError(
                f"version {version} instead of 1 in a record header (spec 3.3)",
                self.offset + pos,
            )
        return 0

    cdef int begin_record(self, list records) except -1:
        """The header is complete: take it apart; a record without content is whole already."""
        self.header_have = 0
        self.type = self.header[1]
        self.request_id = (self.header[2] << 8) | self.header[3]
        self.content_left = (self.header[4] << 8) | self.header[5]
        self.padding_left = self.header[6]
        if self.content_left == 0:
            records.append((self.type, self.request_id, b""))
        return 0


# ---------------------------------------------------------------------------------------------
# Name-value pairs in
# ---------------------------------------------------------------------------------------------

@cython.final
cdef class ParamsDecoder:
    """Turns a PARAMS stream, cut anywhere, into environ entries (spec 3.4, PEP 3333).

    Args:
        max_bytes: The longest stream taken in, in bytes; stops a peer that never ends it or
            announces a pair of 2 GiB.
        max_pairs: The most pairs taken in.
        reserved: Pairs whose name begins with this are left out.

    Names and values become latin-1 str. A name that comes again replaces the earlier value,
    but request header fields (HTTP_*) that a web server sends one by one are joined as RFC 9110
    section 5.3 joins them: by ", ", cookies by "; ". HTTP_HOST is never a list.
    """

    cdef dict environ
    cdef dict repeated          # name -> list of values, for HTTP_* that came again
    cdef bytes reserved
    cdef Py_ssize_t max_bytes
    cdef Py_ssize_t max_pairs
    cdef Py_ssize_t pairs
    cdef Py_ssize_t total       # bytes fed
    cdef Py_ssize_t consumed    # bytes of whole pairs
    cdef uint8_t* tail          # the beginning of a pair that was cut
    cdef Py_ssize_t tail_length
    cdef Py_ssize_t tail_size
    cdef bint failed

    def __init__(
        self, Py_ssize_t max_bytes=1048576, Py_ssize_t max_pairs=1024, bytes reserved not None=b""
    ):
        self.environ = {}
        self.reserved = reserved
        self.max_bytes = max_bytes
        self.max_pairs = max_pairs

    def __dealloc__(self):
        PyMem_Free(self.tail)

    @property
    def received(self):
        """Bytes of the stream so far."""
        return self.total

    @cython.critical_section
    def feed(self, data):
        """Take the next part of the stream, any contiguous buffer.

        Raises:
            LimitExceeded: More than max_bytes or max_pairs, or a pair whose announced length
                cannot fit any more.
        """
        cdef Py_buffer view
        if self.failed:
            raise RemoteProtocolError("PARAMS were broken before")
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        # Until this feed has gone well: what an exception leaves behind cannot be gone on with.
        self.failed = True
        try:
            if view.len > self.max_bytes - self.total:
                raise LimitExceeded(
                    f"more than max_params_bytes={self.max_bytes} bytes of PARAMS"
                )
            self.total += view.len
            if self.tail_length == 0:
                self.read_pairs(<const uint8_t*>view.buf, view.len)
            else:
                self.keep(<const uint8_t*>view.buf, view.len)
                self.read_tail()
            self.failed = False
        finally:
            PyBuffer_Release(&view)

    @cython.critical_section
    def finish(self):
        """The stream ended: the entries as a dict of str, which now belongs to the caller.

        Raises:
            RemoteProtocolError: The stream ended inside a pair.
        """
        if self.failed:
            raise RemoteProtocolError("PARAMS were broken before")
        if self.tail_length:
            raise RemoteProtocolError("PARAMS ended inside a name-value pair (spec 3.4)")
        if self.repeated:
            for name, values in self.repeated.items():
                self.environ[name] = ("; " if name == "HTTP_COOKIE" else ", ").join(values)
        environ, self.environ, self.repeated = self.environ, {}, None
        # The request may live on for long; nothing of the stream has to.
        PyMem_Free(self.tail)
        self.tail = NULL
        self.tail_size = 0
        return environ

    cdef int read_pairs(self, const uint8_t* p, Py_ssize_t size) except -1:
        """Take all whole pairs at p; keep what is cut."""
        cdef Py_ssize_t pos = self.take(p, size)
        if pos < size:
            self.keep(p + pos, size - pos)
        return 0

    cdef int read_tail(self) except -1:
        cdef Py_ssize_t pos = self.take(self.tail, self.tail_length)
        if pos:
            self.tail_length -= pos
            memmove(self.tail, self.tail + pos, self.tail_length)
        return 0

    cdef Py_ssize_t take(self, const uint8_t* p, Py_ssize_t size) except -1:
        """Add the whole pairs at p and return how many bytes they have."""
        cdef Py_ssize_t pos = 0, used
        cdef Pair pair
        while pos < size:
            used = read_pair(p + pos, size - pos, &pair)
            if used < 0:
                if pair.total > <uint64_t>(self.max_bytes - self.consumed):
                    raise LimitExceeded(
                        f"a pair of {pair.total} bytes is beyond"
                        f" max_params_bytes={self.max_bytes}"
                    )
                break
            if self.pairs >= self.max_pairs:
                raise LimitExceeded(f"more than max_params_pairs={self.max_pairs} params")
            self.pairs += 1
            self.add(&pair)
            self.consumed += used
            pos += used
        return pos

    cdef int add(self, Pair* pair) except -1:
        cdef void* known
        cdef object name, value
        cdef Py_ssize_t before
        if self.is_reserved(pair.name, pair.name_length):
            return 0
        known = NAMES.find(pair.name, pair.name_length)
        if known != NULL:
            name = <object>known
        else:
            name = PyUnicode_DecodeLatin1(<const char*>pair.name, pair.name_length, NULL)
        value = PyUnicode_DecodeLatin1(<const char*>pair.value, pair.value_length, NULL)
        if pair.name_length >= 5 and memcmp(pair.name, b"HTTP_", 5) == 0:
            before = PyDict_Size(self.environ)
            PyDict_SetDefault(self.environ, name, value)
            if PyDict_Size(self.environ) != before:
                return 0
            if name != "HTTP_HOST":
                if self.repeated is None:
                    self.repeated = {}
                values = self.repeated.setdefault(name, [])
                if not values:
                    values.append(self.environ[name])
                values.append(value)
                return 0
        PyDict_SetItem(self.environ, name, value)
        return 0

    cdef bint is_reserved(self, const uint8_t* name, Py_ssize_t length) noexcept:
        cdef Py_ssize_t prefix = len(self.reserved)
        if prefix == 0 or length < prefix:
            return False
        return memcmp(name, PyBytes_AS_STRING(self.reserved), prefix) == 0

    cdef int keep(self, const uint8_t* p, Py_ssize_t size) except -1:
        """Append to the tail; it never grows beyond max_bytes, which bounds what is fed."""
        cdef Py_ssize_t need = self.tail_length + size
        cdef Py_ssize_t grown
        cdef uint8_t* memory
        if need > self.tail_size:
            grown = max(need, min(2 * self.tail_size, self.max_bytes))
            memory = <uint8_t*>PyMem_Realloc(self.tail, grown)
            if memory == NULL:
                raise MemoryError()
            self.tail = memory
            self.tail_size = grown
        memcpy(self.tail + self.tail_length, p, size)
        self.tail_length = need
        return 0


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
        padding = -view.len & 7
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
    cdef Py_buffer view
    cdef Py_ssize_t length, part, pos = 0
    cdef int padding
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    length = view.len
    PyBuffer_Release(&view)
    check_header(type, request_id, max_content, min_padding)
    if max_content == 0 or min_padding > 8:
        raise ValueError("a record has some content, and at least 0 to 8 bytes of padding")
    buffers = []
    whole = memoryview(data).cast("B") if length > max_content else None
    while pos < length:
        part = min(length - pos, max_content)
        padding = -part & 7
        if padding < min_padding:
            padding += 8
        buffers.append(encode_header(type, request_id, <int>part, padding))
        buffers.append(data if whole is None else whole[pos:pos + part])
        if padding:
            buffers.append(bytes(padding))
        pos += part
    return buffers


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
    cdef uint8_t content[8]
    content[0] = <uint8_t>(app_status >> 24)
    content[1] = <uint8_t>(app_status >> 16)
    content[2] = <uint8_t>(app_status >> 8)
    content[3] = <uint8_t>app_status
    content[4] = <uint8_t>protocol_status
    content[5] = content[6] = content[7] = 0
    return encode_record(
        TYPE_END_REQUEST, request_id, PyBytes_FromStringAndSize(<const char*>content, 8)
    )


def decode_end_request(content):
    """(app_status, protocol_status) of the content of an END_REQUEST record (spec 5.5).

    Raises:
        RemoteProtocolError: content has not 8 bytes.
    """
    cdef uint8_t p[8]
    copy_body(content, p, "END_REQUEST", "5.5")
    return (<uint32_t>p[0] << 24) | (p[1] << 16) | (p[2] << 8) | p[3], p[4]
