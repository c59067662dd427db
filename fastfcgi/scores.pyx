# cython: language_level=3, freethreading_compatible=True
"""Which requests are likely to block, by what their paths did before.

A request that blocks holds up whoever else is served by its thread until another thread takes
over. Which ones do is a matter of the path, as a rule, so it is remembered: two blocks within a
dozen calls make a path one that is expected to block, and two dozen calls without make it quick
again. Paths with numbers in them are seldom seen twice, so what is not known is judged by its first
segment, and what is not known either by all such paths together; at first they all may block.

The tables race harmlessly: a wrong guess costs time, never an answer.
"""

from cpython.object cimport PyObject_Hash
from cpython.unicode cimport PyUnicode_1BYTE_DATA, PyUnicode_GET_LENGTH, PyUnicode_KIND

cdef enum:
    PATHS = 1024
    SEGMENTS = 256
    MOST = 36                   # forgotten after two dozen quick calls
    LONGEST_SEGMENT = 64


cdef inline uint32_t tag_of(Py_hash_t value) noexcept:
    return <uint32_t>(value >> 10) | 1


cdef uint32_t hash_segment(str path) noexcept:
    """Of the first segment (FNV-1a): "/wiki/..." -> "/wiki"."""
    cdef uint32_t h = 2166136261u
    cdef const unsigned char* p
    cdef Py_ssize_t i, size = min(PyUnicode_GET_LENGTH(path), <Py_ssize_t>LONGEST_SEGMENT)
    if PyUnicode_KIND(path) != 1:
        return 0
    p = <const unsigned char*>PyUnicode_1BYTE_DATA(path)
    for i in range(size):
        if p[i] == c"/" and i > 0:
            break
        h = (h ^ p[i]) * 16777619u
    return h


cdef inline void add(int8_t* score, int change) noexcept:
    score[0] = <int8_t>min(max(score[0] + change, 0), <int>MOST)


cdef class Scores:
    """A table of scores; 0 says quick, EAGER and more say that it will block."""

    def __cinit__(self):
        self.unknown = MOST

    cdef int score_of(self, str path) noexcept:
        cdef Py_hash_t value = PyObject_Hash(path)
        cdef Score* slot = &self.paths[value & (PATHS - 1)]
        cdef uint32_t h
        if slot.tag == tag_of(value):
            return slot.score
        h = hash_segment(path)
        slot = &self.segments[h & (SEGMENTS - 1)]
        return slot.score if slot.tag == h | 1 else self.unknown

    cdef int learn(self, str path, int change) noexcept:
        """Add to the scores of a path; a path that was not known begins with `change`."""
        cdef Py_hash_t value = PyObject_Hash(path)
        cdef Score* slot = &self.paths[value & (PATHS - 1)]
        cdef uint32_t h
        if slot.tag == tag_of(value):
            if slot.score or change > 0:
                add(&slot.score, change)
            return 0
        slot.tag = tag_of(value)
        slot.score = 0
        add(&slot.score, change)
        h = hash_segment(path)
        slot = &self.segments[h & (SEGMENTS - 1)]
        if slot.tag == h | 1:
            add(&slot.score, change)
            return 0
        slot.tag = h | 1
        slot.score = self.unknown
        add(&slot.score, change)
        add(&self.unknown, change)
        return 0

    # ---- for Python ------------------------------------------------------------------------

    def score(self, str path not None):
        """score_of()"""
        return self.score_of(path)

    def note(self, str path not None, int change):
        """learn()"""
        self.learn(path, change)
