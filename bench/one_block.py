"""64 MiB as one bytes object. In a module of its own, so that only the processes that serve it
are the larger for it."""

from collections.abc import Iterable
from typing import Any

from bench.apps import BLOCK, StartResponse, answer

LARGE = BLOCK * 1024


def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    return answer(start_response, LARGE)
