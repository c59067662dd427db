"""The gate: fails when a commit is slower than another one, measured here and now.

    python -m bench.gate --base REVISION [--head REVISION]

builds both as wheels and runs head's benchmarks on them in turn, as often as --turns says. A
benchmark fails when its median slows by more than the noise of the same run explains
(gate_verdict.noise_band), and does so each time that it is measured again. Instruction counts
(bench/instructions.py) are the second gate, without noise: they fail when they grow by 2 %.

Exit status: 0 when nothing fails, 1 when something does, 2 when it could not be told.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import gate_verdict as verdict
from bench import instructions
from bench.gate_trees import SIDES, SUITES, WORKTREE, GateError, environment, prepare

# Of a hundred benchmarks that did not change, a few look slower by chance; hardly any three times.
AGAIN = 2
RUN_TIMEOUT = 1800
PYTEST = ["-q", "-p", "no:cacheprovider", "--continue-on-collection-errors"]

Times = dict[str, list[float]]


def say(text: str) -> None:
    print(f"gate: {text}", file=sys.stderr, flush=True)


# ---- measuring --------------------------------------------------------------------------------


def run_benchmarks(work: Path, side: str, tests: Sequence[str]) -> dict[str, float]:
    """Run benchmarks once; name -> seconds of the fastest round.

    Raises:
        GateError: One of them fails on the head, or nothing can be run at all.
    """
    out = work / "times.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", *(f"bench/{test}" for test in tests), *PYTEST]
    # The reference codec in Python is no part of the package.
    command += ["-k", "not _in_python", f"--benchmark-json={out}"]
    try:
        done = subprocess.run(
            command,
            cwd=work / "suite",
            env=environment(work / side),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_TIMEOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise GateError(f"the benchmarks of {side}: {error}") from error
    # An older commit need not have what head's benchmarks ask for; what runs is compared.
    if done.returncode not in ((0,) if side == "head" else (0, 1)):
        raise GateError(f"the benchmarks of {side} fail:\n{done.stdout[-8000:]}")
    if not out.exists() or not out.stat().st_size:
        return {}
    found = json.loads(out.read_bytes())["benchmarks"]
    return {one["fullname"].rpartition("/")[2]: one["stats"]["min"] for one in found}


def take_turns(work: Path, turns: int, tests: Sequence[str]) -> dict[str, Times]:
    """Run benchmarks on both sides in turn; side -> name -> a figure of each turn."""
    times: dict[str, Times] = {side: {} for side in SIDES}
    for turn in range(turns):
        # Each side comes first in every other turn: what warms up or slows down spares neither.
        for side in SIDES if turn % 2 == 0 else reversed(SIDES):
            say(f"turn {turn + 1} of {turns}: {side}")
            for name, figure in run_benchmarks(work, side, tests).items():
                times[side].setdefault(name, []).append(figure)
    return times


def compare_times(
    work: Path, turns: int, suites: Sequence[str], floor: float
) -> list[verdict.Line]:
    """The verdicts on benchmarks. What seems slower is measured again, and the last one counts."""
    times = take_turns(work, turns, suites)
    if not times["base"].keys() & times["head"].keys():
        raise GateError("there is no benchmark that runs on both")
    lines = verdict.compare(times["base"], times["head"], floor)
    for _ in range(AGAIN):
        suspects = verdict.failing(lines)
        if not suspects:
            break
        say(f"once more: {', '.join(suspects)}")
        times = take_turns(work, turns, suspects)
        again = {line.name: line for line in verdict.compare(times["base"], times["head"], floor)}
        lines = [again.get(line.name, line) for line in lines]
    return lines


def compare_counts(work: Path, names: Sequence[str]) -> list[verdict.Line]:
    """The verdicts on instruction counts."""
    say("counting instructions")

    def count(side: str) -> dict[str, float]:
        return instructions.count(environment(work / side), work / "suite", names)

    try:
        with ThreadPoolExecutor() as pool:
            base, head = pool.map(count, SIDES)
    except instructions.CountError as error:
        raise GateError(f"{error}\n(--no-instructions leaves the counts out)") from error
    missing = set(names) - head.keys()
    if missing:
        raise GateError(f"not counted on the head: {', '.join(sorted(missing))}")
    return verdict.compare_counts(base, head)


# ---- the command ------------------------------------------------------------------------------


def report(times: Sequence[verdict.Line], counts: Sequence[verdict.Line]) -> str:
    """What is printed at the end, in Markdown."""
    text = verdict.table("Benchmark", times, "time")
    if counts:
        text += "\n" + verdict.table("Counted", counts, "instructions")
    failed = verdict.failing([*times, *counts])
    if failed:
        text += f"\nSlower, or gone: {', '.join(failed)}.\n"
    else:
        text += "\nNothing is slower.\n"
    return text


def arguments() -> argparse.ArgumentParser:
    summary = __doc__.partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.gate", description=summary)
    parser.add_argument("--base", required=True, help="the commit to compare with")
    parser.add_argument(
        "--head", default=WORKTREE, help="the commit to judge (default: the work tree as it is)"
    )
    parser.add_argument("--turns", type=int, default=5, help="runs of each, at least 3 (default 5)")
    parser.add_argument(
        "--floor", type=float, default=verdict.FLOOR, help="the narrowest band (default 0.05)"
    )
    parser.add_argument(
        "--allow", action="append", default=[], metavar="NAME", help="may be slower; * and ? work"
    )
    parser.add_argument("--suite", action="append", choices=SUITES, help="only this one")
    parser.add_argument(
        "--count", action="append", choices=instructions.SECTIONS, help="only this count"
    )
    parser.add_argument("--no-instructions", action="store_true", help="without valgrind")
    parser.add_argument("--work", type=Path, help="keep wheels here, and use those that are there")
    return parser


def judge(options: argparse.Namespace, work: Path) -> int:
    """Build, measure, report; the exit status."""
    suites = options.suite or SUITES
    say(f"building {options.base} and {options.head}")
    lost = prepare(options.base, options.head, work, suites)
    counts = []
    if not options.no_instructions:
        counts = compare_counts(work, options.count or list(instructions.SECTIONS))
    times = compare_times(work, options.turns, suites, options.floor) + verdict.gone(lost)
    times, counts = verdict.allow(times, options.allow), verdict.allow(counts, options.allow)
    text = report(times, counts)
    print(text)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with open(summary, "a", encoding="utf-8") as file:
            file.write(text)
    return 1 if verdict.failing([*times, *counts]) else 0


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments()
    options = parser.parse_args(words)
    if options.turns < 3:
        parser.error("fewer than 3 turns tell nothing of the noise")
    with tempfile.TemporaryDirectory(prefix="gate-") as folder:
        try:
            return judge(options, (options.work or Path(folder)).resolve())
        except GateError as error:
            say(str(error))
        except Exception:
            traceback.print_exc()  # 1, as Python ends then, would be a verdict
        return 2


if __name__ == "__main__":
    sys.exit(main())
