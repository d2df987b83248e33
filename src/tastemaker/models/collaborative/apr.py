"""APR: adversarial training of pairwise factor models against shifted vectors.

"Adversarial Personalized Ranking for Recommendation" (SIGIR 2018, arXiv 1808.03908): beside the
base's own loss, the ranking loss of its vectors after each row has been moved by `rho` in the
direction that raises the loss most. Any pairwise factor model can be the base; after training the
answers are those of the base.

With e the rows of users, positives and negatives of a batch, after any propagation, and Gamma the
gradient of the batch's BPR loss with respect to them,

    Delta = rho Gamma / |Gamma|  (row by row, a constant)      L(e) + w BPR(e + Delta)

What we changed: adversarial epochs follow ordinary ones in one training (as VAT's code has it; the
paper takes over a model that has been trained for 1,000 epochs), with Adam instead of Adagrad. The
base's penalty counts once, as in VAT's code. With w = 1 the ranking terms thus weigh twice what
they do in the base: a base that needs its penalty wants a larger one here.

Cost: that of the base and one pass over the rows of the batch; a graph is propagated once a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tastemaker.data import Dataset, TrainingSet
from tastemaker.errors import ConfigError
from tastemaker.models.base import GradientConfig, settings
from tastemaker.models.collaborative.factors import PairwiseFactors
from tastemaker.models.plugin import Plugin, PluginConfig
from tastemaker.models.search import LogUniform
from tastemaker.training.stages import Batch, GradientStage, Loss, Progressing, Stage

__all__ = ["APR", "AdversarialConfig", "presets_of"]

# The bases of the VAT paper (one negative, weak penalty), with what trains them on each data set.
_BPR = {"num_negatives": 1, "regularization": 1e-4}
_UNDEFENDED: Mapping[str, Mapping[str, Any]] = {
    "ml-100k-bpr-mf": {
        "base": "bpr-mf",
        "base_settings": _BPR,
        "learning_rate": 1e-2,
        "epochs": 30,
        "monitor": "ndcg@20",
    },
    "ml-100k-lightgcn": {
        "base": "lightgcn",
        "base_settings": {**_BPR, "num_layers": 2},
        "learning_rate": 2e-2,
        "epochs": 40,
        "monitor": "ndcg@20",
    },
    "ml-1m-bpr-mf": {
        "base": "bpr-mf",
        "base_settings": _BPR,
        "learning_rate": 1e-2,
        "batch_size": 8192,
        "epochs": 20,
        "monitor": "ndcg@20",
    },
}


def presets_of(defences: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Settings of a defence by data set and base, with those that train the base alone."""
    return {name: {**_UNDEFENDED[name], **own} for name, own in defences.items()}


@settings
class AdversarialConfig(PluginConfig):
    """Settings of adversarial training; those of the base are in `base_settings`."""

    base: str = "bpr-mf"  # any pairwise factor model (paper: bpr-mf)
    rho: float = Field(default=0.5, ge=0)  # length of a row's shift (APR code)
    adversarial_weight: float = Field(default=1.0, ge=0)  # w (paper)
    begin_epoch: int = Field(default=5, ge=1)  # first adversarial epoch, from 1 (VAT code)
    batch_size: int = Field(default=2048, ge=1)  # positives (VAT paper)
    epochs: int = Field(default=400, ge=1)  # at most (ours)
    validate_every: int = Field(default=5, ge=1)  # epochs between validations (ours)
    precision: Literal["float32", "bf16", "fp16", "auto"] = "float32"  # small sums (ours)


