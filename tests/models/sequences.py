"""Small logs for the tests of sequential methods."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch

from tastemaker.data import Dataset, TrainingSet
from tastemaker.models.sequential.encoder import Sequences


def log(histories: Sequence[Sequence[int]], n_items: int | None = None) -> TrainingSet:
    """These histories as a training set; item codes are the given numbers."""
    n_items = n_items or 1 + max(max(row) for row in histories)
    users = np.repeat(np.arange(len(histories)), [len(row) for row in histories])
    items = np.concatenate([np.asarray(row, np.int64) for row in histories])
    # Codes are given in order of first appearance, so everything appears in order once.
    every = np.arange(max(n_items, len(histories)))
    once = {"user": every % len(histories), "item": every % n_items, "at": every}
    dataset = Dataset.from_frame(
        pl.DataFrame(once), user="user", item="item", order="at", name="small"
    )
    return TrainingSet.whole(
        dataset.with_interactions(users, items, {"order": np.arange(len(items))})
    )


def random_log(n_users: int = 12, n_items: int = 30, longest: int = 9) -> TrainingSet:
    """Random histories of 2 to `longest` events."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, longest + 1, n_users)
    return log([generator.integers(0, n_items, length).tolist() for length in lengths], n_items)


def walks(n_users: int = 240, n_items: int = 20) -> TrainingSet:
    """Walks of 3 to 8 events around a ring: item i is always followed by i + 1."""
    generator = np.random.default_rng(0)
    starts, lengths = generator.integers(0, n_items, n_users), generator.integers(3, 9, n_users)
    return log(
        [
            ((start + np.arange(length)) % n_items).tolist()
            for start, length in zip(starts, lengths, strict=True)
        ],
        n_items,
    )


def shaken(model: torch.nn.Module, std: float = 0.3) -> None:
    """Parameters far from the start, so that every term of the network counts."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = std * torch.randn_like(parameter)
            if "item_embeddings" in name:  # padding stays zero
                noise[model.n_items] = 0
            parameter.add_(noise)


def first_batch(model, data: TrainingSet, seed: int = 0):
    """The loss function of the model's only objective, and one batch for it."""
    (stage,) = model.stages(data)
    (objective,) = stage.objectives
    generator = np.random.default_rng(seed)
    rows = objective.batches.plan(generator)[0]
    return objective.loss, objective.batches.gather(rows, generator)


def whole(items: torch.Tensor) -> Sequences:
    """Rows without padding, [B, L] int64, as an encoder sees them."""
    return Sequences(items, torch.full((len(items),), items.shape[1]))
