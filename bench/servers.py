"""Servers side by side: requests per second, CPU, memory and system calls, measured in one run.

    python -m bench.servers [--quick] [--scenario NAME] [--server NAME] [--markdown FILE] ...

All servers of a scenario run at once and take turns: a round of each, and again. The client
(fastfcgi._load) checks every answer, and shares the machine with the servers: what means something
on another machine are the ratios, each the median of the rounds' ratios. What is not installed is
left out, with a word. Linux only.
"""

import argparse
import contextlib
import functools
import json
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench import kinds, report
from bench.kinds import Missing
from bench.load import Failed
from bench.picture import svg
from bench.report import LABELS, Result
from bench.rounds import Contestant, Round, Scenario
from bench.running import running
from bench.scenarios import all_scenarios

ROUNDS, SECONDS = 5, 0.5
QUICK_ROUNDS, QUICK_SECONDS = 2, 0.1

# What ends a server's part in a scenario, without a number.
ENDINGS = (Failed, Missing, OSError)


@contextlib.contextmanager
def ready(scenario: Scenario, contestant: Contestant) -> Iterator[Round]:
    """Start a server, make it ready and give its rounds."""
    answer = scenario.answer if contestant.kind == "floor" else None
    with (
        running(
            contestant.kind,
            scenario.application,
            contestant.workers,
            answer() if answer else None,
            contestant.python,
            **contestant.options,
        ) as server,
        scenario.enter(server) as round,
    ):
        yield round


class Turn:
    """A server's part in a scenario. It ends with the first thing that goes wrong."""

    def __init__(self, scenario: Scenario, contestant: Contestant) -> None:
        self.result = Result()
        self._ready = functools.partial(ready, scenario, contestant)
        self._fresh = scenario.fresh
        self._stack = contextlib.ExitStack()
        if not self._fresh:
            with self._guarded():
                self._round = self._stack.enter_context(self._ready())

    def round(self, seconds: float) -> None:
        """Measure one round."""
        if self.result.reason is not None:
            return
        with self._guarded(), contextlib.ExitStack() as stack:
            round = stack.enter_context(self._ready()) if self._fresh else self._round
            self.result.rounds.append(round(seconds))

    def end(self) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except ENDINGS as exc:
            self.result.reason = str(exc) or repr(exc)
            self.end()


def run(
    scenarios: Sequence[Scenario], labels: Sequence[str], rounds: int, seconds: float
) -> dict[str, dict[str, Result]]:
    """All rounds of scenarios that are compared with each other, of those of their servers that are
    in labels. The scenarios take turns too."""
    turns: dict[tuple[str, str], Turn] = {}
    try:
        for scenario in scenarios:
            for label, contestant in scenario.servers.items():
                if label in labels:
                    turns[scenario.name, label] = Turn(scenario, contestant)
        for _ in range(rounds):
            for turn in turns.values():
                turn.round(seconds)
    finally:
        for turn in turns.values():
            turn.end()
    results: dict[str, dict[str, Result]] = {scenario.name: {} for scenario in scenarios}
    for (name, label), turn in turns.items():
        results[name][label] = turn.result
        if turn.result.median("starved"):  # in most rounds; once is an accident
            turn.result.reason = "some connections are not served as long as the others are kept"
    return results


def groups(scenarios: Sequence[Scenario]) -> list[list[Scenario]]:
    """The scenarios, each together with those that are compared with it."""
    found: dict[str, list[Scenario]] = {}
    for scenario in scenarios:
        found.setdefault(scenario.against or scenario.name, []).append(scenario)
    return list(found.values())


def present(labels: Sequence[str], chosen: Sequence[Scenario]) -> list[str]:
    """Those of the labels whose server is on this machine; a word on stderr about the others."""
    found = {label: server for scenario in chosen for label, server in scenario.servers.items()}
    kept = []
    for label in labels:
        if label not in found:
            continue
        if kinds.installed(found[label].kind):
            kept.append(label)
        else:
            print(f"{label} is not installed: left out", file=sys.stderr)
    return kept


def possible(scenario: Scenario) -> bool:
    """Whether the tools of a scenario are on this machine; a word on stderr when not."""
    missing = [name for name in scenario.needs if kinds.program_of(name) is None]
    if missing:
        print(f"{scenario.name} needs {', '.join(missing)}: left out", file=sys.stderr)
    return not missing


def told(scenario: Scenario, results: Mapping[str, Result]) -> str:
    """A line about a scenario that has been measured."""
    measure = scenario.shown[0]
    digits = report.MEASURES[measure].digits
    cells = [
        f"{label} {report.shown(result.median(measure), digits)}"
        for label, result in results.items()
    ]
    return f"{scenario.name} ({report.MEASURES[measure].title}): {', '.join(cells)}"


def arguments(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.servers", description=__doc__)
    add = parser.add_argument
    add("--scenario", action="append", metavar="NAME", help="only that one; may be repeated")
    add("--server", action="append", metavar="NAME", choices=LABELS, help="only that one; likewise")
    add("--list", action="store_true", help="show the names of the scenarios")
    add("--rounds", type=int, help=f"of each server in each scenario ({ROUNDS})")
    add("--seconds", type=float, help=f"of a round ({SECONDS})")
    add("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds of {QUICK_SECONDS} s")
    add("--free-threaded", metavar="PYTHON", help="another interpreter, without the GIL")
    add("--markdown", metavar="FILE", help="write the table there, not to stdout")
    add("--json", metavar="FILE", help="write every number there")
    add("--svg", metavar="FILE", help="write the picture there")
    parsed = parser.parse_args(args)
    rounds, seconds = (QUICK_ROUNDS, QUICK_SECONDS) if parsed.quick else (ROUNDS, SECONDS)
    parsed.rounds = parsed.rounds or rounds
    parsed.seconds = parsed.seconds or seconds
    known = {scenario.name: scenario for scenario in all_scenarios(parsed.free_threaded)}
    unknown = set(parsed.scenario or ()) - set(known)
    if unknown:
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    parsed.chosen = [known[name] for name in parsed.scenario or known]
    return parsed


def main(args: Sequence[str] | None = None) -> None:
    parsed = arguments(args)
    if parsed.list:
        for scenario in parsed.chosen:
            print(f"{scenario.name:20} {scenario.title}")
        return
    # Servers are ended then as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    labels = present(parsed.server or LABELS, parsed.chosen)
    chosen = [scenario for scenario in parsed.chosen if possible(scenario)]
    results: dict[str, dict[str, Result]] = {}
    for group in groups(chosen):
        results |= run(group, labels, parsed.rounds, parsed.seconds)
        for scenario in group:
            print(told(scenario, results[scenario.name]), file=sys.stderr, flush=True)
    about = report.about(parsed.rounds, parsed.seconds, labels)
    table = report.markdown(chosen, results, about)
    if parsed.markdown:
        Path(parsed.markdown).write_text(table, encoding="utf-8")
    else:
        print(table)
    if parsed.json:
        numbers = report.numbers(chosen, results, about)
        Path(parsed.json).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    if parsed.svg:
        Path(parsed.svg).write_text(svg(chosen, results), encoding="utf-8")


if __name__ == "__main__":
    main()
