"""Metrics, protocols, slices, intervals and paired tests; a model is known by its protocol only."""

from __future__ import annotations

from tastemaker.evaluation.candidates import Candidates
from tastemaker.evaluation.intervals import Comparison, bootstrap, compare, paired_test
from tastemaker.evaluation.labelled import evaluate_pointwise
from tastemaker.evaluation.names import LIST_METRICS, Metric, parse_metrics
from tastemaker.evaluation.protocol import Ranker, Scorer, evaluate
from tastemaker.evaluation.results import Estimate, Evaluation
from tastemaker.evaluation.slices import standard_slices

__all__ = [
    "LIST_METRICS",
    "Candidates",
    "Comparison",
    "Estimate",
    "Evaluation",
    "Metric",
    "Ranker",
    "Scorer",
    "bootstrap",
    "compare",
    "evaluate",
    "evaluate_pointwise",
    "paired_test",
    "parse_metrics",
    "standard_slices",
]
