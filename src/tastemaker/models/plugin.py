"""What methods share that train another method differently and leave its answers alone.

The method underneath is named in the settings (`base`, `base_settings`). A plug-in says what it
needs of it by a class or protocol; whatever it does not change, the base does.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from tastemaker.data import Dataset
from tastemaker.data.queries import Queries, Ragged
from tastemaker.errors import ConfigError
from tastemaker.models.base import (
    GradientConfig,
    Recommender,
    TopK,
    parse_config,
    refuse_missing,
    settings,
    with_preset,
)
from tastemaker.models.catalog import find

__all__ = ["Plugin", "PluginConfig"]


@settings
class PluginConfig(GradientConfig):
    """Settings of plug-ins; training settings are those of the plug-in, not of the base."""

    base: str  # name of the method that is trained
    base_settings: dict[str, Any] = Field(default_factory=dict)  # its own settings; `preset` too


class Plugin(Recommender):
    """Base of methods that wrap another method.

    Attributes:
        requires: a class or runtime protocol that the base must be an instance of.
        base: the method underneath, with the initial weights it has alone under the same seed.
    """

    config: PluginConfig
    requires: ClassVar[type] = Recommender

    def __init__(self, config: PluginConfig, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        kind = find(config.base).load()
        chosen = parse_config(kind.Config, with_preset(kind, config.base_settings))
        refuse_missing(kind, dataset)
        self.base = kind(chosen, dataset)
        if not isinstance(self.base, self.requires):
            raise ConfigError(
                f"setting 'base': {config.base!r} is no {self.requires.__name__}, which "
                f"{type(self).__name__} needs"
            )

    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """The scores of the base."""
        return self.base.score(queries, items)

    def recommend(
        self,
        queries: Queries,
        k: int,
        *,
        exclude: Ragged | None = None,
        allow: NDArray[np.int64] | None = None,
    ) -> TopK:
        """The lists of the base."""
        return self.base.recommend(queries, k, exclude=exclude, allow=allow)

    def similar(self, items: NDArray[np.int64], k: int) -> TopK:
        """What the base finds similar."""
        return self.base.similar(items, k)
