"""The accuracy table: every row is one `tastemaker train` command, held against a published figure.

`make reproduce` runs all rows, `make reproduce ROW=sasrec-ml-1m` one. A row's run is kept in
runs/reproduction, its result in reproduction/results; the table goes to the terminal and into
docs/reproduction.md. An interrupted row resumes.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tastemaker.evaluation.pointwise import LOWER_IS_BETTER

__all__ = ["Row", "results_by_model", "results_table", "rows"]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "reproduction" / "results"
RUNS = ROOT / "runs" / "reproduction"


@dataclass(frozen=True)
class Row:
    """One row of reproduction/rows.toml.

    Attributes:
        name: what ROW= takes.
        data, split, metrics, text: of its protocol.
        filters: of its protocol, applied before the split.
        model: a name in the catalog.
        floor: the least value of each metric.
        published: the published value of each metric; empty where there is none.
        source: of the published values.
        against: the row, run before, that this one must beat in every metric it is compared in.
        preset: named settings of the method, or empty for its defaults.
        settings: what differs from them.
        refit: whether the validation rows are trained on, too.
        seed: of the training.
    """

    name: str
    data: str
    split: str
    metrics: tuple[str, ...]
    text: str
    model: str
    floor: tuple[float, ...] = ()
    filters: tuple[str, ...] = ()
    against: str = ""
    published: tuple[float, ...] = ()
    source: str = ""
    preset: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    refit: bool = False
    seed: int = 0

    @property
    def command(self) -> list[str]:
        """The command that trains and tests it."""
        chosen = {"preset": self.preset} if self.preset else {}
        words = ["tastemaker", "train", self.data, "--model", self.model]
        words += [word for spec in self.filters for word in ("--filter", spec)]
        words += ["--split", self.split]
        for name, value in {**chosen, **self.settings}.items():
            words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
        words += ["--refit"] if self.refit else []
        return [*words, "--seed", str(self.seed), "--out", f"runs/reproduction/{self.name}"]


def rows() -> dict[str, Row]:
    """The rows by name, in the order of the file."""
    text = (ROOT / "reproduction" / "rows.toml").read_text(encoding="utf-8")
    listed = tomllib.loads(text)
    found = {}
    for name, given in listed["rows"].items():
        values = {**listed["protocols"][given.pop("protocol")], **given, "name": name}
        found[name] = Row(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    return found


def reproduce(row: Row) -> dict[str, Any] | None:
    """Train and test one row; its result, as kept in reproduction/results, or None if it failed."""
    print(f"\n{row.name}: {shlex.join(row.command)}", flush=True)
    command = [sys.executable, "-m", *row.command, "--overwrite", "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return None
    said = json.loads(done.stdout.splitlines()[-1])
    folder = RUNS / row.name
    tested = json.loads((folder / "evaluation" / "test.json").read_text(encoding="utf-8"))
    machine = json.loads((folder / "run.json").read_text(encoding="utf-8"))["environment"]
    result = {
        "command": shlex.join(row.command),
        "metrics": {name: tested["values"][name] for name in row.metrics},
        "seed": row.seed,
        "seconds": round(said["seconds"]),
        "machine": {
            "processor": machine["processor"],
            "cores": machine["cores"],
            "threads": machine["threads"],
            "gpu": machine["gpu"],
            "python": machine["python"],
            "torch": machine["packages"]["torch"],
        },
    }
    if row.against:
        result["against"] = differences(row)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{row.name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def differences(row: Row) -> dict[str, Any]:
    """By how much a row's run is better than the one it is held against, query by query."""
    from tastemaker.experiment.compare import compare

    if not (RUNS / row.against).exists():
        raise SystemExit(f"{row.name} is held against {row.against}, which was not run; run it")
    paired = [name for name in row.metrics if name != "auc"]  # which is of all queries together
    found = compare(RUNS / row.against, RUNS / row.name, metrics=paired)
    names = ("difference", "low", "high", "p_value")
    return {line["metric"]: {name: line[name] for name in names} for line in found.to_dicts()}


def kept() -> dict[str, dict[str, Any]]:
    """The kept results by row."""
    files = {name: RESULTS / f"{name}.json" for name in rows()}
    return {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name, path in files.items()
        if path.exists()
    }


