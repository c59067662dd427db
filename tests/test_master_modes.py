"""dynamic and ondemand: the number of workers follows the load, with real processes."""

import contextlib
import signal
import time

import wire
from master_process import Load, Served
from processes import wait_until

DYNAMIC = (
    "mode='dynamic', min_spare=1, max_spare=2, max_workers=4, start_workers=1, idle_timeout=0.5,"
    " server_options={'threads': 1, 'status_path': '/status'}"
)
ONDEMAND = (
    "mode='ondemand', max_workers=3, idle_timeout=0.5,"
    " server_options={'threads': 1, 'status_path': '/status'}"
)

# Looks are told, and far between; an application that takes its time to load.
LOOKS = """
from fastfcgi import overseer
overseer.LOOK_INTERVAL = 4.0
inspect = overseer.inspect

def told(*given):
    logging.info("a look")
    inspect(*given)

overseer.inspect = told

def load():
    time.sleep(0.3)
    return app
"""


def test_dynamic_grows_and_shrinks(folder) -> None:
    with Served(folder, DYNAMIC, begin=1) as served:
        with contextlib.ExitStack() as stack:
            for busy, workers in ((1, 2), (2, 3), (3, 4), (4, 4)):
                stack.enter_context(served.holding(f"hold{busy}"))
                # One more than are busy, up to the most.
                served.wait_for_workers(workers)
        served.wait_for_workers(2)  # max_spare without a request
        assert "died" not in served.log()
        with served.holding():
            assert len(served.workers()) == 2
        assert served.end() == 0


def test_dynamic_grows_faster_the_longer_somebody_waits(folder) -> None:
    options = DYNAMIC.replace("max_workers=4", "max_workers=16").replace("0.5", "60")
    with Served(folder, options, LOOKS, begin=1) as served, contextlib.ExitStack() as stack:
        holds = [folder / f"hold{number}" for number in range(16)]
        before = time.monotonic()
        peers = []
        for hold in holds:
            hold.touch()
            peers.append(stack.enter_context(wire.Peer(served.address)))
            peers[-1].send(wire.request(1, wire.cgi_params("GET", f"/hold/{hold}")))
        held = [folder / f"{hold.name}.held" for hold in holds]
        wait_until(lambda: all(one.exists() for one in held), "all requests to run")
        assert time.monotonic() - before < 14  # five steps with a look each: 16 at least
        # One for each worker that begins to serve, and all the others while somebody waits.
        assert served.log().count("a look\n") > 25
        for path in (*held, *holds):
            path.unlink()
        assert {peer.receive_end().status for peer in peers} == {200}
        assert served.end() == 0


def test_dynamic_loses_nothing_meanwhile(folder) -> None:
    with Served(folder, DYNAMIC, begin=1) as served:
        # (What is kept has to wait for the request that runs in its worker.)
        with Load(served.address, 0, 4) as load:
            for _ in range(2):
                with served.holding("a"), served.holding("b"), served.holding("c"):
                    served.wait_for_workers(4)
                    load.wait_for_more()
                load.wait_for_more()
        assert not load.errors, (load.errors, load.examples)
        served.wait_for_workers(2)
        assert served.end() == 0


def test_ondemand_has_workers_only_while_somebody_asks(folder) -> None:
    with Served(folder, ONDEMAND) as served:
        served.wait_for_log("master is process")
        assert served.workers() == []
        assert served.get().status == 200
        assert len(served.workers()) == 1
        with served.holding("a"), served.holding("b"):
            served.wait_for_workers(2)
            with served.holding("c"):
                served.wait_for_workers(3)
                with wire.Peer(served.address) as fourth:
                    fourth.send(wire.request(1, wire.cgi_params()))
                    served.wait_for_workers(3)  # the most
        wait_until(lambda: served.workers() == [], "all to end")
        # And again.
        assert served.get().status == 200
        wait_until(lambda: served.workers() == [], "all to end")
        assert "died" not in served.log()
        assert served.end() == 0


def test_ondemand_keeps_a_worker_for_a_kept_connection(folder) -> None:
    with Served(folder, ONDEMAND) as served:
        served.wait_for(served.address)
        with wire.Peer(served.address) as peer:
            first = peer.request(keep_conn=True).body
            with served.holding("a"), served.holding("b"):
                served.wait_for_workers(2)
            served.wait_for_workers(1)
            second = peer.request(keep_conn=True)
            assert second.status == 200
            assert {int(second.body)} == set(served.workers())
            assert first
        wait_until(lambda: served.workers() == [], "all to end")
        assert served.end() == 0


def test_ondemand_under_load_loses_nothing(folder) -> None:
    with Served(folder, ONDEMAND) as served:
        served.wait_for(served.address)
        for _ in range(3):
            with Load(served.address, 4, 4) as load:
                served.send(signal.SIGHUP)
                load.wait_for_more()
            assert not load.errors, (load.errors, load.examples)
            wait_until(lambda: served.workers() == [], "all to end")
        assert served.end() == 0


def test_ondemand_and_an_application_that_cannot_be_loaded(folder) -> None:
    more = "def load():\n    raise RuntimeError('it is broken')\n"
    with Served(folder, ONDEMAND, more) as served:
        served.wait_for(served.address)
        assert served.get().status == 500
        served.wait_for_log("again in 1 s")
        wait_until(lambda: served.workers() == [], "it to end")
        assert served.get().status == 500
        served.wait_for_log("again in 2 s")
        assert served.end() == 0


def test_static_does_nothing_while_nothing_happens(folder) -> None:
    """The master sleeps: nothing wakes it up."""
    with Served(folder, "workers=2", begin=2) as served:
        before = None

        def quiet() -> bool:
            nonlocal before
            before, last = switches(served.pid), before
            return before == last

        wait_until(quiet, "the master to sleep")
        load = Load(served.address)
        with load:
            load.wait_for_more()
        assert switches(served.pid) == before
        assert served.end() == 0


def switches(pid: int) -> list[str]:
    """How often it has waited and been interrupted."""
    with open(f"/proc/{pid}/status") as file:
        return [line for line in file if "voluntary_ctxt_switches" in line]
