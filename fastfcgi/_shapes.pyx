# cython: language_level=3, freethreading_compatible=True
"""What one request has in common with the next.

Web servers send the same names in the same order from one request to the next, and mostly the same
values. What has not changed is not made anew: a str is shared (ValueCache), and a dict whose names
are known already is copied whole and not built entry by entry (Shape).

A raw pointer is used only while the buffer it points into is held, and never after a call that can
run Python code.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Copy, PyDict_SetItem
from cpython.unicode cimport (
    PyUnicode_1BYTE_DATA,
    PyUnicode_DecodeLatin1,
    PyUnicode_GET_LENGTH,
)
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp

from fastfcgi._pairs cimport NAMES, NameSlot, Pair, begins_with, name_of, read_pair

cdef enum:
    # What the gateway and an application add to an environ, but for its base.
    MORE_ENTRIES = 8
    # A longer value is not worth keeping for the next request.
    MAX_CACHED = 256
    # Credit of a slot when its stream is worth a shape.
    LEARN_CREDIT = 3
    # In place of the number of a name: another pair of the same name follows, whose value counts.
    OVERRIDDEN = -2


cdef struct Difference:
    void* name                  # borrowed: a str
    const uint8_t* value
    Py_ssize_t length
    void* made                  # borrowed: the value as a str


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


cdef Shape new_shape(const Outline* stream, dict environ, dict start, bytes reserved):
    """The shape of some whole pairs, which a decoder has just made `environ` of. It has no pairs,
    and so fits no stream, if one of them is reserved or a header field came again."""
    cdef Shape shape = Shape.__new__(Shape)
    cdef ShapePair* known
    cdef NameSlot* slot
    cdef Pair pair
    cdef str name
    cdef dict last = {}
    cdef const uint8_t* prefix = <const uint8_t*>PyBytes_AS_STRING(reserved)
    cdef Py_ssize_t prefix_size = PyBytes_GET_SIZE(reserved)
    cdef Py_ssize_t pos = 0, used, i
    shape.names, shape.images = [], []
    for i in range(stream.pairs):
        used = read_pair(stream.p + pos, stream.size - pos, &pair)
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
            PyBytes_FromStringAndSize(<const char*>(stream.p + pos), used)
            if known.steady >= 0 and pair.value_length <= MAX_CACHED else None
        )
        pos += used
    shape.start, shape.reserved = start, reserved
    shape.template = new_template(start, last)
    for i in range(stream.pairs):
        if shape.pairs[i].steady >= 0 and shape.images[i] is not None:
            shape.set_value(i, shape.images[i], environ[shape.names[i]])
    shape.count = stream.pairs
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

    cdef int learn(
        self, const Outline* stream, dict environ, dict start, bytes reserved
    ) except -1:
        """No shape fits a stream, of which a decoder has made `environ` by now: it may be given
        one."""
        if self.is_wanted(stream.key):
            shape = new_shape(stream, environ, start, reserved)
            self.shapes[stream.key >> SHAPE_SHIFT] = shape
        return 0

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
