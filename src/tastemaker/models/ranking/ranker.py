"""What methods share that predict the label of a row (user, item, context).

Rows become codes and numbers (`data.features`), which one embedding table turns into a vector a
field. What is learned of the fields from training rows is kept with the model: the codes of all
users and items, and what is needed to code the contexts of later queries. A user or a value that
training does not know, and a context that is not given, have codes of their own, so every query is
answered. Scores are logits of the label; ranking a catalog means scoring each of its items.

The penalty on embeddings is that of CTR libraries: on all entries of the tables at every step, not
on those of the batch alone (FuxiCTR; its published settings mean this one).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from tastemaker.data import Dataset, TrainingSet
from tastemaker.data.features import Coded, Fields, LearnedFeatures, Side, learn_features
from tastemaker.data.features import Field as FeatureField
from tastemaker.data.queries import Histories, Queries, Ragged
from tastemaker.data.schema import Kind
from tastemaker.errors import ConfigError
from tastemaker.layers.field_embeddings import FieldEmbeddings
from tastemaker.models.base import GradientConfig, Need, Recommender, settings
from tastemaker.training.ranking_batches import RankingBatches, told
from tastemaker.training.stages import Batch, GradientStage, Loss, Objective, Progressing

__all__ = ["Asked", "Ranker", "RankerConfig"]

_PAIRS = 1 << 12  # pairs of a query and a candidate scored at once
_BLOCKS = 6  # of like length that histories are looked at in
_LENGTH_STEP = 4  # blocks are padded to a multiple of it


@settings
class RankerConfig(GradientConfig):
    """The settings every ranker shares; methods override the defaults."""

    hidden_size: int = Field(default=16, ge=1)  # width of a field's vector (BARS, Criteo)
    fields: tuple[str, ...] | None = None  # such as ("user", "item.genres"); None: all there are
    min_count: int = Field(default=1, ge=1)  # training rows that make a value known
    buckets: int = Field(default=0, ge=0)  # quantiles that numbers are cut into; 0 = they stay
    init_std: float = Field(default=1e-4, gt=0)  # of embedding tables (reference code)
    regularization: float = Field(default=1e-5, ge=0)  # L2 of all embeddings (BARS, Criteo)
    epochs: int = Field(default=20, ge=1)  # at most
    batch_size: int = Field(default=1024, ge=1)  # rows
    clip_norm: float = Field(default=10.0, ge=0)  # largest gradient norm (reference code)
    monitor: str | None = "auc"  # validation metric that picks the epoch (reference code)
    patience: int = Field(default=2, ge=0)  # validations without gain (reference code)


@dataclass(frozen=True)
class Asked:
    """B questions as tensors: everything that is known of them but the candidates.

    Attributes:
        users: [B] int64 user codes, n_users for a user nobody knows.
        contexts: [B, T] int64 codes.
        context_numbers: [B, M] float32.
        items: [B, L] int64 histories, oldest first, right padded with N; [B, 0] for a method
            without histories.
        lengths: [B] int64 events of each history.
        columns: what else is known of the events: `name` -> [B, L], and `"next_" + name` -> [B],
            the question's own value.
    """

    users: Tensor
    contexts: Tensor
    context_numbers: Tensor
    items: Tensor
    lengths: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: Batch, columns: Sequence[str] = ()) -> Self:
        """The questions of a batch of `RankingBatches`."""
        users = batch["users"]
        none = users.new_zeros((len(users), 0))
        has = "items" in batch.rows
        names = [name for column in columns for name in (column, f"next_{column}")]
        return cls(
            users,
            batch["contexts"],
            batch["context_numbers"],
            batch["items"] if has else none,
            batch["lengths"] if has else torch.zeros_like(users),
            {name: batch[name] for name in names},
        )

    def __len__(self) -> int:
        return len(self.users)

    def in_blocks(self, candidates: Tensor, compute: Callable[[Asked, Tensor], Tensor]) -> Tensor:
        """`compute(asked, candidates)` in blocks of questions with histories of like length.

        Histories of mixed lengths are mostly padding, which blocks are cut free of. Lengths are
        read on the host, so this is for the CPU; elsewhere, and for short histories, it is one
        block.

        Args:
            candidates: [B, C] int64.
            compute: gives [B, ...], each row by its question alone.
        """
        width = self.items.shape[1]
        if self.items.device.type != "cpu" or len(self) < _BLOCKS or width <= _LENGTH_STEP:
            return compute(self, candidates)
        order = torch.argsort(self.lengths, stable=True)
        parts = []
        for rows in order.tensor_split(_BLOCKS):
            longest = -(-int(self.lengths[rows[-1]]) // _LENGTH_STEP) * _LENGTH_STEP
            parts.append(compute(self.take(rows, max(longest, 1)), candidates[rows]))
        return torch.cat(parts)[torch.argsort(order)]

    def take(self, rows: Tensor, width: int) -> Asked:
        """The chosen questions, histories cut to `width` positions (no event may be lost)."""
        columns = {
            name: column[rows, :width] if column.ndim == 2 else column[rows]
            for name, column in self.columns.items()
        }
        return Asked(
            self.users[rows],
            self.contexts[rows],
            self.context_numbers[rows],
            self.items[rows, :width],
            self.lengths[rows],
            columns,
        )

    @property
    def valid(self) -> Tensor:
        """[B, L] bool, True at events."""
        places = torch.arange(self.items.shape[1], device=self.items.device)
        return places < self.lengths[:, None]


class Ranker(Recommender):
    """Base of methods that score candidates one by one; a subclass gives `logits`.

    Attributes:
        only_liked: whether histories are made of events with a positive label alone.
        columns: event columns that the method reads beside the items of a history, such as
            `"timestamp"`; a history without them gets zeros, a query without its own value that
            of its last event.
        max_length: events of a history that are looked at, the most recent ones; 0 = none.
        fields: of the data set.
        embeddings: of all fields.
        user_codes: [n_users + 1, T] int64, the last row for a user nobody knows.
        user_numbers: [n_users + 1, M] float32.
        item_codes: [N + 1, T] int64, row N is padding.
        item_numbers: [N + 1, M] float32.
        context_known: bool, `LearnedFeatures.known` of the contexts, one behind the other.
        context_edges: float64, `LearnedFeatures.edges` of the contexts, likewise.
    """

    predicts = "labels"
    needs = frozenset({Need.LABELS})
    only_liked: ClassVar[bool] = True
    columns: tuple[str, ...] = ()
    config: RankerConfig
    user_codes: Tensor
    user_numbers: Tensor
    item_codes: Tensor
    item_numbers: Tensor
    context_known: Tensor
    context_edges: Tensor

    def __init__(self, config: RankerConfig, dataset: Dataset, *, max_length: int = 0) -> None:
        super().__init__(config, dataset)
        self.max_length = max_length
        self.fields = fields = Fields.of(dataset, config.fields, config.buckets)
        self.embeddings = self.embedding_bank(config.hidden_size)
        sizes: dict[Side, int] = {"user": self.n_users, "item": self.n_items}
        for side, n in sizes.items():
            widths, n_numbers = self.widths(side), self.n_numbers(side)
            self.register_buffer(f"{side}_codes", torch.zeros(n + 1, sum(widths), dtype=torch.long))
            self.register_buffer(f"{side}_numbers", torch.zeros(n + 1, n_numbers))
        known, edges = _flat(fields, None)
        self.register_buffer("context_known", known)
        self.register_buffer("context_edges", edges)

    @abstractmethod
    def logits(self, asked: Asked, candidates: Tensor) -> Tensor:
        """Logits of the label, [B, C] float, of each question's own candidates [B, C] int64."""

    def embedding_bank(self, width: int) -> FieldEmbeddings:
        """Embeddings of that width for all fields."""
        n_numbers = sum(self.n_numbers(side) for side in ("user", "item", "context"))
        return FieldEmbeddings(self.fields.n_codes, n_numbers, width, self.config.init_std)

    def widths(self, *sides: Side) -> tuple[int, ...]:
        """How many codes each field of these sides has."""
        return tuple(entry.width for entry in self.fields.of_side(*sides) if entry.width)

    def n_numbers(self, *sides: Side) -> int:
        """How many fields of these sides are numbers."""
        return sum(entry.width == 0 for entry in self.fields.of_side(*sides))

    def n_fields(self, *sides: Side) -> int:
        """How many vectors the fields of these sides have."""
        return len(self.fields.of_side(*sides))

    def item_width(self) -> int:
        """The width of an item: its fields joined.

        Raises:
            ConfigError: when no field of the items is used.
        """
        n_fields = self.n_fields("item")
        if not n_fields:
            raise ConfigError(
                f"setting 'fields': {type(self).__name__} compares items, but no field of theirs "
                "is used; add 'item'"
            )
        return n_fields * self.config.hidden_size

    def stages(self, data: TrainingSet) -> Sequence[GradientStage]:
        """Learns the fields, then one gradient stage over the labelled rows."""
        config = self.config
        columns = learn_features(data, self.fields, config.min_count)
        self._keep(columns.users, columns.items, columns.learned)
        batches = RankingBatches.of(
            data,
            columns.contexts,
            config.batch_size,
            max_length=self.max_length,
            only_liked=self.only_liked,
            columns=self.columns,
        )
        objective = Objective("label", self.loss, batches, config.optimizer())
        penalty = [self.penalise] if config.regularization else []
        return [GradientStage("fit", [objective], after_backward=penalty, **config.schedule())]

    def loss(self, batch: Batch) -> Loss:
        """Mean binary cross-entropy of the rows' labels; the penalty is added to gradients."""
        asked = Asked.of(batch, self.columns)
        logits = self.logits(asked, batch["targets"][:, None])[:, 0]  # [B]
        value = F.binary_cross_entropy_with_logits(logits.float(), batch["labels"])
        return Loss(value, len(logits))

    def penalise(self, moment: Progressing) -> None:
        """Add the gradient of the penalty on embeddings: a hook for gradients that are ready."""
        del moment
        for part in self.modules():
            if isinstance(part, FieldEmbeddings):
                part.penalty_gradient(self.config.regularization)

    def embed(
        self, asked: Asked, candidates: Tensor, embeddings: FieldEmbeddings | None = None
    ) -> Tensor:
        """The vectors of all fields of every pair, [B, C, fields, D].

        Args:
            asked: B questions.
            candidates: [B, C] int64.
            embeddings: another bank than the method's own.
        """
        bank = self.embeddings if embeddings is None else embeddings
        pairs = candidates.shape
        codes = [
            self.user_codes[asked.users][:, None].expand(*pairs, -1),
            self.item_codes[candidates],
            asked.contexts[:, None].expand(*pairs, -1),
        ]
        numbers = [
            self.user_numbers[asked.users][:, None].expand(*pairs, -1),
            self.item_numbers[candidates],
            asked.context_numbers[:, None].expand(*pairs, -1),
        ]
        widths = self.widths("user", "item", "context")
        vectors: Tensor = bank(torch.cat(codes, -1), torch.cat(numbers, -1), widths)
        return vectors

    def embed_items(self, items: Tensor) -> Tensor:
        """The vectors of items' fields: [...] int64 codes, N for none, to [..., fields, D]."""
        vectors: Tensor = self.embeddings(
            self.item_codes[items],
            self.item_numbers[items],
            self.widths("item"),
            self.n_numbers("user"),
        )
        return vectors

    def item_vectors_for(self, n_items: int) -> Callable[[Tensor], Tensor]:
        """What looks up items: [...] int64 codes, N for none, to [..., W], their fields joined.

        Args:
            n_items: how many will be looked up; where that is more than there are, the vectors
                of all items are computed once.
        """
        if n_items <= self.n_items:
            return lambda items: self.embed_items(items).flatten(-2)
        every = torch.arange(self.n_items + 1, device=self.device)
        table = self.embed_items(every).flatten(1)  # [N + 1, W]
        return lambda items: F.embedding(items, table, padding_idx=self.n_items)

    def embed_asked(self, asked: Asked) -> Tensor:
        """The vectors of the fields of users and contexts, [B, fields, D]."""
        users: Tensor = self.embeddings(
            self.user_codes[asked.users], self.user_numbers[asked.users], self.widths("user")
        )
        first = self.n_numbers("user", "item")
        contexts: Tensor = self.embeddings(
            asked.contexts, asked.context_numbers, self.widths("context"), first
        )
        return torch.cat([users, contexts], 1)

    @torch.no_grad()
    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """Logits of the label: [B, N], or [B, C] for given `items`."""
        n_candidates = self.n_items if items is None else items.shape[1]
        scores = torch.empty(len(queries), n_candidates, device=self.device)
        every = torch.arange(self.n_items, device=self.device)
        items = None if items is None else items.to(self.device)
        for rows, asked in self._asked(queries, max(1, _PAIRS // max(n_candidates, 1))):
            for start in range(0, n_candidates, _PAIRS):
                part = slice(start, start + _PAIRS)
                candidates = (
                    every[part].expand(len(rows), -1) if items is None else items[rows, part]
                )
                scores[rows, part] = self.logits(asked, candidates).float()
        return scores

    @torch.no_grad()
    def field_effects(self, queries: Queries, items: Tensor) -> dict[str, Tensor]:
        """What a logit owes to each field: it minus the one where the field's vectors are zero.

        Args:
            queries: B queries.
            items: [B] int64, the item of each query.

        Returns:
            Field -> [B] float32; empty for a method that looks at histories.
        """
        if self.max_length:
            return {}
        sides = self.fields.of_side("user", "item", "context")
        order = [entry.name for entry in sides if entry.width]
        order += [entry.name for entry in sides if not entry.width]  # as in `embed`
        banks = [part for part in self.modules() if isinstance(part, FieldEmbeddings)]
        whole, found = self.score(queries, items[:, None])[:, 0], {}
        for place, name in enumerate(order):

            def leave_out(bank: object, given: object, vectors: Tensor, at: int = place) -> Tensor:
                del bank, given
                vectors = vectors.clone()
                vectors[..., at, :] = 0
                return vectors

            hooks = [bank.register_forward_hook(leave_out) for bank in banks]
            try:
                found[name] = whole - self.score(queries, items[:, None])[:, 0]
            finally:
                for hook in hooks:
                    hook.remove()
        return found

    def _asked(self, queries: Queries, size: int) -> Iterator[tuple[Tensor, Asked]]:
        """Blocks of `size` queries with histories of like length, and which queries they are."""
        histories = Histories(Ragged.empty(len(queries)))
        if self.max_length:
            histories = told(queries.histories, only_liked=self.only_liked, columns=self.columns)
        queries = Queries(queries.users, histories, queries.columns)
        lengths = np.minimum(histories.items.lengths, self.max_length)
        order = np.argsort(lengths, kind="stable")
        coded = self.fields.code_context(queries.columns, len(queries), self._learned())
        contexts = torch.from_numpy(coded.codes).to(self.device)
        numbers = torch.from_numpy(coded.numbers).to(self.device)
        users = torch.from_numpy(np.where(queries.users < 0, self.n_users, queries.users))
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            rows = torch.from_numpy(chosen).to(self.device)
            items, columns = self._histories(queries.take(chosen), int(lengths[chosen].max()))
            yield (
                rows,
                Asked(
                    users[torch.from_numpy(chosen)].to(self.device),
                    contexts[rows],
                    numbers[rows],
                    items,
                    torch.from_numpy(lengths[chosen]).to(self.device),
                    columns,
                ),
            )

    def _histories(self, queries: Queries, width: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Padded histories [B, width], and their columns with the queries' own values."""
        histories = queries.histories.take(slice(None), last=width)
        items = histories.items.padded(width, self.n_items)
        columns: dict[str, NDArray[np.generic]] = {}
        for name in self.columns:
            if name in histories.columns:
                columns[name] = histories.padded_column(name, width, 0)
            else:
                columns[name] = np.zeros(items.shape, np.int64)
            if name in queries.columns:
                columns[f"next_{name}"] = queries.columns[name]
            else:
                columns[f"next_{name}"] = _last(columns[name], histories.items.lengths)
        return torch.from_numpy(items).to(self.device), {
            name: torch.from_numpy(np.ascontiguousarray(column)).to(self.device)
            for name, column in columns.items()
        }

    def _keep(self, users: Coded, items: Coded, learned: LearnedFeatures) -> None:
        """Make what training rows tell of the fields the model's own."""
        known, edges = _flat(self.fields, learned)
        found = {
            "user_codes": torch.from_numpy(users.codes),
            "user_numbers": torch.from_numpy(users.numbers),
            "item_codes": torch.from_numpy(items.codes),
            "item_numbers": torch.from_numpy(items.numbers),
            "context_known": known,
            "context_edges": edges,
        }
        for name, value in found.items():
            setattr(self, name, value.to(self.device))

    def _learned(self) -> LearnedFeatures:
        """What training rows told of the contexts."""
        known, edges = self.context_known.cpu().numpy(), self.context_edges.cpu().numpy()
        values, numbers = _context_fields(self.fields)
        each = _edges_each(self.fields)
        stops = np.cumsum([entry.n_values for entry in values], dtype=np.int64)
        always = np.ones(self.fields.buckets, np.bool_)
        return LearnedFeatures(
            known={
                **{
                    entry.name: known[stop - entry.n_values : stop]
                    for entry, stop in zip(values, stops, strict=True)
                },
                **{entry.name: always for entry in numbers},
            },
            edges={
                entry.name: edges[place * each : (place + 1) * each]
                for place, entry in enumerate(numbers)
            },
        )


def _context_fields(fields: Fields) -> tuple[list[FeatureField], list[FeatureField]]:
    """The context fields that list values, and those of numbers."""
    contexts = fields.of_side("context")
    return (
        [entry for entry in contexts if entry.kind is not Kind.NUMERIC],
        [entry for entry in contexts if entry.kind is Kind.NUMERIC],
    )


def _edges_each(fields: Fields) -> int:
    """How many numbers `LearnedFeatures.edges` has for a field."""
    return fields.buckets - 1 if fields.buckets else 2


def _flat(fields: Fields, learned: LearnedFeatures | None) -> tuple[Tensor, Tensor]:
    """What is learned of the contexts, one field behind the other; zeros before training."""
    values, numbers = _context_fields(fields)
    if learned is None:
        known = [np.zeros(entry.n_values, np.bool_) for entry in values]
        edges = [np.zeros(_edges_each(fields)) for _ in numbers]
    else:
        known = [learned.known[entry.name] for entry in values]
        edges = [learned.edges[entry.name] for entry in numbers]
    return (
        torch.from_numpy(np.concatenate([np.empty(0, np.bool_), *known])),
        torch.from_numpy(np.concatenate([np.empty(0), *edges])),
    )


def _last(column: NDArray[np.generic], lengths: NDArray[np.int64]) -> NDArray[np.generic]:
    """The value at each row's last event, [B]; 0 where there is none."""
    if not column.shape[1]:
        return np.zeros(len(column), column.dtype)
    last = column[np.arange(len(column)), np.maximum(lengths - 1, 0)]
    return np.where(lengths > 0, last, last.dtype.type(0))
