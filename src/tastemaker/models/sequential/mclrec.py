"""MCLRec: contrastive next-item training with two learnable augmenters and alternating updates.

A plug-in over any encoder of sequences (SASRec by default). Each history is seen in two random
views, cropped, masked or reordered; two small networks turn the states of the views into further,
learned views; all are drawn together by NT-Xent while the encoder learns the next item. Encoder
and augmenters take turns on one batch: the augmenters answer the encoder that has just moved.

Paper: "Meta-optimized Contrastive Learning for Sequential Recommendation", SIGIR 2023, arXiv
2304.07763; code QinHsiu/MCLRec. `updates="paper"` is algorithm 1; `"code"` follows the repository:
the margin regulariser over three pairs instead of one, its full weight in the augmenters' step,
and a second encoder step with the augmenters that have moved; `"joint"` is the paper's MCLRec-J,
one optimiser over everything.

What we changed: first events are targets, too, so that the base can answer empty histories (they
have no views and stay out of the contrast); rows are encoded in blocks of like length; the
augmenters' step runs the encoder without gradients, which changes nothing but the cost; the
second encoder step of `"code"` keeps running averages of its own. Two prefixes of one user in a
batch count as negatives, as in the paper. With `view_weight` and `augmented_weight` 0 training is
the base's own with cross-entropy on prefixes; with `augmented_weight` 0 it is CL4SRec.

Cost of an epoch: three encodings with gradients and two without for each target (`"code"`: six and
two), and O(B^2 D) a batch; answers cost what the base's do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from tastemaker.data import Dataset, TrainingSet
from tastemaker.errors import ConfigError
from tastemaker.losses.contrastive import nt_xent, view_scores
from tastemaker.models.base import Need, settings
from tastemaker.models.plugin import Plugin, PluginConfig
from tastemaker.models.search import Choice, LogUniform
from tastemaker.models.sequential.encoder import Sequences, SequentialRecommender
from tastemaker.training.augmentations import (
    Augmentation,
    PaddedItems,
    crop,
    mask,
    reorder,
    two_views,
)
from tastemaker.training.batches import PrefixBatches
from tastemaker.training.stages import Batch, Batches, GradientStage, Loss, Objective

__all__ = ["Augmenter", "MCLRec", "ViewBatches", "margin_regularizer"]


class MCLRec(Plugin):
    """Meta-optimised contrastive learning over a sequence encoder."""

    @settings
    class Config(PluginConfig):
        """Settings of MCLRec; sizes, length and dropout are in `base_settings`."""

        base: str = "sasrec"  # the encoder (paper)
        updates: Literal["paper", "code", "joint"] = "paper"  # who steps when, see the module
        view_weight: float = Field(default=0.03, ge=0)  # lambda, of random views (paper, Yelp)
        augmented_weight: float = Field(default=0.1, ge=0)  # beta, of learned ones (paper, Yelp)
        margin_weight: float = Field(default=0.1, ge=0)  # gamma / beta (paper, sec. 3.4)
        crop_share: float = Field(default=0.5, ge=0, lt=1)  # of events dropped (reference code)
        mask_share: float = Field(default=0.5, ge=0, lt=1)  # of events hidden (reference code)
        reorder_share: float = Field(default=0.8, ge=0, le=1)  # of events moved (reference code)
        temperature: float = Field(default=1.0, gt=0)  # of all contrasts (reference code)
        batch_size: int = Field(default=256, ge=1)  # targets (paper, sec. 4.1)
        epochs: int = Field(default=100, ge=1)  # at most (paper)

    config: Config
    needs = frozenset({Need.ORDER})
    requires = SequentialRecommender
    base: SequentialRecommender
    search = {
        "view_weight": LogUniform(0.01, 0.5),
        "augmented_weight": LogUniform(0.01, 0.5),
        "learning_rate": LogUniform(3e-4, 3e-3),
        "batch_size": Choice((128, 256, 512)),
    }

    def __init__(self, config: Config, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        if self.base.columns:
            raise ConfigError(
                f"setting 'base': {config.base!r} reads {', '.join(self.base.columns)} beside the "
                "items, which views do not carry; choose a base that reads items alone"
            )
        width = self.base.item_embeddings.embedding_dim
        self.augmenters = nn.ModuleList(Augmenter(width) for _ in range(2))

    def stages(self, data: TrainingSet) -> Sequence[GradientStage]:
        """One gradient stage whose objectives take turns on every batch of prefixes."""
        config = self.config
        prefixes = PrefixBatches.of(data, self.base.max_length, config.batch_size, min_history=0)
        batches: Batches = prefixes
        if config.view_weight or config.augmented_weight:
            shares = {crop: config.crop_share, mask: config.mask_share}
            shares[reorder] = config.reorder_share
            batches = ViewBatches(
                prefixes, [partial(change, share=share) for change, share in shares.items()]
            )
        step = partial(Objective, optimizer=config.optimizer())
        encoder = step("next-item", self.encoder_loss, batches, parameters=self._encoder)
        objectives = [encoder]
        if config.augmented_weight and config.updates == "joint":
            objectives = [step("next-item", self.encoder_loss, batches)]
        elif config.augmented_weight:
            objectives += [step("augmenters", self.augmenter_loss, parameters=self._augmenters)]
            if config.updates == "code":
                objectives += [step("again", self.encoder_loss, parameters=self._encoder)]
        return [GradientStage("fit", objectives, **config.schedule())]

    def _encoder(self) -> list[nn.Parameter]:
        return list(self.base.parameters())

    def _augmenters(self) -> list[nn.Parameter]:
        return list(self.augmenters.parameters())

    def encoder_loss(self, batch: Batch) -> Loss:
        """L0: the next item, plus both contrasts and the regulariser, weighted."""
        config = self.config
        contrasts = config.view_weight or config.augmented_weight
        own = Sequences.of(batch)
        states = self.base.encode_prefixes(_joined(own, _views(batch)) if contrasts else own)
        next_item = self.base.last_item_loss(states[: len(batch)], batch["targets"])
        total, parts = next_item, {"next_item": next_item}
        if contrasts:
            first, second = states[len(batch) :: 2], states[len(batch) + 1 :: 2]
            if config.view_weight:
                parts["views"] = self._contrast(first, second)
                total = total + config.view_weight * parts["views"]
            if config.augmented_weight:
                contrast, margin = self._augmented(first, second)
                parts |= {"augmented": contrast, "margin": margin}
                weighted = contrast + config.margin_weight * margin
                total = total + config.augmented_weight * weighted
        logged = {name: value.detach() for name, value in parts.items()}
        return Loss(total, len(batch), logged)

    def augmenter_loss(self, batch: Batch) -> Loss:
        """L1: the contrast with learned views and the regulariser, for a fixed encoder."""
        config = self.config
        views = _views(batch)
        if not len(views):  # nobody in the batch has a history
            nothing = torch.stack([value.sum() for value in self._augmenters()]).sum()
            return Loss(0.0 * nothing, len(batch))
        states = self.base.encode_prefixes(views).detach()
        contrast, margin = self._augmented(states[::2], states[1::2])
        if config.updates == "code":
            return Loss(contrast + config.margin_weight * margin, len(batch))
        weight = config.augmented_weight * config.margin_weight  # gamma
        return Loss(contrast + weight * margin, len(batch))

    def _augmented(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """L_cl2, the contrasts with learned views, and the regulariser, both scalars."""
        learned, other = self.augmenters[0](first), self.augmenters[1](second)
        pairs = [(learned, other), (first, other), (second, learned)]
        contrast = torch.stack([self._contrast(*pair) for pair in pairs]).sum()
        restrained = pairs if self.config.updates == "code" else pairs[:1]
        margins = [
            margin_regularizer(*pair, temperature=self.config.temperature) for pair in restrained
        ]
        return contrast, torch.stack(margins).sum()

    def _contrast(self, first: Tensor, second: Tensor) -> Tensor:
        return nt_xent(first, second, temperature=self.config.temperature)


def _views(batch: Batch) -> Sequences:
    """Both views of every row that has a history, one below the other."""
    seen = batch["lengths"] > 0
    items, lengths, valid = (
        batch[name][seen].flatten(0, 1) for name in ("views", "view_lengths", "view_valid")
    )
    return Sequences(items, lengths, valid=valid)


def _joined(own: Sequences, views: Sequences) -> Sequences:
    """Histories without holes, then their views: one encoding is cheaper than two."""
    assert views.valid is not None
    places = torch.arange(own.items.shape[1], device=own.items.device)
    return Sequences(
        torch.cat([own.items, views.items]),
        torch.cat([own.lengths, views.lengths]),
        valid=torch.cat([places < own.lengths[:, None], views.valid]),
    )


class Augmenter(nn.Module):
    """A learned view of states: a narrow network, then length one ([B, D] to [B, D])."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half, quarter = max(width // 2, 1), max(width // 4, 1)
        self.layers = nn.Sequential(
            nn.Linear(width, half),
            nn.GELU(),
            nn.Linear(half, quarter),
            nn.GELU(),
            nn.Linear(quarter, width),
        )

    def forward(self, states: Tensor) -> Tensor:
        """[B, D] float to [B, D] float of length one."""
        return F.normalize(self.layers(states).float(), dim=1)


