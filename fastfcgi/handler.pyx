# cython: language_level=3, freethreading_compatible=True
"""What an engine has to do with: memory to receive into, its threads, and what it watches."""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.pythread cimport (
    NOWAIT_LOCK,
    PyThread_acquire_lock,
    PyThread_allocate_lock,
    PyThread_free_lock,
    PyThread_release_lock,
)

cdef enum:
    BUFFER_SIZE = 65536         # bytes received at once


cdef class Buffer:
    """Memory to receive into."""

    def __cinit__(self):
        self.memory = <uint8_t*>PyMem_Malloc(BUFFER_SIZE)
        if self.memory == NULL:
            raise MemoryError()

    def __dealloc__(self):
        PyMem_Free(self.memory)


cdef class Worker:
    """One thread."""

    def __cinit__(self):
        self.lock = PyThread_allocate_lock()
        if self.lock == NULL:
            raise MemoryError()
        PyThread_acquire_lock(self.lock, NOWAIT_LOCK)
        self.buffer = Buffer()

    def __dealloc__(self):
        if self.lock != NULL:
            PyThread_release_lock(self.lock)
            PyThread_free_lock(self.lock)


cdef class Handler:
    """Something with a descriptor that is watched. A Python class overrides on_ready and
    on_failure.

    Attributes:
        fd: The descriptor.
        mask: What it is watched for: READ, WRITE, both, 0; -1 while it is not watched at all.
    """

    def __cinit__(self, *args, **kwargs):
        self.fd = -1
        self.mask = -1

    def __init__(self, Py_ssize_t fd=-1):
        self.fd = fd

    def on_ready(self, mask):
        """READ or WRITE or both would not block."""

    def on_failure(self):
        """on_ready raised: close and forget."""

    cdef int ready(self, int mask, Worker worker) except -1:
        self.on_ready(mask)
        return 0

    cdef double serve(self, object request) except -1:
        """Run a request to its end, which may take long; returns when (time.monotonic()) the
        application was through with it."""
        raise NotImplementedError

    cdef str path_of(self, object request):
        """What tells how long such requests take; None for nothing."""
        return None

    cdef int left_alone(self) except -1:
        """Its request runs on, and another thread polls: have it watched."""
        return 0

    cdef int describe(self, object request, Slot* slot) except -1:
        """Note on a board what request begins."""
        return 0
