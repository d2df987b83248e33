"""iALS: matrix factorisation for implicit feedback by alternating least squares.

"Collaborative Filtering for Implicit Feedback Datasets" (ICDM 2008) with the regularisation and
initialisation of "Revisiting the Performance of iALS on Item Recommendation Benchmarks" (RecSys
2022, arXiv 2110.14037). It minimises, over users U and items V of width D,

    sum over interactions (1 - u.v)^2 + a0 sum over all pairs (u.v)^2
    + lambda (sum over users (|I_u| + a0 |I|) |u|^2 + sum over items (|U_i| + a0 |U|) |v|^2).

Given V, the best u solves (sum over I_u of v v^T + a0 V^T V + lambda_u I) u = sum over I_u of v,
with one Gramian V^T V for all users, and the items likewise.

What we changed: the half-steps take a few conjugate-gradient steps from where they are, as
"Applications of the Conjugate Gradient Method for Implicit Feedback Collaborative Filtering"
(RecSys 2011) proposes, for all users at once: one sampled dense product and one sparse product a
step. The last half-step of the users goes on until float32 knows no better, so a learned user is
the fold-in of their own history.

Cost: an iteration is 8 (cg_steps + 1) D operations per interaction, a fold-in 2 D^2 per interaction
and D^3 / 3 per user. Memory (n_users + n_items) x 4 D numbers and 28 bytes an interaction.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tastemaker.console import Progress
from tastemaker.data import Dataset, TrainingSet
from tastemaker.data.queries import Ragged
from tastemaker.models.base import ModelConfig, settings
from tastemaker.models.collaborative.factors import Factors, fill_unseen
from tastemaker.models.collaborative.least_squares import solve_least_squares
from tastemaker.models.search import Integer, LogUniform
from tastemaker.training.stages import ComputeStage, Stage

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["IALS", "csr_tensor", "improve"]

_TOLERANCE = 1e-6  # of the last solve: float32 knows no better


class IALS(Factors):
    """User and item vectors that reconstruct the interaction matrix."""

    @settings
    class Config(ModelConfig):
        """Settings of iALS."""

        hidden_size: int = Field(default=64, ge=1)  # width of the vectors (ours; paper: up to 8192)
        epochs: int = Field(default=16, ge=1)  # alternations (paper, sec. 4)
        regularization: float = Field(default=0.003, gt=0)  # lambda (paper, ML-20M)
        unobserved_weight: float = Field(default=0.1, gt=0)  # a0 (paper, ML-20M)
        init_std: float = Field(default=0.1, gt=0)  # of |v|: entries are 0.1 / sqrt(D) (paper)
        cg_steps: int = Field(default=3, ge=1)  # conjugate-gradient steps a half-step (ours)

    search = {
        "hidden_size": Integer(16, 256, log=True),
        "regularization": LogUniform(1e-4, 1e-1),
        "unobserved_weight": LogUniform(1e-3, 1.0),
    }

    presets = {
        "ml-100k": {"hidden_size": 128, "regularization": 0.007, "unobserved_weight": 0.6},
    }

    config: Config
    users: Tensor  # [n_users, D] float32
    items: Tensor  # [N, D] float32

    def __init__(self, config: Config, dataset: Dataset) -> None:
        super().__init__(config, dataset, config.hidden_size)
        std = config.init_std / math.sqrt(config.hidden_size)
        self.register_buffer("users", torch.randn(dataset.n_users, config.hidden_size) * std)
        self.register_buffer("items", torch.randn(dataset.n_items, config.hidden_size) * std)

    def stages(self, data: TrainingSet) -> Sequence[Stage]:
        """All alternations and the last, exact solve of the users."""
        return [ComputeStage("alternate", lambda: self._fit(data), self._keep)]

    @torch.no_grad()
    def _fit(self, data: TrainingSet) -> Mapping[str, Tensor]:
        config = self.config
        matrix = data.matrix()
        by_user = csr_tensor(matrix, self.device)  # [n_users, N]
        by_item = csr_tensor(matrix.T.tocsr(), self.device)  # [N, n_users]
        users, items = self.users, self.items
        with Progress("ials", config.epochs, unit="epochs") as progress:
            for _ in range(config.epochs):
                users = self._half_step(by_user, users, items)
                items = self._half_step(by_item, items, users)
                progress.advance()
        users = self._half_step(by_user, users, items, exactly=True)
        users, average = fill_unseen(users, np.diff(matrix.indptr) > 0)
        return {"users": users, "items": items, "average_user": average}

    def _half_step(
        self, rows: Tensor, own: Tensor, other: Tensor, *, exactly: bool = False
    ) -> Tensor:
        config = self.config
        ridge = self._ridge(rows.crow_indices().diff(), rows.shape[1])
        steps = config.hidden_size if exactly else config.cg_steps
        tolerance = _TOLERANCE if exactly else 0.0
        weight = config.unobserved_weight
        return improve(rows, own, other, weight, ridge, steps=steps, tolerance=tolerance)

    def _ridge(self, lengths: Tensor, n_others: int) -> Tensor:
        """The weight lambda_u or lambda_i of each row, [B] float32."""
        config = self.config
        return config.regularization * (lengths + config.unobserved_weight * n_others)

    def _gramian(self, items: Tensor) -> Tensor:
        return self.config.unobserved_weight * items.T @ items

    def _solve(self, histories: Ragged, items: Tensor, gramian: Tensor) -> Tensor:
        """The best user vectors for `items`, exactly, [B, D]."""
        lengths = torch.from_numpy(histories.lengths).to(items)
        ridge = self._ridge(lengths, self.n_items)
        return solve_least_squares(items, histories, gramian, torch.ones_like(lengths), ridge)

    def _keep(self, product: Mapping[str, Tensor]) -> None:
        for name, value in product.items():
            setattr(self, name, value.to(self.device))

    def user_vectors(self) -> Tensor:
        """[n_users, D] float32."""
        return self.users

    def item_vectors(self) -> Tensor:
        """[N, D] float32."""
        return self.items

    def fold_in(self, histories: Ragged) -> Tensor:
        """The solution of the users' equations, as for the users of the training set."""
        gramian = self.cached("gramian", lambda: self._gramian(self.items))
        return self._solve(histories, self.items, gramian)


