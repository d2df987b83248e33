"""Windows of histories to train generative methods on.

The augmentations of GRID (CIKM 2025, arXiv 2507.22224): all contiguous sub-sequences, all
prefixes, or the last event of each history alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tastemaker.data import TrainingSet
from tastemaker.data.queries import Ragged
from tastemaker.errors import DataError
from tastemaker.training.stages import Batch

__all__ = ["Augmentation", "WindowBatches"]

Augmentation = Literal["windows", "prefixes", "none"]


@dataclass(frozen=True)
class WindowBatches:
    """Windows of like length in batches of about equally many events.

    A batch has rows `items` [B, T] int64 right padded with `padding`, `lengths` [B] int64,
    `users` [B] int64, and `counted` [B, T] bool, the events to be predicted. The first event of a
    window counts where it is the first of its user.

    With `every_event` a row is a window and all its events count: with `"windows"` it starts at
    a random event, another one each epoch, with `"prefixes"` windows follow one another from the
    first event on, with `"none"` only the last event of each user counts. Otherwise a row is a
    target with events before it: from a random one on, all, or only for the last events.

    Attributes:
        histories: of all users.
        max_length: events before a target, at most.
        batch_size: windows of average length per batch.
        padding: the code that fills rows.
        augmentation: see above.
        every_event: see above.
    """

    histories: Ragged
    max_length: int
    batch_size: int
    padding: int
    augmentation: Augmentation
    every_event: bool

    @classmethod
    def of(
        cls,
        data: TrainingSet,
        max_length: int,
        batch_size: int,
        augmentation: Augmentation,
        *,
        every_event: bool,
    ) -> WindowBatches:
        """Windows of a training set.

        Raises:
            DataError: when nobody has two training events.
        """
        histories = data.histories().items
        if histories.lengths.max(initial=0) < 2:
            raise DataError(
                "no user has two or more training interactions, so there is no next item to learn "
                "from; use a method without order, such as item-knn, or more data"
            )
        return cls(histories, max_length, batch_size, data.n_items, augmentation, every_event)

    def plan(self, generator: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """Batches of rows, which are numbers of events: where windows start, or targets."""
        if self.every_event:
            rows = self._starts(generator)
            lengths = self._stops(rows) - rows
        elif self.augmentation == "none":
            rows = self.histories.offsets[1:][self.histories.lengths > 1] - 1
            lengths = rows - self._earliest(rows) + 1
        else:
            rows = np.arange(len(self.histories.values), dtype=np.int64)
            lengths = rows - self._earliest(rows) + 1
        order = np.lexsort((generator.random(len(rows)), lengths))
        events = lengths[order].cumsum()
        share = self.batch_size * float(lengths.mean())
        batch = ((events - 1) // share).astype(np.int64)
        cuts = np.flatnonzero(batch[1:] != batch[:-1]) + 1
        batches = np.split(rows[order], cuts)
        return [batches[index] for index in generator.permutation(len(batches))]

    def gather(self, rows: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        """The windows of these rows; without `every_event`, "windows" draws where they start."""
        if self.every_event:
            starts, stops = rows, self._stops(rows)
        else:
            starts, stops = self._earliest(rows), rows + 1
            if self.augmentation == "windows":
                starts = starts + (generator.random(len(rows)) * (rows - starts)).astype(np.int64)
        users, lengths = self._users[rows], stops - starts
        place = np.arange(lengths.max())
        inside = place < lengths[:, None]
        values = self.histories.values
        items = values[(starts[:, None] + place).clip(max=len(values) - 1)]
        counted = inside.copy()
        if self.every_event and self.augmentation != "none":
            counted[:, 0] = starts == self.histories.offsets[:-1][users]
        else:
            counted = place == lengths[:, None] - 1
        batch = {
            "items": np.where(inside, items, self.padding),
            "lengths": lengths,
            "users": users,
            "counted": counted,
        }
        return Batch({name: torch.from_numpy(array) for name, array in batch.items()})

    @cached_property
    def _users(self) -> NDArray[np.int64]:
        """The user of each event."""
        return self.histories.row_index()

    def _starts(self, generator: np.random.Generator) -> NDArray[np.int64]:
        """The first events of an epoch's windows."""
        lengths, firsts = self.histories.lengths, self.histories.offsets[:-1]
        starts: NDArray[np.int64]
        if self.augmentation == "none":
            firsts, lengths = firsts[lengths > 1], lengths[lengths > 1]
            starts = firsts + np.maximum(lengths - self.max_length - 1, 0)
            return starts
        counts = np.where(lengths, np.maximum(-(-(lengths - 1) // self.max_length), 1), 0)
        users = np.repeat(np.arange(len(lengths)), counts)
        nth = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
        if self.augmentation == "prefixes":
            starts = firsts[users] + nth * self.max_length
        else:
            drawn = generator.random(len(users)) * np.maximum(lengths[users] - 1, 1)
            starts = firsts[users] + drawn.astype(np.int64)
        return starts

    def _stops(self, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where windows from these events on end."""
        ends = self.histories.offsets[1:][self._users[starts]]
        return np.minimum(starts + self.max_length + 1, ends)

    def _earliest(self, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first event that may stand before each target."""
        return np.maximum(
            self.histories.offsets[:-1][self._users[targets]], targets - self.max_length
        )
