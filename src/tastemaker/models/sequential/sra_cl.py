"""SRA-CL: contrastive next-item training whose positives are retrieved by meaning.

A plug-in over any encoder of sequences (SASRec by default). Offline, every item and every training
prefix gets a semantic vector and its nearest neighbours by cosine. In training the state of a
prefix is drawn to a mixture of the states of its neighbours, weighted by attention over semantic
vectors, and two views of a history, in which items give way to their neighbours, are drawn
together; NT-Xent both times.

Paper: "Semantic Retrieval Augmented Contrastive Learning for Sequential Recommendation", NeurIPS
2025, arXiv 2503.04162; code ziqiangcui/SRA-CL. Semantic vectors are encoded summaries of a language
model when `summaries` names one. Without one, which is ours, an item has the vector of its texts
and a prefix the mean of its items' vectors: 130,000 prefixes then cost one sparse product.

What we changed: neighbours come from training prefixes alone (the repository's include the states
before validation and test targets), and by default not from the same user, whose other prefixes
are nearly the same text; the anchor of the user contrast is the state that predicts the next item,
not a second encoding of it; first events are targets, too, so that the base can answer empty
histories (they have no views and no neighbours). With `user_weight` and `item_weight` 0 training is
the base's own with cross-entropy on prefixes.

Cost: once, 2 S^2 E operations for S prefixes and vectors of width E (cached); an epoch, 3 + k
encodings of each target and O(B^2 D) a batch; 4 S E bytes while training; answers cost what the
base's do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Self

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor, nn

from tastemaker.content.features import encoded, features_fingerprint, item_features
from tastemaker.content.language import find_language_model
from tastemaker.content.local_language import Writing
from tastemaker.content.text import find_encoder, item_texts
from tastemaker.data import Dataset, TrainingSet
from tastemaker.data.queries import Histories
from tastemaker.errors import ConfigError
from tastemaker.layers.dropout import Dropout
from tastemaker.layers.neighbours import nearest_neighbours
from tastemaker.losses.contrastive import nt_xent
from tastemaker.models.base import Need, settings
from tastemaker.models.plugin import Plugin, PluginConfig
from tastemaker.models.search import Choice, LogUniform
from tastemaker.models.sequential.encoder import Sequences, SequentialRecommender
from tastemaker.training.artifacts import product_of
from tastemaker.training.augmentations import PaddedItems, substitute
from tastemaker.training.batches import PrefixBatches
from tastemaker.training.stages import (
    Batch,
    ComputeStage,
    GradientStage,
    Loss,
    Objective,
    Stage,
)

__all__ = ["SRACL", "SemanticBatches", "Semantics", "Synthesizer"]

_OF_USER = (
    "You know the goods of this shop well. A customer chose the following, oldest first: {}\n"
    "Describe in one paragraph of at most 100 words what this customer specifically prefers."
)
_OF_ITEM = (
    "You know the goods of this shop well. This is one of them: {}\n"
    "Customers came to it by these ways, the item itself last:\n{}\n"
    "Summarise the item in at most 80 words, then say in at most 50 words whom it is for."
)
_TEXT_LENGTH = 500  # characters of an item's texts that a prompt holds (reference code)
_WAYS = 10  # histories that lead to an item in its prompt (paper)
_WRITING = Writing(max_new_tokens=200, chat=True)


class SRACL(Plugin):
    """Semantic retrieval augmented contrastive learning over a sequence encoder."""

    @settings
    class Config(PluginConfig):
        """Settings of SRA-CL; sizes, length and dropout of the encoder are in `base_settings`."""

        base: str = "sasrec"  # the encoder (paper, sec. 5.1)
        features: str = "text"  # source of item vectors; of `summaries` the text encoder
        summaries: str | None = None  # language model that describes users and items; None = none
        num_neighbors: int = Field(default=10, ge=1)  # k of prefixes and of items (paper)
        exclude_same_user: bool = True  # from a prefix's neighbours (ours; reference code: no)
        user_weight: float = Field(default=0.1, ge=0)  # alpha, of neighbours (reference code)
        item_weight: float = Field(default=0.1, ge=0)  # beta, of views (reference code)
        replace_probability: float = Field(default=0.2, ge=0, le=1)  # in views (reference code)
        temperature: float = Field(default=1.0, gt=0)  # of both contrasts (reference code)
        dropout: float = Field(default=0.5, ge=0, lt=1)  # of neighbours' weights (reference code)
        batch_size: int = Field(default=256, ge=1)  # targets (reference code)
        epochs: int = Field(default=100, ge=1)  # at most (reference code)

    config: Config
    needs = frozenset({Need.ORDER})
    requires = SequentialRecommender
    base: SequentialRecommender
    synthesizer: Synthesizer | None
    search = {
        "num_neighbors": Choice((2, 5, 10)),
        "user_weight": LogUniform(0.01, 0.5),
        "item_weight": LogUniform(0.01, 0.5),
        "learning_rate": LogUniform(3e-4, 3e-3),
    }

    def __init__(self, config: Config, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        if self.base.columns:
            raise ConfigError(
                f"setting 'base': {config.base!r} reads {', '.join(self.base.columns)} beside the "
                "items, which views do not carry; choose a base that reads items alone"
            )
        if config.summaries and not config.features.startswith("text"):
            raise ConfigError(
                f"setting 'features': summaries are texts, and {config.features!r} does not "
                "encode texts; choose 'text', 'text:hashing' or 'text:<folder or hub name>'"
            )
        self.synthesizer = None

    def stages(self, data: TrainingSet) -> Sequence[Stage]:
        """Semantics once, then one gradient stage over prefixes."""
        config = self.config
        prefixes = PrefixBatches.of(data, self.base.max_length, config.batch_size, min_history=0)
        stages: list[Stage] = []
        if config.user_weight or config.item_weight:
            semantics = Semantics(data, prefixes, config, self.device)
            stages += [replace(semantics.stage, apply=partial(self._adopt, semantics))]
            batches = SemanticBatches(prefixes, semantics, config)
            objective = Objective("next-item", self.loss, batches, config.optimizer())
        else:
            objective = Objective("next-item", self._next_item, prefixes, config.optimizer())
        return [*stages, GradientStage("fit", [objective], **config.schedule())]

    def _adopt(self, semantics: Semantics, tables: Mapping[str, Tensor]) -> None:
        """Take the tables, and a synthesizer for vectors of their width."""
        semantics.take(tables)
        if self.config.user_weight:
            self._synthesize(semantics.prefix_vectors.shape[1])

    def _synthesize(self, semantic_width: int) -> None:
        width = self.base.item_embeddings.embedding_dim
        synthesizer = Synthesizer(semantic_width, width, self.config.dropout)
        self.synthesizer = synthesizer.to(self.device)

    def load_state(self, state: Mapping[str, Tensor]) -> Self:
        """Take over a stored state, with the synthesizer if it has one."""
        self.synthesizer = None
        if "synthesizer.project.weight" in state:
            self._synthesize(state["synthesizer.project.weight"].shape[1])
        return super().load_state(state)

    def _next_item(self, batch: Batch) -> Loss:
        states = self.base.encode_prefixes(Sequences.of(batch))
        return Loss(self.base.last_item_loss(states, batch["targets"]), len(batch))

    def loss(self, batch: Batch) -> Loss:
        """The next item, plus both contrasts, weighted."""
        config = self.config
        own, views, neighbours = self._states(batch)
        parts = {"next_item": self.base.last_item_loss(own, batch["targets"])}
        total = parts["next_item"]
        if config.user_weight:
            parts["user"] = self._user_contrast(own, neighbours, batch)
            total = total + config.user_weight * parts["user"]
        if config.item_weight:
            parts["item"] = self._contrast(views[::2], views[1::2])
            total = total + config.item_weight * parts["item"]
        return Loss(total, len(batch), {name: value.detach() for name, value in parts.items()})

    def _states(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """States of the B histories, of both views of those that are not empty, one below the
        other, and of the k neighbours of those that have one: one encoding instead of three.
        """
        views, neighbours = batch["views"], batch["neighbours"]
        seen, known = batch["lengths"] > 0, _known(batch)
        items = [batch["items"], views[seen].flatten(0, 1), neighbours[known].flatten(0, 1)]
        lengths = [
            batch["lengths"],
            batch["lengths"][seen].repeat_interleave(views.shape[1]),
            batch["neighbour_lengths"][known].flatten(),
        ]
        states = self.base.encode_prefixes(Sequences(torch.cat(items), torch.cat(lengths)))
        own, of_views, of_neighbours = torch.split(states, [len(part) for part in items])
        return own, of_views, of_neighbours

    def _user_contrast(self, own: Tensor, neighbours: Tensor, batch: Batch) -> Tensor:
        """Histories against the mixtures of their neighbours' states."""
        assert self.synthesizer is not None
        known = _known(batch)
        found = batch["neighbour_lengths"][known] > 0  # [V, k]
        states = neighbours.view(*found.shape, neighbours.shape[1])
        mixed = self.synthesizer(states, batch["semantics"][known], found)
        return self._contrast(own[known], mixed)

    def _contrast(self, first: Tensor, second: Tensor) -> Tensor:
        return nt_xent(first, second, temperature=self.config.temperature)


