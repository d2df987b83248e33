"""Grounding: distances to titles, and their fusion with what else is known of the items."""

from __future__ import annotations

import pytest
import torch

from tastemaker.content.grounding import fused_scores, text_distances, unit_range


def order(scores):
    return scores.argsort(dim=-1, descending=True, stable=True)


def test_an_existing_title_has_distance_zero_and_comes_first():
    titles = torch.randn(20, 8)
    distances = text_distances(titles[[3, 11]], titles)
    assert distances[0, 3] == distances[1, 11] == 0
    assert order(fused_scores(distances, None, 0.0))[:, 0].tolist() == [3, 11]
    expected = (titles[[3, 11], None] - titles[None]).square().sum(2).sqrt()
    torch.testing.assert_close(distances, expected)


def test_without_weight_the_order_is_that_of_the_distances():
    distances, known = torch.rand(5, 30), torch.rand(30)
    for fused in (fused_scores(distances, known, 0.0), fused_scores(distances, None, 9.0)):
        torch.testing.assert_close(order(fused), order(-distances))


def test_constant_likelihoods_change_nothing():
    distances = torch.rand(5, 30)
    torch.testing.assert_close(
        fused_scores(distances, torch.full((30,), 7.0), 3.0), fused_scores(distances, None, 0.0)
    )


def test_a_large_weight_gives_the_order_of_the_likelihoods():
    distances = torch.rand(4, 20) + 0.5
    distances[:, 0] = 0.0  # the nearest title stays first whatever the weight
    for known in (torch.rand(20).sort().values, torch.rand(4, 20).sort(dim=1).values):
        known = torch.round(known * 50) / 50 + torch.arange(20) / 10
        fused = fused_scores(distances, known, 99.0)
        assert order(fused)[:, 0].tolist() == [0] * 4
        assert order(fused)[:, 1:].tolist() == [list(range(19, 0, -1))] * 4
        assert fused.isfinite().all()


def test_fusion_is_the_equation():
    distances, known = torch.rand(3, 6), torch.rand(3, 6)
    low, high = distances.min(1, keepdim=True).values, distances.max(1, keepdim=True).values
    scaled = (distances - low) / (high - low)
    likely = torch.stack([(row - row.min()) / (row.max() - row.min()) for row in known])
    expected = -scaled / (1 + likely) ** 0.7
    torch.testing.assert_close(fused_scores(distances, known, 0.7), expected)
    assert unit_range(torch.full((2, 3), 4.0)).tolist() == [[0.0] * 3] * 2


def test_the_best_weight_is_at_least_as_good_as_either_alone():
    torch.manual_seed(0)
    target = torch.randint(50, (200,))
    hit = torch.nn.functional.one_hot(target, 50).float()
    distances = torch.rand(200, 50) + 0.5 - 0.4 * hit * (torch.rand(200, 1) < 0.5)
    other = torch.rand(200, 50) + 0.4 * hit * (torch.rand(200, 1) < 0.5)

    def ndcg(scores):
        rank = (scores > scores.gather(1, target[:, None])).sum(1)
        return torch.where(rank < 10, 1 / torch.log2(rank + 2), 0).mean()

    tuned = max(ndcg(fused_scores(distances, other, g / 10)) for g in range(100))
    assert tuned > max(ndcg(-distances), ndcg(other)) + 0.02


def test_shuffled_titles_ground_to_chance():
    torch.manual_seed(0)
    titles = torch.randn(200, 16)
    texts = titles + 0.1 * torch.randn(200, 16)
    right = (text_distances(texts, titles).argmin(1) == torch.arange(200)).float().mean()
    mixed = text_distances(texts, titles[torch.randperm(200)]).argmin(1) == torch.arange(200)
    assert right > 0.95
    assert mixed.float().mean() == pytest.approx(1 / 200, abs=0.02)
