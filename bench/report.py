"""What the numbers become: medians, a table in Markdown."""

import os
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.kinds import HTTP_KINDS, version_of
from bench.rounds import Measures, Scenario


class Measure(NamedTuple):
    """How a measure is shown; more is better, or less."""

    title: str
    more: bool
    digits: int


MEASURES = {
    "rate": Measure("req/s", True, 0),
    "speed": Measure("MB/s", True, 0),
    "cpu": Measure("CPU µs/request", False, 1),
    "cpu_per_mb": Measure("CPU µs/MB", False, 0),
    "p50": Measure("p50 ms", False, 2),
    "p99": Measure("p99 ms", False, 2),
    "last": Measure("last of them, ms", False, 1),
    "peak": Measure("peak memory MiB", False, 1),
    "growth": Measure("memory growth MiB", False, 1),
    "calls": Measure("system calls", False, 2),
    "waits": Measure("of them epoll, poll, select", False, 2),
    "switches": Measure("context switches/s", False, 1),
    "idle_cpu": Measure("CPU µs/s", False, 0),
    "front_cpu": Measure("nginx's CPU µs/request", False, 1),
}

# In this order, whatever a scenario says.
LABELS = (
    *("fastfcgi", "flup", "flipflop", "fcgisgi", "uwsgi", "uwsgi-threads", "floor"),
    *HTTP_KINDS,
)
SUBJECT = "fastfcgi"
# Of SUBJECT's numbers to theirs.
RATIOS = ("floor", "uwsgi", "uwsgi-threads", "flup", *HTTP_KINDS)

# What has to be known of the numbers; a line is there when its server is.
NOTES = {
    "flup": "flup has as many spare threads as there are connections: a kept one holds a thread,"
    " and with its default, 5, some of more are never answered.",
    "flipflop": "flipflop has no such option.",
    "uwsgi": "uwsgi is one process without threads. It keeps no FastCGI connection: where others"
    " are kept, it gets a new one for each request.",
    "uwsgi-threads": "uwsgi-threads is one process with that many threads, likewise.",
    "floor": "floor is C that looks for the end of a request and sends a fixed answer: there is no"
    " application in it.",
    "gunicorn": "gunicorn has one gthread worker of 4 threads: a sync worker keeps no connections.",
}


@dataclass
class Result:
    """What a server did in one scenario: its rounds, or why it has none."""

    rounds: list[Measures] = field(default_factory=list)
    reason: str | None = None

    def median(self, measure: str) -> float | None:
        values = [round[measure] for round in self.rounds if measure in round]
        return statistics.median(values) if values and self.reason is None else None

    def medians(self) -> Measures:
        names = {name for round in self.rounds for name in round}
        found = {name: self.median(name) for name in sorted(names)}
        return {name: value for name, value in found.items() if value is not None}


# Scenario's name -> label -> result.
Results = Mapping[str, Mapping[str, Result]]


def ratio(one: Result | None, other: Result | None, measure: str) -> float | None:
    """The median of what one's rounds are in terms of the other's, round by round, because rounds
    of the same number were near in time and disturbed alike. None without numbers of both."""
    if one is None or other is None or one.reason is not None or other.reason is not None:
        return None
    rounds = zip(one.rounds, other.rounds, strict=True)
    pairs = [(mine[measure], theirs[measure]) for mine, theirs in rounds]
    return statistics.median(a / b for a, b in pairs) if all(b for _, b in pairs) else None


def shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def factor(value: float | None) -> str:
    """A ratio with two or three digits."""
    return "" if value is None else f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(scenarios: Sequence[Scenario], results: Results, labels: Sequence[str]) -> Iterator[str]:
    """A row for each measure of each scenario: the medians, then what fastfcgi's is in terms of
    others'."""
    others = [label for label in RATIOS if label in labels]
    yield row(["scenario", "", *labels, *(f"{SUBJECT} / {label}" for label in others)])
    yield row(["---", "---"] + ["---:"] * (len(labels) + len(others)))
    for scenario in scenarios:
        found = results[scenario.name]
        for number, name in enumerate(scenario.shown):
            title, _, digits = MEASURES[name]
            cells = [
                shown(found[label].median(name), digits) if label in found else ""
                for label in labels
            ]
            ratios = [factor(ratio(found.get(SUBJECT), found.get(label), name)) for label in others]
            yield row(["" if number else scenario.title, title, *cells, *ratios])


def comparisons(scenarios: Sequence[Scenario], results: Results) -> Iterator[str]:
    """Ratios of each scenario that is another one but for one thing, to that."""
    titles = {scenario.name: scenario.title for scenario in scenarios}
    for scenario in scenarios:
        if scenario.against is None or scenario.against not in results:
            continue
        base = results[scenario.against]
        for measure in scenario.shown:
            cells = []
            for label, result in results[scenario.name].items():
                found = ratio(result, base.get(label), measure)
                if found is not None:
                    cells.append(f"{label} {factor(found)}")
            if cells:
                measured, other = MEASURES[measure].title, titles[scenario.against]
                yield f"- {scenario.title}, to {other}: {measured} {', '.join(cells)}"


def reasons(results: Results) -> Iterator[str]:
    """Why there is no number."""
    for name, found in results.items():
        for label, result in found.items():
            if result.reason is not None:
                yield f"- {name}, {label}: {result.reason}"


def markdown(scenarios: Sequence[Scenario], results: Results, about: Mapping[str, object]) -> str:
    """The whole report: a table of the FastCGI servers, one with the HTTP servers, and what else
    is to be said."""
    lines = [
        "Medians of {rounds} rounds of {seconds} s, servers taking turns; a ratio is the median of"
        " the rounds' ratios.".format_map(about),
        "{machine}; {versions}.".format_map(about),
    ]
    for http in (False, True):
        part = [one for one in scenarios if (not set(one.servers).isdisjoint(HTTP_KINDS)) == http]
        named = {label for one in part for label in results[one.name]}
        if part:
            labels = [label for label in LABELS if label in named]
            lines += ["", *table(part, results, labels)]
    there = {label for found in results.values() for label in found}
    notes = [f"- {note}" for label, note in NOTES.items() if label in there]
    for title, more in (
        ("Notes:", notes),
        ("Ratios of one scenario to another:", list(comparisons(scenarios, results))),
        ("Without a number:", list(reasons(results))),
    ):
        if more:
            lines += ["", title, "", *more]
    return "\n".join([*lines, ""])


def numbers(
    scenarios: Sequence[Scenario], results: Results, about: Mapping[str, object]
) -> dict[str, object]:
    """Everything that was measured, for JSON."""
    return {
        "about": dict(about),
        "scenarios": {
            scenario.name: {
                "title": scenario.title,
                "shown": scenario.shown,
                "servers": {
                    label: {
                        "options": dict(scenario.servers[label].options),
                        "workers": scenario.servers[label].workers,
                        "medians": result.medians(),
                        "rounds": result.rounds,
                        "reason": result.reason,
                    }
                    for label, result in results[scenario.name].items()
                },
            }
            for scenario in scenarios
        },
    }


def about(rounds: int, seconds: float, labels: Sequence[str]) -> dict[str, object]:
    """What was measured, and on what."""
    versions = {label: version_of(label) for label in labels}
    named = [f"{label} {version}" for label, version in versions.items() if version]
    return {
        "rounds": rounds,
        "seconds": seconds,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "versions": ", ".join([f"Python {platform.python_version()}", *named]),
    }
