"""Explanations are measured: what is named first is what the score owes most to."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from tastemaker.data import split
from tastemaker.experiment.fitting import fit
from tastemaker.layers.propagation import edge_softmax
from tastemaker.models.catalog import ENTRIES
from tastemaker.serving.explain import explain, influences
from tastemaker.serving.loaded import LoadedRun
from tastemaker.serving.store import Event
from tastemaker.testing import SMALL, tiny_dataset

HISTORY = ["i1", "i12", "i3", "i25"]

# How a method is explained, where not by leaving out items of the history.
KINDS = {
    "popularity": "everybody",
    "tiger": "content",
    "kgat": "paths",
    "bigrec": "titles",
    "deepfm": "fields",
    "dcnv2": "fields",
}
SETTINGS = {**SMALL, "codebook_size": 4, "training_samples": 32, "init_std": 0.1}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Name of a method -> a run of it, trained when it is first asked for."""
    dealt = split(tiny_dataset(), "leave-one-out")
    place = tmp_path_factory.mktemp("explained")

    @cache
    def of(name):
        known = ENTRIES[name].load().Config.__dataclass_fields__
        given = {key: value for key, value in SETTINGS.items() if key in known}
        fit(dealt, name, out=place / name, device="cpu", evaluate_on=(), **given)
        return LoadedRun.open(name, place / name, device="cpu")

    return of


def code(run, raw):
    return int(run.dataset.item_ids.encode([raw])[0])


def changes(run, target, history=HISTORY):
    """Item -> how much the score of `target` changes without it, asked one by one."""
    (whole,) = run.score(run.ask(None, history), np.array([target]))
    found = {}
    for raw in history:
        rest = run.ask(None, [other for other in history if other != raw])
        (without,) = run.score(rest, np.array([target]))
        found[code(run, raw)] = float(whole) - float(without)
    return found


@pytest.mark.parametrize("name", ENTRIES)
def test_every_method_is_explained_in_its_own_way(served, name):
    run = served(name)
    target = code(run, "i4")
    found = explain(run, run.ask(None, HISTORY), target)
    assert found.kind == KINDS.get(name, "leave-one-out")
    assert 1 <= len(found.reasons) <= 5
    (score,) = run.score(run.ask(None, HISTORY), np.array([target]))
    assert found.score == pytest.approx(float(score), rel=1e-4, abs=1e-5)
    if found.kind not in ("leave-one-out", "paths", "content"):
        return
    alone = changes(run, target)
    most = max(abs(change) for change in alone.values())
    assert abs(alone[found.reasons[0].item]) == pytest.approx(most, rel=1e-3, abs=1e-5)
    for reason in found.reasons:
        assert reason.weight == pytest.approx(alone[reason.item], rel=1e-3, abs=2e-5)


def test_of_a_sum_the_weights_are_its_terms(loaded):
    run = loaded["ease"]
    asked = run.ask(None, ["i1", "i2", "i3"])
    score, items, weights = influences(run, asked, 4)
    own = run.model.weights[torch.from_numpy(items), 4].numpy()
    np.testing.assert_allclose(weights, own, atol=1e-6)
    assert score == pytest.approx(own.sum(), abs=1e-6)


def test_a_method_for_everybody_says_so(loaded):
    run = loaded["popularity"]
    for history in (["i1", "i2"], ["i1"]):
        found = explain(run, run.ask(None, history), 0)
        assert found.kind == "everybody"
        assert "the history changes nothing" in found.reasons[0].text
    empty = explain(loaded["ease"], loaded["ease"].ask("nobody", None), 0)
    assert "no history to answer from" in empty.reasons[0].text


def test_rounding_is_no_reason(served):
    run = served("deepfm")  # whose scores do not depend on histories, but on their batch a little
    _, _, weights = influences(run, run.ask(None, HISTORY), code(run, "i4"))
    assert not weights.any()


