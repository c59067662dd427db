# cython: language_level=3
"""The C interface of a connection's end, for the other extensions. It may change with every
version."""

from libc.stdint cimport uint8_t, uint32_t

from fastfcgi._codec cimport Part, RecordReader
from fastfcgi._params cimport ParamsDecoder
from fastfcgi.active_request cimport ActiveRequest
from fastfcgi.connection_settings cimport ConnectionSettings


cdef class Endpoint:
    cdef readonly ConnectionSettings settings
    cdef readonly Py_ssize_t active     # requests that are
    cdef readonly Py_ssize_t unread     # bytes of STDIN and DATA of them all, as in ActiveRequest
    cdef readonly Py_ssize_t ignored_records
    cdef public bint input_expected     # the peer may still be sending for one that has ended
    cdef bint closing
    cdef bint broken            # receive() raised, or runs
    cdef RecordReader reader
    cdef ActiveRequest first    # an active request: the only one as a rule
    cdef dict others            # request_id -> the other active ones; None before there were any
    cdef ParamsDecoder spare    # for the next request
    cdef Py_ssize_t awaiting_params_of  # active requests whose PARAMS are not complete
    cdef Py_ssize_t params_held         # bytes of these
    cdef Py_ssize_t over_unread         # active requests with max_unread_stdin or more unread

    # what the owner of the socket asks
    cdef bint is_idle(self) noexcept
    cdef bint is_paused(self) noexcept
    cdef bint is_awaiting_params(self) noexcept
    cdef bint is_to_close(self) noexcept
    cdef list active_requests(self)
    cdef ActiveRequest find(self, int request_id)

    # in
    cdef int receive(self, const uint8_t* p, Py_ssize_t size) except -1
    cdef void input_read(self, ActiveRequest request, Py_ssize_t size) noexcept

    # in, to be overridden: what the bytes mean
    cdef ActiveRequest new_request(self)
    cdef int request_received(self, ActiveRequest request, dict params) except -1
    cdef int input_received(
        self, ActiveRequest request, int stream, const uint8_t* data, Py_ssize_t size
    ) except -1
    cdef int input_ended(self, ActiveRequest request, int stream) except -1
    cdef int request_aborted(self, ActiveRequest request) except -1

    # out
    cdef int write_stdout(self, ActiveRequest request, bytes head, object data) except -1
    cdef int write_stderr(self, ActiveRequest request, object data) except -1
    cdef int end_stdout(self, ActiveRequest request) except -1
    cdef int close_request(
        self, ActiveRequest request, uint32_t app_status, int protocol_status
    ) except -1
    cdef int abandon_request(self, ActiveRequest request) except -1

    # out, to be overridden: where records go
    cdef int emit(self, const uint8_t* p, Py_ssize_t size) except -1
    cdef int emit_stream(
        self,
        int type,
        int request_id,
        bytes head,
        object data,
        Py_ssize_t max_content,
        int min_padding,
    ) except -1

    # of its own
    cdef int receive_part(self, const Part* part) except -1
    cdef int receive_management(self, const Part* part) except -1
    cdef int begin_request(self, const Part* part) except -1
    cdef int refuse_request(self, int request_id, bint keep_conn, int protocol_status) except -1
    cdef int receive_abort(self, ActiveRequest request) except -1
    cdef int receive_stream(self, ActiveRequest request, const Part* part) except -1
    cdef int receive_params(self, ActiveRequest request, const Part* part, int after) except -1
    cdef int add_active(self, ActiveRequest request) except -1
    cdef int remove_active(self, ActiveRequest request) except -1
    cdef void note_unread(self, ActiveRequest request, Py_ssize_t size) noexcept
    cdef void set_over_unread(self, ActiveRequest request, bint over) noexcept
    cdef ParamsDecoder new_decoder(self)
    cdef void release_decoder(self, ActiveRequest request) noexcept
    cdef ActiveRequest find_active(self, int request_id)
