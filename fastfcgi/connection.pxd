# cython: language_level=3
"""The C interface of a connection, for the other extensions. It may change with every version."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t

from fastfcgi._codec cimport Part, RecordReader
from fastfcgi._params cimport ParamsDecoder, ValueCache

# The states of states.py and what can be sent, in its order.
cdef enum:
    RECEIVING_PARAMS
    RECEIVING_STDIN
    RECEIVING_DATA
    RECEIVING_DONE

cdef enum:
    SENDING_OPEN
    SENDING_STDOUT_CLOSED
    SENDING_ENDED

cdef enum:
    SEND_STDOUT
    SEND_STDOUT_END
    SEND_STDERR
    SEND_END_REQUEST


@cython.final
cdef class ConnectionSettings:
    cdef readonly frozenset roles
    cdef readonly Py_ssize_t max_params_bytes
    cdef readonly Py_ssize_t max_params_pairs
    cdef readonly Py_ssize_t max_requests
    cdef readonly Py_ssize_t max_unread_stdin
    cdef readonly Py_ssize_t max_unread_total
    cdef readonly bytes reserved
    cdef dict values
    cdef dict start             # what params begin with, see ParamsDecoder
    cdef bint served[4]         # by role
    cdef ValueCache cache


cdef class ActiveRequest:
    cdef readonly int request_id
    cdef readonly int role
    cdef readonly bint keep_conn
    cdef bint abort_seen
    cdef bint stderr_used
    cdef bint over_unread       # counted in the connection's over_unread
    cdef int receiving
    cdef int sending            # SENDING_ENDED: it is not active any more
    cdef Py_ssize_t unread      # bytes of STDIN and DATA reported and not yet acknowledged
    cdef ParamsDecoder decoder  # None when PARAMS are complete


cdef class Connection:
    cdef readonly ConnectionSettings settings
    cdef readonly Py_ssize_t active
    cdef readonly Py_ssize_t unread
    cdef readonly Py_ssize_t ignored_records
    cdef public bint input_expected
    cdef bint closing
    cdef bint broken            # receive() raised, or runs
    cdef RecordReader reader
    cdef ActiveRequest first    # an active request: the only one as a rule
    cdef dict others            # request_id -> the other active ones; None before there were any
    cdef ParamsDecoder spare    # for the next request
    cdef Py_ssize_t awaiting_params_of  # active requests whose PARAMS are not complete
    cdef Py_ssize_t params_held         # bytes of these
    cdef Py_ssize_t over_unread         # active requests with max_unread_stdin or more unread
    # While receive_data() runs: the events so far, the data, where it begins, a view of it.
    cdef list events
    cdef object data
    cdef const uint8_t* base
    cdef object view
    cdef list out

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