def margin_regularizer(first: Tensor, second: Tensor, *, temperature: float = 1.0) -> Tensor:
    """How far scores reach beyond the two values that bound each view's margin (paper, eq. 12).

    For a view with partner score p and largest other score n, partner scores are held at
    min(p, n) and other scores at max(p, n): learned views neither collapse onto their partner nor
    fly apart from the rest.

    Args:
        first, second: [B, D] float, row b of both is sample b.
        temperature: divides the scores.

    Returns:
        Scalar, at least 0, and 0 when all scores are equal; 0 for fewer than two samples.
    """
    if len(first) < 2:
        return 0.0 * (first.sum() + second.sum())
    scores, partners = view_scores(first, second, temperature=temperature)
    positives = scores.gather(1, partners[:, None]).squeeze(1)  # [2B]
    others = scores.scatter(1, partners[:, None], -torch.inf)  # [2B, 2B], 2B - 2 of them finite
    hardest = others.amax(1)
    mean = others.masked_fill(others == -torch.inf, 0.0).sum(1) / (len(others) - 2)
    # No score lies beyond its bound on the wrong side, so relu would change nothing.
    above = positives - torch.minimum(positives, hardest)
    below = torch.maximum(positives, hardest) - mean
    return above.mean() + below.mean()


@dataclass(frozen=True)
class ViewBatches:
    """Prefixes with two views each: rows `views` [B, 2, L] int64, `view_lengths` [B, 2] int64 and
    `view_valid` [B, 2, L] bool, drawn anew at every visit.
    """

    prefixes: PrefixBatches
    augmentations: Sequence[Augmentation]

    def plan(self, generator: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """As the prefixes plan."""
        return self.prefixes.plan(generator)

    def gather(self, rows: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        """Prefixes, targets and fresh views of these samples."""
        batch = self.prefixes.gather(rows, generator)
        seen = PaddedItems.of(
            batch["items"].numpy(), batch["lengths"].numpy(), self.prefixes.padding
        )
        pair = two_views(seen, self.augmentations, generator)
        drawn = {
            "views": np.stack([view.items for view in pair], 1),
            "view_lengths": np.stack([view.lengths for view in pair], 1),
            "view_valid": np.stack([view.valid for view in pair], 1),
        }
        return Batch({**batch.rows, **{name: torch.from_numpy(drawn[name]) for name in drawn}})
