from fastfcgi.active_request cimport ActiveRequest


cdef class Exchange(ActiveRequest):
    cdef public dict params
    cdef public bint aborted
    cdef readonly bint failed   # its application raised an exception

    cdef str name_in_log(self)
    cpdef object input_stream(self)
    cpdef object data_stream(self)
    # They return an object, which means nothing: what a Python method overrides may return None.
    cpdef object write(self, bytes head, object data, bint last=*)
    cpdef object write_error(self, bytes data)
    cpdef object abandon(self)
