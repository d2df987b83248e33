"""Nearest neighbours: against a sort of all cosines, and who is left out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tastemaker.layers import neighbours
from tastemaker.layers.neighbours import nearest_neighbours


def vectors(count=50, width=6):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0))


def slow(given, k, groups):
    """Row by row: all cosines, those of the own group taken out, sorted."""
    unit = F.normalize(given, dim=1)
    found = []
    for own, row in enumerate(unit):
        cosines = unit @ row
        cosines[groups == groups[own]] = -torch.inf
        found.append(cosines.argsort(descending=True)[:k])
    return torch.stack(found)


@pytest.mark.parametrize("held", [1 << 23, 50 * 7])
def test_neighbours_are_those_of_a_full_sort_in_any_block_size(held, monkeypatch):
    monkeypatch.setattr(neighbours, "_HELD", held)
    given = vectors()
    found, cosines = nearest_neighbours(given, 4)
    assert torch.equal(found, slow(given, 4, torch.arange(50)))
    expected = F.cosine_similarity(given[:, None], given[found], dim=2)
    torch.testing.assert_close(cosines, expected)


def test_members_of_a_group_are_never_neighbours():
    given = vectors()
    groups = torch.randint(7, (50,), generator=torch.Generator().manual_seed(1))
    found, _ = nearest_neighbours(given, 4, groups=groups)
    assert torch.equal(found, slow(given, 4, groups))


def test_equal_vectors_are_found_and_a_vector_itself_is_not():
    given = vectors(3).repeat(2, 1)  # row r and row r + 3 are equal
    found, cosines = nearest_neighbours(given, 1)
    assert found.squeeze(1).tolist() == [3, 4, 5, 0, 1, 2]
    torch.testing.assert_close(cosines, torch.ones(6, 1))


def test_missing_neighbours_are_minus_one():
    found, cosines = nearest_neighbours(vectors(3), 4, groups=torch.tensor([0, 0, 1]))
    assert found[:, 1:].tolist() == [[-1, -1, -1], [-1, -1, -1], [*found[2, 1:2].tolist(), -1, -1]]
    assert found[:2, 0].tolist() == [2, 2]
    assert (cosines[found < 0] == -torch.inf).all()


def test_scale_does_not_matter():
    given = vectors()
    scales = torch.rand(50, 1, generator=torch.Generator().manual_seed(1)) + 0.5
    assert torch.equal(nearest_neighbours(given, 5)[0], nearest_neighbours(given * scales, 5)[0])


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="at least one neighbour"):
        nearest_neighbours(vectors(), 0)
    with pytest.raises(ValueError, match="not finite"):
        nearest_neighbours(vectors().fill_(float("nan")), 2)
