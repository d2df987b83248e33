"""EASE: a linear auto-encoder without hidden units, solved in closed form.

"Embarrassingly Shallow Autoencoders for Sparse Data" (WWW 2019, arXiv 1905.03375). Every item is
predicted from all OTHER items of the history by one ridge regression; all N regressions come from
a single inverse: with P = (X^T X + lambda I)^-1 the weights are B = I - P / diag(P) by columns,
whose diagonal is zero.

What we changed: nothing. The inverse is taken in float64 by a Cholesky factorisation, since
float32 loses digits at a small lambda; `precision="float32"` halves the memory.

Cost: N^3 operations and, while fitting, 3 N^2 numbers: 24 N^2 bytes in float64, i.e. 1 GB at 6,500
items and 38 GB at 40,000. The model is N^2 float32: 1.6 GB at 20,000. A catalog that does not fit
is refused before any work.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from tastemaker.data import Dataset, TrainingSet
from tastemaker.data.queries import Ragged
from tastemaker.errors import DataError
from tastemaker.models.base import ModelConfig, settings
from tastemaker.models.collaborative.cooccurrence import Cooccurrence
from tastemaker.models.collaborative.histories import sum_rows
from tastemaker.models.collaborative.item_to_item import ItemToItem
from tastemaker.models.search import LogUniform
from tastemaker.training.stages import ComputeStage, Stage

__all__ = ["EASE"]


class EASE(ItemToItem):
    """Item-to-item weights of N ridge regressions."""

    @settings
    class Config(ModelConfig):
        """Settings of EASE."""

        regularization: float = Field(default=200.0, gt=0)  # lambda, in users (paper: 200-1000)
        precision: Literal["float64", "float32"] = "float64"  # of the inverse (ours)

    search = {"regularization": LogUniform(1.0, 10_000.0)}

    presets = {"ml-100k": {"regularization": 250.0}}

    config: Config
    weights: Tensor  # [N, N] float32: row i is what item i of a history adds to every score

    def __init__(self, config: Config, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        self.register_buffer("weights", torch.zeros(0, 0))

    def stages(self, data: TrainingSet) -> Sequence[Stage]:
        """One inverse.

        Raises:
            DataError: when the inverse needs more memory than the device has.
        """
        size = 8 if self.config.precision == "float64" else 4
        needed, present = 3 * size * self.n_items**2, _memory(self.device)
        if needed > present:
            raise DataError(
                f"EASE needs {needed / 1e9:.0f} GB for {self.n_items:,} items in "
                f"{self.config.precision}, but {self.device} has {present / 1e9:.0f} GB; keep only "
                "items with more interactions (a k-core filter), or use item-knn or ials"
            )
        return [ComputeStage("invert", lambda: self._fit(data), self._keep)]

    def _fit(self, data: TrainingSet) -> Mapping[str, Tensor]:
        gram = Cooccurrence(data.matrix()).matrix()
        inverse = gram.to(self.device, getattr(torch, self.config.precision))
        inverse.diagonal().add_(self.config.regularization)
        torch.linalg.cholesky(inverse, out=inverse)
        inverse = torch.cholesky_inverse(inverse)
        inverse.div_(-inverse.diagonal().clone())  # column j by -P_jj
        inverse.fill_diagonal_(0.0)
        counts = torch.from_numpy(data.item_counts().astype(np.float32))
        return {"weights": inverse.float(), "counts": counts}

    def _keep(self, product: Mapping[str, Tensor]) -> None:
        for name, value in product.items():
            setattr(self, name, value.to(self.device))

    def add_up(self, histories: Ragged) -> Tensor:
        """X B for the rows X of histories, [B, N] float32."""
        return sum_rows(self.weights, histories)


def _memory(device: torch.device) -> int:
    """Bytes of memory of a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
