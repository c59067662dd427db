from libc.stdint cimport uint8_t

from fastfcgi._sys cimport ff_mutex
from fastfcgi.active_request cimport ActiveRequest
from fastfcgi.connection cimport Connection
from fastfcgi.handler cimport Buffer, Handler, Worker
from fastfcgi.outbox cimport Outbox
from fastfcgi.service cimport Service


cdef class Line(Handler):
    cdef readonly Service service
    cdef readonly Connection connection
    cdef Outbox outbox
    cdef ff_mutex lock
    cdef list waiters
    cdef bint is_inet
    cdef bint multiplexed           # requests were active side by side
    cdef bint eof
    cdef bint lost
    cdef readonly bint closed
    cdef bint lingering
    cdef Py_ssize_t lingered
    cdef double received_at
    cdef bint reading               # more is to be received
    cdef double listening_since
    cdef int pulls                  # parts that its reader received itself; -1 before it reads
    cdef bint attended              # whoever leads is about to run its request, or does

    cdef int open(self, Service service, Py_ssize_t fd, bint is_inet) except -1

    # in
    cdef int receive(self, Buffer buffer, Worker worker) except -1
    cdef int acknowledge(self, ActiveRequest request, Py_ssize_t size) except -1

    # in, to be overridden: what comes
    cdef int take_in(self, const uint8_t* p, Py_ssize_t size, Worker worker) except -1
    cdef int at_eof(self) except -1

    # out
    cdef int flush(self) except -1
    cdef int finish_sending(self) except -1

    # the end
    cdef int lose(self, str reason) except -1
    cdef int close(self) except -1
    cdef object peer_name(self)

    # the end, to be overridden: what becomes of the requests
    cdef int abort_requests(self) except -1
    cdef int request_ended(self, ActiveRequest request, double now) except -1
    cdef int let_go(self) except -1

    # what it is watched for, and until when
    cdef int update(self) except -1
    cdef bint is_finished(self) noexcept
    cdef bint is_full(self) noexcept
    cdef int begin_pulling(self) except -1
    cdef bint is_pulled(self) noexcept
    cdef int timing(self, double* due) noexcept  # to be overridden

    # threads that wait
    cdef int wait(self, double seconds) except -1
    cdef int notify(self) except -1
    cdef int receive_or_wait(self, bint wait=*) except -1
    cdef bint receive_here(self) except -1
    cdef int await_here(self) except -1
