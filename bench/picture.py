"""The picture: a bar for each server in each scenario, as SVG, to be read on light and dark."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from bench.report import LABELS, MEASURES, Result, Results, shown
from bench.rounds import Scenario

WIDTH, LEFT, BAR = 760, 112, 440
ROW, TITLE = 15, 30

# In between, so that they stand out from white and from black.
INK = "#808080"
COLOURS = {
    "fastfcgi": "#2f81f7",
    "flup": "#c4784a",
    "flipflop": "#b8923a",
    "fcgisgi": "#a371c8",
    "uwsgi": "#4c9a5f",
    "uwsgi-threads": "#3f9a94",
    "floor": "#8a939d",
    "bjoern": "#c4784a",
    "gunicorn": "#b8923a",
    "waitress": "#a371c8",
}


def lengths(found: Mapping[str, Result], measure: str) -> Iterator[tuple[str, float, float]]:
    """(label, median, its share of the best) of the servers that have a median. The floor, which
    is no server to use, is the best of nothing, and may have more than the whole."""
    medians = {label: found[label].median(measure) for label in LABELS if label in found}
    values = {label: value for label, value in medians.items() if value is not None}
    more = MEASURES[measure].more
    real = [value for label, value in values.items() if label != "floor"]
    best = (max if more else min)(real or values.values(), default=0.0)
    for label, value in values.items():
        part = (value, best) if more else (best, value)
        # Two zeros are alike.
        yield label, value, part[0] / part[1] if part[1] else float(part[0] == 0)


def group(scenario: Scenario, found: Mapping[str, Result], top: int) -> Iterator[str]:
    """A scenario's title and bars, from that y on."""
    measure = scenario.shown[0]
    title, more, digits = MEASURES[measure]
    hint = "" if more else " (less is better)"
    yield text(0, top + 20, f"{scenario.title}: {title}{hint}", "font-weight='bold'")
    for number, (label, value, length) in enumerate(lengths(found, measure)):
        y = top + TITLE + number * ROW
        width = max(1, round(min(length, 1) * BAR))
        yield text(LEFT - 8, y + 10, label, "text-anchor='end'")
        yield (
            f"<rect x='{LEFT}' y='{y}' width='{width}' height='{ROW - 4}' rx='2'"
            f" fill='{COLOURS[label]}'/>"
        )
        yield text(LEFT + width + 6, y + 10, f"{shown(value, digits)}  ({length:.0%})")


def text(x: int, y: int, words: str, more: str = "") -> str:
    return f"<text x='{x}' y='{y}' {more}>{escape(words)}</text>"


def svg(scenarios: Sequence[Scenario], results: Results) -> str:
    """The picture; longer is always better, and the best of a scenario has the whole length."""
    top = 24
    hint = (
        "Longer is better; 100% is the best server of the scenario; the floor's bar is cut there."
    )
    parts = [text(0, 14, hint)]
    for scenario in scenarios:
        bars = sum(1 for _ in lengths(results[scenario.name], scenario.shown[0]))
        if bars:
            parts += group(scenario, results[scenario.name], top)
            top += TITLE + bars * ROW
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {top + 8}' width='{WIDTH}'"
        f" height='{top + 8}' font-family='system-ui, sans-serif' font-size='11' fill='{INK}'>\n"
        + "\n".join(parts)
        + "\n</svg>\n"
    )
