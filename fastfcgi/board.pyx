# cython: language_level=3, freethreading_compatible=True
"""What one worker does at this moment, in memory that other processes may look into.

A request writes a few numbers and the begin of its text, by plain stores: no lock, no call of the
system. Who reads may find one request's time beside another one's text, and numbers of a moment
ago; what is read is checked, so that the worst is a wrong line for a moment. Each thread has a
place of its own, so that threads do not write to the same line of the processor's cache.
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport (
    PyUnicode_1BYTE_DATA,
    PyUnicode_1BYTE_KIND,
    PyUnicode_CheckExact,
    PyUnicode_GET_LENGTH,
    PyUnicode_KIND,
)
from libc.string cimport memcpy, memset

from fastfcgi._sys cimport ff_add

import mmap
from typing import NamedTuple

# What a worker is in. It still serves while it is RETIRING, which asks to be replaced, and while it
# is FAILED, though with nothing but 500: its application could not be loaded.
STARTING = 0
SERVING = 1
RETIRING = 2
STOPPING = 3
FAILED = 4
DEAD = 5

cdef enum:
    HEAD_SIZE = 128
    SLOT_SIZE = 256
    # Written first; another number for every other layout, so that a new version of the program
    # does not take an old one's memory for its own.
    LAYOUT = 0xFA57FC610001


class Running(NamedTuple):
    """A request that runs.

    Attributes:
        thread: threading.get_ident() of the thread.
        since: When it began, on time.monotonic()'s clock, which all processes share.
        text: Its method and path with the query, at most 200 characters of them.
    """

    thread: int
    since: float
    text: str


# The collector of garbage would let go of the memory while we still look at it.
@cython.no_gc
@cython.final
cdef class Board:
    """One worker's part of the memory.

    Args:
        threads: The most requests that run at once.
        memory: Anything writable of at least size(threads) bytes, at an address that is a multiple
            of 8, zeroed or used by a Board before; nothing in it is changed by this. None takes
            anonymous memory, which children of fork() share.

    Attributes:
        pid: Of the worker's process.
        generation: For whoever starts workers.
        state: STARTING, SERVING, ...
        started: When (time.time()).
        requests: Requests that have been run to their end.
        busy: Requests that run.
        queued: Requests that wait for a thread.
        connections: Connections, idle ones too.
        aborted: Requests that the web server gave up.
        errors: Failures of the application.
        slow: Requests that ran longer than slow_timeout.

    Raises:
        ValueError: The memory is too small, or was written by another version of this.
    """

    def __cinit__(self, Py_ssize_t threads, memory=None):
        if threads < 1:
            raise ValueError(f"a board for {threads} threads")
        self.threads = threads
        if memory is None:
            memory = mmap.mmap(-1, Board.size(threads))
        PyObject_GetBuffer(memory, &self.view, PyBUF_WRITABLE)
        self.held = True
        if self.view.len < Board.size(threads):
            raise ValueError(f"{self.view.len} bytes are too few for {threads} threads")
        if <size_t>self.view.buf % 8:
            raise ValueError("the memory does not begin at a multiple of 8")
        self.head = <Head*>self.view.buf
        self.slots = <char*>self.view.buf + HEAD_SIZE
        if self.head.layout == 0:
            self.head.layout = LAYOUT
        elif self.head.layout != LAYOUT:
            raise ValueError("the memory was written by another version")

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)

    @staticmethod
    def size(Py_ssize_t threads):
        """The bytes that a board for so many threads needs; a multiple of 64."""
        # There is one thread more than requests may run at once.
        return HEAD_SIZE + (threads + 1) * SLOT_SIZE

    cdef Slot* slot(self, Py_ssize_t index) noexcept:
        """A thread's place, NULL where there is none."""
        if not 0 <= index <= self.threads:
            return NULL
        return <Slot*>(self.slots + index * SLOT_SIZE)

    def clear(self):
        """Begin again: all numbers 0, nothing runs."""
        memset(self.head, 0, Board.size(self.threads))
        self.head.layout = LAYOUT

    # ---- what is in the head ---------------------------------------------------------------

    @property
    def pid(self):
        return self.head.pid

    @pid.setter
    def pid(self, int64_t value):
        self.head.pid = value

    @property
    def generation(self):
        return self.head.generation

    @generation.setter
    def generation(self, int64_t value):
        self.head.generation = value

    @property
    def state(self):
        return self.head.state

    @state.setter
    def state(self, int64_t value):
        self.head.state = value

    @property
    def started(self):
        return self.head.started

    @started.setter
    def started(self, double value):
        self.head.started = value

    @property
    def queued(self):
        return self.head.queued

    @property
    def connections(self):
        return self.head.connections

    @property
    def aborted(self):
        return self.head.aborted

    @property
    def errors(self):
        return self.head.errors

    @property
    def slow(self):
        return self.head.slow

    # ---- what is in the slots --------------------------------------------------------------

    @property
    def requests(self):
        cdef int64_t total = 0
        for index in range(self.threads + 1):
            total += self.slot(index).requests
        return total

    @property
    def busy(self):
        return sum([self.slot(index).since > 0 for index in range(self.threads + 1)])

    def running(self):
        """The requests that run, the oldest first, as a list of Running."""
        found = [Running(thread, since, text) for thread, since, text, _ in self.watched()]
        return sorted(found, key=_since)

    def watched(self):
        """The same as tuples, in no order, with the number that tells requests apart."""
        cdef Slot* slot
        cdef double since
        found = []
        for index in range(self.threads + 1):
            slot = self.slot(index)
            since = slot.since
            if since > 0:
                found.append((slot.thread, since, text_of(slot), slot.number))
        return found

    # ---- for Python ------------------------------------------------------------------------

    def enter(self, Py_ssize_t index, uint64_t thread, double since, text, int64_t number=0):
        """What an engine writes when thread number `index` begins a request."""
        cdef Slot* slot = self.slot(index)
        if slot == NULL:
            raise IndexError(index)
        write_text(slot, None, text, None, None)
        slot.thread = thread
        slot.number = number
        slot.since = since

    def leave(self, Py_ssize_t index):
        """And when it has ended."""
        cdef Slot* slot = self.slot(index)
        if slot == NULL:
            raise IndexError(index)
        slot.since = 0
        slot.requests += 1

    def count(self, long queued=0, long connections=0, long aborted=0, long errors=0, long slow=0):
        """Add to the numbers of the head."""
        ff_add(&self.head.queued, queued)
        ff_add(&self.head.connections, connections)
        ff_add(&self.head.aborted, aborted)
        ff_add(&self.head.errors, errors)
        ff_add(&self.head.slow, slow)


