"""Batches of the two shapes most methods train on: user-item pairs and whole sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tastemaker.data.queries import Histories
from tastemaker.data.training_set import TrainingSet
from tastemaker.errors import DataError
from tastemaker.training.samplers import NegativeSampler
from tastemaker.training.stages import Batch

__all__ = ["PairBatches", "SequenceBatches", "shuffled"]

_LENGTH_STEP = 8  # rows are padded to a multiple of it, at most to max_length


def shuffled(
    n_rows: int, batch_size: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """The numbers below `n_rows` in random order, cut into batches; the last may be smaller."""
    order = generator.permutation(n_rows)
    return [order[start : start + batch_size] for start in range(0, n_rows, batch_size)]


@dataclass(frozen=True)
class PairBatches:
    """Every training interaction once an epoch, with negatives its user does not know.

    A batch has rows `users` [B], `positives` [B] and `negatives` [B, num_negatives], all int64.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    sampler: NegativeSampler
    batch_size: int
    num_negatives: int = 1

    @classmethod
    def of(
        cls, data: TrainingSet, batch_size: int, *, num_negatives: int = 1, alpha: float = 0.0
    ) -> PairBatches:
        """Pairs of a training set; negatives by popularity^alpha (0 = uniform)."""
        sampler = NegativeSampler.build(
            data.n_items,
            known=data.histories().items,
            counts=data.item_counts() if alpha else None,
            alpha=alpha,
        )
        return cls(data.users, data.items, sampler, batch_size, num_negatives)

    def plan(self, generator: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """Shuffled rows."""
        return shuffled(len(self.users), self.batch_size, generator)

    def gather(self, rows: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        """Pairs of these rows with fresh negatives."""
        users = self.users[rows]
        negatives = self.sampler.draw_for(users, self.num_negatives, generator)
        return Batch(
            {
                "users": torch.from_numpy(users),
                "positives": torch.from_numpy(self.items[rows]),
                "negatives": torch.from_numpy(negatives),
            }
        )


@dataclass(frozen=True)
class SequenceBatches:
    """One sequence per user, every position a target, batches of like length and equal weight.

    A batch has rows `items` [B, L] and `targets` [B, L] int64, right padded with `padding`:
    `targets[b, t]` is the event after `items[b, t]`. L is the longest sequence of the batch,
    rounded up a little. The random order mixes batches and, inside windows of `mixing` batches,
    who is batched with whom.

    Attributes:
        histories: sequences of at least two events.
        users: [S] int64, whose they are.
        max_length: inputs per sequence, the most recent ones.
        batch_size: sequences of average length per batch. Batches hold about equally many
            targets, so that every step weighs alike: more sequences where they are short.
        padding: the code that fills rows, `n_items`.
        columns: aligned columns of the histories to carry along, for inputs and targets.
        mixing: batches per window in which neighbours in length are shuffled together.
    """

    histories: Histories
    users: NDArray[np.int64]
    max_length: int
    batch_size: int
    padding: int
    columns: Sequence[str] = ()
    mixing: int = 8

    @classmethod
    def of(
        cls, data: TrainingSet, max_length: int, batch_size: int, *, columns: Sequence[str] = ()
    ) -> SequenceBatches:
        """The training histories of two or more events.

        Raises:
            DataError: when nobody has two training events.
        """
        histories = data.histories(columns=tuple(columns))
        users = np.flatnonzero(histories.items.lengths >= 2)
        if not len(users):
            raise DataError(
                "no user has two or more training interactions, so there is no next item to learn "
                "from; use a method without order, such as item-knn, or more data"
            )
        kept = histories.take(users, last=max_length + 1)
        return cls(kept, users, max_length, batch_size, data.n_items, tuple(columns))

    def plan(self, generator: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """Batches of similar length and about equally many targets, in random order."""
        lengths = self.histories.items.lengths - 1
        order = np.lexsort((generator.random(len(lengths)), lengths))
        window = self.batch_size * self.mixing
        # A random first cut keeps the windows, and so the company a user meets, changing.
        cuts = np.arange(int(generator.integers(1, window + 1)), len(order), window)
        mixed = np.concatenate([generator.permutation(part) for part in np.split(order, cuts)])
        targets = lengths[mixed]
        middles = np.cumsum(targets) - targets / 2
        batch = middles // (self.batch_size * lengths.mean())
        batches = np.split(mixed, np.flatnonzero(np.diff(batch)) + 1)
        return [batches[index] for index in generator.permutation(len(batches))]

    def _width(self, longest: int) -> int:
        """Events per row, so that inputs come in few different lengths.

        Kernels are compiled, tuned or captured per shape: few shapes make a fast first epoch.
        """
        inputs = -(-(longest - 1) // _LENGTH_STEP) * _LENGTH_STEP
        return max(min(inputs, self.max_length), longest - 1) + 1

    def gather(self, rows: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        """Inputs and next items of these sequences; nothing is drawn."""
        del generator
        chosen = self.histories.take(rows)
        width = self._width(int(chosen.items.lengths.max()))
        dense = chosen.items.padded(width, self.padding)
        batch = {
            "items": torch.from_numpy(np.ascontiguousarray(dense[:, :-1])),
            "targets": torch.from_numpy(np.ascontiguousarray(dense[:, 1:])),
            "users": torch.from_numpy(self.users[rows]),
        }
        # The last event is only ever a target, never an input.
        last = chosen.items.lengths - 1
        batch["items"][torch.arange(width - 1) >= torch.from_numpy(last)[:, None]] = self.padding
        for name in self.columns:
            column = chosen.padded_column(name, width, 0)
            batch[name] = torch.from_numpy(np.ascontiguousarray(column[:, :-1]))
            batch[f"next_{name}"] = torch.from_numpy(np.ascontiguousarray(column[:, 1:]))
        return Batch(batch)
