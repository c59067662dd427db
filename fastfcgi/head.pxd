from libc.stdint cimport int64_t


# What a head says of the body that follows it.
cdef struct HeadFacts:
    int64_t content_length  # -1 where it has none
    bint never_body         # of a status that has no body, whatever the application returns


# The head of a response as CGI has it, but for the empty line at its end.
cdef bytes make_head(object status, object headers, HeadFacts* facts)
# The same with that line, and before it a Content-Length unless that is -1.
cdef bytes end_head(bytes head, int64_t content_length)
