"""Training: stages, batches and the loop that runs them."""

from tastemaker.training.batches import (
    PairBatches,
    PrefixBatches,
    SequenceBatches,
    SharedPairBatches,
)
from tastemaker.training.fit import FitResult, fit
from tastemaker.training.loop import TrainingError
from tastemaker.training.samplers import NegativeSampler
from tastemaker.training.stages import (
    Batch,
    Batches,
    ComputeStage,
    GradientStage,
    Loss,
    Objective,
    Optimizer,
    Stage,
)

__all__ = [
    "Batch",
    "Batches",
    "ComputeStage",
    "FitResult",
    "GradientStage",
    "Loss",
    "NegativeSampler",
    "Objective",
    "Optimizer",
    "PairBatches",
    "PrefixBatches",
    "SequenceBatches",
    "SharedPairBatches",
    "Stage",
    "TrainingError",
    "fit",
]
