from collections.abc import Callable, Iterable
from typing import Final

from fastfcgi._load_answer import REASONS
from fastfcgi._load_lane import Lane, LaneResult

__all__ = ["REASONS", "Lane", "LaneResult", "run"]

PROBE_SECONDS: Final[float]

def working(target: tuple[str, int]) -> tuple[int, tuple[str | int, ...]]: ...
def run(
    address: str | tuple[str, int],
    lanes: Iterable[Lane],
    *,
    seconds: float | None = None,
    requests: int | None = None,
    timeout: float = 10.0,
    progress: Callable[[list[LaneResult]], object] | None = None,
) -> list[LaneResult]: ...
