"""Batches of labelled rows: a user, an item, what was known before, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tastemaker.data.features import Coded
from tastemaker.data.queries import Histories, Ragged
from tastemaker.data.training_set import TrainingSet
from tastemaker.errors import DataError
from tastemaker.training.batches import shuffled
from tastemaker.training.stages import Batch

__all__ = ["RankingBatches", "binary_labels", "told"]

_LENGTH_STEP = 8  # histories are padded to a multiple of it


@dataclass(frozen=True)
class RankingBatches:
    """Every training row once an epoch, with the events of its user that came before it.

    A batch has rows `users` and `targets` (the row's item) [B] int64, `labels` [B] float32 of 0
    and 1, `contexts` [B, T] int64 and `context_numbers` [B, M] float32. With histories also
    `items` [B, L] int64, oldest first and right padded, L the longest rounded up to a multiple of
    eight, `lengths` [B] int64, and for each column its values `name` [B, L] and the row's own,
    `"next_" + name` [B].

    An event is before a row when it is earlier: what happened at the same moment (a sampled
    negative and its positive, say) is not known.

    Attributes:
        users: [R] int64.
        targets: [R] int64 item codes.
        labels: [R] float32.
        contexts: of the rows, in codes and numbers.
        histories: the events that may be told, of all users, or `None` for no histories.
        ends: [R] int64, where in `histories.items.values` the events before each row end.
        own: column name -> [R], the rows' own values of the histories' columns.
        max_length: events of a history, the most recent ones.
        batch_size: rows per batch.
        padding: the code that fills histories, `n_items`.
    """

    users: NDArray[np.int64]
    targets: NDArray[np.int64]
    labels: NDArray[np.float32]
    contexts: Coded
    histories: Histories | None
    ends: NDArray[np.int64]
    own: dict[str, NDArray[np.generic]]
    max_length: int
    batch_size: int
    padding: int

    @classmethod
    def of(
        cls,
        data: TrainingSet,
        contexts: Coded,
        batch_size: int,
        *,
        max_length: int = 0,
        only_liked: bool = True,
        columns: Sequence[str] = (),
    ) -> RankingBatches:
        """The rows of a training set.

        Args:
            data: rows with labels of 0 and 1.
            contexts: of its rows.
            batch_size: rows per batch.
            max_length: events of a history; 0 for no histories.
            only_liked: whether histories are made of events with label 1 alone.
            columns: of the interactions, to carry along with histories.

        Raises:
            DataError: when labels are not 0 and 1, or all alike.
        """
        labels = binary_labels(data)
        histories, ends = None, np.zeros(0, np.int64)
        if max_length:
            histories = data.histories(columns=tuple(columns))
            kept = labels > 0 if only_liked else np.ones(len(labels), np.bool_)
            before = np.append(0, np.cumsum(kept))  # events that may be told before each row
            ends = before[_first_of_moment(data)]
            histories = _chosen(histories, kept)
        return cls(
            users=data.users,
            targets=data.items,
            labels=labels,
            contexts=contexts,
            histories=histories,
            ends=ends,
            own={name: data.column(name) for name in columns if max_length},
            max_length=max_length,
            batch_size=batch_size,
            padding=data.n_items,
        )

    def plan(self, generator: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """Shuffled rows."""
        return shuffled(len(self.users), self.batch_size, generator)

    def gather(self, rows: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        """These rows with their histories; nothing is drawn."""
        del generator
        users = self.users[rows]
        batch: dict[str, NDArray[np.generic]] = {
            "users": users,
            "targets": self.targets[rows],
            "labels": self.labels[rows],
            "contexts": self.contexts.codes[rows],
            "context_numbers": self.contexts.numbers[rows],
        }
        if self.histories is not None:
            chosen = self.histories.ending_at(users, self.ends[rows], self.max_length)
            lengths = chosen.items.lengths
            width = -(-int(lengths.max()) // _LENGTH_STEP) * _LENGTH_STEP
            batch |= {"items": chosen.items.padded(width, self.padding), "lengths": lengths}
            for name in self.own:
                batch[name] = chosen.padded_column(name, width, 0)
                batch[f"next_{name}"] = self.own[name][rows]
        return Batch({name: torch.from_numpy(array) for name, array in batch.items()})


def binary_labels(data: TrainingSet) -> NDArray[np.float32]:
    """The labels of the training rows, [R] float32 of 0 and 1.

    Raises:
        DataError: when there are others, or no two different ones.
    """
    labels = data.column("label")
    found = np.unique(labels)
    if not np.isin(found, (0.0, 1.0)).all():
        raise DataError(
            f"data set {data.dataset.name!r} has labels from {found[0]:g} to {found[-1]:g}, but a "
            "click is 0 or 1; make them so with the filter binary-label:threshold=VALUE"
        )
    if len(found) < 2:
        raise DataError(
            f"data set {data.dataset.name!r}: every training row has label {found[0]:g}, so there "
            "is nothing to tell apart; the filter with-negatives:per_positive=1 adds rows with "
            "label 0"
        )
    return np.asarray(labels, np.float32)


def told(histories: Histories, *, only_liked: bool, columns: Sequence[str] = ()) -> Histories:
    """What a method is told of queries' histories.

    Args:
        histories: all events, with columns.
        only_liked: whether events without a positive label are left out; where the histories
            carry no labels, all events are liked.
        columns: those to keep, where the histories have them.
    """
    kept = {name: histories.columns[name] for name in columns if name in histories.columns}
    chosen = Histories(histories.items, kept)
    if not only_liked or "label" not in histories.columns:
        return chosen
    return _chosen(chosen, histories.columns["label"] > 0)


def _chosen(histories: Histories, kept: NDArray[np.bool_]) -> Histories:
    """The histories without the events that are not kept."""
    before = np.append(0, np.cumsum(kept))
    items = Ragged(histories.items.values[kept], before[histories.items.offsets])
    return Histories(items, {name: column[kept] for name, column in histories.columns.items()})


def _first_of_moment(data: TrainingSet) -> NDArray[np.int64]:
    """For each training row the first one of the same user and moment, [R] int64."""
    columns = data.dataset.interactions.column_names
    times = data.column("order" if "order" in columns else "timestamp")
    users = data.users
    new = np.ones(len(users), np.bool_)
    new[1:] = (users[1:] != users[:-1]) | (times[1:] != times[:-1])
    return np.asarray(np.flatnonzero(new)[np.cumsum(new) - 1])
