"""Attention at growing lengths: seconds and memory of a layer's mixing, forwards and backwards.

Rows of 512 to 8,192 positions, 16,384 positions a batch, one head of width 64, bfloat16 where the
processor has it (else float32): pointwise attention with position weights, the same with time
weights, and PyTorch's scaled dot product attention, all causal. Seconds are of the processor, or of
the GPU where there is one, the best of three; memory is how far the peak grows over that before the
first call, gradients included.
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
from tastemaker.layers.pointwise_attention import N_TIME_BUCKETS, TimeGaps, pointwise_attention
from tastemaker.training.placement import autocast_dtype

LENGTHS = (512, 1024, 2048, 4096, 8192)
WIDTH, REPEATS = 64, 3

Mixing = Callable[[Tensor, Tensor, Tensor], Tensor]


def sdpa(given: SimpleNamespace) -> Numbers:
    mix = F.scaled_dot_product_attention
    return measured(given, lambda query, key, value: mix(query, key, value, is_causal=True))


def hstu(given: SimpleNamespace) -> Numbers:
    """With the arguments that a layer gives: bias weights that learn, buckets made anew."""
    length, place = given.length, device()
    position = torch.zeros(length, device=place, requires_grad=True)
    weights = torch.zeros(N_TIME_BUCKETS, device=place, requires_grad=True) if given.timed else None
    gaps_of_events = torch.randint(
        0, 100_000, (given.positions // length, length + 1), device=place
    )
    moments = 1_600_000_000 + gaps_of_events.cumsum(1)

    def mix(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        gaps = TimeGaps(moments[:, 1:], moments[:, :-1])
        return pointwise_attention(
            query, key, value, position, time=weights, gaps=gaps, scale=1 / length
        )

    return measured(given, mix)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(place: torch.device) -> float:
    if place.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def peak(place: torch.device) -> float:
    return torch.cuda.max_memory_allocated() if place.type == "cuda" else peak_memory()


def measured(given: SimpleNamespace, mix: Mixing) -> Numbers:
    """The milliseconds of a step, the best of some, and the megabytes."""
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    place = device()
    dtype = autocast_dtype("auto", place) or torch.float32
    shape = given.positions // given.length, 1, given.length, WIDTH
    query, key, value, gradient = (torch.randn(shape, dtype=dtype, device=place) for _ in range(4))
    learned = [part.requires_grad_() for part in (query, key, value)]
    small = [part[:1, :, :64] for part in learned]
    F.silu(small[0] @ small[1].mT).matmul(small[2]).sum().backward()  # loads the kernels
    before, times = peak(place), []
    for _ in range(REPEATS):
        start = seconds(place)
        mix(*learned).backward(gradient)
        times.append(1e3 * (seconds(place) - start))
    return {"milliseconds": min(times), "megabytes": (peak(place) - before) / 2**20}


QUESTION = Question(
    "HSTU's attention and scaled dot product attention at growing lengths",
    cases=[Case(f"{size:,}", {"length": size, "positions": 16_384}) for size in LENGTHS],
    sides=[
        Side("ours", hstu, settings={"timed": False}),
        Side("ours, with time", hstu, settings={"timed": True}),
        Side("sdpa", sdpa),
    ],
    targets=[
        Target("HSTU attention", "milliseconds", "sdpa"),
        Target("HSTU attention with time", "milliseconds", "sdpa", side="ours, with time"),
        Target("HSTU attention, memory", "megabytes", "sdpa"),
    ],
    curves=[Curve("milliseconds", "length"), Curve("megabytes", "length")],
    rounds=2,
    quick={"positions": 8192},
)

if __name__ == "__main__":
    QUESTION.main()
