from fastfcgi.line cimport Line


cdef class TimedLine(Line):
    cdef readonly long served
    cdef readonly double idle_since
    cdef double params_since        # < 0: no PARAMS are under way
    cdef bint stopping

    cdef int time_params(self, double now) except -1
    cdef double timeout(self, double seconds) noexcept

    # to be overridden
    cdef double oldest_input(self) noexcept
    cdef int end_stalled(self, double now) except -1
