# cython: language_level=3, freethreading_compatible=True
"""A PARAMS stream -> the entries of an environ.

Web servers send the same names in the same order from one request to the next, and mostly the same
values. What has not changed is not made anew: a str is shared (ValueCache), and a dict whose names
are known already is copied whole and not built entry by entry (Shape).

* A stream is read, not a record: what is cut by a record or by a read goes on where it stopped.
* A length is compared with what may still come before anything is allocated for it.
* A raw pointer is used only while the buffer it points into is held, and never after a call that
  can run Python code.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Copy, PyDict_SetDefault, PyDict_SetItem, PyDict_Size
from cpython.unicode cimport (
    PyUnicode_1BYTE_DATA,
    PyUnicode_DecodeLatin1,
    PyUnicode_GET_LENGTH,
)
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memmove

from fastfcgi._pairs cimport NAMES, NameSlot, begins_with, drop, keep, read_length, read_pair

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
    # What the gateway and an application add to an environ, but for its base.
    MORE_ENTRIES = 8
    # A longer value is not worth keeping for the next request.
    MAX_CACHED = 256
    # The highest bits of a stream's key are the number of a shape's slot.
    SHAPE_SHIFT = 59
    # Credit of a slot when its stream is worth a shape, and the most that it gathers.
    LEARN_CREDIT = 3
    MAX_CREDIT = 16
    # In place of the number of a name: another pair of the same name follows, whose value counts.
    OVERRIDDEN = -2


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


# ---------------------------------------------------------------------------------------------
# What one request has in common with the next
# ---------------------------------------------------------------------------------------------

cdef struct Difference:
    void* name                  # borrowed: a str
    const uint8_t* value
    Py_ssize_t length
    void* made                  # borrowed: the value as a str


cdef inline str name_of(const NameSlot* known, const Pair* pair):
    """The name of a pair; known may be NULL."""
    if known == NULL:
        return PyUnicode_DecodeLatin1(<const char*>pair.name, pair.name_length, NULL)
    return <str>known.name


cdef uint64_t outline(const uint8_t* p, Py_ssize_t size, Py_ssize_t* pairs) noexcept nogil:
    """A number that tells the names of some whole pairs from other names, by their lengths and last
    bytes; 0 where a pair is cut or no shape is made: of too many pairs, of too long a name."""
    cdef const uint8_t* end = p + size
    cdef uint64_t key = 0
    cdef uint32_t name_length, length
    cdef Py_ssize_t count = 0
    while end - p >= 2:
        name_length, length = p[0], p[1]
        if (name_length | length) < 0x80:
            p += 2
        elif name_length < 0x80 and read_length(p + 1, end - p - 1, &length) > 0:
            p += 5
        else:
            return 0
        if <Py_ssize_t>length > end - p - <Py_ssize_t>name_length:
            return 0
        p += name_length
        key = (key ^ (name_length << 8 | p[-1])) * 0x9E3779B97F4A7C15u
        p += length
        count += 1
    pairs[0] = count
    return key if p == end and count <= SHAPE_PAIRS else 0


cdef str value_of(const Difference* differences, Py_ssize_t number):
    """The value of a difference as a str; that of an earlier one, if it is the same: a URL comes as
    REQUEST_URI, DOCUMENT_URI and PATH_INFO."""
    cdef const Difference* wanted = &differences[number]
    cdef Py_ssize_t i
    for i in range(number):
        if differences[i].length == wanted.length:
            if memcmp(differences[i].value, wanted.value, wanted.length) == 0:
                return <str>differences[i].made
    return PyUnicode_DecodeLatin1(<const char*>wanted.value, wanted.length, NULL)


@cython.final
cdef class Shape:
    """The params that a request has in common with the next: their names in order, and the values
    that may stay. The environ of the next one is a copy of its template with what differs."""

    cdef dict fill(self, const uint8_t* p, Py_ssize_t size, ValueCache cache):
        """The entries of as many whole pairs, or None if their names are others.

        Until the template is copied nothing runs that could let another thread or a finalizer use
        this shape: only str and bytes are made, which the garbage collector does not count.
        """
        cdef Difference differences[SHAPE_PAIRS]
        cdef Py_ssize_t pos = 0, used, i, count = 0
        cdef ShapePair* known
        cdef Pair pair
        cdef str value
        cdef dict environ
        for i in range(self.count):
            known = &self.pairs[i]
            if 0 < known.size <= size - pos and memcmp(known.image, p + pos, known.size) == 0:
                pos += known.size
                continue
            used = read_pair(p + pos, size - pos, &pair)
            if used < 0 or pair.name_length != known.name_length:
                return None
            if memcmp(pair.name, known.text, pair.name_length) != 0:
                return None
            if known.steady >= 0 and pair.value_length <= MAX_CACHED:
                self.set_value(
                    i,
                    PyBytes_FromStringAndSize(<const char*>(p + pos), used),
                    cache.get(known.steady, pair.value, pair.value_length),
                )
            elif pair.value_length and known.steady != OVERRIDDEN:
                differences[count].name = known.name
                differences[count].value = pair.value
                differences[count].length = pair.value_length
                count += 1
            pos += used
        environ = PyDict_Copy(self.template)
        for i in range(count):
            value = value_of(differences, i)
            PyDict_SetItem(environ, <str>differences[i].name, value)
            differences[i].made = <void*>value
        return environ

    cdef int set_value(self, Py_ssize_t number, bytes image, str value) except -1:
        """A pair has a value that may stay."""
        cdef ShapePair* known = &self.pairs[number]
        PyDict_SetItem(self.template, <str>known.name, value)
        self.images[number] = image
        known.image = <const uint8_t*>PyBytes_AS_STRING(image)
        known.size = PyBytes_GET_SIZE(image)
        return 0


cdef Shape new_shape(ParamsDecoder decoder, const uint8_t* p, Py_ssize_t size):
    """The shape of some whole pairs that a decoder has just read. It has no pairs, and so fits no
    stream, if one of them is reserved or a header field came again."""
    cdef Shape shape = Shape.__new__(Shape)
    cdef ShapePair* known
    cdef NameSlot* slot
    cdef Pair pair
    cdef str name
    cdef dict last = {}
    cdef const uint8_t* prefix = <const uint8_t*>PyBytes_AS_STRING(decoder.reserved)
    cdef Py_ssize_t prefix_size = PyBytes_GET_SIZE(decoder.reserved)
    cdef Py_ssize_t pos = 0, used, i
    shape.names, shape.images = [], []
    for i in range(decoder.pairs):
        used = read_pair(p + pos, size - pos, &pair)
        if used < 0 or begins_with(pair.name, pair.name_length, prefix, prefix_size):
            return shape
        slot = NAMES.find(pair.name, pair.name_length)
        name = name_of(slot, &pair)
        if name in last:
            if name.startswith("HTTP_"):
                return shape
            shape.pairs[<Py_ssize_t>last[name]].steady = OVERRIDDEN
        last[name] = i
        shape.names.append(name)
        known = &shape.pairs[i]
        known.name = <void*>name
        known.text = <const uint8_t*>PyUnicode_1BYTE_DATA(name)
        known.name_length = PyUnicode_GET_LENGTH(name)
        known.steady = -1 if slot == NULL else slot.steady
        shape.images.append(
            PyBytes_FromStringAndSize(<const char*>(p + pos), used)
            if known.steady >= 0 and pair.value_length <= MAX_CACHED else None
        )
        pos += used
    shape.start, shape.reserved = decoder.start, decoder.reserved
    shape.template = new_template(decoder.start, last)
    for i in range(decoder.pairs):
        if shape.pairs[i].steady >= 0 and shape.images[i] is not None:
            shape.set_value(i, shape.images[i], decoder.environ[shape.names[i]])
    shape.count = decoder.pairs
    return shape


cdef dict new_template(dict start, dict names):
    """The entries of `start`, which may be None, and these names, in a table that takes
    MORE_ENTRIES more before it grows."""
    cdef dict plain = {}, template
    # A table that grew is for names that are str, and smaller than one made to measure.
    if start is not None:
        for name, value in start.items():
            plain[name] = value
    for name in names:
        plain[name] = ""
    # update() makes room as if all these were more.
    template = dict(list(plain.items())[:MORE_ENTRIES])
    template.update(plain)
    return template


@cython.final
cdef class ValueCache:
    """What requests have in common with those before them: the last value of each name whose values
    seldom change, and some shapes.

    Of no other name a value is kept, so that no cookie, credential or URL outlives its request.
    Made for one server; a decoder that uses it holds its lock where there is no GIL.
    """

    def __cinit__(self):
        self.values = [""] * NAMES.steady_names
        self.shapes = [None] * SHAPE_SLOTS

    cdef str get(self, int number, const uint8_t* p, Py_ssize_t length):
        """The bytes at p as a str: that of the last request, if it is the same."""
        cdef str value = <str>self.values[number]
        # What was made of latin-1 has one byte for each character.
        if PyUnicode_GET_LENGTH(value) == length:
            if memcmp(PyUnicode_1BYTE_DATA(value), p, length) == 0:
                return value
        value = PyUnicode_DecodeLatin1(<const char*>p, length, NULL)
        if length <= MAX_CACHED:
            self.values[number] = value
        return value

    cdef Shape shape_of(self, uint64_t key):
        """The shape for streams of an outline, or None."""
        cdef Py_ssize_t number = key >> SHAPE_SHIFT
        return <Shape>self.shapes[number] if self.slots[number].key == key else None

    cdef void was_of_use(self, uint64_t key) noexcept:
        cdef ShapeSlot* slot = &self.slots[key >> SHAPE_SHIFT]
        slot.credit = min(slot.credit + 2, MAX_CREDIT)

    cdef bint is_wanted(self, uint64_t key) except -1:
        """Whether a stream that no shape fits is to have one: it comes again and again, and so does
        no other stream with the same slot."""
        cdef Py_ssize_t number = key >> SHAPE_SHIFT
        cdef ShapeSlot* slot = &self.slots[number]
        if slot.key == key and self.shapes[number] is None:
            self.was_of_use(key)
            return slot.credit >= LEARN_CREDIT
        slot.credit -= 1
        if slot.credit < 0:
            slot.key = key
            slot.credit = 1
            self.shapes[number] = None
        return False


# ---------------------------------------------------------------------------------------------
# The decoder
# ---------------------------------------------------------------------------------------------

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
        cdef Py_ssize_t pairs
        cdef uint64_t key = outline(p, size, &pairs)
        cdef Shape shape
        if key == 0 or pairs > self.max_pairs:
            return self.read(p, size)
        shape = self.cache.shape_of(key)
        if (
            shape is not None
            and shape.count == pairs
            and shape.start is self.start
            and shape.reserved is self.reserved
        ):
            self.environ = shape.fill(p, size, self.cache)
            if self.environ is not None:
                self.cache.was_of_use(key)
                self.pairs = pairs
                self.consumed = size
                return 0
        self.read(p, size)
        if self.cache.is_wanted(key):
            self.cache.shapes[key >> SHAPE_SHIFT] = new_shape(self, p, size)
        return 0

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
