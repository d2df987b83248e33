"""Attention at growing lengths: time and memory of a layer's mixing, forwards and backwards.

    python benchmarks/attention_lengths.py [THREADS]

Rows of L = 512 to 8,192 positions, 16,384 positions a batch, one head of width 64, bfloat16 where
the processor has it (else float32): pointwise attention with position weights, the same with time
weights, and PyTorch's scaled dot product attention, all causal. Every measurement runs in a process
of its own; seconds are of the processor, or of the GPU where there is one. Memory is how far the
peak grows over that before the first call, gradients included.
The last line is JSON: by length and name, `milliseconds` of a step, `megabytes`, and
`times_sdpa`, the time of scaled dot product attention over the own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tastemaker.layers.pointwise_attention import N_TIME_BUCKETS, TimeGaps, pointwise_attention
from tastemaker.training.placement import autocast_dtype

LENGTHS = (512, 1024, 2048, 4096, 8192)
POSITIONS, WIDTH, REPEATS = 16_384, 64, 3

Mixing = Callable[[Tensor, Tensor, Tensor], Tensor]


def sdpa(length: int, device: torch.device) -> Mixing:
    del length, device
    return lambda query, key, value: F.scaled_dot_product_attention(
        query, key, value, is_causal=True
    )


def hstu(length: int, device: torch.device, *, timed: bool = False) -> Mixing:
    """With the arguments that a layer gives: bias weights that learn, buckets made anew."""
    position = torch.zeros(length, device=device, requires_grad=True)
    time = torch.zeros(N_TIME_BUCKETS, device=device, requires_grad=True) if timed else None
    gaps_of_events = torch.randint(0, 100_000, (POSITIONS // length, length + 1), device=device)
    moments = 1_600_000_000 + gaps_of_events.cumsum(1)

    def mix(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        gaps = TimeGaps(moments[:, 1:], moments[:, :-1])
        return pointwise_attention(
            query, key, value, position, time=time, gaps=gaps, scale=1 / length
        )

    return mix


KINDS: dict[str, Callable[[int, torch.device], Mixing]] = {
    "sdpa": sdpa,
    "hstu": hstu,
    "hstu with time": lambda length, device: hstu(length, device, timed=True),
}


def seconds(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def peak_megabytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(kind: str, length: int, threads: int) -> None:
    """Print the milliseconds of a step, the best of some, and the megabytes, as JSON."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = autocast_dtype("auto", device) or torch.float32
    shape = POSITIONS // length, 1, length, WIDTH
    query, key, value, gradient = (torch.randn(shape, dtype=dtype, device=device) for _ in range(4))
    learned = [part.requires_grad_() for part in (query, key, value)]
    mix = KINDS[kind](length, device)
    small = [part[:1, :, :64] for part in learned]
    F.silu(small[0] @ small[1].mT).matmul(small[2]).sum().backward()  # loads the kernels
    before, times = peak_megabytes(device), []
    for _ in range(REPEATS):
        start = seconds(device)
        mix(*learned).backward(gradient)
        times.append(1e3 * (seconds(device) - start))
    memory = peak_megabytes(device) - before
    print(json.dumps({"milliseconds": min(times), "megabytes": memory}))


def main(threads: int) -> None:
    table: dict[int, dict[str, dict[str, float]]] = {}
    for length in LENGTHS:
        table[length] = {}
        for kind in KINDS:
            command = [sys.executable, __file__, str(threads), kind, str(length)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found = json.loads(printed)
            found["times_sdpa"] = (
                table[length].get("sdpa", found)["milliseconds"] / found["milliseconds"]
            )
            table[length][kind] = found
            print(
                f"{length:5d}  {kind:>14}  {found['milliseconds']:8.1f} ms  "
                f"{found['megabytes']:7.0f} MB  {found['times_sdpa']:5.2f} times as fast as sdpa",
                flush=True,
            )
    print(json.dumps({"threads": threads, "lengths": table}))


if __name__ == "__main__":
    n_threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    if len(sys.argv) > 2:
        measure(sys.argv[2], int(sys.argv[3]), n_threads)
    else:
        main(n_threads)
