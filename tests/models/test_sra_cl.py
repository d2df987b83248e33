"""SRA-CL: where neighbours come from, how they are mixed, and what falls away without weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest
import torch

from tastemaker.content.language import ScriptedLanguageModel
from tastemaker.content.text import HashingEncoder
from tastemaker.data import Dataset, Queries, TrainingSet
from tastemaker.errors import ConfigError
from tastemaker.models.sequential import sra_cl
from tastemaker.models.sequential.encoder import Sequences
from tastemaker.models.sequential.sra_cl import SRACL, Synthesizer
from tastemaker.training import fit
from tests.losses.test_contrastive import slow_nt_xent
from tests.models.sequences import shaken
from tests.models.test_mclrec import BASE, SHORT, PlainSASRec, snapshot

COLOURS = ("red", "green", "blue", "grey")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TASTEMAKER_CACHE", str(tmp_path / "cache"))


def titled_log(n_users=14, n_items=24):
    """Random histories over items whose titles are a colour and a number of their own."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, 8, n_users)
    rows = {
        "user": np.repeat(np.arange(n_users), lengths),
        "item": generator.permutation(np.arange(lengths.sum()) % n_items),
        "at": np.arange(lengths.sum()),
    }
    catalog = np.arange(n_items)
    items = {"item": catalog, "title": [f"{COLOURS[i % 4]} thing {i}" for i in catalog]}
    dataset = Dataset.from_frame(
        pl.DataFrame(rows),
        user="user",
        item="item",
        order="at",
        items=pl.DataFrame(items),
        item_id="item",
        name="things",
    )
    return TrainingSet.whole(dataset)


def built(data, **settings):
    chosen = {"base_settings": BASE, **SHORT, "features": "text:hashing", "num_neighbors": 3}
    return SRACL.create({**chosen, **settings}, data.dataset, seed=3)


def ready(data, **settings):
    """A model with its semantics, its batches, and one batch of all samples."""
    model = built(data, batch_size=1000, **settings)
    semantics, training = model.stages(data)
    semantics.apply(semantics.compute())
    batches = training.objectives[0].batches
    return model, batches, batches.gather(np.arange(len(batches.prefixes.ends)), rng())


def rng(seed=0):
    return np.random.default_rng(seed)


def test_without_contrasts_training_is_that_of_the_base():
    data = titled_log()
    plain = PlainSASRec.create({**BASE, **SHORT, "learning_rate": 1e-3}, data.dataset, seed=3)
    model = built(data, user_weight=0.0, item_weight=0.0)
    fit(plain, data, seed=5, device="cpu")
    fit(model, data, seed=5, device="cpu")
    assert set(model.state()) == {f"base.{name}" for name in plain.state()}
    for name, value in plain.state().items():
        assert torch.equal(value, model.base.state()[name]), name


def test_neighbours_are_the_most_similar_prefixes_of_other_users():
    data = titled_log()
    _, batches, batch = ready(data)
    texts = data.dataset.titles(np.arange(data.n_items))
    vectors = HashingEncoder().encode(texts)
    prefixes = batches.prefixes
    histories = prefixes.histories_of(np.arange(len(batch))).items
    means = np.stack(
        [
            vectors[histories.row(row)].mean(0) if len(histories.row(row)) else 0 * vectors[0]
            for row in range(len(batch))
        ]
    )
    unit = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    cosines = unit @ unit.T
    table = batches.semantics.tables["prefixes"]
    for row, near in enumerate(table):
        others = (prefixes.users != prefixes.users[row]) & (histories.lengths > 0)
        if not histories.lengths[row]:
            assert (near == -1).all()
            continue
        assert others[near].all()
        best = np.sort(cosines[row][others])[::-1][:3]
        np.testing.assert_allclose(cosines[row][near], best, rtol=0, atol=1e-6)
        own = batch["neighbours"][row]
        for place, neighbour in enumerate(near):
            expected = histories.row(neighbour)
            assert own[place, : len(expected)].tolist() == expected.tolist()
            assert batch["neighbour_lengths"][row, place] == len(expected)
        np.testing.assert_allclose(batch["semantics"][row], means[[row, *near]], atol=1e-6)


def test_the_same_user_may_be_a_neighbour_but_never_the_prefix_itself():
    data = titled_log()
    _, batches, _ = ready(data, exclude_same_user=False)
    table, users = batches.semantics.tables["prefixes"], batches.prefixes.users
    known = table[:, 0] >= 0
    assert (table != np.arange(len(table))[:, None]).all()
    assert (users[table[known]] == users[known, None]).any()


