"""Ratios, printed at the end: the only numbers that mean something on another machine."""

from collections.abc import Iterator

import pytest

_SPEED: dict[str, float] = {}


@pytest.fixture(autouse=True)
def speed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Remember how fast the benchmark was in its fastest round: other programs on the machine
    make a round slower, never faster."""
    yield
    benchmark = request.node.funcargs.get("benchmark")
    measured = getattr(benchmark, "stats", None)  # none with --benchmark-disable
    if measured is not None:
        _SPEED[request.node.name] = benchmark.extra_info.get("requests", 1) / measured.stats.min


def _lines(suffix: str, unit: str) -> Iterator[str]:
    """One line for each benchmark that has a counterpart, whose name ends with suffix."""
    for name, rate in _SPEED.items():
        other = _SPEED.get(name + suffix)
        if other is not None:
            label = name.removeprefix("test_").replace("_", " ")
            yield f"{label:26} {rate:12,.0f} {other:12,.0f} {unit:10} {rate / other:6.1f} x"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for title, suffix, unit in (
        ("codec in Cython against plain Python", "_in_python", "calls/s"),
        ("fastfcgi against flup", "_by_flup", "requests/s"),
    ):
        lines = list(_lines(suffix, unit))
        if lines:
            terminalreporter.section(title)
            terminalreporter.write_line("\n".join(lines))
