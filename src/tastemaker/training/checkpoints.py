"""Checkpoints: one safetensors file of tensors, with a JSON state inside, replaced whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tastemaker.errors import RunError
from tastemaker.files import writing_file

__all__ = ["Checkpoint", "read_checkpoint", "write_checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """A moment of a training.

    Attributes:
        state: where it stands (JSON values).
        tensors: group -> name -> tensor, such as `"model"`, `"best"`, `"optimizer.loss"`.
    """

    state: Mapping[str, Any]
    tensors: Mapping[str, Mapping[str, Tensor]]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint at `path`: whenever the process dies, there is the old or the new."""
    flat = {
        f"{group}/{name}": value.detach().cpu().contiguous().clone()
        for group, tensors in checkpoint.tensors.items()
        for name, value in tensors.items()
    }
    with writing_file(path) as temporary:
        save_file(flat, temporary, metadata={"state": json.dumps(checkpoint.state)})


def read_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint at `path`, or `None` when there is none yet.

    Raises:
        RunError: when it is damaged.
    """
    if not path.exists():
        return None
    tensors: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as opened:
            state = json.loads((opened.metadata() or {})["state"])
            for key in opened.keys():  # noqa: SIM118 - not a mapping
                group, _, name = key.partition("/")
                tensors.setdefault(group, {})[name] = opened.get_tensor(key)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise RunError(
            f"the checkpoint {path} is damaged ({error}); remove it to train from the start"
        ) from error
    return Checkpoint(state, tensors)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's running state as named tensors: `"<parameter>.<quantity>"`."""
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
        if value is not None
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser of the same parameters its running state back."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
