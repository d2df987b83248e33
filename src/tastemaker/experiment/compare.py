"""Runs side by side on the same queries: paired differences with intervals and p-values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tastemaker.errors import ConfigError, RunError
from tastemaker.evaluation import Evaluation
from tastemaker.evaluation import compare as compare_evaluations
from tastemaker.experiment.run import PartName, Run, open_run
from tastemaker.experiment.stored_evaluation import load_evaluation

if TYPE_CHECKING:
    import polars as pl

__all__ = ["compare"]

_USUAL = ("ndcg@10", "recall@10", "mrr@10", "gauc", "log_loss")


def compare(
    first: Run | Path | str,
    *others: Run | Path | str,
    part: PartName = "test",
    metrics: Sequence[str] | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """Compare runs with the first one, query by query.

    Args:
        first: the baseline.
        others: at least one run that was asked the same queries.
        part: `"test"` or `"valid"`.
        metrics: names; by default NDCG, recall and MRR at 10, or GAUC and log loss of methods
            that predict labels. AUC is of all queries together, so it has no differences.
        seed: of the resampling.

    Returns:
        One row a run and metric: run, model, metric, value, baseline, difference (value minus
        baseline) with its 95 % interval low..high, p_value (paired permutation test), queries.

    Raises:
        RunError: when a run has no evaluation of the part, or the runs were asked different
            queries or by different protocols.
        ConfigError: for fewer than two runs, or a metric they do not share.
    """
    import polars as pl

    runs = [run if isinstance(run, Run) else open_run(run) for run in (first, *others)]
    if len(runs) < 2:
        raise ConfigError("comparing takes at least two runs; name another one")
    kept = [_kept(run, part) for run in runs]
    baseline, questions = kept[0]
    for run, (found, asked) in zip(runs[1:], kept[1:], strict=True):
        _refuse_unlike(runs[0], run, baseline, found, same=asked == questions)
    names = _names(runs)
    rows = []
    for run, name, (found, _) in zip(runs[1:], names[1:], kept[1:], strict=True):
        chosen = metrics or [usual for usual in _USUAL if usual in found.per_query] or None
        for metric, pair in compare_evaluations(baseline, found, chosen, seed=seed).items():
            rows.append(
                {
                    "run": name,
                    "model": run.record.model,
                    "metric": metric,
                    "value": pair.second,
                    "baseline": pair.first,
                    "difference": pair.difference.value,
                    "low": pair.difference.low,
                    "high": pair.difference.high,
                    "p_value": pair.p_value,
                    "queries": pair.difference.n,
                }
            )
    return pl.DataFrame(rows)


def _kept(run: Run, part: PartName) -> tuple[Evaluation, str]:
    found = load_evaluation(run.folder, part, run.dataset)
    if found is None:
        raise RunError(
            f"{run.folder} was not evaluated on the {part} part; do so with: "
            f"tastemaker evaluate {run.folder} --part {part}"
        )
    return found


def _refuse_unlike(
    first: Run, other: Run, baseline: Evaluation, found: Evaluation, *, same: bool
) -> None:
    """Raise when two runs cannot be compared query by query, saying why."""
    if not same:
        mine, its = first.record, other.record
        reasons = [
            f"{what} {ours!r} against {theirs!r}"
            for what, ours, theirs in (
                ("data", mine.data, its.data),
                ("split", mine.split, its.split),
                ("split seed", mine.split_seed, its.split_seed),
                ("filters", list(mine.filters), list(its.filters)),
            )
            if ours != theirs
        ]
        raise RunError(
            f"{first.folder} and {other.folder} were asked different queries "
            f"({'; '.join(reasons) or 'the data differ'}); compare runs on the same data and split"
        )
    if baseline.protocol != found.protocol:
        raise RunError(
            f"{first.folder} and {other.folder} were measured differently "
            f"({baseline.protocol!r} against {found.protocol!r}); evaluate both the same way"
        )


def _names(runs: Sequence[Run]) -> list[str]:
    """Folder names where they tell the runs apart, else whole paths."""
    short = [run.folder.name for run in runs]
    return short if len(set(short)) == len(short) else [str(run.folder) for run in runs]
