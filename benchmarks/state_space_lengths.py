"""State-space duality against causal attention: time and memory by sequence length.

    python benchmarks/state_space_lengths.py [THREADS]

The operations alone, at equal width (4 rows of 4 heads of 32 numbers, float32): `ssd` with states
of 32 and chunks of 64, and torch's fused causal attention, forward and backward, for lengths from
128 to 8,192. Times are processor seconds of the best of some runs; memory is what a fresh process
needs beyond its inputs at the highest point. The growth is time(2 L) / time(L), the slope that of
log time against log length: 1 is linear, 2 quadratic. The last line is JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tastemaker.layers.state_space import ssd

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
ROWS, HEADS, WIDTH, STATES, CHUNK = 4, 4, 32, 32, 64

Operation = Callable[[int], Callable[[], Tensor]]


def state_space(length: int) -> Callable[[], Tensor]:
    """The forward pass of `ssd` over random rows."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(ROWS, length, HEADS, WIDTH, generator=generator).requires_grad_()
    steps = torch.rand(ROWS, length, HEADS, generator=generator).requires_grad_()
    write, read = (
        torch.randn(ROWS, length, STATES, generator=generator).requires_grad_() for _ in range(2)
    )
    rates = -torch.rand(HEADS, generator=generator)
    return lambda: ssd(values, steps, rates, write, read, chunk_size=CHUNK)


def attention(length: int) -> Callable[[], Tensor]:
    """The forward pass of causal attention over random rows."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(ROWS, HEADS, length, WIDTH, generator=generator).requires_grad_()
        for _ in range(3)
    )
    return lambda: F.scaled_dot_product_attention(query, key, value, is_causal=True)


OPERATIONS: dict[str, Operation] = {"state space": state_space, "attention": attention}


def seconds(name: str, length: int, repeats: int = 9) -> float:
    """Processor seconds of a forward and a backward pass: the best of some."""
    forward, times = OPERATIONS[name](length), []
    for _ in range(repeats + 1):
        start = time.process_time()
        forward().sum().backward()
        times.append(time.process_time() - start)
    return min(times[1:])


def megabytes(name: str, length: int) -> float:
    """Memory of one pass at its highest, in a process of its own."""
    torch.set_num_threads(1)
    forward = OPERATIONS[name](length)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    forward().sum().backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main(threads: int) -> None:
    torch.set_num_threads(threads)
    context = multiprocessing.get_context("fork")
    summary: dict[str, dict[str, object]] = {}
    for name in OPERATIONS:
        used = []
        for length in LENGTHS:  # before any thread is started, so that the process can be copied
            with context.Pool(1) as pool:
                used.append(pool.apply(megabytes, (name, length)))
        summary[name] = {"megabytes": used}
    for name in OPERATIONS:
        times = [seconds(name, length) for length in LENGTHS]
        growth = [after / before for before, after in pairwise(times)]
        slope = float(np.polyfit(np.log(LENGTHS), np.log(times), 1)[0])
        summary[name] |= {"seconds": times, "growth": growth, "slope": slope}
        for length, spent, used, grown in zip(
            LENGTHS, times, summary[name]["megabytes"], [float("nan"), *growth], strict=True
        ):
            print(
                f"{name:>11} {length:5d}  {1e3 * spent:9.2f} ms  {used:7.1f} MB  x {grown:4.2f}",
                flush=True,
            )
        print(f"{name:>11} slope of log time against log length: {slope:.2f}", flush=True)
    print(json.dumps({"threads": threads, **summary}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
