import logging
from collections.abc import Callable
from typing import Final

from fastfcgi.board import Board
from fastfcgi.desk import Desk
from fastfcgi.poller import Poller
from fastfcgi.scores import Scores

logger: Final[logging.Logger]
READ: Final[int]
WRITE: Final[int]
TICK: float
STOPPING_TICK: float

class Engine(Desk):
    on_room: Callable[[], object] | None
    slow_timeout: float
    def __init__(
        self,
        threads: int,
        queue_size: int,
        parallel: bool | None = None,
        poller: Poller | None = None,
        board: Board | None = None,
    ) -> None: ...
    @property
    def parallel(self) -> bool: ...
    @property
    def scores(self) -> Scores: ...
    def close(self) -> None: ...
    def disown(self) -> None: ...
    def finish(self) -> None: ...
