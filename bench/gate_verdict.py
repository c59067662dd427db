"""What the gate makes of its figures: noise bands, verdicts, and the table that says them.

A figure of a benchmark is the fastest round of one process, in seconds: other programs on the
machine make a round slower, never faster. Each turn gives one figure of the base and one of the
head. What is compared is the median over the turns.
"""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from statistics import median

# Narrower than this no band gets: the same code at other addresses differs by so much.
FLOOR = 0.05
# By how much instruction counts may grow. Of the same wheel they repeat to 0.4 %.
COUNT_BAND = 0.02

DRAWS = 2000
QUANTILE = 0.97  # one slow figure of ten widens no band: its share of such medians is less

Figures = Mapping[str, Sequence[float]]

SAME, FASTER, SLOWER = "same", "faster", "slower"
NEW, GONE, ALLOWED = "new", "gone", "slower, allowed"
FAILING = (SLOWER, GONE)


@dataclass(frozen=True)
class Line:
    """One benchmark: its medians in seconds (or its counts), None where there is none.

    Attributes:
        band: The part of the base by which it may differ.
    """

    name: str
    base: float | None
    head: float | None
    band: float
    verdict: str

    @property
    def change(self) -> float | None:
        """The part of the base by which it differs: 0.1 is 10 % slower."""
        if self.base is None or self.head is None:
            return None
        return self.head / self.base - 1


def noise_band(base: Sequence[float], head: Sequence[float], floor: float = FLOOR) -> float:
    """How far two medians of so many turns lie apart when nothing differs but the noise.

    Bootstrapped: the figures' deviations from the median of their own side, both sides together,
    are what noise does to a figure. Two medians of so many deviations drawn from them differ by
    less than the band 97 times of 100.

    Returns:
        A part of the base, at least `floor`; 0.05 is 5 %.
    """
    noise = [math.log(figure / median(side)) for side in (base, head) for figure in side]
    draw = random.Random(0).choices  # the same figures, the same band
    apart = sorted(
        abs(median(draw(noise, k=len(base))) - median(draw(noise, k=len(head))))
        for _ in range(DRAWS)
    )
    return max(floor, math.expm1(apart[int(QUANTILE * DRAWS)]))


def compare(base: Figures, head: Figures, floor: float = FLOOR) -> list[Line]:
    """The verdict on each benchmark of the head."""
    lines = []
    for name, figures in head.items():
        before = base.get(name)
        if not before:
            lines.append(Line(name, None, median(figures), 0, NEW))
            continue
        band = noise_band(before, figures, floor)
        lines.append(_judge(name, median(before), median(figures), band))
    return lines


def compare_counts(
    base: Mapping[str, float], head: Mapping[str, float], band: float = COUNT_BAND
) -> list[Line]:
    """The verdict on each instruction count of the head."""
    return [
        _judge(name, base[name], counted, band)
        if name in base
        else Line(name, None, counted, 0, NEW)
        for name, counted in head.items()
    ]


def _judge(name: str, base: float, head: float, band: float) -> Line:
    if head > base * (1 + band):
        return Line(name, base, head, band, SLOWER)
    verdict = FASTER if head * (1 + band) < base else SAME
    return Line(name, base, head, band, verdict)


def gone(names: Iterable[str]) -> list[Line]:
    """Benchmarks that the head has no more: names never change."""
    return [Line(name, None, None, 0, GONE) for name in names]


def allow(lines: Iterable[Line], patterns: Sequence[str]) -> list[Line]:
    """Let pass what fails and is named: by its name, its name without the file, or a pattern
    such as test_params_*."""
    return [
        Line(line.name, line.base, line.head, line.band, ALLOWED)
        if line.verdict in FAILING and _is_named(line.name, patterns)
        else line
        for line in lines
    ]


def _is_named(name: str, patterns: Sequence[str]) -> bool:
    names = (name, name.rpartition("::")[2])
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


def failing(lines: Iterable[Line]) -> list[str]:
    """The names of those that fail the gate."""
    return [line.name for line in lines if line.verdict in FAILING]


def seconds(value: float) -> str:
    """With three digits, such as 12.3 µs."""
    unit, size = next(
        ((unit, size) for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)) if value >= size),
        ("ns", 1e-9),
    )
    number = value / size
    return f"{number:.{0 if number >= 99.95 else 1 if number >= 9.995 else 2}f} {unit}"


def table(title: str, lines: Iterable[Line], figure: str) -> str:
    """A table in Markdown; figure is "time" or "instructions"."""
    show = seconds if figure == "time" else "{:,.0f}".format
    text = f"| {title} | base | head | change | band | |\n|---|--:|--:|--:|--:|---|\n"
    for line in lines:
        base = "" if line.base is None else show(line.base)
        head = "" if line.head is None else show(line.head)
        change = "" if line.change is None else f"{line.change:+.1%}"
        band = f"{line.band:.1%}" if change else ""
        verdict = f"**{line.verdict}**" if line.verdict in FAILING else line.verdict
        text += f"| {line.name} | {base} | {head} | {change} | {band} | {verdict} |\n"
    return text