class APR(Plugin):
    """A pairwise factor model trained against its own worst shifts."""

    Config = AdversarialConfig
    requires = PairwiseFactors
    search = {
        "rho": LogUniform(1e-2, 1.0),
        "adversarial_weight": LogUniform(1e-1, 10.0),
        "learning_rate": LogUniform(1e-4, 1e-2),
    }

    presets = presets_of(
        {
            "ml-100k-bpr-mf": {"rho": 0.45},
            "ml-100k-lightgcn": {"rho": 0.3, "adversarial_weight": 2.0},
            "ml-1m-bpr-mf": {"rho": 0.45},
        }
    )

    config: AdversarialConfig
    base: PairwiseFactors
    weight: Tensor  # [] float32: w from the first adversarial epoch on, 0 before

    def __init__(self, config: AdversarialConfig, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        if type(self.base).loss is not PairwiseFactors.loss:
            raise ConfigError(
                f"setting 'base': {config.base!r} has a loss of its own beside that of its "
                f"triples, which {type(self).__name__} would leave out; bpr-mf and lightgcn have "
                "none"
            )
        if self.base.shares_negatives:
            raise ConfigError(
                "setting 'base_settings': negatives='shared' gives a negative's row to every user "
                f"of the batch, so it has no shift of its own; {type(self).__name__} needs 'own'"
            )
        shared = [entry.name for entry in dataclasses.fields(GradientConfig)]
        training = {name: getattr(config, name) for name in shared}
        self.base.config = dataclasses.replace(self.base.config, **training)
        self.register_buffer("weight", torch.zeros(()))

    def stages(self, data: TrainingSet) -> Sequence[Stage]:
        """The stages of the base, with the adversarial loss in place of its own."""
        return [self._hardened(stage) for stage in self.base.stages(data)]

    def _hardened(self, stage: Stage) -> Stage:
        if not isinstance(stage, GradientStage):
            return stage
        objectives = [
            dataclasses.replace(objective, loss=self.loss)
            if objective.loss == self.base.loss
            else objective
            for objective in stage.objectives
        ]
        hooks = [*stage.before_epoch, self._weigh]
        return dataclasses.replace(stage, objectives=objectives, before_epoch=hooks)

    def _weigh(self, progress: Progressing) -> None:
        """Set the weight of this epoch; a buffer, so that a resumed epoch has it too."""
        begun = progress.epoch + 1 >= self.config.begin_epoch
        self.weight.fill_(self.config.adversarial_weight if begun else 0.0)

    def loss(self, batch: Batch) -> Loss:
        """The loss of the base plus that of its shifted vectors."""
        rows = self.base.batch_vectors(batch)
        own = self.base.triple_loss(*rows, batch)
        shifted = zip(rows, self.shifts(*rows, batch), strict=True)
        adversarial = pair_losses(*(part + shift for part, shift in shifted)).mean()
        return Loss(
            own.value + self.weight * adversarial,
            own.weight,
            {**own.parts, "adversarial": adversarial.detach()},
        )

    def shifts(
        self, users: Tensor, positives: Tensor, negatives: Tensor, batch: Batch
    ) -> list[Tensor]:
        """How far each row is moved: rho times the user's susceptibility, along the gradient.

        Args:
            users: [B, W] float rows of the batch, with or without a gradient; likewise
            positives: [B, W] and
            negatives: [B, K, W].
            batch: the batch they are of.

        Returns:
            Constants of the same shapes; a row whose gradient is 0 stays.
        """
        with torch.enable_grad():
            rows = [part.detach().requires_grad_() for part in (users, positives, negatives)]
            losses = pair_losses(*rows)  # [B, K]
            # Of the sum, not of the mean: the directions are the same, and small ones survive.
            gradients = torch.autograd.grad(losses.sum(), rows)
        lengths = self.config.rho * self.susceptibility(batch["users"], losses.detach().mean(1))
        return [
            lengths.view(-1, *[1] * (part.dim() - 1)) * F.normalize(part, dim=-1, eps=1e-30)
            for part in gradients
        ]

    def susceptibility(self, users: Tensor, losses: Tensor) -> Tensor:
        """Shifts of each triple in units of rho: 1 for all.

        Args:
            users: [B] int64.
            losses: [B] float, the BPR loss of each positive, the mean over its negatives.

        Returns:
            [B] float.
        """
        del users
        return torch.ones_like(losses)


def pair_losses(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """-log sigmoid(u.p - u.n) of every pair, [B, K] float, for [B, W], [B, W] and [B, K, W]."""
    better, worse = (users * positives).sum(-1), (users[:, None] * negatives).sum(-1)
    return F.softplus(worse - better[:, None])
