"""One benchmark, one question: ours beside theirs, in turns, with a verdict.

How a question is written: one file in benchmarks/, say ials.py, that runs as a script and says

    def ours(given):                       # runs in a process of its own; given.width, given.data
        ...
        return {"rows_per_second": rows / seconds, "ndcg@10": value}   # numbers by name

    QUESTION = Question(
        "iALS: interactions a second of one alternation",
        cases=[Case("ml-1m", {"data": "ml-1m", "split": "leave-one-out", "width": 64})],
        sides=[Side("ours", ours), Side("implicit", "implicit_als.py", environment="n2")],
        targets=[Target("iALS", "rows_per_second", against="implicit", at_least=1.0)],
        prepare=exported,                  # once a case: files for the peers in given.folder
        quick={"epochs": 2},               # what --quick changes in every case
    )
    if __name__ == "__main__":
        QUESTION.main()

A side is a function of the file, or a script in benchmarks/peers/ that prints the same numbers as
one JSON line. `given` has the case's settings, then the side's, and data, folder, seed, threads.
Ratios are ours / theirs, round by round; a target without `against` is about our own number.
`Curve` reports how a number grows from case to case, and where memory ends. `make bench-ials`
(rounds: ROUNDS=5) writes benchmarks/results/ials.json, `make tables` writes docs/performance.md
from all of them.
`python benchmarks/ials.py --quick` runs every path in a minute and keeps its result in
runs/benchmarks/.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from spreads import Spread, exponent, line, ratio, reach, spread

__all__ = ["Case", "Curve", "Numbers", "Question", "Side", "Target"]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
WAITING = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} - set(os.environ)  # our package chooses for itself
QUICK = ROOT / "runs" / "benchmarks"
MACHINE = ("processor", "cores", "memory_bytes", "gpu", "platform", "python")

Numbers = Mapping[str, float]
Work = Callable[[SimpleNamespace], Numbers]


@dataclass(frozen=True)
class Case:
    """Settings under a name; `data` and `split` among them say what `exported` writes.

    Attributes:
        name: as the tables print it.
        settings: what `given` holds.
        quick: whether `--quick` runs it.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    quick: bool = True


@dataclass(frozen=True)
class Side:
    """One way to do the work.

    Attributes:
        name: as the tables print it.
        work: a function of the question's file, or a script in benchmarks/peers/.
        environment: of the script, "n1" or "n2".
        settings: what this side has beside the case's, or instead of them.
        cases: names of those it takes part in; empty for all.
        rounds: at most so many, for what takes long.
    """

    name: str
    work: Work | str
    environment: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    cases: Sequence[str] = ()
    rounds: int | None = None


@dataclass(frozen=True)
class Target:
    """What is to be reached.

    Attributes:
        name: of the row in the table.
        measure: the number it is about.
        against: the side that ours is divided by; empty for our number itself.
        at_least, at_most: the limit of the ratio or number; neither reports it alone.
        cases: names of those it is about; empty for all that have both sides.
        side: whose number it is.
    """

    name: str
    measure: str
    against: str = ""
    at_least: float | None = None
    at_most: float | None = None
    cases: Sequence[str] = ()
    side: str = "ours"


@dataclass(frozen=True)
class Curve:
    """How `measure` grows with the setting `over`: an exponent per side, by least squares.

    Attributes:
        measure: the number.
        over: the setting; every case that has it gives a point.
        memory: whether the measure is MiB, and where it fills the machine's memory is asked.
    """

    measure: str
    over: str
    memory: bool = False


@dataclass(frozen=True)
class Question:
    """A question, see the top of this file.

    Attributes:
        title: what is measured, in one line.
        cases, sides, targets, curves: what is run and what is asked of it.
        prepare: called once a case, in a process of its own, with a fresh `given.folder`.
        rounds: how often each side runs; sides take turns.
        limit: seconds a side may take; one that takes longer has failed.
        quick: settings that make every case small.
    """

    title: str
    cases: Sequence[Case]
    sides: Sequence[Side]
    targets: Sequence[Target] = ()
    curves: Sequence[Curve] = ()
    prepare: Callable[[SimpleNamespace], None] | None = None
    rounds: int = 3
    limit: float = 900.0
    quick: Mapping[str, Any] = field(default_factory=dict)

    def main(self) -> None:
        """The command line of a question, and the processes that do its work."""
        if sys.argv[1:2] == ["--work"]:
            return self._work(sys.argv[2], json.loads(sys.argv[3]))
        parser = argparse.ArgumentParser(description=self.title)
        parser.add_argument("--rounds", type=int, default=self.rounds)
        parser.add_argument("--threads", type=int, default=os.cpu_count())
        parser.add_argument("--seed", type=int, default=0)
        for option, known in (("case", self.cases), ("side", self.sides)):
            parser.add_argument(
                f"--{option}",
                action="append",
                choices=[one.name for one in known],
                metavar=option.upper(),
                help=f"only this {option}; may be repeated",
            )
        parser.add_argument("--quick", action="store_true", help="one small round, for the paths")
        options = parser.parse_args()
        if options.rounds < 1:
            parser.error(f"--rounds is {options.rounds}; a side runs once at least")
        return _Running(self, Path(sys.argv[0]).resolve(), options).run()

    def _work(self, name: str, given: Mapping[str, Any]) -> None:
        """In a process of its own: prepare a case, or do a side's work and print its numbers."""
        settings = SimpleNamespace(**given)
        if name == "prepare":
            assert self.prepare is not None
            self.prepare(settings)
            return
        work = next(side.work for side in self.sides if side.name == name)
        assert callable(work)
        print(json.dumps(work(settings)))