def test_views_replace_items_by_their_neighbours_alone():
    data = titled_log()
    _, batches, _ = ready(data)
    table = batches.semantics.tables["items"]
    changed = total = 0
    for seed in range(40):
        batch = batches.gather(np.arange(len(batches.prefixes.ends)), rng(seed))
        events = batch["items"] < data.n_items
        for view in batch["views"].unbind(1):
            assert torch.equal(view < data.n_items, events)
            moved = view != batch["items"]
            old, new = batch["items"][moved].numpy(), view[moved].numpy()
            assert (table[old] == new[:, None]).any(1).all()
            changed, total = changed + int(moved.sum()), total + int(events.sum())
    assert abs(changed / total - 0.2) < 4 * np.sqrt(0.2 * 0.8 / total)


def synthesizer(k=4, width=6, semantic_width=5, rows=3):
    torch.manual_seed(0)
    made = Synthesizer(semantic_width, width, dropout=0.5).eval()
    states, semantics = torch.randn(rows, k, width), torch.randn(rows, 1 + k, semantic_width)
    return made, states, semantics, torch.ones(rows, k, dtype=torch.bool)


def test_weights_are_a_graph_attention_layer():
    made, _, semantics, found = synthesizer()
    weights = made.weights(semantics, found)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    for row in range(3):
        scores = []
        for near in range(1, 5):
            pair = torch.cat([made.project(semantics[row, 0]), made.project(semantics[row, near])])
            score = made.attention(pair)[0]
            scores.append(score if score > 0 else 0.2 * score)
        torch.testing.assert_close(weights[row], torch.softmax(torch.stack(scores), 0))


def test_the_order_of_neighbours_does_not_matter():
    made, states, semantics, found = synthesizer()
    order = torch.tensor([2, 0, 3, 1])
    moved = torch.cat([semantics[:, :1], semantics[:, 1:][:, order]], 1)
    torch.testing.assert_close(made.weights(moved, found), made.weights(semantics, found)[:, order])
    torch.testing.assert_close(made(states[:, order], moved, found), made(states, semantics, found))


def test_missing_neighbours_weigh_nothing():
    made, states, semantics, found = synthesizer()
    found[:, 2:] = False
    expected = made(states[:, :2], semantics[:, :3], found[:, :2])
    torch.testing.assert_close(made(states, semantics, found), expected)


def test_with_one_neighbour_the_positive_is_its_state():
    data = titled_log()
    model, _, batch = ready(data, num_neighbors=1)
    model.eval()
    shaken(model.base, 0.1)
    known = batch["neighbour_lengths"][:, 0] > 0
    nearest = Sequences(batch["neighbours"][known, 0], batch["neighbour_lengths"][known, 0])
    states = model.base.encode_last(Sequences(batch["items"], batch["lengths"]))
    expected = slow_nt_xent(states[known], model.base.encode_last(nearest))
    found = model.loss(batch).parts["user"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, check_dtype=False)


def test_the_loss_is_the_weighted_sum_of_its_terms():
    data = titled_log()
    model, _, batch = ready(data, user_weight=0.3, item_weight=0.7)
    model.eval()
    shaken(model, 0.1)
    base, known = model.base, batch["lengths"] > 0
    states = base.encode_last(Sequences(batch["items"], batch["lengths"]))
    near = torch.stack(
        [
            base.encode_last(Sequences(batch["neighbours"][known, k], lengths[known]))
            for k, lengths in enumerate(batch["neighbour_lengths"].unbind(1))
        ],
        1,
    )
    mixed = model.synthesizer(near, batch["semantics"][known], torch.ones(near.shape[:2]).bool())
    views = [
        base.encode_last(Sequences(batch["views"][known, view], batch["lengths"][known]))
        for view in (0, 1)
    ]
    expected = (
        base.last_item_loss(states, batch["targets"])
        + 0.3 * slow_nt_xent(states[known], mixed)
        + 0.7 * slow_nt_xent(*views)
    )
    found = model.loss(batch)
    torch.testing.assert_close(found.value, expected, rtol=1e-5, atol=1e-5, check_dtype=False)


def test_a_batch_of_empty_histories_has_no_contrast():
    data = titled_log()
    model, _, batch = ready(data)
    empty = batch["lengths"] == 0
    batch = type(batch)({name: rows[empty] for name, rows in batch.rows.items()})
    found = model.loss(batch)
    torch.testing.assert_close(found.value, found.parts["next_item"])


