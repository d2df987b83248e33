"""State-space duality and causal attention at growing lengths: seconds and memory.

The operations alone, at equal width (4 rows of 4 heads of 32 numbers, float32): `ssd` with states
of 32 and chunks of 64, and torch's fused causal attention, forward and backward, for lengths from
512 to 8,192. Times are processor seconds of the best of some runs; memory is what a pass needs
beyond its inputs at the highest point, in a process of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import Case, Curve, Numbers, Question, Side, Target
from measuring import peak_memory
from tastemaker.layers.state_space import ssd

LENGTHS = (512, 1024, 2048, 4096, 8192)
ROWS, HEADS, WIDTH, STATES, CHUNK = 4, 4, 32, 32, 64


def state_space(given: SimpleNamespace) -> Numbers:
    generator = torch.Generator().manual_seed(given.seed)
    length = given.length
    values = torch.randn(ROWS, length, HEADS, WIDTH, generator=generator).requires_grad_()
    steps = torch.rand(ROWS, length, HEADS, generator=generator).requires_grad_()
    write, read = (
        torch.randn(ROWS, length, STATES, generator=generator).requires_grad_() for _ in range(2)
    )
    rates = -torch.rand(HEADS, generator=generator)
    return measured(given, lambda: ssd(values, steps, rates, write, read, chunk_size=CHUNK))


def attention(given: SimpleNamespace) -> Numbers:
    generator = torch.Generator().manual_seed(given.seed)
    query, key, value = (
        torch.randn(ROWS, HEADS, given.length, WIDTH, generator=generator).requires_grad_()
        for _ in range(3)
    )
    mix = F.scaled_dot_product_attention
    return measured(given, lambda: mix(query, key, value, is_causal=True))


def measured(given: SimpleNamespace, forward: Callable[[], Tensor]) -> Numbers:
    """The milliseconds of a forward and a backward pass, and the megabytes of the first."""
    torch.set_num_threads(given.threads)
    before, times = peak_memory("VmRSS"), []
    for _ in range(given.repeats + 1):
        start = time.process_time()
        forward().sum().backward()
        times.append(time.process_time() - start)
        if len(times) == 1:
            used = peak_memory() - before
    return {"milliseconds": 1e3 * min(times[1:]), "megabytes": used / 2**20}


QUESTION = Question(
    "TiM4Rec's state-space layer and causal attention at growing lengths",
    cases=[Case(f"{size:,}", {"length": size, "repeats": 9}) for size in LENGTHS],
    sides=[Side("ours", state_space), Side("sdpa", attention)],
    targets=[
        Target("state-space layer", "milliseconds", "sdpa"),
        Target("state-space layer, memory", "megabytes", "sdpa"),
    ],
    curves=[Curve("milliseconds", "length"), Curve("megabytes", "length")],
    rounds=2,
    quick={"repeats": 1},
)

if __name__ == "__main__":
    QUESTION.main()
