"""State-space duality: a linear recurrence over a sequence, computed by matrix products in chunks.

"Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space
Duality" (Mamba-2, ICML 2024, arXiv 2405.21060); code state-spaces/mamba. Per head, with values x
[P], write and read vectors B and C [N], step sizes D > 0 and a rate A < 0, the state S [P, N] is

    S_l = exp(D_l A) S_{l-1} + D_l x_l B_l^T,    y_l = S_l C_l

which is the same as Y = (M o C B^T) (D x) with M[i, j] = exp(A (D_{j+1} + ... + D_i)) for i >= j.
`ssd_recurrent` is the first form, `ssd_quadratic` the second, and `ssd` the second inside chunks
of Q positions with the first between them.

What we changed: plain tensor operations, no kernels of our own; sums of steps between two
positions are differences of float64 running sums, as exact as summing each range by itself and
without its scan over Q x Q numbers; chunks are made as equal as they can be, so short rows are
hardly padded; one group of write and read vectors serves all heads.

Cost of `ssd` over L positions: O(B L H (Q (N / H + P) + N P)) time and O(B L H (Q + P + N P / Q))
memory, linear in L; of `ssd_quadratic` O(B H L^2 P); of `ssd_at`, one output a row, O(B L (N + H
P)); of a step O(B H N P).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "CausalConvolution",
    "ConvolutionActivation",
    "GatedRMSNorm",
    "StateSpaceBlock",
    "ssd",
    "ssd_at",
    "ssd_quadratic",
    "ssd_recurrent",
    "ssd_step",
]

ConvolutionActivation = Literal["silu", "hardswish"]


def ssd(
    values: Tensor, steps: Tensor, rates: Tensor, write: Tensor, read: Tensor, *, chunk_size: int
) -> Tensor:
    """The outputs of the recurrence from the zero state, in chunks.

    Args:
        values: [B, L, H, P] float, x.
        steps: [B, L, H] float, the step sizes; a step of 0 leaves the state as it is.
        rates: [H] float, A: negative.
        write: [B, L, N] float, B: where an event's values go in the state.
        read: [B, L, N] float, C: where the output is read from it.
        chunk_size: Q, the most positions of a chunk.

    Returns:
        [B, L, H, P] float.
    """
    length = values.shape[1]
    n_chunks = max(1, -(-length // chunk_size))
    if n_chunks == 1:
        return ssd_quadratic(values, steps, rates, write, read)
    size = -(-length // n_chunks)
    padding = n_chunks * size - length

    def cut(tensor: Tensor) -> Tensor:  # [B, L, ...] to [B, K, Q, ...]
        behind = (0, 0) * (tensor.ndim - 2) + (0, padding)
        return F.pad(tensor, behind).reshape(len(tensor), n_chunks, size, *tensor.shape[2:])

    values, steps, write, read = cut(values), cut(steps).transpose(2, 3), cut(write), cut(read)
    values = values.transpose(2, 3) * steps[..., None]  # [B, K, H, Q, P]
    sums = (steps.double() * rates.double()[:, None]).cumsum(3)  # [B, K, H, Q]
    outputs = _within(values, sums, write, read)
    to_end = (sums[..., -1:] - sums).to(steps.dtype).exp()  # decay up to the chunk's end
    states = (values * to_end[..., None]).mT @ write[:, :, None]  # [B, K, H, P, N]
    entering = _entering(states.to(steps.dtype), sums[..., -1].to(steps.dtype).exp())
    from_start = sums.to(steps.dtype).exp()
    outputs = outputs + (read[:, :, None] @ entering.mT) * from_start[..., None]
    return outputs.transpose(2, 3).flatten(1, 2)[:, :length]


def ssd_quadratic(
    values: Tensor, steps: Tensor, rates: Tensor, write: Tensor, read: Tensor
) -> Tensor:
    """What `ssd` computes, with every pair of positions in the open; best for short rows."""
    steps = steps.transpose(1, 2)  # [B, H, L]
    sums = (steps.double() * rates.double()[:, None]).cumsum(2)
    return _within(values.transpose(1, 2) * steps[..., None], sums, write, read).transpose(1, 2)


def ssd_at(
    values: Tensor,
    steps: Tensor,
    rates: Tensor,
    write: Tensor,
    read: Tensor,
    positions: Tensor,
) -> Tensor:
    """What `ssd` computes at one position of each row, without the others.

    Args:
        values: [B, L, H, P] float.
        steps: [B, L, H] float.
        rates: [H] float.
        write: [B, L, N] float.
        read: [B, N] float, at the chosen position.
        positions: [B] int64.

    Returns:
        [B, H, P] float.
    """
    sums = (steps.double() * rates.double()).cumsum(1)  # [B, L, H]
    final = sums.gather(1, positions[:, None, None].expand(-1, 1, sums.shape[2]))
    future = torch.arange(values.shape[1], device=values.device) > positions[:, None]
    decay = (final - sums).to(steps.dtype).masked_fill(future[:, :, None], -torch.inf).exp()
    weights = decay * steps * (write @ read[:, :, None])  # [B, L, H]
    return (values * weights[..., None]).sum(1)


def ssd_recurrent(
    values: Tensor, steps: Tensor, rates: Tensor, write: Tensor, read: Tensor
) -> Tensor:
    """What `ssd` computes, position by position: slow and plain."""
    batch, length, heads, width = values.shape
    state = values.new_zeros(batch, heads, width, write.shape[2])
    outputs = []
    for t in range(length):
        output, state = ssd_step(values[:, t], steps[:, t], rates, write[:, t], read[:, t], state)
        outputs.append(output)
    return torch.stack(outputs, 1)


def ssd_step(
    values: Tensor, steps: Tensor, rates: Tensor, write: Tensor, read: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One event more.

    Args:
        values: [B, H, P] float.
        steps: [B, H] float.
        rates: [H] float.
        write, read: [B, N] float.
        state: [B, H, P, N] float, zeros before the first event.

    Returns:
        The output [B, H, P] and the next state [B, H, P, N].
    """
    written = (values * steps[..., None])[..., None] * write[:, None, None]
    state = (steps * rates).exp()[..., None, None] * state + written
    return (state @ read[:, None, :, None]).squeeze(3), state