def test_gradients_flow_through_neighbours():
    data = titled_log()
    model, _, batch = ready(data, item_weight=0.0)
    model.eval()
    item = int(batch["neighbours"][batch["lengths"] == 1][0, 0, 0])
    own = (batch["items"] == item).any(1)
    alone = type(batch)({name: rows[~own] for name, rows in batch.rows.items()})
    assert item in alone["neighbours"]
    model.loss(alone).value.backward()
    seen = model.base.item_embeddings.weight.grad[item].clone()
    model.zero_grad()
    model.base.last_item_loss(
        model.base.encode_last(Sequences(alone["items"], alone["lengths"])), alone["targets"]
    ).backward()
    assert not torch.allclose(seen, model.base.item_embeddings.weight.grad[item], rtol=0, atol=1e-7)


@pytest.mark.parametrize(("left_out", "rows"), [("user", "neighbours"), ("item", "views")])
def test_a_contrast_without_weight_costs_nothing(left_out, rows):
    data = titled_log()
    model, _, batch = ready(data, **{f"{left_out}_weight": 0.0})
    assert batch[rows].shape[1] == 0
    assert left_out not in model.loss(batch).parts


class _InterruptedError(Exception):
    pass


@pytest.mark.parametrize("base", ["sasrec", "gru4rec"])
def test_training_resumes_inside_the_gradient_stage(base, tmp_path):
    data = titled_log()
    settings = {"base": base, "base_settings": {"hidden_size": 16}}
    straight = built(data, **settings)
    fit(straight, data, seed=1, device="cpu")

    def interrupt(record):
        if record["stage"] == "fit":
            raise _InterruptedError

    for listeners in ([interrupt], []):
        model = built(data, **settings)
        options = {"folder": tmp_path / "fit", "checkpoint_seconds": 0, "listeners": listeners}
        try:
            fit(model, data, seed=1, device="cpu", **options)
        except _InterruptedError:
            assert listeners
    for name, value in straight.state().items():
        assert torch.equal(value, model.state()[name]), name


def test_answers_are_those_of_the_base_without_the_synthesizer():
    data = titled_log()
    model = built(data)
    fit(model, data, device="cpu")
    stored = snapshot(model)
    for name in stored:
        if name.startswith("synthesizer"):
            stored[name].fill_(torch.nan)
    loaded = built(data).load_state(stored).eval()
    asked = Queries.from_histories([[1, 2, 3], [], [4]])
    torch.testing.assert_close(loaded.score(asked), model.base.score(asked))


def test_meaning_comes_from_a_language_model_where_one_is_named(monkeypatch):
    data, asked = titled_log(), []

    def answer(prompt):
        asked.append(prompt)
        return " ".join(colour for colour in COLOURS for _ in range(prompt.count(f"{colour} ")))

    scripted = ScriptedLanguageModel(answer)
    monkeypatch.setattr(sra_cl, "find_language_model", lambda name: {"script": scripted}[name])
    _, batches, _ = ready(data, summaries="script")
    users, items = (
        [p for p in asked if p.split("\n")[-1].startswith(start)]
        for start in ("Describe", "Summarise")
    )
    prefixes = batches.prefixes
    histories = prefixes.histories_of(np.arange(len(prefixes.ends))).items
    assert len(users) == (histories.lengths > 0).sum()
    assert len(items) == data.n_items
    last = int(np.flatnonzero(histories.lengths)[-1])
    titles = data.dataset.titles(histories.row(last))
    assert "; ".join(titles) in users[-1]
    target = int(prefixes.histories.items.values[prefixes.ends[last]])
    assert " -> ".join([*titles, *data.dataset.titles([target])]) in items[target]
    expected = HashingEncoder().encode([answer(users[-1])])[0]
    np.testing.assert_allclose(batches.semantics.prefix_vectors[last], expected, atol=1e-6)


def test_summaries_need_a_text_encoder():
    with pytest.raises(ConfigError, match="does not encode texts"):
        built(titled_log(), summaries="smollm2", features="column:image")


def test_another_setting_makes_other_tables():
    data = titled_log()
    keys = [
        built(data, **settings).stages(data)[0].key
        for settings in ({}, {"num_neighbors": 2}, {"exclude_same_user": False})
    ]
    fewer = dataclasses.replace(data, rows=data.rows[:-1])
    keys.append(built(data).stages(fewer)[0].key)
    assert all(keys[0] != other for other in keys[1:])
    assert built(data).stages(data)[0].key == keys[0]
