"""DeepFM: published parameter counts, the factorisation machine inside, and its terms."""

from __future__ import annotations

import itertools

import pytest
import torch

from tastemaker.models.ranking.deepfm import DeepFM, pairwise_products
from tastemaker.models.ranking.ranker import Asked
from tests.models.clicks import listing, n_parameters, shaken

# Values of Frappe's ten fields that add up to the 5,389 codes of its published vocabulary.
FRAPPE = {"a": 7, "b": 7, "c": 2, "d": 3, "e": 2, "f": 9, "g": 80, "h": 220}


def small(**settings) -> DeepFM:
    dataset = listing(4, 6, {"place": 3})
    return DeepFM.create({"hidden_size": 5, "hidden_sizes": (8,), **settings}, dataset).eval()


def questions(model: DeepFM) -> tuple[Asked, torch.Tensor]:
    """Random codes of the model's fields, as questions with two candidates each."""
    torch.manual_seed(0)
    model.item_codes.copy_(torch.randint(1, model.fields.n_codes, model.item_codes.shape))
    model.user_codes.copy_(torch.randint(1, model.fields.n_codes, model.user_codes.shape))
    contexts = torch.randint(1, model.fields.n_codes, (3, 1))
    numbers, items = torch.zeros(3, 0), torch.zeros(3, 0, dtype=torch.long)
    who = Asked(torch.tensor([0, 1, 4]), contexts, numbers, items, torch.zeros(3))
    return who, torch.tensor([[0, 1], [2, 3], [4, 5]])


def test_published_parameter_counts():
    settings = {"hidden_size": 10, "batch_norm": True}
    frappe = DeepFM.create(settings, listing(957, 4082, FRAPPE))
    assert frappe.fields.n_codes == 5389
    assert n_parameters(frappe) == 423_280 + 1  # the published count is without the bias
    machine = [frappe.embeddings, frappe.weights]
    assert sum(map(n_parameters, machine)) + frappe.bias.numel() == 59_280  # FM alone
    tags = DeepFM.create(settings, listing(17_045, 23_743, {"tag": 49_445}))
    assert n_parameters(tags) == 1_328_630 + 1


def test_pairwise_products_are_the_sum_over_pairs():
    torch.manual_seed(0)
    vectors = torch.randn(4, 2, 6, 5)
    pairs = itertools.combinations(range(6), 2)
    expected = sum((vectors[..., i, :] * vectors[..., j, :]).sum(-1) for i, j in pairs)
    torch.testing.assert_close(pairwise_products(vectors), expected, rtol=1e-5, atol=1e-6)


def test_without_its_deep_part_it_is_a_factorisation_machine():
    model = small()
    shaken(model)
    who, candidates = questions(model)
    with torch.no_grad():
        model.deep.output.weight.zero_()
        model.deep.output.bias.zero_()
        found = model.logits(who, candidates)
        for row, column in itertools.product(range(3), range(2)):
            item = candidates[row, column]
            codes = torch.cat([model.user_codes[who.users[row]], model.item_codes[item]])
            codes = torch.cat([codes, who.contexts[row]])
            vectors = model.embeddings.table.weight[codes]
            expected = model.bias + model.weights.table.weight[codes].sum()
            for first, second in itertools.combinations(vectors, 2):
                expected = expected + first @ second
            torch.testing.assert_close(found[row, column], expected.squeeze())


@pytest.mark.parametrize("batch_norm", [True, False])
def test_candidates_are_scored_one_by_one(batch_norm):
    model = small(batch_norm=batch_norm)
    shaken(model)
    who, candidates = questions(model)
    with torch.no_grad():
        together = model.logits(who, candidates)
        alone = [model.logits(who, candidates[:, place : place + 1]) for place in range(2)]
    torch.testing.assert_close(together, torch.cat(alone, 1))
