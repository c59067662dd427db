"""Benchmarks. They print, and compare on one machine in one run; they never fail for being slow.

The reference codec, the client's bytes and the captured inputs are those of the tests.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.append(str(TESTS))
