# cython: language_level=3, freethreading_compatible=True
"""Ends a process whose master is gone, though nothing of Python can run in it any more. POSIX only.

A worker learns of its master's end in its loop, which needs the GIL. One that is stuck in an
extension which holds that would stay for ever, and hold the listening sockets with it: the next
master would find its address taken. So a thread that Python does not know waits for the end, too.
"""

cdef extern from "errno.h" nogil:
    int errno
    enum:
        EINTR

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
    enum:
        POLLIN
    int poll(pollfd* fds, unsigned long count, int milliseconds)

cdef extern from "signal.h" nogil:
    ctypedef struct sigset_t:
        pass
    enum:
        SIG_SETMASK
    int sigfillset(sigset_t* signals)
    int pthread_sigmask(int how, const sigset_t* signals, sigset_t* before)

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_attr_t:
        pass
    enum:
        PTHREAD_CREATE_DETACHED
    int pthread_attr_init(pthread_attr_t* attributes)
    int pthread_attr_setdetachstate(pthread_attr_t* attributes, int state)
    int pthread_attr_setstacksize(pthread_attr_t* attributes, size_t size)
    int pthread_attr_destroy(pthread_attr_t* attributes)
    int pthread_create(
        pthread_t* thread, const pthread_attr_t* attributes, void* (*run)(void*) noexcept nogil,
        void* told
    )

cdef extern from "unistd.h" nogil:
    int getppid()
    Py_ssize_t write(int fd, const void* data, size_t size)
    void _exit(int status)

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from fastfcgi._sys cimport ff_now

import os

cdef enum:
    # Of the thread: it calls little, and a system that wants more says so.
    STACK_SIZE = 1 << 18
    MOST_WORDS = 200

cdef struct Told:
    int lifeline
    int master
    double seconds
    size_t size
    char[MOST_WORDS] words


cdef void* watch(void* given) noexcept nogil:
    """The thread: without the GIL, and without anything of Python."""
    cdef Told* told = <Told*>given
    cdef pollfd[1] ends
    cdef double end, left = told.seconds
    ends[0].fd = told.lifeline
    ends[0].events = POLLIN
    while poll(ends, 1, -1) < 0 and errno == EINTR:
        pass
    end = ff_now() + left
    while left > 0:
        # In parts, since milliseconds are an int.
        poll(NULL, 0, <int>(min(left, 1000.0) * 1000) + 1)
        left = end - ff_now()
    # Not at once: the pipe ends a moment before the process does.
    if getppid() != told.master:
        write(2, told.words, told.size)
        _exit(1)
    free(told)
    return NULL


def stand_guard(int lifeline, int master, double seconds, bytes words):
    """From now on this process ends, with exit status 1, so many seconds after its master at most.

    Args:
        lifeline: A descriptor to read, on which nothing comes but the end, which is the master's.
        master: Its process id; our parent. While it is, the descriptor has become something else,
            and nothing is done.
        words: For standard error, then; at most 200 bytes.

    Raises:
        OSError: The system has no thread for it.
    """
    cdef Told* told = <Told*>calloc(1, sizeof(Told))
    cdef pthread_t thread
    cdef pthread_attr_t attributes
    cdef sigset_t every, before
    cdef int error
    if told == NULL:
        raise MemoryError()
    told.lifeline, told.master, told.seconds = lifeline, master, seconds
    told.size = min(<size_t>len(words), <size_t>MOST_WORDS)
    memcpy(told.words, <const char*>words, told.size)
    pthread_attr_init(&attributes)
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED)
    pthread_attr_setstacksize(&attributes, STACK_SIZE)
    # Signals are for the threads of Python, which look at them sooner.
    sigfillset(&every)
    pthread_sigmask(SIG_SETMASK, &every, &before)
    error = pthread_create(&thread, &attributes, watch, told)
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    pthread_attr_destroy(&attributes)
    if error:
        free(told)
        raise OSError(error, os.strerror(error))
