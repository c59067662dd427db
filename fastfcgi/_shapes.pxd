# cython: language_level=3
"""The C interface of what is kept from request to request, for the other extensions. It may change
with every version.

What is called for every request stands here, so that it is compiled into its caller.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastfcgi._pairs cimport read_length

cdef enum:
    # A cache has so many shapes of so many pairs at most.
    SHAPE_SLOTS = 32
    SHAPE_PAIRS = 64
    # The highest bits of a stream's key are the number of a shape's slot.
    SHAPE_SHIFT = 59
    # The most credit that a slot gathers.
    MAX_CREDIT = 16


cdef struct Outline:            # of some whole pairs
    const uint8_t* p
    Py_ssize_t size             # bytes of them
    Py_ssize_t pairs
    uint64_t key                # tells their names from others, by their lengths and last bytes


cdef inline bint outline(const uint8_t* p, Py_ssize_t size, Outline* out) noexcept nogil:
    """Whether there may be a shape for these pairs. There is none where a pair is cut, of too many
    pairs, of too long a name."""
    cdef const uint8_t* end = p + size
    cdef uint64_t key = 0
    cdef uint32_t name_length, length
    cdef Py_ssize_t count = 0
    out.p, out.size = p, size
    while end - p >= 2:
        name_length, length = p[0], p[1]
        if (name_length | length) < 0x80:
            p += 2
        elif name_length < 0x80 and read_length(p + 1, end - p - 1, &length) > 0:
            p += 5
        else:
            return False
        if <Py_ssize_t>length > end - p - <Py_ssize_t>name_length:
            return False
        p += name_length
        key = (key ^ (name_length << 8 | p[-1])) * 0x9E3779B97F4A7C15u
        p += length
        count += 1
    out.pairs, out.key = count, key
    return key != 0 and p == end and count <= SHAPE_PAIRS


cdef class ValueCache           # is told below


cdef struct ShapePair:
    void* name                  # borrowed: the str in the shape's names
    const uint8_t* text         # its characters, all of one byte
    Py_ssize_t name_length
    const uint8_t* image        # in the shape's images: the whole pair as it came last
    Py_ssize_t size             # bytes of it; 0: the value does not stay
    int steady                  # number of a name whose values may stay; below 0: of any other


@cython.final
cdef class Shape:
    cdef dict start             # of the decoder that read it, by identity: what a decoder has
    cdef bytes reserved         # that uses it
    cdef dict template          # all entries, "" for a value that does not stay; never given out
    cdef list names             # str
    cdef list images            # bytes, or None
    cdef Py_ssize_t count
    cdef ShapePair pairs[SHAPE_PAIRS]

    cdef dict fill(self, const uint8_t* p, Py_ssize_t size, ValueCache cache)
    cdef int set_value(self, Py_ssize_t number, bytes image, str value) except -1


cdef struct ShapeSlot:
    uint64_t key                # of the streams it is for
    int credit                  # more by 2 for each of them, less by 1 for each other


@cython.final
cdef class ValueCache:
    cdef list values
    cdef list shapes            # for each slot, or None
    cdef ShapeSlot slots[SHAPE_SLOTS]

    cdef str get(self, int number, const uint8_t* p, Py_ssize_t length)
    cdef int learn(
        self, const Outline* stream, dict environ, dict start, bytes reserved
    ) except -1
    cdef bint is_wanted(self, uint64_t key) except -1

    cdef inline void was_of_use(self, uint64_t key) noexcept:
        cdef ShapeSlot* slot = &self.slots[key >> SHAPE_SHIFT]
        slot.credit = min(slot.credit + 2, MAX_CREDIT)

    cdef inline dict environ_of(self, const Outline* stream, dict start, bytes reserved):
        """The entries of a stream for a decoder with this start and these reserved names, from the
        shape that fits it; None where none does."""
        cdef Py_ssize_t number = stream.key >> SHAPE_SHIFT
        cdef Shape shape
        cdef dict environ
        if self.slots[number].key != stream.key:
            return None
        shape = <Shape>self.shapes[number]
        if (
            shape is None
            or shape.count != stream.pairs
            or shape.start is not start
            or shape.reserved is not reserved
        ):
            return None
        environ = shape.fill(stream.p, stream.size, self)
        if environ is not None:
            self.was_of_use(stream.key)
        return environ
