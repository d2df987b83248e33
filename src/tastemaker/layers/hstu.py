"""Hierarchical sequential transduction units: gated attention without a softmax.

Paper: "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
Recommendations", ICML 2024, arXiv 2402.17152; code meta-recsys/generative-recommenders.

A layer turns the normed states into four parts u, v, q, k by one linear map and SiLU. Queries mix
the values by `pointwise_attention`, divided by the constant longest length; the mixed values are
normed, gated by u, projected and added to the states. There is no feed-forward part.

Keys and values of positions seen before can be kept: later positions extend them, and candidates,
which see them and themselves but never each other, are encoded in microbatches of any size
(M-FALCON, sec. 4.4).

Cost of a layer: O(B L D (D + L)) time, O(B L D) memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tastemaker.layers.dropout import Dropout
from tastemaker.layers.pointwise_attention import N_TIME_BUCKETS, TimeGaps, pointwise_attention

__all__ = ["HSTUEncoder", "HSTULayer", "KeyValues"]

_NORM_EPSILON = 1e-6
_WEIGHT_STD = 0.02


@dataclass(frozen=True)
class KeyValues:
    """What a layer remembers of the positions it has seen.

    Attributes:
        keys: [B, H, L, K] float.
        values: [B, H, L, V] float.
    """

    keys: Tensor
    values: Tensor

    def cut(self, length: int) -> KeyValues:
        """The first `length` positions."""
        return KeyValues(self.keys[:, :, :length], self.values[:, :, :length])

    def grown(self, keys: Tensor, values: Tensor) -> KeyValues:
        """With positions added behind."""
        return KeyValues(torch.cat([self.keys, keys], 2), torch.cat([self.values, values], 2))


class HSTULayer(nn.Module):
    """One layer; its arguments are those of the encoder.

    Attributes:
        position_weights: [max_length] parameter.
        time_weights: [129] parameter, or `None`.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        query_size: int,
        value_size: int,
        max_length: int,
        timed: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_heads, self.max_length = num_heads, max_length
        self.widths = [num_heads * width for width in (value_size, value_size, query_size)]
        self.widths.append(num_heads * query_size)
        self.project = nn.Linear(hidden_size, sum(self.widths), bias=False)
        self.output = nn.Linear(num_heads * value_size, hidden_size)
        self.position_weights = nn.Parameter(torch.empty(max_length))
        self.time_weights = nn.Parameter(torch.empty(N_TIME_BUCKETS)) if timed else None
        self.dropout = Dropout(dropout)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """N(0, 0.02), and the output by its fan-in and fan-out (reference code).

        Projections that start larger learn far more slowly: what a layer adds is normed, so it is
        of full size from the first step, whatever it is made of.
        """
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        for weights in (self.project.weight, self.position_weights, self.time_weights):
            if weights is not None:
                nn.init.normal_(weights, std=_WEIGHT_STD)

    def forward(
        self,
        states: Tensor,
        gaps: TimeGaps | None = None,
        past: KeyValues | None = None,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, KeyValues]:
        """States of positions that follow those of `past`.

        Args:
            states: [B, M, D] float.
            gaps: times of these M positions and of all L positions, `past` included.
            past: keys and values of the L - M positions before.
            valid: [B, M] bool, False at holes, which are not seen; `None` without holes.

        Returns:
            [B, M, D], and the keys and values of all L positions.
        """
        gate, query, new = self.parts(states)
        if valid is not None:  # a value of zero is never seen
            new = KeyValues(new.keys, new.values * valid[:, None, :, None])
        known = new if past is None else past.grown(new.keys, new.values)
        first = known.keys.shape[2] - states.shape[1]
        mixed = self.mix(query, known, gaps, first=first)
        return self.combine(states, gate, mixed), known

    def candidates(
        self, states: Tensor, known: KeyValues, places: Tensor, gaps: TimeGaps | None = None
    ) -> Tensor:
        """States of candidates, each of which sees `known` positions before its place and itself.

        Args:
            states: [B, C, D] float.
            known: keys and values of L positions.
            places: [B, C] int64 in 0..L, or [B, 1] for all candidates of a row.
            gaps: times of the candidates, [B, C] or [B, 1], and of the L positions.
        """
        gate, query, own = self.parts(states)
        scores = (query * own.keys).sum(3, keepdim=True) + self.position_weights[0]
        if self.time_weights is not None:
            scores = scores + self.time_weights[0]
        itself = F.silu(scores).to(query.dtype) * own.values / self.max_length
        mixed = self.mix(query, known, gaps, places=places)
        return self.combine(states, gate, mixed + itself)

    def parts(self, states: Tensor) -> tuple[Tensor, Tensor, KeyValues]:
        """The gate [B, M, H * V], the queries [B, H, M, K], the keys and values of [B, M, D]."""
        projected = F.silu(self.project(F.layer_norm(states, states.shape[-1:], eps=_NORM_EPSILON)))
        gate, value, query, key = torch.split(projected, self.widths, dim=-1)

        def heads(part: Tensor) -> Tensor:
            width = part.shape[2] // self.num_heads
            return part.view(*part.shape[:2], self.num_heads, width).transpose(1, 2)

        return gate, heads(query), KeyValues(heads(key), heads(value))

    def mix(
        self,
        query: Tensor,
        known: KeyValues,
        gaps: TimeGaps | None,
        *,
        first: int = 0,
        places: Tensor | None = None,
    ) -> Tensor:
        """Weighted values, [B, H, M, V]; see `pointwise_attention`."""
        return pointwise_attention(
            query,
            known.keys,
            known.values,
            self.position_weights,
            time=self.time_weights,
            gaps=gaps,
            first=first,
            places=places,
            scale=1 / self.max_length,
        )

    def combine(self, states: Tensor, gate: Tensor, mixed: Tensor) -> Tensor:
        """What the layer adds to [B, M, D] states: mixed values [B, H, M, V], normed and gated."""
        joined = mixed.transpose(1, 2).flatten(2)
        normed = F.layer_norm(joined, joined.shape[-1:], eps=_NORM_EPSILON)
        added: Tensor = self.output(self.dropout(gate * normed))
        return states + added