def improve(
    rows: Tensor,
    own: Tensor,
    other: Tensor,
    weight: float,
    ridge: Tensor,
    *,
    steps: int,
    tolerance: float = 0.0,
) -> Tensor:
    """Conjugate-gradient steps of all rows towards their half-step's minimum; none moves away.

    Row b works on (sum over its entries of v v^T + weight V^T V + ridge_b I) x = sum of v, where V
    is `other`.

    Args:
        rows: [B, M] sparse CSR of ones.
        own: [B, D] float where the rows are now.
        other: [M, D] float, held fixed.
        weight: of the Gramian of `other`.
        ridge: [B] positive.
        steps: how many at most; D of them solve the equations up to rounding.
        tolerance: what may be left of the largest right side's length; then no more are taken.

    Returns:
        [B, D] new tensor.
    """
    gramian = weight * other.T @ other
    columns, starts = rows.col_indices(), rows.crow_indices()[:-1]
    found = torch.empty_like(rows)  # written anew by every sampled product
    scratch = torch.empty_like(own)

    def image_of(vectors: Tensor, sampled: Tensor) -> Tensor:
        """The equations' left side for `vectors`, whose products with `other` are `sampled`."""
        image = F.embedding_bag(columns, other, starts, mode="sum", per_sample_weights=sampled)
        image += torch.mm(vectors, gramian, out=scratch)
        return image.addcmul_(ridge[:, None], vectors)

    def squares(left: Tensor, right: Tensor) -> Tensor:
        return torch.mul(left, right, out=scratch).sum(1, keepdim=True)

    torch.sparse.sampled_addmm(rows, own, other.T, beta=-1.0, out=found)  # u.v - 1 where observed
    residual = image_of(own, found.values()).neg_()
    solution, direction = own.clone(), residual.clone()
    norms = squares(residual, residual)  # [B, 1]
    tiny = torch.finfo(own.dtype).tiny
    least = 0.0
    if tolerance:
        sides = F.embedding_bag(columns, other, starts, mode="sum")
        least = tolerance**2 * float(sides.square().sum(1).max())
    for _ in range(steps):
        if tolerance and float(norms.max()) <= least:
            break
        torch.sparse.sampled_addmm(rows, direction, other.T, beta=0.0, out=found)
        image = image_of(direction, found.values())
        size = norms / squares(direction, image).clamp(min=tiny)
        solution.addcmul_(size, direction)
        residual.addcmul_(size, image, value=-1.0)
        previous, norms = norms, squares(residual, residual)
        direction.mul_(norms / previous.clamp(min=tiny)).add_(residual)
    return solution


def csr_tensor(matrix: csr_array, device: torch.device) -> Tensor:
    """A SciPy CSR matrix as a torch CSR tensor."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int64)),
            torch.from_numpy(matrix.indices.astype(np.int64)),
            torch.from_numpy(matrix.data),
            matrix.shape,
            check_invariants=True,
        ).to(device)
