from __future__ import annotations

import math

import torch

from tastemaker.losses.knowledge import project, transr_distance, transr_loss


def test_project_is_a_product_with_the_matrix_of_each_relation():
    generator = torch.Generator().manual_seed(0)
    entities = torch.randn(9, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    matrices = torch.randn(5, 4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    relations = torch.tensor([3, 0, 0, 4, 3, 1, 0, 4, 3])  # none of relation 2
    found = project(entities, relations, matrices)
    expected = torch.stack([entities[b] @ matrices[relations[b]] for b in range(9)])
    torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(lambda e, m: project(e, relations, m), [entities, matrices])


def test_distance_is_squared_and_not_normalised():
    heads = torch.tensor([[1.0, 0.0], [2.0, 2.0]])
    steps = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    tails = torch.tensor([[2.0, 1.0], [0.0, -1.0]])
    assert transr_distance(heads, steps, tails).tolist() == [0.0, 13.0]


def test_loss_wants_true_triples_nearer():
    true, corrupted = torch.tensor([0.0, 1.0]), torch.tensor([2.0, 1.0])
    expected = (math.log1p(math.exp(-2)) + math.log(2)) / 2
    torch.testing.assert_close(transr_loss(true, corrupted), torch.tensor(expected))
