"""A catalog as codes: item features, a quantiser, and the codes of every item, computed once.

The quantisers of GRID (CIKM 2025, arXiv 2507.22224): residual k-means, RQ-VAE (of TIGER, NeurIPS
2023, arXiv 2305.05065) and R-VQ. Features are centred and brought to a mean square of one per
dimension by one factor, which leaves their geometry alone. The product is a function of features
and settings, whatever the seed of a run, so runs of the same catalog share it.

What we changed: GRID trains residual k-means on mini-batches for ten steps a level; a catalog fits
in memory, so ours is Lloyd's until labels stay. RQ-VAE is trained with Adam, not Adagrad, starts
from residual k-means and moves dead codes. Items that no code was asked for during training (cold
ones) are in the catalog and get their codes like all others.

Cost: k-means O(L N K D) an iteration; RQ-VAE and R-VQ 3,000 steps of 1,024 items (GRID's number).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tastemaker.console import say
from tastemaker.content.features import features_fingerprint, item_features
from tastemaker.content.quantizers.kmeans import spread_seeds
from tastemaker.content.quantizers.residual import LearnedResiduals, residual_kmeans
from tastemaker.content.quantizers.rq_vae import RQVAE
from tastemaker.content.semantic_ids import TokenizerReport, report_on
from tastemaker.data import Dataset
from tastemaker.training.batches import shuffled
from tastemaker.training.loop import GradientLoop
from tastemaker.training.placement import World
from tastemaker.training.randomness import seeded
from tastemaker.training.stages import Batch, GradientStage, Loss, Objective, Optimizer

__all__ = ["Tokenizer", "TokenizerKind"]

TokenizerKind = Literal["rq-kmeans", "rq-vae", "r-vq"]

_SEED = 0  # fixed: codes depend on features and settings alone
_STEPS = 3000  # of RQ-VAE, and of all levels of R-VQ together (GRID)
_BATCH = 1024  # items a step (LC-Rec)
_HIDDEN = (512, 256, 128, 32)  # RQ-VAE, the last one the latent width (TIGER)
_ITERATIONS = 50  # of k-means, at most, a level


@dataclass(frozen=True)
class Tokenizer:
    """How a catalog becomes codes.

    Attributes:
        features: source of the item vectors (see `content.features`).
        kind: the quantiser.
        num_levels: codes per item.
        codebook_size: values of a code.
    """

    features: str
    kind: TokenizerKind
    num_levels: int
    codebook_size: int

    def key(self, dataset: Dataset) -> Mapping[str, Any]:
        """What the codes are made from, for the cache."""
        return {
            "features": features_fingerprint(dataset, self.features),
            "kind": self.kind,
            "num_levels": self.num_levels,
            "codebook_size": self.codebook_size,
            "recipe": [_SEED, _STEPS, _BATCH, *_HIDDEN, _ITERATIONS, "normalised residuals"],
        }

    def codes(self, dataset: Dataset, device: torch.device) -> Tensor:
        """The codes of every item, [N, L] int64; says how good they are."""
        features = item_features(dataset, self.features)
        vectors = _standardised(features).to(device)
        with seeded(_SEED, "tokenise"):
            codes = self.quantise(vectors)
        say(f"{self.kind}: {self.report(codes, features)}")
        return codes

    def report(self, codes: Tensor, features: NDArray[np.float32]) -> TokenizerReport:
        """How well codes [N, L] describe features [N, D]."""
        return report_on(codes.cpu().numpy(), self.codebook_size, features)

    def quantise(self, vectors: Tensor) -> Tensor:
        """Fit the quantiser to vectors [N, D] float32 and encode them, [N, L] int64."""
        generator = torch.Generator().manual_seed(_SEED)
        if self.kind == "rq-kmeans":
            _, codes = residual_kmeans(
                vectors,
                self.num_levels,
                self.codebook_size,
                generator,
                normalise=True,
                iterations=_ITERATIONS,
            )
            return codes
        if self.kind == "rq-vae":
            return self._rq_vae(vectors, generator)
        return self._r_vq(vectors, generator)

    def _rq_vae(self, vectors: Tensor, generator: torch.Generator) -> Tensor:
        width = vectors.shape[1]
        hidden = [size for size in _HIDDEN if size < width] or [width]
        quantizer = LearnedResiduals(
            self.num_levels, self.codebook_size, hidden[-1], restart_below=_restart(self)
        )
        model = RQVAE(width, hidden, quantizer).to(vectors.device)
        model.start_from(vectors, generator)

        def loss(batch: Batch) -> Loss:
            reconstruction, levels = model.losses(batch["vectors"])
            return Loss(reconstruction + levels.sum(), len(batch))

        _train("rq-vae", model, loss, vectors, _STEPS)
        return model.encode(vectors)[0]

    def _r_vq(self, vectors: Tensor, generator: torch.Generator) -> Tensor:
        """Codebooks without a network, one level after the other."""
        quantizer = LearnedResiduals(
            self.num_levels,
            self.codebook_size,
            vectors.shape[1],
            restart_below=_restart(self),
            normalise=True,
        )
        model = RQVAE(vectors.shape[1], (), quantizer).to(vectors.device)
        for level in range(self.num_levels):
            _, residuals = model.encode(vectors)
            with torch.no_grad():
                left = F.normalize(residuals[level], dim=1)
                quantizer.codebooks[level] = spread_seeds(left, self.codebook_size, generator)
                quantizer.counts.fill_(1.0)

            def loss(batch: Batch, level: int = level) -> Loss:
                return Loss(quantizer(batch["vectors"]).losses[level], len(batch))

            _train(f"r-vq-{level + 1}", model, loss, vectors, _STEPS // self.num_levels)
        return model.encode(vectors)[0]


@dataclass(frozen=True)
class _VectorBatches:
    """So many batches of vectors as one epoch, which passes over all of them again and again."""

    vectors: Tensor
    steps: int

    def plan(self, generator: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """Shuffled rows, pass after pass."""
        batches: list[NDArray[np.int64]] = []
        while len(batches) < self.steps:
            batches += shuffled(len(self.vectors), _BATCH, generator)
        return batches[: self.steps]

    def gather(self, rows: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        """The vectors of these rows; nothing is drawn."""
        del generator
        return Batch({"vectors": self.vectors[torch.from_numpy(rows).to(self.vectors.device)]})


def _train(
    name: str, model: RQVAE, loss: Callable[[Batch], Loss], vectors: Tensor, steps: int
) -> None:
    """Some steps of Adam, in this process alone: the others wait for the product."""
    objective = Objective(name, loss, _VectorBatches(vectors, steps), Optimizer(learning_rate=1e-3))
    stage = GradientStage(name, [objective], epochs=1, monitor=None, precision="float32")
    loop = GradientLoop(
        stage, model, seed=_SEED, device=vectors.device, world=World(), validate=None
    )
    for record in loop.run(lambda: None):
        say(f"{name}: loss {record['loss']:.4f}, {record['seconds']:.1f} s")
    model.eval()


def _standardised(features: NDArray[np.float32]) -> Tensor:
    """Centred, with a mean square of one: [N, D] float32."""
    centred = features - features.mean(0)
    scale = max(float(np.sqrt(np.square(centred).mean())), 1e-12)
    return torch.from_numpy((centred / scale).astype(np.float32))


def _restart(tokenizer: Tokenizer) -> float:
    """Codes that get less than a tenth of their share of a batch are dead."""
    return 0.1 * _BATCH / tokenizer.codebook_size
