"""Evaluate a model: rank the whole catalog for each query, and measure the lists.

The evaluator knows a model by two protocols only: `Ranker` makes lists, `Scorer` scores pairs. It
streams over the queries; what it keeps is the rank of each target and one number per query and
metric. See `ranking`, `beyond` and `slices` for what is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tastemaker.console import Progress
from tastemaker.data.queries import Queries, Ragged
from tastemaker.errors import ConfigError, DataError
from tastemaker.evaluation.beyond import (
    BEYOND_METRICS,
    CATEGORY_METRICS,
    EXPOSURE_METRICS,
    Exposure,
    ItemFacts,
    ListMetrics,
)
from tastemaker.evaluation.candidates import Candidates, block_size, draw
from tastemaker.evaluation.intervals import bootstrap
from tastemaker.evaluation.names import Metric, parse_metrics
from tastemaker.evaluation.ranking import RANKING_METRICS, Hits, target_ranks
from tastemaker.evaluation.results import Estimate, Evaluation
from tastemaker.evaluation.slices import standard_slices
from tastemaker.layers.selection import top_k

if TYPE_CHECKING:
    from tastemaker.data import Part, TrainingSet

__all__ = ["Lists", "Model", "Ranker", "Scorer", "evaluate", "measuring"]


class Lists(Protocol):
    """What a ranker answers: items [B, k] int64, best first, -1 where the list ends."""

    @property
    def items(self) -> Tensor:
        """[B, k] int64 item codes or -1."""
        ...


class Ranker(Protocol):
    """A model that makes lists."""

    n_items: int

    def recommend(
        self,
        queries: Queries,
        k: int,
        *,
        exclude: Ragged | None = None,
        allow: NDArray[np.int64] | None = None,
    ) -> Lists:
        """The k best items of each query."""
        ...


class Scorer(Protocol):
    """A model that scores given items."""

    n_items: int

    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """[B, C] float, higher is better, of items [B, C] int64."""
        ...


class Model(Ranker, Scorer, Protocol):
    """A model that does both, as every recommender does."""


@dataclass(frozen=True, eq=False)
class _Asked:
    """The queries of a part that have targets, and their distinct targets.

    Attributes:
        users: [B] int64.
        queries: B queries.
        targets: B rows, each sorted, distinct and not empty.
        places: [T] int64, where each target stands in the part's `targets.values`.
        n_skipped: queries of the part without targets.
    """

    users: NDArray[np.int64]
    queries: Queries
    targets: Ragged
    places: NDArray[np.int64]
    n_skipped: int

    @classmethod
    def of(cls, part: Part) -> _Asked:
        asked = np.flatnonzero(part.targets.lengths)
        if len(asked) == 0:
            raise DataError("nothing to evaluate: no query of this part has a target")
        rows, items = part.targets.row_index(), part.targets.values
        pairs = rows * (items.max() + 1) + items
        order = np.argsort(pairs, kind="stable")  # by query and item
        rows, items, pairs = rows[order], items[order], pairs[order]
        new = np.ones(len(items), bool)
        new[1:] = pairs[1:] != pairs[:-1]
        lengths = np.bincount(rows[new], minlength=len(part.targets))[asked].astype(np.int64)
        whole = len(asked) == len(part.targets)
        return cls(
            users=part.users[asked],
            queries=part.queries if whole else part.queries.take(asked),
            targets=Ragged.from_lengths(items[new], lengths),
            places=order[new],
            n_skipped=len(part.targets) - len(asked),
        )


def evaluate(
    model: Model,
    part: Part,
    *,
    train: TrainingSet | None = None,
    metrics: Sequence[str] | None = None,
    ks: Sequence[int] = (10, 20),
    exclude_seen: bool = True,
    candidates: Candidates | None = None,
    slices: Mapping[str, NDArray[np.bool_]] | None = None,
    batch_size: int = 1024,
) -> Evaluation:
    """Rank the catalog for every query of a part and measure the lists.

    Queries without targets are left out. Targets that the query's history holds cannot be hit
    when seen items are masked; they stay relevant, and are counted in `n_unreachable`.

    Args:
        model: what to measure; put into evaluation mode and back when it is a torch module.
        part: queries and targets.
        train: what the model learned from; some metrics and the standard slices need it.
        metrics: names such as `"ndcg@10"`, or `"ndcg"` for each of `ks`; by default all that can
            be measured with what is given.
        ks: list lengths for names without one.
        exclude_seen: whether items of a query's history are masked.
        candidates: rank only targets and drawn items; `None` ranks the whole catalog.
        slices: name -> choice [T] among `part.targets.values`; by default the standard slices
            when `train` is given, and none otherwise.
        batch_size: queries per call of the model; no number depends on it.

    Raises:
        ConfigError: for an unknown metric, or one that needs what is not given.
        DataError: when no query has a target, or a slice is of another part.
    """
    facts = None if train is None else ItemFacts.of(train)
    if slices is None:
        slices = {} if facts is None else standard_slices(part, facts.counts)
    wanted = parse_metrics(_default_metrics(facts) if metrics is None else metrics, ks)
    _check_needs(wanted, facts, candidates)
    _check_slices(slices, part)
    asked = _Asked.of(part)
    depth = max(metric.k for metric in wanted)
    if candidates is None:
        lists = _full_lists(model, asked, depth, exclude_seen, batch_size)
    else:
        lists = _sampled_lists(model, asked, depth, exclude_seen, candidates, facts)
    with measuring(model):
        measured = _measure(lists, asked, wanted, facts, model.n_items)
    return Evaluation(
        values=_estimates(wanted, measured),
        per_query=measured.per_query,
        users=asked.users,
        slices={name: _sliced(wanted, measured, asked, chosen) for name, chosen in slices.items()},
        n_queries=len(asked.users),
        n_skipped=asked.n_skipped,
        n_unreachable=_count_known(asked, model.n_items) if exclude_seen and not candidates else 0,
        protocol=_describe(model.n_items, exclude_seen, candidates),
    )


def _default_metrics(facts: ItemFacts | None) -> list[str]:
    names = [*RANKING_METRICS, *EXPOSURE_METRICS]
    if facts is not None:
        lacking = CATEGORY_METRICS if facts.categories is None else ()
        names += [name for name in BEYOND_METRICS if name not in lacking]
    return names


def _check_needs(
    wanted: Sequence[Metric], facts: ItemFacts | None, candidates: Candidates | None
) -> None:
    for metric in wanted:
        if metric.kind in BEYOND_METRICS and facts is None:
            raise ConfigError(
                f"metric {metric.name!r} is about the training data: give evaluate(train=...)"
            )
        if metric.kind in CATEGORY_METRICS and facts is not None and facts.categories is None:
            raise ConfigError(
                f"metric {metric.name!r} compares categories, but the items have no column of "
                "kind 'categories'"
            )
    if candidates is not None and candidates.by == "popularity" and facts is None:
        raise ConfigError("candidates by popularity need counts: give evaluate(train=...)")


def _check_slices(slices: Mapping[str, NDArray[np.bool_]], part: Part) -> None:
    for name, chosen in slices.items():
        if len(chosen) != len(part.targets.values):
            raise DataError(
                f"slice {name!r} chooses among {len(chosen)} targets, but the part has "
                f"{len(part.targets.values)}"
            )


@contextmanager
def measuring(model: object) -> Iterator[None]:
    """Evaluation mode (no dropout) without gradients; the mode is restored afterwards."""
    was_training = isinstance(model, nn.Module) and model.training
    if isinstance(model, nn.Module):
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        if isinstance(model, nn.Module):
            model.train(was_training)


def _full_lists(
    model: Ranker, asked: _Asked, depth: int, exclude_seen: bool, batch_size: int
) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """Lists [b, depth] of the whole catalog, batch by batch."""
    for start in range(0, len(asked.users), batch_size):
        rows = slice(start, min(start + batch_size, len(asked.users)))
        queries = asked.queries.take(rows)
        exclude = queries.histories.items if exclude_seen else None
        yield rows, model.recommend(queries, depth, exclude=exclude).items.cpu().numpy()


def _sampled_lists(
    model: Scorer,
    asked: _Asked,
    depth: int,
    exclude_seen: bool,
    candidates: Candidates,
    facts: ItemFacts | None,
) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """Lists [b, depth] of each query's targets and drawn items; blocks depend on nothing else."""
    weights = np.ones(model.n_items, np.int64)
    if candidates.by == "popularity" and facts is not None:
        weights = facts.counts
    step = block_size(model.n_items)
    for start in range(0, len(asked.users), step):
        rows = slice(start, min(start + step, len(asked.users)))
        queries, targets = asked.queries.take(rows), asked.targets.take(rows)
        taken = [targets, queries.histories.items] if exclude_seen else [targets]
        rng = np.random.default_rng([candidates.seed, start])
        drawn = draw(weights, candidates.n, taken, rng)
        pool = np.concatenate([targets.padded(int(targets.lengths.max()), -1), drawn], 1)
        scores = model.score(queries, torch.from_numpy(np.maximum(pool, 0))).float().cpu()
        scores = scores.masked_fill(torch.from_numpy(pool < 0), -torch.inf)
        keys = torch.from_numpy(queries.tie_keys())
        places = top_k(scores, min(depth, pool.shape[1]), keys)[0].numpy()  # -1 = list ends
        lists = np.full((len(queries), depth), -1, np.int64)
        chosen = np.take_along_axis(pool, places, 1)
        lists[:, : places.shape[1]] = np.where(places < 0, -1, chosen)
        yield rows, lists


