"""How far an attack gets: the exposure of its targets, and what a defence costs in accuracy.

Exposure is that of the VAT paper (arXiv 2409.17476): a target is a hit when it is among the first k
of a real user who has not interacted with it, neither in the history nor among what is asked for;
hit rates are taken per target over those users and averaged over the targets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.data import Part, Ragged, Split
from tastemaker.errors import ConfigError, DataError
from tastemaker.evaluation import Estimate, Ranker, bootstrap, evaluate
from tastemaker.evaluation.protocol import measuring
from tastemaker.models.base import Recommender
from tastemaker.models.catalog import find
from tastemaker.training import fit

__all__ = ["Outcome", "Victim", "assess", "target_exposure"]

_KS = (10, 20, 50)
_QUALITY = ("recall@20", "ndcg@10", "ndcg@20")


def target_exposure(
    model: Ranker,
    part: Part,
    targets: NDArray[np.int64],
    *,
    ks: Sequence[int] = _KS,
    batch_size: int = 1024,
) -> dict[str, Estimate]:
    """How often, and how high, items stand on the lists of users who do not have them.

    Args:
        model: what makes the lists, seen items left out.
        part: whose queries are asked; fake users are in none.
        targets: [T] int64 item codes.
        ks: list lengths.
        batch_size: queries per call of the model; no number depends on it.

    Returns:
        `"t-hr@k"`, the share of lists with the target, and `"t-ndcg@k"`, the mean of
        1 / log2(1 + rank), for each k, with intervals over users.

    Raises:
        DataError: when every user of the part has some target already.
    """
    taken = _holds(part.queries.histories.items, targets) | _holds(part.targets, targets)
    free = ~taken  # [B, T]
    per_target = free.sum(0)
    if not per_target.all():
        odd = int(targets[np.argmin(per_target)])
        raise DataError(f"every user of the part has item {odd} already, so none can be shown it")
    ranks = np.zeros(free.shape, np.int64)  # 0 = not listed
    with measuring(model):
        for start in range(0, len(part), batch_size):
            rows = slice(start, start + batch_size)
            queries = part.queries.take(rows)
            seen = queries.histories.items
            lists = model.recommend(queries, max(ks), exclude=seen).items.cpu().numpy()
            found = lists[:, None, :] == targets[:, None]  # [b, T, K]
            ranks[rows] = np.where(found.any(2), found.argmax(2) + 1, 0)
    share = free / per_target * (len(part) / len(targets))  # the mean over users is that of targets
    gains: dict[str, NDArray[np.float64]] = {}
    for k in ks:
        hits = (ranks > 0) & (ranks <= k)
        gains[f"t-hr@{k}"] = (hits * share).sum(1)
        gains[f"t-ndcg@{k}"] = (hits / np.log2(1.0 + np.maximum(ranks, 1)) * share).sum(1)
    return dict(zip(gains, bootstrap(list(gains.values())), strict=True))


def _holds(rows: Ragged, items: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each row holds each item, [B, T]; items are rising."""
    held = np.zeros((len(rows), len(items)), np.bool_)
    place = np.searchsorted(items, rows.values).clip(max=len(items) - 1)
    same = items[place] == rows.values
    held[rows.row_index()[same], place[same]] = True
    return held


@dataclass(frozen=True)
class Victim:
    """A method that is attacked.

    Attributes:
        name: what a table calls it.
        model: its name in the catalog.
        settings: its settings by name.
    """

    name: str
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of a victim.

    Attributes:
        victim: its name.
        quality: accuracy on real users, metric -> estimate.
        exposure: of the targets, metric -> estimate; see `target_exposure`.
        seconds: of the training.
    """

    victim: str
    quality: Mapping[str, Estimate]
    exposure: Mapping[str, Estimate]
    seconds: float

    def __getitem__(self, metric: str) -> float:
        found = self.exposure if metric.startswith("t-") else self.quality
        return found[metric].value

    def to_json(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return {
            "victim": self.victim,
            "seconds": round(self.seconds, 1),
            **{
                kind: {name: estimate.to_json() for name, estimate in found.items()}
                for kind, found in (("quality", self.quality), ("exposure", self.exposure))
            },
        }


def assess(
    victim: Victim,
    split: Split,
    targets: NDArray[np.int64],
    *,
    part: str = "test",
    seed: int = 0,
    device: str = "auto",
) -> Outcome:
    """Train a victim on a split, clean or poisoned, and measure it on real users.

    A victim that monitors a metric keeps its best epoch on the validation part, as an operator
    who knows nothing of the attack would.

    Args:
        victim: what to train.
        split: `Poisoned.split`, or the clean one.
        targets: [T] int64 item codes, rising, such as `Poisoned.targets`.
        part: `"valid"` to choose settings, `"test"` to report.
        seed: of the training.
        device: where to train.

    Raises:
        ConfigError: for an unknown part, method or setting.
    """
    parts = {"valid": split.valid, "test": split.test}
    asked = parts.get(part)
    if asked is None:
        known = " and ".join(name for name, found in parts.items() if found is not None)
        raise ConfigError(f"part is {part!r}; the split {split.name!r} has {known}")
    model = find(victim.model).load().create(victim.settings, split.dataset, seed=seed)
    started = time.monotonic()
    fit(model, split.train, seed=seed, device=device, validate=_validation(model, split.valid))
    seconds = time.monotonic() - started
    quality = evaluate(model, asked, metrics=_QUALITY).values
    return Outcome(victim.name, quality, target_exposure(model, asked, targets), seconds)


def _validation(model: Recommender, part: Part | None) -> Callable[[], Mapping[str, float]] | None:
    """The monitored metric on a validation part; `None` where nothing is monitored."""
    monitor = model.config.to_json().get("monitor")
    if part is None or monitor is None:
        return None

    def validate() -> Mapping[str, float]:
        return {monitor: evaluate(model, part, metrics=[monitor])[monitor]}

    return validate
