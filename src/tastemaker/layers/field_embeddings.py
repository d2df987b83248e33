"""One embedding table for the codes of many fields.

Categorical values are rows of the table, lists of values the mean of their rows, and a number x is
x times a learned vector: a linear map without bias from one input, as CTR libraries embed numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["FieldEmbeddings"]


class FieldEmbeddings(nn.Module):
    """Vectors of fields: `[..., T]` codes and `[..., M]` numbers become `[..., fields, D]`.

    Code 0 is nothing: a missing value or the end of a list. Its vector is zero and learns nothing.

    Attributes:
        table: [n_codes, D].
        directions: [n_numbers, D], what a unit of each number adds; `None` without numbers.
    """

    def __init__(self, n_codes: int, n_numbers: int, width: int, std: float = 1e-4) -> None:
        super().__init__()
        self.table = nn.Embedding(n_codes, width, padding_idx=0)
        nn.init.normal_(self.table.weight, std=std)
        with torch.no_grad():
            self.table.weight[:1].zero_()
        self.directions: nn.Parameter | None = None
        if n_numbers:
            self.directions = nn.Parameter(nn.init.xavier_normal_(torch.empty(n_numbers, width)))

    def forward(
        self, codes: Tensor, numbers: Tensor, widths: Sequence[int], first_number: int = 0
    ) -> Tensor:
        """The vectors of some of the fields.

        Args:
            codes: [..., T] int64 rows of the table.
            numbers: [..., M] float.
            widths: how many of the T codes each field has, in order.
            first_number: which row of `directions` the first number belongs to.

        Returns:
            [..., len(widths) + M, D] float.
        """
        vectors = self.table(codes)  # [..., T, D]
        parts = [vectors]
        if len(widths) < codes.shape[-1]:
            by_field = torch.split(vectors, list(widths), -2), torch.split(codes, list(widths), -1)
            parts = [
                field if field.shape[-2] == 1 else mean_of_present(field, own)
                for field, own in zip(*by_field, strict=True)
            ]
        if self.directions is not None and numbers.shape[-1]:
            own = self.directions[first_number : first_number + numbers.shape[-1]]
            parts.append(numbers[..., None].to(vectors.dtype) * own)
        return parts[0] if len(parts) == 1 else torch.cat(parts, -2)

    def penalty_gradient(self, weight: float) -> None:
        """Add the gradient of weight / 2 times the squared norm of all entries."""
        for values in (self.table.weight, self.directions):
            if values is not None and values.grad is not None:
                values.grad.add_(values.detach(), alpha=weight)


def mean_of_present(vectors: Tensor, codes: Tensor) -> Tensor:
    """The mean of a list's vectors: [..., W, D] of codes [..., W] become [..., 1, D].

    Vectors of code 0 are zero, so they need no mask; a list of nothing has mean zero.
    """
    counts = (codes != 0).sum(-1, keepdim=True).clamp(min=1)  # [..., 1]
    return vectors.sum(-2, keepdim=True) / counts[..., None].to(vectors.dtype)
