"""Where training runs: the device, the arithmetic, and this process among its peers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from tastemaker.errors import ConfigError

__all__ = ["World", "autocast_dtype", "choose_device", "joined_world"]


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; `"auto"` is this process's GPU where there is one, else the CPU.

    Raises:
        ConfigError: when the named device is not there.
    """
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device {name!r} cannot be used ({reason}); use 'cpu', or 'auto' to let the machine "
            "decide"
        ) from None
    return device


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The autocast type of a stage's precision on a device; `None` computes in float32.

    `"auto"` is bfloat16 where the device multiplies it natively, which is faster there.
    """
    match precision:
        case "float32":
            return None
        case "bf16":
            return torch.bfloat16
        case "fp16":
            return torch.float16
        case "auto":
            return torch.bfloat16 if _native_bfloat16(device) else None
    raise ConfigError(f"precision {precision!r} is none of float32, bf16, fp16, auto")


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@dataclass(frozen=True)
class World:
    """The place of this process among the `size` processes that train one model together."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process evaluates, writes and speaks for all."""
        return self.rank == 0

    def share(self, n_rows: int) -> tuple[int, int]:
        """The rows `start:stop` of a global batch that this process computes."""
        return n_rows * self.rank // self.size, n_rows * (self.rank + 1) // self.size

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one exchange per dtype."""
        if self.size == 1:
            return
        for dtype in {tensor.dtype for tensor in tensors}:
            group = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            dist.all_reduce(flat)
            start = 0
            for tensor in group:
                tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
                start += tensor.numel()

    def agree(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The leading process's numbers, in every process."""
        if self.size == 1:
            return dict(numbers)
        box: list[dict[str, float]] = [dict(numbers)]
        dist.broadcast_object_list(box)
        return box[0]

    def wait(self) -> None:
        """Return when every process got here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined_world(device: torch.device) -> Iterator[World]:
    """The world `torchrun` started this process in; alone where there is none."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    already = dist.is_initialized()
    if not already:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        world = World(dist.get_rank(), dist.get_world_size())
        yield world
        world.wait()  # a process that leaves early would break the others' connections
    finally:
        if not already:
            dist.destroy_process_group()
