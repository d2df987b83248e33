from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tastemaker.losses.contrastive import info_nce, nt_xent, view_scores


def slow_nt_xent(first, second, *, temperature=1.0, cosine=False):
    """View by view: its partner against the views of all other samples."""
    views = [*first.double(), *second.double()]
    if cosine:
        views = [view / view.norm() for view in views]
    n = len(first)
    losses = []
    for own, view in enumerate(views):
        partner = (own + n) % (2 * n)
        scores = {at: (view @ other).item() / temperature for at, other in enumerate(views)}
        others = [score for at, score in scores.items() if at not in (own, partner)]
        all_of_them = torch.tensor([scores[partner], *others], dtype=torch.float64)
        losses.append(torch.logsumexp(all_of_them, 0) - scores[partner])
    return torch.stack(losses).mean()


def views(n=5, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, width, generator=generator) for _ in range(2))


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_nt_xent_is_its_slow_transcription(temperature, cosine):
    first, second = views()
    options = {"temperature": temperature, "cosine": cosine}
    found, expected = nt_xent(first, second, **options), slow_nt_xent(first, second, **options)
    assert found.item() == pytest.approx(expected.item(), abs=1e-6, rel=1e-6)


def test_view_scores_by_hand():
    first = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    second = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    scores, partners = view_scores(first, second)
    inf = math.inf
    assert scores.tolist() == [
        [-inf, 0.0, 3.0, 0.0],
        [0.0, -inf, 0.0, 8.0],
        [3.0, 0.0, -inf, 0.0],
        [0.0, 8.0, 0.0, -inf],
    ]
    assert partners.tolist() == [2, 3, 0, 1]


def test_equal_views_give_the_log_of_the_number_of_candidates():
    ones = torch.ones(6, 4)
    assert nt_xent(ones, ones).item() == pytest.approx(math.log(11), rel=1e-6)


@pytest.mark.parametrize("n", [0, 1])
def test_nt_xent_without_negatives_is_zero_with_zero_gradient(n):
    first, second = (view.requires_grad_() for view in views(n))
    loss = nt_xent(first, second)
    loss.backward()
    assert loss.item() == 0
    assert (first.grad == 0).all()


def test_nt_xent_does_not_change_with_the_order_of_samples_or_views():
    first, second = views()
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(nt_xent(first, second), nt_xent(second[order], first[order]))


def test_scores_are_not_rounded_under_autocast():
    first, second = (8 * F.normalize(view, dim=1) for view in views(16, 64))
    exact = nt_xent(first, second)
    with torch.autocast("cpu", torch.bfloat16):
        found = nt_xent(first, second)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact)


def test_info_nce_with_shared_negatives_is_a_softmax_over_the_positive_and_them():
    anchors, positives = views()
    negatives = torch.randn(7, 8, generator=torch.Generator().manual_seed(2))
    expected = torch.stack(
        [
            -F.log_softmax(torch.cat([(a @ p)[None], negatives @ a]) / 0.5, 0)[0]
            for a, p in zip(anchors, positives, strict=True)
        ]
    ).mean()
    found = info_nce(anchors, positives, negatives, temperature=0.5)
    torch.testing.assert_close(found, expected)
    own = negatives.expand(5, 7, 8)
    torch.testing.assert_close(info_nce(anchors, positives, own, temperature=0.5), expected)


def test_info_nce_by_cosine_ignores_lengths():
    anchors, positives = views()
    negatives = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(2))
    scaled = [vectors * 7 for vectors in (anchors, positives, negatives)]
    torch.testing.assert_close(
        info_nce(*scaled, cosine=True), info_nce(anchors, positives, negatives, cosine=True)
    )


def test_nt_xent_is_info_nce_both_ways_with_all_other_views():
    first, second = views()
    together = torch.cat([first, second])
    others = [[at for at in range(10) if at % 5 != sample] for sample in range(5)] * 2
    found = info_nce(together, together.roll(5, 0), together[torch.tensor(others)])
    torch.testing.assert_close(found, nt_xent(first, second))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"expected \[B, D\] twice"):
        nt_xent(torch.zeros(3, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"\[S, D\] or \[B, S, D\]"):
        info_nce(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(4, 5, 2))
