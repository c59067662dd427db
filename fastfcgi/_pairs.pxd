# cython: language_level=3
"""The C interface of name-value pairs, for the other extensions. It may change with every version.

What is called for every pair of every request stands here, so that it is compiled into its caller.
"""

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.unicode cimport PyUnicode_DecodeLatin1
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

cdef enum:
    NEED_MORE = -2
    NAME_SLOTS = 512


# ---------------------------------------------------------------------------------------------
# Pairs
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


cdef inline Py_ssize_t read_pair(
    const uint8_t* p, Py_ssize_t available, Pair* out
) noexcept nogil:
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


cdef inline bint begins_with(
    const uint8_t* p, Py_ssize_t length, const uint8_t* prefix, Py_ssize_t size
) noexcept nogil:
    """Whether bytes begin with a prefix; mostly they do not, and with an empty one never."""
    return 0 < size <= length and p[0] == prefix[0] and memcmp(p, prefix, size) == 0


# ---------------------------------------------------------------------------------------------
# Bytes that wait for those that follow
# ---------------------------------------------------------------------------------------------

cdef struct Kept:
    uint8_t* memory             # NULL while there are none
    Py_ssize_t length
    Py_ssize_t size


cdef inline int keep(Kept* kept, const uint8_t* p, Py_ssize_t size, Py_ssize_t most) except -1:
    """Append to kept bytes; they are never more than `most`, which bounds what is fed."""
    cdef Py_ssize_t need = kept.length + size
    cdef Py_ssize_t grown
    cdef uint8_t* memory
    if size == 0:
        return 0  # there may be no memory, and memcpy() must be given some even for nothing
    if need > kept.size:
        grown = max(need, min(2 * kept.size, most))
        memory = <uint8_t*>PyMem_Realloc(kept.memory, grown)
        if memory == NULL:
            raise MemoryError()
        kept.memory = memory
        kept.size = grown
    memcpy(kept.memory + kept.length, p, size)
    kept.length = need
    return 0


cdef inline void drop(Kept* kept) noexcept:
    if kept.memory != NULL:
        PyMem_Free(kept.memory)
        kept.memory = NULL
    kept.length = kept.size = 0


# ---------------------------------------------------------------------------------------------
# Names
# ---------------------------------------------------------------------------------------------

cdef struct NameSlot:
    const uint8_t* text     # NULL: nothing here
    Py_ssize_t length
    void* name              # borrowed: the str of the table's list
    int steady              # the number of a name whose values may be kept; -1: of any other
    bint is_header          # HTTP_*


cdef inline str name_of(const NameSlot* known, const Pair* pair):
    """The name of a pair; known may be NULL."""
    if known == NULL:
        return PyUnicode_DecodeLatin1(<const char*>pair.name, pair.name_length, NULL)
    return <str>known.name


cdef inline uint32_t hash_name(const uint8_t* p, Py_ssize_t length) noexcept nogil:
    """Tells the known names apart by their length and four bytes; length is at least 1."""
    cdef uint32_t h = p[length - 1]
    h |= <uint32_t>p[length >> 1] << 8
    h |= <uint32_t>p[length >> 2] << 16
    h |= <uint32_t>p[length - 1 - (length >> 2)] << 24
    h = (h ^ (<uint32_t>length * 0x9E3779B1u)) * 0x85EBCA6Bu
    return h >> 23              # below NAME_SLOTS


@cython.final
cdef class NameTable:
    cdef NameSlot slots[NAME_SLOTS]
    cdef list names         # keeps the str objects alive
    cdef list texts         # and their bytes, which the slots point into
    cdef Py_ssize_t steady_names

    cdef inline NameSlot* find(self, const uint8_t* p, Py_ssize_t length) noexcept:
        """The slot of a known name or NULL."""
        cdef NameSlot* slot
        cdef uint32_t number
        if length == 0:
            return NULL
        number = hash_name(p, length)
        while True:
            slot = &self.slots[number]
            if slot.text == NULL:
                return NULL
            if slot.length == length and memcmp(slot.text, p, length) == 0:
                return slot
            number = (number + 1) & (NAME_SLOTS - 1)


cdef NameTable NAMES
