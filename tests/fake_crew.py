"""A crew whose processes are only numbers, for the tests of what the master decides."""

import itertools

from fastfcgi import overseer
from fastfcgi.board import SERVING
from fastfcgi.crew import KILL, Crew
from fastfcgi.master_settings import MasterSettings
from fastfcgi.scoreboard import LEAST_PLACES, Scoreboard

EXIT_0 = 0
EXIT_3 = 3 << 8
KILLED = int(KILL)


class Fake:
    """A crew whose clock, processes and signals are ours.

    Attributes:
        sent: (pid, signal) that were sent.
        started: pids in their order.
    """

    def __init__(self, target: int = 2, **settings) -> None:
        settings = MasterSettings(**{"workers": target, "graceful_timeout": 30, **settings})
        self.now = 1000.0
        self.sent: list[tuple[int, int]] = []
        self.started: list[int] = []
        self.numbers = itertools.count(101)
        self.refuse: OSError | None = None
        board = Scoreboard(LEAST_PLACES, settings.threads)
        self.crew = Crew(settings, board, self.fork, lambda *sent: self.sent.append(sent))
        self.crew.target = settings.first

    def fork(self, member) -> int:
        if self.refuse is not None:
            raise self.refuse
        self.started.append(next(self.numbers))
        return self.started[-1]

    def step(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.crew.arrange(self.now)

    def show(self, state: int, *pids: int) -> None:
        for pid in pids:
            self.crew.members[pid].board.state = state
        self.step()

    def serve(self, *pids: int) -> None:
        self.show(SERVING, *pids)

    def dies(self, pid: int, status: int = KILLED) -> None:
        self.crew.ended(pid, status, self.now)
        self.step()

    def look(self, seconds: float = 1.0, waiting: bool = False) -> None:
        """The look once a second."""
        self.now += seconds
        overseer.inspect(self.crew, self.now)
        self.crew.target = overseer.wanted(self.crew, self.now, waiting)
        self.step()

    @property
    def pids(self) -> list[int]:
        return sorted(self.crew.members)

    def told(self) -> list[tuple[int, int]]:
        """What was sent since the last call."""
        found, self.sent = self.sent, []
        return found


def running(target: int = 2, **settings) -> Fake:
    """With workers that serve, for some time by now."""
    fake = Fake(target, **settings)
    fake.step()
    fake.serve(*fake.pids)
    fake.step(10)
    return fake