def _within(weighted: Tensor, sums: Tensor, write: Tensor, read: Tensor) -> Tensor:
    """Outputs from the events of the same chunk.

    Args:
        weighted: [..., H, Q, P] values times step sizes.
        sums: [..., H, Q] float64 running sums of steps times rates.
        write, read: [..., Q, N].

    Returns:
        [..., H, Q, P].
    """
    size = sums.shape[-1]
    future = torch.ones(size, size, dtype=torch.bool, device=sums.device).triu(1)
    between = (sums[..., :, None] - sums[..., None, :]).to(weighted.dtype)  # [..., H, Q, Q]
    decay = between.masked_fill(future, -torch.inf).exp()
    return (decay * (read @ write.mT)[..., None, :, :]) @ weighted


def _entering(states: Tensor, decays: Tensor) -> Tensor:
    """The state before each chunk.

    Args:
        states: [B, K, H, P, N], what each chunk adds to the state.
        decays: [B, K, H], what each leaves of the state before it.
    """
    state = torch.zeros_like(states[:, 0])
    entering = [state]
    for added, decay in zip(states.unbind(1)[:-1], decays.unbind(1), strict=False):
        state = added + decay[..., None, None] * state
        entering.append(state)
    return torch.stack(entering, 1)


class CausalConvolution(nn.Module):
    """A filter per channel over the last positions, itself included.

    Args:
        channels: E.
        kernel_size: positions it sees.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        bound = kernel_size**-0.5  # as torch's Conv1d
        self.weight = nn.Parameter(torch.empty(kernel_size, channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, L, E] float to [B, L, E]; before the first position there are zeros."""
        weight, bias = self.weight.to(inputs.dtype), self.bias.to(inputs.dtype)
        result: Tensor = _ShiftedSums.apply(inputs, weight, bias)  # type: ignore[no-untyped-call]
        return result


class _ShiftedSums(torch.autograd.Function):
    """Sum of shifted copies; on the CPU a third of the time of a grouped convolution."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        outputs = torch.addcmul(bias, inputs, weight[-1])
        for shift in _shifts(inputs, weight):
            outputs[:, shift:].addcmul_(inputs[:, :-shift], weight[-1 - shift])
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inputs, weight = ctx.saved_tensors
        by_inputs = gradient * weight[-1]
        by_weight = torch.zeros_like(weight)
        by_weight[-1] = (gradient * inputs).sum((0, 1))
        for shift in _shifts(inputs, weight):
            later, earlier = gradient[:, shift:], inputs[:, :-shift]
            by_inputs[:, :-shift].addcmul_(later, weight[-1 - shift])
            by_weight[-1 - shift] = (later * earlier).sum((0, 1))
        return by_inputs, by_weight, gradient.sum((0, 1))


def _shifts(inputs: Tensor, weight: Tensor) -> range:
    return range(1, min(len(weight), inputs.shape[1]))


class GatedRMSNorm(nn.Module):
    """Root-mean-square norm of the gated values: the gate comes first, then the norm.

    Args:
        width: E.
        epsilon: added to the mean square.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(width)), epsilon

    def forward(self, values: Tensor, gate: Tensor) -> Tensor:
        """[..., E] float both; norm(values * silu(gate)) * weight."""
        gated = values * F.silu(gate)
        return F.rms_norm(gated, gated.shape[-1:], self.weight.to(gated.dtype), self.epsilon)


