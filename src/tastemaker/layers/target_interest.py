"""Interest in a target, read from past behaviours: one block with the switches of its family.

A target attends to the behaviours of its user; what comes out is the weighted sum h of the
behaviours beside the target q, and their product where asked for. The switches give

    DIN    score="mlp"                                     KDD 2018, arXiv 1706.06978
    TWIN   score="dot", time="concat", top_k, product      KDD 2023, arXiv 2302.02352
    TIN    score="dot", time="add", product, transform     WWW 2024, arXiv 2308.08487
    DARE   as TWIN, tables="split"                         ICLR 2025, arXiv 2410.02604

Places in time are small whole numbers, 0 for the target itself: how many events ago, or the bucket
of a time gap. Products with their vectors are taken once a place and not once a behaviour, and a
perceptron that scores pairs sees real behaviours only, its first layer split by linearity; both are
exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from tastemaker.layers.mlp import MLP, HiddenLayer, MLPActivation

__all__ = ["InterestScore", "InterestTables", "InterestTime", "TargetInterest"]

InterestScore = Literal["dot", "mlp"]
InterestTables = Literal["shared", "split"]
InterestTime = Literal["none", "concat", "add"]

_MASKED = -1e9  # score of a behaviour that is not there


class TargetInterest(nn.Module):
    """Features of the interest of C targets in the behaviours of their row.

    Args:
        width: D of a target and a behaviour.
        tables: whether attention and representation read the same vectors, or their own.
        time: whether places have vectors, and whether they are joined (`concat`) or added.
        num_places: rows of the table of places; 0 stands for the target.
        time_width: of a place's vector; `None` is D.
        place_std: of the initial entries of places' vectors.
        score: dot product divided by the root of the width, or a perceptron on
            [q, k, q - k, q * k].
        attention_sizes: hidden layers of that perceptron, at least one.
        activation: of them.
        softmax: whether weights of a row sum to one; otherwise they are the scores.
        top_k: behaviours with the best scores that take part; `None` for all.
        product: whether h * q is among the features.
        transform: whether a linear map follows the weighted sum.

    Attributes:
        width: of h and q: D, and more with `time="concat"`.
        output_width: of the features.
        is_rowwise: whether a row's features depend on nothing else; batch statistics of a
            perceptron with Dice do.
    """

    def __init__(
        self,
        width: int,
        *,
        tables: InterestTables = "shared",
        time: InterestTime = "none",
        num_places: int = 0,
        time_width: int | None = None,
        place_std: float = 0.02,
        score: InterestScore = "dot",
        attention_sizes: Sequence[int] = (80, 40),
        activation: MLPActivation = "sigmoid",
        softmax: bool = True,
        top_k: int | None = None,
        product: bool = True,
        transform: bool = False,
    ) -> None:
        super().__init__()
        time_width = width if time_width is None or time == "add" else time_width
        self.time, self.tables = time, tables
        self.width = width + (time_width if time == "concat" else 0)
        self.softmax, self.top_k, self.product = softmax, top_k, product
        self.places: nn.Embedding | None = None
        self.value_places: nn.Embedding | None = None  # of representation, with split tables
        if time != "none":
            self.places = nn.Embedding(num_places, time_width)
            nn.init.normal_(self.places.weight, std=place_std)
            if tables == "split":
                self.value_places = nn.Embedding(num_places, time_width)
                nn.init.normal_(self.value_places.weight, std=place_std)
        self.scorer = (
            MLP(4 * self.width, attention_sizes, activation=activation) if score == "mlp" else None
        )
        self.is_rowwise = score == "dot" or activation != "dice"
        self.transform = nn.Linear(self.width, self.width) if transform else None
        self.output_width = (3 if product else 2) * self.width

    def forward(
        self,
        targets: Tensor,
        behaviours: Tensor,
        valid: Tensor,
        places: Tensor | None = None,
        *,
        values: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The features [h, q] or [h, q, h * q] of each target.

        Args:
            targets: [B, C, D] float.
            behaviours: [B, L, D] float.
            valid: [B, L] bool, True at real behaviours; a row may have none, then h is zero
                (before the transform).
            places: [B, L] int64, needed with time.
            values: targets and behaviours as representation sees them, with split tables.

        Returns:
            [B, C, output_width] float.
        """
        weights = self.weights(targets, behaviours, valid, places)  # [B, C, L]
        if values is not None:
            targets, behaviours = values
        table = self.places if self.value_places is None else self.value_places
        interest = weights @ behaviours  # [B, C, D]
        own = targets
        if table is not None and places is not None:
            timely = _summed(weights, places, len(table.weight)) @ table.weight
            own, interest = self._joined(targets, table.weight[0]), self._joined(interest, timely)
        if self.transform is not None:
            interest = self.transform(interest)
        parts = [interest, own, interest * own] if self.product else [interest, own]
        return torch.cat(parts, -1)

    def weights(
        self, targets: Tensor, behaviours: Tensor, valid: Tensor, places: Tensor | None = None
    ) -> Tensor:
        """How much each behaviour counts for each target, [B, C, L]; 0 where none is.

        The arguments are those of `forward`.
        """
        if self.scorer is not None:
            scores = self._perceptron(targets, behaviours, valid, places)
        else:
            scores = self._dot(targets, behaviours, places)
        present = valid[:, None]  # [B, 1, L]
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            scores = scores.masked_fill(~present, _MASKED)
            best = scores.topk(self.top_k, -1).indices
            present = present & torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True)
        if self.softmax:
            scores = torch.softmax(scores.masked_fill(~present, _MASKED), -1)
        present_only: Tensor = scores * present
        return present_only

    def _dot(self, targets: Tensor, behaviours: Tensor, places: Tensor | None) -> Tensor:
        """Dot products over the root of the width; joined vectors are scaled apart (DARE)."""
        scale = float(targets.shape[-1]) ** -0.5
        if self.places is None or places is None:
            scores: Tensor = targets @ behaviours.transpose(1, 2) * scale
            return scores
        table = self.places.weight
        if self.time == "add":
            own = targets + table[0]
            semantic, timely = own @ behaviours.transpose(1, 2), own @ table.T  # [B, C, places]
        else:
            semantic = targets @ behaviours.transpose(1, 2)
            timely = (table[0] @ table.T).expand(*targets.shape[:2], -1)
            timely = timely * (table.shape[1] ** -0.5 / scale)
        index = places[:, None].expand(-1, targets.shape[1], -1)
        joined: Tensor = (semantic + timely.gather(2, index)) * scale
        return joined

    def _perceptron(
        self, targets: Tensor, behaviours: Tensor, valid: Tensor, places: Tensor | None
    ) -> Tensor:
        """Scores by the perceptron, [B, C, L]; only pairs with a real behaviour are computed."""
        assert self.scorer is not None
        if self.places is not None and places is not None:
            targets = self._joined(targets, self.places.weight[0])
            behaviours = self._joined(behaviours, self.places(places))
        rows, columns = valid.nonzero(as_tuple=True)  # [V]
        keys = behaviours[rows, columns]  # [V, D]
        first, *rest = self.scorer.hidden
        assert isinstance(first, HiddenLayer)
        of_query, of_key, of_gap, of_product = first.linear.weight.chunk(4, 1)  # [K, D] each
        query_part = targets @ (of_query + of_gap).T + first.linear.bias  # [B, C, K]
        key_part = keys @ (of_key - of_gap).T  # [V, K]
        products = targets[rows] * keys[:, None]  # [V, C, D]
        hidden = products @ of_product.T + query_part[rows] + key_part[:, None]
        hidden = first.after_linear(hidden)
        for layer in rest:
            hidden = layer(hidden)
        assert self.scorer.output is not None
        found: Tensor = self.scorer.output(hidden).squeeze(-1)  # [V, C]
        scores = found.new_zeros(*valid.shape, targets.shape[1])  # [B, L, C]
        return scores.index_put((rows, columns), found).transpose(1, 2)

    def _joined(self, vectors: Tensor, timely: Tensor) -> Tensor:
        """Vectors with those of their places: added, or side by side."""
        if self.time == "add":
            return vectors + timely
        return torch.cat([vectors, timely.expand(*vectors.shape[:-1], -1)], -1)


def _summed(weights: Tensor, places: Tensor, num_places: int) -> Tensor:
    """Weights [B, C, L] summed by place [B, L]: [B, C, num_places]."""
    sums = weights.new_zeros(*weights.shape[:2], num_places)
    return sums.scatter_add(2, places[:, None].expand_as(weights), weights)
