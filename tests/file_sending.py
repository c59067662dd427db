"""What the tests of files that are sent need: a file, and a request that notes how it is sent."""

import random

import pytest
from helpers import TEXT, FakeRequest, answering, handled

from fastfcgi import file_wrapper
from fastfcgi.wsgi import FileWrapper

MIB = 1024 * 1024
WINDOW = file_wrapper._WINDOW
MAPPED = file_wrapper._MIN_MAPPED
DATA = random.Random(3333).randbytes(3 * MIB + 12345)

needs_maps = pytest.mark.skipif(not file_wrapper._MAP_OPTIONS, reason="files are only read here")


class SendingRequest(FakeRequest):
    """Notes the sizes of the windows; calls during(writes so far) before each write."""

    def __init__(self, *args, during=None, **options):
        super().__init__(*args, **options)
        self.windows = []
        self.during = during

    def write(self, head, data, last=False):
        if type(data) is memoryview:
            assert data.readonly and data.contiguous and data.format == "B"
            self.windows.append(len(data))
        if self.during:
            self.during(len(self.writes))
        super().write(head, data, last)


def sent(filelike, request=None, headers=TEXT, block_size=64 * 1024):
    """The request after the file was sent to it."""
    request = request or SendingRequest()
    return handled(answering(FileWrapper(filelike, block_size), headers=headers), request)


def length_of(size):
    return [("Content-Length", str(size))]
