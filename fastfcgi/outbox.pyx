# cython: language_level=3, freethreading_compatible=True
"""Records on their way out of a socket, in order and uncopied.

What waits is kept as what it was given as: a block of 64 MiB is one piece, and the headers of its
records are made as they are sent. Header, the application's own bytes, padding and END_REQUEST go
out in one gathered write.
"""

import os

from cpython.buffer cimport PyBuffer_IsContiguous
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.memoryview cimport PyMemoryView_FromObject, PyMemoryView_GET_BUFFER
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, EIO
from libc.string cimport memcpy, memmove

from fastfcgi._codec cimport padding_of, write_header
from fastfcgi._sys cimport (
    ff_drop_sigpipe,
    ff_hold_sigpipe,
    ff_iovec,
    ff_now,
    ff_send,
    ff_send_file,
    ff_signals,
)

from fastfcgi.file_wrapper import FilePart

cdef enum:
    HEADER_LEN = 8
    SMALL = 40                  # bytes of Piece.small
    FIRST = 4                   # pieces without memory of their own
    # Buffers in one write: with records of 64 KiB this is more than a socket takes.
    MAX_BUFFERS = 60
    # Writes in a row, each as much as the socket takes: a fast reader of a large response must
    # not keep the lock, or the loop, from the others.
    MAX_WRITES = 16
    # Content of a record of a file: whole pages, and few enough of them for the system to move at
    # once (16) even if the first is cut. Four such records fill a unix socket, so that peers begin
    # to take one while the next is sent.
    FILE_CONTENT = 48 * 1024
    # Bytes of a file at once where there are no records.
    RAW_CONTENT = 1024 * 1024

cdef const uint8_t* PADDING = b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"


cdef inline int put(
    ff_iovec* iov, int used, const uint8_t* p, Py_ssize_t size, Py_ssize_t* skip
) noexcept nogil:
    """Add a buffer to iov, without what `skip` says is sent already; returns how many are used."""
    if skip[0] >= size:
        skip[0] -= size
        return used
    iov[used].iov_base = <void*>(p + skip[0])
    iov[used].iov_len = <size_t>(size - skip[0])
    skip[0] = 0
    return used + 1


cdef inline Py_ssize_t wire_size(Py_ssize_t length, int max_content, int least) noexcept nogil:
    """Bytes of the records that carry so much content."""
    cdef Py_ssize_t full = length // max_content, rest = length % max_content
    cdef Py_ssize_t size = full * (HEADER_LEN + max_content + padding_of(max_content, least))
    return size + HEADER_LEN + rest + padding_of(rest, least) if rest else size


cdef object contiguous(object data):
    """A memoryview of any buffer.

    Raises:
        BufferError: It has gaps.
    """
    data = PyMemoryView_FromObject(data)
    if not PyBuffer_IsContiguous(PyMemoryView_GET_BUFFER(data), b"C"):
        raise BufferError("a block of a stream is contiguous")
    return data


