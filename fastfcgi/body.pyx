# cython: language_level=3, freethreading_compatible=True
"""The body of a request between its arrival and its being read: memory first, then a file."""

cimport cython
from cpython.buffer cimport (
    PyBUF_READ,
    PyBUF_SIMPLE,
    PyBUF_WRITE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy

import errno
import tempfile

from fastfcgi.exceptions import RequestAborted

MIB = 1024 * 1024

# Above what nearly all forms need; the rest of a body goes to a file, as in web servers.
DEFAULT_MAX_BODY_MEMORY = 1 * MIB
# Of the rest, what one request may put on the disk before its application has read it.
DEFAULT_MAX_BODY_FILE = 1024 * MIB

cdef enum:
    # Bytes of memory that are allocated at once: the least, unless fewer are announced, and the
    # most. Many small ones, because a large one that grows is there twice while it is copied.
    FIRST_CHUNK = 4 * 1024
    MAX_CHUNK = 64 * 1024


cdef Body new_body(int64_t content_length, int64_t max_file):
    cdef Body body = Body.__new__(Body)
    body.room = content_length
    body.max_file = max_file
    body.complete = content_length == 0
    return body


@cython.final
cdef class Body:
    """STDIN or DATA of one request. Knows no lock and never waits: its owner does both.

    Args:
        content_length: Bytes announced, or None. More than that is cut (spec.md: longer is cut);
            that many are the whole body even if its end never comes.
        max_file: The most bytes kept in the temporary file; reading what goes beyond fails.

    Attributes:
        in_memory: Bytes held in memory.
        complete: Nothing more will come to be read.
        ended: Nothing more will arrive at all.
    """

    def __init__(self, content_length=None, int64_t max_file=DEFAULT_MAX_BODY_FILE):
        self.room = -1 if content_length is None else content_length
        self.max_file = max_file
        self.complete = self.room == 0

    @property
    def available(self):
        """Bytes that can be read now."""
        return self.in_memory + self.in_file

    cpdef Py_ssize_t append(self, object data) except -1:
        """Take in what arrived; returns how many bytes of it are now held in memory."""
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            return self.append_bytes(<const uint8_t*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    cdef Py_ssize_t append_bytes(self, const uint8_t* p, Py_ssize_t size) except -1:
        cdef Py_ssize_t part
        if self.room >= 0:
            if size > self.room:
                size = <Py_ssize_t>self.room
            self.room -= size
            if self.room == 0:
                self.complete = True
        if size == 0 or self.discarding or self.failure is not None:
            return 0
        if self.in_file:
            # Order: what follows bytes in the file goes to the file, so memory is empty now.
            self.write_file(PyMemoryView_FromMemory(<char*>p, size, PyBUF_READ))
            return 0
        if self.wanted:
            part = min(size, self.wanted)
            memcpy(self.target, p, part)
            self.target += part
            self.wanted -= part
            p += part
            size -= part
        self.copy_in(p, size)
        return size

    cdef void aim(self, uint8_t* p, Py_ssize_t size) noexcept:
        self.target = p
        self.wanted = size

    cdef int copy_in(self, const uint8_t* p, Py_ssize_t size) except -1:
        """Put bytes behind those that are held."""
        cdef Py_ssize_t part
        cdef bytes chunk
        while size:
            if self.free == 0:
                self.add_chunk(size)
            chunk = self.chunks[len(self.chunks) - 1]
            part = min(size, self.free)
            memcpy(PyBytes_AS_STRING(chunk) + PyBytes_GET_SIZE(chunk) - self.free, p, part)
            self.free -= part
            self.in_memory += part
            p += part
            size -= part
        return 0

    cdef int add_chunk(self, Py_ssize_t need) except -1:
        """More memory, for `need` bytes and those that are likely to follow."""
        cdef Py_ssize_t size = max(need, FIRST_CHUNK)
        if self.chunks is None:
            self.chunks = []
        elif self.chunks:
            size = max(size, 2 * PyBytes_GET_SIZE(self.chunks[len(self.chunks) - 1]))
        if 0 <= self.room <= MAX_CHUNK - need:
            # All that will be: a body that fills one chunk is given away as it is.
            size = need + <Py_ssize_t>self.room
        self.free = min(size, <Py_ssize_t>MAX_CHUNK)
        self.chunks.append(PyBytes_FromStringAndSize(NULL, self.free))
        return 0

    cdef int copy_out(self, uint8_t* p, Py_ssize_t size) except -1:
        """Take bytes out, as many as are held at most."""
        cdef Py_ssize_t have, part
        cdef bytes chunk
        while size:
            chunk = self.chunks[0]
            have = PyBytes_GET_SIZE(chunk) - self.start
            if len(self.chunks) == 1:
                have -= self.free
            part = min(size, have)
            memcpy(p, PyBytes_AS_STRING(chunk) + self.start, part)
            self.start += part
            self.in_memory -= part
            p += part
            size -= part
            if part == have:
                self.start = 0
                if self.in_memory or self.complete:
                    del self.chunks[0]
                if self.in_memory == 0:
                    # The last chunk is used again by a body that is read as it comes.
                    self.free = PyBytes_GET_SIZE(chunk) if self.chunks else 0
        return 0

    cpdef int end(self) except -1:
        """The end of the stream arrived."""
        self.complete = self.ended = True
        return 0

    cpdef int abort(self) except -1:
        """Nothing more will come, and what came is not the whole: reading it fails."""
        if not self.complete:
            self.failure = RequestAborted("the web server went away before the body was complete")
        self.complete = self.ended = True
        return 0

    cpdef Py_ssize_t spill(self) except -1:
        """Move what is in memory to the file; returns how many bytes of memory that freed."""
        cdef Py_ssize_t size = self.in_memory, freed
        if size:
            self.write_file(memoryview(self.take_bytes(size, &freed)))
        return size

    cpdef Py_ssize_t discard(self) except -1:
        """Nobody will read any more: forget all, now and to come; returns the memory freed."""
        cdef Py_ssize_t size = self.in_memory
        self.discarding = True
        self.chunks = None
        self.start = self.free = self.in_memory = 0
        self.close_file()
        return size

    cpdef tuple take(self, Py_ssize_t size):
        """Up to `size` bytes, in order, and how many of them were in memory.

        Raises:
            RequestAborted: All that came was read, but it was not the whole body.
            OSError: The temporary file failed or max_file was exceeded.
        """
        cdef Py_ssize_t freed
        data = self.take_bytes(size, &freed)
        return data, freed

    cdef bytes take_bytes(self, Py_ssize_t size, Py_ssize_t* freed):
        cdef bytes data
        cdef Py_ssize_t given
        freed[0] = 0
        if self.in_memory:
            size = min(size, self.in_memory)
            data = self.chunks[0]
            if size == PyBytes_GET_SIZE(data) == self.in_memory and self.start == 0:
                self.chunks = None
                self.in_memory = 0
                freed[0] = size
                return data
        elif self.in_file:
            size = <Py_ssize_t>min(<int64_t>size, self.in_file)
        else:
            self.check_failure()
            return b""
        data = PyBytes_FromStringAndSize(NULL, size)
        given = self.take_into(<uint8_t*>PyBytes_AS_STRING(data), size, freed)
        return data if given == size else data[:given]

    cdef Py_ssize_t take_into(self, uint8_t* p, Py_ssize_t size, Py_ssize_t* freed) except -1:
        freed[0] = 0
        if self.in_memory:
            size = min(size, self.in_memory)
            self.copy_out(p, size)
            freed[0] = size
            return size
        if self.in_file:
            size = <Py_ssize_t>min(<int64_t>size, self.in_file)
            self.file.seek(self.file_start)
            size = self.file.readinto(PyMemoryView_FromMemory(<char*>p, size, PyBUF_WRITE))
            self.file_start += size
            self.in_file -= size
            return size
        self.check_failure()
        return 0

    cdef int check_failure(self) except -1:
        if self.failure is not None:
            raise self.failure
        return 0

    cdef int write_file(self, object data) except -1:
        try:
            if self.in_file == 0:
                self.file_start = 0
            if self.file_start + self.in_file + len(data) > self.max_file:
                raise OSError(errno.EFBIG, f"more than max_body_file={self.max_file} bytes")
            if self.file is None:
                # Unlinked as soon as it is made: nothing is left behind whatever happens.
                self.file = tempfile.TemporaryFile(buffering=0, prefix="fastfcgi-")
            self.file.seek(self.file_start + self.in_file)
            while data:
                written = self.file.write(data)
                data = data[written:]
                self.in_file += written
        except OSError as error:
            # The application gets it when it reads this far; the peer may go on sending.
            self.failure = error
        return 0

    cdef int close_file(self) except -1:
        if self.file is not None:
            self.file.close()
            self.file = None
            self.file_start = self.in_file = 0
        return 0
