# cython: language_level=3
"""The C interface of params, for the other extensions. It may change with every version."""

cimport cython
from libc.stdint cimport uint8_t, uint64_t

from fastfcgi._pairs cimport Kept, Pair

cdef enum:
    # A cache has so many shapes of so many pairs at most.
    SHAPE_SLOTS = 32
    SHAPE_PAIRS = 64


cdef dict start_of(dict base)


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
    cdef Shape shape_of(self, uint64_t key)
    cdef void was_of_use(self, uint64_t key) noexcept
    cdef bint is_wanted(self, uint64_t key) except -1


@cython.final
cdef class ParamsDecoder:
    cdef dict environ           # None before the first pair
    cdef dict repeated          # name -> list of values, for HTTP_* that came again
    cdef dict start             # what environ begins as a copy of, or None
    cdef bytes reserved
    cdef ValueCache cache
    cdef Py_ssize_t max_bytes
    cdef Py_ssize_t max_pairs
    cdef Py_ssize_t pairs
    cdef Py_ssize_t total       # bytes fed
    cdef Py_ssize_t consumed    # bytes of whole pairs
    cdef Kept tail              # the beginning of a pair that was cut
    cdef bint failed

    cdef int feed_bytes(self, const uint8_t* p, Py_ssize_t size) except -1
    cdef dict take(self)
    cdef void reset(self) noexcept
    cdef dict new_environ(self)
    cdef int read_first(self, const uint8_t* p, Py_ssize_t size) except -1
    cdef int read(self, const uint8_t* p, Py_ssize_t size) except -1
    cdef Py_ssize_t add_pairs(self, const uint8_t* p, Py_ssize_t size) except -1
    cdef int add(self, Pair* pair) except -1
    cdef int add_header(self, str name, str value) except -1
