from libc.stdint cimport int64_t, uint8_t, uint32_t

from fastfcgi.body cimport Body
from fastfcgi.exchange cimport Exchange
from fastfcgi.line cimport Line


cdef class Request(Exchange):
    cdef Line line
    cdef readonly Body stdin_body   # None before its PARAMS are complete
    cdef Body data_body             # of a filter, else None
    cdef object input               # what reads stdin_body, once somebody has asked for it
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


cdef Request request_on(Line line)
