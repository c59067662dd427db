"""A master behind nginx, on FastCGI connections that are kept and not: what its clients see."""

import itertools
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from http_client import Client, Site
from master_process import Served
from processes import DEADLINE, require, wait_until
from test_master_upgrade import RUN
from webservers import start

if TYPE_CHECKING:
    from typing_extensions import Self

pytestmark = pytest.mark.webserver

WORKERS, CLIENTS = 3, 8
RELOADS, UPGRADES, KILLS = 20, 5, 20


class Visitors:
    """Clients that make one request after the other until the block ends; every status is
    counted, and what is no answer as 0."""

    def __init__(self, sites: "list[Site]") -> None:
        self.statuses: Counter[int] = Counter()
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=self._visit, args=(site,), daemon=True)
            for site in sites
            for _ in range(CLIENTS)
        ]

    def _visit(self, site: Site) -> None:
        while not self._done.is_set():
            with Client(site) as client:
                try:
                    while not self._done.is_set():
                        self.statuses[client.fetch("/").status] += 1
                except OSError:
                    self.statuses[0] += 1

    def wait_for_more(self, count: int = 50) -> None:
        goal = self.statuses[200] + count
        wait_until(lambda: self.statuses[200] >= goal, f"more answers than {self.statuses}")

    def __enter__(self) -> "Self":
        for thread in self._threads:
            thread.start()
        self.wait_for_more()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(2 * DEADLINE)


@pytest.fixture
def behind_nginx(folder: Path) -> Iterator[tuple[Served, Visitors]]:
    require("nginx")
    (folder / "version.txt").write_text("one")
    more = "from fastfcgi.sockets import SocketOptions\n"
    options = f"workers={WORKERS}, pidfile='app.pid', socket_options=SocketOptions(mode=0o666)"
    with Served(folder, options, more, run=RUN, begin=WORKERS) as served:
        with (
            start("nginx", folder, served.address) as kept,
            start("nginx", folder, served.address, keep_alive=False) as unkept,
            Visitors([kept.site, unkept.site]) as visitors,
        ):
            yield served, visitors
        for path in folder.glob("nginx-*"):
            shutil.rmtree(path)
        (folder / "version.txt").unlink()
        served.send(signal.SIGTERM)
        assert served.wait() == 0


def test_reloads_and_upgrades_lose_nothing(behind_nginx: "tuple[Served, Visitors]") -> None:
    served, visitors = behind_nginx
    numbers = [signal.SIGHUP] * (RELOADS // UPGRADES) + [signal.SIGUSR2]
    for done, number in enumerate(itertools.chain.from_iterable([numbers] * UPGRADES), start=1):
        old = served.workers()
        served.send(number)
        wait_until(lambda n=done: served.log().count("reloaded, generation") == n, "the reload")
        served.wait_for_workers(WORKERS, without=old)
        visitors.wait_for_more()
    assert set(visitors.statuses) == {200}, (visitors.statuses, served.log())


def test_killed_workers_lose_what_they_were_serving(
    behind_nginx: "tuple[Served, Visitors]",
) -> None:
    served, visitors = behind_nginx
    for done in range(1, KILLS + 1):
        time.sleep(1.05)  # who dies soon is replaced later
        victim = served.workers()[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda n=done: served.log().count("died: killed by KILL") == n, "its end")
        served.wait_for_workers(WORKERS, without=[victim])
        visitors.wait_for_more()
    lost = sum(visitors.statuses.values()) - visitors.statuses[200]
    assert set(visitors.statuses) <= {200, 502}, (visitors.statuses, served.log())
    assert lost <= 2 * CLIENTS * KILLS
