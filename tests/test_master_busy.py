"""All threads are busy: who is asked how the server is still answers."""

import contextlib
import select

import wire
from master_process import Served
from processes import wait_until

WORKERS, THREADS = 1, 4
OPTIONS = (
    f"workers={WORKERS}, server_options={{'threads': {THREADS}, 'ping_path': '/ping',"
    " 'status_path': '/status'}"
)


def test_ping_and_status_are_answered_while_all_threads_sleep(folder) -> None:
    with Served(folder, OPTIONS, begin=WORKERS) as served, contextlib.ExitStack() as stack:
        sleepers = [
            stack.enter_context(wire.Peer(served.address)) for _ in range(2 * WORKERS * THREADS)
        ]
        for peer in sleepers:
            peer.send(wire.request(1, wire.cgi_params("GET", "/sleep/3")))
        all_busy = f"{WORKERS * THREADS} running"
        wait_until(lambda: all_busy in served.running(), "all threads to be busy")
        for _ in range(20):
            assert served.get("/ping").body == b"pong\n"
            assert all_busy in served.running()
        # Not one of them was waited for.
        assert not select.select([peer.sock for peer in sleepers], [], [], 0)[0]
        for peer in sleepers:
            assert peer.receive_end().status == 200
        assert served.end() == 0
