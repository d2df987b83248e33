"""What methods share that turn a history into one vector and score items by dot products.

Histories become rows of item codes, right padded with N (the catalog size), so that every row
starts at position 0; a row of the item table stands for each code, the last one for padding. The
users' own codes are ignored: everybody is answered from a history.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tastemaker.data import Dataset
from tastemaker.data.queries import Histories, Queries
from tastemaker.errors import ConfigError
from tastemaker.losses.softmax import chunked_softmax
from tastemaker.models.base import ModelConfig, Need, Recommender
from tastemaker.training.stages import Batch

__all__ = ["CausalRecommender", "Sequences", "SequentialRecommender", "refuse_uneven_heads"]

_TOKENS = 1 << 15  # positions encoded at once when scoring
_PREFIX_BLOCKS = 4  # blocks of like length that prefixes are encoded in
_WIDTH_STEP = 8  # blocks are padded to a multiple of it


@dataclass(frozen=True)
class Sequences:
    """Right-padded histories as an encoder sees them.

    Attributes:
        items: [B, L] int64 item codes, N behind the last event (and in holes, see `valid`).
        lengths: [B] int64, events of each row; 0 for an empty history.
        columns: what else is known of the events: `name` -> [B, L], and `"next_" + name` -> [B],
            the value of the event to be predicted. Times are int64 seconds.
        valid: [B, L] bool, True at events, when rows have holes; `None` when every position below
            the length is one.
    """

    items: Tensor
    lengths: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    valid: Tensor | None = None

    @classmethod
    def of(cls, batch: Batch, columns: Sequence[str] = ()) -> Self:
        """The sequences of a batch with rows `items`, `lengths` and the named columns."""
        names = [name for column in columns for name in (column, f"next_{column}")]
        return cls(batch["items"], batch["lengths"], {name: batch[name] for name in names})

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: Tensor, width: int) -> Sequences:
        """The chosen rows, cut to their first `width` positions (no event may be lost)."""
        columns = {
            name: column[rows, :width] if column.ndim == 2 else column[rows]
            for name, column in self.columns.items()
        }
        valid = None if self.valid is None else self.valid[rows, :width]
        return Sequences(self.items[rows, :width], self.lengths[rows], columns, valid)


def refuse_uneven_heads(hidden_size: int, num_heads: int) -> None:
    """Raise `ConfigError` when the heads do not divide the width."""
    if hidden_size % num_heads:
        raise ConfigError(
            f"setting 'num_heads': {num_heads} does not divide hidden_size, {hidden_size}; "
            "choose a divisor"
        )


class SequentialRecommender(Recommender):
    """Base of methods with an item table and an encoder of histories.

    A subclass gives `encode_last`, and may add an `item_bias`.

    Attributes:
        columns: event columns that the encoder reads beside the items, such as `"timestamp"`.
            A history without them gets zeros; a query without its own value gets that of its
            last event.
        max_length: events of a history that are looked at, the most recent ones.
        item_embeddings: [N + special tokens, D] table; row N is the zero padding.
        item_bias: [N] parameter added to the scores, or `None`.
    """

    needs = frozenset({Need.ORDER})
    columns: ClassVar[tuple[str, ...]] = ()
    item_bias: nn.Parameter | None

    def __init__(
        self,
        config: ModelConfig,
        dataset: Dataset,
        *,
        width: int,
        max_length: int,
        special_tokens: int = 1,
    ) -> None:
        super().__init__(config, dataset)
        self.max_length = max_length
        self.item_embeddings = nn.Embedding(
            self.n_items + special_tokens, width, padding_idx=self.n_items
        )
        self.item_bias = None

    @abstractmethod
    def encode_last(self, sequences: Sequences) -> Tensor:
        """The state that predicts what follows each row, [B, D] float.

        Rows have at most `max_length` events.
        """

    def encode_prefixes(self, sequences: Sequences) -> Tensor:
        """`encode_last` of rows of mixed lengths, [B, D] float: the same with less padding.

        Rows are encoded in a few blocks of equal size and like length. Lengths are read on the
        host, so this is for the CPU; elsewhere it is one block.
        """
        rows = len(sequences)
        if self.device.type != "cpu" or rows < 2 * _PREFIX_BLOCKS:
            return self.encode_last(sequences)
        order = torch.argsort(sequences.lengths, stable=True)
        blocks = []
        for chosen in order.tensor_split(_PREFIX_BLOCKS):
            longest = max(int(sequences.lengths[chosen[-1]]), 1)
            width = min(-(-longest // _WIDTH_STEP) * _WIDTH_STEP, sequences.items.shape[1])
            blocks.append(self.encode_last(sequences.take(chosen, width)))
        return torch.cat(blocks)[torch.argsort(order)]

    def last_item_loss(self, vectors: Tensor, targets: Tensor) -> Tensor:
        """Full softmax over the catalog: [B, D] states against their targets [B], a mean."""
        table = self.item_embeddings.weight[: self.n_items]
        return chunked_softmax(vectors, table, targets, bias=self.item_bias)

    @torch.no_grad()
    def query_vectors(self, queries: Queries) -> Tensor:
        """The vector whose dot products with `item_vectors` are the scores, [B, D] float32.

        Rows are encoded in blocks of similar length, so padding costs little.
        """
        known = queries.histories.columns
        read = {name: known[name] for name in self.columns if name in known}
        queries = Queries(queries.users, Histories(queries.histories.items, read), queries.columns)
        lengths = np.minimum(queries.histories.items.lengths, self.max_length)
        order = np.argsort(lengths, kind="stable")
        vectors = torch.empty(len(queries), self.item_embeddings.embedding_dim, device=self.device)
        stop = len(order)
        while stop > 0:  # from the longest to the shortest
            width = max(int(lengths[order[stop - 1]]), 1)
            rows = order[max(0, stop - max(1, _TOKENS // width)) : stop]
            stop -= len(rows)
            encoded = self.encode_last(self._sequences(queries, rows, width))
            vectors[torch.from_numpy(rows).to(self.device)] = encoded.float()
        return vectors

    def _sequences(self, queries: Queries, rows: NDArray[np.int64], width: int) -> Sequences:
        """The last `width` events of the chosen queries, on the model's device."""
        histories = queries.histories.take(rows, last=width)
        lengths = histories.items.lengths
        columns: dict[str, NDArray[np.generic]] = {}
        for name in self.columns:
            if name in histories.columns:
                columns[name] = histories.padded_column(name, width, 0)
            else:
                columns[name] = np.zeros((len(rows), width), np.int64)
            last = columns[name][np.arange(len(rows)), np.maximum(lengths - 1, 0)]
            asked = queries.columns.get(name)
            told = asked is not None and name in histories.columns
            columns[f"next_{name}"] = asked[rows] if told else last  # type: ignore[index]
        return Sequences(
            torch.from_numpy(histories.items.padded(width, self.n_items)).to(self.device),
            torch.from_numpy(lengths).to(self.device),
            {name: torch.from_numpy(array).to(self.device) for name, array in columns.items()},
        )

    @torch.no_grad()
    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """Dot products of user and item vectors, plus the item bias: [B, N] or [B, C]."""
        vectors, table = self.query_vectors(queries), self.item_vectors()
        if items is None:
            scores = vectors @ table.T
            return scores if self.item_bias is None else scores + self.item_bias
        scores = torch.einsum("bd,bcd->bc", vectors, table[items])
        return scores if self.item_bias is None else scores + self.item_bias[items]

    def item_vectors(self) -> Tensor:
        """[N, D] float32."""
        return self.item_embeddings.weight[: self.n_items]


