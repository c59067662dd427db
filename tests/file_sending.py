"""What the tests of files that are sent need: a file, and a request that notes how it is sent."""

import random

import pytest
from fake_request import FakeRequest, answering, handled
from helpers import TEXT

from fastfcgi import file_wrapper
from fastfcgi.wsgi import FileWrapper

MIB = 1024 * 1024
SENT = file_wrapper._MIN_SENT
DATA = random.Random(3333).randbytes(3 * MIB + 12345)

needs_parts = pytest.mark.skipif(not file_wrapper._CAN_SEND, reason="files are only read here")


class SendingRequest(FakeRequest):
    """Notes the sizes of the parts; calls during(writes so far) before each write."""

    def __init__(self, *args, during=None, **options):
        super().__init__(*args, **options)
        self.parts = []
        self.during = during

    def write(self, head, data, last=False):
        if isinstance(data, file_wrapper.FilePart):
            self.parts.append(len(data))
        if self.during:
            self.during(len(self.writes))
        super().write(head, data, last)


def sent(filelike, request=None, headers=TEXT, block_size=64 * 1024):
    """The request after the file was sent to it."""
    request = request or SendingRequest()
    return handled(answering(FileWrapper(filelike, block_size), headers=headers), request)


def length_of(size):
    return [("Content-Length", str(size))]
