"""Products of compute stages, kept under the hash of what made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tastemaker.console import say
from tastemaker.errors import ConfigError
from tastemaker.files import cache_dir, writing_file
from tastemaker.training.stages import ComputeStage

__all__ = ["artifact_path", "product_of"]


def artifact_path(stage: ComputeStage) -> Path:
    """Where the product of a stage with a key is kept."""
    try:
        made_from = json.dumps([stage.name, stage.key], sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the key of stage {stage.name!r} holds something that is not JSON: {error}"
        ) from None
    digest = hashlib.sha256(made_from.encode()).hexdigest()
    return cache_dir() / "artifacts" / f"{stage.name}-{digest[:32]}.safetensors"


def product_of(stage: ComputeStage) -> Mapping[str, Tensor]:
    """The product: from the cache when the stage has a key and was computed before."""
    if stage.key is None:
        return stage.compute()
    path = artifact_path(stage)
    if path.exists():
        try:
            product = load_file(path)
        except SafetensorError as error:
            say(f"{path} is damaged ({error}); computing {stage.name} again")
        else:
            say(f"{stage.name}: taken from {path}")
            return product
    product = {name: value.detach().cpu().contiguous() for name, value in stage.compute().items()}
    with writing_file(path) as temporary:
        save_file(product, temporary)
    return product
