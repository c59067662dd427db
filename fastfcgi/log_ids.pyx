# cython: language_level=3, freethreading_compatible=True
"""What tells requests apart in logs: process and number."""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_1BYTE_DATA
from libc.string cimport memcpy

from fastfcgi._sys cimport ff_add

cdef extern from "Python.h":
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)

# The last request that got a number for the log, and what goes before such numbers.
cdef long last_number = 0
cdef char[32] number_prefix
cdef Py_ssize_t number_prefix_size = 0


def _name_process():
    """Numbers tell the requests of one process apart; a child of fork() is another one."""
    global number_prefix_size
    cdef bytes prefix = f"{os.getpid()}-".encode()
    number_prefix_size = min(PyBytes_GET_SIZE(prefix), <Py_ssize_t>sizeof(number_prefix))
    memcpy(number_prefix, PyBytes_AS_STRING(prefix), number_prefix_size)


_name_process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_name_process)


cdef long next_number() noexcept:
    return ff_add(&last_number, 1)


cdef str name_of(long number):
    """What a log calls the request of a number."""
    cdef char[32] digits
    cdef int at = sizeof(digits)
    cdef Py_ssize_t size = number_prefix_size
    while number or at == sizeof(digits):
        at -= 1
        digits[at] = c"0" + number % 10
        number //= 10
    name = PyUnicode_New(size + sizeof(digits) - at, 127)
    p = <char*>PyUnicode_1BYTE_DATA(name)
    memcpy(p, number_prefix, size)
    memcpy(p + size, digits + at, sizeof(digits) - at)
    return name
