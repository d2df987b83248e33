"""The contract: what every method is, and the few capabilities some of them add.

A method subclasses `Recommender`, declares a frozen `Config`, lists its training as stages and
scores items for queries. Top-k, filters, similar items and persistence come from here.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    Protocol,
    Self,
    TypeVar,
    cast,
    dataclass_transform,
    runtime_checkable,
)

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated
from torch import Tensor, nn

from tastemaker.data.queries import Queries, Ragged
from tastemaker.data.schema import Kind
from tastemaker.errors import ConfigError, MissingNeedError, nearest
from tastemaker.layers.selection import top_k
from tastemaker.training.randomness import seeded
from tastemaker.training.stages import Optimizer, Stage

if TYPE_CHECKING:
    from tastemaker.data import Dataset, TrainingSet
    from tastemaker.models.search import Search

__all__ = [
    "GradientConfig",
    "ItemVectors",
    "ModelConfig",
    "Need",
    "QueryVectors",
    "Recommender",
    "TopK",
    "parse_config",
    "refuse_missing",
    "settings",
    "with_preset",
]

_SCORE_BLOCK = 1 << 22  # scores held at once by recommend: 16 MB of float32


class Need(StrEnum):
    """Data a method cannot do without; checked before any training."""

    TIME = "time"  # timestamps: of a clock, or since the first event of each user
    ORDER = "order"  # timestamps or positions: histories in a real order
    LABELS = "labels"  # a label or rating per interaction
    TEXT = "text"  # a text column of the items
    IMAGE = "image"  # an image column of the items
    KNOWLEDGE = "knowledge"  # a knowledge graph


S = TypeVar("S")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def settings(kind: type[S]) -> type[S]:
    """Decorator of every Config: frozen, keyword-only, validated, unknown keys refused."""
    made = validated(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(kind)
    return cast("type[S]", made)


@settings
class ModelConfig:
    """Settings of a method; each method subclasses it as its `Config`."""

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return dict(TypeAdapter(type(self)).dump_python(self, mode="json"))


@settings
class GradientConfig(ModelConfig):
    """The settings every gradient-trained method shares; methods override the defaults."""

    epochs: int = Field(default=200, ge=1)  # passes over the training data, at most
    batch_size: int = Field(default=128, ge=1)  # training rows (pairs, sequences) per batch
    learning_rate: float = Field(default=1e-3, gt=0)  # optimiser step size
    weight_decay: float = Field(default=0.0, ge=0)  # decoupled decay of matrices (AdamW)
    warmup_steps: int = Field(default=0, ge=0)  # steps of linear warm-up
    decay: Literal["constant", "linear", "cosine"] = "constant"  # learning rate after warm-up
    clip_norm: float = Field(default=0.0, ge=0)  # largest gradient norm; 0 = off
    accumulate: int = Field(default=1, ge=1)  # batches per optimiser step
    ema: float = Field(default=0.0, ge=0, lt=1)  # decay of averaged weights; 0 = off
    precision: Literal["float32", "bf16", "fp16", "auto"] = "auto"  # arithmetic of the network
    monitor: str | None = "ndcg@10"  # validation metric that picks the epoch; None = last epoch
    patience: int = Field(default=10, ge=0)  # validations without gain before stopping; 0 = never
    validate_every: int = Field(default=1, ge=1)  # epochs between validations

    def optimizer(self) -> Optimizer:
        """Adam, or AdamW when `weight_decay` is set."""
        return Optimizer(
            name="adamw" if self.weight_decay else "adam",
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            decay=self.decay,
        )

    def schedule(self) -> dict[str, Any]:
        """The keyword arguments of `GradientStage` that these settings fix."""
        return {
            "epochs": self.epochs,
            "clip_norm": self.clip_norm,
            "accumulate": self.accumulate,
            "ema": self.ema,
            "precision": self.precision,
            "monitor": self.monitor,
            "patience": self.patience,
            "validate_every": self.validate_every,
        }


C = TypeVar("C", bound=ModelConfig)


def parse_config(kind: type[C], values: Mapping[str, Any]) -> C:
    """Settings by name as a validated Config.

    Raises:
        ConfigError: for an unknown name (with the nearest known one) or a value out of range.
    """
    known = {entry.name for entry in dataclasses.fields(kind)}
    for name in values:
        if name not in known:
            listing = ", ".join(sorted(known))
            raise ConfigError(
                f"unknown setting {name!r}{nearest(name, known)}; known settings: {listing}"
            )
    try:
        return kind(**values)
    except ValidationError as error:
        problems = [
            f"setting {'.'.join(str(step) for step in problem['loc'])!r}: {problem['msg']}, "
            f"got {problem['input']!r}"
            for problem in error.errors()
        ]
        raise ConfigError("; ".join(problems)) from None


@dataclass(frozen=True)
class TopK:
    """The k best items per query, best first.

    Attributes:
        items: [B, k] int64 item codes; -1 where fewer than k items were allowed.
        scores: [B, k] float32; -inf where `items` is -1.
    """

    items: Tensor
    scores: Tensor


_REMEDY = {
    Need.TIME: "a timestamp column (role timestamp)",
    Need.ORDER: "a timestamp or an order column (role timestamp or order)",
    Need.LABELS: "a label or rating column (role label)",
    Need.TEXT: "an items table with a text column",
    Need.IMAGE: "an items table with an image column",
    Need.KNOWLEDGE: "a knowledge graph ([knowledge] in dataset.toml)",
}


def refuse_missing(kind: type[Recommender], dataset: Dataset) -> None:
    """Raise `MissingNeedError` naming what to add when `dataset` lacks a need of `kind`."""
    items = dataset.schema.items.values()
    has = {
        Need.TIME: "timestamp" in dataset.interactions.column_names,
        Need.ORDER: dataset.is_ordered,
        Need.LABELS: "label" in dataset.interactions.column_names,
        Need.TEXT: Kind.TEXT in items,
        Need.IMAGE: Kind.IMAGE in items,
        Need.KNOWLEDGE: dataset.knowledge is not None,
    }
    if missing := [_REMEDY[need] for need in sorted(kind.needs) if not has[need]]:
        raise MissingNeedError(
            f"{kind.__name__} cannot be trained on {dataset.name!r}: add {' and '.join(missing)}"
        )


def with_preset(kind: type[Recommender], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with their `preset`, if any, spelt out; explicit settings win."""
    chosen = dict(settings)
    name = chosen.pop("preset", None)
    if name is None:
        return chosen
    if name not in kind.presets:
        known = ", ".join(sorted(kind.presets)) or "none"
        raise ConfigError(
            f"{kind.__name__} has no preset {name!r}{nearest(str(name), kind.presets)}; "
            f"presets: {known}"
        )
    return {**kind.presets[name], **chosen}


