# cython: language_level=3, freethreading_compatible=True
"""Makes requests to a FastCGI server as fast as it answers, and checks every answer.

Closed loop: a connection makes its next request when it has its answer. One thread, without the
GIL. No policy lives here: what is asked comes in as bytes.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint64_t
from libc.string cimport memset

from fastfcgi cimport _load_lane
from fastfcgi._load_loop cimport (
    AF_UNIX,
    Run,
    load_clock,
    load_inet_address,
    load_unix_address,
    prepare,
    release,
    start_all,
    turn,
)

import os
import socket

from fastfcgi._load_answer import REASONS
from fastfcgi._load_lane import Lane, LaneResult
from fastfcgi.exceptions import ConfigurationError
from fastfcgi.sockets import parse_address

__all__ = ["REASONS", "Lane", "LaneResult", "run"]

# For each address of a host that has several, to find one that answers.
PROBE_SECONDS = 5.0


cdef resolve(Run* run, address):
    """Fill in where to connect to.

    Raises:
        ConfigurationError: It is not in the notation, or nothing to connect to.
        OSError: The name of the host is not known.
    """
    parsed = parse_address(address)
    kind, target = parsed[0], parsed[-1]
    if kind == "unix":
        path = os.fsencode(target)
        run.family = AF_UNIX
        if load_unix_address(&run.address, PyBytes_AS_STRING(path), len(path)) < 0:
            raise ConfigurationError(f"the path of {address!r} is too long for a socket")
    elif kind == "tcp":
        family, where = working(target)
        run.family = family
        load_inet_address(
            &run.address,
            family == socket.AF_INET6,
            PyBytes_AS_STRING(socket.inet_pton(family, where[0].partition("%")[0])),
            where[1],
            where[3] if family == socket.AF_INET6 else 0,
        )
    else:
        raise ConfigurationError(f"{address} is not an address to connect to")


def working(target):
    """(family, address) of the first of a host's addresses that can be connected to; of the
    first at all, if none can."""
    found = socket.getaddrinfo(target[0] or None, target[1], type=socket.SOCK_STREAM)
    found = [(entry[0], entry[4]) for entry in found]
    for family, where in found if len(found) > 1 else ():
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(PROBE_SECONDS)
            if sock.connect_ex(where) == 0:
                return family, where
    return found[0]


def run(address, lanes, *, seconds=None, requests=None, double timeout=10.0, progress=None):
    """Make requests until the time is up, or until their number is reached.

    Args:
        address: As in WSGIServer's bind: "unix:/path", "/path", "unix:@abstract", "host:port",
            "[::1]:port" or (host, port).
        lanes: Lane objects; all of them run at once.
        seconds: No request is started later than that; those under way are waited for.
        requests: The most requests of each lane. At least one of the two has to be given.
        timeout: Seconds that one request may take, from its start to the end of its answer.
            Without `seconds`, a lane makes no more requests when one fails and none has been
            answered rightly for twice that time.
        progress: Called about ten times a second with the list of results so far; when it
            returns something true, the run ends at once.

    Returns:
        A LaneResult for each lane. What goes wrong with requests stands there, and is not raised.

    Raises:
        ConfigurationError: The address is not in the notation, or nothing to connect to.
        OSError: The name of the host is not known.
        ValueError: A number makes no sense.
    """
    cdef Run state
    cdef uint64_t began
    cdef bint done = False
    if seconds is None and requests is None:
        raise ValueError("a run needs seconds or requests")
    if requests is not None and requests < 1:
        raise ValueError("requests is at least 1")
    memset(&state, 0, sizeof(state))
    state.timeout = _load_lane.nanoseconds("timeout", timeout)
    if state.timeout == 0:
        raise ValueError("a request takes some time: timeout is more than 0")
    resolve(&state, address)
    lanes = list(lanes)
    results = [LaneResult() for _ in lanes]
    for result, lane in zip(results, lanes):
        (<_load_lane.LaneResult>result).begin(
            lane, -1 if requests is None else requests, load_clock()
        )
    try:
        prepare(&state, results)
        began = state.now = load_clock()
        state.limited = seconds is not None
        state.end = began + _load_lane.nanoseconds("seconds", 1e9 if seconds is None else seconds)
        with nogil:
            start_all(&state)
        while not done:
            with nogil:
                done = turn(&state)
            PyErr_CheckSignals()
            if progress is not None and progress(results):
                break
        for result in results:
            (<_load_lane.LaneResult>result).end(began, state.now)
        return results
    finally:
        release(&state)
