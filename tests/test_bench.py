"""bench/servers.py: it measures servers, ends them, and its report says what was measured."""

import contextlib
import dataclasses
import json
import re
import signal
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

if sys.platform != "linux":
    pytest.skip("needs Linux, as all tests with real processes", allow_module_level=True)

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "bench" / "servers.py").exists():
    pytest.skip("the benchmarks are not here", allow_module_level=True)
sys.path.append(str(ROOT))

import wire  # noqa: E402
from processes import (  # noqa: E402
    TOKEN,
    TOKEN_NAME,
    alive,
    environment,
    left_running,
    require,
    wait_until,
)

from bench import kinds, meter, picture, report, servers  # noqa: E402
from bench.floor import Answer, answer_of  # noqa: E402
from bench.load import Ask, Failed, starved, stdout_of  # noqa: E402
from bench.report import Result  # noqa: E402
from bench.rounds import HELLOS, Contestant, Scenario, asking, lane_of  # noqa: E402
from bench.running import Server, running  # noqa: E402
from bench.scenarios import all_scenarios  # noqa: E402

TIMEOUT = 120


@pytest.fixture(autouse=True)
def _marked_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is started here is found if it is left behind."""
    monkeypatch.setenv(TOKEN_NAME, TOKEN)


# ---- the suite as a program -------------------------------------------------------------------


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the files that a quick run of two scenarios left."""
    require("cc")
    folder = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-m", "bench.servers", "--quick"]
    command += ["--scenario", "kept-1", "--scenario", "post-8"]
    command += ["--server", "fastfcgi", "--server", "floor"]
    for option in ("markdown", "json", "svg"):
        command += [f"--{option}", str(folder / option)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stderr
    assert "kept-1 (req/s): fastfcgi " in done.stderr
    yield folder


def test_json_has_what_was_measured(reported: Path) -> None:
    numbers = json.loads((reported / "json").read_text())
    assert numbers["about"]["rounds"] == 2
    assert list(numbers["scenarios"]) == ["kept-1", "post-8"]
    for scenario in numbers["scenarios"].values():
        assert list(scenario["servers"]) == ["fastfcgi", "floor"]
        for server in scenario["servers"].values():
            assert server["reason"] is None
            assert len(server["rounds"]) == 2
            for found in server["rounds"]:
                assert found["rate"] == pytest.approx(found["requests"] / found["seconds"])
                assert 0.08 < found["seconds"] < 5
                assert 0 < found["p50"] <= found["p99"] < 5000
                # No more CPU than there are processors.
                assert 0 < found["cpu"] * found["rate"] < 1e6 * 256
                assert found["peak"] > 0.5


def test_floor_needs_less_memory(reported: Path) -> None:
    """A C program that knows nothing, against a server with an application."""
    for scenario in json.loads((reported / "json").read_text())["scenarios"].values():
        found = {label: server["medians"] for label, server in scenario["servers"].items()}
        assert found["floor"]["peak"] < found["fastfcgi"]["peak"]


def test_markdown_has_the_medians_and_their_ratios(reported: Path) -> None:
    scenario = json.loads((reported / "json").read_text())["scenarios"]["kept-1"]
    ours, floors = (scenario["servers"][label] for label in ("fastfcgi", "floor"))
    lines = (reported / "markdown").read_text().splitlines()
    assert "| scenario |  | fastfcgi | floor | fastfcgi / floor |" in lines
    (rate,) = (line for line in lines if line.startswith("| hello, 1 client, kept | req/s |"))
    cells = [cell.strip() for cell in rate.strip("|").split("|")]
    assert cells[2:4] == [f"{server['medians']['rate']:,.0f}" for server in (ours, floors)]
    rounds = zip(ours["rounds"], floors["rounds"], strict=True)
    expected = statistics.median(our["rate"] / floor["rate"] for our, floor in rounds)
    assert float(cells[4]) == pytest.approx(expected, abs=0.006)


def test_svg_has_a_bar_for_each_server(reported: Path) -> None:
    root = ElementTree.parse(reported / "svg").getroot()
    name = "{http://www.w3.org/2000/svg}"
    bars = root.findall(f"{name}rect")
    assert len(bars) == 4
    height = float(root.attrib["height"])
    assert all(0 < float(bar.attrib["y"]) < height for bar in bars)
    texts = [element.text or "" for element in root.findall(f"{name}text")]
    assert texts.count("fastfcgi") == texts.count("floor") == 2
    assert "hello, 1 client, kept: req/s" in texts


def test_term_ends_the_servers_too(tmp_path: Path) -> None:
    before = set(left_running())
    command = [sys.executable, "-m", "bench.servers", "--scenario", "kept-1", "--seconds", "30"]
    with subprocess.Popen(
        [*command, "--server", "fastfcgi"],
        cwd=ROOT,
        env=environment({"TMPDIR": str(tmp_path)}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_until(lambda: any("bench.serve " in line for line in left_running()), "a server")
            process.terminate()
            assert process.wait(TIMEOUT) == 128 + signal.SIGTERM
        finally:
            process.kill()
    assert set(left_running()) <= before
    assert list(tmp_path.iterdir()) == []


def test_names_of_scenarios(capsys: pytest.CaptureFixture[str]) -> None:
    servers.main(["--list"])
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == [scenario.name for scenario in all_scenarios()]
    assert len(set(listed)) == len(listed)
    with pytest.raises(SystemExit):
        servers.main(["--scenario", "nonsense"])
    assert "no scenario nonsense" in capsys.readouterr().err


def test_scenarios_can_be_shown() -> None:
    """What they name is known, and another scenario to compare with comes before."""
    seen: set[str] = set()
    for scenario in all_scenarios(sys.executable):
        assert set(scenario.servers) <= set(report.LABELS)
        assert set(scenario.shown) <= set(report.MEASURES)
        assert scenario.against is None or scenario.against in seen
        assert ("floor" in scenario.servers) == (scenario.answer is not None)
        seen.add(scenario.name)
    assert set(report.LABELS) <= set(picture.COLOURS)


def test_what_is_not_installed_is_left_out_with_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kinds, "installed", lambda kind: kind == "fastfcgi")
    chosen = [found for found in all_scenarios() if found.name == "kept-1"]
    assert servers.present(report.LABELS, chosen) == ["fastfcgi"]
    said = capsys.readouterr().err
    assert "flup is not installed: left out" in said
    assert "bjoern" not in said  # it has no part in this scenario
    assert not servers.possible(dataclasses.replace(chosen[0], needs=("sh", "no-such-tool")))
    assert capsys.readouterr().err == "kept-1 needs no-such-tool: left out\n"


# ---- the floor --------------------------------------------------------------------------------


@pytest.fixture
def floor() -> Iterator[Callable[[Answer], Server]]:
    """Starts a floor with an answer."""
    require("cc")
    with contextlib.ExitStack() as stack:
        yield lambda answer: stack.enter_context(running("floor", answer=answer))


def test_floor_answers(floor: Callable[[Answer], Server]) -> None:
    server = floor(answer_of(b"abc"))
    with wire.Peer(server.path) as peer:
        for _ in range(2):  # the connection is kept
            response = peer.request(keep_conn=True)
            assert (response.status, response.body, response.closed) == (200, b"abc", False)
            assert response.header("Content-Length") == "3"
            assert (response.app_status, response.protocol_status) == (0, 0)
        # Without KEEP_CONN it is closed.
        assert peer.request(keep_conn=False, timeout=10).body == b"abc"
        assert peer.closed


def test_floor_waits_for_the_end_of_stdin(floor: Callable[[Answer], Server]) -> None:
    """Wherever the request is cut, and whatever bytes its body has."""
    server = floor(answer_of(b"abc"))
    body = wire.begin_request(1) + wire.record(wire.STDIN, 1)  # looks like records, and is none
    whole = wire.request(1, wire.cgi_params("POST"), body * 3, keep_conn=True)
    with wire.Peer(server.path) as peer:
        for octet in range(len(whole) - 1):
            peer.send(whole[octet : octet + 1])
        with pytest.raises(TimeoutError):
            peer.receive_end(timeout=0.2)
        peer.send(whole[-1:])
        assert peer.receive_end().body == b"abc"
        assert not peer.closed


def test_floor_repeats_a_block(floor: Callable[[Answer], Server]) -> None:
    block = bytes(range(256)) * 300  # two records
    server = floor(answer_of(block, 50))
    with wire.Peer(server.path) as peer:
        response = peer.request(keep_conn=True)
    assert response.ended
    assert response.body == block * 50
    assert response.header("Content-Length") == str(len(block) * 50)


def test_answers_are_checked(floor: Callable[[Answer], Server]) -> None:
    """A fast server of wrong answers gets no number."""
    server = floor(answer_of(b"wrong"))
    with pytest.raises(Failed, match="/hello: not what the application answers"):
        stdout_of(server.path, HELLOS)
    right = stdout_of(server.path, Ask("/hello", b"wrong"))
    lane = lane_of(server, Ask("/hello", b"wrong"), 1)
    assert lane.expected == right

    scenario = Scenario(
        "wrong",
        "wrong",
        asking(HELLOS, 1),
        {"floor": Contestant("floor")},
        answer=lambda: answer_of(b"wrong"),
    )
    result = servers.run([scenario], ["floor"], 2, 0.05)["wrong"]["floor"]
    assert result.rounds == []
    assert result.reason is not None and "not what the application answers" in result.reason
    text = report.markdown([scenario], {"wrong": {"floor": result}}, report.about(2, 0.05, []))
    assert "| wrong | req/s | - |" in text
    assert f"- wrong, floor: {result.reason}" in text


# Listens, has a child in its group that does not end with TERM, and does not end either.
STUBBORN = """
import os, signal, socket, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with socket.socket(socket.AF_UNIX) as sock:
    sock.bind(sys.argv[1])
    os.fork()
    sock.listen()
    time.sleep(60)
"""


def test_stubborn_servers_are_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def command_of(kind: str, path: str, *rest: object) -> list[str]:
        return [sys.executable, "-c", STUBBORN, path]

    monkeypatch.setattr("bench.running.command_of", command_of)
    server = Server("fastfcgi", str(tmp_path), "", {})
    wait_until(lambda: len(server.pids()) == 2, "both processes")
    began = time.monotonic()
    server.stop(0.1)
    assert time.monotonic() - began < 30
    wait_until(lambda: not any(map(alive, meter.group_of(server.process.pid))), "their end")


@pytest.mark.parametrize(
    ("longest", "middle", "is_starved"),
    [(0.5, 0.001, True), (0.3, 0.001, False), (0.5, 0.05, False)],
)
def test_starved_is_who_waits_for_the_whole_run(
    longest: float, middle: float, is_starved: bool
) -> None:
    """While others are served many times over."""
    result = SimpleNamespace(max=longest, seconds=0.5, percentile=lambda q: middle)
    assert starved(result) is is_starved


def test_connections_that_are_not_served_give_no_number() -> None:
    """Once is an accident; most rounds are no accident."""

    @contextlib.contextmanager
    def enter(server: Server) -> Iterator[Callable[[float], dict[str, float]]]:
        starved = iter([1.0, 0.0, 0.0, 1.0, 1.0])
        yield lambda seconds: {"rate": 1000.0, "starved": next(starved)}

    scenario = scenario_of("one", "fastfcgi")
    scenario = dataclasses.replace(scenario, enter=enter)
    assert servers.run([scenario], ["fastfcgi"], 3, 0)["one"]["fastfcgi"].reason is None
    result = servers.run([scenario], ["fastfcgi"], 5, 0)["one"]["fastfcgi"]
    assert result.reason is not None
    assert result.median("rate") is None and len(result.rounds) == 5


# ---- the report -------------------------------------------------------------------------------


def results_of(**rates: float | None) -> Mapping[str, Result]:
    """A result for each server: three rounds around that rate, or a reason."""
    return {
        label: Result(reason="broken")
        if rate is None
        else Result([{"rate": rate * part, "cpu": 1e6 / rate} for part in (0.5, 1, 9)])
        for label, rate in rates.items()
    }


def scenario_of(name: str, *labels: str, against: str | None = None) -> Scenario:
    contestants = {label: Contestant(label) for label in labels}
    return Scenario(name, f"the {name}", asking(HELLOS, 1), contestants, against=against)


def test_ratios_of_servers_and_scenarios() -> None:
    labels = ("fastfcgi", "flup", "floor")
    scenarios = [scenario_of("one", *labels), scenario_of("two", *labels, against="one")]
    results = {
        "one": results_of(fastfcgi=2000.0, flup=None, floor=100000.0),
        "two": results_of(fastfcgi=3000.0, flup=1000.0, floor=100000.0),
    }
    text = report.markdown(scenarios, results, report.about(3, 1, []))
    assert "| scenario |  | fastfcgi | flup | floor | fastfcgi / floor | fastfcgi / flup |" in text
    assert "| the one | req/s | 2,000 | - | 100,000 | 0.02 |  |" in text
    assert "|  | CPU µs/request | 500.0 | - | 10.0 | 50.0 |  |" in text
    assert "| the two | req/s | 3,000 | 1,000 | 100,000 | 0.03 | 3.00 |" in text
    assert "- the two, to the one: req/s fastfcgi 1.50, floor 1.00\n" in text
    assert "- one, flup: broken" in text


def test_ratio_is_that_of_rounds_that_were_near_in_time() -> None:
    """A machine that gets slower from round to round is no reason for another ratio."""
    one = Result([{"rate": rate} for rate in (400.0, 200.0, 20.0)])
    other = Result([{"rate": rate} for rate in (200.0, 100.0, 200.0)])
    assert report.ratio(one, other, "rate") == 2.0
    assert one.median("rate") == other.median("rate")
    assert report.ratio(one, Result(reason="broken"), "rate") is None
    assert report.ratio(one, None, "rate") is None
    assert report.ratio(one, Result([{"rate": 0.0}] * 3), "rate") is None


def test_scenarios_that_are_compared_take_turns() -> None:
    order = []

    def noting(name: str) -> Scenario:
        @contextlib.contextmanager
        def enter(server: Server) -> Iterator[Callable[[float], dict[str, float]]]:
            def round(seconds: float) -> dict[str, float]:
                order.append(name)
                return {"rate": seconds}

            yield round

        against = "one" if name == "two" else None
        return dataclasses.replace(scenario_of(name, "fastfcgi", against=against), enter=enter)

    scenarios = [noting("one"), noting("other"), noting("two")]
    groups = servers.groups(scenarios)
    assert [[scenario.name for scenario in group] for group in groups] == [
        ["one", "two"],
        ["other"],
    ]
    results = servers.run(groups[0], ["fastfcgi"], 3, 0.0)
    assert order == ["one", "two"] * 3
    assert {name: len(found["fastfcgi"].rounds) for name, found in results.items()} == {
        "one": 3,
        "two": 3,
    }


def test_bars_show_the_share_of_the_best_server() -> None:
    found = results_of(fastfcgi=2000.0, flup=500.0, uwsgi=None, floor=100000.0)
    shares = {label: share for label, _, share in picture.lengths(found, "rate")}
    assert shares == {"fastfcgi": 1.0, "flup": 0.25, "floor": 50.0}
    # Of CPU, less is better.
    shares = {label: share for label, _, share in picture.lengths(found, "cpu")}
    assert shares == {"fastfcgi": 1.0, "flup": 0.25, "floor": 50.0}
    drawn = picture.svg([scenario_of("one", *found)], {"one": found})
    widths = [int(width) for width in re.findall(r"<rect [^>]*width='(\d+)'", drawn)]
    assert widths == [picture.BAR, picture.BAR // 4, picture.BAR]
