"""Batches of the shapes most methods train on: user-item pairs, whole sequences, prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from tastemaker.data.queries import Histories
from tastemaker.data.training_set import TrainingSet
from tastemaker.errors import DataError
from tastemaker.training.samplers import NegativeSampler
from tastemaker.training.stages import Batch

__all__ = ["PairBatches", "PrefixBatches", "SequenceBatches", "SharedPairBatches", "shuffled"]

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
    ) -> Self:
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
class SharedPairBatches(PairBatches):
    """Every training interaction once an epoch, with negatives that the batch has in common.

    A batch has rows `users` [B] and `positives` [B] int64 and `unknown` [B, K] bool, which
    negatives each user does not know; and the shared `negatives` [K] int64, K different items drawn
    uniformly, `num_negatives` of them or the whole catalog. Of those a user does not know, each is
    equally likely, as with negatives of their own.
    """

    def gather(self, rows: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        """Pairs of these rows, and fresh negatives for all of them."""
        users = self.users[rows]
        negatives = self.sampler.draw_shared(self.num_negatives, generator)
        return Batch(
            {
                "users": torch.from_numpy(users),
                "positives": torch.from_numpy(self.items[rows]),
                "unknown": torch.from_numpy(self.sampler.unknown(users, negatives)),
            },
            {"negatives": torch.from_numpy(negatives)},
        )


@dataclass(frozen=True)
class SequenceBatches:
    """Sequences of users, every position a target, batches of like length and equal size.

    A batch has rows `items` [B, L] and `targets` [B, L] int64, right padded with `padding`:
    `targets[b, t]` is the event after `items[b, t]`. Sequences meet others of their length, L
    rounded up to a multiple of eight, and B is larger where L is smaller: every step computes
    about equally much and weighs about alike. There are as many shapes as lengths, so kernels
    that are compiled, tuned or captured per shape are made once.

    Attributes:
        histories: sequences of at least two events.
        users: [S] int64, whose they are.
        max_length: inputs per sequence, the most recent ones.
        batch_size: sequences of average length per batch.
        padding: the code that fills rows, `n_items`.
        columns: aligned columns of the histories to carry along, for inputs and targets.
    """

    histories: Histories
    users: NDArray[np.int64]
    max_length: int
    batch_size: int
    padding: int
    columns: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        data: TrainingSet,
        max_length: int,
        batch_size: int,
        *,
        stride: int | None = None,
        columns: Sequence[str] = (),
    ) -> SequenceBatches:
        """The training histories of two or more events.

        Args:
            data: what to train on.
            max_length: inputs per sequence.
            batch_size: sequences of average length per batch.
            stride: histories that are too long give a sequence every `stride` events, counted
                from the end; `None` keeps the most recent one alone.
            columns: of the interactions, to carry along.

        Raises:
            DataError: when nobody has two training events.
        """
        histories = data.histories(columns=tuple(columns))
        if histories.items.lengths.max(initial=0) < 2:
            raise DataError(
                "no user has two or more training interactions, so there is no next item to learn "
                "from; use a method without order, such as item-knn, or more data"
            )
        if stride is None:
            users = np.flatnonzero(histories.items.lengths >= 2)
            kept = histories.take(users, last=max_length + 1)
        else:
            kept, users = histories.windows(max_length + 1, stride)
        return cls(kept, users, max_length, batch_size, data.n_items, tuple(columns))

    @cached_property
    def widths(self) -> NDArray[np.int64]:
        """[S] int64 inputs of each sequence's row, padding included."""
        inputs = self.histories.items.lengths - 1
        rounded = -(-inputs // _LENGTH_STEP) * _LENGTH_STEP
        return np.maximum(np.minimum(rounded, self.max_length), inputs)

    def plan(self, generator: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """Batches of sequences of one width, in random order.

        What does not fill a batch of its width joins the next wider ones.
        """
        shuffled_rows = generator.permutation(len(self.widths))
        tokens = self.batch_size * float(self.widths.mean())
        batches: list[NDArray[np.int64]] = []
        waiting = np.empty(0, np.int64)
        for width in np.unique(self.widths):
            alike = shuffled_rows[self.widths[shuffled_rows] == width]
            waiting = np.concatenate([waiting, alike])
            size = max(1, round(tokens / int(width)))
            full = len(waiting) // size * size
            batches += np.split(waiting[:full], range(size, full, size)) if full else []
            waiting = waiting[full:]
        if len(waiting):
            batches.append(waiting)
        return [batches[index] for index in generator.permutation(len(batches))]

    def gather(self, rows: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        """Inputs and next items of these sequences; nothing is drawn."""
        del generator
        chosen = self.histories.take(rows)
        width = int(self.widths[rows].max()) + 1
        dense = chosen.items.padded(width, self.padding)
        batch = {
            "items": torch.from_numpy(dense[:, :-1].copy()),  # masked below: never a view
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


@dataclass(frozen=True)
class PrefixBatches:
    """One sample per target: the events before it, and it.

    A batch has rows `items` [B, L] int64, right padded, L the longest prefix rounded up to a
    multiple of eight, at most `max_length`; `lengths`, `targets`, `users` and `samples` (the
    sample's number) [B] int64; and for each column its values `name` [B, L] and the target's own,
    `"next_" + name` [B].

    Attributes:
        histories: all users' training histories, with the columns.
        ends: [S] int64, where in `histories.items.values` each sample's target stands, rising.
        users: [S] int64, whose they are.
        max_length: events of a prefix, the most recent ones.
        batch_size: samples per batch.
        padding: the code that fills rows, `n_items`.
    """

    histories: Histories
    ends: NDArray[np.int64]
    users: NDArray[np.int64]
    max_length: int
    batch_size: int
    padding: int

    @classmethod
    def of(
        cls,
        data: TrainingSet,
        max_length: int,
        batch_size: int,
        *,
        min_history: int = 1,
        columns: Sequence[str] = (),
    ) -> PrefixBatches:
        """Every training event with at least `min_history` events before it.

        Raises:
            DataError: when there is none.
        """
        histories = data.histories(columns=tuple(columns))
        rows = histories.items.row_index()
        place = np.arange(len(rows), dtype=np.int64) - histories.items.offsets[rows]
        ends = np.flatnonzero(place >= min_history)
        if not len(ends):
            raise DataError(
                f"no user has more than {min_history} training interactions, so there is no next "
                "item to learn from; use a method without order, such as item-knn, or more data"
            )
        return cls(histories, ends, rows[ends], max_length, batch_size, data.n_items)

    def plan(self, generator: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """Shuffled samples."""
        return shuffled(len(self.ends), self.batch_size, generator)

    def histories_of(self, samples: NDArray[np.int64]) -> Histories:
        """The events before the targets of these samples, at most `max_length` each."""
        return self.histories.ending_at(self.users[samples], self.ends[samples], self.max_length)

    def gather(self, rows: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        """Prefixes and targets of these samples; nothing is drawn."""
        del generator
        chosen, ends = self.histories_of(rows), self.ends[rows]
        lengths = chosen.items.lengths
        rounded = -(-int(lengths.max()) // _LENGTH_STEP) * _LENGTH_STEP
        width = min(rounded, self.max_length)
        batch = {
            "items": chosen.items.padded(width, self.padding),
            "lengths": lengths,
            "targets": self.histories.items.values[ends],
            "users": self.users[rows],
            "samples": rows,
        }
        for name, column in self.histories.columns.items():
            batch[name] = chosen.padded_column(name, width, 0)
            batch[f"next_{name}"] = column[ends]
        return Batch({name: torch.from_numpy(array) for name, array in batch.items()})
