"""RQ-VAE: an autoencoder whose latent vector is quantised level by level.

Paper: "Recommender Systems with Generative Retrieval" (TIGER), NeurIPS 2023, arXiv 2305.05065,
sec. 3.1; the residual quantiser of "Autoregressive Image Generation using Residual Quantization",
CVPR 2022, arXiv 2203.01941. Loss: mean squared reconstruction error plus the sum over levels of
||sg(r) - c||^2 + .25 ||r - sg(c)||^2. Without hidden layers the network falls away and what is
left is R-VQ (GRID, arXiv 2507.22224): codebooks learned on the vectors themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tastemaker.content.quantizers.residual import LearnedResiduals, encode, residual_kmeans

__all__ = ["RQVAE"]


class RQVAE(nn.Module):
    """Encoder, residual quantiser and decoder.

    Args:
        input_size: width of the item vectors.
        hidden_sizes: widths of the encoder's layers, mirrored in the decoder, the last one that
            of the latent vector (TIGER: 512, 256, 128, 32); none leaves the vectors as they are.
        quantizer: of the latent vectors.
    """

    def __init__(
        self, input_size: int, hidden_sizes: Sequence[int], quantizer: LearnedResiduals
    ) -> None:
        super().__init__()
        sizes = [input_size, *hidden_sizes]
        self.encoder = _layers(sizes)
        self.decoder = _layers(sizes[::-1])
        self.quantizer = quantizer

    @torch.no_grad()
    def start_from(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Start the codebooks by residual k-means on the latent vectors of `vectors` [N, D]."""
        levels, size, _ = self.quantizer.codebooks.shape
        found, _ = residual_kmeans(self.encoder(vectors), levels, size, generator)
        self.quantizer.start_from(found)

    def losses(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction error (scalar) and the quantiser's loss of each level, [L]."""
        found = self.quantizer(self.encoder(vectors))
        return F.mse_loss(self.decoder(found.vectors), vectors), found.losses

    @torch.no_grad()
    def encode(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, L] int64 and residuals [L + 1, B, D] float32 of the latent vectors."""
        quantizer = self.quantizer
        return encode(self.encoder(vectors), quantizer.codebooks, normalise=quantizer.normalise)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """What codes [B, L] int64 stand for, [B, input_size] float32."""
        levels = torch.arange(codes.shape[1], device=codes.device)
        vectors: Tensor = self.decoder(self.quantizer.codebooks[levels, codes].sum(1))
        return vectors


def _layers(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them; Xavier-normal weights, zero biases (LC-Rec)."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        if layers:
            layers.append(nn.ReLU())
        linear = nn.Linear(before, after)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers.append(linear)
    return nn.Sequential(*layers)
