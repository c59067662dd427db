"""Whether this Python has a GIL."""

import sys

import pytest

HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()

# For a test of what somebody does who holds it.
needs_gil = pytest.mark.skipif(not HAS_GIL, reason="there is no GIL")