def test_what_a_language_model_wrote_and_what_is_near(served):
    run = served("bigrec")
    asked, target = run.ask(None, HISTORY), code(run, "i4")
    first, *others = explain(run, asked, target).reasons
    (text,) = run.model.write(run.queries([asked]))
    distances = run.model.ground([text])[0]
    rank = int((distances < distances[target]).sum()) + 1
    assert first.text == f'the model wrote "{text}"; this title is number {rank:,} from there'
    titles = [reason for reason in others if reason.kind == "title"]
    nearest = [item for item in distances.argsort().tolist() if item != target][:2]
    assert [reason.item for reason in titles] == nearest
    scores = run.score(asked, np.array(nearest))
    assert [reason.weight for reason in titles] == pytest.approx(scores.tolist())
    vectors = torch.nn.functional.normalize(run.model.item_vectors(), dim=1)
    likeness = {item: float(vectors[item] @ vectors[target]) for item in asked.items.tolist()}
    alike = [reason for reason in others if reason.kind == "item"]
    assert [reason.item for reason in alike] == sorted(likeness, key=likeness.get)[:-3:-1]
    assert alike[0].weight == pytest.approx(max(likeness.values()), abs=1e-5)


def test_content_in_common_is_named(served):
    run = served("tiger")
    codes, target = run.model.content_codes().numpy(), code(run, "i4")
    shared = (codes == codes[target]).cumprod(1).sum(1)
    alike = int(shared.argsort(kind="stable")[-2])  # behind itself
    assert shared[alike]
    others = [item for item in np.argsort(shared, kind="stable")[:8].tolist() if item != target]
    raw = [str(run.dataset.item_ids.raw(item)) for item in [alike, *others]]
    found = explain(run, run.ask(None, raw), target)
    assert found.kind == "content"
    assert len(found.reasons) == 5
    (reason,) = [reason for reason in found.reasons if reason.item == alike]
    assert f"has {shared[alike]} of 3 codes of content in common" in reason.text


def test_paths_weigh_edges_as_the_model_does(served):
    run = served("kgat")
    model, graph = run.model, run.graph
    target, start = code(run, "i4"), code(run, "i3")
    with torch.no_grad():
        nodes = model._nodes()
        logits = [
            (nodes[tail] @ model.projections[relation])
            @ torch.tanh(
                nodes[head] @ model.projections[relation]
                + model.relation_embedding.weight[relation]
            )
            for head, relation, tail in zip(graph.heads, graph.relations, graph.tails, strict=True)
        ]
        heads = torch.from_numpy(graph.heads)
        attention = edge_softmax(torch.stack(logits), heads, graph.n_nodes).numpy()
    first = (graph.heads == graph.n_users + start) & (graph.relations == 1)
    entity = graph.tails[first]
    second = (graph.heads == entity) & (graph.tails == graph.n_users + target)
    weight = float(attention[first][0] * attention[second][0])
    reasons = {
        reason.item: reason for reason in explain(run, run.ask(None, HISTORY), target).reasons
    }
    assert reasons[start].kind == "path"
    words = f"Ring 0, stop 3 and Ring 0, stop 4 share in ring 0 (attention {weight:.2g})"
    assert reasons[start].text == words
    elsewhere = reasons.get(code(run, "i12"))  # another ring: nothing joins them
    assert elsewhere is None or elsewhere.kind == "item"


def test_a_field_weighs_what_the_score_loses_without_it(served):
    run = served("dcnv2")
    asked, target = run.ask("u3", None), code(run, "i4")
    reasons = explain(run, asked, target).reasons
    weights = {reason.text: reason.weight for reason in reasons}
    assert set(weights) == {"the field user", "the field item", "the field item.ring"}
    (whole,) = run.score(asked, np.array([target]))
    kept, (entry,) = (
        run.model.item_codes.clone(),
        [entry for entry in run.model.fields.of_side("item") if entry.name == "item"],
    )
    place = [part.name for part in run.model.fields.of_side("item")].index(entry.name)
    run.model.item_codes[target, place] = 0  # the code of nothing, whose vector is zero
    (without,) = run.score(asked, np.array([target]))
    run.model.item_codes = kept
    assert weights["the field item"] == pytest.approx(float(whole - without), rel=1e-4)
    assert reasons[0].weight == max(weights.values(), key=abs)


@pytest.mark.parametrize("name", ["deepfm", "din"])
def test_fields_of_a_known_user_stay_after_an_event(served, name):
    run = served(name)
    event = Event("e1", "u3", "i7", 2e9)
    before, after = run.ask("u3", None), run.ask("u3", None, [event])
    code_of_user = int(run.dataset.user_ids.encode(["u3"])[0])
    assert (before.user, after.user) == (code_of_user, code_of_user)
    scores = [run.score(asked, np.arange(5)) for asked in (before, after)]
    assert np.allclose(*scores) == (name == "deepfm")  # which looks at no history
    assert explain(run, after, 4).score == pytest.approx(float(scores[1][4]), rel=1e-4)
