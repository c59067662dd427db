from typing import Final, NamedTuple, final

from typing_extensions import Buffer, Self

STARTING: Final = 0
SERVING: Final = 1
RETIRING: Final = 2
STOPPING: Final = 3
FAILED: Final = 4
DEAD: Final = 5

class Running(NamedTuple):
    thread: int
    since: float
    text: str

@final
class Board:
    pid: int
    generation: int
    state: int
    started: float
    def __new__(cls, threads: int, memory: Buffer | None = None) -> Self: ...
    @staticmethod
    def size(threads: int) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def requests(self) -> int: ...
    @property
    def busy(self) -> int: ...
    @property
    def queued(self) -> int: ...
    @property
    def connections(self) -> int: ...
    @property
    def aborted(self) -> int: ...
    @property
    def errors(self) -> int: ...
    @property
    def slow(self) -> int: ...
    def clear(self) -> None: ...
    def running(self) -> list[Running]: ...
    def watched(self) -> list[tuple[int, float, str, int]]: ...
    def enter(self, index: int, thread: int, since: float, text: str, number: int = 0) -> None: ...
    def leave(self, index: int) -> None: ...
    def count(
        self,
        queued: int = 0,
        connections: int = 0,
        aborted: int = 0,
        errors: int = 0,
        slow: int = 0,
    ) -> None: ...
