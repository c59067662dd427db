# cython: language_level=3
"""The C interface of the load generator's loop; for itself."""

from libc.stdint cimport uint8_t, uint64_t

from fastfcgi._load_answer cimport Answer
from fastfcgi._load_lane cimport Counts

cdef extern from "_load.h":
    const int AF_UNIX
    ctypedef struct LoadAddress:
        pass
    ctypedef struct LoadPoller:
        pass
    uint64_t load_clock() noexcept nogil
    int load_unix_address(LoadAddress* out, const char* path, size_t length) noexcept nogil
    void load_inet_address(
        LoadAddress* out, bint six, const char* host, int port, int scope
    ) noexcept nogil

cdef enum State:
    IDLE            # waits for wake_at, with a connection or without
    BLOCKED         # the server's queue of connections is full
    CONNECTING
    ACTIVE          # a request is under way
    DONE


cdef struct Connection:
    Counts* lane
    int slot
    int fd
    State state
    bint reused                 # it has brought an answer before
    bint unsendable             # the peer takes no more, but may have answered
    uint64_t started            # when
    uint64_t wake_at            # when
    Py_ssize_t sent
    bint pushing                # waits until the socket takes more
    bint begun                  # a byte of the answer is there
    int waits_for               # errno of what it cannot connect for
    Answer answer


cdef struct Run:
    LoadAddress address
    int family
    LoadPoller* poller
    Connection* connections
    int count
    int active                  # connections that are not DONE
    int idle                    # that wait for wake_at
    int* blocked                # a ring of slots
    int blocked_at
    int blocked_count
    uint8_t* memory
    uint64_t timeout
    uint64_t end                # no request is started after it
    bint limited                # by time
    uint64_t now
    uint64_t next_scan


cdef int prepare(Run* run, list results) except -1
cdef void start_all(Run* run) noexcept nogil
cdef bint turn(Run* run) noexcept nogil
cdef void release(Run* run) noexcept
