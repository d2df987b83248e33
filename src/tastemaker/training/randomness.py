"""Random streams named by what they are for, so that any moment of a training can be replayed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["generator_for", "seeded"]


def _sequence(seed: int, *purpose: str | int) -> np.random.SeedSequence:
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in purpose]
    return np.random.SeedSequence([seed, *words])


def generator_for(seed: int, *purpose: str | int) -> np.random.Generator:
    """A NumPy generator that is a function of the seed and of the purpose alone."""
    return np.random.default_rng(_sequence(seed, *purpose))


def torch_seed(seed: int, *purpose: str | int) -> int:
    """A seed for torch's own generator (dropout, initialisation), likewise."""
    return int(_sequence(seed, *purpose).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed torch's generators inside the block and put the caller's back afterwards."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(torch_seed(seed, *purpose))
        yield