class StateSpaceBlock(nn.Module):
    """The block of Mamba-2: project, convolve, run the recurrence, gate, norm, project back.

    Args:
        hidden_size: width D of inputs and outputs.
        state_size: N.
        head_size: P; it divides `expand * hidden_size`.
        expand: inner width over D.
        kernel_size: positions the convolution sees.
        chunk_size: Q of `ssd`.
        activation: behind the convolution, `"silu"` (Mamba-2) or `"hardswish"`.
        norm_epsilon: of the gated norm.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        state_size: int,
        head_size: int,
        expand: int = 2,
        kernel_size: int = 4,
        chunk_size: int = 64,
        activation: ConvolutionActivation = "silu",
        norm_epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        inner = expand * hidden_size
        if inner % head_size:
            raise ValueError(f"heads of {head_size} do not divide the inner width {inner}")
        self.inner_size, self.state_size, self.chunk_size = inner, state_size, chunk_size
        self.num_heads = heads = inner // head_size
        self.activation: ConvolutionActivation = activation
        self.project = nn.Linear(hidden_size, 2 * (inner + state_size) + heads)
        self.convolution = CausalConvolution(inner + 2 * state_size, kernel_size)
        self.rate_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        # Steps start log-uniform between 0.001 and 0.1: the bias is their inverse softplus.
        steps = torch.empty(heads).uniform_(math.log(1e-3), math.log(0.1)).exp().clamp(min=1e-4)
        self.step_bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))
        self.skip = nn.Parameter(torch.ones(heads))
        self.norm = GatedRMSNorm(inner, norm_epsilon)
        self.output = nn.Linear(inner, hidden_size)

    def forward(self, inputs: Tensor, step_scale: Tensor | None = None) -> Tensor:
        """Outputs at each position, from it and those before it.

        Args:
            inputs: [B, L, D] float.
            step_scale: [B, L, H] float, multiplies the projected steps (before the bias).

        Returns:
            [B, L, D] float.
        """
        inner = self.inner_size
        gate, mixed = self.project(inputs).tensor_split([inner], dim=2)
        values, steps, write, read = self._recurrence(mixed, step_scale)
        rates = -self.rate_log.exp()
        outputs = ssd(values, steps, rates, write, read, chunk_size=self.chunk_size)
        return self._finish(outputs, values, gate)

    def at(self, inputs: Tensor, positions: Tensor, step_scale: Tensor | None = None) -> Tensor:
        """The output at one position of each row, without the others: about half the work.

        Args:
            inputs: [B, L, D] float.
            positions: [B] int64.
            step_scale: as in `forward`.

        Returns:
            [B, D] float.
        """
        inner, weight, bias = self.inner_size, self.project.weight, self.project.bias
        rows = torch.arange(len(inputs), device=inputs.device)
        gate = F.linear(inputs[rows, positions], weight[:inner], bias[:inner])
        mixed = F.linear(inputs, weight[inner:], bias[inner:])
        values, steps, write, read = self._recurrence(mixed, step_scale)
        rates = -self.rate_log.exp()
        outputs = ssd_at(values, steps, rates, write, read[rows, positions], positions)
        return self._finish(outputs, values[rows, positions], gate)

    def _recurrence(
        self, mixed: Tensor, step_scale: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values [B, L, H, P], steps [B, L, H], write and read vectors [B, L, N]."""
        inner, states = self.inner_size, self.state_size
        mixed, steps = mixed.tensor_split([inner + 2 * states], dim=2)
        mixed = _activate(self.convolution(mixed), self.activation)
        values, write, read = mixed.tensor_split([inner, inner + states], dim=2)
        steps = steps.to(self.step_bias.dtype)
        if step_scale is not None:
            steps = steps * step_scale
        steps = F.softplus(steps + self.step_bias)
        return values.reshape(*values.shape[:2], self.num_heads, -1), steps, write, read

    def _finish(self, outputs: Tensor, values: Tensor, gate: Tensor) -> Tensor:
        """[..., H, P] outputs and values and [..., E] gate to [..., D]."""
        outputs = (outputs + self.skip[:, None] * values).flatten(-2)
        result: Tensor = self.output(self.norm(outputs, gate))
        return result


def _activate(values: Tensor, activation: ConvolutionActivation) -> Tensor:
    match activation:
        case "silu":
            return F.silu(values)
        case "hardswish":
            return F.hardswish(values)
