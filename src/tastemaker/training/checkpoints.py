"""Checkpoints: one folder of tensors (safetensors) and a JSON state, replaced whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tastemaker.errors import RunError
from tastemaker.files import read_json, write_json, writing_folder

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


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint at `folder`; a reader sees the old one or the new one, whole."""
    flat = {
        f"{group}/{name}": value.detach().cpu().contiguous().clone()
        for group, tensors in checkpoint.tensors.items()
        for name, value in tensors.items()
    }
    with writing_folder(folder, replace=True) as temporary:
        save_file(flat, temporary / "tensors.safetensors")
        write_json(temporary / "state.json", dict(checkpoint.state))


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint at `folder`, or `None` when there is none yet.

    Raises:
        RunError: when it is damaged.
    """
    if not folder.exists():
        return None
    try:
        state = read_json(folder / "state.json")
        flat = load_file(folder / "tensors.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(
            f"the checkpoint {folder} is damaged ({error}); remove it to train from the start"
        ) from error
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, value in flat.items():
        group, _, name = key.partition("/")
        tensors.setdefault(group, {})[name] = value
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