@dataclass(frozen=True, eq=False)
class _Measured:
    """What one pass over the lists leaves.

    Attributes:
        ranks: [T] int32, the rank of each target, 0 where it is not listed.
        per_query: metric name -> [B] float64.
        exposure: how often each item is listed.
    """

    ranks: NDArray[np.int32]
    per_query: Mapping[str, NDArray[np.float64]]
    exposure: Exposure


def _measure(
    lists: Iterator[tuple[slice, NDArray[np.int64]]],
    asked: _Asked,
    wanted: Sequence[Metric],
    facts: ItemFacts | None,
    n_items: int,
) -> _Measured:
    """One pass over the lists."""
    n_queries = len(asked.users)
    ranks = np.zeros(len(asked.targets.values), np.int32)
    beyond = {m: np.empty(n_queries) for m in wanted if m.kind in BEYOND_METRICS}
    exposure = Exposure(n_items, [m.k for m in wanted if m.kind in EXPOSURE_METRICS])
    measure = None if facts is None else ListMetrics(facts)
    calibrated = any(metric.kind == "calibration" for metric in wanted)
    histories = asked.queries.histories.items
    with Progress("evaluating", n_queries, unit="queries") as progress:
        for rows, items in lists:
            first, last = asked.targets.offsets[[rows.start, rows.stop]]
            ranks[first:last] = target_ranks(items, asked.targets.take(rows))
            exposure.add(items)
            if measure is not None:
                known = measure.category_shares(histories.take(rows)) if calibrated else None
                for metric, values in beyond.items():
                    values[rows] = measure.measure(metric.kind, items[:, : metric.k], known)
            progress.advance(len(items))
    if facts is not None:
        usual = _mean_popularity(facts.counts, histories)
        for metric, values in beyond.items():
            if metric.kind == "popularity_lift":
                values /= usual
                values -= 1.0
    found = _accuracy(wanted, Hits.from_ranks(ranks, asked.targets))
    found |= {metric.name: values for metric, values in beyond.items()}
    return _Measured(ranks, found, exposure)