class HSTUEncoder(nn.Module):
    """A stack of layers over causal sequences.

    Args:
        hidden_size: width D.
        num_layers: layers.
        num_heads: heads H.
        query_size: width K of a head's queries and keys.
        value_size: width V of a head's values and gates.
        max_length: positions there can be at most; attention is divided by it.
        timed: whether gaps in time have weights.
        dropout: share of gated values dropped.
    """

    def __init__(
        self,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        *,
        query_size: int,
        value_size: int,
        max_length: int,
        timed: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            HSTULayer(
                hidden_size,
                num_heads,
                query_size=query_size,
                value_size=value_size,
                max_length=max_length,
                timed=timed,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )

    def forward(
        self,
        inputs: Tensor,
        gaps: TimeGaps | None = None,
        past: Sequence[KeyValues] | None = None,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, list[KeyValues]]:
        """Encode positions, all of a sequence or those that follow a cached beginning.

        Real positions never see what stands behind them, so right padding needs no mask.

        Args:
            inputs: [B, M, D] float.
            gaps: times of the M positions and of all L positions, `past` included; needed when
                the layers are timed. The time of a query may be that of the event it predicts.
            past: of each layer, the keys and values of the L - M positions before.
            valid: [B, M] bool, False at holes, which are not seen; `None` without holes.

        Returns:
            [B, M, D] states, and the keys and values of all L positions for each layer.
        """
        states, known = inputs, []
        for index, layer in enumerate(self.layers):
            states, seen = layer(states, gaps, None if past is None else past[index], valid)
            known.append(seen)
        return states, known

    def remember(self, inputs: Tensor, gaps: TimeGaps | None = None) -> list[KeyValues]:
        """The keys and values of [B, L, D] inputs for each layer (at least one), as in `forward`.

        What the last layer would make of them is left out.
        """
        states, known = inputs, []
        *before, last = cast("Iterable[HSTULayer]", self.layers)
        for layer in before:
            states, seen = layer(states, gaps)
            known.append(seen)
        return [*known, last.parts(states)[2]]

    def candidates(
        self,
        inputs: Tensor,
        known: Sequence[KeyValues],
        places: Tensor,
        gaps: TimeGaps | None = None,
    ) -> Tensor:
        """Encode candidates, which see the positions before their place and themselves.

        Candidates never see each other, so they can be encoded in any microbatches.

        Args:
            inputs: [B, C, D] float.
            known: of each layer, the keys and values of L positions.
            places: [B, C] int64 in 0..L, or [B, 1] for all candidates of a row.
            gaps: times of the candidates, [B, C] or [B, 1], and of the L positions.

        Returns:
            [B, C, D].
        """
        states = inputs
        layers = cast("Iterable[HSTULayer]", self.layers)
        for layer, seen in zip(layers, known, strict=True):
            states = layer.candidates(states, seen, places, gaps)
        return states
