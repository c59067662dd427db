"""System calls of the hot path, as C sees them: never waiting, made with the GIL held.

Giving the GIL up around a call that cannot block costs more than the call. Each function returns
what the call returned, or minus errno: -EAGAIN for "not now", on every platform.
"""

cdef extern from "_sys.h" nogil:
    ctypedef struct ff_iovec:
        void* iov_base
        size_t iov_len

    # The most bytes that come at once, 0 at the end of what the peer sends.
    Py_ssize_t ff_recv(Py_ssize_t fd, void* p, Py_ssize_t size)
    # One gathered write of at most 64 buffers; bytes taken.
    Py_ssize_t ff_send(Py_ssize_t fd, ff_iovec* iov, int count)
    # `head`, unless its size is 0, and then bytes of a file, which may have to come from a disk;
    # bytes taken of both, 0 if the file has none there.
    Py_ssize_t ff_send_file(
        Py_ssize_t fd, const void* head, Py_ssize_t head_size, int file, long long offset,
        Py_ssize_t size
    )
    # No SIGPIPE between these two, of which ff_send_file() would not be safe.
    ctypedef struct ff_signals:
        pass
    void ff_hold_sigpipe(ff_signals* before)
    void ff_drop_sigpipe(const ff_signals* before)
    # A connection's descriptor, never inherited, never waiting, without Nagle's delay.
    Py_ssize_t ff_accept(Py_ssize_t fd, int* is_inet)
    int ff_shutdown(Py_ssize_t fd)
    void ff_close(Py_ssize_t fd)
    # ff_close() will reset a TCP connection, and what it has not sent yet is lost.
    void ff_reset_at_close(Py_ssize_t fd)
    bint ff_hung_up(Py_ssize_t fd)
    # Whether ff_recv() has something to say; the only one that waits.
    bint ff_wait_to_recv(Py_ssize_t fd, int milliseconds)
    # Seconds on time.monotonic()'s clock, and of this thread's CPU.
    double ff_now()
    double ff_thread_cpu()

    # Add to a counter that threads share; returns its new value.
    long ff_add(volatile long* counter, long n)
    # At most 256 events at once; a mask is 1 to read, 2 to write. Timeout in ms, -1 for ever.
    bint FF_HAVE_EPOLL
    int ff_epoll_create()
    int ff_epoll_watch(int epoll, int fd, int before, int mask, int once, int shared)
    int ff_epoll_wait(int epoll, int* fds, int* masks, int size, int timeout)

cdef extern from "_sys.h":
    ctypedef struct ff_mutex:
        pass
    void ff_lock(ff_mutex* mutex)
    void ff_unlock(ff_mutex* mutex)
    void ff_free_mutex(ff_mutex* mutex)
