"""Explanations are measured: what is named first is what the score owes most to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tastemaker.serving.explain import explain, influences


@pytest.mark.parametrize("name", ["ease", "sasrec"])
def test_removing_the_item_named_first_changes_the_score_most(loaded, name):
    run = loaded[name]
    history = ["i1", "i12", "i3", "i25"]
    asked = run.ask(None, history)
    target = int(run.dataset.item_ids.encode(["i4"])[0])
    found = explain(run, asked, target)
    changes = {}
    for raw in history:
        without = run.ask(None, [other for other in history if other != raw])
        (score,) = run.score(without, np.array([target]))
        changes[int(run.dataset.item_ids.encode([raw])[0])] = abs(found.score - float(score))
    assert found.kind == "leave-one-out"
    assert found.reasons[0].item == max(changes, key=changes.get)
    for reason in found.reasons:
        assert abs(reason.weight) == pytest.approx(changes[reason.item], rel=1e-4, abs=1e-6)


def test_of_a_sum_the_weights_are_its_terms(loaded):
    run = loaded["ease"]
    asked = run.ask(None, ["i1", "i2", "i3"])
    score, items, weights = influences(run, asked, 4)
    own = run.model.weights[torch.from_numpy(items), 4].numpy()
    np.testing.assert_allclose(weights, own, atol=1e-6)
    assert score == pytest.approx(own.sum(), abs=1e-6)


def test_a_method_for_everybody_says_so(loaded):
    run = loaded["popularity"]
    found = explain(run, run.ask(None, ["i1", "i2"]), 0)
    assert found.kind == "everybody"
    assert "the history changes nothing" in found.reasons[0].text
    empty = explain(loaded["ease"], loaded["ease"].ask("nobody", None), 0)
    assert "no history to answer from" in empty.reasons[0].text