class _Running:
    """A question being answered."""

    def __init__(self, question: Question, file: Path, options: argparse.Namespace) -> None:
        self.question, self.file, self.options = question, file, options
        self.rounds = 1 if options.quick else options.rounds
        self.found: dict[str, dict[str, list[Numbers]]] = {}
        self.settings: dict[str, Mapping[str, Any]] = {}
        self.failures: list[str] = []

    def run(self) -> None:
        """All cases, the verdict, the file."""
        question = self.question
        print(question.title)
        for case in question.cases:
            asked = not self.options.case or case.name in self.options.case
            if asked and (case.quick or not self.options.quick):
                self._case(case)
        result = self.result()
        folder = QUICK if self.options.quick else RESULTS
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.file.stem}.json"
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        for failure in self.failures:
            print(f"failed: {failure}", file=sys.stderr)
        for row in result["curves"]:
            print(growth(row))
        for row in result["targets"]:
            print(verdict(row))
        if self.failures:
            raise SystemExit(1)

    def _case(self, case: Case) -> None:
        """Every side in turn, round by round."""
        question, options = self.question, self.options
        quick = question.quick if options.quick else {}
        with tempfile.TemporaryDirectory() as folder:
            given = {**case.settings, **quick, "case": case.name, "folder": folder}
            given |= {"seed": options.seed, "threads": options.threads}
            self.settings[case.name] = {k: v for k, v in given.items() if k != "folder"}
            sides = [
                side
                for side in question.sides
                if (not side.cases or case.name in side.cases)
                and (not options.side or side.name in options.side)
            ]
            if question.prepare is not None:
                self._process(self._own("prepare"), given)
            for number in range(self.rounds):
                for side in sides:
                    if side.rounds is None or number < side.rounds:
                        self._side(case, side, {**given, **side.settings, **quick}, number)

    def _side(self, case: Case, side: Side, given: Mapping[str, Any], number: int) -> None:
        command = self._own(side.name) if callable(side.work) else peer_command(side)
        started = time.perf_counter()
        numbers = self._process(command, given, f"{case.name}, {side.name}")
        if numbers is None:
            return
        self.found.setdefault(case.name, {}).setdefault(side.name, []).append(numbers)
        told = "  ".join(
            f"{name} {figure(value)}" for name, value in numbers.items() if name != "versions"
        )
        spent = time.perf_counter() - started
        print(f"{case.name:>14} {side.name:>14} {number + 1}: {told}  ({spent:.0f} s)", flush=True)

    def _own(self, name: str) -> list[str]:
        return [sys.executable, str(self.file), "--work", name]

    def _process(
        self, command: Sequence[str], given: Mapping[str, Any], name: str = ""
    ) -> Numbers | None:
        """Run a process of ours or a peer's; its numbers, or None when it failed."""
        try:
            done = subprocess.run(
                [*command, json.dumps(given)],
                env=environment(self.options.threads),
                cwd=given["folder"],
                capture_output=True,
                text=True,
                timeout=self.question.limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            self.failures.append(f"{name}: took more than {self.question.limit:.0f} s")
            return None
        if done.returncode:
            if not name:
                raise SystemExit(done.stderr)
            self.failures.append(f"{name}: {done.stderr[-2000:]}")
            return None
        return json.loads(done.stdout.splitlines()[-1]) if name else {}

    def result(self) -> dict[str, Any]:
        """What the JSON file holds."""
        versions = {
            side: rounds[0]["versions"]
            for sides in self.found.values()
            for side, rounds in sides.items()
            if "versions" in rounds[0]
        }
        raw = {
            case: {
                side: [{k: v for k, v in one.items() if k != "versions"} for one in rounds]
                for side, rounds in sides.items()
            }
            for case, sides in self.found.items()
        }
        from tastemaker.experiment.environment import describe_environment

        place = describe_environment()
        memory = place["memory_bytes"]
        shown = shlex.join([f"benchmarks/{self.file.name}", *sys.argv[1:]])
        return {
            "question": self.file.stem,
            "title": self.question.title,
            "command": f"python {shown}",
            "seed": self.options.seed,
            "threads": self.options.threads,
            "machine": {name: place[name] for name in MACHINE},
            "versions": {"ours": place["packages"], **versions},
            "cases": {
                name: {"settings": self.settings[name], "raw": sides} for name, sides in raw.items()
            },
            "targets": [row for target in self.question.targets for row in judged(target, raw)],
            "curves": [
                row
                for curve in self.question.curves
                for row in grown(curve, raw, self.settings, memory)
            ],
        }


Raw = Mapping[str, Mapping[str, Sequence[Numbers]]]


def judged(target: Target, raw: Raw) -> list[dict[str, Any]]:
    """A row per case: medians, the ratio with its spread, the verdict."""
    rows = []
    for case, sides in raw.items():
        wanted = [target.side, *([target.against] if target.against else [])]
        if (target.cases and case not in target.cases) or not all(
            any(target.measure in one for one in sides.get(side, ())) for side in wanted
        ):
            continue
        series = [[one[target.measure] for one in sides[side]] for side in wanted]
        about: Spread = ratio(*series) if target.against else spread(series[0])
        row: dict[str, Any] = {
            "name": target.name,
            "case": case,
            "measure": target.measure,
            "side": target.side,
            "against": target.against,
            "ours": spread(series[0]).median,
            "theirs": spread(series[1]).median if target.against else None,
            "value": about.median,
            "low": about.low,
            "high": about.high,
            "at_least": target.at_least,
            "at_most": target.at_most,
        }
        low, high = target.at_least, target.at_most
        if low is not None or high is not None:
            row["met"] = (low is None or about.median >= low) and (
                high is None or about.median <= high
            )
        rows.append(row)
    return rows


def grown(
    curve: Curve,
    raw: Raw,
    settings: Mapping[str, Mapping[str, Any]],
    memory_bytes: int | None,
) -> list[dict[str, Any]]:
    """A row per side: the points of the curve and its exponent, and where memory ends."""
    sides = dict.fromkeys(side for case in raw.values() for side in case)
    rows = []
    for side in sides:
        points = [
            (settings[case][curve.over], spread([one[curve.measure] for one in found[side]]).median)
            for case, found in raw.items()
            if curve.over in settings[case]
            and any(curve.measure in one for one in found.get(side, ()))
        ]
        if len(points) > 1:
            power = exponent(points)
            row: dict[str, Any] = {"side": side, "measure": curve.measure, "over": curve.over}
            row |= {"points": points, "exponent": power}
            if curve.memory and memory_bytes:
                each = line(points)[1] * 2**20
                row |= {"bytes_each": each, "ends_at": reach(points, memory_bytes / 2**20)}
            rows.append(row)
    return rows


def growth(row: Mapping[str, Any]) -> str:
    """A row of the curves as one line."""
    what = f"{row['side']}: {row['measure']} grows as {row['over']}^{row['exponent']:.2f}"
    if row.get("ends_at"):
        what += f", {figure(row['bytes_each'])} bytes each; memory ends at {row['ends_at']:,.0f}"
    return what


def verdict(row: Mapping[str, Any]) -> str:
    """A row of the targets as one line."""
    what = f"{row['name']}, {row['case']}: {row['measure']} {figure(row['ours'])}"
    if row["against"]:
        what += (
            f" against {figure(row['theirs'])} of {row['against']}, "
            f"ratio {figure(row['value'])} [{figure(row['low'])}, {figure(row['high'])}]"
        )
    match row.get("met"):
        case None:
            return what
        case met:
            return f"{what}, {limit(row)}: {'met' if met else 'NOT met'}"


def limit(row: Mapping[str, Any]) -> str:
    """The limit of a target's row: at least 3."""
    words = [
        f"{word} {figure(row[key])}"
        for key, word in (("at_least", "at least"), ("at_most", "at most"))
        if row[key] is not None
    ]
    return ", ".join(words)


def figure(value: float) -> str:
    """A number as people read it: four digits, thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def environment(threads: int) -> dict[str, str]:
    """The variables of every process: the same number of threads in every library."""
    libraries = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA", "RAYON")
    limits = {f"{name}_NUM_THREADS": str(threads) for name in libraries}
    limits["POLARS_MAX_THREADS"] = str(threads)
    inherited = {name: value for name, value in os.environ.items() if name not in WAITING}
    return {**inherited, **limits}


def peer_command(side: Side) -> list[str]:
    """A script in benchmarks/peers/, run by the Python of its environment."""
    from environments import python_of

    return [str(python_of(side.environment)), str(ROOT / "benchmarks" / "peers" / str(side.work))]
