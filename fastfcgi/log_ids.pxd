cdef long next_number() noexcept
cdef str name_of(long number)