cdef class Outbox:
    """What is to be sent on one socket.

    Attributes:
        size: Bytes that wait.
        blocked: The socket takes no more for now, or others are to have their turn: send again
            when it is writable.
        sent_at: time.monotonic() of the last progress, or of the first bytes to wait after none.
    """

    def __cinit__(self):
        self.pieces = self.first
        self.room = FIRST

    def __dealloc__(self):
        self.release_all()

    cdef Piece* new_piece(self, Py_ssize_t wire) except NULL:
        """One more at the end, zeroed but for `wire`."""
        cdef Piece* piece
        if self.begin + self.count == self.room:
            self.make_room()
        piece = &self.pieces[self.begin + self.count]
        piece.type = 0
        piece.file = -1
        piece.sent = 0
        piece.wire = wire
        piece.head_length = 0
        piece.head_owner = piece.data_owner = NULL
        self.size += wire
        self.count += 1
        return piece

    cdef int make_room(self) except -1:
        cdef Piece* pieces = self.pieces
        if self.begin > self.room // 2:
            memmove(pieces, pieces + self.begin, self.count * sizeof(Piece))
        else:
            pieces = <Piece*>PyMem_Malloc(2 * self.room * sizeof(Piece))
            if pieces == NULL:
                raise MemoryError()
            memcpy(pieces, self.pieces + self.begin, self.count * sizeof(Piece))
            if self.pieces != self.first:
                PyMem_Free(self.pieces)
            self.pieces = pieces
            self.room *= 2
        self.begin = 0
        return 0

    cdef int add(self, const uint8_t* p, Py_ssize_t size) except -1:
        """Whole records, copied."""
        cdef Piece* piece
        cdef bytes owner
        if size <= SMALL:
            piece = self.new_piece(size)
            memcpy(piece.small, p, size)
            piece.data = NULL
            return 0
        owner = p[:size]
        return self.add_owned(<const uint8_t*>PyBytes_AS_STRING(owner), size, owner)

    cdef int add_owned(self, const uint8_t* p, Py_ssize_t size, object owner) except -1:
        """Bytes that are sent as they are, and stay where they are as long as their owner does."""
        cdef Piece* piece
        if size == 0:
            return 0
        piece = self.new_piece(size)
        piece.data = p
        piece.data_owner = <PyObject*>owner
        Py_INCREF(owner)
        return 0

    cdef int add_raw(self, bytes head, object data) except -1:
        """add_stream() of a protocol without records."""
        cdef Py_buffer* view
        if head is not None:
            self.add_owned(<const uint8_t*>PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head), head)
        if data is None:
            return 0
        if isinstance(data, FilePart):
            self.add_owned(NULL, data.size, data)
            if data.size:
                self.pieces[self.begin + self.count - 1].file = data.fd
                self.pieces[self.begin + self.count - 1].offset = data.offset
            return 0
        data = contiguous(data)
        view = PyMemoryView_GET_BUFFER(data)
        return self.add_owned(<const uint8_t*>view.buf, view.len, data)

    cdef int add_stream(
        self, int type, int request_id, bytes head, object data, int max_content, int min_padding
    ) except -1:
        """Part of a stream: head and then data (any contiguous buffer, or a FilePart), either may
        be None. Both are kept until they are sent, and must not change before.

        Raises:
            BufferError: data is not contiguous.
        """
        cdef const uint8_t* p = NULL
        cdef Py_ssize_t length = 0, head_length = 0
        cdef Piece* piece
        cdef Py_buffer* view
        if data is not None:
            if PyBytes_CheckExact(data):
                p = <const uint8_t*>PyBytes_AS_STRING(data)
                length = PyBytes_GET_SIZE(data)
            elif isinstance(data, FilePart):
                self.add_stream(type, request_id, head, None, max_content, min_padding)
                return self.add_file(type, request_id, data, max_content, min_padding)
            else:
                data = contiguous(data)
                view = PyMemoryView_GET_BUFFER(data)
                p = <const uint8_t*>view.buf
                length = view.len
        if head is not None:
            head_length = PyBytes_GET_SIZE(head)
            if head_length and head_length + length > max_content:
                # They share a record only where one is enough.
                self.add_stream(type, request_id, None, head, max_content, min_padding)
                head_length = 0
        if head_length + length == 0:
            return 0  # an empty record would end the stream
        piece = self.new_piece(wire_size(head_length + length, max_content, min_padding))
        piece.type = type
        piece.request_id = request_id
        piece.max_content = max_content
        piece.min_padding = min_padding
        piece.data = p
        piece.data_length = length
        if head_length:
            piece.head = <const uint8_t*>PyBytes_AS_STRING(head)
            piece.head_length = head_length
            piece.head_owner = <PyObject*>head
            Py_INCREF(head)
        if length:
            piece.data_owner = <PyObject*>data
            Py_INCREF(data)
        return 0

    cdef int add_file(
        self, int type, int request_id, object part, int max_content, int min_padding
    ) except -1:
        """Part of a stream that is read when it is sent."""
        cdef Py_ssize_t length = part.size
        cdef Piece* piece
        if length == 0:
            return 0
        max_content = min(max_content, FILE_CONTENT)
        piece = self.new_piece(wire_size(length, max_content, min_padding))
        piece.type = type
        piece.request_id = request_id
        piece.max_content = max_content
        piece.min_padding = min_padding
        piece.file = part.fd
        piece.offset = part.offset
        piece.data_length = length
        piece.data_owner = <PyObject*>part
        Py_INCREF(part)
        return 0

    cdef int release_all(self) except -1:
        while self.count:
            self.drop_first()
        return 0

    cdef int drop_first(self) except -1:
        """Forget the first piece. Its owners go last: what they run may look at us."""
        cdef Piece* piece = &self.pieces[self.begin]
        cdef PyObject* head = piece.head_owner
        cdef PyObject* data = piece.data_owner
        self.size -= piece.wire - piece.sent
        self.begin += 1
        self.count -= 1
        if self.count == 0:
            self.begin = 0
            if self.pieces != self.first:
                PyMem_Free(self.pieces)
                self.pieces = self.first
                self.room = FIRST
        if head != NULL:
            Py_DECREF(<object>head)
        if data != NULL:
            Py_DECREF(<object>data)
        return 0

    cpdef clear(self):
        """Forget what waits."""
        self.release_all()
        self.waiting = False

    cdef int fill(self, ff_iovec* iov, uint8_t* headers) noexcept:
        """What the next write sends, as far as there are buffers for it."""
        cdef Piece* piece
        cdef const uint8_t* whole
        cdef int i, used = 0
        for i in range(self.begin, self.begin + self.count):
            piece = &self.pieces[i]
            if used + 4 > MAX_BUFFERS or piece.file >= 0:
                break
            if piece.type == 0:
                whole = piece.data
                if whole == NULL:
                    whole = piece.small
                iov[used].iov_base = <void*>(whole + piece.sent)
                iov[used].iov_len = <size_t>(piece.wire - piece.sent)
                used += 1
            else:
                used = self.fill_records(piece, iov, used, headers)
        return used

    cdef int fill_records(
        self, Piece* piece, ff_iovec* iov, int used, uint8_t* headers
    ) noexcept:
        """The records of one piece from where its sending stopped."""
        cdef Py_ssize_t length = piece.head_length + piece.data_length
        cdef Py_ssize_t record = (
            HEADER_LEN + piece.max_content + padding_of(piece.max_content, piece.min_padding)
        )
        cdef Py_ssize_t skip = piece.sent % record
        cdef Py_ssize_t pos = piece.sent // record * piece.max_content
        cdef Py_ssize_t part
        cdef uint8_t* header
        cdef int padding
        while pos < length and used + 4 <= MAX_BUFFERS:
            part = min(length - pos, <Py_ssize_t>piece.max_content)
            padding = padding_of(part, piece.min_padding)
            # Every record takes at least two buffers, so there is a header for each.
            header = headers + HEADER_LEN * (used // 2)
            write_header(header, piece.type, piece.request_id, <int>part, padding)
            pos += part
            used = put(iov, used, header, HEADER_LEN, &skip)
            if piece.head_length:
                used = put(iov, used, piece.head, piece.head_length, &skip)
                used = put(iov, used, piece.data, piece.data_length, &skip)
            else:
                used = put(iov, used, piece.data + pos - part, part, &skip)
            used = put(iov, used, PADDING, padding, &skip)
        return used

    cdef int send(self, Py_ssize_t fd) except -1:
        """Send what the socket takes.

        Raises:
            OSError: The peer is gone; EIO if a file is shorter than it was.
        """
        cdef ff_signals signals
        cdef bint held = False
        cdef int writes = 0
        cdef Py_ssize_t sent = 0
        cdef Piece* first
        while self.count and not self.blocked:
            first = &self.pieces[self.begin]
            if first.file < 0:
                sent = self.send_pieces(fd)
            else:
                if not held:
                    ff_hold_sigpipe(&signals)
                    held = True
                sent = self.send_file(fd, first) if first.type else self.send_raw_file(fd, first)
            if sent < 0 and sent != -EAGAIN:
                break
            writes += 1
            self.note(sent, writes)
        if held:
            ff_drop_sigpipe(&signals)
        if sent < 0 and sent != -EAGAIN:
            raise OSError(-sent, os.strerror(-sent))
        if self.count == 0:
            self.waiting = False
        return 0

    cdef int note(self, Py_ssize_t sent, int writes) except -1:
        """So much was sent, or -EAGAIN."""
        if sent == -EAGAIN:
            self.blocked = True
        else:
            self.advance(sent)
            self.blocked = writes == MAX_WRITES and self.count
        if self.count and (sent > 0 or not self.waiting):
            self.sent_at = ff_now()
            self.waiting = True
        return 0

    cdef Py_ssize_t send_pieces(self, Py_ssize_t fd) noexcept:
        """One write of what is in memory; bytes taken, or minus errno."""
        cdef ff_iovec[MAX_BUFFERS] iov
        cdef uint8_t[HEADER_LEN * MAX_BUFFERS] headers
        return ff_send(fd, iov, self.fill(iov, headers))

    cdef Py_ssize_t send_file(self, Py_ssize_t fd, Piece* piece) noexcept:
        """One write of a record of a file; -EIO if the file has ended."""
        cdef Py_ssize_t whole = (
            HEADER_LEN + piece.max_content + padding_of(piece.max_content, piece.min_padding)
        )
        cdef Py_ssize_t skip = piece.sent % whole
        cdef Py_ssize_t pos = piece.sent // whole * piece.max_content
        cdef Py_ssize_t part = min(piece.data_length - pos, <Py_ssize_t>piece.max_content)
        cdef Py_ssize_t done = max(skip - HEADER_LEN, <Py_ssize_t>0)
        cdef Py_ssize_t head = max(HEADER_LEN - skip, <Py_ssize_t>0)
        cdef int padding = padding_of(part, piece.min_padding), file = piece.file
        cdef int64_t offset = piece.offset + pos + done
        cdef uint8_t[HEADER_LEN] header
        cdef ff_iovec rest
        cdef Py_ssize_t sent
        if done >= part:
            rest.iov_base = <void*>(PADDING + (done - part))
            rest.iov_len = <size_t>(padding - (done - part))
            return ff_send(fd, &rest, 1)
        write_header(header, piece.type, piece.request_id, <int>part, padding)
        # The only write that may wait: for a disk. `piece` may be elsewhere after that.
        with nogil:
            sent = ff_send_file(fd, header + HEADER_LEN - head, head, file, offset, part - done)
        return sent if sent else -EIO

    cdef Py_ssize_t send_raw_file(self, Py_ssize_t fd, Piece* piece) noexcept:
        """The same without records."""
        cdef Py_ssize_t size = min(piece.wire - piece.sent, <Py_ssize_t>RAW_CONTENT), sent
        cdef int file = piece.file
        cdef int64_t offset = piece.offset + piece.sent
        with nogil:
            sent = ff_send_file(fd, NULL, 0, file, offset, size)
        return sent if sent else -EIO

    cdef int advance(self, Py_ssize_t sent) except -1:
        """Drop what was sent."""
        cdef Piece* piece
        cdef Py_ssize_t part
        while sent:
            piece = &self.pieces[self.begin]
            part = min(sent, piece.wire - piece.sent)
            piece.sent += part
            self.size -= part
            sent -= part
            if piece.sent == piece.wire:
                self.drop_first()
        return 0

    # ---- for Python --------------------------------------------------------------------------

    def put(self, bytes records not None):
        """add()"""
        self.add(<const uint8_t*>PyBytes_AS_STRING(records), PyBytes_GET_SIZE(records))

    def put_stream(
        self, int type, int request_id, bytes head, object data, int max_content=65528,
        int min_padding=0,
    ):
        """add_stream()"""
        self.add_stream(type, request_id, head, data, max_content, min_padding)

    def put_raw(self, bytes head, object data):
        """add_raw()"""
        self.add_raw(head, data)

    def send_to(self, Py_ssize_t fd):
        """send()"""
        self.send(fd)
