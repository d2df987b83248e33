"""DCN V2: the published parameter count, its structures, and what no cross layers leave."""

from __future__ import annotations

import pytest
import torch

from tastemaker.models.ranking.dcnv2 import DCNv2
from tests.models.clicks import listing, n_parameters, shaken
from tests.models.test_deepfm import FRAPPE, questions


def small(**settings) -> DCNv2:
    dataset = listing(4, 6, {"place": 3})
    settings = {"hidden_size": 5, "hidden_sizes": (8,), "num_layers": 2, **settings}
    model = DCNv2.create(settings, dataset).eval()
    shaken(model)
    return model


def test_published_parameter_count():
    settings = {"hidden_size": 10, "num_layers": 4, "batch_norm": True}
    model = DCNv2.create(settings, listing(957, 4082, FRAPPE))
    assert n_parameters(model) == 458_391


def test_without_cross_layers_it_is_linear_in_the_vectors_and_the_deep_part():
    model = small(num_layers=0)
    who, candidates = questions(model)
    with torch.no_grad():
        first = model.embed(who, candidates).flatten(-2)
        expected = model.output(torch.cat([first, model.deep(first)], -1)).squeeze(-1)
        torch.testing.assert_close(model.logits(who, candidates), expected)


@pytest.mark.parametrize("structure", ["parallel", "stacked", "cross"])
@pytest.mark.parametrize("num_experts", [0, 3])
def test_structures_are_their_definitions(structure, num_experts):
    model = small(structure=structure, num_experts=num_experts, rank=2)
    who, candidates = questions(model)
    with torch.no_grad():
        first = model.embed(who, candidates).flatten(-2)
        crossed = model.cross(first)
        ends = {
            "parallel": lambda: torch.cat([crossed, model.deep(first)], -1),
            "stacked": lambda: model.deep(crossed),
            "cross": lambda: crossed,
        }[structure]()
        expected = model.output(ends).squeeze(-1)
        torch.testing.assert_close(model.logits(who, candidates), expected)
    assert (model.deep is None) == (structure == "cross")
