from cpython.pythread cimport PyThread_type_lock
from libc.stdint cimport uint8_t, uint64_t

from fastfcgi._sys cimport ff_mutex
from fastfcgi.board cimport Board, Slot
from fastfcgi.poller cimport MAX_EVENTS, Poller
from fastfcgi.scores cimport Scores


cdef class Buffer:
    cdef uint8_t* memory


cdef class Worker:
    cdef PyThread_type_lock lock    # held while it is awake or has been called
    cdef unsigned long ident
    cdef int role
    cdef uint64_t seen              # the call that was running when it last looked
    cdef Handler handler            # whose request it runs
    cdef bint left                  # the poller is another thread's business by now
    cdef readonly object thread
    cdef Buffer buffer
    cdef Handler own_handler        # without a GIL: what it runs next
    cdef object own_request
    cdef Slot* slot                 # its place on the board, or NULL


cdef class Handler:
    cdef readonly Py_ssize_t fd
    cdef readonly int mask          # what it is watched for, -1 while the poller does not know it

    cdef int ready(self, int mask, Worker worker) except -1
    cdef double serve(self, object request) except -1
    cdef str path_of(self, object request)
    cdef int left_alone(self) except -1
    cdef int describe(self, object request, Slot* slot) except -1


cdef class Engine:
    cdef object __weakref__
    cdef readonly int threads       # the most that run requests
    cdef int most                   # of all
    cdef readonly int queue_size
    cdef readonly bint parallel
    cdef readonly Scores scores
    cdef readonly Board board       # or None
    cdef Poller poller
    cdef list table                 # descriptor -> Handler
    cdef list buffers

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

    # Requests that wait for a thread.
    cdef ff_mutex mutex
    cdef Handler next_handler
    cdef object next_request
    cdef object more
    cdef long queued
    cdef long running
    cdef long total
    cdef long polling

    # The thread that called run(): clock, signals, calls from elsewhere.
    cdef bint finished
    cdef readonly double wakes_at
    cdef public double tick
    cdef readonly set tickers
    cdef public object deadlines
    cdef public double slow_timeout
    cdef bint room_wanted           # on_room is to be called when a thread is free
    cdef public object on_room
    cdef object soon
    cdef set workers
    cdef object wake_out
    cdef readonly object wake_in
    cdef object halt_in
    cdef object halt_out
    cdef Py_ssize_t halt_fd

    cdef bint submit(self, Worker worker, Handler handler, object request) except -1
    cdef int set_mask(self, Handler handler, int mask, bint shared=*) except -1
    cdef int forget(self, Handler handler) except -1
    cdef int attend(self, double deadline) except -1
    cdef int hand_over(self) except -1
    cdef bint is_taken(self) noexcept
    cdef Buffer borrow(self)

    cdef bint enqueue(self, Handler handler, object request) except -1
    cdef bint dequeue(self, Worker worker) except -1
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
    cdef int start_thread(self) except -1
    cdef int park(self, Worker worker) except -1
    cdef int sleep(self, Worker worker) noexcept nogil
    cdef int lead(self, Worker worker) except -1
    cdef int dispatch(self, Py_ssize_t fd, int mask, Worker worker) except -1
    cdef int work_in_turns(self, Worker worker) except -1
    cdef int work_in_parallel(self, Worker worker) except -1
