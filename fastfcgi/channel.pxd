from libc.stdint cimport int64_t, uint8_t, uint32_t

from fastfcgi._sys cimport ff_mutex
from fastfcgi.active_request cimport ActiveRequest
from fastfcgi.board cimport Board, Slot
from fastfcgi.body cimport Body
from fastfcgi.connection cimport Connection
from fastfcgi.engine cimport Buffer, Engine, Handler, Worker
from fastfcgi.outbox cimport Outbox
from fastfcgi.connection_settings cimport ConnectionSettings
from fastfcgi.wsgi cimport Exchange, Gateway


cdef class Service:
    cdef readonly object server
    cdef readonly Engine engine
    cdef readonly Gateway gateway
    cdef object handler             # of a server that overrides it, else None
    cdef readonly object limits
    cdef ConnectionSettings settings
    cdef readonly set channels
    cdef public bint is_full        # the server waits for a connection to close
    cdef public bint stopping       # it serves no connection that is new
    cdef public bint retiring       # connections that are idle are another process's:
    cdef public object giver        # called with a descriptor; set once, before `retiring` is
    cdef public dict pages          # path -> what makes a page of params; or None
    cdef public object access_log   # or None
    cdef readonly Py_ssize_t max_connections
    cdef Py_ssize_t max_body_memory
    cdef int64_t max_body_file
    cdef Py_ssize_t body_start
    cdef Py_ssize_t max_unsent
    cdef Py_ssize_t linger_bytes
    cdef double header_timeout
    cdef double body_timeout
    cdef double send_timeout
    cdef double keep_alive_timeout
    cdef double linger_timeout

    cdef object page_of(self, dict params)


cdef class Link(Connection):
    cdef Channel channel


cdef class Request(Exchange):
    cdef Channel channel
    cdef readonly Body stdin_body   # None before its PARAMS are complete
    cdef Body data_body             # of a filter, else None
    cdef list held_errors
    cdef double input_at            # when the last part of the body came
    cdef object page                # what answers it in the place of the application, or None
    cdef double begun_at            # when its PARAMS were complete
    cdef long number                # in the log; 0 while nobody has asked
    cdef bytes head                 # for the access log: of the response,
    cdef int64_t sent               # and bytes of its body
    cdef bint spooling
    cdef bint ended
    cdef readonly bint started
    cdef readonly bint refused
    cdef readonly bint abandoned

    cdef int begin(self, dict params) except -1
    cdef Body body_of(self, int stream)
    cdef bint has_all_input(self) noexcept
    cdef bint is_ready(self, bint paused) noexcept
    cdef int refuse(self) except -1
    cdef bytes busy_answer(self)
    cdef bytes page_answer(self)
    cdef long number_in_log(self) except -1
    cdef int tally(self, bytes head, object data) except -1
    cdef int report(self, dict environ) except -1
    cdef int spool(self) except -1
    cdef Py_ssize_t spill(self, Body body) except -1
    cdef int give_up(self) except -1
    cdef int close(self) except -1
    cdef double run(self) except -1
    cdef int finish(self, int protocol_status, uint32_t app_status, double now) except -1
    cdef object stream(self, int stream)
    cdef Py_ssize_t read_into(self, int stream, uint8_t* p, Py_ssize_t size) except -1
    cdef int check_alive(self) except -1
    cdef int wait_for_room(self) except -1
    cdef int send_held_errors(self) except -1
    cdef int take_in(self, bint discard) except -1


cdef class Channel(Handler):
    cdef readonly Service service
    cdef readonly Link connection
    cdef Outbox outbox
    cdef ff_mutex lock
    cdef list waiters
    cdef bint is_inet
    cdef readonly long served
    cdef int unstarted              # requests whose application has not been started
    cdef Request newest
    cdef bint multiplexed           # requests were active side by side
    cdef bint eof
    cdef bint lost
    cdef readonly bint closed
    cdef bint lingering
    cdef Py_ssize_t lingered
    cdef double received_at
    cdef readonly double idle_since
    cdef bint reading               # more is to be received
    cdef int pulls                  # parts that the application's thread received itself
    cdef bint attended              # whoever leads is about to run its request, or does
    cdef double params_since        # < 0: no PARAMS are under way
    cdef double listening_since
    cdef bint stopping

    cdef int open(self, Service service, Py_ssize_t fd, bint is_inet) except -1
    cdef int give_away(self) except -1
    cdef double timeout(self, double seconds) noexcept
    cdef int timing(self, double* due) noexcept
    cdef double oldest_input(self) noexcept
    cdef int end_stalled(self, double now) except -1
    cdef int receive(self, Buffer buffer, Worker worker) except -1
    cdef Py_ssize_t room_for_next(self, uint8_t** p) noexcept
    cdef int take_in(self, const uint8_t* p, Py_ssize_t size, Worker worker) except -1
    cdef int time_params(self, double now) except -1
    cdef bint is_alone(self) noexcept
    cdef int start_requests(self, Worker worker) except -1
    cdef int start(self, Request request, bint paused, Worker worker) except -1
    cdef int refuse(self, Request request) except -1
    cdef int refuse_peer(self, error, bytes begin) except -1
    cdef int at_eof(self) except -1
    cdef int abort(self, Request request, bint end) except -1
    cdef int drop(self, Request request) except -1
    cdef int abort_requests(self) except -1
    cdef int lose(self, str reason) except -1
    cdef object peer_name(self)
    cdef int update(self) except -1
    cdef bint is_finished(self) noexcept
    cdef bint is_full(self) noexcept
    cdef bint is_pulled(self) noexcept
    cdef int close(self) except -1
    cdef int let_go(self) except -1
    cdef int acknowledge(self, Request request, Py_ssize_t size) except -1
    cdef int request_ended(self, Request request, double now) except -1
    cdef int flush(self) except -1
    cdef int finish_sending(self) except -1
    cdef int wait(self, double seconds) except -1
    cdef int notify(self) except -1
    cdef int receive_or_wait(self, bint wait=*) except -1
    cdef bint receive_here(self) except -1
    cdef int await_here(self) except -1
