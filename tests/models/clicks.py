"""Small labelled logs for the tests of rankers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import torch

from tastemaker.data import Dataset, TrainingSet
from tastemaker.models.base import Recommender
from tastemaker.models.ranking.ranker import Asked, Ranker


def listing(n_users: int, n_items: int, columns: Mapping[str, int], **tables) -> Dataset:
    """A labelled log in which every user, item and value of each context column occurs."""
    every = np.arange(max(n_users, n_items, *columns.values(), 2))
    frame = {
        "user": every % n_users,
        "item": every % n_items,
        "at": every,
        "clicked": every % 2,
        **{name: [f"{name} {value % n}" for value in every] for name, n in columns.items()},
    }
    return Dataset.from_frame(
        pl.DataFrame(frame),
        user="user",
        item="item",
        order="at",
        label="clicked",
        columns=dict.fromkeys(columns, "categorical"),
        name="listing",
        **tables,
    )


def histories_log(histories: Sequence[Sequence[int]], n_items: int) -> TrainingSet:
    """Liked histories, one event a moment, each followed by one row that was not liked."""
    rows = [(u, i, at, 1) for u, row in enumerate(histories) for at, i in enumerate(row)]
    rows += [(u, (u + 1) % n_items, len(row), 0) for u, row in enumerate(histories)]
    users, items, moments, labels = (np.array(column) for column in zip(*rows, strict=True))
    every = np.arange(max(n_items, len(histories)))
    once = {"user": every % len(histories), "item": every % n_items, "at": every, "liked": every}
    dataset = Dataset.from_frame(
        pl.DataFrame(once), user="user", item="item", order="at", label="liked", name="histories"
    )
    columns = {"order": moments, "label": labels.astype(np.float32)}
    return TrainingSet.whole(dataset.with_interactions(users, items, columns))


def asked(histories: Sequence[Sequence[int]], model: Ranker, width: int) -> Asked:
    """Questions of nobody known with these histories, padded to `width`."""
    items = torch.full((len(histories), width), model.n_items)
    for row, history in enumerate(histories):
        items[row, : len(history)] = torch.tensor(history, dtype=torch.long)
    lengths = torch.tensor([len(history) for history in histories])
    users = torch.full((len(histories),), model.n_users)
    none = torch.zeros(len(histories), 0)
    return Asked(users, none.long(), none, items, lengths)


def shaken(model: Recommender, std: float = 0.3) -> None:
    """Parameters far from the start, so that every term counts; padding stays zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.requires_grad:
                value.add_(std * torch.randn_like(value))
            if name.endswith("table.weight"):
                value[0] = 0


def n_parameters(model: torch.nn.Module) -> int:
    """How many numbers training moves."""
    return sum(value.numel() for value in model.parameters() if value.requires_grad)