@runtime_checkable
class ItemVectors(Protocol):
    """Capability: the method has one vector per item; similar items are those of high cosine."""

    def item_vectors(self) -> Tensor:
        """[N, D] float."""
        ...


@runtime_checkable
class QueryVectors(Protocol):
    """Capability: a score is the dot product of a query's vector and an item's."""

    def query_vectors(self, queries: Queries) -> Tensor:
        """[B, D] float."""
        ...

    def item_vectors(self) -> Tensor:
        """[N, D] float."""
        ...


class Recommender(nn.Module, ABC):
    """Base of every method.

    A method is built from a config and a `Dataset`, of which it may use sizes, schema, feature
    tables and knowledge but not the interactions: a run is loaded with none. What it learns lives
    in parameters and buffers; buffers may change shape while fitting.
    """

    Config: ClassVar[type[ModelConfig]]
    config: ModelConfig  # subclasses narrow it to their Config
    needs: ClassVar[frozenset[Need]] = frozenset()
    search: ClassVar[Mapping[str, Search]] = {}  # what `tastemaker tune` varies

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # named settings, chosen on validation
    predicts: ClassVar[Literal["items", "labels"]] = "items"  # what it is judged by

    def __init__(self, config: ModelConfig, dataset: Dataset) -> None:
        super().__init__()
        self.config = config
        self.n_users, self.n_items = dataset.n_users, dataset.n_items

    @classmethod
    def create(cls, settings: Mapping[str, Any], dataset: Dataset, *, seed: int = 0) -> Self:
        """A fresh model: settings checked, needs checked, parameters initialised from the seed.

        Args:
            settings: Config values by name; `preset` names an entry of `presets` to start from.
            dataset: what it will answer about.
            seed: of the initial parameters.

        Raises:
            ConfigError: for an unknown or invalid setting or preset.
            MissingNeedError: when the data set lacks what the method needs.
        """
        config = parse_config(cls.Config, with_preset(cls, settings))
        refuse_missing(cls, dataset)
        with seeded(seed, "initialise"):
            return cls(config, dataset)

    @abstractmethod
    def stages(self, data: TrainingSet) -> Sequence[Stage]:
        """The training of this method on `data`, as stages run in order."""

    @abstractmethod
    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """Scores of items, higher is better, on the model's device.

        Args:
            queries: B queries.
            items: `None` for the whole catalog, or [B, C] int64 item codes, each row its own.

        Returns:
            [B, N] or [B, C] float32, in memory that the caller may write to.
        """

    @property
    def device(self) -> torch.device:
        """Where the parameters and buffers live."""
        for tensor in chain(self.parameters(), self.buffers()):
            return tensor.device
        return torch.device("cpu")

    @torch.inference_mode()
    def recommend(
        self,
        queries: Queries,
        k: int,
        *,
        exclude: Ragged | None = None,
        allow: NDArray[np.int64] | None = None,
    ) -> TopK:
        """The k best items of each query.

        Args:
            queries: B queries.
            k: list length; lists are padded with item -1 where fewer items are allowed.
            exclude: items each query must not get, B rows (usually its history).
            allow: the only items anyone may get; `None` is the whole catalog.
        """
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least one item")
        if exclude is not None and len(exclude) != len(queries):
            raise ValueError(f"exclude has {len(exclude)} rows for {len(queries)} queries")
        columns = None if allow is None else torch.from_numpy(np.unique(allow)).to(self.device)
        n_columns = self.n_items if columns is None else len(columns)
        block = max(1, _SCORE_BLOCK // self.n_items)
        parts = [
            self._recommend_block(
                queries.take(slice(start, start + block)),
                min(k, n_columns),
                None if exclude is None else exclude.take(slice(start, start + block)),
                columns,
            )
            for start in range(0, len(queries), block)
        ]
        items = torch.full((len(queries), k), -1, dtype=torch.int64, device=self.device)
        scores = torch.full((len(queries), k), -torch.inf, device=self.device)
        if parts and n_columns:
            items[:, : min(k, n_columns)] = torch.cat([part.items for part in parts])
            scores[:, : min(k, n_columns)] = torch.cat([part.scores for part in parts])
        return TopK(items, scores)

    def _recommend_block(
        self, queries: Queries, k: int, exclude: Ragged | None, columns: Tensor | None
    ) -> TopK:
        scores = self.score(queries).float()  # [B, N]
        if exclude is not None:
            rows = torch.from_numpy(exclude.row_index()).to(self.device)
            scores[rows, torch.from_numpy(exclude.values).to(self.device)] = -torch.inf
        if columns is not None:
            banned = torch.ones(self.n_items, dtype=torch.bool, device=scores.device)
            banned[columns] = False
            scores.masked_fill_(banned, -torch.inf)
        items, values = top_k(scores, k, torch.from_numpy(queries.tie_keys()).to(self.device))
        return TopK(items, values)

    @torch.inference_mode()
    def similar(self, items: NDArray[np.int64], k: int) -> TopK:
        """The k items most like each of `items` (themselves left out), by cosine of item vectors.

        Raises:
            ConfigError: when the method has no item vectors.
        """
        if not isinstance(self, ItemVectors):
            raise ConfigError(
                f"{type(self).__name__} has no item vectors, so it cannot say what is similar; "
                "ask a method that has them, such as item-knn, bpr-mf or sasrec"
            )
        vectors = nn.functional.normalize(self.item_vectors().float(), dim=1)
        chosen = torch.from_numpy(items).to(vectors.device)
        scores = vectors[chosen] @ vectors.T  # [B, N]
        scores[torch.arange(len(chosen)), chosen] = -torch.inf
        found, values = top_k(scores, min(k, self.n_items), chosen)
        return TopK(found, values)

    def state(self) -> dict[str, Tensor]:
        """Everything learned, by name, on the CPU: what a run stores."""
        return {name: value.detach().cpu() for name, value in self.state_dict().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> Self:
        """Take over a stored state; buffers may have any length, parameters must fit exactly.

        Raises:
            ConfigError: naming the tensor that is missing, unknown or of the wrong shape or dtype.
        """
        own = self.state_dict(keep_vars=True)
        if odd := sorted(set(own) ^ set(state)):
            side = "lacks" if odd[0] in own else "has an unknown"
            raise ConfigError(f"the stored state {side} tensor {odd[0]!r} of {type(self).__name__}")
        for name, value in own.items():
            given = state[name]
            fits = given.dtype == value.dtype and given.dim() == value.dim()
            if isinstance(value, nn.Parameter):
                fits = fits and given.shape == value.shape
            if not fits:
                raise ConfigError(
                    f"stored tensor {name!r} is {given.dtype} {tuple(given.shape)}, but "
                    f"{type(self).__name__} needs {value.dtype} {tuple(value.shape)}"
                )
        with torch.no_grad():
            for name, value in own.items():
                if isinstance(value, nn.Parameter):
                    value.copy_(state[name])
                else:
                    owner, _, leaf = name.rpartition(".")
                    setattr(self.get_submodule(owner), leaf, state[name].to(value.device))
        return self