def _mean_popularity(counts: NDArray[np.int64], histories: Ragged) -> float:
    """Mean over the histories that are not empty of their items' mean count."""
    lengths = histories.lengths
    sums = np.bincount(histories.row_index(), counts[histories.values], minlength=len(histories))
    return float((sums[lengths > 0] / lengths[lengths > 0]).mean()) if lengths.any() else np.nan


def _count_known(asked: _Asked, n_items: int) -> int:
    """How many targets their query's history holds; targets are sorted and distinct."""
    histories, targets = asked.queries.histories.items, asked.targets
    seen = np.sort(histories.row_index() * n_items + histories.values)
    wanted = targets.row_index() * n_items + targets.values
    if not len(seen):
        return 0
    places = np.minimum(np.searchsorted(seen, wanted), len(seen) - 1)
    return int((seen[places] == wanted).sum())


def _accuracy(wanted: Sequence[Metric], hits: Hits) -> dict[str, NDArray[np.float64]]:
    """The accuracy metrics among those wanted, [B] each."""
    return {
        metric.name: RANKING_METRICS[metric.kind](hits, metric.k)
        for metric in wanted
        if metric.kind in RANKING_METRICS
    }


def _estimates(wanted: Sequence[Metric], measured: _Measured) -> dict[str, Estimate]:
    """All metrics with intervals, in the order in which they were asked for."""
    per_query = measured.per_query
    found = dict(zip(per_query, bootstrap(list(per_query.values())), strict=True))
    return {
        metric.name: measured.exposure.estimate(metric.kind, metric.k)
        if metric.kind in EXPOSURE_METRICS
        else found[metric.name]
        for metric in wanted
    }


def _sliced(
    wanted: Sequence[Metric], measured: _Measured, asked: _Asked, chosen: NDArray[np.bool_]
) -> dict[str, Estimate]:
    """The accuracy metrics where only the chosen targets (of the part's) are relevant."""
    hits = Hits.from_ranks(measured.ranks, asked.targets, chosen[asked.places])
    inside = hits.n_relevant > 0
    per_query = {name: values[inside] for name, values in _accuracy(wanted, hits).items()}
    return dict(zip(per_query, bootstrap(list(per_query.values())), strict=True))


def _describe(n_items: int, exclude_seen: bool, candidates: Candidates | None) -> str:
    seen = "items of the history masked" if exclude_seen else "items of the history allowed"
    if candidates is None:
        return f"full ranking of {n_items:,} items, {seen}, ties in random order"
    return (
        f"SAMPLED ranking: targets among {candidates.n} items drawn by {candidates.by} "
        f"(seed {candidates.seed}), {seen}, ties in random order; "
        "not comparable with a full ranking"
    )
