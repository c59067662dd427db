# cython: language_level=3, freethreading_compatible=True
"""A PARAMS stream -> the entries of an environ. What is taken over from earlier requests is in
_shapes.

* A stream is read, not a record: what is cut by a record or by a read goes on where it stopped.
* A length is compared with what may still come before anything is allocated for it.
* A raw pointer is used only while the buffer it points into is held, and never after a call that
  can run Python code.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Copy, PyDict_SetDefault, PyDict_SetItem, PyDict_Size
from cpython.unicode cimport PyUnicode_DecodeLatin1
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memmove

from fastfcgi._pairs cimport NAMES, NameSlot, begins_with, drop, keep, name_of, read_pair
from fastfcgi._shapes cimport Outline, outline

from fastfcgi.exceptions import LimitExceeded, RemoteProtocolError

# A dict that takes so many entries before it grows. The function is no documented one, but Python.h
# of 3.10 to 3.14 has it.
cdef extern from *:
    """
    #if PY_VERSION_HEX < 0x030F0000
    #define fastfcgi_new_dict(entries) _PyDict_NewPresized(entries)
    #else
    #define fastfcgi_new_dict(entries) PyDict_New()
    #endif
    #ifdef Py_GIL_DISABLED
    #define FASTFCGI_HAS_GIL 0
    #else
    #define FASTFCGI_HAS_GIL 1
    #endif
    """
    dict new_dict "fastfcgi_new_dict" (Py_ssize_t entries)
    bint HAS_GIL "FASTFCGI_HAS_GIL"

cdef enum:
    # What an environ comes to: 25 params and a dozen entries of the gateway's; a dict of 64 places
    # takes 42 before it grows.
    ENVIRON_ENTRIES = 42


cdef dict start_of(dict base):
    """What an environ with these entries is copied from; None for no entries.

    A copy has a table of the same size, unless a third of its places are deleted entries.
    """
    cdef dict start
    if not base:
        return None
    start = new_dict(ENVIRON_ENTRIES)
    for name, value in base.items():    # update() would make the table as small as that of base
        PyDict_SetItem(start, name, value)
    return start


@cython.final
cdef class ParamsDecoder:
    """Turns a PARAMS stream, cut anywhere, into environ entries (spec 3.4, PEP 3333).

    Args:
        max_bytes: The longest stream taken in, in bytes; stops a peer that never ends it or
            announces a pair of 2 GiB.
        max_pairs: The most pairs taken in.
        reserved: Pairs whose name begins with this are left out.
        cache: What earlier requests had, or None.
        base: Entries that every dict begins with: str -> object. Their names are reserved.

    Names and values become latin-1 str. A name that comes again replaces the earlier value,
    but request header fields (HTTP_*) that a web server sends one by one are joined as RFC 9110
    section 5.3 joins them: by ", ", cookies by "; ". HTTP_HOST is never a list.
    """

    def __cinit__(self):
        self.reserved = b""
        self.max_bytes = 1048576
        self.max_pairs = 1024

    def __init__(
        self,
        Py_ssize_t max_bytes=1048576,
        Py_ssize_t max_pairs=1024,
        bytes reserved not None=b"",
        ValueCache cache=None,
        dict base=None,
    ):
        self.reserved = reserved
        self.cache = cache
        self.start = start_of(base)
        self.max_bytes = max_bytes
        self.max_pairs = max_pairs

    def __dealloc__(self):
        drop(&self.tail)

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
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.feed_bytes(<const uint8_t*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    @cython.critical_section
    def finish(self):
        """The stream ended: the entries as a dict of str, which now belongs to the caller. The
        decoder then serves for another stream.

        Raises:
            RemoteProtocolError: The stream ended inside a pair.
        """
        return self.take()

    cdef int feed_bytes(self, const uint8_t* p, Py_ssize_t size) except -1:
        """feed() of bytes that stay where they are meanwhile."""
        if self.failed:
            raise RemoteProtocolError("PARAMS were broken before")
        if self.environ is None:
            self.reset()
        # Until this feed has gone well: what an exception leaves behind cannot be gone on with.
        self.failed = True
        if size > self.max_bytes - self.total:
            raise LimitExceeded(f"more than max_params_bytes={self.max_bytes} bytes of PARAMS")
        if self.cache is None:
            self.read(p, size)
        else:
            with cython.critical_section(self.cache):
                if HAS_GIL and self.environ is None:
                    self.read_first(p, size)
                else:
                    self.read(p, size)
        self.total += size
        self.failed = False
        return 0

    cdef dict take(self):
        """finish()"""
        cdef dict environ
        if self.failed:
            raise RemoteProtocolError("PARAMS were broken before")
        if self.tail.length:
            raise RemoteProtocolError("PARAMS ended inside a name-value pair (spec 3.4)")
        environ = self.environ
        if environ is None:
            environ = self.new_environ()
        elif self.repeated is not None:
            for name, values in self.repeated.items():
                environ[name] = ("; " if name == "HTTP_COOKIE" else ", ").join(values)
        self.environ = None
        self.repeated = None
        # The request may live on for long; nothing of the stream has to.
        drop(&self.tail)
        return environ

    cdef void reset(self) noexcept:
        """As new, whatever was fed before."""
        self.environ = None
        self.repeated = None
        drop(&self.tail)
        self.total = self.consumed = self.pairs = 0
        self.failed = False

    cdef dict new_environ(self):
        return new_dict(ENVIRON_ENTRIES) if self.start is None else PyDict_Copy(self.start)

    cdef int read_first(self, const uint8_t* p, Py_ssize_t size) except -1:
        """read() of the first bytes of a stream: as a rule all of it, and like that of an earlier
        request."""
        cdef Outline stream
        if not outline(p, size, &stream) or stream.pairs > self.max_pairs:
            return self.read(p, size)
        self.environ = self.cache.environ_of(&stream, self.start, self.reserved)
        if self.environ is not None:
            self.pairs = stream.pairs
            self.consumed = size
            return 0
        self.read(p, size)
        return self.cache.learn(&stream, self.environ, self.start, self.reserved)

    cdef int read(self, const uint8_t* p, Py_ssize_t size) except -1:
        """Take all whole pairs; keep what is cut."""
        cdef Py_ssize_t pos
        if self.environ is None:
            self.environ = self.new_environ()
        if self.tail.length == 0:
            pos = self.add_pairs(p, size)
            if pos < size:
                keep(&self.tail, p + pos, size - pos, self.max_bytes)
            return 0
        keep(&self.tail, p, size, self.max_bytes)
        pos = self.add_pairs(self.tail.memory, self.tail.length)
        if pos:
            self.tail.length -= pos
            memmove(self.tail.memory, self.tail.memory + pos, self.tail.length)
        return 0

    cdef Py_ssize_t add_pairs(self, const uint8_t* p, Py_ssize_t size) except -1:
        """Add the whole pairs at p and return how many bytes they have."""
        cdef const uint8_t* prefix = <const uint8_t*>PyBytes_AS_STRING(self.reserved)
        cdef Py_ssize_t prefix_size = PyBytes_GET_SIZE(self.reserved)
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
            if not begins_with(pair.name, pair.name_length, prefix, prefix_size):
                self.add(&pair)
            self.consumed += used
            pos += used
        return pos

    cdef int add(self, Pair* pair) except -1:
        cdef NameSlot* known = NAMES.find(pair.name, pair.name_length)
        cdef str name = name_of(known, pair), value
        cdef bint is_header
        if known == NULL:
            is_header = begins_with(pair.name, pair.name_length, b"HTTP_", 5)
        else:
            is_header = known.is_header
        if known != NULL and known.steady >= 0 and self.cache is not None:
            value = self.cache.get(known.steady, pair.value, pair.value_length)
        else:
            value = PyUnicode_DecodeLatin1(<const char*>pair.value, pair.value_length, NULL)
        if is_header:
            return self.add_header(name, value)
        return PyDict_SetItem(self.environ, name, value)

    cdef int add_header(self, str name, str value) except -1:
        """A request header field, which may come again."""
        cdef Py_ssize_t before = PyDict_Size(self.environ)
        cdef list values
        PyDict_SetDefault(self.environ, name, value)
        if PyDict_Size(self.environ) != before:
            return 0
        if name == "HTTP_HOST":
            return PyDict_SetItem(self.environ, name, value)
        if self.repeated is None:
            self.repeated = {}
        values = self.repeated.setdefault(name, [])
        if not values:
            values.append(self.environ[name])
        values.append(value)
        return 0