def _since(running):
    return running.since


cdef str text_of(Slot* slot):
    cdef bytes text = PyBytes_FromStringAndSize(slot.text, min(slot.length, <uint32_t>TEXT_SIZE))
    # No line break, and nothing that a terminal would obey.
    return "".join([
        one if one.isprintable() else f"\\x{ord(one):02x}" for one in text.decode("latin-1")
    ])


cdef uint32_t add(Slot* slot, uint32_t at, object text) noexcept:
    """Add a text at a place, as much as there is room for; returns where the next one goes."""
    cdef Py_ssize_t size
    if not PyUnicode_CheckExact(text) or PyUnicode_KIND(text) != PyUnicode_1BYTE_KIND:
        return at
    size = min(PyUnicode_GET_LENGTH(text), <Py_ssize_t>(TEXT_SIZE - at))
    memcpy(slot.text + at, <const char*>PyUnicode_1BYTE_DATA(text), size)
    return at + <uint32_t>size


cdef int write_text(Slot* slot, object method, object path, object more, object query) noexcept:
    cdef uint32_t at = add(slot, 0, method)
    if 0 < at < TEXT_SIZE:
        slot.text[at] = c" "
        at += 1
    at = add(slot, add(slot, at, path), more)
    if PyUnicode_CheckExact(query) and PyUnicode_GET_LENGTH(query) and at < TEXT_SIZE:
        slot.text[at] = c"?"
        at = add(slot, at + 1, query)
    slot.length = at
    return 0
