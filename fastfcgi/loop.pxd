from fastfcgi._sys cimport ff_mutex


cdef class Loop:
    cdef ff_mutex mutex             # of wakes_at, and of what a derived class keeps
    cdef bint finished
    cdef readonly double wakes_at
    cdef public double tick
    cdef readonly set tickers
    cdef public object deadlines
    cdef object soon
    cdef object wake_out
    cdef readonly object wake_in

    cdef int attend(self, double deadline) except -1
    cdef int start_thread(self) except -1
