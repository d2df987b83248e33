"""The generated part of docs/performance.md, from the results in benchmarks/results."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "curves_table",
    "ends_table",
    "figure",
    "machines",
    "missed",
    "results",
    "targets_table",
]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

Result = Mapping[str, Any]


def results() -> list[Result]:
    """The kept results, by question."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]


def figure(value: float | None) -> str:
    """A number as people read it: three digits, thousands apart."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{float(f'{value:.3g}'):g}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def words(measure: str) -> str:
    """A measure's name as words: targets a second."""
    return measure.replace("_per_", " a ").replace("_", " ")


def limit(row: Result) -> str:
    """What a row is to reach: >= 3x RecTools, or <= 12."""
    signs = (("at_least", ">="), ("at_most", "<="))
    limits = [f"{sign} {figure(row[key])}" for key, sign in signs if row[key] is not None]
    if not row["against"]:
        return ", ".join(limits) or "reported"
    times = " and ".join(f"{text}x" for text in limits)
    return f"{times} {row['against']}" if limits else f"reported, {row['against']}"


def cells(question: str, row: Result) -> list[str]:
    """One row of the table of targets."""
    spread = f"{figure(row['value'])} [{figure(row['low'])}, {figure(row['high'])}]"
    met = {True: "yes", False: "**no**", None: ""}[row.get("met")]
    return [
        f"{row['name']} (`{question}`)",
        row["case"],
        words(row["measure"]),
        limit(row),
        figure(row["ours"]),
        figure(row["theirs"]),
        spread if row["against"] else "-",
        met,
    ]


HEADER = ("question", "case", "measure", "target", "ours", "theirs", "ratio", "met")


def targets_table() -> str:
    """Every target of every question: those with a limit, then what is only reported."""
    rows = [(result["question"], row) for result in results() for row in result["targets"]]
    if not rows:
        return "No results yet: `make bench` writes them."
    judged = [cells(*pair) for pair in rows if "met" in pair[1]]
    told = [cells(*pair)[:-1] for pair in rows if "met" not in pair[1]]
    parts = [markdown(HEADER, judged)] if judged else []
    parts += ["Reported without a limit:", markdown(HEADER[:-1], told)] if told else []
    return "\n\n".join(parts)


def curves_table() -> str:
    """How measures grow: the points of every curve, its exponent and that of its last step."""
    rows = []
    for result in results():
        for curve in result["curves"]:
            points = ", ".join(f"{figure(x)}: {figure(y)}" for x, y in curve["points"])
            about = f"{words(curve['measure'])} over {words(curve['over'])}"
            powers = [curve["exponent"], last_exponent(curve["points"])]
            told = [f"{power:.2f}" for power in powers]
            rows.append([f"`{result['question']}`", curve["side"], about, points, *told])
    header = ("question", "side", "curve", "points", "exponent", "at the end")
    return markdown(header, rows) if rows else "No curves yet."


def last_exponent(points: Sequence[Sequence[float]]) -> float:
    """That between the last two points, where fixed parts weigh least."""
    (x, y), (last_x, last_y) = points[-2:]
    return math.log(last_y / y) / math.log(last_x / x)


def ends_table() -> str:
    """Where the memory of the machine ends: every curve of memory, continued."""
    rows = []
    for result in results():
        memory = result["machine"]["memory_bytes"]
        for curve in result["curves"]:
            if "ends_at" in curve:
                (first, least), (last, most) = curve["points"][0], curve["points"][-1]
                end = curve["ends_at"]
                rows.append(
                    [
                        f"{curve['side']} (`{result['question']}`)",
                        words(curve["over"]),
                        f"{figure(first)} to {figure(last)}",
                        f"{figure(least)} to {figure(most)}",
                        f"{curve['exponent']:.2f}",
                        "-" if end is None else figure(rounded(curve["bytes_each"])),
                        "does not grow"
                        if end is None
                        else f"{figure(rounded(end))} of {memory / 2**30:.0f} GiB",
                    ]
                )
    header = ("what", "over", "range", "MiB", "exponent", "bytes each", "ends at")
    return markdown(header, rows) if rows else "No curves of memory yet."


def rounded(value: float) -> float:
    """To two digits, which is what a continued curve knows."""
    return float(f"{value:.1e}")


def machines() -> str:
    """What each question ran on, with which versions, and its command."""
    rows = []
    for result in results():
        machine = result["machine"]
        memory = f"{machine['memory_bytes'] / 2**30:.0f} GiB" if machine["memory_bytes"] else "?"
        gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
        place = f"{machine['processor']}, {result['threads']} of {machine['cores']} cores, {memory}"
        known = dict.fromkeys(
            f"{package} {version}"
            for versions in result["versions"].values()
            for package, version in versions.items()
        )
        rounds = max(
            (len(raw) for case in result["cases"].values() for raw in case["raw"].values()),
            default=0,
        )
        rows.append(
            [
                f"`{result['command']}`",
                str(rounds),
                str(result["seed"]),
                f"{place}{gpu}",
                ", ".join(known),
            ]
        )
    header = ("command", "rounds", "seed", "machine", "versions")
    return markdown(header, rows) if rows else "-"


def missed(found: Sequence[Result] | None = None) -> list[str]:
    """The questions with a target that is not met."""
    return [
        result["question"]
        for result in (results() if found is None else found)
        if any(row.get("met") is False for row in result["targets"])
    ]


def explained() -> list[str]:
    """The questions that the hand-written sections of docs/performance.md are about."""
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    return re.findall(r"^### (\w+)$", text, re.MULTILINE)
