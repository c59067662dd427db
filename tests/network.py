"""Hosts with a network of their own: network namespaces, joined by a bridge at the first of them.

Nothing of the machine's own network is touched. A namespace lives as long as the process that
holds it, and its links go with it, so a run of the tests that is killed leaves nothing behind.
"""

import contextlib
import ctypes
import functools
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from processes import DEADLINE, Process, require, wait_until

CLONE_NEWNET = 0x40000000


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, (command, done.stdout, done.stderr)


class Host:
    """A network namespace.

    Args:
        name: what to call it.
        folder: where the log of its holder is put.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        command = [require("unshare"), "--net", require("sleep"), "infinity"]
        self.holder = Process(command, folder, f"host-{name}")
        ours = os.readlink("/proc/self/ns/net")
        self.namespace = f"/proc/{self.holder.pid}/ns/net"
        wait_until(lambda: os.readlink(self.namespace) != ours, f"the namespace of {name}")
        self.ip("link", "set", "lo", "up")

    def command(self, *command: str) -> list[str]:
        """The command, to be run on this host."""
        return [require("nsenter"), f"--net={self.namespace}", *command]

    def ip(self, *words: str) -> None:
        """Run `ip` there."""
        _run(*self.command(require("ip"), *words))

    def process(self, command: Sequence[str], folder: Path, name: str, **options: Any) -> Process:
        """Start a process there; the arguments are Process's."""
        return Process(self.command(*command), folder, name, **options)

    def enter(self) -> None:
        """Move the calling thread there, and no other; sockets that it makes are of this host."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open(self.namespace) as namespace:
            done = libc.setns(namespace.fileno(), CLONE_NEWNET)
        assert done == 0, os.strerror(ctypes.get_errno())


@functools.cache
def _why_not() -> str:
    """What keeps us from making networks; empty where nothing does."""
    script = "ip link add name b type bridge && ip link add name u type veth peer name v"
    done = subprocess.run(
        [require("unshare"), "--net", "sh", "-c", script], capture_output=True, text=True
    )
    return done.stderr.strip() if done.returncode else ""


@contextlib.contextmanager
def network(folder: Path, addresses: Mapping[str, str]) -> Iterator[dict[str, Host]]:
    """Hosts in one network, the first of them in its middle; gone after the block.

    Skips the test where networks cannot be made: that takes root's rights (CAP_SYS_ADMIN,
    CAP_NET_ADMIN), which a container may not have.

    Args:
        folder: for logs.
        addresses: name -> IPv4 address, all of one /24.

    Yields:
        name -> host; the link of each but the first is called `eth0`.
    """
    require("ip")
    if _why_not():
        pytest.skip(f"no network namespaces here: {_why_not()}")
    with contextlib.ExitStack() as stack:
        hosts = {}
        for name in addresses:
            hosts[name] = Host(name, folder)
            stack.enter_context(hosts[name].holder)
        middle, *others = hosts.values()
        middle.ip("link", "add", "name", "bridge", "type", "bridge")
        middle.ip("address", "add", f"{addresses[middle.name]}/24", "dev", "bridge")
        middle.ip("link", "set", "bridge", "up")
        for host in others:
            peer = ["type", "veth", "peer", "name", "eth0", "netns", str(host.holder.pid)]
            middle.ip("link", "add", "name", host.name, *peer)
            middle.ip("link", "set", "dev", host.name, "master", "bridge", "up")
            host.ip("address", "add", f"{addresses[host.name]}/24", "dev", "eth0")
            host.ip("link", "set", "eth0", "up")
        yield hosts