def _known(batch: Batch) -> Tensor:
    """[B] bool, True where a history has a neighbour."""
    return (batch["neighbour_lengths"] > 0).any(1)


class Synthesizer(nn.Module):
    """A mixture of neighbours' states by attention over semantic vectors, as in a GAT layer.

    Args:
        semantic_width: E of semantic vectors.
        width: D of states.
        dropout: share of weights dropped in training.
    """

    def __init__(self, semantic_width: int, width: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(semantic_width, width, bias=False)
        self.attention = nn.Linear(2 * width, 1, bias=False)
        self.dropout = Dropout(dropout)
        for layer in (self.project, self.attention):
            nn.init.xavier_uniform_(layer.weight, gain=1.414)

    def weights(self, semantics: Tensor, found: Tensor) -> Tensor:
        """How much each neighbour counts.

        Args:
            semantics: [B, 1 + k, E] float, of a prefix and of its neighbours.
            found: [B, k] bool, True where there is a neighbour; one at least in a row.

        Returns:
            [B, k] float32; rows sum to 1, and are 0 where there is no neighbour.
        """
        projected = self.project(semantics)  # [B, 1 + k, D]
        own, others = projected[:, :1], projected[:, 1:]
        pairs = torch.cat([own.expand_as(others), others], 2)  # [B, k, 2D]
        scores = F.leaky_relu(self.attention(pairs).squeeze(2).float(), 0.2)
        return torch.softmax(scores.masked_fill(~found, -torch.inf), 1)

    def forward(self, states: Tensor, semantics: Tensor, found: Tensor) -> Tensor:
        """[B, k, D] states of neighbours to their mixtures [B, D]."""
        weights = self.dropout(self.weights(semantics, found))
        mixed: Tensor = (weights[:, :, None] * states).sum(1)
        return mixed


class Semantics:
    """What items and prefixes mean, and which are near each other.

    Args:
        data: the training set; nothing outside it is looked at but the items' own texts.
        prefixes: whose samples have vectors and neighbours.
        config: source, number of neighbours, language model.
        device: where neighbours are searched.
    """

    def __init__(
        self,
        data: TrainingSet,
        prefixes: PrefixBatches,
        config: SRACL.Config,
        device: torch.device,
    ) -> None:
        self.data, self.prefixes, self.config, self.device = data, prefixes, config, device
        self._tables: Mapping[str, NDArray[np.int64]] | None = None

    @cached_property
    def stage(self) -> ComputeStage:
        """The offline work: tables of neighbours."""
        config, model = self.config, self.config.summaries
        key: dict[str, Any] = {
            "data": self.data.fingerprint,
            "features": features_fingerprint(self.data.dataset, config.features),
            "max_length": self.prefixes.max_length,
            "num_neighbors": config.num_neighbors,
            "exclude_same_user": config.exclude_same_user,
            "summaries": [find_language_model(model).identity, _OF_USER, _OF_ITEM]
            if model
            else None,
        }
        return ComputeStage("semantics", self._compute, self.take, key=key)

    @property
    def tables(self) -> Mapping[str, NDArray[np.int64]]:
        """`items` [N, k] and `prefixes` [S, k]: nearest first, -1 behind the last."""
        if self._tables is None:  # a resumed training does not run the stage again
            self.take(product_of(self.stage))
        assert self._tables is not None
        return self._tables

    @cached_property
    def item_vectors(self) -> NDArray[np.float32]:
        """[N, E]: of summaries, or given by the source."""
        if self.config.summaries is None:
            return item_features(self.data.dataset, self.config.features)
        return self._described(self._item_prompts(), "encoding items")

    @cached_property
    def prefix_vectors(self) -> NDArray[np.float32]:
        """[S, E]: of summaries, or means over items; zero for empty histories."""
        samples = np.arange(len(self.prefixes.ends))
        histories = self.prefixes.histories_of(samples).items
        lengths = histories.lengths
        if self.config.summaries is not None:
            texts = self._described(self._user_prompts(samples[lengths > 0]), "encoding users")
            vectors = np.zeros((len(samples), texts.shape[1]), np.float32)
            vectors[lengths > 0] = texts
            return vectors
        weights = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
        shape = (len(samples), self.data.n_items)
        means = csr_array((weights, histories.values, histories.offsets), shape=shape)
        return np.asarray(means @ self.item_vectors, np.float32)

    def _compute(self) -> Mapping[str, Tensor]:
        k, owners = self.config.num_neighbors, self.prefixes.users
        vectors = torch.from_numpy(self.item_vectors).to(self.device)
        known = np.flatnonzero(self.prefixes.histories_of(np.arange(len(owners))).items.lengths)
        near, _ = nearest_neighbours(
            torch.from_numpy(self.prefix_vectors[known]).to(self.device),
            k,
            groups=torch.from_numpy(owners[known]).to(self.device)
            if self.config.exclude_same_user
            else None,
        )
        found = near.cpu().numpy()
        table = np.full((len(owners), k), -1, np.int64)
        table[known] = np.where(found >= 0, known[found], -1)
        return {
            "items": nearest_neighbours(vectors, k)[0],
            "prefixes": torch.from_numpy(table),
        }

    def take(self, product: Mapping[str, Tensor]) -> None:
        """Use these tables."""
        self._tables = {name: value.cpu().numpy() for name, value in product.items()}

    def _described(self, prompts: list[str], label: str) -> NDArray[np.float32]:
        """[n, E]: what the language model says to each prompt, encoded."""
        assert self.config.summaries is not None
        model = find_language_model(self.config.summaries)
        encoder = find_encoder(self.config.features.partition(":")[2] or "minilm")
        texts = model.generate(prompts, _WRITING)
        return encoded(texts, encoder.encode, encoder.identity, label=label)

    def _user_prompts(self, samples: NDArray[np.int64]) -> list[str]:
        chosen = self._titles(self.prefixes.histories_of(samples), "; ")
        return [_OF_USER.format(titles) for titles in chosen]

    def _item_prompts(self) -> list[str]:
        """Each item's texts, and histories that led to it, in the order of the catalog."""
        targets = self.prefixes.histories.items.values[self.prefixes.ends]
        order = np.argsort(targets, kind="stable")
        firsts = np.searchsorted(targets[order], targets[order])
        ways = order[np.arange(len(order)) - firsts < _WAYS]
        names = self.data.dataset.titles(targets[ways])
        lines = pl.DataFrame(
            {"item": targets[ways], "way": self._titles(self.prefixes.histories_of(ways), " -> ")}
        ).with_columns(way=pl.col("way") + " -> " + pl.Series(names))
        found = lines.group_by("item").agg(pl.col("way").str.join("\n"))
        every = pl.DataFrame({"item": np.arange(self.data.n_items)})
        joined = every.join(found, on="item", how="left", maintain_order="left")["way"]
        texts = item_texts(self.data.dataset)
        return [
            _OF_ITEM.format(text[:_TEXT_LENGTH], said)
            for text, said in zip(texts, joined.fill_null("none known"), strict=True)
        ]

    def _titles(self, histories: Histories, separator: str) -> list[str]:
        """The titles of each history in one line."""
        rows = pl.DataFrame(
            {
                "row": histories.items.row_index(),
                "title": self.data.dataset.titles(histories.items.values),
            }
        )
        said = rows.group_by("row").agg(pl.col("title").str.join(separator))
        every = pl.DataFrame({"row": np.arange(len(histories))})
        joined = every.join(said, on="row", how="left", maintain_order="left")["title"]
        return joined.fill_null("nothing yet").to_list()


@dataclass(frozen=True)
class SemanticBatches:
    """Prefixes with what the contrasts need, drawn anew at every visit.

    Rows for the users' contrast: `neighbours` [B, k, L] int64, `neighbour_lengths` [B, k] int64 (0
    where there is none) and `semantics` [B, 1 + k, E] float32, the prefix's own first; for the
    items' contrast: `views` [B, 2, L] int64. Without a contrast there are no neighbours or views.
    """

    prefixes: PrefixBatches
    semantics: Semantics
    config: SRACL.Config

    def plan(self, generator: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """As the prefixes plan."""
        return self.prefixes.plan(generator)

    def gather(self, rows: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        """Prefixes, targets, neighbours and fresh views of these samples."""
        near = self.semantics.tables["prefixes"][rows]  # [B, k]
        near = near if self.config.user_weight else near[:, :0]
        own = rows[:, None]
        samples = np.concatenate([own, np.where(near >= 0, near, own)], 1)  # [B, 1 + k]
        every = self.prefixes.gather(samples.ravel(), generator).rows
        gathered = {
            name: value.view(*samples.shape, *value.shape[1:]) for name, value in every.items()
        }
        found = {name: value[:, 0] for name, value in gathered.items()}
        found["neighbours"] = gathered["items"][:, 1:]
        found["neighbour_lengths"] = gathered["lengths"][:, 1:] * torch.from_numpy(near >= 0)
        found["views"] = torch.from_numpy(self._views(found, generator))
        if self.config.user_weight:
            found["semantics"] = torch.from_numpy(self.semantics.prefix_vectors[samples])
        return Batch(found)

    def _views(
        self, own: Mapping[str, Tensor], generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """[B, 2, L]: the histories twice, items replaced by neighbours at random."""
        items, lengths = own["items"].numpy(), own["lengths"].numpy()
        rows = PaddedItems.of(items, lengths, self.prefixes.padding)
        table, probability = self.semantics.tables["items"], self.config.replace_probability
        views = [
            substitute(rows, generator, probability=probability, neighbours=table).items
            for _ in range(2 if self.config.item_weight else 0)
        ]
        return np.stack(views, 1) if views else items[:, None][:, :0]
