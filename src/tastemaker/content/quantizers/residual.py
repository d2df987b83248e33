"""Residual quantisation: each level's code describes what the levels before left over.

r_0 = z; at level l the code is the nearest codeword to r_(l-1) and r_l = r_(l-1) - codeword. The
quantised vector is the sum of the codewords. Codebooks come from k-means (RQ-KMeans, as in GRID,
arXiv 2507.22224, and OneRec, arXiv 2502.18965) or are learned (`LearnedResiduals`: RQ-VAE, R-VQ).
Encoding costs O(N L K D).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tastemaker.content.quantizers.assignment import (
    StraightThrough,
    gumbel_mixture,
    nearest,
    rotated,
    sinkhorn,
    squared_distances,
    straight_through,
)
from tastemaker.content.quantizers.kmeans import balanced_kmeans, kmeans

__all__ = ["LearnedResiduals", "Quantised", "encode", "residual_kmeans"]

_SMOOTHING = 1e-5  # added to the counts of averaged codewords


@torch.no_grad()
def encode(vectors: Tensor, codebooks: Tensor, *, normalise: bool = False) -> tuple[Tensor, Tensor]:
    """Codes of vectors, by nearest codewords.

    Args:
        vectors: [B, D] float.
        codebooks: [L, K, D] float.
        normalise: whether residuals are brought to length one before each level (GRID).

    Returns:
        Codes [B, L] int64, and the residual after each level, [L + 1, B, D] float32; the first
        is the vectors themselves.
    """
    residual = vectors.float()
    codes, residuals = [], [residual]
    for codebook in codebooks.float():
        looked_at = F.normalize(residual, dim=1) if normalise else residual
        codes.append(nearest(looked_at, codebook))
        residual = looked_at - codebook[codes[-1]]
        residuals.append(residual)
    return torch.stack(codes, 1), torch.stack(residuals)


@torch.no_grad()
def residual_kmeans(
    vectors: Tensor,
    num_levels: int,
    codebook_size: int,
    generator: torch.Generator,
    *,
    normalise: bool = False,
    balanced: bool = False,
    iterations: int = 100,
) -> tuple[Tensor, Tensor]:
    """Codebooks by k-means, level after level on the residuals, and the codes of the vectors.

    Args:
        vectors: [N, D] float.
        num_levels: L.
        codebook_size: K.
        generator: of the seeds, on the CPU.
        normalise: whether residuals are brought to length one before each level (GRID).
        balanced: whether codes of a level get equally many vectors (OneRec); codes are then the
            balanced ones, not the nearest.
        iterations: of k-means, at most.

    Returns:
        Codebooks [L, K, D] float32 and codes [N, L] int64.
    """
    cluster = balanced_kmeans if balanced else kmeans
    residual = vectors.float()
    codebooks, codes = [], []
    for _ in range(num_levels):
        looked_at = F.normalize(residual, dim=1) if normalise else residual
        found = cluster(looked_at, codebook_size, generator, iterations=iterations)
        codebooks.append(found.centres)
        codes.append(found.labels)
        residual = looked_at - found.centres[found.labels]
    return torch.stack(codebooks), torch.stack(codes, 1)


@dataclass(frozen=True)
class Quantised:
    """What a learned quantiser says of a batch.

    Attributes:
        codes: [B, L] int64.
        vectors: [B, D] float, the sum of codewords; gradients pass to the input.
        losses: [L] float, codebook and commitment loss of each level.
    """

    codes: Tensor
    vectors: Tensor
    losses: Tensor


class LearnedResiduals(nn.Module):
    """Residual codebooks that are learned with what stands around them.

    Args:
        num_levels: L.
        codebook_size: K.
        width: D.
        commitment: weight of the pull of vectors to their codewords.
        update: codewords move by `"gradient"` or as running means, `"ema"`.
        decay: of the running means and counts.
        gradients: how gradients pass the choice: `"ste"`, `"rotation"` or `"gumbel"`.
        residual_gradient: where residuals are cut. `"detach"` subtracts the codeword as a
            constant, so every level's commitment reaches the input; `"ste"` subtracts the
            straight-through vector (LC-Rec), after which later levels give no gradient.
        evenness: epsilon of the Sinkhorn assignment in training, a level each; 0 is the nearest
            codeword (LC-Rec: 0, 0, 0, .003).
        restart_below: codes whose running count in a batch is less are moved to random residuals
            of the batch, in training; 0 never does.
        temperature: of `"gumbel"` (GRID: .7).
        normalise: whether residuals are brought to length one before each level (GRID's R-VQ);
            the sum of codewords is no likeness of the input then.
    """

    def __init__(
        self,
        num_levels: int,
        codebook_size: int,
        width: int,
        *,
        commitment: float = 0.25,
        update: Literal["gradient", "ema"] = "gradient",
        decay: float = 0.99,
        gradients: StraightThrough = "ste",
        residual_gradient: Literal["detach", "ste"] = "detach",
        evenness: Sequence[float] = (),
        restart_below: float = 0.0,
        temperature: float = 0.7,
        normalise: bool = False,
    ) -> None:
        super().__init__()
        self.commitment, self.update, self.decay = commitment, update, decay
        self.gradients: StraightThrough = gradients
        self.residual_gradient, self.restart_below = residual_gradient, restart_below
        self.temperature, self.normalise = temperature, normalise
        self.evenness = tuple(evenness) or (0.0,) * num_levels
        bound = 1 / codebook_size
        table = torch.empty(num_levels, codebook_size, width).uniform_(-bound, bound)
        self.codebooks = nn.Parameter(table, requires_grad=update == "gradient")
        self.register_buffer("counts", torch.ones(num_levels, codebook_size))
        self.register_buffer("sums", table.clone())

    counts: Tensor  # [L, K] float32, running number of vectors a batch
    sums: Tensor  # [L, K, D] float32, running sum of them

    @torch.no_grad()
    def start_from(self, codebooks: Tensor) -> None:
        """Take over codebooks [L, K, D], as of `residual_kmeans`."""
        self.codebooks.copy_(codebooks)
        self.counts.fill_(1.0)
        self.sums.copy_(codebooks)

    def forward(self, vectors: Tensor) -> Quantised:
        """Quantise [B, D] float."""
        if self.training and self.restart_below > 0:
            self._restart(vectors.detach())
        residual, total = vectors.float(), torch.zeros_like(vectors, dtype=torch.float32)
        codes, losses, moves = [], [], []
        for level, codebook in enumerate(self.codebooks):
            residual = F.normalize(residual, dim=1) if self.normalise else residual
            chosen, mixture = self._choose(level, residual, codebook)
            codeword = codebook[chosen]
            losses.append(self._loss(residual, codeword))
            moves.append(residual.detach())
            part = codeword if mixture is None else mixture
            passed = straight_through(residual, part) if mixture is None else mixture
            cut = codeword.detach() if self.residual_gradient == "detach" else passed
            residual, total = residual - cut, total + part
            codes.append(chosen)
        if self.training:
            self._count(codes, moves)
        return Quantised(torch.stack(codes, 1), self._passed(vectors, total), torch.stack(losses))

    def _choose(
        self, level: int, residual: Tensor, codebook: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Codes [B], and the soft codeword [B, D] where gradients need one."""
        distances = squared_distances(residual, codebook)
        even = self.evenness[level]
        if self.training and even > 0:
            return sinkhorn(distances, even).argmax(1), None
        soft = self.training and self.gradients == "gumbel"
        mixture = gumbel_mixture(distances, codebook, self.temperature) if soft else None
        return distances.argmin(1), mixture

    def _loss(self, residual: Tensor, codeword: Tensor) -> Tensor:
        """Means over the batch and the width."""
        pull = self.commitment * F.mse_loss(residual, codeword.detach())
        if self.update == "ema":
            return pull
        return pull + F.mse_loss(codeword, residual.detach())

    def _passed(self, vectors: Tensor, total: Tensor) -> Tensor:
        match self.gradients:
            case "rotation":
                return rotated(vectors.float(), total.detach())
            case "gumbel" if self.training:
                return total
            case _:
                return straight_through(vectors, total)

    @torch.no_grad()
    def _count(self, codes: Sequence[Tensor], residuals: Sequence[Tensor]) -> None:
        """Move running counts, and codewords with them when they are running means."""
        n_codes, share = self.codebooks.shape[1], 1 - self.decay
        for level, (chosen, residual) in enumerate(zip(codes, residuals, strict=True)):
            counts = torch.bincount(chosen, minlength=n_codes).to(self.counts.dtype)
            self.counts[level].lerp_(counts, share)
            if self.update == "gradient":
                continue
            sums = torch.zeros_like(self.sums[level]).index_add_(0, chosen, residual)
            self.sums[level].lerp_(sums, share)
            kept = self.counts[level]
            total = kept.sum()
            smoothed = (kept + _SMOOTHING) / (total + n_codes * _SMOOTHING) * total
            moved = self.sums[level] / smoothed[:, None]
            self.codebooks[level] = torch.where(kept[:, None] > 0, moved, self.codebooks[level])

    @torch.no_grad()
    def _restart(self, vectors: Tensor) -> None:
        """Move codes that hardly anything uses to random residuals of the batch."""
        residual = vectors.float()
        for level, codebook in enumerate(self.codebooks):
            residual = F.normalize(residual, dim=1) if self.normalise else residual
            dead = self.counts[level] < self.restart_below
            drawn = residual[torch.randint(len(residual), (len(dead),), device=residual.device)]
            codebook.copy_(torch.where(dead[:, None], drawn, codebook))
            self.counts[level].masked_fill_(dead, self.restart_below)
            fresh = drawn * self.restart_below
            self.sums[level] = torch.where(dead[:, None], fresh, self.sums[level])
            residual = residual - codebook[nearest(residual, codebook)]