def shown(value: float) -> str:
    """A metric as tables print it: .3152."""
    return f"{value:.4f}".removeprefix("0")


def ours(row: Row, result: Mapping[str, Any]) -> str:
    """Our values with their intervals."""
    found = [result["metrics"][name] for name in row.metrics]
    return " / ".join(
        f"{shown(entry['value'])} [{shown(entry['low'])}, {shown(entry['high'])}]"
        for entry in found
    )


def cells(row: Row, result: Mapping[str, Any] | None) -> list[str]:
    """One row of the table."""
    figures = [" / ".join(map(shown, values)) or "-" for values in (row.floor, row.published)]
    if result is None:
        return [row.name, " / ".join(row.metrics), "not run", *figures, row.against, "-", "-", "-"]
    machine = result["machine"]
    return [
        row.name,
        " / ".join(row.metrics),
        ours(row, result),
        *figures,
        better(row, result),
        str(result["seed"]),
        f"{result['seconds']:,}",
        f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores",
    ]


def better(row: Row, result: Mapping[str, Any]) -> str:
    """The differences to the row it is held against, with their intervals."""
    if not row.against:
        return "-"
    gaps = " / ".join(
        f"{gap['difference']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]"
        for gap in result["against"].values()
    )
    return f"{row.against}: {gaps}"


HEADER = (
    "row",
    "metrics",
    "ours",
    "at least",
    "published",
    "against",
    "seed",
    "seconds",
    "machine",
)


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    marks = ["---"] * len(header)
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, marks, *lines))


def results_table() -> str:
    """The generated part of docs/reproduction.md: protocols, results, commands."""
    found, listed = kept(), rows()
    parts = [markdown(HEADER, [cells(row, found.get(name)) for name, row in listed.items()])]
    sources = [f"- {name}: {row.source}" for name, row in listed.items() if row.source]
    parts += ["Published figures:", "\n".join(sources)]
    texts = dict.fromkeys(f"- `{row.data}`: {row.text}" for row in listed.values())
    parts += ["Protocols:", "\n".join(texts)]
    commands = "\n".join(shlex.join(row.command) for row in listed.values())
    parts += ["Commands:", f"```sh\n{commands}\n```"]
    return "\n\n".join(parts)


def results_by_model() -> dict[str, list[str]]:
    """Model -> one text a row: data, metrics, our values beside the published ones."""
    found, texts = kept(), {}
    for name, row in rows().items():
        if name in found:
            values = " / ".join(
                shown(found[name]["metrics"][metric]["value"]) for metric in row.metrics
            )
            theirs = f" ({' / '.join(map(shown, row.published))})" if row.published else ""
            text = f"{row.data} {' / '.join(row.metrics)} {values}{theirs}"
            texts.setdefault(row.model, []).append(text)
    return texts


def sign(metric: str) -> int:
    """1 where more is better, -1 for losses and errors."""
    return -1 if metric in LOWER_IS_BETTER else 1


def faults(row: Row, result: Mapping[str, Any] | None) -> list[str]:
    """What is wrong with a row: that it failed, or the metrics below the floor."""
    if result is None:
        return [f"{row.name}: the command failed"]
    low = [
        f"{row.name}: {name} is {result['metrics'][name]['value']:.4f}, worse than {least:.4f}"
        for name, least in zip(row.metrics, row.floor, strict=False)
        if sign(name) * (result["metrics"][name]["value"] - least) < 0
    ]
    beaten = [
        f"{row.name}: {name} is not better than that of {row.against} ({gap['difference']:+.4f})"
        for name, gap in result.get("against", {}).items()
        if sign(name) * gap["difference"] <= 0
    ]
    return low + beaten


def main() -> None:
    """Run the rows named on the command line, or all."""
    listed = rows()
    chosen = sys.argv[1:] if sys.argv[1:] not in ([], ["all"]) else list(listed)
    if unknown := [name for name in chosen if name not in listed]:
        raise SystemExit(f"there is no row {unknown[0]!r}; rows: {', '.join(listed)}")
    found = {name: reproduce(listed[name]) for name in chosen}
    print("\n" + markdown(HEADER, [cells(listed[name], found[name]) for name in chosen]))
    if wrong := [line for name in chosen for line in faults(listed[name], found[name])]:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
