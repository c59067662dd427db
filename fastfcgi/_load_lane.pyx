# cython: language_level=3, freethreading_compatible=True
"""What the load generator asks, and what came of it: counts and latencies."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int64_t, uint8_t, uint64_t

from fastfcgi._load_answer cimport REASONS_END, Reason, detail

import math

from fastfcgi._load_answer import REASONS

__all__ = ["Lane", "LaneResult"]

cdef extern from *:
    int __builtin_clzll(unsigned long long value) noexcept nogil

cdef enum:
    # A latency of 2**k to 2**(k+1) ns is counted in one of 128 buckets: they are 0.8 % wide.
    FINE_BITS = 7
    FINE = 1 << FINE_BITS
    BUCKETS = (64 - FINE_BITS + 1) << FINE_BITS


# ---------------------------------------------------------------------------------------------
# While requests are made
# ---------------------------------------------------------------------------------------------

cdef inline Py_ssize_t bucket_of(uint64_t latency) noexcept nogil:
    cdef int shift
    if latency < FINE:
        return <Py_ssize_t>latency
    shift = 63 - __builtin_clzll(latency) - FINE_BITS   # 63 - clzll: the highest bit
    return (<Py_ssize_t>(shift + 1) << FINE_BITS) + <Py_ssize_t>(latency >> shift) - FINE


cdef uint64_t longest_of(Py_ssize_t bucket) noexcept nogil:
    """The longest latency that is counted in a bucket."""
    cdef int shift
    if bucket < FINE:
        return <uint64_t>bucket
    shift = <int>(bucket >> FINE_BITS) - 1
    return ((<uint64_t>((bucket & (FINE - 1)) + FINE + 1)) << shift) - 1


cdef void count_right(Counts* counts, uint64_t started, uint64_t now) noexcept nogil:
    """A request was answered rightly."""
    cdef uint64_t latency = now - started
    counts.right += 1
    counts.total += latency
    counts.longest = max(counts.longest, latency)
    counts.buckets[bucket_of(latency)] += 1
    counts.last_right = counts.last_end = now


cdef void count_error(Counts* counts, Reason reason, int64_t code, uint64_t now) noexcept nogil:
    """A request ended for another reason."""
    if counts.errors[<int>reason] == 0:
        counts.first[<int>reason] = code
    counts.errors[<int>reason] += 1
    counts.last_end = now


# ---------------------------------------------------------------------------------------------
# For Python
# ---------------------------------------------------------------------------------------------

cdef uint64_t nanoseconds(str name, double seconds) except? 0:
    if not 0 <= seconds <= 1e9:
        raise ValueError(f"{name} is 0 to 1e9 seconds")
    return <uint64_t>(seconds * SECOND)


@cython.final
cdef class Lane:
    """One kind of client; several lanes may run side by side. Can be used for any number of runs.

    Args:
        request: All records of one request; the first is its BEGIN_REQUEST.
        connections: How many requests are under way at once, each on a connection of its own.
        keep_conn: Whether a connection is used for the next request too. The flag in
            BEGIN_REQUEST is the caller's; a server that closes all the same is connected to anew.
        expected: The content of STDOUT, exactly. None: any that has a response header.
        status: The HTTP status of the response, without `expected`; 0 is any below 400.
        pause: Seconds between an answer and the next request of the connection; at least one
            millisecond where it is not 0.
    """

    def __init__(
        self,
        bytes request not None,
        int connections,
        bint keep_conn=True,
        *,
        bytes expected=None,
        int status=0,
        double pause=0.0,
    ):
        if len(request) < 16 or request[0] != 1 or request[1] != 1:
            raise ValueError("a request begins with BEGIN_REQUEST")
        if connections < 1:
            raise ValueError("connections is at least 1")
        nanoseconds("pause", pause)
        self.request = request
        self.connections = connections
        self.keep_conn = keep_conn
        self.expected = expected
        self.status = status
        self.pause = pause


@cython.final
cdef class LaneResult:
    """What came of a lane in one run.

    Attributes:
        requests: Those that were answered, and rightly.
        errors: Reason -> how many requests ended for it; every reason is one of REASONS.
        examples: Reason -> what it was the first time, for a person to read.
        seconds: From the start of the run to the end of the lane's last request.
        connects: Connections that were made.
        bytes_received: Bytes of records, wrong answers included.
        mean, max: Of the latencies of right answers, in seconds.

    A latency is the time from the first byte sent, or from connecting where the request needed
    that, to the last byte of END_REQUEST.
    """

    def __cinit__(self):
        self.counts.buckets = <uint64_t*>PyMem_Calloc(BUCKETS, sizeof(uint64_t))
        if self.counts.buckets == NULL:
            raise MemoryError()

    def __dealloc__(self):
        PyMem_Free(self.counts.buckets)

    cdef int begin(self, Lane lane, int64_t requests, uint64_t now) except -1:
        if lane is None:
            raise TypeError("a lane is a Lane")
        self.lane = lane
        self.counts.request = <const uint8_t*>PyBytes_AS_STRING(lane.request)
        self.counts.request_size = len(lane.request)
        self.counts.wanted.request_id = (lane.request[2] << 8) | lane.request[3]
        if lane.expected is not None:
            self.counts.wanted.expected = <const uint8_t*>PyBytes_AS_STRING(lane.expected)
            self.counts.wanted.expected_size = len(lane.expected)
        self.counts.wanted.status = lane.status
        self.counts.keep_conn = lane.keep_conn
        self.counts.pause = nanoseconds("pause", lane.pause)
        self.counts.left = <uint64_t>requests  # -1, no limit, is the largest number
        self.counts.last_right = now
        return 0

    cdef void end(self, uint64_t began, uint64_t now) noexcept:
        self.seconds = ((self.counts.last_end or now) - began) / <double>SECOND

    @property
    def requests(self):
        return self.counts.right

    @property
    def errors(self):
        numbers = {REASONS[i]: self.counts.errors[i] for i in range(<int>REASONS_END)}
        return {reason: number for reason, number in numbers.items() if number}

    @property
    def examples(self):
        found = {}
        for reason in range(1, <int>REASONS_END):
            if self.counts.errors[reason]:
                found[REASONS[reason]] = detail(reason, self.counts.first[reason])
        return found

    @property
    def connects(self):
        return self.counts.connects

    @property
    def bytes_received(self):
        return self.counts.bytes_received

    @property
    def mean(self):
        return self.counts.total / <double>SECOND / max(self.counts.right, <uint64_t>1)

    @property
    def max(self):
        return self.counts.longest / <double>SECOND

    def percentile(self, double q):
        """The latency in seconds that q percent of the right answers kept, 0 without any.

        It is at most 0.8 % too long: latencies are counted in buckets of that width.

        Raises:
            ValueError: q is not between 0 and 100.
        """
        cdef uint64_t wanted, seen = 0
        cdef Py_ssize_t bucket = 0
        if not 0 <= q <= 100:
            raise ValueError("q is 0 to 100 percent")
        if self.counts.right == 0:
            return 0.0
        # Not above q percent by a rounding error of the product.
        wanted = max(<uint64_t>1, <uint64_t>math.ceil(self.counts.right * q / 100 - 1e-6))
        # They may be counted meanwhile: another thread can have this from `progress`.
        while bucket < BUCKETS - 1:
            seen += self.counts.buckets[bucket]
            if seen >= wanted:
                break
            bucket += 1
        return min(longest_of(bucket), self.counts.longest) / <double>SECOND
