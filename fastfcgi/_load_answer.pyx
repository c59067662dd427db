# cython: language_level=3, freethreading_compatible=True
"""The answer to a request of the load generator: whether it is right, and if not, why.

Bytes come in, cut anywhere; nothing is allocated and nothing raises.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy

import os

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char* a, const char* b, size_t size) noexcept

cdef enum:
    TYPE_END_REQUEST = 3
    TYPE_STDOUT = 6
    TYPE_STDERR = 7

REASONS = (
    "",
    "connect failed",
    "timeout",
    "closed early",
    "protocol error",
    "request refused",
    "wrong app_status",
    "wrong status",
    "no response header",
    "different answer",
)

# Further: how the first one is told, {} being its code.
_DETAILS = ("", "", "", "", "", "protocol_status {}", "app_status {}", "status {}", "",
            "from byte {} of STDOUT on")

cdef enum Broken:
    OTHER_VERSION
    OTHER_REQUEST
    OTHER_TYPE
    AFTER_STREAM
    AFTER_END
    END_LENGTH

_BROKEN = (
    "a record that is not of version 1",
    "a record of another request_id",
    "a record of a type that no web server is sent",
    "a record of a stream after its end",
    "a record after END_REQUEST",
    "END_REQUEST has not 8 bytes",
)


cdef void new_answer(Answer* a, const Wanted* wanted) noexcept nogil:
    """Nothing of it is there."""
    a.wanted = wanted
    a.reason = RIGHT
    a.code = 0
    a.ended = a.stdout_ended = a.stderr_ended = a.header_ended = False
    a.matched = 0
    a.status = 200
    a.line_length = a.head_length = a.content_left = a.padding_left = 0


cdef inline void blame(Answer* a, Reason reason, int64_t code) noexcept nogil:
    """The first thing that is wrong is the reason."""
    if a.reason == RIGHT:
        a.reason = reason
        a.code = code


cdef void take_line(Answer* a) noexcept nogil:
    """One line of the response header is there, its first bytes in a.line."""
    cdef int pos = 7, number = 0, digits = 0
    if a.line_length == 0 or (a.line_length == 1 and a.line[0] == c"\r"):
        a.header_ended = True
    elif a.line_length >= 7 and strncasecmp(<const char*>a.line, b"status:", 7) == 0:
        while pos < LINE_SIZE and a.line[pos] == c" ":
            pos += 1
        while pos < min(LINE_SIZE, a.line_length) and c"0" <= a.line[pos] <= c"9":
            number = 10 * number + a.line[pos] - c"0"
            digits += 1
            pos += 1
        a.status = number if digits == 3 else 0
    a.line_length = 0


cdef void read_header(Answer* a, const uint8_t* p, Py_ssize_t size) noexcept nogil:
    """The next part of the response header; without a line for it the status is 200."""
    cdef const uint8_t* end
    cdef Py_ssize_t length
    while size and not a.header_ended:
        end = <const uint8_t*>memchr(p, c"\n", size)
        length = size if end == NULL else end - p
        if a.line_length < LINE_SIZE:
            memcpy(a.line + a.line_length, p, min(length, LINE_SIZE - a.line_length))
            a.line_length = <int>min(a.line_length + length, LINE_SIZE)
        if end == NULL:
            return
        take_line(a)
        p += length + 1
        size -= length + 1


cdef void compare(Answer* a, const uint8_t* p, Py_ssize_t size) noexcept nogil:
    cdef const uint8_t* expected = a.wanted.expected + a.matched
    cdef Py_ssize_t common = min(size, a.wanted.expected_size - a.matched), pos = 0
    if a.reason != RIGHT:
        return
    if memcmp(expected, p, common) == 0:
        a.matched += common
        if common < size:
            blame(a, DIFFERENT, a.matched)
        return
    while expected[pos] == p[pos]:
        pos += 1
    blame(a, DIFFERENT, a.matched + pos)


cdef void take_end(Answer* a) noexcept nogil:
    """END_REQUEST is there, in a.head; the answer is judged."""
    cdef int64_t app_status = (
        (<uint32_t>a.head[0] << 24) | (a.head[1] << 16) | (a.head[2] << 8) | a.head[3]
    )
    a.ended = True
    if a.head[4] != 0:
        # More to the point than what is missing in the answer.
        a.reason = RIGHT
        blame(a, REFUSED, a.head[4])
    if app_status != 0:
        blame(a, APP_STATUS, app_status)
    if a.wanted.expected != NULL:
        if a.matched < a.wanted.expected_size:
            blame(a, DIFFERENT, a.matched)
    elif not a.header_ended:
        blame(a, NO_HEADER, 0)
    elif a.wanted.status:
        if a.status != a.wanted.status:
            blame(a, STATUS, a.status)
    elif not 100 <= a.status < 400:
        blame(a, STATUS, a.status)


cdef Outcome take_header(Answer* a, const uint8_t* p) noexcept nogil:
    cdef int request_id = (p[2] << 8) | p[3], broken = -1
    a.type = p[1]
    a.content_left = (p[4] << 8) | p[5]
    a.padding_left = p[6]
    if p[0] != 1:
        broken = OTHER_VERSION
    elif request_id == 0:
        a.type = 0      # a management record that nobody asked for
    elif request_id != a.wanted.request_id:
        broken = OTHER_REQUEST
    elif a.ended:
        broken = AFTER_END
    elif a.type == TYPE_STDOUT:
        if a.stdout_ended:
            broken = AFTER_STREAM
        a.stdout_ended = a.content_left == 0
    elif a.type == TYPE_STDERR:
        if a.stderr_ended:
            broken = AFTER_STREAM
        a.stderr_ended = a.content_left == 0
    elif a.type != TYPE_END_REQUEST:
        broken = OTHER_TYPE
    elif a.content_left != END_REQUEST_LEN:
        broken = END_LENGTH
    if broken < 0:
        return MORE
    a.code = broken
    return BROKEN


cdef Outcome take_in(Answer* a, const uint8_t* p, Py_ssize_t size) noexcept nogil:
    """The next bytes of the answer, cut anywhere."""
    cdef const uint8_t* end = p + size
    cdef int length
    while p < end:
        if a.content_left:
            length = <int>min(a.content_left, end - p)
            if a.type == TYPE_STDOUT:
                if a.wanted.expected != NULL:
                    compare(a, p, length)
                elif not a.header_ended:
                    read_header(a, p, length)
            elif a.type == TYPE_END_REQUEST:
                memcpy(a.head + END_REQUEST_LEN - a.content_left, p, length)
                if length == a.content_left:
                    take_end(a)
            a.content_left -= length
        elif a.padding_left:
            length = <int>min(a.padding_left, end - p)
            a.padding_left -= length
        else:
            length = <int>min(HEADER_LEN - a.head_length, end - p)
            memcpy(a.head + a.head_length, p, length)
            a.head_length += length
            if a.head_length == HEADER_LEN:
                a.head_length = 0
                if take_header(a, a.head) == BROKEN:
                    return BROKEN
        p += length
    if a.ended and a.content_left == 0 and a.padding_left == 0 and a.head_length == 0:
        return COMPLETE
    return MORE


cdef str detail(int reason, int64_t code):
    """The code of a reason, for a person to read."""
    if reason == PROTOCOL:
        return _BROKEN[code]
    if reason == CONNECT or reason == CLOSED:
        return os.strerror(code) if code else ""
    return _DETAILS[reason].format(code)
