"""Vectors of values, lists and numbers from one table."""

from __future__ import annotations

import torch

from tastemaker.layers.field_embeddings import FieldEmbeddings


def bank() -> FieldEmbeddings:
    torch.manual_seed(0)
    return FieldEmbeddings(10, 2, 3, std=1.0)


def test_values_lists_and_numbers():
    made = bank()
    codes = torch.tensor([[4, 5, 6, 0], [1, 7, 0, 0], [2, 0, 0, 0]])
    numbers = torch.tensor([[2.0], [-1.0], [0.0]])
    rows = made.table.weight
    found = made(codes, numbers, (1, 3), first_number=1)
    assert found.shape == (3, 3, 3)
    torch.testing.assert_close(found[:, 0], rows[[4, 1, 2]])
    torch.testing.assert_close(found[0, 1], (rows[5] + rows[6]) / 2)
    torch.testing.assert_close(found[1, 1], rows[7])
    assert torch.equal(found[2, 1], torch.zeros(3))
    torch.testing.assert_close(found[:, 2], numbers * made.directions[1])


def test_nothing_has_the_zero_vector_and_learns_nothing():
    made = bank()
    found = made(torch.tensor([[0, 3]]), torch.zeros(1, 0), (1, 1))
    assert torch.equal(found[0, 0], torch.zeros(3))
    found.sum().backward()
    assert torch.equal(made.table.weight.grad[0], torch.zeros(3))
    assert torch.equal(made.table.weight.grad[3], torch.ones(3))


def test_the_penalty_is_on_all_entries():
    made = bank()
    made(torch.tensor([[3]]), torch.ones(1, 1), (1,)).sum().backward()
    before = [value.grad.clone() for value in made.parameters()]
    made.penalty_gradient(0.5)
    loss = 0.25 * sum(value.square().sum() for value in made.parameters())
    expected = torch.autograd.grad(loss, list(made.parameters()))
    for value, old, added in zip(made.parameters(), before, expected, strict=True):
        torch.testing.assert_close(value.grad, old + added)
