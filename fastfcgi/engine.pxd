from libc.stdint cimport uint64_t

from fastfcgi.desk cimport Desk
from fastfcgi.handler cimport Handler, Worker
from fastfcgi.poller cimport MAX_EVENTS
from fastfcgi.scores cimport Scores


cdef class Engine(Desk):
    cdef object __weakref__
    cdef int most                   # of all
    cdef readonly bint parallel
    cdef readonly Scores scores

    # Who polls. With a GIL: changed with the GIL held, and looked at without.
    cdef Worker leader
    cdef Worker deputy
    cdef list parked
    cdef int phase
    cdef uint64_t seq
    cdef bint dozing
    cdef bint called                # a thread is on its way to lead
    cdef double blocked_at
    cdef Py_ssize_t[MAX_EVENTS] fds
    cdef int[MAX_EVENTS] masks
    cdef int event_count
    cdef int next_event

    cdef long polling

    cdef public double slow_timeout
    cdef bint room_wanted           # on_room is to be called when a thread is free
    cdef public object on_room
    cdef set workers
    cdef object halt_in
    cdef object halt_out
    cdef Py_ssize_t halt_fd

    cdef bint submit(self, Worker worker, Handler handler, object request) except -1
    cdef int hand_over(self) except -1

    cdef int run_job(self, Worker worker) except -1
    cdef int enter(self, Worker worker, bint eager) except -1
    cdef int leave(self, Worker worker) except -1
    cdef int free(self) except -1
    cdef int take_over(self, Worker worker) except -1
    cdef int depose(self, Worker worker) except -1
    cdef int remember(self, str path, double wall, double cpu) except -1
    cdef int nudge(self) except -1
    cdef int answer_nudge(self) except -1
    cdef int appoint(self) except -1
    cdef int call_one(self) except -1
    cdef int park(self, Worker worker) except -1
    cdef int sleep(self, Worker worker) noexcept nogil
    cdef int lead(self, Worker worker) except -1
    cdef int dispatch(self, Py_ssize_t fd, int mask, Worker worker) except -1
    cdef int work_in_turns(self, Worker worker) except -1
    cdef int work_in_parallel(self, Worker worker) except -1
