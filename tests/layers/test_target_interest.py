"""The switches of target interest against their equations, and what must not matter."""

from __future__ import annotations

import itertools

import pytest
import torch

from tastemaker.layers.target_interest import TargetInterest

B, C, L, D, PLACES = 3, 2, 5, 4, 7
LENGTHS = (5, 2, 0)


def inputs(width=D):
    torch.manual_seed(0)
    targets, behaviours = torch.randn(B, C, width), torch.randn(B, L, width)
    valid = torch.arange(L) < torch.tensor(LENGTHS)[:, None]
    places = (torch.tensor(LENGTHS)[:, None] - torch.arange(L)).clamp(min=0)
    return targets, behaviours, valid, places


def block(**settings) -> TargetInterest:
    torch.manual_seed(1)
    made = TargetInterest(D, num_places=PLACES, **settings).eval()
    with torch.no_grad():
        for value in made.parameters():
            if value.requires_grad:
                value.copy_(torch.randn_like(value))
    return made


def slow(made: TargetInterest, targets, behaviours, valid, places, values=None):
    """The features, one target at a time."""
    table = None if made.places is None else made.places.weight
    value_table = made.value_places.weight if made.value_places is not None else table
    value_targets, value_behaviours = (targets, behaviours) if values is None else values

    def joined(vector, place, rows):
        match made.time:
            case "add":
                return vector + rows[place]
            case "concat":
                return torch.cat([vector, rows[place]])
        return vector

    features = torch.empty(B, C, made.output_width)
    for b, c in itertools.product(range(B), range(C)):
        present = valid[b].nonzero().flatten().tolist()
        query = joined(targets[b, c], 0, table)
        own = joined(value_targets[b, c], 0, value_table)
        keys = [joined(behaviours[b, j], places[b, j], table) for j in present]
        seen = [joined(value_behaviours[b, j], places[b, j], value_table) for j in present]
        scores = torch.tensor([score(made, query, key) for key in keys])
        if made.top_k is not None and len(present) > made.top_k:
            best = scores.topk(made.top_k).indices
            scores = scores[best]
            seen = [seen[int(index)] for index in best]
        weights = torch.softmax(scores, 0) if made.softmax else scores
        interest = torch.zeros(made.width)
        for weight, vector in zip(weights, seen, strict=True):
            interest = interest + weight * vector
        if made.transform is not None:
            interest = made.transform(interest)
        parts = [interest, own, interest * own] if made.product else [interest, own]
        features[b, c] = torch.cat(parts)
    return features


def score(made: TargetInterest, query, key) -> float:
    if made.scorer is not None:
        return float(made.scorer(torch.cat([query, key, query - key, query * key])))
    if made.time != "concat":
        return float(query @ key / D**0.5)
    return float(query[:D] @ key[:D] / D**0.5 + query[D:] @ key[D:] / len(query[D:]) ** 0.5)


SWITCHES = {
    "din": {"score": "mlp", "product": False, "activation": "dice"},
    "din without softmax": {"score": "mlp", "product": False, "softmax": False},
    "din with time": {"score": "mlp", "time": "add"},
    "din plus": {"score": "mlp"},
    "dot": {"product": False},
    "tin": {"time": "add", "transform": True},
    "twin": {"time": "concat", "time_width": 3, "top_k": 2},
    "mlp top": {"score": "mlp", "time": "concat", "time_width": 3, "top_k": 2},
}


@pytest.mark.parametrize("settings", SWITCHES.values(), ids=SWITCHES)
def test_every_setting_is_its_equation(settings):
    made, given = block(**settings), inputs()
    with torch.no_grad():
        torch.testing.assert_close(made(*given), slow(made, *given), rtol=1e-4, atol=1e-4)


def test_split_tables_attend_and_represent_apart():
    made, given = block(tables="split", time="concat", time_width=3, top_k=2), inputs()
    torch.manual_seed(9)
    values = (torch.randn(B, C, D), torch.randn(B, L, D))
    with torch.no_grad():
        found = made(*given, values=values)
        torch.testing.assert_close(found, slow(made, *given, values), rtol=1e-4, atol=1e-4)
    targets, behaviours, valid, places = (
        part.requires_grad_() if part.is_floating_point() else part for part in given
    )
    own = [value.requires_grad_() for value in values]
    weights = made.weights(targets, behaviours, valid, places)
    assert torch.autograd.grad(weights.sum(), own, allow_unused=True) == (None, None)


def test_without_time_vectors_tin_is_din_plus_and_without_products_din():
    """The ladder of dot-product blocks: one setting apart, equal weights, equal features."""
    tin, given = block(time="add"), inputs()
    with torch.no_grad():
        tin.places.weight.zero_()
        plus = TargetInterest(D)(*given[:3])
        plain = TargetInterest(D, product=False)(*given[:3])
        assert torch.equal(tin(*given), plus)
        assert torch.equal(plus[..., : 2 * D], plain)


def test_the_product_of_the_sum_is_the_sum_of_the_products():
    made = block(time="add")
    targets, behaviours, valid, places = inputs()
    with torch.no_grad():
        found = made(targets, behaviours, valid, places)[..., 2 * D :]
        query = targets + made.places.weight[0]
        seen = behaviours + made.places(places)
        weights = made.weights(targets, behaviours, valid, places)
        expected = torch.einsum("bcl,bcld->bcd", weights, seen[:, None] * query[:, :, None])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("settings", SWITCHES.values(), ids=SWITCHES)
def test_order_and_padding_do_not_matter_but_places_do(settings):
    made = block(**settings)
    targets, behaviours, valid, places = inputs()
    with torch.no_grad():
        expected = made(targets, behaviours, valid, places)
        order = torch.tensor([3, 0, 4, 2, 1])
        shuffled = made(targets, behaviours[:, order], valid[:, order], places[:, order])
        torch.testing.assert_close(shuffled, expected, rtol=1e-4, atol=1e-5)
        longer = made(
            targets,
            torch.cat([behaviours, torch.randn(B, 3, D)], 1),
            torch.cat([valid, torch.zeros(B, 3, dtype=torch.bool)], 1),
            torch.cat([places, torch.zeros(B, 3, dtype=torch.long)], 1),
        )
        torch.testing.assert_close(longer, expected, rtol=1e-4, atol=1e-5)
        moved = made(targets, behaviours[:, [1, 0, 2, 3, 4]], valid, places)
    if made.time == "none":
        torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)
    else:
        assert (moved - expected)[:2].abs().amax((1, 2)).min() > 1e-3


def test_a_row_without_behaviours_has_no_interest():
    made = block(time="add", score="dot")
    targets, behaviours, valid, places = inputs()
    with torch.no_grad():
        found = made(targets, behaviours, valid, places)
    assert torch.equal(found[2, :, :D], torch.zeros(C, D))
    assert torch.equal(made.weights(targets, behaviours, valid, places)[2], torch.zeros(C, L))
