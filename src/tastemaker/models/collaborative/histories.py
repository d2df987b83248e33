"""Histories as sets of items: what the methods of this family know about a query."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tastemaker.data.queries import Ragged

__all__ = ["sum_rows"]


def sum_rows(table: Tensor, bags: Ragged) -> Tensor:
    """The sum of the table's rows named by each bag: a sparse 0/1 matrix times `table`.

    Args:
        table: [N, D] float.
        bags: B rows of item codes.

    Returns:
        [B, D] of the dtype and device of `table`; zeros for empty bags.
    """
    values = torch.from_numpy(bags.values).to(table.device)
    offsets = torch.from_numpy(bags.offsets).to(table.device)
    return F.embedding_bag(values, table, offsets, mode="sum", include_last_offset=True)
