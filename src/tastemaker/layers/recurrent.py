"""Gated recurrent encoder: a whole sequence at once, or one step with a carried state.

"Learning Phrase Representations using RNN Encoder-Decoder" (EMNLP 2014, arXiv 1406.1078), the
cell of torch: the reset gate multiplies the recurrent half of the candidate after its bias.
Cost: O(L H (D + H)) per sequence, L steps one after another.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tastemaker.layers.dropout import Dropout

__all__ = ["GRUEncoder"]


class GRUEncoder(nn.Module):
    """Stacked GRU layers.

    Args:
        input_size: width D of the inputs.
        hidden_size: width H of every layer.
        num_layers: layers.
        dropout: share of a layer's outputs dropped, the last layer's included.
        carry_dropped: in `step`, whether the state carried on is the dropped one (as the GRU4Rec
            authors do) rather than the whole one.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        dropout: float = 0.0,
        carry_dropped: bool = False,
    ) -> None:
        super().__init__()
        self.hidden_size, self.carry_dropped = hidden_size, carry_dropped
        self.layers = nn.ModuleList(
            nn.GRU(input_size if depth == 0 else hidden_size, hidden_size, batch_first=True)
            for depth in range(num_layers)
        )
        self.dropout = Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        """Encode right-padded sequences from the zero state.

        Padding behind a sequence needs no mask: the states before it do not see it.

        Args:
            inputs: [B, L, D] float.

        Returns:
            [B, L, H] float32 outputs of the last layer.
        """
        # The kernel runs step by step; on the CPU half precision only adds conversions to it.
        with torch.autocast(inputs.device.type, enabled=False):
            outputs = inputs.float() if inputs.element_size() < 4 else inputs
            for layer in self.layers:
                outputs = self.dropout(layer(outputs)[0])
        return outputs

    def initial(self, n_rows: int) -> Tensor:
        """The state before the first step, [num_layers, B, H] zeros."""
        like = next(self.parameters())
        return like.new_zeros(len(self.layers), n_rows, self.hidden_size)

    def step(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            inputs: [B, D] float.
            state: [num_layers, B, H] float.

        Returns:
            The output [B, H] and the next state [num_layers, B, H].
        """
        carried = []
        with torch.autocast(inputs.device.type, enabled=False):
            outputs = inputs[:, None].to(state.dtype)  # [B, 1, D]
            for layer, before in zip(self.layers, state, strict=True):
                whole, _ = layer(outputs, before[None].contiguous())
                outputs = self.dropout(whole)
                carried.append((outputs if self.carry_dropped else whole)[:, 0])
        return outputs[:, 0], torch.stack(carried)
