"""TIGER: the next item is written as a tuple of codes, its semantic id, one code after the other.

Paper: "Recommender Systems with Generative Retrieval", NeurIPS 2023, arXiv 2305.05065 (no
official code), with the choices of "Generative Recommendation with Semantic IDs: A Practitioner's
Handbook" (GRID), CIKM 2025, arXiv 2507.22224: residual k-means codes, a head per level, no user
token, sub-sequence augmentation.

What we changed: training predicts every event of a window in one pass. The encoder is causal over
items (codes of one item see each other) and each target's decoder sees the items before it, with
relative positions, as nothing else would tell which came last; `encoder="bidirectional"` is the
paper's, one target per row and pass. A window starts anywhere in a history and runs to its end, so
all sub-sequences of GRID occur, long histories weighing less. Decoding is constrained by a trie
after the softmax, so a beam's scores are those of `score`. A learned start stands before every
history and answers the empty one. The decoder-only variant predicts each code from all before it.

Cost: the network O(T H (D + F) D) a pass over T events of H codes, about the same per event as
SASRec with H times its tokens; no catalog-wide softmax. A query costs one pass over its history
and H - 1 steps of `beam_size` prefixes, whatever the catalog's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from tastemaker.content.decoding import beam_search, score_all, score_tuples
from tastemaker.content.semantic_ids import SemanticIds
from tastemaker.content.trie import Trie
from tastemaker.data import Dataset, TrainingSet
from tastemaker.data.queries import Queries, Ragged
from tastemaker.layers.encoder_decoder import (
    Continuation,
    KeysValues,
    RelativeBias,
    Stack,
    hidden_bias,
)
from tastemaker.layers.initialisation import initialise_normal
from tastemaker.models.base import GradientConfig, Need, Recommender, TopK, settings
from tastemaker.models.generative.tokenizer import Tokenizer, TokenizerKind
from tastemaker.models.generative.windows import Augmentation, WindowBatches
from tastemaker.models.search import Choice, LogUniform, Uniform
from tastemaker.training.stages import Batch, ComputeStage, GradientStage, Loss, Objective, Stage

__all__ = ["TIGER"]

_PREFIXES = 1 << 12  # prefixes extended at once
_PREFIXES_IN_CACHE = 1 << 10  # on the CPU, where more would leave its caches
_NODES = 1 << 24  # log-probabilities held at once when the whole trie is scored


class TIGER(Recommender):
    """Generative retrieval over semantic ids."""

    needs = frozenset({Need.ORDER})

    @settings
    class Config(GradientConfig):
        """Settings of TIGER; "both" are the paper and GRID."""

        features: str = "text"  # source of the item vectors; paper: texts
        tokenizer: TokenizerKind = "rq-kmeans"  # quantiser (GRID; paper: "rq-vae")
        num_levels: int = Field(default=3, ge=1)  # codes per item before the digit (both)
        codebook_size: int = Field(default=256, ge=1)  # values of a code (both)
        num_digits: int = Field(default=256, ge=1)  # values of the digit that ends a tuple (ours)
        architecture: Literal["encoder-decoder", "decoder-only"] = "encoder-decoder"  # both
        encoder: Literal["causal", "bidirectional"] = "causal"  # ours; both: "bidirectional"
        separator: bool = True  # a learned vector behind each item, encoder only (GRID)
        user_tokens: int = Field(default=0, ge=0)  # buckets of users; 0: none (GRID; paper: 2000)
        hidden_size: int = Field(default=128, ge=1)  # width (both)
        num_layers: int = Field(default=4, ge=1)  # blocks, of encoder and decoder each (both)
        num_heads: int = Field(default=6, ge=1)  # attention heads (both)
        head_size: int = Field(default=64, ge=1)  # width of a head (both)
        feedforward_size: int = Field(default=1024, ge=1)  # inner width (both)
        dropout: float = Field(default=0.15, ge=0, lt=1)  # GRID; paper: .1
        attention_dropout: float = Field(default=0.0, ge=0, lt=1)  # of attention weights (ours)
        max_length: int = Field(default=20, ge=1)  # most recent events looked at (paper)
        augmentation: Augmentation = "windows"  # which sub-sequences are trained on (GRID)
        beam_size: int = Field(default=20, ge=1)  # prefixes kept; at least k (ours; GRID: 10)
        batch_size: int = Field(default=256, ge=1)  # windows (paper)
        weight_decay: float = Field(default=1e-4, ge=0)  # GRID
        clip_norm: float = Field(default=1.0, ge=0)  # largest gradient norm (ours)

    config: Config
    search = {
        "hidden_size": Choice((64, 128, 256)),
        "num_layers": Choice((1, 2, 4)),
        "dropout": Uniform(0.1, 0.5),
        "learning_rate": LogUniform(3e-4, 5e-3),
    }

    presets = {
        # Chosen on the validation items of Amazon Beauty, within an hour of one CPU core.
        "amazon-beauty": {
            "architecture": "decoder-only",
            "num_layers": 2,
            "num_heads": 4,
            "head_size": 32,
            "feedforward_size": 512,
            "dropout": 0.3,
            "batch_size": 64,
            "learning_rate": 2e-3,
            "warmup_steps": 300,
            "decay": "cosine",
            "epochs": 60,
            "validate_every": 20,
            "beam_size": 100,
        },
    }

    codes: Tensor  # [N, H] int64 semantic ids; no rows before they are computed
    level_starts: Tensor  # [H] int64, where each level's tokens begin in the table

    def __init__(self, config: Config, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        sizes = (*[config.codebook_size] * config.num_levels, config.num_digits)
        width, self.sizes = config.hidden_size, sizes
        starts = torch.tensor((0, *sizes[:-1])).cumsum(0)
        self.register_buffer("codes", torch.empty(0, len(sizes), dtype=torch.int64))
        self.register_buffer("level_starts", starts, persistent=False)
        self.token_embeddings = nn.Embedding(sum(sizes), width)
        self.start = nn.Parameter(torch.randn(width))
        self.user_embeddings = (
            nn.Embedding(config.user_tokens, width) if config.user_tokens else None
        )
        self.network: EncoderDecoder | DecoderOnly = (
            EncoderDecoder(config, len(sizes))
            if config.architecture == "encoder-decoder"
            else DecoderOnly(config, len(sizes))
        )
        self.heads = nn.ModuleList(nn.Linear(width, size, bias=False) for size in sizes)
        self._trie: tuple[Tensor, Trie] | None = None
        initialise_normal(self.network, width**-0.5)
        initialise_normal(self.heads, 0.02)
        initialise_normal(self.token_embeddings, 1.0)

    def stages(self, data: TrainingSet) -> Sequence[Stage]:
        """Tokenise the catalog, then learn to write the next item."""
        config = self.config
        tokenizer = Tokenizer(
            config.features, config.tokenizer, config.num_levels, config.codebook_size
        )
        one_pass = config.architecture == "decoder-only" or config.encoder == "causal"
        batches = WindowBatches.of(
            data, config.max_length, config.batch_size, config.augmentation, every_event=one_pass
        )
        objective = Objective("next-item", self.loss, batches, config.optimizer())
        return [
            ComputeStage(
                "tokenize",
                lambda: {"codes": tokenizer.codes(data.dataset, self.device)},
                lambda product: self.take_codes(product["codes"]),
                tokenizer.key(data.dataset),
            ),
            GradientStage("fit", [objective], **config.schedule()),
        ]

    def take_codes(self, codes: Tensor) -> None:
        """Let these codes [N, L] int64, each with its digit, be the semantic ids."""
        found = SemanticIds.of(
            codes.cpu().numpy(), self.config.codebook_size, digits=self.config.num_digits
        )
        self.codes = torch.from_numpy(found.codes).to(self.device)

    def content_codes(self) -> Tensor:
        """The codes of the items' content, [N, num_levels] int64: semantic ids but the digit."""
        return self.codes[:, :-1]

    def loss(self, batch: Batch) -> Loss:
        """Cross-entropy of the codes of every target, summed over levels; a mean over targets."""
        items, counted = batch["items"], batch["counted"]  # [B, T] each
        states = self.network(self._starts(batch["users"]), self._embedded(items), batch["lengths"])
        if states.shape[1] == 1:  # the last event of each row alone
            rows = torch.arange(len(items), device=items.device)
            items, counted = items[rows, batch["lengths"] - 1], batch["lengths"] > 0
            states = states[:, 0]
        chosen, targets = states[counted], self.codes[items[counted]]  # [X, H, D] and [X, H]
        losses = [
            F.cross_entropy(head(chosen[:, level]).float(), targets[:, level])
            for level, head in enumerate(self.heads)
        ]
        return Loss(torch.stack(losses).sum(), counted.sum())

    def _starts(self, users: Tensor) -> Tensor:
        """What stands before each history, [B, D]: the start, and the user's bucket if known."""
        starts = self.start.expand(len(users), -1)
        if self.user_embeddings is not None:
            bucket = self.user_embeddings(users.clamp(min=0) % self.config.user_tokens)
            starts = starts + bucket * (users >= 0)[:, None]
        return starts

    def _embedded(self, items: Tensor) -> Tensor:
        """The tokens of items [B, T] int64, [B, T, H, D]; those of padding mean nothing."""
        tokens = self.codes[items.clamp(max=self.n_items - 1)] + self.level_starts
        embedded: Tensor = self.token_embeddings(tokens)
        return embedded

    def writer(self, queries: Queries) -> TupleWriter:
        """A decoding of what follows these queries, to be called without gradients."""
        histories = queries.histories.items
        width = min(int(histories.lengths.max(initial=0)), self.config.max_length)
        kept = histories.take(slice(None), last=max(width, 1))
        items = torch.from_numpy(kept.padded(width, self.n_items)).to(self.device)
        lengths = torch.from_numpy(kept.lengths).to(self.device)
        users = torch.from_numpy(queries.users).to(self.device)
        return TupleWriter(
            self, self.network.read(self._starts(users), self._embedded(items), lengths)
        )

    def trie(self, items: Tensor | None = None) -> Trie:
        """The trie of all items, or of some [C] int64; the whole one is kept until codes change."""
        if items is not None:
            return Trie.of(self.codes[items], items)
        if self._trie is None or self._trie[0] is not self.codes:
            self._trie = (self.codes, Trie.of(self.codes))
        return self._trie[1]

    @torch.no_grad()
    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """Log-probabilities of the items' tuples, [B, N] or [B, C] float32."""
        n_columns = self.n_items if items is None else items.shape[1]
        scores = torch.empty(len(queries), n_columns, device=self.device)
        size = max(1, _NODES // (max(n_columns, 1) * max(self.sizes)))
        for start in range(0, len(queries), size):
            rows = slice(start, start + size)
            writer = self.writer(queries.take(rows))
            if items is None:
                trie = self.trie()
                found = score_all(writer, trie, len(scores[rows]))
                scores[rows, trie.items] = found
            else:
                scores[rows] = score_tuples(writer, self.codes[items[rows].to(self.device)])
        return scores

    def _recommend_block(
        self, queries: Queries, k: int, exclude: Ragged | None, columns: Tensor | None
    ) -> TopK:
        items = torch.full((len(queries), k), -1, dtype=torch.int64, device=self.device)
        scores = torch.full((len(queries), k), -torch.inf, device=self.device)
        if columns is not None and not len(columns):
            return TopK(items, scores)
        trie, width = self.trie(columns), max(k, self.config.beam_size)
        order = np.argsort(queries.histories.items.lengths, kind="stable")
        prefixes = _PREFIXES_IN_CACHE if self.device.type == "cpu" else _PREFIXES
        n_blocks = -(-len(order) // max(1, prefixes // width))
        size = -(-len(order) // max(1, n_blocks))  # blocks are about equal
        for start in range(0, len(order), max(1, size)):
            rows = order[start : start + size]
            closed = None
            if exclude is not None:
                banned = exclude.take(rows)
                closed = trie.closed_to(banned.row_index(), banned.values)
            found = beam_search(self.writer(queries.take(rows)), trie, width, len(rows), closed)
            width_found = min(k, found.items.shape[1])
            places = torch.from_numpy(rows).to(self.device)
            items[places, :width_found] = found.items[:, :width_found]
            scores[places, :width_found] = found.scores[:, :width_found]
        return TopK(items, scores)


class DecoderOnly(nn.Module):
    """One causal stack over the start and all codes; each position predicts the next code."""

    def __init__(self, config: TIGER.Config, num_codes: int) -> None:
        super().__init__()
        self.num_codes = num_codes
        self.decoder = _stack(config, memory=False)
        self.decoder_bias = RelativeBias(config.num_heads, two_sided=False)

    def forward(self, starts: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Before every code the state that predicts it.

        Args:
            starts: [B, D] float.
            tokens: [B, T, H, D] float.
            lengths: [B] int64 events; what stands behind them is not seen before.

        Returns:
            [B, T, H, D] float.
        """
        del lengths
        stream = torch.cat([starts[:, None], tokens.flatten(1, 2)[:, :-1]], 1)
        states: Tensor = self.decoder(stream, self._bias(stream))
        return states.view(tokens.shape)

    def read(self, starts: Tensor, tokens: Tensor, lengths: Tensor) -> Reading:
        """Take in histories, arguments as of `forward`, before writing what follows them."""
        stream = torch.cat([starts[:, None], tokens.flatten(1, 2)], 1)
        past: list[KeysValues] = []
        last = lengths * self.num_codes  # position of each row's last code
        first = self.decoder(stream, self._bias(stream), keep=past, at=last)
        return Reading(
            Continuation(self.decoder, past),
            first,
            last,
            stream.shape[1],
            self.decoder_bias,
            self.decoder_bias,
        )

    def _bias(self, stream: Tensor) -> Tensor:
        place = torch.arange(stream.shape[1], device=stream.device)
        offsets = place - place[:, None]  # key minus query
        bias: Tensor = self.decoder_bias(offsets)
        return (bias + hidden_bias(offsets <= 0))[None]


class EncoderDecoder(nn.Module):
    """An encoder over the codes of the history, a decoder over those of each target."""

    def __init__(self, config: TIGER.Config, num_codes: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_codes, self.causal = num_codes, config.encoder == "causal"
        self.separator = nn.Parameter(torch.randn(width)) if config.separator else None
        self.begin = nn.Parameter(torch.randn(width))
        self.encoder = _stack(config, memory=False)
        self.decoder = _stack(config, memory=True)
        self.encoder_bias = RelativeBias(config.num_heads, two_sided=True)
        self.decoder_bias = RelativeBias(config.num_heads, two_sided=False)
        self.memory_bias = RelativeBias(config.num_heads, two_sided=False)

    @property
    def stride(self) -> int:
        """Positions of an item in the encoder."""
        return self.num_codes + (self.separator is not None)

    def forward(self, starts: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Before every code of a target the state that predicts it.

        Args:
            starts: [B, D] float.
            tokens: [B, T, H, D] float.
            lengths: [B] int64 events, the last one a target only.

        Returns:
            [B, T, H, D] float, all events targets; of a bidirectional encoder [B, 1, H, D], the
            last event alone.
        """
        memory = self._encode(starts, tokens[:, :-1], lengths - 1)
        if self.causal:
            before = torch.arange(tokens.shape[1], device=tokens.device)[None]  # [1, T]
        else:
            rows = torch.arange(len(tokens), device=tokens.device)
            tokens, before = tokens[rows, lengths - 1][:, None], (lengths - 1)[:, None]
        begin = self.begin.expand(*tokens.shape[:2], 1, -1)
        inputs = torch.cat([begin, tokens[:, :, :-1]], 2)  # [B, T, H, D]
        states: Tensor = self.decoder(
            inputs.flatten(1, 2),
            self._decoder_bias(tokens.shape[1], tokens.device),
            memory,
            self._memory_bias(before, memory.shape[1]),
        )
        return states.view(inputs.shape)

    def read(self, starts: Tensor, tokens: Tensor, lengths: Tensor) -> Reading:
        """Take in histories, arguments as of `forward`, before writing what follows them."""
        memory = self._encode(starts, tokens, lengths)
        continuation = Continuation(self.decoder, self.decoder.memory_keys_values(memory))
        last = lengths * self.stride
        reading = Reading(
            continuation, None, last, memory.shape[1], self.decoder_bias, self.memory_bias
        )
        begin = self.begin.expand(len(memory), 1, -1)
        reading.first = reading.extend(begin, None)
        return reading

    def _encode(self, starts: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """[B, T, H, D] tokens to [B, 1 + T * stride, D], the start in front."""
        if self.separator is not None:
            between = self.separator.expand(*tokens.shape[:2], 1, -1)
            tokens = torch.cat([tokens, between], 2)
        stream = torch.cat([starts[:, None], tokens.flatten(1, 2)], 1)
        place = torch.arange(stream.shape[1], device=stream.device)
        event = (place + self.stride - 1).div(self.stride, rounding_mode="floor")  # start: 0
        if self.causal:
            visible = (event <= event[:, None])[None]  # [1, S, S]
        else:
            visible = (event <= lengths[:, None])[:, None]  # [B, 1, S]
        bias = self.encoder_bias(place - place[:, None]) + hidden_bias(visible)[:, None]
        states: Tensor = self.encoder(stream, bias)
        return states

    def _decoder_bias(self, n_targets: int, device: torch.device) -> Tensor:
        """[1, heads, T * H, T * H]: codes see those before them of their own target."""
        place = torch.arange(n_targets * self.num_codes, device=device)
        target = place.div(self.num_codes, rounding_mode="floor")
        offsets = place - place[:, None]
        visible = (offsets <= 0) & (target == target[:, None])
        bias: Tensor = self.decoder_bias(offsets)
        return (bias + hidden_bias(visible))[None]

    def _memory_bias(self, before: Tensor, n_memory: int) -> Tensor:
        """[B or 1, heads, T * H, S] for targets with so many events before them, [B or 1, T]."""
        last = before * self.stride  # the position of the last thing each target sees
        place = torch.arange(n_memory, device=before.device)
        step = torch.arange(self.num_codes, device=before.device)
        query = (last[:, :, None] + step).flatten(1)  # [B or 1, T * H]
        visible = place <= last.repeat_interleave(self.num_codes, 1)[:, :, None]
        bias: Tensor = self.memory_bias(place - query[:, :, None])
        return bias + hidden_bias(visible)[:, None]


@dataclass
class Reading:
    """Histories taken in by a network, and what is written behind them.

    Attributes:
        continuation: of the stack that writes.
        first: [B, 1, D] the state that predicts the first code.
        last: [B] int64 position of the last thing of each row.
        n_shared: positions that beams of a row share.
        own_bias: relative positions among what a beam wrote.
        shared_bias: relative positions of what is shared.
        written: positions a beam wrote.
    """

    continuation: Continuation
    first: Tensor | None
    last: Tensor
    n_shared: int
    own_bias: RelativeBias
    shared_bias: RelativeBias
    written: int = 0

    def extend(self, inputs: Tensor, parents: Tensor | None) -> Tensor:
        """One more code [B, W, D] of each beam; the states [B, W, D] that predict the next."""
        self.written += 1
        own = torch.arange(1 - self.written, 1, device=inputs.device)[None]  # offsets
        place = torch.arange(self.n_shared, device=inputs.device)
        decoder_only = self.own_bias is self.shared_bias
        query = self.last + self.written - (0 if decoder_only else 1)
        shared = self.shared_bias((place - query[:, None])[:, None])  # [B, heads, 1, S]
        visible = (place <= self.last[:, None])[:, None, None]
        own_bias = self.own_bias(own).squeeze(1)
        return self.continuation.extend(inputs, parents, own_bias, shared + hidden_bias(visible))


@dataclass
class TupleWriter:
    """The writer of `content.decoding` for a TIGER model and a batch of queries."""

    model: TIGER
    reading: Reading
    level: int = 0

    def first(self) -> Tensor:
        """Log-probabilities of the first code, [B, 1, V] float32."""
        assert self.reading.first is not None
        return self._log_probabilities(self.reading.first)

    def extend(self, parents: Tensor, codes: Tensor) -> Tensor:
        """Log-probabilities of the code that follows, [B, W, V] float32."""
        model, reading = self.model, self.reading
        inputs = model.token_embeddings(codes + model.level_starts[self.level])
        self.level += 1
        return self._log_probabilities(reading.extend(inputs, parents if reading.written else None))

    def _log_probabilities(self, states: Tensor) -> Tensor:
        return torch.log_softmax(self.model.heads[self.level](states).float(), dim=2)


def _stack(config: TIGER.Config, *, memory: bool) -> Stack:
    return Stack(
        config.hidden_size,
        config.num_layers,
        config.num_heads,
        config.head_size,
        config.feedforward_size,
        memory=memory,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
    )