class CausalRecommender(SequentialRecommender):
    """Base of methods whose state after each event predicts the next one: they give `encode`.

    A learned vector `start` stands before the first event. It answers empty histories, and
    learns by predicting the first event of every training row: one target more a row, which
    leaves the states after events as they are in the papers.

    Attributes:
        start: [D] parameter.
    """

    def __init__(
        self, config: ModelConfig, dataset: Dataset, *, width: int, max_length: int
    ) -> None:
        super().__init__(config, dataset, width=width, max_length=max_length)
        self.start = nn.Parameter(torch.zeros(width))

    @abstractmethod
    def encode(self, sequences: Sequences) -> Tensor:
        """States after each event, which know nothing of later ones: [B, L, D] float."""

    def encode_last(self, sequences: Sequences) -> Tensor:
        """The state at the last event, or `start` where there is none."""
        states = self.encode(sequences)  # [B, L, D]
        lengths = sequences.lengths
        last = states[torch.arange(len(lengths), device=lengths.device), (lengths - 1).clamp(min=0)]
        return torch.where((lengths > 0)[:, None], last, self.start.to(last.dtype))

    def next_item_states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The state before every target of a batch, the first event of each row included.

        Args:
            batch: rows `items` and `targets`, [B, L] int64 each, and the `columns` with their
                `"next_"` values, [B, L] each.

        Returns:
            States [B, 1 + L, D] (the start, then the state after each event) and the targets
            [B, 1 + L] int64, N where there is none.
        """
        items = batch["items"]
        lengths = (items != self.n_items).sum(1)
        columns = {name: batch[name] for name in self.columns}
        for name in self.columns:
            columns[f"next_{name}"] = batch[f"next_{name}"].gather(1, lengths[:, None] - 1)[:, 0]
        states = self.encode(Sequences(items, lengths, columns))
        start = self.start.to(states.dtype).expand(len(items), 1, -1)
        return torch.cat([start, states], 1), torch.cat([items[:, :1], batch["targets"]], 1)
